"""The order of samples: nothing lost, nothing twice, and the number of a batch alone decides what is in it."""

import itertools
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.sampler import SampleOrder, places_per_source
from crnn.errors import ConfigError

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def samples(plan):
    return list(zip(plan.sources.tolist(), plan.indices.tolist(), strict=True))


def drawn(plans):
    return sorted((draw, sample) for plan in plans for draw, sample in zip(plan.draws, samples(plan), strict=True))


def content(plan):
    return samples(plan), plan.draws.tolist(), plan.width


def widths_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(2, 12, size) * 16).astype(np.uint16) for size in sizes]


# ---- epochs


@given(SIZES, st.integers(1, 16), st.integers(0, 5))
def test_every_epoch_draws_every_sample_once(sizes, batch_size, seed):
    order = SampleOrder(sizes, [], batch_size, seed)
    total = sum(sizes)
    assert order.epoch_batches == max(1, total // batch_size)
    everything = {(source, index) for source, size in enumerate(sizes) for index in range(size)}
    num_batches = -(-3 * total // batch_size)
    sequence = [sample for number in range(num_batches) for sample in samples(order.plan(number))]
    for epoch in range(3):
        part = sequence[epoch * total : (epoch + 1) * total]
        assert len(part) == total
        assert set(part) == everything


# ---- what decides the order


@settings(max_examples=40)
@given(SIZES, st.integers(1, 12), st.booleans(), st.booleans())
def test_only_the_seed_and_the_number_decide(sizes, batch_size, with_widths, with_ratios):
    ratios = [1.0] * len(sizes) if with_ratios else []
    batch_size = max(batch_size, len(sizes))

    def make(seed=3):
        return SampleOrder(sizes, ratios, batch_size, seed, widths_of(sizes) if with_widths else None, 4)

    sequential = make()
    expected = [content(sequential.plan(number)) for number in range(24)]
    numbers = [*range(24), *range(0, 24, 5)]
    random.Random(0).shuffle(numbers)
    scattered = make()
    assert all(content(scattered.plan(number)) == expected[number] for number in numbers)
    assert all(content(make().plan(number)) == expected[number] for number in (0, 7, 23))
    assert content(pickle.loads(pickle.dumps(scattered)).plan(11)) == expected[11]
    assert sum(sizes) < 20 or expected != [content(make(seed=4).plan(number)) for number in range(24)]


def test_the_order_is_that_of_earlier_versions():
    """A run that goes on under a newer version has the batches that it would have had."""
    plan = SampleOrder([37], [], 12, seed=7).plan(1)
    assert content(plan) == ([(0, i) for i in (3, 35, 33, 27, 13, 17, 26, 32, 30, 8, 7, 1)], list(range(12, 24)), None)
    plan = SampleOrder([5, 3], [1, 2], 12, 7, widths_of([5, 3]), 4).plan(0)
    assert plan.sources.tolist() == [1, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    assert plan.indices.tolist() == [0, 3, 0, 3, 2, 2, 1, 3, 3, 1, 0, 1]
    assert plan.draws.tolist() == [47, 12, 41, 39, 45, 40, 46, 14, 37, 43, 44, 42]


# ---- draws


@given(SIZES, st.integers(1, 12), st.booleans(), st.booleans())
def test_every_draw_of_a_run_has_its_own_number(sizes, batch_size, with_widths, with_ratios):
    batch_size = max(batch_size, len(sizes))
    ratios = [1.0] * len(sizes) if with_ratios else []
    order = SampleOrder(sizes, ratios, batch_size, 1, widths_of(sizes) if with_widths else None, 4)
    draws = [draw for number in range(16) for draw in order.plan(number).draws.tolist()]
    assert sorted(draws) == list(range(16 * batch_size))


# ---- ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("with_widths", [False, True])
def test_ranks_share_out_exactly_the_batch(world_size, with_widths):
    order = SampleOrder([30, 11], [], 12, 1, widths_of([30, 11]) if with_widths else None, 4)
    for number in range(12):
        plan = order.plan(number)
        shares = [plan.share(rank, world_size) for rank in range(world_size)]
        assert [len(share.sources) for share in shares] == [12 // world_size] * world_size
        assert [sample for share in shares for sample in samples(share)] == samples(plan)
        assert [draw for share in shares for draw in share.draws.tolist()] == plan.draws.tolist()
        assert {share.width for share in shares} == {plan.width}


# ---- ratios


@pytest.mark.parametrize(
    ("ratios", "batch_size", "places"),
    [
        ([1, 1], 10, [5, 5]),
        ([3, 1], 8, [6, 2]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([0.5, 0.5], 1_000, [500, 500]),
        ([9, 1], 10, [9, 1]),
        ([6, 3, 1], 7, [4, 2, 1]),
        ([5], 4, [4]),
    ],
)
def test_ratios_give_places_in_the_batch(ratios, batch_size, places):
    assert places_per_source(ratios, batch_size) == places


def test_a_source_without_a_place_is_refused():
    with pytest.raises(ConfigError, match=r"data.ratios \[99, 1\]: no place in 8 for source 2"):
        SampleOrder([10, 10], [99, 1], 8, seed=1)


@pytest.mark.parametrize("with_widths", [False, True])
def test_with_ratios_every_source_has_its_places_and_its_own_epochs(with_widths):
    sizes = [20, 7, 3]
    order = SampleOrder(sizes, [5, 3, 2], 10, 1, widths_of(sizes) if with_widths else None, 7)
    plans = [order.plan(number) for number in range(14)]
    of_source = [[], [], []]
    for _, (source, index) in drawn(plans):
        of_source[source].append(index)
    assert [len(indices) for indices in of_source] == [70, 42, 28]
    for size, indices in zip(sizes, of_source, strict=True):
        for start in range(0, len(indices) - size + 1, size):
            assert sorted(indices[start : start + size]) == list(range(size))
    if not with_widths:  # sorting by width shuffles what a bucket has drawn
        assert all(np.bincount(plan.sources).tolist() == [5, 3, 2] for plan in plans)


# ---- buckets of widths


@given(SIZES, st.integers(1, 9), st.integers(1, 8), st.integers(0, 3))
def test_a_bucket_is_cut_into_full_batches_of_one_width_each(sizes, batch_size, bucket_batches, seed):
    widths = widths_of(sizes, seed)
    order = SampleOrder(sizes, [], batch_size, seed, widths, bucket_batches)
    unsorted = SampleOrder(sizes, [], batch_size, seed)
    for bucket in range(3):
        numbers = range(bucket * bucket_batches, (bucket + 1) * bucket_batches)
        plans = [order.plan(number) for number in numbers]
        for plan in plans:
            members = [int(widths[source][index]) for source, index in samples(plan)]
            assert len(members) == batch_size
            assert plan.width == max(members)
            assert isinstance(plan.width, int)
        # The same samples under the same draws as without buckets, in another order.
        assert drawn(plans) == drawn([unsorted.plan(number) for number in numbers])
        # Sorted: the ranges of widths of two batches do not overlap.
        ranges = sorted((min(w), max(w)) for w in ([int(widths[s][i]) for s, i in samples(plan)] for plan in plans))
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))

"""The order of samples in shards: a rank draws from its own shards, and all ranks together what one rank would."""

import numpy as np
import pytest

from crnn.data.order import SampleOrder, check_sharing
from crnn.errors import ConfigError

SHARDED = {
    "one source": ([11, 10, 10, 10], [], [4]),
    "by ratios": ([9, 8, 9, 9, 30, 5, 6], [3, 2, 1], [4, 0, 2]),
    "shuffled together": ([9, 8, 4, 4], [], [2, 2]),
}


def samples(plan):
    return list(zip(plan.sources.tolist(), plan.indices.tolist(), strict=True))


def drawn(plans):
    return sorted((draw, sample) for plan in plans for draw, sample in zip(plan.draws, samples(plan), strict=True))


def content(plan):
    return samples(plan), plan.draws.tolist(), plan.width


def widths_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(2, 12, size) * 16).astype(np.uint16) for size in sizes]


def sharded(sizes, ratios, shards, batch_size=24, seed=3, world_size=1, widths=None):
    return SampleOrder(sizes, ratios, batch_size, seed, widths, 5, shards=shards, world_size=world_size)


def by_part(plans):
    """The samples of all ranks in the order of one: part by part, rank by rank."""
    found = []
    starts = [np.cumsum([0, *plan.parts]) for plan in plans]
    for part in range(len(plans[0].parts)):
        for plan, start in zip(plans, starts, strict=True):
            own = slice(start[part], start[part + 1])
            columns = (plan.sources[own], plan.indices[own], plan.draws[own])
            found += list(zip(*(column.tolist() for column in columns), strict=True))
    return found


@pytest.mark.parametrize(
    ("case", "world_size"),
    [("one source", 1), ("one source", 2), ("one source", 4), ("by ratios", 2), ("shuffled together", 2)],
)
@pytest.mark.parametrize("with_widths", [False, True])
def test_with_shards_the_ranks_share_out_the_batch_of_one_rank(case, with_widths, world_size):
    sizes, ratios, shards = SHARDED[case]
    widths = widths_of(sizes) if with_widths else None
    alone = sharded(sizes, ratios, shards, widths=widths)
    others = [sharded(sizes, ratios, shards, world_size=world_size, widths=widths) for _ in range(world_size)]
    seen = [set() for _ in range(world_size)]
    for number in (0, 1, 6, 23, 7):
        plans = [order.plan(number, rank, world_size) for rank, order in enumerate(others)]
        whole = alone.plan(number)
        assert by_part(plans) == by_part([whole])
        assert {plan.width for plan in plans} == {whole.width}
        assert {len(plan.sources) for plan in plans} == {24 // world_size}
        for rank, plan in enumerate(plans):
            assert content(whole.share(rank, world_size)) == content(plan)
            seen[rank] |= set(plan.sources.tolist())
    # Stores of source i start at first: those of a rank are its own shards, and what every rank has.
    first, expected = 0, [set() for _ in range(world_size)]
    for count in shards:
        for rank in range(world_size):
            own = count // world_size
            expected[rank] |= set(range(first + rank * own, first + (rank + 1) * own)) if count else {first}
        first += max(1, count)
    assert seen == expected


@pytest.mark.parametrize("with_widths", [False, True])
def test_every_shard_has_its_own_epochs_and_as_many_places_as_the_others(with_widths):
    sizes = [11, 10, 10, 9]
    order = sharded(sizes, [], [4], batch_size=8, widths=widths_of(sizes) if with_widths else None)
    plans = [order.plan(number) for number in range(30)]  # six whole buckets
    assert all(np.bincount(plan.sources).tolist() == [2, 2, 2, 2] for plan in plans)
    for shard, size in enumerate(sizes):
        in_order = [index for _, (store, index) in drawn(plans) if store == shard]
        assert len(in_order) == 60
        epochs = [in_order[start : start + size] for start in range(0, 60 - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    draws = sorted(draw for plan in plans for draw in plan.draws.tolist())
    assert draws == list(range(30 * 8))
    assert order.epoch_batches == 5


def test_without_ratios_shards_of_the_same_number_are_shuffled_together():
    order = sharded([6, 5, 3, 3], [], [2, 2], batch_size=4)
    plans = [order.plan(number) for number in range(9)]
    for stores, size in (({0, 2}, 9), ({1, 3}, 8)):
        in_order = [sample for _, sample in drawn(plans) if sample[0] in stores]
        assert len(in_order) == 18
        for start in range(0, 18 - size + 1, size):
            epoch = in_order[start : start + size]
            assert len(set(epoch)) == size
            assert {store for store, _ in epoch} == stores


def test_with_shards_a_batch_has_one_width_and_its_samples_are_about_as_wide():
    sizes = [500, 500, 500, 500]
    widths = widths_of(sizes)
    stretched = []
    for order in (
        SampleOrder(sizes, [], 32, 1, widths, 16, shards=[4]),
        SampleOrder(sizes, [], 32, 1, widths, 16),
    ):
        ratios = []
        for plan in (order.plan(number) for number in range(32)):
            members = np.array([widths[store][index] for store, index in samples(plan)])
            assert plan.width == members.max()
            ratios.append(plan.width / members)
        stretched.append(np.mean(ratios))
    assert stretched[1] < stretched[0] < 1.25  # without any sorting it is 2


def test_a_rank_shuffles_only_what_it_draws_from():
    order = sharded([1000] * 4, [], [4], batch_size=8, world_size=4)
    order.plan(0, 2, 4)
    assert {stream for stream, _ in order._permutations} == {2}


@pytest.mark.parametrize(
    ("shards", "ratios", "batch_size", "world_size", "message"),
    [
        ([4], [], 12, 3, "source 1 of data.train has 4 shards and there are 3 ranks; .*Start another number of ranks"),
        ([4, 2], [1, 1], 16, 4, "source 2 of data.train has 2 shards and there are 4 ranks"),
        (
            [4],
            [],
            10,
            2,
            "source 1 of data.train has 10 places in a batch of all ranks, which cannot be .* to 4 shards",
        ),
        ([2, 4], [1, 1], 20, 2, "source 2 of data.train has 10 places .* to 4 shards; expected a multiple of 4"),
        ([2, 0, 0], [4, 1, 3], 8, 2, "source 2 of data.train has 1 places .* to 2 ranks; expected a multiple of 2"),
        ([4, 2], [], 8, 2, r"data\.train have \[4, 2\] shards .* and data\.ratios is empty; expected ratios"),
        ([4, 0], [], 8, 2, r"data\.train have \[4, 0\] shards \(0: not in shards\)"),
        ([4, 4], [], 6, 2, "has 6 places in a batch of all ranks, which cannot be shared out to 4 shards"),
        ([4, 4], [99, 1], 8, 1, "give source 2 no place in a batch of 8"),
    ],
)
def test_shards_that_cannot_be_shared_out_are_refused(shards, ratios, batch_size, world_size, message):
    with pytest.raises(ConfigError, match=message):
        check_sharing(shards, ratios, batch_size, world_size)
    with pytest.raises(ConfigError, match=message):
        sharded([9] * sum(max(1, n) for n in shards), ratios, shards, batch_size, world_size=world_size)

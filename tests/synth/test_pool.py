"""Which words a batch shows, and that every one of them is drawn once and is there when it is needed."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn.config.model import ImageConfig
from crnn.config.synth import SynthConfig
from crnn.synth.batches import NUM_NEIGHBORS, PoolPlan, WordFeed, WordPool
from crnn.synth.rasterizer import MASK_HEIGHT, Words, WordWriter
from crnn.synth.widths import BatchWidths, width_classes

WIDTH = 8
CPU = torch.device("cpu")

SIZES = [(1, 64), (6, 64), (64, 64), (64, 130), (96, 500), (100, 64), (100, 1000), (7, 300), (192, 64)]


def plan(batch_size: int, pool_size: int = 64, reuse: float = 4.0, rank: int = 0, world_size: int = 1) -> PoolPlan:
    return PoolPlan(SynthConfig(pool_size=pool_size, reuse=reuse), 11, batch_size, rank, world_size)


class Numbered:
    """Draws words that say their number, in place of a ``WordWriter``."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def write(self, numbers: np.ndarray) -> Words:
        self.drawn += numbers.tolist()
        masks = np.broadcast_to((numbers % 251).astype(np.uint8)[:, None, None], (len(numbers), MASK_HEIGHT, WIDTH))
        lengths = numbers % 4 + 1
        targets = np.where(np.arange(5) < lengths[:, None], numbers[:, None] % 9 + 1, 0)
        texts = tuple(f"word {number}" for number in numbers)
        return Words(numbers, masks.copy(), 1.0 + numbers / 7.0, targets, lengths, texts, Counter())


def feed(of: PoolPlan, first: int = 0) -> tuple[WordFeed, Numbered]:
    writer = Numbered()
    one_width = BatchWidths(width_classes(ImageConfig()), np.ones(1), of.batch_size, 1, seed=11)
    return WordFeed([of], one_width, cast(WordWriter, writer), first), writer


# ---- which words


@given(
    batch_size=st.integers(1, 200),
    pool_size=st.integers(64, 2000),
    reuse=st.floats(1.0, 64.0),
    batch=st.one_of(st.integers(0, 60), st.integers(0, 10**9)),
)
def test_a_batch_shows_words_that_are_there(batch_size: int, pool_size: int, reuse: float, batch: int) -> None:
    one = plan(batch_size, pool_size, reuse)
    before, after = one.drawn(batch), one.drawn(batch + 1)
    assert 0 <= before <= after <= before + one.per_lane
    assert after >= 1
    words = one.words(batch)
    assert words.shape == (batch_size, 1 + NUM_NEIGHBORS)
    within, lane = np.divmod(words, one.lanes)
    # Each lane has its own; what is shown was drawn before or for this batch, and is not yet forgotten.
    assert (lane == (np.arange(batch_size) // one.per_lane)[:, None]).all()
    assert (within < after).all()
    assert (within >= max(0, after - one.window)).all()
    # Every new word is shown by the batch that it is drawn for.
    fresh = (np.arange(before, after)[:, None] * one.lanes + np.arange(one.lanes)).ravel()
    assert set(fresh) <= set(words[:, 0])
    # None of them is in the place of another.
    every = np.unique(words)
    slots = one.slot(every)
    assert len(np.unique(slots)) == len(every)
    assert slots.min() >= 0
    assert slots.max() < one.slots


@pytest.mark.parametrize(("batch_size", "pool_size"), SIZES)
def test_memory_is_what_is_set(batch_size: int, pool_size: int) -> None:
    one = plan(batch_size, pool_size)
    assert one.slots <= max(pool_size, batch_size)
    assert one.slots > max(pool_size, batch_size) / 2


@pytest.mark.parametrize("reuse", [1.0, 1.5, 4.0, 10.0])
def test_words_are_used_as_often_as_set(reuse: float) -> None:
    one = plan(96, 384, reuse)
    used = Counter(np.concatenate([one.words(batch)[:, 0] for batch in range(400)]).tolist())
    assert 400 * 96 / len(used) == pytest.approx(reuse, rel=0.05)
    if reuse == 1.0:
        assert sorted(used) == list(range(400 * 96))
    else:
        assert max(used.values()) < 8 * reuse


def test_the_first_batches_show_no_word_twice() -> None:
    one = plan(64, 4096)
    words = np.concatenate([one.words(batch)[:, 0] for batch in range(16)])
    assert len(np.unique(words)) == 16 * 64


def test_samples_are_numbered_through_the_run() -> None:
    whole = np.concatenate([plan(24).samples(batch) for batch in range(5)])
    assert whole.tolist() == list(range(120))


def test_a_batch_needs_no_batch_before_it() -> None:
    one, other = plan(64, 200), plan(64, 200)
    late = one.words(1000)
    for batch in range(40):
        other.words(batch)
    assert (other.words(1000) == late).all()


def test_other_seeds_choose_otherwise() -> None:
    one, other = (PoolPlan(SynthConfig(pool_size=500), seed, 64) for seed in (1, 2))
    assert (one.words(100) != other.words(100)).mean() > 0.5


@pytest.mark.parametrize(("batch_size", "pool_size"), [(8, 64), (64, 64), (96, 500), (100, 64), (12, 300), (192, 4000)])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_what_one_would_have(batch_size: int, pool_size: int, world_size: int) -> None:
    whole = plan(batch_size, pool_size)
    parts = [plan(batch_size, pool_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    drawn: list[set[int]] = [set() for _ in parts]
    for batch in (0, 1, 2, 17, 500):
        for name in ("samples", "words"):
            expected = getattr(whole, name)(batch)
            assert (np.concatenate([getattr(part, name)(batch) for part in parts]) == expected).all()
        for part, seen in zip(parts, drawn, strict=True):
            words = np.unique(part.words(batch))
            slots = part.slot(words)
            assert len(np.unique(slots)) == len(words)
            assert 0 <= slots.min() <= slots.max() < part.slots
            seen |= set(words.tolist())
    if whole.lanes % world_size == 0:
        assert sum(map(len, drawn)) == len(set.union(*drawn))  # no word is drawn by two of them
        assert sum(part.slots for part in parts) == whole.slots


# ---- who draws them


@pytest.mark.parametrize(("batch_size", "pool_size"), SIZES)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_together_draw_what_one_draws(batch_size: int, pool_size: int, workers: int) -> None:
    batches = range(5, 35)
    alone, writer = feed(plan(batch_size, pool_size), 5)
    expected = [alone[batch].numbers.tolist() for batch in batches]
    copies = [feed(plan(batch_size, pool_size), 5) for _ in range(workers)]
    found = [copies[place % workers][0][batch].numbers.tolist() for place, batch in enumerate(batches)]
    assert found == expected
    assert Counter(n for _, other in copies for n in other.drawn) == Counter(writer.drawn)


@pytest.mark.parametrize(("batch_size", "pool_size"), SIZES)
def test_what_is_in_the_pool_is_what_a_batch_shows(batch_size: int, pool_size: int) -> None:
    """From the start and from the middle; in memory of the plan's size and no more."""
    for first in (0, 9):
        one = plan(batch_size, pool_size)
        pool = WordPool(one, WIDTH, 5, CPU)
        words, _ = feed(one, first)
        for batch in range(first, first + 30):
            pool.put(words[batch])
            numbers = one.words(batch)
            assert len(pool.missing(numbers)) == 0
            for place in range(1 + NUM_NEIGHBORS):
                masks, ratios = pool.masks(numbers[:, place])
                assert masks.shape == (batch_size, MASK_HEIGHT, WIDTH)
                assert (masks.numpy() == (numbers[:, place] % 251)[:, None, None]).all()
                assert (ratios == 1.0 + numbers[:, place] / 7.0).all()
            own = numbers[:, 0]
            targets, lengths, texts = pool.targets(own)
            assert (lengths == own % 4 + 1).all()
            assert targets.dtype == np.int64
            assert targets.shape == (batch_size, lengths.max())
            assert (targets == np.where(np.arange(lengths.max()) < lengths[:, None], own[:, None] % 9 + 1, 0)).all()
            assert texts == [f"word {number}" for number in own]


def test_a_large_pool_draws_every_word_once() -> None:
    one = plan(64, 4096, reuse=2.0)
    words, writer = feed(one)
    for batch in range(60):
        words[batch]
    assert writer.drawn == sorted(set(writer.drawn))
    assert len(writer.drawn) == one.drawn(60) * one.lanes


def test_batches_are_asked_for_in_order() -> None:
    words, _ = feed(plan(8), 3)
    words[4]
    with pytest.raises(ValueError, match="batch 4 was passed; the next one is 5"):
        words[4]
    with pytest.raises(ValueError, match="batch 2 was passed"):
        feed(plan(8), 3)[0][2]


def test_what_is_missing_is_named_once() -> None:
    one = plan(64, 640)
    pool = WordPool(one, WIDTH, 5, CPU)
    numbers = one.words(0)
    missing = pool.missing(numbers)
    assert missing.tolist() == sorted(set(numbers.ravel().tolist()))
    pool.put(Numbered().write(missing[:10]))
    assert pool.missing(numbers).tolist() == missing[10:].tolist()
    with pytest.raises(AssertionError):
        pool.masks(missing[10:])


def test_no_words_are_no_work() -> None:
    pool = WordPool(plan(8), WIDTH, 5, CPU)
    nothing = np.empty(0, dtype=np.int64)
    pool.put(Numbered().write(nothing))
    assert len(pool.missing(nothing)) == 0
    targets, lengths, texts = pool.targets(nothing)
    assert (targets.shape, lengths.shape, texts) == ((0, 0), (0,), [])


def test_a_feed_travels_to_workers() -> None:
    words, _ = feed(plan(64, 200), 2)
    copy: Any = pickle.loads(pickle.dumps(words))
    assert (copy[3].numbers == words[3].numbers).all()

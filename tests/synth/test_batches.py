"""Rendered text as batches: the same whatever the workers, ranks and where it begins; which words they show."""

import ast
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn.charset import min_time_steps
from crnn.config.model import ImageConfig, time_steps
from crnn.config.run import Config
from crnn.config.synth import SynthConfig
from crnn.data.dataset import Batch
from crnn.errors import DataError, TrainingError
from crnn.synth.batches import NUM_NEIGHBORS, BatchWidths, PoolPlan, SynthBatches, WordFeed, WordPool
from crnn.synth.font_check import shipped_folder
from crnn.synth.rasterizer import MASK_HEIGHT, render_mask
from crnn.synth.words import CLASS_BITS, Words, WordWriter, width_classes

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Configs = Callable[..., Config]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture(autouse=True)
def one_thread_and_no_worker_left(one_thread: None) -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture(params=["squash", "keep_ratio"])
def config(request: pytest.FixtureRequest, synth_config: Configs) -> Configs:
    """Settings under either way to resize; images up to 160 pixels and a space in the charset under the second."""
    keep = {
        "image": {"resize": "keep_ratio", "max_width": 160}, "charset": {"characters": "95", "max_text_length": 40}
    }  # fmt: skip

    def make(**sections: Any) -> Config:
        # A small pool: words are forgotten and drawn again.
        values = {"synth": {"pool_size": 64}, **(keep if request.param == "keep_ratio" else {}), **sections}
        return synth_config(**values)

    return make


def batches(config: Config, first: int, last: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    return list(SynthBatches(config, rank, world_size).iterate(first, last))


def same(some: list[Batch], others: list[Batch]) -> bool:
    names = ("images", "targets", "target_lengths")
    return len(some) == len(others) and all(
        one.keys == other.keys and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
        for one, other in zip(some, others, strict=True)
    )


def joined(parts: tuple[Batch, ...]) -> Batch:
    longest = max(part.targets.shape[1] for part in parts)
    targets = [torch.nn.functional.pad(part.targets, (0, longest - part.targets.shape[1])) for part in parts]
    images, lengths = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "target_lengths"))
    return Batch(images, torch.cat(targets), lengths, sum((part.keys for part in parts), ()))


def drawn_texts(batch: Batch) -> list[str]:
    """What was drawn, as the keys say it."""
    return [ast.literal_eval(key.split(": ", 1)[1]) for key in batch.keys]


def labels_of(batch: Batch, config: Config) -> list[str]:
    charset = config.charset.charset()
    rows = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
    return [charset.decode(target[:length]) for target, length in rows]


# ---- what a batch is


@pytest.mark.parametrize(("channels", "width"), [(1, 64), (3, 100)])
def test_a_batch_is_like_any_other(synth_config: Configs, channels: int, width: int) -> None:
    config = synth_config(image={"image_channels": channels, "image_width": width})
    (batch,) = batches(config, 3, 4)
    assert (batch.images.shape, batch.images.dtype) == ((8, channels, 32, width), torch.uint8)
    assert batch.images.shape[-1] == width
    assert (batch.targets.dtype, batch.target_lengths.dtype) == (torch.int64, torch.int64)
    assert batch.targets.shape == (8, int(batch.target_lengths.max()))
    assert batch.target_lengths.min() >= 1
    behind = torch.arange(batch.targets.shape[1]) >= batch.target_lengths[:, None]
    assert (batch.targets[behind] == 0).all()
    assert [key.split(":")[0] for key in batch.keys] == [f"rendered {number}" for number in range(24, 32)]
    assert batch.skipped == ()
    assert batch.images.flatten(1).float().std(dim=1).min() > 2.0


def test_words_that_are_used_again_look_otherwise_and_seeds_differ(synth_config: Configs) -> None:
    config = synth_config(synth={"pool_size": 64, "reuse": 8.0})
    found = batches(config, 0, 30)
    images = [image for batch in found for image in batch.images]
    images += batches(synth_config(train={"seed": 2}), 0, 1)[0].images
    assert len({image.numpy().tobytes() for image in images}) == 248
    assert len({text for batch in found for text in drawn_texts(batch)}) < 120


def test_a_batch_has_one_width_and_its_labels_say_what_was_drawn(synth_config: Configs) -> None:
    config = synth_config(
        image={"resize": "keep_ratio", "max_width": 160}, charset={"characters": "95", "max_text_length": 40},
        train={"batch_size": 16},
    )  # fmt: skip
    source = SynthBatches(config)
    seen, spaces = set(), 0
    for number, batch in enumerate(source.iterate(0, 40)):
        kind, _, width = source._widths.of_batch(number)
        size = source._widths.sizes[kind]
        seen.add(width)
        assert batch.images.shape == (size, 1, 32, width)
        assert (len(batch.images), batch.images.shape[-1]) == (size, width)
        for label, drawn in zip(labels_of(batch, config), drawn_texts(batch), strict=True):
            kept = drawn.replace("ü", "u").replace("Ü", "U")
            if kept.isascii():
                assert label == " ".join(kept.split())
            spaces += " " in label
            assert 1 <= min_time_steps(config.charset.charset().encode(label)) <= time_steps(width)
    assert len(seen) > 6
    assert spaces > 20


@pytest.mark.parametrize(
    "characters",
    [
        "36", "62", "94", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "abcdefghijklmnopqrstuvwxyzäöüß",
        " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-",
    ],
)  # fmt: skip
def test_labels_are_what_was_drawn_under_the_rules(synth_config: Configs, characters: str) -> None:
    words = {"corpus": {"words": ["shipped"]}} if characters == "0123456789" else {}  # there are none of digits alone
    rules = {"max_text_length": 9} if characters == "62" else {}
    config = synth_config(charset={"characters": characters, **rules}, train={"batch_size": 100}, **words)
    charset = config.charset.charset()
    (batch,) = batches(config, 0, 1)
    labels, texts = labels_of(batch, config), drawn_texts(batch)
    assert all(labels)
    for label, text in zip(labels, texts, strict=True):
        assert label == config.charset.rules().apply(text, charset), text
    assert max(map(len, labels)) <= min(config.charset.max_text_length, 15)
    if " " in characters:
        assert any(" " in label for label in labels)
    elif characters == "94":
        assert any(not label.isalnum() for label in labels)
    else:
        assert labels != texts
        assert all(label.isalnum() for label in labels)


# ---- the same batches


def test_batches_do_not_depend_on_where_one_begins(config: Configs) -> None:
    settings = config()
    whole = batches(settings, 0, 20)
    keys = [key for batch in whole for key in batch.keys]
    assert len(set(keys)) == len(keys)
    source = SynthBatches(settings)
    for first, last in ((13, 20), (1, 20), (9, 10), (5, 5)):  # one source, from behind and from before
        assert same(list(source.iterate(first, last)), whole[first:last])


@forks
@pytest.mark.parametrize(("workers", "start"), [(2, "fork"), (3, "fork"), (1, "spawn")])
def test_batches_do_not_depend_on_workers(config: Configs, workers: int, start: str) -> None:
    changed = config(data={"workers": workers, "worker_start": start})
    assert same(batches(changed, 2, 14), batches(config(), 2, 14))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_exactly_the_batch_that_one_would_have(config: Configs, world_size: int) -> None:
    ranks = config(train={"batch_size": 48 // world_size})
    parts = [batches(ranks, 0, 6, rank, world_size) for rank in range(world_size)]
    assert same(list(map(joined, zip(*parts, strict=True))), batches(config(train={"batch_size": 48}), 0, 6))


@pytest.mark.parametrize("world_size", [3, 4])
def test_any_number_of_ranks_shares_out_whole_batches(config: Configs, world_size: int) -> None:
    sources = [SynthBatches(config(train={"batch_size": 4}), rank, world_size) for rank in range(world_size)]
    for number, parts in enumerate(zip(*(source.iterate(0, 8) for source in sources), strict=True)):
        assert len({(len(part), part.images.shape[3]) for part in parts}) == 1, "all ranks alike"
        numbers = [int(key.split(":")[0].split()[1]) for part in parts for key in part.keys]
        kind, place, _ = sources[0]._widths.of_batch(number)
        first = (kind << CLASS_BITS) + place * len(numbers)
        assert numbers == list(range(first, first + len(numbers)))


def test_images_do_not_depend_on_how_many_are_made_at_a_time(
    synth_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = synth_config(train={"batch_size": 20})
    expected = batches(config, 1, 2)
    for rows in (1, 7, 64):
        monkeypatch.setattr("crnn.synth.batches._CPU_NUMBERS", rows * 32 * 64)
        assert same(batches(config, 1, 2), expected)


def test_files_may_lie_elsewhere(synth_config: Configs, tmp_path: Path) -> None:
    """Fonts and words decide, not their folders."""
    for name in ("pacifico", "open-sans", "anton", "bangers"):
        shutil.copytree(shipped_folder() / name, tmp_path / "fonts" / name)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "some_words.txt", tmp_path / "other" / "list.txt")
    other = synth_config(
        fonts={"folders": [str(tmp_path / "fonts")]}, corpus={"words": [str(tmp_path / "other" / "list.txt")]}
    )
    one, two = SynthBatches(synth_config()), SynthBatches(other)
    assert same(list(one.iterate(5, 6)), list(two.iterate(5, 6)))
    assert one.digest == two.digest
    assert SynthBatches(synth_config(fonts={"exclude": ["Open Sans"]})).digest != one.digest


# ---- what is refused, and what is said


def test_what_it_is_made_of_is_said(synth_config: Configs) -> None:
    config = synth_config(
        charset={"characters": "abcdefghijklmnopqrstuvwxyz", "unknown": "drop_sample"},
        fonts={"italics": False, "exclude": ["anton"]},
    )
    fonts, *words = SynthBatches(config).remarks()
    assert fonts == "rendered text: 4 fonts of 3 families; left out 1 other_style, 1 excluded"
    assert any("some_words.txt" in line for line in words)


class Broken:
    """A writer whose process dies at the first words, or that finds nothing to draw."""

    def __init__(self, dies: bool) -> None:
        self.dies = dies

    def write(self, _: np.ndarray) -> Words:
        if self.dies:
            os._exit(1)
        raise DataError("none of 50 texts in a row could be drawn")


@forks
@pytest.mark.parametrize(
    ("workers", "dies", "error", "said"),
    [
        (1, True, TrainingError, r"a data worker died .*Continue with --resume"),
        (0, False, DataError, "^none of 50 texts in a row could be drawn"),
        (1, False, DataError, "^none of 50 texts in a row could be drawn"),
    ],
)
def test_errors_of_workers_and_their_death_are_said(
    synth_config: Configs, workers: int, dies: bool, error: type[Exception], said: str
) -> None:
    source = SynthBatches(synth_config(data={"workers": workers}))
    source._renderer.writer = Broken(dies)  # type: ignore[assignment]
    with pytest.raises(error, match=said):
        next(source.iterate(0, 3))


def test_texts_that_cannot_be_drawn_are_counted(synth_config: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, calls = render_mask, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return None if calls % 3 == 0 else draw(*arguments)

    monkeypatch.setattr("crnn.synth.words.render_mask", sometimes)
    source = SynthBatches(synth_config())
    list(source.iterate(0, 2))
    list(source.iterate(40, 41))
    assert source.skipped["no_ink"] == calls // 3
    monkeypatch.setattr("crnn.synth.words.render_mask", lambda *_: None)
    with pytest.raises(DataError, match=r"none of 50 texts in a row has one font for it, the last '.*'"):
        next(source.iterate(80, 81))


# ---- which batch has which width


def test_every_class_gets_batches_and_its_share_of_samples() -> None:
    classes = width_classes(ImageConfig(resize="keep_ratio"))
    shares = np.linspace(1.0, 3.0, len(classes))
    shares[3] = 0.0
    widths = BatchWidths(classes, shares / shares.sum(), batch_size=64, world_size=2, seed=5)
    samples: Counter[int] = Counter()
    for number in range(1280):
        samples[widths.of_batch(number)[0]] += widths.sizes[widths.of_batch(number)[0]]
    assert set(samples) == set(range(len(widths.sizes))) - {3}
    assert widths.sizes[0] == 64
    assert widths.sizes == sorted(widths.sizes, reverse=True)
    assert all(size % 2 == 0 and size >= 2 for size in widths.sizes)  # ranks can share them
    found = np.array([samples[kind] for kind in range(len(widths.sizes))])
    np.testing.assert_allclose(found / found.sum(), widths.samples)
    np.testing.assert_allclose(widths.samples, shares / shares.sum(), rtol=0.25, atol=0.02)  # whole batches of 128
    assert found.sum() / 1280 == pytest.approx(widths.mean_size)


@pytest.mark.parametrize("batch_size", [64, 256, 96, 8, 1])
def test_sizes_are_those_of_one_rank_where_they_can_be_shared_out(batch_size: int) -> None:
    classes = width_classes(ImageConfig(resize="keep_ratio"))
    shares = np.full(len(classes), 1.0 / len(classes))
    one = BatchWidths(classes, shares, batch_size, 1, seed=1).sizes
    unit = {64: 2, 256: 8, 96: 2}.get(batch_size, 1)
    assert all(size % unit == 0 for size in one)
    assert BatchWidths(classes, shares, batch_size, unit, seed=1).sizes == one
    pixels = np.array(one) * [kind.high for kind in classes]
    assert pixels.max() <= 1.3 * 32 * batch_size or batch_size < 64
    squash = width_classes(ImageConfig())
    assert BatchWidths(squash, np.ones(1), batch_size * 3, 3, seed=1).sizes == [batch_size * 3]


# ---- which words a batch shows, and who draws them

WIDTH = 8
CPU = torch.device("cpu")

SIZES = [(1, 64), (6, 64), (64, 130), (96, 500), (100, 64), (7, 300), (192, 64)]


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
    assert 0 <= slots.min() <= slots.max() < one.slots <= max(pool_size, batch_size)  # memory is what is set


@pytest.mark.parametrize("reuse", [1.0, 1.5, 4.0, 10.0])
def test_words_are_used_as_often_as_set(reuse: float) -> None:
    one = plan(96, 384, reuse)
    used = Counter(np.concatenate([one.words(batch)[:, 0] for batch in range(400)]).tolist())
    assert 400 * 96 / len(used) == pytest.approx(reuse, rel=0.05)
    if reuse == 1.0:
        assert sorted(used) == list(range(400 * 96))
    else:
        assert max(used.values()) < 8 * reuse


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


def test_a_large_pool_draws_every_word_once_and_first_shows_none_twice() -> None:
    one = plan(64, 4096, reuse=2.0)
    words, writer = feed(one)
    for batch in range(60):
        words[batch]
    assert writer.drawn == sorted(set(writer.drawn))
    assert len(writer.drawn) == one.drawn(60) * one.lanes
    shown = np.concatenate([one.words(batch)[:, 0] for batch in range(16)])
    assert len(np.unique(shown)) == len(shown)

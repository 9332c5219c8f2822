"""Rendered text under ``keep_ratio``: classes of widths, batches of one width, texts that belong to their class."""

from __future__ import annotations

import ast
import itertools
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from crnn.charset import min_time_steps
from crnn.config.model import ImageConfig, time_steps
from crnn.config.run import Config
from crnn.data.dataset import Batch
from crnn.errors import ConfigError
from crnn.synth.batches import SynthBatches
from crnn.synth.renderer import Renderer
from crnn.synth.widths import CLASS_BITS, BatchWidths, width_classes

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Configs = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread_and_no_worker_left(one_thread: None) -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def config(synth_config: Configs) -> Callable[..., Config]:
    """Settings under ``keep_ratio`` with a space in the charset, for images up to 160 pixels."""

    def make(*data: Any, **sections: dict[str, Any]) -> Config:
        values: dict[str, dict[str, Any]] = {
            "image": {"resize": "keep_ratio", "max_width": 160},
            "charset": {"characters": "95", "max_text_length": 40},
        }
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        return synth_config(*data, **values)

    return make


def same(one: Batch, other: Batch) -> bool:
    names = ("images", "widths", "targets", "target_lengths")
    return one.keys == other.keys and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def all_same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(same(a, b) for a, b in zip(some, others, strict=True))


# ---- classes


@pytest.mark.parametrize(
    "limits", [(32, 512), (32, 100), (16, 16), (64, 64), (32, 36), (40, 1024), (33, 511), (32, 4096)]
)
def test_classes_cover_all_widths_once(limits: tuple[int, int]) -> None:
    classes = width_classes(ImageConfig(resize="keep_ratio", min_width=limits[0], max_width=limits[1]))
    assert classes[0].crops[0] == 0.0
    assert classes[0].low == limits[0]
    for one, other in itertools.pairwise(classes):
        assert one.crops[1] == other.crops[0]
        assert one.high < other.low
    for kind in classes:
        assert limits[0] <= kind.low <= kind.middle <= kind.high <= max(limits[1], limits[0])
        assert kind.high - kind.low <= 0.25 * kind.low
        assert kind.crops[0] < kind.crops[1]
    if limits[1] >= 100:
        assert classes[-1].high > 0.93 * limits[1]


def test_squash_has_one_class() -> None:
    (kind,) = width_classes(ImageConfig(image_width=96))
    assert (kind.low, kind.high, kind.fit) == (96, 96, None)
    assert width_classes(ImageConfig(image_width=96), 160)[0].low == 160


# ---- which batch has which width


@pytest.fixture
def widths() -> BatchWidths:
    classes = width_classes(ImageConfig(resize="keep_ratio"))
    shares = np.linspace(1.0, 3.0, len(classes))
    shares[3] = 0.0
    return BatchWidths(classes, shares / shares.sum(), batch_size=64, world_size=2, seed=5)


def test_every_class_gets_batches_and_its_share_of_samples(widths: BatchWidths) -> None:
    shares = np.linspace(1.0, 3.0, len(widths.sizes))
    shares[3] = 0.0
    samples: Counter[int] = Counter()
    for number in range(1280):
        samples[widths.of_batch(number)[0]] += widths.sizes[widths.of_batch(number)[0]]
    assert set(samples) == set(range(len(widths.sizes))) - {3}
    found = np.array([samples[kind] for kind in range(len(widths.sizes))])
    np.testing.assert_allclose(found / found.sum(), widths.samples)
    np.testing.assert_allclose(widths.samples, shares / shares.sum(), rtol=0.25, atol=0.02)  # whole batches of 128
    assert found.sum() / 1280 == pytest.approx(widths.mean_size)


def test_wide_batches_have_fewer_samples_that_ranks_can_share(widths: BatchWidths) -> None:
    assert widths.sizes[0] == 64
    assert widths.sizes == sorted(widths.sizes, reverse=True)
    assert all(size % 2 == 0 and size >= 2 for size in widths.sizes)


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


def test_batches_of_a_class_are_counted_without_gaps(widths: BatchWidths) -> None:
    places: dict[int, list[int]] = {}
    classes = width_classes(ImageConfig(resize="keep_ratio"))
    orders = []
    for number in range(300):
        kind, place, width = widths.of_batch(number)
        places.setdefault(kind, []).append(place)
        orders.append(kind)
        assert classes[kind].low <= width <= classes[kind].high
        assert width % 4 == 0
    assert all(found == list(range(len(found))) for found in places.values())
    assert orders[:128] != orders[128:256]  # another order in each cycle
    assert Counter(orders[:128]) == Counter(orders[128:256])


# ---- shares of widths, and texts of a class


def test_shares_are_those_of_the_texts(config: Configs) -> None:
    """Of ten digits none is narrow, of single ones none is wide; what is rare has no class of its own."""
    wide = Renderer(config(corpus={"pattern": "[0-9]{6}"}))
    narrow = Renderer(config(corpus={"pattern": "[0-9]"}))
    for renderer in (wide, narrow):
        assert renderer.shares.sum() == pytest.approx(1.0)
        assert all(share == 0.0 or share >= 0.003 for share in renderer.shares)
    middles = np.array([kind.middle for kind in wide.classes])
    assert (middles * narrow.shares).sum() < 45 < 80 < (middles * wide.shares).sum()
    assert narrow.shares[-1] == wide.shares[0] == 0.0
    kinds = wide.numbers(np.arange(2000)) >> CLASS_BITS
    np.testing.assert_allclose(np.bincount(kinds, minlength=len(middles)) / 2000, wide.shares, atol=0.05)


def test_texts_belong_to_their_class(config: Configs) -> None:
    """The ink has about the proportions of the class, and CTC has time for the label."""
    renderer = Renderer(config(style={"stretch": 0.0}))
    for number, kind in enumerate(renderer.classes):
        if not renderer.shares[number]:
            continue
        words = renderer.writer.write(np.arange(24) + (number << CLASS_BITS))
        crops = 32.0 * (words.ratios + 0.2) / 1.2
        inside = (crops > 0.7 * kind.crops[0]) & (crops < 1.3 * kind.crops[1])
        assert inside.mean() > 0.9, (kind, crops, words.texts)
        for target, length in zip(words.targets, words.lengths, strict=True):
            assert min_time_steps(target[:length].tolist()) <= time_steps(kind.low)


def test_crops_have_nearly_the_proportions_of_their_images(config: Configs) -> None:
    renderer = Renderer(config())
    for number, kind in enumerate(renderer.classes):
        if not renderer.shares[number] or kind.fit is None:
            continue
        _, _, scene = renderer.samples(np.arange(16) + (number << CLASS_BITS))
        shape = scene.geometry.crop[:, 1] / scene.geometry.crop[:, 0] * 32.0 / kind.middle
        assert (shape > kind.fit[0] - 1e-6).all()
        assert (shape < kind.fit[1] + 1e-6).all() or number == len(renderer.classes) - 1


def test_texts_that_are_all_too_wide_are_refused(config: Configs) -> None:
    with pytest.raises(ConfigError, match=r"pixels wide .* more than image\.max_width 160; .* Raise") as caught:
        Renderer(config(corpus={"pattern": "(12){19}"}))
    assert "\n" not in str(caught.value)


# ---- batches


def test_a_batch_has_one_width_and_its_labels_say_what_was_drawn(config: Configs) -> None:
    settings = config(train={"batch_size": 16})
    source = SynthBatches(settings)
    charset = settings.charset.charset()
    seen: set[int] = set()
    spaces = 0
    for number in range(40):
        batch = source[number]
        kind, _, width = source._widths.of_batch(number)
        size = source._widths.sizes[kind]
        seen.add(width)
        assert batch.images.shape == (size, 1, 32, width)
        assert batch.widths.tolist() == [width] * size
        assert batch.target_lengths.min() >= 1
        for key, target, length in zip(batch.keys, batch.targets.tolist(), batch.target_lengths.tolist(), strict=True):
            label = charset.decode(target[:length])
            drawn = ast.literal_eval(key.split(": ", 1)[1])
            kept = drawn.replace("ü", "u").replace("Ü", "U")
            if kept.isascii():
                assert label == " ".join(kept.split())
            spaces += " " in label
            assert min_time_steps(target[:length]) <= time_steps(width)
    assert len(seen) > 6
    assert spaces > 20


def test_batches_do_not_depend_on_where_one_begins(config: Configs) -> None:
    settings = config(synth={"pool_size": 64})
    whole = list(SynthBatches(settings).iterate(0, 20))
    keys = [key for batch in whole for key in batch.keys]
    assert len(set(keys)) == len(keys)
    for first in (1, 13):
        assert all_same(list(SynthBatches(settings).iterate(first, 20)), whole[first:])
    source = SynthBatches(settings)
    for number in (9, 2, 19, 2):
        assert same(source[number], whole[number])
    assert all_same(list(source.iterate(3, 20)), whole[3:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize(("workers", "start"), [(2, "fork"), (1, "spawn")])
def test_batches_do_not_depend_on_workers(config: Configs, workers: int, start: str) -> None:
    expected = list(SynthBatches(config(synth={"pool_size": 64})).iterate(2, 16))
    changed = config(synth={"pool_size": 64}, data={"workers": workers, "worker_start": start})
    assert all_same(list(SynthBatches(changed).iterate(2, 16)), expected)


def test_ranks_share_out_exactly_the_batch_that_one_would_have(config: Configs) -> None:
    whole = SynthBatches(config(train={"batch_size": 32}))
    sources = [SynthBatches(config(train={"batch_size": 16}), rank, 2) for rank in (0, 1)]
    parts = [list(source.iterate(0, 10)) for source in sources]
    for number, some in enumerate(zip(*parts, strict=True)):
        expected = whole[number]
        assert torch.equal(torch.cat([part.images for part in some]), expected.images)
        assert sum((part.keys for part in some), ()) == expected.keys


@pytest.mark.parametrize("world_size", [3, 4])
def test_any_number_of_ranks_shares_out_whole_batches(config: Configs, world_size: int) -> None:
    settings = config(train={"batch_size": 4})
    sources = [SynthBatches(settings, rank, world_size) for rank in range(world_size)]
    parts = [list(source.iterate(0, 8)) for source in sources]
    for number, some in enumerate(zip(*parts, strict=True)):
        assert len({(len(part), part.images.shape[3]) for part in some}) == 1, "all ranks alike"
        keys = [key for part in some for key in part.keys]
        numbers = [int(key.split(":")[0].split()[1]) for key in keys]
        assert numbers == list(range(numbers[0], numbers[0] + len(keys)))
        kind, place, _ = sources[0]._widths.of_batch(number)
        assert numbers[0] == (kind << CLASS_BITS) + place * len(keys)


# ---- lines


@pytest.mark.parametrize(
    ("characters", "resize", "expected"),
    [("95", "keep_ratio", True), ("94", "keep_ratio", False), ("95", "squash", False), ("36", "keep_ratio", False)],
)
def test_lines_need_a_space_and_images_that_keep_their_proportions(
    config: Configs, characters: str, resize: str, expected: bool
) -> None:
    settings = config(charset={"characters": characters}, image={"resize": resize, "image_width": 100})
    corpus = Renderer(settings).writer.corpus
    kinds = Counter(corpus.draw(np.random.default_rng([1, number])).kind for number in range(600))
    assert (kinds["line"] > 100) is expected
    none = config(charset={"characters": characters}, image={"resize": resize}, corpus={"line_weight": 0.0})
    corpus = Renderer(none).writer.corpus
    assert all(corpus.draw(np.random.default_rng([1, number])).kind != "line" for number in range(200))

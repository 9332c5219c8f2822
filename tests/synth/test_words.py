"""Words by number, in classes of widths: classes cover all widths once, and texts belong to their class."""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crnn.charset import min_time_steps
from crnn.config.model import ImageConfig, time_steps
from crnn.config.run import Config
from crnn.errors import ConfigError
from crnn.synth.renderer import Renderer
from crnn.synth.words import CLASS_BITS, width_classes

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]


@pytest.fixture
def config(synth_config: Configs) -> Configs:
    """Settings under ``keep_ratio`` with a space in the charset, for images up to 160 pixels."""

    def make(**sections: dict[str, Any]) -> Config:
        values: dict[str, dict[str, Any]] = {
            "image": {"resize": "keep_ratio", "max_width": 160},
            "charset": {"characters": "95", "max_text_length": 40},
        }
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        return synth_config(**values)

    return make


@pytest.mark.parametrize("limits", [(32, 512), (32, 100), (16, 16), (32, 36), (33, 511), (32, 4096)])
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


def test_texts_and_crops_belong_to_their_class(config: Configs) -> None:
    """Ink and crop have about the proportions of the class, and CTC has time for the label."""
    renderer = Renderer(config(style={"stretch": 0.0, "neighbor_share": 0.0}))
    for number in np.flatnonzero(renderer.shares):
        kind = renderer.classes[number]
        _, words, scene = renderer.samples(np.arange(24) + (int(number) << CLASS_BITS))
        widths = 32.0 * (words.ratios + 0.2) / 1.2
        inside = (widths > 0.7 * kind.crops[0]) & (widths < 1.3 * kind.crops[1])
        assert inside.mean() > 0.9, (kind, widths, words.texts)
        for target, length in zip(words.targets, words.lengths, strict=True):
            assert min_time_steps(target[:length].tolist()) <= time_steps(kind.low)
        shape = scene.geometry.crop[:, 1] / scene.geometry.crop[:, 0] * 32.0 / kind.middle
        assert kind.fit is not None
        assert (shape > kind.fit[0] - 1e-6).all()
        assert (shape < kind.fit[1] + 1e-6).all() or number == len(renderer.classes) - 1


def test_texts_that_are_all_too_wide_are_refused(config: Configs) -> None:
    with pytest.raises(ConfigError, match=r"pixels wide, above image\.max_width 160") as caught:
        Renderer(config(corpus={"pattern": "(12){19}"}))
    assert "\n" not in str(caught.value)


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


def test_small_capitals_are_drawn_in_texts_of_capitals_alone(synth_config: Configs) -> None:
    some, none = (
        Renderer(synth_config(charset={"characters": "62"}, style={"small_caps_share": share, "texture_tiles": 4}))
        for share in (1.0, 0.0)
    )
    numbers = np.arange(100)
    drawn, plain = some.writer.write(numbers), none.writer.write(numbers)
    assert drawn.texts == plain.texts
    changed = (drawn.masks != plain.masks).any(axis=(1, 2))
    long_capitals = np.array([text.isupper() and text.isalpha() and len(text) > 1 for text in plain.texts])
    assert changed[long_capitals].sum() > 10
    assert changed[long_capitals].all()
    assert not changed[[not text.isupper() for text in plain.texts]].any()
    assert {font.family for font in none.fonts.fonts if font.one_case and set("abc") & font.characters} == set()

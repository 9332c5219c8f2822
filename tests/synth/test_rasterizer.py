"""Texts drawn with fonts: the ink fills its cell, its proportions are kept, letters are set as asked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables.TupleVariation import TupleVariation
from PIL import Image, ImageDraw, ImageFont, features

from crnn.config.synth import FontConfig, StyleConfig
from crnn.errors import ConfigError, DataError
from crnn.reading_order import reorder
from crnn.synth.font_check import Font
from crnn.synth.fonts import FontSet, find_fonts, system_folders
from crnn.synth.rasterizer import MASK_HEIGHT, MASK_MARGIN, Lettering, needs_shaping, render_mask

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,-"
WIDTH = 132
PLAIN = Lettering()


@pytest.fixture(scope="module")
def fonts() -> FontSet:
    return find_fonts(FontConfig(), LETTERS, workers=0, quiet=True)


@pytest.fixture(scope="module")
def font(fonts: FontSet) -> Font:
    return next(f for f in fonts.fonts if (f.family, f.style) == ("Open Sans", "Regular"))


def drawn(
    text: str, font: Font, lettering: Lettering = PLAIN, width: int = WIDTH, seed: int = 0
) -> tuple[np.ndarray, float]:
    """What ``render_mask`` gives, its margins cut off."""
    found = render_mask(text, font, lettering, width, np.random.default_rng(seed))
    assert found is not None
    mask, ratio = found
    assert (mask.shape, mask.dtype) == ((MASK_HEIGHT, width), np.uint8)
    ink = mask[MASK_MARGIN:-MASK_MARGIN, MASK_MARGIN:-MASK_MARGIN]
    assert ink.sum() == mask.sum()
    return ink, ratio


def ink_of(text: str, font: Font, size: int = 400) -> Image.Image:
    """The ink alone, drawn large with Pillow."""
    font = ImageFont.truetype(font.path, size, index=font.index)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (right - left + 40, bottom - top + 40))
    ImageDraw.Draw(image).text((20 - left, 20 - top), text, fill=255, font=font)
    box = image.getbbox()
    assert box is not None
    return image.crop(box)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("text", ["Word", "i", "MMMMMMMMMMMMMMMM", "gyp", "x", "1,234.50", "two words", "j.j"])
def test_ink_fills_its_cell_and_is_that_of_the_face(fonts: FontSet, text: str) -> None:
    for font in fonts.fonts:
        ink, ratio = drawn(text, font)
        expected = ink_of(text, font)
        # What FreeType rounds to whole pixels at 32 to 108 pixels an em, and the faintest pixel at each edge.
        assert ratio == pytest.approx(expected.width / expected.height, rel=0.2), font.family
        assert likeness(ink, np.asarray(expected.resize(ink.shape[::-1], Image.Resampling.BOX))) > 0.8, font.family
        for edge in (ink[:2], ink[-2:], ink[:, :8], ink[:, -8:]):
            assert edge.max() > 20, font.family


@pytest.mark.parametrize("text", ["   ", "W" * 2000])
@pytest.mark.parametrize("lettering", [PLAIN, Lettering(tracking=0.3), Lettering(underline=0.05)])
def test_there_is_no_mask_without_ink_and_of_what_is_too_large(font: Font, text: str, lettering: Lettering) -> None:
    assert render_mask(text, font, lettering, WIDTH, np.random.default_rng(0)) is None


def test_a_font_that_is_gone_is_named(font: Font, tmp_path: Path) -> None:
    lost = dataclasses.replace(font, path=str(tmp_path / "lost.ttf"))
    with pytest.raises(DataError, match=r"lost\.ttf: is gone, or another file than at the start"):
        drawn("word", lost)


def test_a_letter_far_from_its_place_is_drawn_whole(tmp_path: Path) -> None:
    """Fonts may draw anywhere; what is outside of the usual room is measured and drawn again."""
    font = box_face(tmp_path / "far.ttf", {"A": (-900, -1500, -300, 2600), "B": (1400, 0, 3000, 100)})
    for letter, expected in (("A", 600 / 4100), ("B", 1600 / 100)):
        ink, ratio = drawn(letter, font)
        assert ratio == pytest.approx(expected, rel=0.2)
        assert ink[2:-2, 2:-2].min() > 100
    for lettering in (PLAIN, Lettering(baseline_jitter=1e-6)):
        _, ratio = drawn("AB", font, lettering)
        assert ratio == pytest.approx((900 + 500 + 3000) / 4100, rel=0.05)


def test_tracking_widens_by_what_is_set(font: Font) -> None:
    for text in ("Track", "MM", "a long line"):
        in_ems = 1.0 / (ink_of(text, font).height / 400)
        _, plain = drawn(text, font)
        for tracking in (0.1, 0.5, 1.5):
            ink, wide = drawn(text, font, Lettering(tracking=tracking))
            assert wide - plain == pytest.approx(tracking * (len(text) - 1) * in_ems, rel=0.1)
        assert (ink.max(axis=0) == 0).sum() > 10
        _, tight = drawn(text, font, Lettering(tracking=-0.07))
        assert tight < plain


def test_letters_are_shaken_by_the_generator(font: Font) -> None:
    level = drawn("HHHHHH", font)[0]
    for lettering in (Lettering(kerning_jitter=0.1), Lettering(baseline_jitter=0.1)):
        one, same, other = (drawn("HHHHHH", font, lettering, seed=seed)[0] for seed in (1, 1, 2))
        assert (one == same).all()
        assert likeness(one, other) < 0.99
        assert likeness(one, level) < 0.99
    up_and_down = drawn("HHHHHH", font, Lettering(baseline_jitter=0.1))[0]
    tops = (up_and_down > 128).argmax(axis=0)[up_and_down.max(axis=0) > 128]
    assert tops.max() - tops.min() >= 2


def test_capitals_behind_the_first_of_a_word_are_smaller(font: Font) -> None:
    ink, _ = drawn("HHHHH HH", font, Lettering(small_caps=0.75))
    filled = ink > 128
    columns = np.flatnonzero(filled.any(axis=0))
    tops = filled.argmax(axis=0)[columns]
    starts = np.flatnonzero(np.diff(columns, prepend=-9) > 1)  # of the letters
    assert len(starts) == 7
    expected = [0, *[0.25 * ink.shape[0]] * 4, 0, 0.25 * ink.shape[0]]
    assert tops[starts].tolist() == pytest.approx(expected, abs=2)
    assert filled[-2:, columns[-1]].any()  # on the same line


@pytest.mark.parametrize("text", ["Habc", "hexe", "McHEXE", "1234", "H-H", "Straße"])
def test_lower_case_marks_and_first_letters_keep_their_size(font: Font, text: str) -> None:
    one, other = (drawn(text, font, Lettering(small_caps=small, tracking=0.01))[0] for small in (0.75, 0.0))
    assert (one == other).all()


def test_a_word_goes_on_behind_an_apostrophe(font: Font) -> None:
    one, other = (drawn("H'H", font, Lettering(small_caps=small, tracking=0.01))[0] for small in (0.75, 0.0))
    assert (one != other).any()


def test_underlined_text_has_a_line_below_its_letters(font: Font) -> None:
    for text in ("Line", "gyp"):
        ink, ratio = drawn(text, font, Lettering(underline=0.08))
        plain_ratio = drawn(text, font)[1]
        assert ratio < plain_ratio
        assert ink[-1].min() > 200
        height = plain_ratio and ratio / plain_ratio
        # Between the letters and the line there is a gap.
        rows = ink.max(axis=1)
        below = rows[int(height * len(rows)) - 1 :]
        assert below.min() < 128
        assert (ink.min(axis=1) > 128).sum() <= 0.25 * len(rows)


def test_lettering_is_as_often_and_as_strong_as_the_settings_say() -> None:
    style = StyleConfig()
    rng = np.random.default_rng(1)
    some = [Lettering.draw(rng, style) for _ in range(4000)]
    wide = np.array([s.tracking for s in some])
    assert (wide > 0.0).mean() == pytest.approx(style.tracking_share, abs=0.03)
    assert -0.07 <= wide.min() < wide.max() <= style.tracking
    assert (wide < 0.0).mean() == pytest.approx(style.tight_share, abs=0.015)
    for values, share in (
        ([s.kerning_jitter for s in some], style.letter_jitter_share),
        ([s.baseline_jitter for s in some], style.letter_jitter_share),
        ([s.small_caps for s in some], style.small_caps_share),
        ([s.underline for s in some], style.underline_share),
    ):
        assert np.mean(np.array(values) != 0.0) == pytest.approx(share, abs=0.015)


def test_settings_do_not_change_what_else_is_drawn() -> None:
    shares = {f"{n}_share": 1.0 for n in ("tracking", "tight", "letter_jitter", "small_caps", "underline")}
    none = StyleConfig(**dict.fromkeys(shares, 0.0))
    for name in shares:
        for seed in range(5):
            one, other = np.random.default_rng(seed), np.random.default_rng(seed)
            assert Lettering.draw(one, none) == PLAIN
            assert Lettering.draw(other, StyleConfig(**{**dict.fromkeys(shares, 0.0), name: 1.0})) != PLAIN
            assert one.random() == other.random()


@pytest.mark.parametrize(
    ("text", "shaped"),
    [
        ("Word", False), ("Слово", False), ("λόγος", False), ("漢字かな", False), ("한국어", False), ("Zürich", False),
        ("12:30 €", False), ("", False), ("سلام", True), ("שלום", True), ("नमस्ते", True), ("ภาษาไทย", True),
        ("தமிழ்", True), ("ខ្មែរ", True), ("e\u0301", True), ("abc سلام", True), ("١٢٣", True), ("བོད", True),
    ],
)  # fmt: skip
def test_scripts_whose_letters_join_or_move_are_known(text: str, shaped: bool) -> None:
    assert needs_shaping(text) is shaped


def system_face(characters: str) -> Font:
    """A font of the system with these characters; there need not be any."""
    names = ("dejavusans.ttf", "notosansarabic-regular.ttf", "notosansdevanagari-regular.ttf", "arial.ttf")
    for folder in system_folders():
        for path in sorted(p for p in folder.rglob("*.ttf") if p.name.lower() in names):
            try:
                found = find_fonts(
                    FontConfig(folders=(str(path),), min_readable=0.0), characters, workers=0, quiet=True
                )
            except DataError:
                continue
            if found.fonts[0].characters >= set(characters):
                return found.fonts[0]
    pytest.skip(f"no font of this system has {characters!r}")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without raqm")
def test_arabic_letters_join() -> None:
    font = system_face("بيت")
    joined, ratio = drawn("بيت", font)
    apart = sum(drawn(letter, font)[1] for letter in "بيت")
    assert ratio < 0.8 * apart
    assert joined.max(axis=0).min() > 60  # no column without ink
    # Right to left: the first letter is at the right end.
    backwards, _ = drawn("تيب", font)
    assert likeness(joined, backwards) < 0.9
    # Letters that join cannot be set apart.
    tracked, same = drawn("بيت", font, Lettering(tracking=0.5, small_caps=0.7, baseline_jitter=0.2))
    assert ratio == same
    assert (tracked == joined).all()


def test_a_script_that_cannot_be_shaped_is_refused(font: Font, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(ConfigError, match=r"'سلام' is of a script that this Pillow cannot shape") as caught:
        render_mask("سلام", font, PLAIN, WIDTH, np.random.default_rng(0))
    assert "\n" not in str(caught.value)
    assert render_mask("latin", font, PLAIN, WIDTH, np.random.default_rng(0)) is not None


def box_face(path: Path, boxes: dict[str, tuple[int, int, int, int]], wider: int = 0) -> Font:
    """A font of 1000 units whose letters are boxes (left, bottom, right, top), each 500 wide.

    With ``wider`` it has an axis that moves the right ends of all boxes by that much.
    """
    order = [".notdef", *boxes]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({ord(letter): letter for letter in boxes})
    outlines = {}
    for name in order:
        left, bottom, right, top = boxes.get(name, (0, 0, 400, 700))
        pen = TTGlyphPen(None)
        pen.moveTo((left, bottom))
        for corner in ((left, top), (right, top), (right, bottom)):
            pen.lineTo(corner)
        pen.closePath()
        outlines[name] = pen.glyph()
    builder.setupGlyf(outlines)
    # FreeType moves an outline to its left side bearing.
    builder.setupHorizontalMetrics({name: (500, boxes[name][0] if name in boxes else 0) for name in order})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost(keepGlyphNames=False)
    if wider:
        builder.setupFvar(axes=[("wdth", 100, 100, 200, "Width")], instances=[])
        moves = [(0, 0), (0, 0), (wider, 0), (wider, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
        builder.setupGvar({name: [TupleVariation({"wdth": (0.0, 1.0, 1.0)}, moves)] for name in boxes})
    builder.save(path)
    return Font(
        path=str(path), index=0, axes=(), family="Boxes", style="Regular", weight=400, italic=False, one_case=False,
        cap_height=0.7, characters=frozenset(boxes),
    )  # fmt: skip


def test_a_variable_font_is_drawn_at_its_place_on_the_axes(tmp_path: Path) -> None:
    font = box_face(tmp_path / "wide.ttf", {"A": (0, 0, 400, 800)}, wider=400)
    found = {
        axes: drawn("A", dataclasses.replace(font, axes=axes), lettering)[1]
        for axes in ((100.0,), (150.0,), (200.0,))
        for lettering in (PLAIN, Lettering(baseline_jitter=1e-6))
    }
    assert found == {
        (100.0,): pytest.approx(0.5, rel=0.05), (150.0,): pytest.approx(0.75, rel=0.05),
        (200.0,): pytest.approx(1.0, rel=0.05),
    }  # fmt: skip
    assert drawn("A", font)[1] == pytest.approx(0.5, rel=0.05)


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without raqm")
@pytest.mark.parametrize("text", ["אבג", "ab אב", "(אב) [a]", "אב (ab) 12", "12 ab, גב:1", "ab12"])
def test_lines_from_right_to_left_are_drawn_in_the_order_of_the_image(text: str, tmp_path: Path) -> None:
    boxes = {c: (50, 0, 450, 100 + 100 * n) for n, c in enumerate(sorted(set(text)))}
    ink, _ = drawn(text, box_face(tmp_path / "boxes.ttf", boxes), width=45 * len(text) + 2 * MASK_MARGIN)
    heights = (ink > 127).sum(axis=0)
    middles = (np.arange(len(text)) * 500 + 200) * ink.shape[1] // (500 * len(text) - 100)
    tallest = max(boxes[c][3] for c in text)
    seen = heights[middles] * tallest / ink.shape[0]
    assert seen == pytest.approx([boxes[c][3] for c in reorder(text)], abs=45)

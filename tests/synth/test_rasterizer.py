"""Texts drawn with faces: the ink fills its cell, its proportions are kept, letters are set as asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables.TupleVariation import TupleVariation
from PIL import Image, ImageFont, features

from crnn.config.synth import FaceConfig, LookConfig
from crnn.errors import ConfigError, DataError
from crnn.synth import rasterizer as glyphs
from crnn.synth.fonts import Face, FaceSet, find_faces, system_folders
from crnn.synth.rasterizer import CELL_HEIGHT, CELL_MARGIN, Lettering, cell_width, draw_cell, needs_shaping

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,-"
WIDTH = 132
PLAIN = Lettering()


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    return find_faces(FaceConfig(), LETTERS, workers=0, quiet=True)


@pytest.fixture(scope="module")
def face(faces: FaceSet) -> Face:
    return next(f for f in faces.faces if (f.family, f.style) == ("Open Sans", "Regular"))


def drawn(
    text: str, face: Face, lettering: Lettering = PLAIN, width: int = WIDTH, seed: int = 0
) -> tuple[np.ndarray, float]:
    """What ``draw_cell`` gives, its margins cut off."""
    found = draw_cell(text, face, lettering, width, np.random.default_rng(seed))
    assert found is not None
    cell, ratio = found
    assert (cell.shape, cell.dtype) == ((CELL_HEIGHT, width), np.uint8)
    ink = cell[CELL_MARGIN:-CELL_MARGIN, CELL_MARGIN:-CELL_MARGIN]
    assert ink.sum() == cell.sum()
    return ink, ratio


def ink_of(text: str, face: Face, size: int = 400) -> Image.Image:
    """The ink alone, drawn large with Pillow."""
    font = ImageFont.truetype(face.path, size, index=face.index)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (right - left + 40, bottom - top + 40))
    glyphs.ImageDraw.Draw(picture).text((20 - left, 20 - top), text, fill=255, font=font)
    box = picture.getbbox()
    assert box is not None
    return picture.crop(box)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


# ---- the cell


@pytest.mark.parametrize("text", ["Word", "i", "MMMMMMMMMMMMMMMM", "gyp", "x", "1,234.50", "two words", "j.j"])
def test_ink_fills_its_cell_and_is_that_of_the_face(faces: FaceSet, text: str) -> None:
    for face in faces.faces:
        ink, ratio = drawn(text, face)
        expected = ink_of(text, face)
        # What FreeType rounds to whole pixels at 32 to 108 pixels an em, and the faintest pixel at each edge.
        assert ratio == pytest.approx(expected.width / expected.height, rel=0.2), face.family
        assert likeness(ink, np.asarray(expected.resize(ink.shape[::-1], Image.Resampling.BOX))) > 0.8, face.family
        for edge in (ink[:2], ink[-2:], ink[:, :8], ink[:, -8:]):
            assert edge.max() > 20, face.family


def test_a_wide_cell_shows_the_same(face: Face) -> None:
    narrow, ratio = drawn("Breite", face)
    wide, same = drawn("Breite", face, width=260)
    assert ratio == same
    shrunk = Image.fromarray(wide).resize(narrow.shape[::-1], Image.Resampling.BOX)
    assert likeness(narrow, np.asarray(shrunk)) > 0.98


@pytest.mark.parametrize("image_width", [16, 64, 90, 100, 128, 160, 512])
def test_a_cell_is_a_quarter_wider_than_a_picture(image_width: int) -> None:
    width = cell_width(image_width)
    assert width % 4 == 0
    assert -1 < width - 2 * CELL_MARGIN - 1.25 * image_width < 4


@pytest.mark.parametrize("text", [" ", "   "])
def test_without_ink_there_is_no_cell(face: Face, text: str) -> None:
    for lettering in (PLAIN, Lettering(tracking=0.3), Lettering(underline=0.05)):
        assert draw_cell(text, face, lettering, WIDTH, np.random.default_rng(0)) is None


@pytest.mark.parametrize("lettering", [PLAIN, Lettering(tracking=0.1)])
def test_what_is_too_large_to_draw_is_left_out(face: Face, lettering: Lettering) -> None:
    assert draw_cell("W" * 2000, face, lettering, WIDTH, np.random.default_rng(0)) is None


def test_a_letter_far_from_its_place_is_drawn_whole(tmp_path: Path) -> None:
    """Faces may draw anywhere; what is outside of the usual room is measured and drawn again."""
    face = box_face(tmp_path / "far.ttf", {"A": (-900, -1500, -300, 2600), "B": (1400, 0, 3000, 100)})
    for letter, expected in (("A", 600 / 4100), ("B", 1600 / 100)):
        ink, ratio = drawn(letter, face)
        assert ratio == pytest.approx(expected, rel=0.2)
        assert ink[2:-2, 2:-2].min() > 100
    for lettering in (PLAIN, Lettering(baseline_jitter=1e-6)):
        _, ratio = drawn("AB", face, lettering)
        assert ratio == pytest.approx((900 + 500 + 3000) / 4100, rel=0.05)


# ---- how letters are set


def test_tracking_widens_by_what_is_set(face: Face) -> None:
    for text in ("Track", "MM", "a long line"):
        in_ems = 1.0 / (ink_of(text, face).height / 400)
        _, plain = drawn(text, face)
        for tracking in (0.1, 0.5, 1.5):
            ink, wide = drawn(text, face, Lettering(tracking=tracking))
            assert wide - plain == pytest.approx(tracking * (len(text) - 1) * in_ems, rel=0.1)
        assert (ink.max(axis=0) == 0).sum() > 10
        _, tight = drawn(text, face, Lettering(tracking=-0.07))
        assert tight < plain


def test_a_letter_alone_is_not_tracked(face: Face) -> None:
    assert drawn("K", face, Lettering(tracking=1.0))[1] == pytest.approx(drawn("K", face)[1], rel=0.05)


def test_letters_are_shaken_by_the_generator(face: Face) -> None:
    level = drawn("HHHHHH", face)[0]
    for lettering in (Lettering(kerning_jitter=0.1), Lettering(baseline_jitter=0.1)):
        one, same, other = (drawn("HHHHHH", face, lettering, seed=seed)[0] for seed in (1, 1, 2))
        assert (one == same).all()
        assert likeness(one, other) < 0.99
        assert likeness(one, level) < 0.99
    up_and_down = drawn("HHHHHH", face, Lettering(baseline_jitter=0.1))[0]
    tops = (up_and_down > 128).argmax(axis=0)[up_and_down.max(axis=0) > 128]
    assert tops.max() - tops.min() >= 2
    across = drawn("HHHHHH", face, Lettering(kerning_jitter=0.1))[0]
    assert np.ptp((across > 128).argmax(axis=0)[across.max(axis=0) > 128]) <= np.ptp((level > 128).argmax(axis=0)) + 1


@pytest.mark.parametrize("length", [3, 6, 12])
def test_small_capitals_are_smaller_at_any_length(face: Face, length: int) -> None:
    ink, _ = drawn("H" + "h" * length, face, Lettering(small_caps=True))
    filled = ink > 128
    columns = np.flatnonzero(filled.any(axis=0))
    tops = filled.argmax(axis=0)
    assert tops[columns[0]] <= 1
    assert tops[columns[-1]] == pytest.approx(0.25 * ink.shape[0], abs=2)
    assert filled[-2:, columns[-1]].any()
    # They are capitals: without the first letter it is the word in capitals.
    assert likeness(drawn("hexe", face, Lettering(small_caps=True))[0], drawn("HEXE", face)[0]) > 0.95


def test_small_capitals_are_those_that_the_face_has(face: Face) -> None:
    poor = dataclasses.replace(face, characters=frozenset("Habc"))
    one, other = (drawn("Habc", poor, Lettering(small_caps=small, tracking=0.01))[0] for small in (True, False))
    assert (one == other).all()
    assert drawn("Straße", face, Lettering(small_caps=True))[1] > 1.0  # one capital of two letters: left as it is


def test_underlined_text_has_a_line_below_its_letters(face: Face) -> None:
    for text in ("Line", "gyp"):
        ink, ratio = drawn(text, face, Lettering(underline=0.08))
        plain_ratio = drawn(text, face)[1]
        assert ratio < plain_ratio
        assert ink[-1].min() > 200
        height = plain_ratio and ratio / plain_ratio
        # Between the letters and the line there is a gap.
        rows = ink.max(axis=1)
        below = rows[int(height * len(rows)) - 1 :]
        assert below.min() < 128
        assert (ink.min(axis=1) > 128).sum() <= 0.25 * len(rows)


def test_lettering_is_as_often_and_as_strong_as_the_settings_say() -> None:
    look = LookConfig()
    rng = np.random.default_rng(1)
    some = [Lettering.draw(rng, look) for _ in range(4000)]
    wide = np.array([s.tracking for s in some])
    assert (wide > 0.0).mean() == pytest.approx(look.tracking_share, abs=0.03)
    assert wide.max() <= look.tracking
    assert (wide < 0.0).mean() == pytest.approx(look.tight_share, abs=0.015)
    assert wide.min() >= -0.07
    for values, share in (
        ([s.kerning_jitter for s in some], look.letter_jitter_share),
        ([s.baseline_jitter for s in some], look.letter_jitter_share),
        ([s.small_caps for s in some], look.small_caps_share),
        ([s.underline for s in some], look.underline_share),
    ):
        assert np.mean(np.array(values) != 0.0) == pytest.approx(share, abs=0.015)


def test_settings_do_not_change_what_else_is_drawn() -> None:
    shares = {f"{n}_share": 1.0 for n in ("tracking", "tight", "letter_jitter", "small_caps", "underline")}
    none = LookConfig(**dict.fromkeys(shares, 0.0))
    for name in shares:
        for seed in range(5):
            one, other = np.random.default_rng(seed), np.random.default_rng(seed)
            assert Lettering.draw(one, none) == PLAIN
            assert Lettering.draw(other, LookConfig(**{**dict.fromkeys(shares, 0.0), name: 1.0})) != PLAIN
            assert one.random() == other.random()


# ---- scripts


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


def system_face(characters: str) -> Face:
    """A face of the system with these characters; there need not be any."""
    names = ("dejavusans.ttf", "notosansarabic-regular.ttf", "notosansdevanagari-regular.ttf", "arial.ttf")
    for folder in system_folders():
        for path in sorted(p for p in folder.rglob("*.ttf") if p.name.lower() in names):
            try:
                found = find_faces(
                    FaceConfig(folders=(str(path),), min_readable=0.0), characters, workers=0, quiet=True
                )
            except DataError:
                continue
            if found.faces[0].characters >= set(characters):
                return found.faces[0]
    pytest.skip(f"no face of this system has {characters!r}")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without raqm")
def test_arabic_letters_join() -> None:
    face = system_face("بيت")
    joined, ratio = drawn("بيت", face)
    apart = sum(drawn(letter, face)[1] for letter in "بيت")
    assert ratio < 0.8 * apart
    assert joined.max(axis=0).min() > 60  # no column without ink
    # Right to left: the first letter is at the right end.
    backwards, _ = drawn("تيب", face)
    assert likeness(joined, backwards) < 0.9
    # Letters that join cannot be set apart.
    tracked, same = drawn("بيت", face, Lettering(tracking=0.5, small_caps=True, baseline_jitter=0.2))
    assert ratio == same
    assert (tracked == joined).all()


def test_a_script_that_cannot_be_shaped_is_refused(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(ConfigError, match=r"'سلام' is of a script whose letters join or move.*without raqm") as caught:
        draw_cell("سلام", face, PLAIN, WIDTH, np.random.default_rng(0))
    assert "\n" not in str(caught.value)
    assert draw_cell("latin", face, PLAIN, WIDTH, np.random.default_rng(0)) is not None


# ---- files


def box_face(path: Path, boxes: dict[str, tuple[int, int, int, int]], wider: int = 0) -> Face:
    """A face of 1000 units whose letters are boxes (left, bottom, right, top), each 500 wide.

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
    builder.setupPost()
    if wider:
        builder.setupFvar(axes=[("wdth", 100, 100, 200, "Width")], instances=[])
        moves = [(0, 0), (0, 0), (wider, 0), (wider, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
        builder.setupGvar({name: [TupleVariation({"wdth": (0.0, 1.0, 1.0)}, moves)] for name in boxes})
    builder.save(path)
    return Face(
        path=str(path), index=0, axes=(), family="Boxes", style="Regular", weight=400, italic=False, one_case=False,
        cap_height=0.7, characters=frozenset(boxes),
    )  # fmt: skip


def test_a_variable_font_is_drawn_at_its_place_on_the_axes(tmp_path: Path) -> None:
    face = box_face(tmp_path / "wide.ttf", {"A": (0, 0, 400, 800)}, wider=400)
    found = {
        axes: drawn("A", dataclasses.replace(face, axes=axes), lettering)[1]
        for axes in ((100.0,), (150.0,), (200.0,))
        for lettering in (PLAIN, Lettering(baseline_jitter=1e-6))
    }
    assert found == {
        (100.0,): pytest.approx(0.5, rel=0.05), (150.0,): pytest.approx(0.75, rel=0.05),
        (200.0,): pytest.approx(1.0, rel=0.05),
    }  # fmt: skip
    assert drawn("A", face)[1] == pytest.approx(0.5, rel=0.05)

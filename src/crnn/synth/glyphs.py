"""A text in a face -> its coverage mask, the one thing of a picture that is drawn with FreeType.

All masks have one size: the ink of the text, whatever its shape, is stretched over a cell, and its true width over
height is kept beside it. Everything that comes after is a lookup in that cell.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, features

from crnn.errors import ConfigError
from crnn.synth.fonts import Face
from crnn.synth.settings import LookConfig

__all__ = ["CELL_HEIGHT", "CELL_MARGIN", "Lettering", "cell_width", "draw_cell", "needs_shaping"]

CELL_HEIGHT = 40
"""Rows of a cell: a quarter more than the 32 of a picture, so that text stays sharp when it is warped."""

CELL_MARGIN = 2
"""Empty rows and columns around the ink of a cell, so that its outline ends softly."""

_SIZES = (32, 48, 72, 108, 160)
"""Sizes in pixels in which faces are opened; few, as every face is kept open in each size that was needed."""

_SCRIPTS_SHAPED = ("AL", "R", "AN")
"""Bidirectional classes whose letters join or run from the right."""


@dataclass(frozen=True, slots=True)
class Lettering:
    """How a text is set, beyond its face.

    Attributes:
        tracking: Space added between letters, in em; below 0 moves them together.
        kerning_jitter: Standard deviation of a random change of each space, in em.
        baseline_jitter: Standard deviation of a random move of each letter up or down, in em.
        small_caps: Lower-case letters are drawn as smaller capitals.
        underline: Thickness of a line below the text in em; 0 draws none.
    """

    tracking: float = 0.0
    kerning_jitter: float = 0.0
    baseline_jitter: float = 0.0
    small_caps: bool = False
    underline: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, look: LookConfig) -> Lettering:
        """A random one; the same number of random numbers is taken whatever the settings are."""
        chance = rng.random(5)
        tracking = look.tracking * float(rng.beta(2.0, 5.0)) if chance[0] < look.tracking_share else 0.0
        if chance[0] > 1.0 - look.tight_share:
            tracking = -0.07 * float(rng.random())
        return cls(
            tracking=tracking,
            kerning_jitter=look.letter_jitter if chance[1] < look.letter_jitter_share else 0.0,
            baseline_jitter=look.letter_jitter if chance[2] < look.letter_jitter_share else 0.0,
            small_caps=bool(chance[3] < look.small_caps_share),
            underline=float(rng.uniform(0.03, 0.1)) if chance[4] < look.underline_share else 0.0,
        )

    @property
    def plain(self) -> bool:
        """Whether the face alone decides where letters go."""
        return not (self.tracking or self.kerning_jitter or self.baseline_jitter or self.small_caps)


def cell_width(image_width: int) -> int:
    """Columns of a cell for pictures of ``image_width`` pixels: a quarter more, in steps of 4."""
    return -(-(image_width * 5 // 4) // 4) * 4 + 2 * CELL_MARGIN


@functools.lru_cache(maxsize=4096)
def needs_shaping(text: str) -> bool:
    """Whether letters change or move with their neighbours, so that they must be drawn together."""
    return any(
        unicodedata.bidirectional(c) in _SCRIPTS_SHAPED
        or unicodedata.category(c) in ("Mn", "Mc", "Me")
        or "\u0900" <= c <= "\u109f"  # Indic scripts, Thai, Lao, Tibetan, Burmese: vowels before their consonant
        or "\u1780" <= c <= "\u17ff"  # Khmer
        for c in text
    )


def draw_cell(
    text: str, face: Face, lettering: Lettering, width: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], float] | None:
    """The ink of a text, stretched over a cell.

    Args:
        text: What to draw; the face has all its characters.
        face: With what.
        lettering: How it is set; letters of scripts that need shaping stay where the face puts them.
        width: Columns of the cell.
        rng: For the jitter of letters.

    Returns:
        The cell, ``(CELL_HEIGHT, width)`` uint8, 255 where there is ink, with ``CELL_MARGIN`` empty pixels around; and
        width over height of the ink as it was drawn. ``None`` where there is no ink.

    Raises:
        ConfigError: The text needs shaping and Pillow was built without raqm.
    """
    shaped = needs_shaping(text)
    if shaped and not features.check("raqm"):
        raise ConfigError(
            f"{text!r} is of a script whose letters join or move, and this Pillow cannot shape it (built without "
            "raqm); install Pillow from its published wheels"
        )
    size = _size_for(_font(face, 48).getlength(text) / 48.0)
    font = _font(face, size)
    if shaped or lettering.plain:
        drawn = _draw_together(text, font)
    else:
        drawn = _draw_apart(text, face, size, lettering, rng)
    if lettering.underline and drawn is not None:
        below = max(1, round(lettering.underline * size))
        ImageDraw.Draw(drawn).rectangle((0, drawn.height - below, drawn.width, drawn.height), fill=255)
    ink = drawn.getbbox() if drawn is not None else None
    if drawn is None or ink is None:
        return None
    inner = (width - 2 * CELL_MARGIN, CELL_HEIGHT - 2 * CELL_MARGIN)
    # Bilinear in Pillow is a triangle as wide as the shrinking asks for, so nothing is aliased.
    stretched = drawn.resize(inner, Image.Resampling.BILINEAR, box=ink)
    cell = np.zeros((CELL_HEIGHT, width), dtype=np.uint8)
    cell[CELL_MARGIN:-CELL_MARGIN, CELL_MARGIN:-CELL_MARGIN] = np.asarray(stretched)
    return cell, (ink[2] - ink[0]) / (ink[3] - ink[1])


def _size_for(em_width: float) -> int:
    """A size in which the text is at least about as wide as a cell, but not much larger than it."""
    for size in reversed(_SIZES):
        if em_width * size <= 260.0:
            return size
    return _SIZES[0]


@functools.lru_cache(maxsize=2048)
def _font(face: Face, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(face.path, size, index=face.index)
    if face.axes:
        font.set_variation_by_axes(list(face.axes))
    return font


def _draw_together(text: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    left, top, right, bottom = font.getbbox(text)
    picture = _canvas(right - left, bottom - top)
    if picture is not None:
        ImageDraw.Draw(picture).text((1 - left, 1 - top), text, fill=255, font=font)
    return picture


def _draw_apart(text: str, face: Face, size: int, lettering: Lettering, rng: np.random.Generator) -> Image.Image | None:
    """Letter by letter, each at its own place."""
    large, small = _font(face, size), None
    if lettering.small_caps and any(c.islower() and c.upper() in face.characters for c in text):
        small = _font(face, _SIZES[max(0, _SIZES.index(size) - 1)])
    places: list[tuple[float, float, str, ImageFont.FreeTypeFont]] = []
    boxes = []
    x = 0.0
    jitter = rng.normal(size=(len(text), 2))
    for letter, (across, down) in zip(text, jitter, strict=True):
        font = large
        if small is not None and letter.islower() and len(letter.upper()) == 1 and letter.upper() in face.characters:
            letter, font = letter.upper(), small
        y = lettering.baseline_jitter * down * size
        left, top, right, bottom = font.getbbox(letter, anchor="ls")
        places.append((x, y, letter, font))
        boxes.append((x + left, y + top, x + right, y + bottom))
        x += font.getlength(letter) + (lettering.tracking + lettering.kerning_jitter * across) * size
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    picture = _canvas(max(b[2] for b in boxes) - left, max(b[3] for b in boxes) - top)
    if picture is not None:
        pen = ImageDraw.Draw(picture)
        for x, y, letter, font in places:
            pen.text((1 + x - left, 1 + y - top), letter, fill=255, font=font, anchor="ls")
    return picture


def _canvas(width: float, height: float) -> Image.Image | None:
    if width < 1 or height < 1 or width > 8192 or height > 2048:  # faces can claim any extent
        return None
    return Image.new("L", (int(np.ceil(width)) + 2, int(np.ceil(height)) + 2))

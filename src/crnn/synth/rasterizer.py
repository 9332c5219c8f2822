"""Set letters and rasterize texts with FreeType to coverage masks of one size.

The ink of a text is stretched over its mask; its true width over height is kept beside it.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, features

from crnn.config.synth import StyleConfig
from crnn.errors import ConfigError, DataError
from crnn.reading_order import has_right_to_left
from crnn.synth.font_check import Font

MASK_HEIGHT = 40  # Rows of a mask: a quarter more than the 32 of an image, so that text stays sharp when it is warped
MASK_MARGIN = 2  # Empty rows and columns around the ink of a mask, so that its outline ends softly

_SIZES = (32, 48, 72, 108)  # Pixels; few, as every font is kept open in each needed size
_TYPICAL_WIDTH = 0.55  # Approximate width of a letter in em, to choose the size of a text
_WIDTH = 220.0  # Approximate width of a drawn text in pixels: more than a mask, so that it is rarely enlarged
_LINE = 18  # Characters beyond which a text is drawn for a wide mask, whose height decides on the size
_LOW = frozenset("acemnorsuvwxzgpqy.,:;-_~+=* ")  # Characters lower than capitals
_DEEP = frozenset("gjpqy,;()[]{}|@$/_Q")  # Characters that reach below the line
_LOW_HEIGHT, _DEPTH = 0.74, 0.28  # Approximate height and depth of those, over the height of capitals
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"  # A word goes on behind them
_SMALL_CAPITALS = (0.68, 0.86)  # Least and largest height of small capitals over that of the first of a word
_MAX_OPEN = 1024  # Fonts, each in one size, kept open per process: 250 kB each; opening costs a fifth of drawing a word
_MAX_EXTENT = 8192  # Largest drawn extent in pixels: fonts can claim any

_Placed = tuple[float, float, str, ImageFont.FreeTypeFont]  # Start of the baseline, right and down, text, font
_Ink = tuple[Image.Image, tuple[int, int, int, int]]  # A drawn text, and the box of its ink


@dataclass(frozen=True, slots=True)
class Lettering:
    """Letter setting beyond the font."""

    tracking: float = 0.0  # Space added between letters, in em; below 0 moves them together
    kerning_jitter: float = 0.0  # Standard deviation of a random change of each space, in em
    baseline_jitter: float = 0.0  # Standard deviation of a random move of each letter up or down, in em
    small_caps: float = 0.0  # Height, over the first's, of the other letters of words in capitals; 0 draws them alike
    underline: float = 0.0  # Thickness of a line below the text in em; 0 draws none

    @classmethod
    def draw(cls, rng: np.random.Generator, style: StyleConfig) -> Lettering:
        """Draw one at random; the count of random numbers does not depend on the settings."""
        chance = rng.random(5)
        (least, largest), share = _SMALL_CAPITALS, style.small_caps_share
        wider, tighter, underline = float(rng.beta(2.0, 5.0)), float(rng.random()), float(rng.uniform(0.03, 0.1))
        tracking = style.tracking * wider if chance[0] < style.tracking_share else 0.0
        if chance[0] > 1.0 - style.tight_share:
            tracking = -0.07 * tighter
        return cls(
            tracking=tracking,
            kerning_jitter=style.letter_jitter if chance[1] < style.letter_jitter_share else 0.0,
            baseline_jitter=style.letter_jitter if chance[2] < style.letter_jitter_share else 0.0,
            small_caps=least + (largest - least) * float(chance[3]) / share if chance[3] < share else 0.0,
            underline=underline if chance[4] < style.underline_share else 0.0,
        )


def mask_width(image_width: int) -> int:
    """Return the columns of a mask for images of ``image_width`` pixels: a quarter more, in steps of 4."""
    return -(-(image_width * 5 // 4) // 4) * 4 + 2 * MASK_MARGIN


@functools.lru_cache(maxsize=4096)
def needs_shaping(text: str) -> bool:
    """Return whether letters change or move with their neighbours and so must be drawn together."""
    return has_right_to_left(text) or any(
        unicodedata.category(c) in ("Mn", "Mc", "Me")
        or "\u0900" <= c <= "\u109f"  # Indic scripts, Thai, Lao, Tibetan, Burmese: vowels before their consonant
        or "\u1780" <= c <= "\u17ff"  # Khmer
        for c in text
    )


def crop_width(text: str, font: Font, lettering: Lettering) -> float:
    """Return the approximate width in pixels of a 32 pixel high crop of a text, at least 1."""
    if text.isascii() and font.cap_height > 0.0:
        # By tables: measuring a line takes as long as drawing it.
        advances = _ascii_advances(font)
        width = sum([advances[ord(c) - 32] for c in text])
        tall = any(c not in _LOW for c in text)
        height = font.cap_height * ((1.0 if tall else _LOW_HEIGHT) + (_DEPTH if any(c in _DEEP for c in text) else 0.0))
    else:
        left, top, right, bottom = _freetype(font, _SIZES[0]).getbbox(text, anchor="ls")
        width, height = (right - left) / _SIZES[0], max(bottom - top, 1.0) / _SIZES[0]
    ratio = (width + lettering.tracking * (len(text) - 1)) / height
    return max(32.0 * (ratio + 0.2) / 1.2, 1.0)  # margins of a tenth of the height


@functools.lru_cache(maxsize=4096)
def _ascii_advances(font: Font) -> tuple[float, ...]:
    """Return the widths in em from the space to the tilde; missing characters have the width of the font's box."""
    opened = _freetype(font, _SIZES[0])
    return tuple(opened.getlength(chr(code)) / _SIZES[0] for code in range(32, 127))


def render_mask(
    text: str, font: Font, lettering: Lettering, width: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], float] | None:
    """Return the ink of a text, stretched over a mask ``(MASK_HEIGHT, width)`` uint8, and the ink's width over height.

    ``None`` where there is no ink. ``lettering`` is for unshaped scripts.
    """
    shaped = needs_shaping(text)
    if shaped and not features.check("raqm"):
        raise ConfigError(
            f"{text!r} is of a script that this Pillow cannot shape (no raqm); install its published wheels"
        )
    size = _size_for(len(text))
    if not text.isupper():  # beside lower-case letters smaller capitals would look like them
        lettering = replace(lettering, small_caps=0.0)
    if shaped or Lettering(underline=lettering.underline) == lettering:  # the font alone places the letters
        found = _draw([(0.0, 0.0, text, _freetype(font, size))])
    else:
        found = _draw(_letters(text, font, size, lettering, rng))
    if found is None:
        return None
    drawn, ink = found
    if lettering.underline:
        drawn = _underlined(drawn.crop(ink), size, lettering.underline)
        ink = (0, 0, *drawn.size)
    inner = (width - 2 * MASK_MARGIN, MASK_HEIGHT - 2 * MASK_MARGIN)
    # Bilinear in Pillow is a triangle that widens with the shrinking, so nothing is aliased.
    stretched = drawn.resize(inner, Image.Resampling.BILINEAR, box=ink)
    return np.pad(np.asarray(stretched), MASK_MARGIN), (ink[2] - ink[0]) / (ink[3] - ink[1])


def _underlined(ink: Image.Image, size: int, thickness: float) -> Image.Image:
    width, height = ink.size
    bottom = height + max(1, round(0.05 * size)) + max(1, round(thickness * size))
    image = ink.crop((0, 0, width, bottom))
    ImageDraw.Draw(image).rectangle((0, bottom - max(1, round(thickness * size)), width, bottom), fill=255)
    return image


def _size_for(length: int) -> int:
    """Return a size in which a text is about as wide as a mask, or a little wider."""
    if length > _LINE:
        return _SIZES[1]
    wanted = _WIDTH / (_TYPICAL_WIDTH * max(length, 1))
    return max((size for size in _SIZES if size <= wanted), default=_SIZES[0])


@functools.lru_cache(maxsize=_MAX_OPEN)
def _freetype(font: Font, size: int) -> ImageFont.FreeTypeFont:
    try:
        opened = ImageFont.truetype(font.path, size, index=font.index)
        if font.axes:
            opened.set_variation_by_axes(list(font.axes))
    except OSError as error:
        raise DataError(
            f"{font.path}: is gone, or another file than at the start ({error}); leave the folders of fonts as they "
            "are while text is rendered, and start again"
        ) from error
    return opened


@functools.lru_cache(maxsize=65_536)
def _advance(font: Font, size: int, letter: str) -> float:
    return _freetype(font, size).getlength(letter)


def _letters(text: str, font: Font, size: int, lettering: Lettering, rng: np.random.Generator) -> list[_Placed]:
    """Place the letters one by one."""
    small = round(lettering.small_caps * size) or size
    placed = []
    x = 0.0
    jitter = rng.normal(size=(len(text), 2)).tolist()
    for before, letter, (across, down) in zip(" " + text, text, jitter, strict=False):
        own_size = small if letter.isupper() and (before.isupper() or before in _APOSTROPHES) else size
        placed.append((x, lettering.baseline_jitter * down * size, letter, _freetype(font, own_size)))
        x += _advance(font, own_size, letter) + (lettering.tracking + lettering.kerning_jitter * across) * size
    return placed


def _draw(placed: list[_Placed]) -> _Ink | None:
    """Draw texts at their places; measure, as slow as drawing, only where ink reaches the edge of the usual canvas."""
    size = max(opened.size for *_, opened in placed)
    last = placed[-1]
    end = last[0] + last[3].getlength(last[2], direction=_direction(last[2])) + 0.5 * size
    found = _on_canvas(placed, -0.5 * size, -1.35 * size, end, 0.65 * size)
    if found is not None:
        drawn, (left, top, right, bottom) = found
        if left > 0 and top > 0 and right < drawn.width and bottom < drawn.height:
            return found
    boxes = [(x, y, opened.getbbox(text, direction=_direction(text), anchor="ls")) for x, y, text, opened in placed]
    return _on_canvas(
        placed,
        min(x + box[0] for x, _, box in boxes) - 1,
        min(y + box[1] for _, y, box in boxes) - 1,
        max(x + box[2] for x, _, box in boxes) + 1,
        max(y + box[3] for _, y, box in boxes) + 1,
    )


def _direction(text: str) -> str | None:
    """Return the direction of the line, which by default is that of its first letter."""
    return "rtl" if has_right_to_left(text) else None


def _on_canvas(placed: list[_Placed], left: float, top: float, right: float, bottom: float) -> _Ink | None:
    """Draw on a canvas of this extent; ``None`` where it is too large, or there is no ink."""
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    if not (1 <= width <= _MAX_EXTENT and 1 <= height <= _MAX_EXTENT):
        return None
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for x, y, text, opened in placed:
        pen.text((x - left, y - top), text, fill=255, font=opened, anchor="ls", direction=_direction(text))
    ink = image.getbbox()
    return None if ink is None else (image, ink)

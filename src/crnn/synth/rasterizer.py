"""Rasterize texts with FreeType to coverage masks of one size, and draw words by number.

The ink of a text is stretched over its mask; its true width over height is kept beside it.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, features

from crnn.charset import Charset, min_time_steps
from crnn.config.model import time_steps
from crnn.config.synth import StyleConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.corpus import Corpus, Text
from crnn.synth.font_check import Font
from crnn.synth.fonts import FontSet
from crnn.synth.widths import CLASS_BITS, WidthClass

MASK_HEIGHT = 40  # Rows of a mask: a quarter more than the 32 of an image, so that text stays sharp when it is warped
MASK_MARGIN = 2  # Empty rows and columns around the ink of a mask, so that its outline ends softly

_SIZES = (32, 48, 72, 108)  # Pixels; few, as every font is kept open in each needed size

_TYPICAL_WIDTH = 0.55  # Approximate width of a letter in em, to choose the size of a text

_WIDTH = 220.0  # Approximate width of a drawn text in pixels: more than a mask, so that it is rarely enlarged

_LINE = 18  # Characters beyond which a text is drawn for a wide cell, whose height decides on the size

# Characters lower than capitals, and characters that reach below the line
_LOW, _DEEP = frozenset("acemnorsuvwxzgpqy.,:;-_~+=* "), frozenset("gjpqy,;()[]{}|@$/_Q")

_LOW_HEIGHT, _DEPTH = 0.74, 0.28  # Approximate height and depth of those, over the height of capitals

_SMALL_CAPITALS = 0.75  # Height of small capitals over that of the others

_MAX_OPEN = 1024  # Fonts, each in one size, kept open per process: 250 kB each; opening costs a fifth of drawing a word

_MAX_EXTENT = 8192  # Largest drawn extent in pixels: fonts can claim any
_SCRIPTS_SHAPED = ("AL", "R", "AN")  # Bidirectional classes whose letters join or run from the right


# Start of a text's baseline, right and down, the text, and its font
_Placed = tuple[float, float, str, ImageFont.FreeTypeFont]


@dataclass(frozen=True, slots=True)
class Lettering:
    """Letter setting beyond the font."""

    tracking: float = 0.0  # Space added between letters, in em; below 0 moves them together
    kerning_jitter: float = 0.0  # Standard deviation of a random change of each space, in em
    baseline_jitter: float = 0.0  # Standard deviation of a random move of each letter up or down, in em
    small_caps: bool = False  # Lower-case letters are drawn as smaller capitals
    underline: float = 0.0  # Thickness of a line below the text in em; 0 draws none

    @classmethod
    def draw(cls, rng: np.random.Generator, style: StyleConfig) -> Lettering:
        """Draw one at random; the count of random numbers does not depend on the settings."""
        chance = rng.random(5)
        wider, tighter, underline = float(rng.beta(2.0, 5.0)), float(rng.random()), float(rng.uniform(0.03, 0.1))
        tracking = style.tracking * wider if chance[0] < style.tracking_share else 0.0
        if chance[0] > 1.0 - style.tight_share:
            tracking = -0.07 * tighter
        return cls(
            tracking=tracking,
            kerning_jitter=style.letter_jitter if chance[1] < style.letter_jitter_share else 0.0,
            baseline_jitter=style.letter_jitter if chance[2] < style.letter_jitter_share else 0.0,
            small_caps=bool(chance[3] < style.small_caps_share),
            underline=underline if chance[4] < style.underline_share else 0.0,
        )

    @property
    def plain(self) -> bool:
        """True if the font alone places the letters."""
        return not (self.tracking or self.kerning_jitter or self.baseline_jitter or self.small_caps)


def mask_width(image_width: int) -> int:
    """Return the columns of a mask for images of ``image_width`` pixels: a quarter more, in steps of 4."""
    return -(-(image_width * 5 // 4) // 4) * 4 + 2 * MASK_MARGIN


@functools.lru_cache(maxsize=4096)
def needs_shaping(text: str) -> bool:
    """Return whether letters change or move with their neighbours and so must be drawn together."""
    return any(
        unicodedata.bidirectional(c) in _SCRIPTS_SHAPED
        or unicodedata.category(c) in ("Mn", "Mc", "Me")
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
    """Render the ink of a text, stretched over a mask.

    Args:
        text: The font has all its characters.
        font: To draw with.
        lettering: Ignored in scripts that need shaping.
        width: Columns of the mask.
        rng: For the jitter of letters.

    Returns:
        ``(MASK_HEIGHT, width)`` uint8, 255 at full ink, with a margin of ``MASK_MARGIN``, and width over height of the
        ink. ``None`` where there is no ink.

    Raises:
        ConfigError: The text needs shaping and Pillow was built without raqm.
    """
    shaped = needs_shaping(text)
    if shaped and not features.check("raqm"):
        raise ConfigError(
            f"{text!r} is of a script whose letters join or move, and this Pillow cannot shape it (built without "
            "raqm); install Pillow from its published wheels"
        )
    size = _size_for(len(text))
    if shaped or lettering.plain:
        drawn = _draw([(0.0, 0.0, text, _freetype(font, size))])
    else:
        drawn = _draw(_letters(text, font, size, lettering, rng))
    ink = drawn.getbbox() if drawn is not None else None
    if drawn is None or ink is None:
        return None
    if lettering.underline:
        drawn = _underlined(drawn.crop(ink), size, lettering.underline)
        ink = (0, 0, *drawn.size)
    inner = (width - 2 * MASK_MARGIN, MASK_HEIGHT - 2 * MASK_MARGIN)
    # Bilinear in Pillow is a triangle that widens with the shrinking, so nothing is aliased.
    stretched = drawn.resize(inner, Image.Resampling.BILINEAR, box=ink)
    mask = np.zeros((MASK_HEIGHT, width), dtype=np.uint8)
    mask[MASK_MARGIN:-MASK_MARGIN, MASK_MARGIN:-MASK_MARGIN] = np.asarray(stretched)
    return mask, (ink[2] - ink[0]) / (ink[3] - ink[1])


def _underlined(ink: Image.Image, size: int, thickness: float) -> Image.Image:
    width, height = ink.size
    bottom = height + max(1, round(0.05 * size)) + max(1, round(thickness * size))
    image = ink.crop((0, 0, width, bottom))
    ImageDraw.Draw(image).rectangle((0, bottom - max(1, round(thickness * size)), width, bottom), fill=255)
    return image


def _size_for(length: int) -> int:
    """Return a size in which a text of ``length`` characters is about as wide as a mask, or a little wider."""
    if length > _LINE:
        return _SIZES[1]
    wanted = _WIDTH / (_TYPICAL_WIDTH * max(length, 1))
    return max((size for size in _SIZES if size <= wanted), default=_SIZES[0])


@functools.lru_cache(maxsize=_MAX_OPEN)
def _freetype(font: Font, size: int) -> ImageFont.FreeTypeFont:
    opened = ImageFont.truetype(font.path, size, index=font.index)
    if font.axes:
        opened.set_variation_by_axes(list(font.axes))
    return opened


@functools.lru_cache(maxsize=65_536)
def _advance(font: Font, size: int, letter: str) -> float:
    return _freetype(font, size).getlength(letter)


def _letters(text: str, font: Font, size: int, lettering: Lettering, rng: np.random.Generator) -> list[_Placed]:
    """Place the letters one by one."""
    small = None
    if lettering.small_caps and any(c.islower() and c.upper() in font.characters for c in text):
        small = round(_SMALL_CAPITALS * size)
    placed = []
    x = 0.0
    jitter = rng.normal(size=(len(text), 2)).tolist()
    for letter, (across, down) in zip(text, jitter, strict=True):
        drawn, own_size = letter, size
        if small is not None and letter.islower() and len(letter.upper()) == 1 and letter.upper() in font.characters:
            drawn, own_size = letter.upper(), small
        placed.append((x, lettering.baseline_jitter * down * size, drawn, _freetype(font, own_size)))
        x += _advance(font, own_size, drawn) + (lettering.tracking + lettering.kerning_jitter * across) * size
    return placed


def _draw(placed: list[_Placed]) -> Image.Image | None:
    """Draw texts at their places; measure, as slow as drawing, only where ink reaches the edge of the usual canvas."""
    size = max(opened.size for *_, opened in placed)
    last = placed[-1]
    left, right = -0.5 * size, last[0] + last[3].getlength(last[2]) + 0.5 * size
    drawn = _on_canvas(placed, left, -1.35 * size, right, 0.65 * size)
    ink = drawn.getbbox() if drawn is not None else None
    if drawn is not None and ink is not None and not _at_edge(ink, drawn.size):
        return drawn
    boxes = [(x, y, opened.getbbox(text, anchor="ls")) for x, y, text, opened in placed]
    return _on_canvas(
        placed,
        min(x + box[0] for x, _, box in boxes) - 1,
        min(y + box[1] for _, y, box in boxes) - 1,
        max(x + box[2] for x, _, box in boxes) + 1,
        max(y + box[3] for _, y, box in boxes) + 1,
    )


def _on_canvas(placed: list[_Placed], left: float, top: float, right: float, bottom: float) -> Image.Image | None:
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    if not (1 <= width <= _MAX_EXTENT and 1 <= height <= _MAX_EXTENT):
        return None
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for x, y, text, opened in placed:
        pen.text((x - left, y - top), text, fill=255, font=opened, anchor="ls")
    return image


def _at_edge(ink: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    return ink[0] == 0 or ink[1] == 0 or ink[2] == size[0] or ink[3] == size[1]


Numbers = npt.NDArray[np.int64]

_WORD = 3  # First word of the seeds of drawn words, apart from those of ``crnn.data``
_MAX_TRIES = 50  # Texts that no font can write, in a row, that count as an error in the settings
_MAX_WIDTH_TRIES = 200  # Draws for a text of a wanted width before the nearest is taken

# Approximate pixels of a letter in an image 32 pixels high, and the factor, either way, beyond which fonts are too rare
# to try a text in them
_LETTER_WIDTH, _UNLIKE_WIDTH = 15.5, 1.8

# Share of the narrowest images with longer words, which lean so that they fit, and the largest factor on their width
_LEANING, _LONGEST_LEANING = 0.06, 2.8

_MAX_LEANING_TRIES = 50

_MEASURE = 4  # First word of the seeds of measured texts

_MEASURED = 3_000
_MEASURED_IN_FACES = 500


@dataclass(frozen=True, slots=True)
class Words:
    """Drawn words."""

    numbers: Numbers  # ``(n,)`` int64
    masks: npt.NDArray[np.uint8]  # ``(n, MASK_HEIGHT, Wc)`` uint8 coverage
    ratios: npt.NDArray[np.float64]  # ``(n,)`` float64 width over height of the ink
    targets: Numbers  # ``(n, S)`` int64 class ids, zero-padded
    lengths: Numbers  # ``(n,)`` int64 of the targets
    texts: tuple[str, ...]  # As drawn
    skipped: Counter[str]  # Texts that could not be drawn, by reason


class WordWriter:
    """Draw words by number; may be pickled to worker processes."""

    def __init__(
        self,
        seed: int,
        corpus: Corpus,
        fonts: FontSet,
        style: StyleConfig,
        charset: Charset,
        classes: tuple[WidthClass, ...],
        max_length: int,
    ) -> None:
        self.seed, self.corpus, self.fonts, self.style = seed, corpus, fonts, style
        self.charset, self.classes, self.max_length = charset, classes, max_length

    def shares(self) -> npt.NDArray[np.float64]:
        """Estimate the share of each class of widths among the texts of the corpus from a sample."""
        counts = np.zeros(len(self.classes))
        if len(self.classes) == 1:
            return counts + 1.0
        letters = np.empty(_MEASURED)
        widths = []
        for number in range(_MEASURED):
            rng = np.random.default_rng([self.seed, _MEASURE, number])
            text = self.corpus.draw(rng, self.fonts.characters)
            letters[number] = len(text.drawn) + 0.4
            # Measuring all in fonts would take longer than everything else at the start of a run.
            font = self._pick_font(rng, text) if number < _MEASURED_IN_FACES else None
            if font is not None:
                widths.append(crop_width(text.drawn, font, Lettering.draw(rng, self.style)) / letters[number])
        found = letters * np.random.default_rng([self.seed, _MEASURE]).choice(widths or [_LETTER_WIDTH], _MEASURED)
        ends = [kind.crops[1] for kind in self.classes]
        counts += np.bincount(np.searchsorted(ends, found, side="right"), minlength=len(ends) + 1)[:-1]
        # Rare widths are left to their neighbours: finding one would take hundreds of texts.
        counts[counts < 0.003 * _MEASURED] = 0.0
        if not counts.any():
            raise ConfigError(
                f"rendered text is {np.median(found):.0f} pixels wide at a height of 32, more than image.max_width "
                f"{self.classes[-1].high}; expected texts that fit. Raise image.max_width, or draw shorter texts"
            )
        # Too wide texts are drawn anew as texts that just fit.
        if counts[-1]:
            counts[-1] += (found >= ends[-1]).sum()
        return np.asarray(counts / counts.sum())

    def write(self, numbers: Numbers) -> Words:
        """Draw the words of these numbers, all of one class of widths."""
        count = len(numbers)
        kind = self.classes[int(numbers[0]) >> CLASS_BITS if count else 0]
        masks = np.empty((count, MASK_HEIGHT, mask_width(kind.high)), dtype=np.uint8)
        ratios = np.empty(count)
        targets = np.zeros((count, self.max_length), dtype=np.int64)
        lengths = np.empty(count, dtype=np.int64)
        texts = []
        skipped: Counter[str] = Counter()
        for row, number in enumerate(numbers):
            rng = np.random.default_rng([self.seed, _WORD, int(number)])
            masks[row], ratios[row], label, text = self._word(
                rng, skipped, self.corpus.longest(int(number) & ((1 << CLASS_BITS) - 1)), kind
            )
            ids = self.charset.encode(label)
            targets[row, : len(ids)], lengths[row] = ids, len(ids)
            texts.append(text)
        return Words(numbers, masks, ratios, targets, lengths, tuple(texts), skipped)

    def _word(
        self, rng: np.random.Generator, skipped: Counter[str], longest: int | None, kind: WidthClass
    ) -> tuple[npt.NDArray[np.uint8], float, str, str]:
        tried = []
        for _ in range(_MAX_TRIES):
            if kind.fit is None:
                text = self.corpus.draw(rng, self.fonts.characters, longest)
                font = self._pick_font(rng, text)
                lettering = Lettering.draw(rng, self.style)
            else:
                text, font, lettering = self._of_width(rng, kind, longest)
            if font is None:
                skipped["no_font"] += 1
            else:
                drawn = render_mask(text.drawn, font, lettering, mask_width(kind.high), rng)
                if drawn is not None:
                    return *drawn, text.label, text.drawn
                skipped["no_ink"] += 1
            tried.append(text.drawn)
        raise DataError(
            f"none of {_MAX_TRIES} texts in a row could be drawn, the last {tried[-1]!r}: no single font has all their "
            "characters. Give fonts for the charset in fonts.folders, or words of one script in corpus.words"
        )

    def _pick_font(self, rng: np.random.Generator, text: Text) -> Font | None:
        return self.fonts.pick(rng, text.drawn.replace(" ", ""))  # a space needs no ink

    def _of_width(
        self, rng: np.random.Generator, kind: WidthClass, longest: int | None
    ) -> tuple[Text, Font | None, Lettering]:
        """Draw a text and font whose crop belongs to a class, or the nearest of several."""
        low, high = kind.crops
        leans = kind.fit is not None and kind.fit[0] == 0.0 and rng.random() < _LEANING
        if leans:
            low, high = high, _LONGEST_LEANING * high
        best: tuple[float, Text, Font | None, Lettering] | None = None
        for number in range(_MAX_WIDTH_TRIES):
            if leans and number == _MAX_LEANING_TRIES:  # there may be no longer words
                (low, high), best = kind.crops, None
            letters = (low / _UNLIKE_WIDTH / _LETTER_WIDTH - 0.4, high * _UNLIKE_WIDTH / _LETTER_WIDTH)
            text = self.corpus.draw_sized(rng, self.fonts.characters, longest, letters)
            if text is None:
                text = self.corpus.draw(rng, self.fonts.characters, longest)
            if min_time_steps(self.charset.encode(text.label)) > time_steps(kind.low):
                continue
            font, lettering = self._pick_font(rng, text), Lettering.draw(rng, self.style)
            if font is None:
                continue
            width = crop_width(text.drawn, font, lettering)
            if low <= width < high:
                return text, font, lettering
            distance = max(low / width, width / high)
            if best is None or distance < best[0]:
                best = distance, text, font, lettering
        if best is None:
            raise DataError(
                f"no text of {_MAX_WIDTH_TRIES} in a row has a font that can write it and fits into "
                f"{kind.low} pixels. Give fonts for the charset in fonts.folders, or a smaller image.max_width"
            )
        return best[1:]

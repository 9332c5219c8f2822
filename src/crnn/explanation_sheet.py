"""The picture of an explanation: crop, probabilities over time steps, alignment, runners-up.

Everything shares one horizontal axis, that of the time steps, so that what stands under a letter is what the network
made of it. Colours: blue for the reading, orange for what it is not.
"""

from __future__ import annotations

import contextlib
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crnn.errors import ConfigError, CrnnError
from crnn.reading import Reading
from crnn.synth.settings import FaceConfig

__all__ = ["Row", "RunnerUp", "draw_sheet", "find_font"]

_MARGIN = 16
_GUTTER = 64  # left of the first step, for the names of rows
_ROW = 26
_CELLS = (14, 44)  # narrowest and widest column of a step, in pixels
_WIDEST = 1200  # of all columns together, where the narrowest allows
_CROP_HEIGHTS = (56, 160)

_INK, _QUIET, _LINE, _PAPER = (28, 30, 34), (112, 118, 128), (218, 222, 228), (255, 255, 255)
_OWN, _OTHER, _BLANK = (24, 92, 196), (206, 110, 20), (120, 126, 136)
_MARKED = (14, 60, 140)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One class over the time steps.

    Attributes:
        character: Empty for the blank.
        probabilities: ``(T,)`` in [0, 1].
        spans: Steps ``[start, end)`` that the reading's alignment gives the class.
        belongs: Whether the class is in the reading.
    """

    character: str
    probabilities: npt.NDArray[np.float64]
    spans: tuple[tuple[int, int], ...]
    belongs: bool


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A text of the list; the first is the reading."""

    text: str
    score: float
    confidence: float | None


def draw_sheet(
    pixels: npt.NDArray[np.uint8],
    width: int,
    rows: Sequence[Row],
    reading: Reading,
    texts: Sequence[RunnerUp],
    method: str,
    font_path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw an explanation.

    Args:
        pixels: ``(H, W, C)`` uint8, the crop.
        width: Of the network's picture in pixels; step t looks at those around 4 (t + 1).
        rows: The classes to show, from the top.
        reading: With the places of its characters in pixels of the crop.
        texts: The reading and the runners-up.
        method: How the reading was found.
        font_path: Face for texts of the network. Default: ``find_font``.

    Raises:
        ConfigError: The face cannot be read.
    """
    needed = {c for row in rows for c in row.character} | {c for text in texts for c in text.text}
    font = find_font(needed) if font_path is None else (os.fspath(font_path), 0)
    num_steps = len(rows[0].probabilities)
    cell = min(max(_WIDEST // max(num_steps + 1, 1), _CELLS[0]), _CELLS[1])
    # A pixel of the network's picture is a quarter of a column wide, and the axis is as long as that picture.
    axis = math.ceil(width * cell / 4)
    crop_height = round(pixels.shape[0] * axis / pixels.shape[1])
    crop_height = min(max(crop_height, _CROP_HEIGHTS[0]), _CROP_HEIGHTS[1])
    lines = 24 * len(texts) + 30
    size = (
        max(_MARGIN * 2 + _GUTTER + axis, 560),
        _MARGIN * 2 + 34 + crop_height + 52 + _ROW * len(rows) + 34 + lines,
    )
    sheet = _Sheet(Image.new("RGB", size, _PAPER), font, cell, axis)
    top = sheet.headline(reading, method)
    top = sheet.crop(pixels, crop_height, reading, top)
    top = sheet.grid(rows, top)
    sheet.list(texts, top)
    return sheet.image


def find_font(characters: Iterable[str]) -> tuple[str, int] | None:
    """A font that has these characters, of those that ship and those of the system; else the one with most of them.

    Returns:
        Its file and its number there; ``None`` for Pillow's own face, which has ASCII, and is what is left where
        fontTools is not installed or no font has any of the others.
    """
    needed = {c for c in characters if not c.isspace()}
    if all(c.isascii() for c in needed):
        return None
    from crnn.synth.fonts import find_faces

    best: tuple[int, tuple[str, int] | None] = (len(needed), None)
    for folders in ("shipped", "system"):
        if best[0] == 0:
            break
        with contextlib.suppress(CrnnError):  # no face there has one of them; no fontTools
            faces = find_faces(FaceConfig(folders=(folders,)), needed, quiet=True).faces
            ranked = [(len(needed - f.characters), f.italic, abs(f.weight - 400), f.index, f.path) for f in faces]
            missing, _, _, index, path = min(ranked)
            if missing < best[0]:
                best = (missing, (path, index))
    return best[1]


class _Sheet:
    """What is drawn on, from the top down; each part gives the height that the next one begins at."""

    def __init__(self, image: Image.Image, font: tuple[str, int] | None, cell: int, axis: int) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)
        self._cell = cell
        self._axis = axis
        self._left = _MARGIN + _GUTTER
        self._small, self._plain = ImageFont.load_default(11), ImageFont.load_default(14)
        self._text, self._large = _load(font, 16), _load(font, 22)

    def headline(self, reading: Reading, method: str) -> int:
        """The reading and how sure it is."""
        shown = _visible(reading.text) or "(nothing)"
        right = self._write((_MARGIN, _MARGIN + 10), shown, self._large, _INK, "lm")
        sure = "" if reading.confidence is None else f"   confidence {_percent(reading.confidence)}"
        facts = f"{method}   ln P = {reading.score:.3f}{sure}"
        self._write((right + 16, _MARGIN + 12), facts, self._plain, _QUIET, "lm")
        return _MARGIN + 34

    def crop(self, pixels: npt.NDArray[np.uint8], height: int, reading: Reading, top: int) -> int:
        """The crop as wide as the axis, the places of its characters, and under it the characters with their scores."""
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        self.image.paste(picture.resize((self._axis, height), Image.Resampling.BICUBIC), (self._left, top))
        scale = self._axis / pixels.shape[1]
        bottom = top + height
        for character in reading.characters:
            left, right = (round(self._left + x * scale) for x in (character.start, character.end))
            self._draw.line((left, top, left, bottom + 6), fill=_OWN)
            self._draw.line((right, top, right, bottom + 6), fill=_OWN)
            middle = (left + right) / 2
            self._write((middle, bottom + 17), _visible(character.text), self._text, _OWN, "mm")
            self._write((middle, bottom + 35), _percent(math.exp(character.score)), self._small, _QUIET, "mm")
        return bottom + 52

    def grid(self, rows: Sequence[Row], top: int) -> int:
        """Probabilities as depth of colour, numbers where they matter, frames around what the reading stands on."""
        num_steps = len(rows[0].probabilities)
        for number, row in enumerate(rows):
            upper = top + number * _ROW
            colour = _OWN if row.belongs else (_OTHER if row.character else _BLANK)
            name = _visible(row.character) if row.character else "blank"
            font = self._text if row.character else self._plain
            self._write((self._left - 12, upper + _ROW // 2), name, font, colour, "rm")
            for t, probability in enumerate(row.probabilities.tolist()):
                self._fill(t, upper, probability, colour)
            for start, end in row.spans:
                box = (self._x(start), upper, self._x(end), upper + _ROW)
                self._draw.rectangle(box, outline=_MARKED, width=2)
        bottom = top + len(rows) * _ROW
        every = max(1, math.ceil(26 / self._cell))
        for t in range(0, num_steps, every):
            self._write((self._x(t) + self._cell / 2, bottom + 9), str(t), self._small, _QUIET, "mm")
        return bottom + 34

    def list(self, texts: Sequence[RunnerUp], top: int) -> None:
        """Texts, the likeliest first, with bars as long as they are likely."""
        if not texts:
            return
        column = max(self._text.getlength(_visible(text.text) or "(nothing)") for text in texts)
        left = _MARGIN + min(int(column), self.image.width - 330) + 20
        self._write((_MARGIN, top), "text", self._small, _QUIET, "lm")
        self._write((left + 60, top), "ln P", self._small, _QUIET, "rm")
        self._write((left + 130, top), "P", self._small, _QUIET, "rm")
        if any(text.confidence is not None for text in texts):
            self._write((left + 215, top), "confidence", self._small, _QUIET, "rm")
        for number, text in enumerate(texts):
            middle = top + 22 + 24 * number
            colour = _OWN if number == 0 else _OTHER
            shown = self._fitted(_visible(text.text) or "(nothing)", left - _MARGIN - 12)
            self._write((_MARGIN, middle), shown, self._text, colour, "lm")
            self._write((left + 60, middle), f"{text.score:.3f}", self._plain, _INK, "rm")
            probability = math.exp(min(text.score, 0.0))
            self._write((left + 130, middle), _percent(probability), self._plain, _INK, "rm")
            if text.confidence is not None:
                self._write((left + 215, middle), _percent(text.confidence), self._plain, _INK, "rm")
            share = probability if text.confidence is None else text.confidence
            start = left + 232
            length = (self.image.width - _MARGIN - start) * share
            self._draw.rectangle((start, middle - 5, self.image.width - _MARGIN, middle + 5), fill=(238, 241, 245))
            if length >= 1:
                self._draw.rectangle((start, middle - 5, start + length, middle + 5), fill=colour)

    def _fill(self, step: int, upper: int, probability: float, colour: tuple[int, int, int]) -> None:
        # The square root, so that what is unlikely can still be told from what is not there.
        depth = math.sqrt(min(max(probability, 0.0), 1.0))
        shade = tuple(round(255 + (c - 255) * depth) for c in colour)
        box = (self._x(step), upper, self._x(step + 1), upper + _ROW)
        self._draw.rectangle(box, fill=shade, outline=_LINE)
        if probability >= 0.05 and self._cell >= 20:
            middle = ((box[0] + box[2]) / 2, upper + _ROW / 2)
            self._write(middle, f"{100 * probability:.0f}", self._small, "white" if depth > 0.6 else _INK, "mm")

    def _x(self, step: int) -> int:
        """Left border of the column of a step, whose middle is the pixel 4 (t + 1) of the network's picture."""
        return self._left + self._cell // 2 + step * self._cell

    def _fitted(self, text: str, width: float) -> str:
        if self._text.getlength(text) <= width:
            return text
        while text and self._text.getlength(text + "...") > width:
            text = text[:-1]
        return text + "..."

    def _write(
        self, at: tuple[float, float], text: str, font: _Font, colour: str | tuple[int, int, int], anchor: str
    ) -> float:
        """Write, and say where it ends."""
        self._draw.text(at, text, fill=colour, font=font, anchor=anchor)
        return at[0] + font.getlength(text)


def _load(font: tuple[str, int] | None, size: int) -> _Font:
    if font is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(font[0], size, index=font[1])
    except OSError as error:
        raise ConfigError(f"font {font[0]}: cannot be read ({error}); expected a TrueType or OpenType file") from error


def _visible(text: str) -> str:
    """Spaces as dots, and a circle for a combining mark at the beginning to sit on."""
    text = text.replace(" ", "\u00b7")
    return f"\u25cc{text}" if text and unicodedata.category(text[0])[0] == "M" else text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

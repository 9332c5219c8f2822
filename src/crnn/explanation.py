"""Explain a reading: probabilities over time steps, alignment of the text, and runners-up."""

import contextlib
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crnn.charset import Charset
from crnn.config.section import checked_call
from crnn.config.synth import FontConfig
from crnn.contact_sheet import load_font
from crnn.decoding.beam import beam_search
from crnn.decoding.confidence import confidences
from crnn.decoding.ctc import Alternative, DecodedText
from crnn.decoding.language_search import search_with_language
from crnn.errors import CrnnError, ImageError
from crnn.image import ImageSource, load_image
from crnn.recognizer import Reading, Recognizer

_BEAM = 20  # prefixes that runners-up are taken from

# Pixels of the drawing.
_MARGIN, _ROW = 16, 26
_LEFT = _MARGIN + 64  # of the axis; before it the names of rows

_INK, _QUIET, _LINE = (28, 30, 34), (112, 118, 128), (218, 222, 228)
_OWN, _OTHER, _BLANK, _FRAME = (24, 92, 196), (206, 110, 20), (120, 126, 136), (14, 60, 140)

_Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One class over the time steps: its character (empty for the blank), probabilities ``(T,)`` and aligned spans."""

    character: str
    probabilities: npt.NDArray[np.float64]
    spans: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A reading with the numbers behind it."""

    pixels: npt.NDArray[np.uint8]  # (H, W, 3), the upright crop
    log_probs: npt.NDArray[np.float32]  # (T, V), natural logarithms, normalized over V
    reading: Reading  # its alternatives are the runners-up
    spans: tuple[tuple[int, int], ...]  # time steps [start, end) of each character in the alignment
    charset: Charset
    method: str  # of decoding
    width: int  # of the network's input in pixels: time step t sees those around 4 (t + 1), the paper's pooling 4 t

    @checked_call
    def draw(self, font_path: str | os.PathLike[str] | None = None) -> Image.Image:
        """Draw the crop and the time steps on one horizontal axis; blue is the reading, orange anything else.

        The default font is that of ``find_font``; ``ConfigError`` if ``font_path`` is not readable.
        """
        reading, rows = self.reading, self.rows()
        texts: list[Reading | Alternative] = [reading, *reading.alternatives]
        names = [_visible(text.text) or "(nothing)" for text in texts]
        shown = "".join([*(text.text for text in texts), *(row.character for row in rows)])
        path, index = (font_path, 0) if font_path is not None else find_font(shown) or (None, 0)
        normal, large = load_font(path, 16, index), load_font(path, 22, index)
        small, plain = load_font(None, 11), load_font(None, 14)
        # A pixel of the network's input is a quarter of a column wide, and the axis is as long as that input.
        num_steps = len(self.log_probs)
        cell = min(max(1200 // (num_steps + 1), 14), 44)
        axis = math.ceil(self.width * cell / 4)
        height, width = self.pixels.shape[:2]
        crop_height = min(max(round(height * axis / width), 56), 160)
        column = max(map(normal.getlength, names)) + 20
        first = _LEFT + cell // 2 - (num_steps > self.width // 4) * cell  # the paper's pooling has a step before it
        edges = [first + t * cell for t in range(num_steps + 1)]
        sheet_width = max(max(_LEFT + axis, edges[-1]) + _MARGIN, 560, math.ceil(column) + 360)
        crop_top = _MARGIN + 34
        grid_top = crop_top + crop_height + 52
        list_top = grid_top + len(rows) * _ROW + 34
        sheet = Image.new("RGB", (sheet_width, list_top + 24 * len(texts) + _MARGIN), "white")
        draw = ImageDraw.Draw(sheet)

        # The reading.
        draw.text((_MARGIN, _MARGIN + 10), names[0], _INK, large, "lm")
        at = (_MARGIN + large.getlength(names[0]) + 16, _MARGIN + 12)
        draw.text(at, f"{self.method}   {_facts(reading)}", _QUIET, plain, "lm")

        # The crop, and the places of its characters.
        crop = Image.fromarray(self.pixels)
        sheet.paste(crop.resize((axis, crop_height), Image.Resampling.BICUBIC), (_LEFT, crop_top))
        bottom = crop_top + crop_height
        for character in reading.characters:
            left, right = (round(_LEFT + x * axis / width) for x in (character.start, character.end))
            for x in (left, right):
                draw.line((x, crop_top, x, bottom + 6), _OWN)
            middle = (left + right) / 2
            draw.text((middle, bottom + 17), _visible(character.text), _OWN, normal, "mm")
            draw.text((middle, bottom + 35), f"{math.exp(character.score):.1%}", _QUIET, small, "mm")

        # Probabilities of classes over time steps, and the alignment as frames.
        for top, row in zip(range(grid_top, list_top, _ROW), rows, strict=False):
            colour = _OWN if row.spans else _OTHER if row.character else _BLANK
            name, name_font = (_visible(row.character), normal) if row.character else ("blank", plain)
            draw.text((min(_LEFT, first) - 12, top + _ROW // 2), name, colour, name_font, "rm")
            for t, probability in enumerate(row.probabilities.tolist()):
                depth = math.sqrt(min(probability, 1.0))  # tells unlikely from absent
                shade = tuple(round(255 + (c - 255) * depth) for c in colour)
                draw.rectangle((edges[t], top, edges[t + 1], top + _ROW), shade, _LINE)
                if probability >= 0.05 and cell >= 20:
                    ink = "white" if depth > 0.6 else _INK
                    draw.text((edges[t] + cell / 2, top + _ROW / 2), f"{100 * probability:.0f}", ink, small, "mm")
            for start, end in row.spans:
                draw.rectangle((edges[start], top, edges[end], top + _ROW), outline=_FRAME, width=2)
        for t in range(0, num_steps, math.ceil(26 / cell)):
            draw.text((edges[t] + cell / 2, list_top - 25), str(t), _QUIET, small, "mm")

        for number, (text, name) in enumerate(zip(texts, names, strict=True)):
            top = list_top + 10 + 24 * number
            draw.text((_MARGIN, top), name, _OTHER if number else _OWN, normal, "lm")
            draw.text((_MARGIN + column, top), _facts(text), _INK, plain, "lm")
        return sheet

    def rows(self) -> list[Row]:
        """Return the classes of the reading in its order, other likely ones, and the blank."""
        probabilities = np.exp(self.log_probs.astype(np.float64))
        blank, peaks = self.charset.blank, probabilities.max(axis=0, initial=0.0)
        spans: dict[int, list[tuple[int, int]]] = {}
        for character, span in zip(self.reading.characters, self.spans, strict=True):
            spans.setdefault(self.charset.characters.index(character.text), []).append(span)
        likely = [k for k in np.argsort(-peaks, kind="stable").tolist() if peaks[k] >= 0.02 and k != blank]
        shown = [*spans, *[k for k in likely if k not in spans][: max(14 - len(spans), 3)]]
        rows = [Row(self.charset.decode([k]), probabilities[:, k], spans.get(k, ())) for k in shown]
        return [*rows, Row("", probabilities[:, blank])]


@checked_call
def explain(reader: Recognizer, image: ImageSource, *, runners_up: int = 5) -> Explanation:
    """Explain the reading of one image; image and errors as for ``Recognizer.read``.

    ``runners_up`` is the largest number of other texts: the reader's alternatives (``n_best``), else those of a beam
    search, with the language if the reading used it.
    """
    pixels = load_image(image, 3)
    (found,) = reader.run([pixels], lambda batch: [(batch, reader.decoder.decode(batch.log_probs)[0])])
    if isinstance(found, ImageError):
        raise found
    output, decoded = found
    reading = reader.reading(decoded, output)
    others = reading.alternatives or _runners_up(reader, output.log_probs, decoded, runners_up)
    reading = replace(reading, alternatives=tuple(others[:runners_up]))
    return Explanation(
        pixels, output.log_probs[0], reading, decoded.spans, reader.charset, reader.decoder.method, output.width
    )


def _runners_up(reader: Recognizer, log_probs: _Floats, decoded: DecodedText, count: int) -> list[Alternative]:
    """Return the likeliest texts other than the reading."""
    width, prior, most = max(_BEAM, count + 1), reader.decoder.prior, 1.0
    if prior is None or reader.decoder.pattern is not None:
        searched = [(h, math.exp(h.score)) for h in beam_search(log_probs, width)[0]]
    else:  # ranked, and as likely, as the reading itself
        ((found,),) = search_with_language([log_probs], prior, width, width)
        searched = [(h, found.probability * math.exp(h.rank - found.texts[0].rank)) for h in found.texts]
        # This searches all of the image, reading only where texts are near: it may find a likelier one.
        most = decoded.confidence
    values = confidences([probability for _, probability in searched], reader.decoder.curve).tolist()
    return [
        Alternative(reader.charset.decode(h.ids), h.score, confidence)
        for (h, _), confidence in zip(searched, values, strict=True)
        if h.ids != decoded.ids and confidence <= most
    ]


def find_font(characters: Iterable[str]) -> tuple[str, int] | None:
    """Return path and index of the shipped or system font with most of the characters, or ``None`` for Pillow's own."""
    needed = {c for c in characters if not c.isspace()}
    if all(c.isascii() for c in needed):
        return None
    from crnn.synth.fonts import find_fonts

    for folders in (("shipped",), ("shipped", "system")):
        with contextlib.suppress(CrnnError):  # no face there has one of them; no fontTools
            fonts = find_fonts(FontConfig(folders=folders), needed, quiet=True).fonts
            best = min(
                fonts, key=lambda f: (len(needed - f.characters), f.italic, abs(f.weight - 400), f.index, f.path)
            )
            if needed <= best.characters or "system" in folders:
                return best.path, best.index
    return None


def _facts(text: Reading | Alternative) -> str:
    probability = math.exp(min(text.score, 0.0))
    return f"ln P = {text.score:.3f}   P = {probability:.1%}   confidence {text.confidence:.1%}"


def _visible(text: str) -> str:
    text = text.replace(" ", "\u00b7")
    return f"\u25cc{text}" if text and unicodedata.category(text[0])[0] == "M" else text

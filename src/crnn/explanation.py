"""Why a picture is read as it is: what the network saw at each step, which characters that made, what else it may be.

``explain`` gives an ``Explanation`` with all numbers, and ``Explanation.draw`` makes one picture of it: the crop with
the places of its characters, under it the probabilities of classes over time steps with the alignment of the reading,
and the texts that come next, with their scores.

Shape letters: H height, W width, C channels of a picture; T time steps, V classes with the blank (the last one).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.charset import Charset
from crnn.decoding.beam import beam_search
from crnn.decoding.confidence import confidences
from crnn.decoding.decoder import Decoded
from crnn.decoding.language_search import search_with_language
from crnn.errors import ImageError
from crnn.explanation_sheet import Row, RunnerUp, draw_sheet
from crnn.image import ImageSource, load_image
from crnn.reading import Alternative, Reading, reading_of
from crnn.recognizer import NetworkOutput, Recognizer

__all__ = ["Explanation", "explain"]

_BEAM = 20  # prefixes that runners-up are taken from
_SHOWN_FROM = 0.02  # classes that are never this likely have no row
_MOST_ROWS = 14

_Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A reading, and what it comes from.

    Attributes:
        pixels: ``(H, W, C)`` uint8, the picture as it was given, upright, grey or in colour as the network sees it.
        log_probs: ``(T, V)`` float32, natural logarithms, normalised over V.
        reading: The reading; its ``alternatives`` are the runners-up.
        spans: For each character of the reading the time steps ``[start, end)`` that it is aligned to.
        charset: The characters of the classes.
        method: How the reading was found.
        width: Width of the network's picture in pixels: time step t looks at the pixels around 4 (t + 1).
    """

    pixels: npt.NDArray[np.uint8]
    log_probs: npt.NDArray[np.float32]
    reading: Reading
    spans: tuple[tuple[int, int], ...]
    charset: Charset
    method: str
    width: int

    def draw(self, font_path: str | os.PathLike[str] | None = None) -> Image.Image:
        """The explanation as one picture.

        Args:
            font_path: A TrueType or OpenType file. Default: one that has the characters, of those that ship and those
                of the system.

        Raises:
            ConfigError: ``font_path`` is no face that can be read.
        """
        runners = [RunnerUp(self.reading.text, self.reading.score, self.reading.confidence)]
        runners += [RunnerUp(a.text, a.score, a.confidence) for a in self.reading.alternatives]
        return draw_sheet(self.pixels, self.width, self.rows(), self.reading, runners, self.method, font_path)

    def rows(self) -> list[Row]:
        """The classes that play a part: those of the reading in its order, other likely ones, and the blank.

        Each with its probability at every step, and with the spans that the reading's alignment gives it.
        """
        probabilities = np.exp(self.log_probs.astype(np.float64))
        blank = self.charset.blank
        peaks = probabilities.max(axis=0) if len(probabilities) else np.zeros(blank + 1)
        own = list(dict.fromkeys(self.charset.encode(self.reading.text)))
        others = [k for k in np.argsort(-peaks, kind="stable").tolist() if k not in own and k != blank]
        others = [k for k in others if peaks[k] >= _SHOWN_FROM][: max(_MOST_ROWS - len(own), 3)]
        spans: dict[int, list[tuple[int, int]]] = {}
        for k, span in zip(self.charset.encode(self.reading.text), self.spans, strict=True):
            spans.setdefault(k, []).append(span)
        rows = [
            Row(self.charset.decode([k]), probabilities[:, k], tuple(spans.get(k, ())), belongs=k in spans)
            for k in (*own, *others)
        ]
        return [*rows, Row("", probabilities[:, blank], (), belongs=False)]


def explain(reader: Recognizer, image: ImageSource, *, runners_up: int = 5) -> Explanation:
    """Explain the reading of one picture.

    Args:
        reader: What reads; the reading is found in its way (``decode``, ``lexicon``, ``pattern``, ...).
        image: As for ``Recognizer.read``.
        runners_up: How many other texts to find at most: where the reader itself looks for several (``n_best``) its
            own, else those of a beam search, with the language where the reading was found with it.

    Returns:
        The reading with all that it comes from.

    Raises:
        ImageError: The picture cannot be read.
        CheckpointError: The network gives no numbers (nan).

    Example:
        ``crnn.explain(crnn.load("runs/crnn"), "word.png").draw().save("why.png")``
    """

    def keep(output: NetworkOutput) -> list[tuple[NetworkOutput, Decoded]]:
        return [(output, reader.decoder.decode(output.log_probs)[0])]

    pixels = load_image(image, reader.config.image.image_channels)
    (found,) = reader.run([pixels], keep)
    if isinstance(found, ImageError):
        raise found
    output, decoded = found
    reading = reading_of(decoded, reader.charset, output.width, output.original_sizes[0])
    others = reading.alternatives or _runners_up(reader, output.log_probs, decoded.text.ids, runners_up)
    reading = replace(reading, alternatives=others[:runners_up])
    return Explanation(
        pixels, output.log_probs[0], reading, decoded.text.spans, reader.charset, reader.decoder.method, output.width
    )


def _runners_up(reader: Recognizer, log_probs: _Floats, ids: tuple[int, ...], count: int) -> tuple[Alternative, ...]:
    """The likeliest texts but the one that was read."""
    if count < 1:
        return ()
    width, prior = max(_BEAM, count + 1), reader.decoder.prior
    if prior is None or reader.decoder.pattern is not None:
        searched = [(h, math.exp(h.score)) for h in beam_search(log_probs, width)[0]]
    else:  # ranked, and as likely, as the reading itself
        ((found,),) = search_with_language([log_probs], prior, width, count + 1)
        searched = [(h, found.probability * math.exp(h.rank - found.texts[0].rank)) for h in found.texts]
    others = [(h, probability) for h, probability in searched if h.ids != ids][:count]
    values = confidences([probability for _, probability in others], reader.decoder.curve).tolist()
    return tuple(
        Alternative(reader.charset.decode(h.ids), h.score, confidence)
        for (h, _), confidence in zip(others, values, strict=True)
    )

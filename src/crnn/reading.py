"""What a picture says, as callers get it: text, score, confidence, and where each character stands in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset
from crnn.decoding.decoder import Decoded

__all__ = ["Alternative", "Character", "Reading", "reading_of"]


@dataclass(frozen=True, slots=True)
class Character:
    """One character of a reading.

    Attributes:
        text: The character.
        score: Largest log-probability of its class over the time steps that it is aligned to, at most 0.
        start: Left border in pixels of the picture as it was given.
        end: Right border, likewise. Neighbours share the border halfway between the steps aligned to them.
    """

    text: str
    score: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another text that a picture may show.

    Attributes:
        text: The text.
        score: As for ``Reading``.
        confidence: As for ``Reading``.
    """

    text: str
    score: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture says.

    Attributes:
        text: The text; empty when the network sees none.
        score: Natural-log probability of the text under the network: the sum over all its CTC alignments, at most 0.
            ``math.exp(score)`` is a probability.
        characters: The characters of the text with their scores and places, left to right.
        confidence: Probability in [0, 1] that the text is right. Free texts have one where the weights are calibrated
            (``crnn calibrate``): the probability of the text at the fitted temperature. Words of a lexicon always have
            one: their share of the probability of all words in it.
        alternatives: Where several texts were asked for (``n_best``) the others, the likeliest first.
    """

    text: str
    score: float
    characters: tuple[Character, ...]
    confidence: float | None = None
    alternatives: tuple[Alternative, ...] = ()


def reading_of(decoded: Decoded, charset: Charset, width: int, original_width: int) -> Reading:
    """A decoded text in characters and pixels.

    Args:
        decoded: What a decoder found.
        charset: Of the network.
        width: Of the network's picture, in pixels.
        original_width: Of the picture as it was given.
    """
    text = decoded.text
    borders = [b * original_width / width for b in _borders(text.spans, width)]
    characters = tuple(
        Character(charset.decode([i]), score, start, end)
        for i, score, (start, end) in zip(text.ids, text.character_scores, borders, strict=True)
    )
    alternatives = tuple(Alternative(charset.decode(c.ids), c.score, c.confidence) for c in decoded.others)
    return Reading(charset.decode(text.ids), text.score, characters, decoded.confidence, alternatives)


def _borders(spans: Sequence[tuple[int, int]], width: int) -> list[npt.NDArray[np.float64]]:
    """Left and right border of each character in pixels of the network's picture.

    Time step t looks at the pixels around 4 (t + 1): two poolings make a column of four pixels, the last convolution
    joins two columns. Neighbours share the border halfway between their steps; the outermost characters reach as far
    out as half the mean gap between neighbours, or two pixels where there is one character.
    """
    edges = np.asarray(spans, dtype=np.float64).reshape(-1, 2) * 4.0 + (2.0, 2.0)
    gaps = edges[1:, 0] - edges[:-1, 1]
    margin = float(gaps.mean()) / 2.0 if len(gaps) else 2.0
    edges[1:, 0] -= gaps / 2.0
    edges[:-1, 1] += gaps / 2.0
    if len(edges):
        edges[0, 0] -= margin
        edges[-1, 1] += margin
    return list(edges.clip(0.0, width))

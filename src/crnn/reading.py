"""What a picture says, as callers get it: text, score, confidence, and where each character stands in the picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from crnn.charset import Charset
from crnn.decoding.decoder import Decoded
from crnn.line_check import LineWarning, line_warning

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
    confidence: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture says.

    Attributes:
        text: The text; empty when the network sees none.
        score: Natural-log probability of the text under the network: the sum over all its CTC alignments, at most 0.
            ``math.exp(score)`` is a probability.
        characters: The characters of the text with their scores and places, left to right.
        confidence: Probability in [0, 1] that the text is right, as far as the weights are calibrated (``crnn train``
            does that on its validation sets, ``crnn calibrate`` on others). It knows the language and the lexicon that
            the text was found with, and in a lexicon that the image may show none of its words.
        alternatives: Where several texts were asked for (``n_best``) the others, the likeliest first.
        warning: What the picture is likely to be in place of one upright line: ``page`` or ``turned``, see
            ``crnn.line_check``.
    """

    text: str
    score: float
    characters: tuple[Character, ...]
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    warning: LineWarning | None = None


def reading_of(decoded: Decoded, charset: Charset, width: int, original_size: tuple[int, int]) -> Reading:
    """A decoded text in characters and pixels.

    Args:
        decoded: What a decoder found.
        charset: Of the network.
        width: Of the network's picture, in pixels.
        original_size: Width and height of the picture as it was given.
    """
    text = decoded.text
    said = charset.decode(text.ids)
    original_width = original_size[0]
    characters = tuple(
        Character(character, score, start * original_width / width, end * original_width / width)
        for character, score, (start, end) in zip(said, text.character_scores, _borders(text.spans, width), strict=True)
    )
    alternatives = tuple(Alternative(charset.decode(c.ids), c.score, c.confidence) for c in decoded.others)
    warning = line_warning(original_size, said, text.score)
    return Reading(said, text.score, characters, decoded.confidence, alternatives, warning)


def _borders(spans: Sequence[tuple[int, int]], width: int) -> list[tuple[float, float]]:
    """Left and right border of each character in pixels of the network's picture.

    Time step t looks at the pixels around 4 (t + 1): two poolings make a column of four pixels, the last convolution
    joins two columns. Neighbours share the border halfway between their steps; the outermost characters reach as far
    out as half the mean gap between neighbours, or two pixels where there is one character.
    """
    if not spans:
        return []
    # Plain numbers: for the few characters of a word, arrays would take several times as long.
    starts, ends = [4.0 * start + 2.0 for start, _ in spans], [4.0 * end + 2.0 for _, end in spans]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    margin = sum(gaps) / len(gaps) / 2.0 if gaps else 2.0
    between = [end + gap / 2.0 for end, gap in zip(ends[:-1], gaps, strict=True)]
    borders = [starts[0] - margin, *between, ends[-1] + margin]
    inside = [min(max(border, 0.0), float(width)) for border in borders]
    return list(itertools.pairwise(inside))

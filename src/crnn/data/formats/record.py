"""What every reader gives: where a sample's picture is, what it says, which part of the picture it is.

A reader looks at annotations only. Pictures are opened later, by the worker processes of ``crnn.data.convert``, so that
reading the annotations of millions of samples stays light and every reader can tell its number of samples beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = ["Box", "Quad", "Reader", "Record", "Skipped"]


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle in pixels of the picture; it may reach outside, and is then cut to the picture.

    Attributes:
        left: First column.
        top: First row.
        width: Columns, more than 0.
        height: Rows, more than 0.
    """

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Quad:
    """A quadrilateral in pixels of the picture, to be cut out upright by a perspective warp.

    Attributes:
        points: (x, y) of the text's top left, top right, bottom right, bottom left.
    """

    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


class Record(NamedTuple):  # of millions; a frozen dataclass takes four times as long to make and to send
    """One sample of a published set, its picture not yet opened.

    Attributes:
        key: What names it in messages, the same each time; the picture's path, with ``#n`` for the nth word in it.
        label: The text as published.
        path: The picture, relative to the reader's root, with ``/``.
        region: The part of the picture; ``None``: all of it, whose bytes are then kept as they are.
        lexicon: The smaller lexicon that the set gives for this sample (50 words), or empty.
        large_lexicon: The larger one (1,000 words), or empty.
    """

    key: str
    label: str
    path: str
    region: Box | Quad | None = None
    lexicon: tuple[str, ...] = ()
    large_lexicon: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that the annotation names and that cannot be used.

    Attributes:
        key: What names it.
        reason: One word by which such samples are counted.
    """

    key: str
    reason: str


class Reader(Protocol):
    """The samples of one published set, in an order that is the same each time."""

    root: Path
    """The folder that paths are relative to; nothing outside it is read."""

    def __len__(self) -> int:
        """Number of samples that the annotation names, those skipped included: what a progress bar needs."""
        ...

    def __iter__(self) -> Iterator[Record | Skipped]:
        """The samples, one after the other; may be called again."""
        ...

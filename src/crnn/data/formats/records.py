"""Samples as the readers of formats give them, and what formats share in parsing annotations.

Readers look at annotations only; images are opened later, by the worker processes of ``crnn.data.convert``.
"""

import functools
import os
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crnn.errors import DataError, printable
from crnn.files import ImageFolder, not_utf8, slashed, text_lines


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle in pixels of the image; the part outside is clipped. Width and height exceed 0."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Quad:
    """A quadrilateral to be rectified: (x, y) of the text's top left, top right, bottom right, bottom left."""

    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

    def fault(self, tolerance: float, min_area: float = 0.0) -> str:
        """Return why it has no upright view, or an empty text; numbers up to ``tolerance`` (square pixels) are 0.

        The signs of the turns tell (y points down): four to the right are an upright view, four to the left a mirrored
        one, two of each crossing sides, one against three a dent.
        """
        a, b, c, d = self.points
        corners = ((d, a, b), (a, b, c), (b, c, d), (c, d, a))
        turns = [(bx - ax) * (cy - by) - (by - ay) * (cx - bx) for (ax, ay), (bx, by), (cx, cy) in corners]
        right, left = sum(turn > tolerance for turn in turns), sum(turn < -tolerance for turn in turns)
        if right == left == 2:
            return "self_crossing"
        if right == left == 0 or abs(turns[0] + turns[2]) < 2 * min_area:  # twice the area
            return "no_area"
        if left == 4:
            return "mirrored"
        return "" if right == 4 else "not_convex"


class Record(NamedTuple):  # of millions; a frozen dataclass takes four times as long to make and to send
    """One sample of a published set, its image not yet opened."""

    key: str  # reproducible name in messages: the image's path, with ``#n`` for the nth word in it
    label: str  # as published
    path: str  # of the image, relative to the reader's root, with ``/``
    region: Box | Quad | None = None  # part of the image; ``None``: all of it, bytes unchanged
    lexicon: tuple[str, ...] = ()  # the set's smaller one for this sample (50 words)
    large_lexicon: tuple[str, ...] = ()  # the larger one (1,000 words)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An annotated sample that cannot be used: its name in messages, and one word for counting."""

    key: str
    reason: str


class Reader(ABC):
    """The samples of one published set, in a reproducible order.

    The class of a format takes the source and its options, sets ``root``, raises ``DataError`` if this is no such set,
    and yields ``sample(...)`` for each annotated word.
    """

    root: Path  # folder of the images; nothing outside it is read
    notes: tuple[str, ...] = ()  # sentences about the files for the user

    @abstractmethod
    def __iter__(self) -> Iterator[Record | Skipped]:
        """Iterate over the samples; may be called again."""

    def __len__(self) -> int:  # skipped samples included
        return self._num_samples

    @functools.cached_property
    def _num_samples(self) -> int:
        return sum(1 for _ in self)

    def image_source(self) -> Callable[[str], bytes]:
        """Return a function from a record's path to image bytes, which is pickled: it should not hold the samples."""
        return ImageFolder(self.root).read


def relative_path(path: str) -> str | None:
    r"""Normalize a record's path, or return ``None`` where it leaves its folder.

    Only the text is checked: links are resolved when the image is opened. ``\`` separates, too, for lists made under
    Windows. Any ``..`` is refused, as a link on the way would lead elsewhere.
    """
    path = slashed(path)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or os.path.splitdrive(path)[0] or ".." in parts:
        return None
    return "/".join(parts) or None


def sample(
    name: str,
    label: str,
    *,
    relative: Callable[[str], str | None] = relative_path,  # from a name to a path
    word: int = 0,
    region: Box | Quad | None = None,
    lexicon: tuple[str, ...] = (),
    large_lexicon: tuple[str, ...] = (),
    fault: str = "",
    place: str = "(no name)",
    empty_label: bool = False,
) -> Record | Skipped:
    """Return the record of an annotated word, or why it cannot be used.

    The reason is ``malformed`` without a name, ``outside_root`` if it leads out of the root, the format's ``fault``,
    ``encoding`` for a label that was not UTF-8, or ``no_label``.

    ``label`` has surrogates for bytes that are not UTF-8, ``word`` is the number of the word in its image, from 1 (0:
    the image is the word), and ``place`` is named in messages if the name is empty; the rest is as in ``Record``.
    """
    named = bool(name.strip())
    path = relative(name) if named else None
    key = printable(path or (name if named else place)) + (f"#{word}" if word else "")
    if path is None:
        return Skipped(key, "outside_root" if named else "malformed")
    if fault:
        return Skipped(key, fault)
    if not_utf8(label):
        return Skipped(key, "encoding")
    if not (empty_label or label.strip()):
        return Skipped(key, "no_label")
    return Record(key, label, path, region, lexicon, large_lexicon)


def annotation_lines(path: Path) -> Iterator[str]:
    """Yield the non-blank lines of ``text_lines``, without their ends (LF or CRLF)."""
    for line in text_lines(path):
        if line.strip(string.whitespace):
            yield line.removesuffix("\n").removesuffix("\r")


def find_annotation(source: str | os.PathLike[str], patterns: Sequence[str]) -> Path:
    """Return the file ``source``, or the one file in that folder that has one of the names (``*.csv``)."""
    path, expected = Path(source), " or ".join(patterns)
    if os.path.isfile(path):  # noqa: PTH113 - no error where the path is too long or forbidden
        return path
    if not os.path.isdir(path):  # noqa: PTH112
        raise DataError(f"{path}: does not exist; expected {expected}, or its folder. Check the path")
    if not os.access(path, os.R_OK | os.X_OK):  # where ``glob`` would find nothing
        raise DataError(f"{path}: cannot be read: Permission denied. Check its permissions")
    found = [
        file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file() and file.name[0] != "."
    ]
    if len(found) != 1:
        names = f"has {len(found)} ({', '.join(file.name for file in found[:4])})" if found else "has no such file"
        raise DataError(f"{path}: {names}; expected one {expected} in it. Check the folder, or name the file")
    return found[0]

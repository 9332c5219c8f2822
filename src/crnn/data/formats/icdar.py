"""The word images of ICDAR 2013 (focused) and 2015 (incidental scene text).

References: pages of rrc.cvc.uab.es, challenges 2 and 4, task 3 (quoting, line ends, counts); readers of
mindspore-ai/models, mmocr, mindocr, aster's ports and datumaro; supervisely (``coords.txt``). The quoting is stated for
challenge 2 only; other readers of challenge 4 (mmocr, mindocr, PaddleOCR) remove every quote and keep backslashes.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from crnn.data.formats.files import is_image
from crnn.data.formats.records import (
    Quad,
    Reader,
    Record,
    Skipped,
    annotation_lines,
    find_annotation,
    relative_path,
    sample,
)
from crnn.errors import DataError, printable
from crnn.files import not_utf8

_TEXT_FILES = ("gt.txt", "*_GT.txt")
_ESCAPED = re.compile(r'\\(["\\])')


class IcdarReader(Reader):
    """The words of ICDAR 2013 or 2015, in the order of the text file.

    Each line is an image and its word (``word_1.png, "Tiredness"``). A line that is not UTF-8 is read as Windows-1252
    and counted in ``notes``. ``source`` is the text file, or the folder with it.

    ``images`` is by default the folder of the text file, or else the only folder below it that has the first image and
    no text file. ``upright`` cuts each word out by its corners in ``coords.txt``, among the images; those of ICDAR 2015
    are upright boxes around slanted words.
    """

    def __init__(
        self, source: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None, upright: bool = False
    ) -> None:
        annotation = find_annotation(source, _TEXT_FILES)
        lines = list(annotation_lines(annotation))
        first = next(filter(None, map(parse_line, lines)), None)
        if first is None:
            raise DataError(f'{annotation}: has no line like word_1.png, "Tiredness". Check that it is the set\'s file')
        self.root = _image_folder(annotation, first[0]) if images is None else Path(images)
        corners = _corners(self.root / "coords.txt") if upright else None
        self._samples = list(_samples(lines, corners))
        legacy = sum(map(not_utf8, lines))
        if legacy:
            self.notes += (f"{legacy} lines of {annotation} are not UTF-8 and were read as Windows-1252",)
        found = {file.name for file in self.root.iterdir() if is_image(file.name)} if self.root.is_dir() else set()
        rest = sorted(found - {word.key for word in self._samples})
        if rest:
            self.notes += (f"{len(rest)} images in {self.root} are not in {annotation.name}, {rest[0]} the first",)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)


def parse_line(line: str) -> tuple[str, str] | None:
    r"""Return image and word of a line, or ``None`` where malformed.

    The word is all after the first comma. In quotes ``\"`` is a quote and ``\\`` a backslash; without quotes it is
    taken literally.
    """
    name, _, text = line.partition(",")
    name, text = name.strip(), text.strip()
    if not (name and text):
        return None
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"'):
            return None  # cut off
        text = _ESCAPED.sub(r"\1", text[1:-1])
    return name, text


def _samples(lines: list[str], corners: dict[str, Quad] | None) -> Iterator[Record | Skipped]:
    seen = set()
    for line in lines:
        if not_utf8(line):
            line = line.encode("utf-8", "surrogateescape").decode("cp1252", "surrogateescape")
        parsed = parse_line(line)
        if parsed is None:
            yield Skipped(printable(line, 60), "malformed")
            continue
        name, label = parsed
        fault = "duplicate" if name in seen else "no_box" if corners is not None and name not in corners else ""
        seen.add(name)
        yield sample(name, label, region=corners.get(name) if corners else None, fault=fault)


def _image_folder(annotation: Path, first: str) -> Path:
    """Return the folder of the images; since all sets use the same names, an ambiguous one is an error."""
    beside, path = annotation.parent, relative_path(first)
    if path is None or (beside / path).is_file():
        return beside
    below = [
        folder
        for folder in sorted(beside.iterdir())
        if (folder / path).is_file()
        and not folder.is_symlink()
        and not any(next(folder.glob(name), None) for name in _TEXT_FILES)
    ]
    if len(below) > 1:
        names = ", ".join(folder.name for folder in below[:4])
        raise DataError(
            f"{annotation}: {first} is in {len(below)} folders beside it ({names}); name the folder of the images"
        )
    return below[0] if below else beside


def _corners(file: Path) -> dict[str, Quad]:
    """Return the corners by image; a word whose line is malformed counts as one without."""
    corners = {}
    for line in annotation_lines(file):
        name, *numbers = line.split(",")
        try:
            x1, y1, x2, y2, x3, y3, x4, y4 = values = [float(number) for number in numbers]
        except ValueError:
            continue
        if all(map(math.isfinite, values)):
            corners[name.strip()] = Quad(((x1, y1), (x2, y2), (x3, y3), (x4, y4)))
    return corners

"""The word sets of ICDAR 2003, 2013 (focused) and 2015 (incidental scene text).

References: pages of rrc.cvc.uab.es, challenges 2 and 4, task 3 (quoting, line ends, counts); readers of
mindspore-ai/models, mmocr, mindocr, aster's ports and datumaro; supervisely (``coords.txt``). The quoting is stated for
challenge 2 only; other readers of challenge 4 (mmocr, mindocr, PaddleOCR) remove every quote and keep backslashes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crnn.data.formats.records import (
    AnnotationLines,
    Quad,
    Record,
    Skipped,
    decoded,
    find_annotation,
    is_name,
    kind_of,
    names_in,
    one_line,
    printable,
    read_xml,
    relative_path,
    tagged_words,
)
from crnn.errors import ConfigError, DataError
from crnn.image import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


NUM_SAMPLES = {"ic13_train": 848, "ic13_test": 1095, "ic15_train": 4468, "ic15_test": 2077}
"""Words of the published sets."""

_ESCAPED = re.compile(r'\\(["\\])')
_EXPECTED = 'lines like: word_1.png, "Tiredness"'


class IcdarReader:
    """The words of ICDAR 2013 or 2015, in the order of the text file.

    Each line is an image and its word (``word_1.png, "Tiredness"``). A line that is not UTF-8 is read as Windows-1252
    and counted in ``notes``.

    Args:
        source: The text file, or the folder with it: ``gt.txt`` in the training archives, ``*_GT.txt`` beside the test
            archives.
        images: The folder of the images. Default: that of the text file, or else the only folder below it that has
            the first image and no text file.
        upright: Cut each word out by its corners in ``coords.txt``, among the images. Those of ICDAR 2015 are upright
            boxes around slanted words.

    Attributes:
        root: The folder of the images.
        notes: Sentences about the files for the user.

    Raises:
        DataError: The text file is missing, ambiguous or malformed, or ``upright`` is set and ``coords.txt`` is
            missing.
    """

    def __init__(
        self, source: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None, upright: bool = False
    ) -> None:
        self.annotation = _annotation_file(Path(source))
        lines = list(_lines(self.annotation))
        first = next((line[0] for line in lines if isinstance(line, tuple)), None)
        if first is None:
            begin = f"it begins with '{printable(_key(lines[0]), 60)}'" if lines else "it is empty"
            raise DataError(f"{self.annotation}: {begin}; expected {_EXPECTED}. Check that it is the set's text file")
        self.root = _image_folder(self.annotation, first) if images is None else Path(images)
        corners = _corners(self.root / "coords.txt") if upright else None
        self._samples = list(_samples(lines, corners))
        self.notes = self._notes(sum(isinstance(line, tuple) and line[2] for line in lines))

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)

    def __repr__(self) -> str:
        return f"IcdarReader({str(self.annotation)!r})"

    def _notes(self, num_not_utf8: int) -> tuple[str, ...]:
        notes = []
        if num_not_utf8:
            notes.append(f"{num_not_utf8} lines of {self.annotation} are not UTF-8 and were read as Windows-1252")
        named = {sample.key for sample in self._samples}
        found = names_in(self.root) if kind_of(self.root) else []  # converting counts every image as missing
        rest = [name for name in found if Path(name).suffix.lower() in IMAGE_SUFFIXES and name not in named]
        if rest:
            notes.append(f"{len(rest)} images in {self.root} are not in {self.annotation.name}, {rest[0]} the first")
        return tuple(notes)


def parse_line(line: str) -> tuple[str, str] | None:
    r"""Return image and word of a line, or ``None`` where malformed.

    The word is all after the first comma. In quotes ``\"`` is a quote and ``\\`` a backslash; without quotes it is
    taken literally.

    Example:
        >>> parse_line('word_1.png, "Tiredness"')
        ('word_1.png', 'Tiredness')
        >>> parse_line(r'word_2.png, "\"Kills,\" he said"')
        ('word_2.png', '"Kills," he said')
    """
    name, comma, text = line.partition(",")
    name, text = name.strip(), text.strip()
    if not (comma and name and text):
        return None
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"'):
            return None  # cut off
        text = _ESCAPED.sub(r"\1", text[1:-1])
    return name, text


# Image, word, whether the line was not UTF-8; or an unusable line.
_Line = tuple[str, str, bool] | Skipped


def _key(line: _Line) -> str:
    return line.key if isinstance(line, Skipped) else line[0]


def _lines(file: Path) -> Iterator[_Line]:
    for raw in AnnotationLines(file):
        text = decoded(raw)
        legacy = text is None
        if text is None:
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                yield Skipped(printable(raw, 60), "encoding")
                continue
        parsed = parse_line(text)
        if parsed is None:
            yield Skipped(printable(text, 60), "malformed")
        else:
            yield *parsed, legacy


def _samples(lines: list[_Line], corners: dict[str, Quad] | None) -> Iterator[Record | Skipped]:
    seen = set()
    for line in lines:
        if isinstance(line, Skipped):
            yield line
            continue
        name, label, _ = line
        path = relative_path(name)
        key = printable(path or name)
        region = None if corners is None or path is None else corners.get(path)
        if path is None:
            yield Skipped(key, "outside_root")
        elif path in seen:
            yield Skipped(key, "duplicate")
        elif corners is not None and region is None:
            yield Skipped(key, "no_box")
        elif not label.strip():
            yield Skipped(key, "no_label")
        else:
            yield Record(key=key, label=label, path=path, region=region)
        seen.add(path)


def _annotation_file(source: Path) -> Path:
    kind = kind_of(source)
    if kind == "file":
        return source
    if not kind:
        raise DataError(f"{source}: there is no such file or folder; expected the set's folder. Check the path")
    found = _annotations_in(source)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise DataError(
            f"{source}: has {len(found)} text files of this form ({names}); expected one. Name the one to use"
        )
    raise DataError(
        f"{source}: has no gt.txt and no *_GT.txt in it; expected the text file of the word set. Where it lies "
        "elsewhere (the tests have it outside of the archive), name it, or put it into the folder"
    )


def _annotations_in(folder: Path) -> list[Path]:
    names = [name for name in names_in(folder) if name.lower() == "gt.txt" or name.lower().endswith("_gt.txt")]
    return [folder / name for name in names if kind_of(folder / name) == "file"]


def _image_folder(annotation: Path, first: str) -> Path:
    """Return the folder of the images; since all sets use the same names, an ambiguous one is an error."""
    beside = annotation.parent
    path = relative_path(first)
    if path is None or kind_of(beside / path) == "file":
        return beside
    below = [
        folder
        for folder in (beside / name for name in names_in(beside))
        if kind_of(folder / path) == "file" and not folder.is_symlink() and not _annotations_in(folder)
    ]
    if len(below) > 1:
        names = ", ".join(folder.name for folder in below[:4])
        raise DataError(
            f"{annotation}: {first} is in {len(below)} folders beside it ({names}); expected one. "
            "Name the folder of the images"
        )
    return below[0] if below else beside


def _corners(file: Path) -> dict[str, Quad]:
    if kind_of(file) != "file":
        raise DataError(
            f"{file}: there is no such file; expected the corners of the words. Convert without them, or add it"
        )
    corners = {}
    for raw in AnnotationLines(file):
        name, *numbers = printable(raw).split(",")
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            continue  # its word is counted as one without corners
        path = relative_path(name.strip())
        if path and len(values) == 8 and all(map(math.isfinite, values)):
            x, y = values[::2], values[1::2]
            corners[path] = Quad(((x[0], y[0]), (x[1], y[1]), (x[2], y[2]), (x[3], y[3])))
    return corners


_CANDIDATES = {
    ("scene", "train"): ("words.xml", "SceneTrialTrain/words.xml"),
    ("scene", "test"): ("words.xml", "SceneTrialTest/words.xml"),
    ("word", "train"): ("word.xml", "TrialTrain/word.xml"),
    ("word", "test"): ("word.xml", "TrialTest/word.xml"),
}


class Ic03Reader:
    """The words of ICDAR 2003, in the order of the file.

    Args:
        source: The folder with ``words.xml`` or ``word.xml``, its parent, or one of these files.
        variant: ``scene`` or ``word``; ignored where ``source`` is a file.
        split: The part, where ``source`` is the parent of several.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        variant: Literal["scene", "word"] = "scene",
        split: Literal["train", "test"] = "test",
    ) -> None:
        if (variant, split) not in _CANDIDATES:
            raise ConfigError(
                f"IC03 has no variant {variant!r} with split {split!r}; expected scene or word, and train or test"
            )
        path = find_annotation(source, _CANDIDATES[variant, split])
        self.root: Path = path.parent
        self._samples: list[Record | Skipped] = []
        for number, image in enumerate(read_xml(path).findall("image"), start=1):
            if image.get("file") is None:
                self._samples.extend(tagged_words(image, number))
            else:
                self._samples.append(_word(image, number))
        if not self._samples:
            raise DataError(
                f"{path}: has no words; expected <image> with <taggedRectangle>, or <image file=... tag=...>. "
                "Check the file"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)


def _word(image: Element, number: int) -> Record | Skipped:
    name = image.get("file", "").strip()
    if not is_name(name):
        return Skipped(printable(one_line(name)) or f"image {number}", "malformed")
    path = relative_path(name)
    if path is None:
        return Skipped(printable(name), "outside_root")
    label = image.get("tag", "").strip()
    return Record(key=path, label=label, path=path) if label else Skipped(path, "no_label")

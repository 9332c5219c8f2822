"""Readers of lists, CSV tables, folders with text files, and images named by their words.

Checked against PaddlePaddle/PaddleOCR (``simple_dataset.py``: first tab, CRLF, JSON lists of paths), JaidedAI/EasyOCR
(``trainer``: split at the first comma; we also take off CSV's quotes) and ankandrew/fast-plate-ocr (paths relative to
the file).
"""

import csv
import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from crnn.data.formats.records import Reader, Record, Skipped, annotation_lines, find_annotation, sample
from crnn.data.list_file import check_whole, line_fault
from crnn.errors import DataError, ImageError, printable
from crnn.files import ImageFolder, text_lines
from crnn.image import IMAGE_SUFFIXES

# Default names of columns; case does not matter.
_PATH_COLUMNS = ("filename", "image_path", "path")
_LABEL_COLUMNS = ("words", "label", "text", "plate_text")
_DELIMITERS = (",", ";", "\t")


class ListReader(Reader):
    """The samples of a list file: ``path<TAB>label``, or PaddleOCR's ``["path","path"]<TAB>label``, a sample per path.

    As for ``ListFile``, but nothing is held, and bad lines are counted. ``root`` is the folder of the paths; default:
    the list's.
    """

    def __init__(self, source: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> None:
        check_whole(Path(source), os.fspath(source))
        self._path = find_annotation(source, ("*.tsv", "labels.txt"))
        self.root = self._path.parent if root is None else Path(root)
        if not any("\t" in line for line in annotation_lines(self._path)):
            raise DataError(f"{self._path}: no line has a tab; expected lines of the form path<TAB>label")

    def __iter__(self) -> Iterator[Record | Skipped]:
        images = ImageFolder(self.root)
        for line in annotation_lines(self._path):
            head, _, label = line.partition("\t")
            for name in [""] if line_fault(line) else _paths(head):
                yield sample(name, label, relative=images.relative, place=printable(line, 60), empty_label=True)


def _paths(head: str) -> list[str]:
    """Return the path before the tab, or all of a JSON list of paths."""
    if head.startswith("["):
        try:
            paths = json.loads(head)
        except (ValueError, RecursionError):
            return [head]
        if paths and all(isinstance(path, str) for path in paths):
            return list(paths)
    return [head]


class CsvReader(Reader):
    """The samples of a CSV table (a file, or the only ``*.csv`` of a folder), with column names in the first line.

    Separated by commas, semicolons or tabs; in quotes, ``""`` is a quote. If the label is the last column, it takes the
    rest of the row: unquoted commas and semicolons stay in labels, tabs are malformed. A row whose quote is not closed
    is malformed; the lines that it took in are read anew. ``root`` is the folder of the paths; default: the file's.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        path_column: str | None = None,
        label_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self._path = find_annotation(source, ("*.csv",))
        self.root = self._path.parent if root is None else Path(root)
        header = next(annotation_lines(self._path), "")
        self._delimiter = max(_DELIMITERS, key=header.count)
        self._columns = [name.strip() for name in next(csv.reader([header], delimiter=self._delimiter), [])]
        self._path_index = self._column(path_column, _PATH_COLUMNS, "path_column")
        self._label_index = self._column(label_column, _LABEL_COLUMNS, "label_column")
        lengths = Counter(len(row) for _, row in self._rows())
        self._num_samples = lengths.total() - 1  # without the header
        if self._num_samples <= 0:
            raise DataError(f"{self._path}: has no rows below its header; expected a sample a row. Check the file")
        num_long = sum(number for length, number in lengths.items() if length > len(self._columns))
        if num_long and self._delimiter != "\t" and self._label_index == len(self._columns) - 1:
            self.notes = (
                f"{num_long} rows of {self._path} have more columns than its header; their labels "
                f"({self._columns[self._label_index]}) take the rest of the row",
            )

    def __iter__(self) -> Iterator[Record | Skipped]:
        images = ImageFolder(self.root)
        for (number, line), row in itertools.islice(self._rows(), 1, None):  # without the header
            yield self._sample(images, f"line {number}: {printable(line.rstrip(), 60)}", row)

    def _rows(self) -> Iterator[tuple[tuple[int, str], list[str]]]:
        """Yield the rows that are not blank, each behind its first line; one that is no CSV is empty."""
        lines = enumerate(text_lines(self._path), start=1)
        again, taken = deque[tuple[int, str]](), list[tuple[int, str]]()

        def take() -> Iterator[str]:
            while item := again.popleft() if again else next(lines, None):
                taken.append(item)
                yield item[1]

        while True:
            try:
                for row in csv.reader(take(), delimiter=self._delimiter, strict=True):
                    if any(map(str.strip, row)):
                        yield taken[0], row
                    taken.clear()
                return
            except csv.Error:  # a quote that is not closed
                yield taken[0], []
                again.extendleft(reversed(taken[1:]))
                taken.clear()

    def _sample(self, images: ImageFolder, place: str, row: list[str]) -> Record | Skipped:
        if len(row) > len(self._columns):  # where the label is the last column, the row then has its length
            row[self._label_index :] = [self._delimiter.join(row[self._label_index :])]
        if len(row) != len(self._columns) or "\t" in row[self._label_index]:
            return Skipped(place, "malformed")
        name, label = row[self._path_index].strip(), row[self._label_index]
        fault = "several_lines" if any(end in name + label for end in "\r\n") else ""
        return sample(name, label, relative=images.relative, fault=fault, place=place, empty_label=True)

    def _column(self, given: str | None, known: tuple[str, ...], option: str) -> int:
        wanted = known if given is None else (given.lower(),)
        found = [index for index, name in enumerate(self._columns) if name.lower() in wanted]
        if len(found) != 1:
            columns = printable(", ".join(self._columns), 120)
            raise DataError(
                f"{self._path}: {len(found) or 'no'} columns are named {' or '.join(wanted)}; its columns are "
                f"{columns or 'none'}. Name the one to use ({option})"
            )
        return found[0]


class FolderReader(Reader):
    """Images with a text file each, below one folder.

    The text of ``a.png`` is in ``a.gt.txt`` or ``a.txt``; that of ``a.bin.png`` in ``a.bin.gt.txt``, ``a.bin.txt``,
    ``a.gt.txt`` or ``a.txt``. It is one line of UTF-8, without its line end. An image without text counts as
    ``no_label``, a text without image as ``missing``.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = _folder(source)
        if not any(text for _, text in self._pairs()):
            raise DataError(
                f"{source}: has no image with a text file of its name; expected a.png with a.gt.txt or a.txt"
            )

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs())  # without reading texts

    def __iter__(self) -> Iterator[Record | Skipped]:
        texts = ImageFolder(self.root)
        for item, text in self._pairs():
            if isinstance(item, Skipped):
                yield item
                continue
            label, fault = "", ""
            try:
                label = texts.read(text).decode("utf-8-sig", "surrogateescape").rstrip("\r\n") if text else ""
            except ImageError as error:
                fault = "" if error.reason in ("empty", "missing") else error.reason
            fault = fault or ("several_lines" if "\n" in label else "")
            yield sample(item, label, relative=texts.relative, fault=fault)

    def _pairs(self) -> Iterator[tuple[str | Skipped, str]]:
        """Yield the path of each image and of its text, if there is one, and other entries as skipped."""
        for prefix, names, links in _walk(self.root):
            texts = {name for name in names if name.lower().endswith(".txt")}
            unused = set(texts)
            for name in filter(is_image, names):
                text = next((text for text in _text_names(name) if text in texts), "")
                unused.discard(text)
                yield prefix + name, prefix + text if text else ""
            yield from ((Skipped(printable(prefix + name), "missing"), "") for name in sorted(unused))
            yield from ((link, "") for link in links)


class LabelledNamesReader(Reader):
    """Images with the word in their names, between the first ``_`` and the last: ``115_Lube_45484.jpg``.

    Other files are ignored. A name without a word counts as ``no_label``.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = _folder(source)
        if not any(isinstance(word, Record) for word in self):
            raise DataError(f"{source}: has no image whose name holds a word; expected names like 115_Lube_45484.jpg")

    def __iter__(self) -> Iterator[Record | Skipped]:
        path = ImageFolder(self.root).relative
        for prefix, names, links in _walk(self.root):
            yield from (sample(prefix + name, label_of_name(name), relative=path) for name in filter(is_image, names))
            yield from links


def label_of_name(path: str) -> str:
    """Return the word between the first ``_`` and the last of an image's name, or an empty text."""
    stem = path[path.rfind("/") + 1 :].rpartition(".")[0]
    first, last = stem.find("_"), stem.rfind("_")
    return stem[first + 1 : last] if first < last else ""


def is_image(name: str) -> bool:
    """Return whether a file has the name of an image, and is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _text_names(image: str) -> Iterator[str]:
    for stem in (image.rpartition(".")[0], image.partition(".")[0]):
        yield f"{stem}.gt.txt"
        yield f"{stem}.txt"


def _folder(source: str | os.PathLike[str]) -> Path:
    if not os.path.isdir(source):  # noqa: PTH112 - no error where the path is too long or forbidden
        raise DataError(f"{source}: there is no such folder; expected one with images in it. Check the path")
    return Path(source)


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[Skipped]]]:
    """Yield each folder's prefix of paths, its file names, and linked folders, which are not followed."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}. Check its permissions") from error

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = "" if Path(folder) == root else f"{Path(folder).relative_to(root).as_posix()}/"
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield (
            prefix,
            sorted(name for name in names if not name.startswith(".")),
            [Skipped(printable(prefix + name), "linked_folder") for name in links],
        )

"""Readers of lists, CSV tables, folders with text files, and images named by their words.

Unlike ``ListFile``, they hold nothing of a file, and count bad lines. Checked against PaddlePaddle/PaddleOCR
(``simple_dataset.py``: first tab, CRLF, JSON lists of paths), JaidedAI/EasyOCR (``trainer``: split at the first comma;
we also take off CSV's quotes) and ankandrew/fast-plate-ocr (paths relative to the file).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from crnn.data.formats.records import (
    AnnotationLines,
    Record,
    Skipped,
    decoded,
    kind_of,
    names_in,
    printable,
    relative_path,
)
from crnn.errors import DataError
from crnn.image import IMAGE_SUFFIXES

PATH_COLUMNS = ("filename", "image_path", "path")
"""Default names of the column of paths; case does not matter."""

LABEL_COLUMNS = ("words", "label", "text", "plate_text")
"""Default names of the column of labels; case does not matter."""

_DELIMITERS = (",", ";", "\t")


class ListReader:
    """The samples of a list file: ``path<TAB>label``, or PaddleOCR's ``["path","path"]<TAB>label``, a sample per path.

    UTF-8 with or without a byte order mark, LF or CRLF; blank lines are ignored. The label is everything after the
    first tab, and may be empty. ``root`` is the folder of the paths; default: the list's.

    Raises:
        DataError: The file is missing, is not text, or no line has a tab.
    """

    def __init__(self, source: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(source)
        self.root = self.path.parent if root is None else Path(root)
        self._lines = AnnotationLines(self.path)
        self._num_samples = num_lines = num_tabs = 0
        first = b""
        for line in self._lines:
            first = first or line
            num_lines += 1
            num_tabs += b"\t" in line
            self._num_samples += 1 if line[:1] != b"[" else len(_paths(line.partition(b"\t")[0]))
        if num_tabs == 0:
            found = f"no line has a tab; the first is '{printable(first, 60)}'" if num_lines else "has no samples"
            raise DataError(f"{source}: {found}; expected lines of the form path<TAB>label. Check the file")

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        for line in self._lines:
            head, tab, text = line.partition(b"\t")
            label = decoded(text)
            for raw in _paths(head):
                name = decoded(raw)
                if not tab or not raw.strip():
                    yield Skipped(printable(line, 60), "malformed")
                elif name is None or label is None:
                    yield Skipped(printable(raw), "encoding")
                else:
                    yield _sample(name, label)

    def __repr__(self) -> str:
        return f"ListReader({str(self.path)!r})"


class CsvReader:
    """The samples of a CSV table, one per row, with column names in the first line.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs; in quotes, ``""`` is a quote. If
    the label is the last column, it takes the rest of the row: unquoted commas stay in labels.

    Args:
        source: The file, or a folder with one ``*.csv``.
        path_column: Column of the image paths; default: the one of ``PATH_COLUMNS``.
        label_column: Column of the labels; default: the one of ``LABEL_COLUMNS``.
        root: Folder of the paths; default: the file's.

    Raises:
        DataError: The file is missing, has no rows, is not CSV (a quote is never closed), or the columns are missing or
            ambiguous.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        path_column: str | None = None,
        label_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = _csv_file(Path(source))
        self.root = self.path.parent if root is None else Path(root)
        header = self._header()
        self._delimiter = max(_DELIMITERS, key=header.count)
        columns = [name.strip() for name in next(csv.reader([header], delimiter=self._delimiter), [])]
        self._path_index = self._column(columns, path_column, PATH_COLUMNS, "path_column")
        self._label_index = self._column(columns, label_column, LABEL_COLUMNS, "label_column")
        self._num_columns = len(columns)
        self._num_samples = sum(1 for _ in self._rows())
        if self._num_samples == 0:
            raise DataError(f"{self.path}: has no rows below its header; expected a sample a row. Check the file")

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        for number, row in self._rows():
            if len(row) > self._num_columns:  # where the label is the last column, the row then has its length
                row[self._label_index :] = [self._delimiter.join(row[self._label_index :])]
            name = row[self._path_index].strip() if len(row) == self._num_columns else ""
            if not name:
                yield Skipped(f"line {number}: {printable(self._delimiter.join(row), 60)}", "malformed")
                continue
            label = row[self._label_index]
            if any(decoded(text.encode("utf-8", "surrogateescape")) is None for text in (name, label)):
                yield Skipped(printable(name), "encoding")
            elif "\n" in label or "\r" in label:  # or a quote that was closed only some rows later
                yield Skipped(printable(name), "several_lines")
            else:
                yield _sample(name, label)

    def __repr__(self) -> str:
        return f"CsvReader({str(self.path)!r})"

    def _header(self) -> str:
        line = next(iter(AnnotationLines(self.path)), None)
        if line is None:
            raise DataError(f"{self.path}: is empty; expected a header such as filename,words. Check the file")
        return line.decode("utf-8", "surrogateescape")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield non-blank rows with the line they end in; bytes that are not UTF-8 are lone surrogates."""
        line = 0
        try:
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                reader = csv.reader(file, delimiter=self._delimiter, strict=True)
                rows = (row for row in reader if any(map(str.strip, row)))
                next(rows, None)  # the header
                for row in rows:
                    line = reader.line_num
                    yield line, row
        except csv.Error as error:
            raise DataError(
                f"{self.path}, after line {line}: is not CSV: {error}; expected text in quotes to end with one quote, "
                'and to have "" for each quote in it. Correct the line'
            ) from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}. Check the path") from error

    def _column(self, columns: list[str], given: str | None, known: tuple[str, ...], option: str) -> int:
        lower = [name.lower() for name in columns]
        wanted = known if given is None else (given.lower(),)
        found = [index for index, name in enumerate(lower) if name in wanted]
        if len(found) != 1:
            names = " or ".join(wanted)
            meant = ", ".join(columns[index] for index in found)
            what = f"the columns {meant} could be meant" if found else f"no column {names}"
            raise DataError(
                f"{self.path}: {what}; its columns are {printable(', '.join(columns), 120)}. Name the one to use "
                f"({option})"
            )
        return found[0]


def _sample(name: str, label: str) -> Record | Skipped:
    path = relative_path(name)
    if path is None:
        return Skipped(printable(name), "outside_root")
    return Record(key=printable(path), label=label, path=path)


def _paths(head: bytes) -> list[bytes]:
    """Return the path before the tab, or all of a JSON list of paths."""
    if head.startswith(b"["):
        try:
            paths = json.loads(head)
        except (ValueError, RecursionError):
            return [head]
        if paths and all(isinstance(path, str) for path in paths):
            return [path.encode("utf-8", "surrogatepass") for path in paths]
    return [head]


def _csv_file(source: Path) -> Path:
    kind = kind_of(source)
    if kind != "folder":
        if not kind:
            raise DataError(f"{source}: there is no such file; expected a table in CSV. Check the path")
        return source
    found = [name for name in names_in(source) if name.lower().endswith(".csv")]
    if len(found) != 1:
        names = f"{len(found)} tables ({', '.join(found[:4])})" if found else "no *.csv"
        raise DataError(f"{source}: has {names} in it; expected one. Name the one to use")
    return source / found[0]


_MAX_LABEL_BYTES = 64 * 1024


class FolderReader:
    """Images with a text file each, below one folder.

    The text of ``a.png`` is in ``a.gt.txt`` or ``a.txt``; that of ``a.bin.png`` in ``a.bin.gt.txt``, ``a.bin.txt``,
    ``a.gt.txt`` or ``a.txt``. It is one line of UTF-8, without its line end. An image without text counts as
    ``no_label``, a text without image as ``missing``.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = _folder(os.fspath(source))
        self._num_samples = 0
        num_pairs = 0
        for _, _, image, text in self._pairs():
            self._num_samples += 1
            num_pairs += bool(image and text)
        if num_pairs == 0:
            raise DataError(
                f"{source}: has no image with a text file of its name; expected a.png with a.gt.txt or a.txt. "
                "Check the folder"
            )

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        resolved = os.path.realpath(self.root)
        for folder, path, image, text in self._pairs():
            if image is None or text is None:
                reason = "linked_folder" if image == text else "no_label" if image else "missing"
                yield Skipped(printable(path), reason)
                continue
            label, reason = _text(Path(folder) / text, resolved)
            yield Record(printable(path), label, path) if label is not None else Skipped(printable(path), reason)

    def __repr__(self) -> str:
        return f"FolderReader({str(self.root)!r})"

    def _pairs(self) -> Iterator[tuple[str, str, str | None, str | None]]:
        """Yield folder, path, image name and text name; without either name the path is a linked folder."""
        for folder, prefix, names, links in _tree(self.root):
            texts = {name for name in names if name.lower().endswith(".txt")}
            used = set()
            for name in names:
                if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    text = next((text for text in _text_names(name) if text in texts), None)
                    used.add(text)
                    yield folder, prefix + name, name, text
            for name in names:
                if name in texts and name not in used:
                    yield folder, prefix + name, None, name
            for name in links:
                yield folder, prefix + name, None, None


class LabelledNamesReader:
    """Images with the word in their names, between the first ``_`` and the last: ``115_Lube_45484.jpg``.

    Other files are ignored. A name without a word counts as ``no_label``.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = _folder(os.fspath(source))
        self._num_samples = 0
        num_words = 0
        for sample in self:
            self._num_samples += 1
            num_words += isinstance(sample, Record)
        if num_words == 0:
            raise DataError(
                f"{source}: has no image whose name holds a word; expected names like 115_Lube_45484.jpg. "
                "Check the folder"
            )

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        for _, prefix, names, links in _tree(self.root):
            for name in names:
                if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                path = prefix + name
                label = label_of_name(name)
                if not label:
                    yield Skipped(printable(path), "no_label")
                elif decoded(os.fsencode(label)) is None:
                    yield Skipped(printable(path), "encoding")
                else:
                    yield Record(printable(path), label, path)
            for name in links:
                yield Skipped(printable(prefix + name), "linked_folder")

    def __repr__(self) -> str:
        return f"LabelledNamesReader({str(self.root)!r})"


def label_of_name(path: str) -> str:
    """Return the word between the first ``_`` and the last of an image's name, or an empty text.

    Example:
        >>> label_of_name("7_snake_case_1.png")
        'snake_case'
        >>> label_of_name("word_1.png")
        ''
    """
    stem = path[path.rfind("/") + 1 :].rpartition(".")[0]
    first, last = stem.find("_"), stem.rfind("_")
    return stem[first + 1 : last] if first < last else ""


def _text_names(image: str) -> Iterator[str]:
    stem = image.rpartition(".")[0]
    yield f"{stem}.gt.txt"
    yield f"{stem}.txt"
    short = image.partition(".")[0]
    if short != stem:
        yield f"{short}.gt.txt"
        yield f"{short}.txt"


def _text(file: Path, root: str) -> tuple[str | None, str]:
    """Return the label in a file, or ``None`` and the reason."""
    try:
        resolved = Path(os.path.realpath(file))
        if not resolved.is_relative_to(root):
            return None, "outside_root"
        with resolved.open("rb") as opened:
            content = opened.read(_MAX_LABEL_BYTES + 1)
    except OSError:
        return None, "no_label"
    if len(content) > _MAX_LABEL_BYTES:
        return None, "too_large"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None, "encoding"
    text = text.rstrip("\r\n")
    if "\n" in text:
        return None, "several_lines"
    return (text, "") if text.strip() else (None, "no_label")


def _folder(source: str) -> Path:
    if kind_of(Path(source)) != "folder":
        raise DataError(f"{source}: there is no such folder; expected one with images in it. Check the path")
    return Path(source)


def _tree(root: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield each folder's path, prefix of its entries, file names and names of linked folders.

    Only the names of one folder and of the folders still to come are held.
    """
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        folder = os.path.join(root, prefix)  # noqa: PTH118 - names that are not UTF-8 stay as they are
        files: list[str] = []
        links: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_file():
                        files.append(entry.name)
                    elif entry.is_dir():
                        (links if entry.is_symlink() else folders).append(entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read: {error.strerror}. Check its permissions") from error
        yield folder, prefix, sorted(files), sorted(links)
        waiting += [f"{prefix}{name}/" for name in sorted(folders, reverse=True)]

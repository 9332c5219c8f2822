"""Lists of pictures and labels: ``path<TAB>label``, and CSV with a header.

``ListReader`` reads what ``crnn.data.listfile`` reads, and PaddleOCR's lines with several pictures of one label
(``["a.jpg","b.jpg"]<TAB>label``), of which it makes a sample each. ``CsvReader`` reads the tables of EasyOCR
(``filename,words``) and fast-plate-ocr (``image_path,plate_text``). Unlike ``ListFile``, both hold nothing of the file,
and count a bad line instead of stopping at it.

References:
    Checked against PaddlePaddle/PaddleOCR (``simple_dataset.py``: first tab, CRLF, one of the pictures drawn at each
    epoch, anything that is not such a list is a path), JaidedAI/EasyOCR (``trainer``: split at the first comma, so that
    further commas are part of the label; we do the same, and take off quotes as CSV has them) and
    ankandrew/fast-plate-ocr (paths relative to the file).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from crnn.data.formats.annotation import AnnotationLines, decoded, kind_of, names_in, printable, relative_path
from crnn.data.formats.record import Record, Skipped
from crnn.errors import DataError

__all__ = ["LABEL_COLUMNS", "PATH_COLUMNS", "CsvReader", "ListReader"]

PATH_COLUMNS = ("filename", "image_path", "path")
"""How the column of the paths is called where it is not named; capitals do not matter."""

LABEL_COLUMNS = ("words", "label", "text", "plate_text")
"""How the column of the labels is called where it is not named; capitals do not matter."""

_DELIMITERS = (",", ";", "\t")


class ListReader:
    """The samples of a list file, a line each: ``path<TAB>label``, or ``["path","path"]<TAB>label``.

    UTF-8 with or without a byte order mark, LF or CRLF; blank lines are ignored; what follows the first tab is the
    label, all of it, and may be empty.

    Args:
        source: The list file.
        root: The folder that the paths are relative to; left out, that of the list.

    Raises:
        DataError: There is no such file, it is not text, or no line of it has a tab.
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
    """The samples of a table in CSV, a row each, with the names of the columns in the first line.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs; in quotes, ``""`` is a quote.
    Where the label is the last column, what follows it in a row is part of it: unquoted commas stay in labels.

    Args:
        source: The file, or a folder with one ``*.csv`` in it.
        path_column: The column of the pictures' paths; left out, the one of ``PATH_COLUMNS`` that is there.
        label_column: The column of the labels; left out, the one of ``LABEL_COLUMNS`` that is there.
        root: The folder that the paths are relative to; left out, that of the file.

    Raises:
        DataError: There is no such file, it is not CSV (a quote that is never closed), it has no rows, or the columns
            are not there or are not the only ones with such names.
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
        """Rows that are not blank, each with the line it ends in. Bytes that are not UTF-8 come as lone surrogates."""
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
    """What stands before the tab: one path, or all of a JSON list of paths."""
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

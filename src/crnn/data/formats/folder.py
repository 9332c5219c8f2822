"""Sets without a list: a text file beside each picture, or the word in each picture's name.

``FolderReader`` reads the pairs of line recognisers, ``line7.png`` with ``line7.gt.txt`` (or ``line7.txt``);
``LabelledNamesReader`` names like those of MJSynth, ``115_Lube_45484.jpg``. In both the listing of the folder is the
annotation, so that a picture without a label and a label without a picture are found here. Folders are read in
alphabetical order, one at a time, with those below them; what is hidden (``._line7.png``) is left out.

References:
    The pairs, checked against Calamari-OCR/calamari (``file.py``), which takes the name up to its first dot, so that
    ``line7.bin.png`` belongs to ``line7.gt.txt``; tesseract-ocr/tesstrain (README: ``.tif``, ``.png``, ``.bin.png`` and
    ``.nrm.png``, each replaced by ``.gt.txt``; one line of text); mittagessen/kraken (``arrow_dataset.py``: the text of
    ``.gt.txt`` without its line ends; the name ends at the first dot or at the last, by version). For the names of
    pictures see ``crnn.data.formats.mjsynth``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from crnn.data.formats.annotation import decoded, kind_of, printable
from crnn.data.formats.record import Record, Skipped
from crnn.errors import DataError
from crnn.picture_file import PICTURE_SUFFIXES

__all__ = ["FolderReader", "LabelledNamesReader", "label_of_name"]

_MAX_LABEL_BYTES = 64 * 1024


class FolderReader:
    """Pictures with a text file each.

    The text of ``a.png`` is in ``a.gt.txt`` or else ``a.txt``; that of ``a.bin.png`` in ``a.bin.gt.txt``, ``a.bin.txt``
    or else ``a.gt.txt``, ``a.txt``. It is UTF-8 and one line, of which only the line's end is taken off. A picture
    without text is counted as ``no_label``, a text without picture as ``missing``.

    Args:
        source: The folder.

    Raises:
        DataError: There is no such folder, it cannot be read, or there is no picture with a text in it.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = _folder(os.fspath(source))
        self._num_samples = 0
        num_pairs = 0
        for _, _, picture, text in self._pairs():
            self._num_samples += 1
            num_pairs += bool(picture and text)
        if num_pairs == 0:
            raise DataError(
                f"{source}: has no picture with a text file of its name; expected a.png with a.gt.txt or a.txt. "
                "Check the folder"
            )

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        resolved = os.path.realpath(self.root)
        for folder, path, picture, text in self._pairs():
            if picture is None or text is None:
                reason = "linked_folder" if picture == text else "no_label" if picture else "missing"
                yield Skipped(printable(path), reason)
                continue
            label, reason = _text(Path(folder) / text, resolved)
            yield Record(printable(path), label, path) if label is not None else Skipped(printable(path), reason)

    def __repr__(self) -> str:
        return f"FolderReader({str(self.root)!r})"

    def _pairs(self) -> Iterator[tuple[str, str, str | None, str | None]]:
        """Folder; path of what is there; names of picture and text. Neither name: the path is a linked folder."""
        for folder, prefix, names, links in _tree(self.root):
            texts = {name for name in names if name.lower().endswith(".txt")}
            used = set()
            for name in names:
                if Path(name).suffix.lower() in PICTURE_SUFFIXES:
                    text = next((text for text in _text_names(name) if text in texts), None)
                    used.add(text)
                    yield folder, prefix + name, name, text
            for name in names:
                if name in texts and name not in used:
                    yield folder, prefix + name, None, name
            for name in links:
                yield folder, prefix + name, None, None


class LabelledNamesReader:
    """Pictures with the word in their names, between the first ``_`` and the last: ``115_Lube_45484.jpg``.

    Files that are no pictures are not looked at. A name without a word is counted as ``no_label``.

    Args:
        source: The folder.

    Raises:
        DataError: There is no such folder, it cannot be read, or no picture in it has such a name.
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
                f"{source}: has no picture whose name holds a word; expected names like 115_Lube_45484.jpg. "
                "Check the folder"
            )

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        for _, prefix, names, links in _tree(self.root):
            for name in names:
                if Path(name).suffix.lower() not in PICTURE_SUFFIXES:
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
    """The word in a picture's name, between its first ``_`` and its last; empty where there is none.

    Example:
        >>> label_of_name("2425/1/115_Lube_45484.jpg")
        'Lube'
        >>> label_of_name("7_snake_case_1.png")
        'snake_case'
        >>> label_of_name("word_1.png")
        ''
    """
    stem = path[path.rfind("/") + 1 :].rpartition(".")[0]
    first, last = stem.find("_"), stem.rfind("_")
    return stem[first + 1 : last] if first < last else ""


def _text_names(picture: str) -> Iterator[str]:
    stem = picture.rpartition(".")[0]
    yield f"{stem}.gt.txt"
    yield f"{stem}.txt"
    short = picture.partition(".")[0]
    if short != stem:
        yield f"{short}.gt.txt"
        yield f"{short}.txt"


def _text(file: Path, root: str) -> tuple[str | None, str]:
    """The label in a file, or ``None`` and why there is none."""
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
        raise DataError(f"{source}: there is no such folder; expected one with pictures in it. Check the path")
    return Path(source)


def _tree(root: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Each folder: its path, the prefix of what is in it, the names of its files, and of the links to folders in it.

    Nothing but the names of one folder and of the folders still to come is held.
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

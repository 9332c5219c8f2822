"""Opening of a data source by its path: an LMDB folder or a list file, behind one interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, Self

from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore
from crnn.errors import DataError

_MAX_NAMED = 4
_MAX_DEPTH = 4
_MAX_FOLDERS = 2000


class SampleStore(Protocol):
    """Stored images and labels in a fixed order, with indices in [0, len).

    A store can be pickled and forked; open files are not carried over. An index outside of [0, len) is an
    ``IndexError``. Reading after ``close`` opens the store again.
    """

    path: str
    """The path, as the user typed it."""

    def __len__(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def key(self, index: int) -> str:
        """Return the name of the sample in messages."""

    def label(self, index: int) -> str:
        """Return the label as stored, or raise ``DataError`` where it is missing or not UTF-8."""

    def image_bytes(self, index: int) -> bytes:
        """Return the bytes of the image file, at least one, not decoded, or raise ``ImageError`` with a reason."""

    def lexicon(self, index: int) -> tuple[str, ...] | None:
        """Return the words that the sample may be, or ``None`` where not stored."""

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Return width and height in pixels, or ``None`` where not stored."""

    def close(self) -> None:
        """Close open files and free memory."""


def open_source(spec: str) -> SampleStore:
    """Open the samples at a path, which ``NAME=`` may precede.

    It is an LMDB folder (with ``data.mdb``), a list file, or a folder with exactly one list file (``*.tsv`` or
    ``labels.txt``); otherwise a ``DataError`` is raised.
    """
    try:
        typed = split_name(spec)[1]
        return _open(typed, Path(typed))
    except OSError as error:
        raise DataError(f"{spec}: cannot be read: {error.strerror}. Check the path and its permissions") from error


def split_name(spec: str) -> tuple[str, str]:
    """Return name and path of ``NAME=PATH``, or of a path alone, which then gives the name.

    An existing path is a path, even with ``=`` in it. A list file called ``labels`` is named by its folder, any other
    by its stem. An empty path is a ``DataError``.

    Example:
        >>> split_name("svt=sets/SVT/test")
        ('svt', 'sets/SVT/test')
        >>> split_name("svt_train/labels.tsv")
        ('svt_train', 'svt_train/labels.tsv')
    """
    if not spec:
        raise DataError("the path of the data is empty; expected an LMDB folder or a list file")
    name, equals, rest = spec.partition("=")
    # A name has no separator in it: "runs/lr=0.1/words" is a mistyped path, and the message should show it whole.
    if equals and name and not os.path.lexists(spec) and "/" not in name and os.sep not in name:
        if not rest:
            raise DataError(f"{spec!r} has no path after '='; expected NAME=PATH")
        return name, rest
    path = Path(os.path.normpath(Path(spec).absolute()))
    is_list = path.is_file() or (path.suffix.lower() in (".tsv", ".txt") and not path.is_dir())
    if is_list and path.stem != "labels":
        return path.stem, spec
    folder = path.parent if is_list else path
    return folder.name or spec, spec


def _open(typed: str, path: Path) -> SampleStore:
    if path.is_file():
        if path.name == "data.mdb":
            raise DataError(f"{typed}: is a file of an LMDB folder; expected the folder. Leave out '/data.mdb'")
        return ListFile(typed)
    if not path.is_dir():
        raise DataError(
            f"{typed}: there is no such file or folder; expected an LMDB folder or a list file. Check the path"
        )
    if (path / "data.mdb").is_file():
        return LmdbStore(typed)
    lists = _list_files(path)
    if len(lists) == 1:
        return ListFile(os.fspath(path / lists[0]))
    if lists:
        raise DataError(f"{typed}: has {len(lists)} list files ({_listed(lists)}); expected one. Name the one to use")
    nested = _nested_stores(path)
    if nested:
        raise DataError(
            f"{typed}: has no data.mdb in it, but folders below it have; expected one LMDB folder. "
            f"Name the one to use: {_listed(nested)}"
        )
    raise DataError(
        f"{typed}: has no data.mdb and no list file (*.tsv, labels.txt) in it; expected an LMDB folder or a list file. "
        "Bring other formats into this form with: crnn data convert"
    )


def _list_files(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if (entry.name.lower().endswith(".tsv") or entry.name.lower() == "labels.txt")
            and not entry.name.startswith(".")  # left beside a file by some systems and editors
            and entry.is_file()
        )


def _nested_stores(folder: Path) -> list[str]:
    """Return the first LMDB folders below ``folder``; the search is bounded, as ``/`` may have been typed."""
    found = []
    for visited, (name, folders, files) in enumerate(os.walk(folder, followlinks=True)):
        if "data.mdb" in files:
            found.append(name)
        if len(found) > _MAX_NAMED or visited >= _MAX_FOLDERS:
            break
        folders.sort()
        if len(Path(name).relative_to(folder).parts) >= _MAX_DEPTH:
            folders.clear()
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    return shown + ", ..." if len(names) > _MAX_NAMED else shown

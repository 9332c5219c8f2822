"""Opening of a data source by its path: an LMDB folder or a list file, behind one interface."""

import os
from itertools import chain, islice
from pathlib import Path

from crnn.data.list_file import ListFile, check_whole
from crnn.data.store import LmdbStore, SampleStore
from crnn.errors import DataError

__all__ = ["SampleStore", "open_source", "split_name", "too_many"]


def too_many(bad: int, seen: int, share: float) -> bool:
    """Return whether more than a share of samples is bad, and at least ten: one in a small set is no trend."""
    return bad >= 10 and bad > share * seen


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
    check_whole(path, typed)
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
    lists = sorted(
        entry.name
        for entry in path.iterdir()
        if (entry.suffix.lower() == ".tsv" or entry.name.lower() == "labels.txt")
        and not entry.name.startswith(".")  # left beside a file by some systems and editors
        and entry.is_file()
    )
    if len(lists) == 1:
        return ListFile(os.fspath(path / lists[0]))
    if lists:
        raise DataError(f"{typed}: has {len(lists)} list files ({', '.join(lists[:4])}); expected one. Name the one")
    # Not all levels below are searched, as "/" may have been typed.
    nested = chain.from_iterable(path.glob(f"{level}data.mdb") for level in ("*/", "*/*/", "*/*/*/"))
    named = ", ".join(sorted(str(file.parent) for file in islice(nested, 4)))
    raise DataError(
        f"{typed}: has no data.mdb and no list file (*.tsv, labels.txt) in it; expected an LMDB folder or a list file. "
        + (f"Below it are: {named}" if named else "Bring other formats into this form with: crnn data convert")
    )

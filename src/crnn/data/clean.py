"""A set without its faults: what an inspection found wrong is left out, and the rest written by a conversion."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from crnn.data.convert import convert
from crnn.data.formats.record import Record, Skipped
from crnn.data.inspection import Inspection
from crnn.data.list_writer import ListWriter
from crnn.data.partial_folder import PartialFolder
from crnn.data.source import SampleStore
from crnn.data.store_writer import LmdbWriter
from crnn.data.tally import Conversion
from crnn.errors import DataError

__all__ = ["check_destination", "write_clean"]


def check_destination(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that ``write_clean`` would refuse, before a long inspection.

    Raises:
        DataError: It exists and is not empty, or something that was stopped stands beside it.
    """
    folder = PartialFolder(path, ())
    folder.check_free()
    if folder.partial.exists():
        raise DataError(
            f"{folder.partial}: exists already; expected nothing there. It was left by a conversion that was stopped: "
            "go on with that, remove it, or choose another folder"
        )


def write_clean(
    store: SampleStore,
    inspection: Inspection,
    path: str,
    *,
    to: Literal["lmdb", "list"] = "lmdb",
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Conversion:
    """Write the samples that have no fault; of contradicting and overlapping ones all are left out.

    Pictures keep their bytes, and samples their lexicons where the form has a place for them. A result that is not
    whole is removed, whatever ends this.

    Args:
        store: The set that was inspected.
        inspection: What was found in it.
        path: The store or folder to write; it must not exist yet, or be empty.
        to: An LMDB store, or ``list`` for pictures in folders with a list file.
        workers: As for ``crnn.data.convert.convert``.
        progress: Called with the number of samples done since it was called before.

    Returns:
        What was done; ``skipped`` has what was left out, each sample under its first fault.

    Raises:
        DataError: ``path`` has something in it, no sample is without fault, or the disk is full.
        MissingExtraError: The package ``lmdb`` is not installed.
    """
    check_destination(path)
    try:
        return convert(
            _FaultlessReader(store, inspection),
            path,
            to=to,
            origin={"inspected": store.path},
            workers=workers,
            max_bad_share=1.0,
            progress=progress,
        )
    except BaseException:
        with contextlib.suppress(DataError):
            (ListWriter(path) if to == "list" else LmdbWriter(path, keep_partial=True)).discard_earlier()
        raise


class _FaultlessReader:
    """The samples of any store as records to convert, those with a fault as skipped."""

    def __init__(self, store: SampleStore, inspection: Inspection) -> None:
        self.root = Path(store.path)
        # An attribute and no method: workers get it pickled, and should not get the flags of all samples with it.
        self.picture_bytes = _StoredPictures(store)
        self._store = store
        self._inspection = inspection

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Record | Skipped]:
        large_lexicon = getattr(self._store, "large_lexicon", lambda _: None)
        for index in range(len(self)):
            key = self._store.key(index)
            fault = self._inspection.fault(index)
            if fault:
                yield Skipped(key, fault)
                continue
            label = self._store.label(index)
            try:
                lexicon, large = self._store.lexicon(index) or (), large_lexicon(index) or ()
            except DataError:
                yield Skipped(key, "bad_record")
            else:
                yield Record(key=key, label=label, path=str(index), lexicon=lexicon, large_lexicon=large)


class _StoredPictures:
    def __init__(self, store: SampleStore) -> None:
        self._store = store

    def __call__(self, path: str) -> bytes:
        return self._store.image_bytes(int(path))

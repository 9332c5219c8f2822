"""Samples in an LMDB store: one folder, the layout that the field's published sets have.

Keys are ASCII and count from 1; ``image-%09d`` holds the bytes of a picture file, ``label-%09d`` its text in UTF-8, and
``num-samples`` how many there are, in decimal. Three records are optional: ``lexicon-%09d``, words joined by spaces;
``wh-%09d``, the size of the picture as ``{width}_{height}``; and, ours alone, ``large-lexicon-%09d``, the larger
lexicon of a set that has two.

``LmdbStore`` reads such a folder, whoever wrote it; ``crnn.data.store_writer`` writes one, through
``crnn.data.store_file``. That and this are the only rooms that know ``lmdb``, which is imported when a store is opened
and not before.

References:
    The layout: github.com/bgshih/crnn, tool/create_dataset.py (with lexicons); github.com/clovaai/
    deep-text-recognition-benchmark, create_lmdb_dataset.py; github.com/Topdu/OpenOCR, tools/create_lmdb_dataset.py
    (with sizes).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from crnn.errors import DataError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from lmdb import Environment

__all__ = ["COUNT_KEY", "LmdbStore", "import_lmdb"]

COUNT_KEY = "num-samples"
"""Key of the number of samples. It is written last: a store without it is not whole."""


class LmdbStore:
    """An LMDB folder, opened for reading.

    It can be pickled and can live through a fork: each process opens the file for itself when it first reads, and all
    stores of a process that read the same file share that. Nothing is held per sample. It may be read from threads.
    Samples are numbered from 0 here and from 1 in the keys; an index outside of [0, len) is an ``IndexError``.

    Args:
        path: The folder that has ``data.mdb`` in it.

    Raises:
        DataError: There is no such folder, or no whole LMDB file in it, or ``num-samples`` is missing, not a number, 0,
            or more than there is.
        MissingExtraError: The package ``lmdb`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Path(self.path).absolute() / "data.mdb"
        self._shared: _Shared | None = None
        self._num_samples = 0
        try:
            self._num_samples = self._checked_count()
        finally:
            self.close()  # so that workers forked from here on inherit nothing open

    def __len__(self) -> int:
        return self._num_samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_shared", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shared": None}

    def __repr__(self) -> str:
        return f"LmdbStore({self.path!r})"

    def close(self) -> None:
        """Give the file back. Reading again opens it again."""
        with _opened.lock:
            shared, self._shared = self._shared, None
            if shared is not None:
                _opened.release(shared)

    def key(self, index: int) -> str:
        """What messages call the sample: the key of its picture."""
        return f"image-{self._number(index):09d}"

    def label(self, index: int) -> str:
        """The label as it is stored.

        Raises:
            DataError: There is no such record, or it is not UTF-8.
        """
        key = f"label-{self._number(index):09d}"
        text = self._text(key)
        if text is None:
            raise DataError(f"{self.path}: has no record {key!r}; expected one per sample. Write the store again")
        return text

    def image_bytes(self, index: int) -> bytes:
        """The bytes of the picture file as they are stored, not yet decoded.

        Raises:
            ImageError: There is no such record (``missing``), or there is nothing in it (``empty``).
            DataError: The file is damaged.
        """
        key = self.key(index)
        image = self._get(key)
        if image is None:
            raise ImageError(f"{self.path}: has no record {key!r}; expected a picture", reason="missing")
        if not image:
            raise ImageError(f"{self.path}: record {key!r} has 0 bytes; expected a picture", reason="empty")
        return image

    def lexicon(self, index: int) -> tuple[str, ...] | None:
        """The words that this sample may be, or ``None`` where none are stored.

        Raises:
            DataError: The record is not UTF-8.
        """
        return self._words(f"lexicon-{self._number(index):09d}")

    def large_lexicon(self, index: int) -> tuple[str, ...] | None:
        """The same from the larger lexicon of a set that has two.

        Raises:
            DataError: The record is not UTF-8.
        """
        return self._words(f"large-lexicon-{self._number(index):09d}")

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Width and height in pixels, known without decoding the picture, or ``None`` where not stored.

        Raises:
            DataError: The record is not two whole numbers above 0 joined by ``_``.
        """
        key = f"wh-{self._number(index):09d}"
        raw = self._get(key)
        if raw is None:
            return None
        width, _, height = raw.partition(b"_")
        if not (len(raw) <= 20 and width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise self._unfit(key, raw, "'{width}_{height}' in pixels")
        return int(width), int(height)

    def _number(self, index: int) -> int:
        if not 0 <= index < self._num_samples:
            raise IndexError(f"{self.path}: sample {index} of {self._num_samples}")
        return index + 1

    def _words(self, key: str) -> tuple[str, ...] | None:
        text = self._text(key)
        return None if text is None else tuple(text.split())

    def _text(self, key: str) -> str | None:
        raw = self._get(key)
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            raise self._unfit(key, raw, "UTF-8 text") from None

    def _unfit(self, key: str, raw: bytes | None, expected: str) -> DataError:
        shown = (raw or b"").decode("ascii", "backslashreplace")
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return DataError(f"{self.path}: record {key!r} is '{shown}'; expected {expected}. Write the store again")

    def _get(self, key: str) -> bytes | None:
        lmdb = import_lmdb("reading LMDB stores")
        try:
            with self._environment().begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
                return value
        except lmdb.Error as error:
            raise DataError(
                f"{self.path}: record {key!r} cannot be read: {error}. data.mdb is damaged: copy or write it again"
            ) from error

    def _environment(self) -> Environment:
        shared = self._shared
        if shared is None or shared.pid != os.getpid():
            with _opened.lock:
                shared = self._shared
                if shared is None or shared.pid != os.getpid():  # else another thread was faster
                    self._shared = shared = _opened.acquire(self.path, self._file)
        assert shared.environment is not None
        return shared.environment

    def _checked_count(self) -> int:
        raw = self._get(COUNT_KEY)
        if raw is None:
            raise DataError(
                f"{self.path}: has no record 'num-samples'; expected the number of samples, which its writer puts in "
                "last. Write the store again with: crnn data convert"
            )
        if not raw.strip().isdigit() or len(raw) > 20:
            raise self._unfit("num-samples", raw, "a whole number")
        count = int(raw)
        if count == 0:
            raise self._unfit("num-samples", raw, "at least 1 sample")
        if self._get(f"label-{count:09d}") is None:
            last = self._last_label_key()
            found = f"the last label in it is {last!r}" if last else "there is no label in it"
            if last == f"label-{count - 1:09d}" and self._get("label-000000000") is not None:
                found += ", and the first 'label-000000000', where this layout counts from 1"
            raise DataError(
                f"{self.path}: num-samples is {count}, but {found}. Write the store again, or copy it again"
            )
        return count

    def _last_label_key(self) -> str | None:
        lmdb = import_lmdb("reading LMDB stores")
        try:
            with self._environment().begin() as transaction, transaction.cursor() as cursor:
                # "." follows "-" in ASCII: the key before it is the last that starts with "label-".
                found = cursor.prev() if cursor.set_range(b"label.") else cursor.last()
                key = bytes(cursor.key()) if found else b""
        except lmdb.Error as error:
            raise DataError(f"{self.path}: cannot be read: {error}. Copy or write it again") from error
        return key.decode("ascii", "replace") if key.startswith(b"label-") else None


def import_lmdb(purpose: str) -> ModuleType:
    """The package ``lmdb``, imported when it is asked for.

    Args:
        purpose: What it is needed for, as the message says it.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import lmdb
    except ImportError:
        raise MissingExtraError("lmdb", "data", purpose) from None
    return lmdb


class _Shared:
    """One open environment and the number of stores that read through it."""

    def __init__(self, file: object) -> None:
        self.pid = os.getpid()
        self.file = file
        self.environment: Environment | None = None
        self.users = 0


class _OpenEnvironments:
    """The environments that this process has open: one per file, shared by all stores on it.

    LMDB must not have a file open twice in one process (closing one would drop the locks of the other, so py-lmdb
    refuses), nor be used across a fork: what a fork inherited is closed before anything is opened.
    """

    def __init__(self, inherited: Sequence[_Shared] = ()) -> None:
        # Reentrant: collecting garbage may close a forgotten store while this thread opens or closes another.
        self.lock = threading.RLock()
        self._by_file: dict[object, _Shared] = {}
        self._inherited = list(inherited)

    def after_fork(self) -> _OpenEnvironments:
        return _OpenEnvironments([*self._inherited, *self._by_file.values()])

    def acquire(self, path: str, data_file: Path) -> _Shared:
        """The open environment of a file; the caller holds ``lock`` and later calls ``release``."""
        while self._inherited:
            inherited = self._inherited.pop()
            if inherited.environment is not None:
                inherited.environment.close()
        try:
            status = data_file.stat()
        except OSError as error:
            raise DataError(
                f"{path}: there is no data.mdb that can be read in it ({error.strerror}); expected an LMDB folder. "
                "Check the path"
            ) from error
        # Some Windows file systems number no files.
        file = (status.st_dev, status.st_ino) if status.st_ino else data_file.resolve()
        shared = self._by_file.get(file) or _Shared(file)
        shared.users += 1
        self._by_file[file] = shared
        if shared.environment is None:
            try:
                shared.environment = _open_environment(path, data_file, status.st_size)
            except BaseException:
                self.release(shared)
                raise
        return shared

    def release(self, shared: _Shared) -> None:
        if shared.pid != os.getpid():
            return  # it came over a fork: acquire() closes it
        shared.users -= 1
        if shared.users == 0:
            self._by_file.pop(shared.file, None)
            environment, shared.environment = shared.environment, None
            if environment is not None:
                environment.close()


_opened = _OpenEnvironments()


def _start_afresh() -> None:
    global _opened
    _opened = _opened.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def _open_environment(path: str, data_file: Path, size: int) -> Environment:
    lmdb = import_lmdb("reading LMDB stores")
    try:
        environment: Environment = lmdb.open(
            str(data_file.parent),
            readonly=True,
            create=False,
            lock=False,  # works on read-only file systems; nobody writes to a finished store
            readahead=False,  # samples are read in random order
            meminit=False,
            max_readers=32,
        )
    except lmdb.Error as error:
        raise DataError(
            f"{path}: data.mdb ({size} bytes) cannot be opened: {error}; expected a whole LMDB file that you may read. "
            "Copy or write it again"
        ) from error
    # Reading a page beyond the end of the file would kill the process with a bus error.
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < expected:
        environment.close()
        raise DataError(
            f"{path}: data.mdb has {size} bytes, {expected} expected: it was cut short. Copy or download it again "
            "(if it is whole but records were deleted from it, compact it with: python -m lmdb copy --compact)"
        )
    return environment

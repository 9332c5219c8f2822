"""Samples in an LMDB store: one folder, the layout that the field's published sets have.

Keys are ASCII and count from 1; ``image-%09d`` holds the bytes of a picture file, ``label-%09d`` its text in UTF-8, and
``num-samples`` how many there are, in decimal. Two records are optional: ``lexicon-%09d``, words joined by spaces, and
``wh-%09d``, the size of the picture as ``{width}_{height}``.

``LmdbStore`` reads such a folder, whoever wrote it, and ``LmdbWriter`` writes one. This is the only room that knows
``lmdb``, which is imported when a store is opened and not before.

References:
    The layout: github.com/bgshih/crnn, tool/create_dataset.py (with lexicons); github.com/clovaai/
    deep-text-recognition-benchmark, create_lmdb_dataset.py; github.com/Topdu/OpenOCR, tools/create_lmdb_dataset.py
    (with sizes).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from crnn.errors import DataError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from lmdb import Environment

__all__ = ["LmdbStore", "LmdbWriter"]

_COUNT_KEY = b"num-samples"
_MIB = 1 << 20
_MAX_PENDING_BYTES = 64 * _MIB
_MAX_GROWTH_BYTES = 1024 * _MIB


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
        text = self._text(f"lexicon-{self._number(index):09d}")
        return None if text is None else tuple(text.split())

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
        lmdb = _import_lmdb("reading LMDB stores")
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
        raw = self._get(_COUNT_KEY.decode())
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
        lmdb = _import_lmdb("reading LMDB stores")
        try:
            with self._environment().begin() as transaction, transaction.cursor() as cursor:
                # "." follows "-" in ASCII: the key before it is the last that starts with "label-".
                found = cursor.prev() if cursor.set_range(b"label.") else cursor.last()
                key = bytes(cursor.key()) if found else b""
        except lmdb.Error as error:
            raise DataError(f"{self.path}: cannot be read: {error}. Copy or write it again") from error
        return key.decode("ascii", "replace") if key.startswith(b"label-") else None


class LmdbWriter:
    """Writes an LMDB folder; a context manager.

    The samples go to a folder beside it, ``path`` with ``.partial`` at the end, which gets its name when all is
    written. An exception inside the ``with`` removes it; a killed process leaves it, without ``num-samples``.

    Args:
        path: The folder to write. It must not exist yet, or be empty.
        map_size: Bytes to start with. It grows as needed; the file is never larger than its contents (on Windows: than
            the map).
        commit_every: Samples per transaction.

    Raises:
        DataError: The folder has something in it, another writer is at it or was killed there, nothing was added, or
            the disk is full.
        MissingExtraError: The package ``lmdb`` is not installed.

    Example:
        ``with LmdbWriter("plates") as writer: writer.add(image, "AB 123")``
    """

    def __init__(self, path: str | os.PathLike[str], *, map_size: int = 16 * _MIB, commit_every: int = 1000) -> None:
        if commit_every < 1 or map_size < 1:
            raise ValueError(f"commit_every is {commit_every} and map_size {map_size}; expected at least 1")
        self.path = os.fspath(path)
        self.num_samples = 0
        self._lmdb = _import_lmdb("writing LMDB stores")
        self._folder = Path(self.path).absolute()
        self._partial = self._folder.parent / f"{self._folder.name}.partial"
        self._map_size = map_size
        self._commit_every = commit_every
        self._environment: Environment | None = None
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_samples = 0
        self._pending_bytes = 0

    def __enter__(self) -> Self:
        if self._folder.exists() and not (self._folder.is_dir() and not any(self._folder.iterdir())):
            raise DataError(
                f"{self.path}: exists already; expected a new or empty folder. Choose another, or remove it"
            )
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir()  # fails where it exists: of two writers at once, one is refused
        except OSError as error:
            if self._partial.exists():
                raise DataError(
                    f"{self._partial}: exists already; another writer is at it, or was killed. "
                    "If none is running, remove that folder and start again"
                ) from None
            raise DataError(f"{self.path}: cannot be written: {error}. Choose another folder") from error
        try:
            # No lock: the folder is ours alone. No sync before the end: until then the store does not count as whole.
            self._environment = self._lmdb.open(
                str(self._partial), map_size=self._map_size, lock=False, sync=False, metasync=False
            )
        except self._lmdb.Error as error:
            self._discard()
            raise self._write_error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise
        self._publish()

    def add(
        self, image: bytes, label: str, *, lexicon: Sequence[str] | None = None, size: tuple[int, int] | None = None
    ) -> None:
        """Append one sample.

        Args:
            image: The bytes of a picture file, stored as they are.
            label: Its text.
            lexicon: The words that the sample may be; stored joined by spaces, so no word may have white space in it.
            size: Width and height of the picture in pixels.

        Raises:
            ImageError: ``image`` has 0 bytes (``empty``).
            DataError: The label or a word cannot be stored, the size is not positive, or the disk is full.
        """
        if self._environment is None:
            raise RuntimeError(f"{self.path}: the writer is not open; use it in a with statement")
        number = self.num_samples + 1
        if not image:
            raise ImageError(f"{self.path}: picture {number} has 0 bytes; expected a picture file", reason="empty")
        records = [(b"image-%09d" % number, image), (b"label-%09d" % number, self._encoded(label))]
        if lexicon is not None:
            if isinstance(lexicon, str):
                raise TypeError(f"lexicon is the text {lexicon!r}; expected a sequence of words")
            unfit = next((word for word in lexicon if word.split() != [word]), None)
            if unfit is not None:
                raise DataError(
                    f"{self.path}: sample {number} has the lexicon word {unfit!r}; expected words without white space, "
                    "because the layout joins them by spaces. Split or drop it"
                )
            records.append((b"lexicon-%09d" % number, self._encoded(" ".join(lexicon))))
        if size is not None:
            if min(size) < 1:
                raise DataError(f"{self.path}: sample {number} has the size {size}; expected at least 1 by 1 pixel")
            records.append((b"wh-%09d" % number, b"%d_%d" % size))
        self._pending += records
        self._pending_bytes += sum(len(value) for _, value in records)
        self._pending_samples += 1
        self.num_samples = number
        if self._pending_samples >= self._commit_every or self._pending_bytes >= _MAX_PENDING_BYTES:
            self._commit()

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{self.path}: {text!r} has half of a surrogate pair, which UTF-8 cannot hold. Correct the text"
            ) from None

    def _commit(self) -> None:
        assert self._environment is not None
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    cursor.putmulti(self._pending)
                break
            except self._lmdb.MapFullError:  # the transaction is undone; all of it goes in again
                growth = max(min(self._map_size, _MAX_GROWTH_BYTES), 2 * self._pending_bytes)
                self._map_size += -(-growth // _MIB) * _MIB
                self._environment.set_mapsize(self._map_size)
            except self._lmdb.Error as error:
                raise self._write_error(error) from error
        self._pending = []
        self._pending_samples = 0
        self._pending_bytes = 0

    def _finish(self) -> None:
        if self.num_samples == 0:
            raise DataError(f"{self.path}: no sample was added; expected at least one. Nothing was written")
        self._commit()
        self._pending = [(_COUNT_KEY, b"%d" % self.num_samples)]
        self._commit()
        assert self._environment is not None
        try:
            self._environment.sync(True)
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        self._environment.close()
        self._environment = None

    def _publish(self) -> None:
        try:
            if self._folder.exists():
                self._folder.rmdir()  # it was empty; Windows does not rename onto a folder
            self._partial.rename(self._folder)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be given its name: {error}. The store is whole: rename {self._partial} yourself"
            ) from error

    def _discard(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
        shutil.rmtree(self._partial, ignore_errors=True)

    def _write_error(self, error: Exception) -> DataError:
        # LMDB reports a full disk as an input/output error, so the message says how much room there is.
        free_mib = shutil.disk_usage(self._partial.parent).free // _MIB
        return DataError(
            f"{self.path}: cannot be written: {error}; its disk has {free_mib} MiB left, "
            f"the next records need {self._pending_bytes // _MIB + 1} MiB. Make room or choose another folder"
        )


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
    lmdb = _import_lmdb("reading LMDB stores")
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


def _import_lmdb(purpose: str) -> ModuleType:
    try:
        import lmdb
    except ImportError:
        raise MissingExtraError("lmdb", "data", purpose) from None
    return lmdb

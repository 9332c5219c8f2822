"""Samples in an LMDB store, in the layout of the field's published sets.

ASCII keys, from 1: ``image-%09d`` (file), ``label-%09d`` (UTF-8), ``num-samples``; optional: ``lexicon-%09d`` (words
joined by spaces), ``wh-%09d`` (``{width}_{height}``) and, only here, ``large-lexicon-%09d``.
References: bgshih/crnn, clovaai/deep-text-recognition-benchmark, Topdu/OpenOCR (create_dataset, create_lmdb_dataset).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from crnn.errors import DataError, ImageError, MissingExtraError
from crnn.files import FolderWriter

if TYPE_CHECKING:
    from lmdb import Environment


COUNT_KEY = "num-samples"
"""Key of the number of samples. It is written last: a store without it is not whole."""


class LmdbStore:
    """An LMDB folder (with ``data.mdb``), opened for reading.

    It can be pickled, forked, and read from threads: each process opens the file on its first read, and shares it among
    all its stores of that file. Nothing is held per sample. An index outside of [0, len) is an ``IndexError``.

    Raises:
        DataError: The folder or a whole LMDB file is missing, or ``num-samples`` is missing, no number, 0, or too
            large.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Path(self.path).absolute() / "data.mdb"
        self._opened: tuple[int, Environment] | None = None  # with the process that opened it
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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"LmdbStore({self.path!r})"

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._opened = None

    def key(self, index: int) -> str:
        """Return the key of the image."""
        return f"image-{self._number(index):09d}"

    def label(self, index: int) -> str:
        """Return the label as stored, or raise ``DataError`` where it is missing or not UTF-8."""
        key = f"label-{self._number(index):09d}"
        text = self._text(key)
        if text is None:
            raise DataError(f"{self.path}: has no record {key!r}; expected one per sample. Write the store again")
        return text

    def image_bytes(self, index: int) -> bytes:
        """Return the stored bytes of the image file, not decoded.

        Raises:
            ImageError: The record is missing (``missing``) or has 0 bytes (``empty``).
            DataError: The file is damaged.
        """
        key = self.key(index)
        image = self._get(key)
        if image is None:
            raise ImageError(f"{self.path}: has no record {key!r}; expected an image", reason="missing")
        if not image:
            raise ImageError(f"{self.path}: record {key!r} has 0 bytes; expected an image", reason="empty")
        return image

    def lexicon(self, index: int) -> tuple[str, ...] | None:
        """Return the words that this sample may be, or ``None`` where not stored."""
        return self._words(f"lexicon-{self._number(index):09d}")

    def large_lexicon(self, index: int) -> tuple[str, ...] | None:
        """Return the words of the larger lexicon, or ``None`` where not stored."""
        return self._words(f"large-lexicon-{self._number(index):09d}")

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Return width and height in pixels without decoding, or ``None`` where not stored."""
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
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            self._opened = opened = os.getpid(), _shared_environment(self.path, self._file)
        return opened[1]

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
    """Import the package ``lmdb`` on demand, or raise ``MissingExtraError`` with the purpose."""
    try:
        import lmdb
    except ImportError:
        raise MissingExtraError("lmdb", "data", purpose) from None
    return lmdb


# LMDB must not have a file open twice in one process: all stores of a process that read a file share its environment,
# which is closed with the last reference to it.
_environments: WeakValueDictionary[tuple[int, object], Environment] = WeakValueDictionary()
_locks: dict[int, threading.Lock] = {}  # by process: one that was forked may inherit a lock that nobody gives back


def _shared_environment(path: str, data_file: Path) -> Environment:
    try:
        status = data_file.stat()
    except OSError as error:
        raise DataError(
            f"{path}: there is no data.mdb that can be read in it ({error.strerror}); expected an LMDB folder. "
            "Check the path"
        ) from error
    # Some Windows file systems number no files.
    key = (os.getpid(), (status.st_dev, status.st_ino) if status.st_ino else data_file.resolve())
    with _locks.setdefault(os.getpid(), threading.Lock()):
        environment = _environments.get(key)
        if environment is None:
            for (pid, _), inherited in list(_environments.items()):
                if pid != os.getpid():
                    inherited.close()  # LMDB cannot be used across a fork, nor opened beside an inherited environment
            environment = _environments[key] = _open_environment(path, data_file, status.st_size)
        return environment


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


STATE_KEY = "conversion-state"
"""Key, in partial stores only, of the number of samples and the caller's state."""

MIB = 1 << 20

MAX_PENDING_BYTES = 64 * MIB
"""Most bytes that should wait in memory for the next transaction."""

_MAX_GROWTH_BYTES = 1024 * MIB

# When a full page of LMDB gets a new last record, the one before it moves to the new page, too: of three images that
# fit, a page keeps one or two, and a store of MJSynth is half empty. With another record behind the images pages stay
# full. It is deleted before the transaction ends, and put anew now and then, as it may end up alone on a page. Measured
# with images of 0.1 to 9 kB: those of 1.3 kB take 0.64 of the room, all others about the same.
_BEHIND_IMAGES = b"image-~"
_RECORDS_AT_ONCE = 48


_Record = tuple[bytes, bytes]


class StoreFile:
    """One ``data.mdb`` that is being written in transactions; ``LmdbWriter`` owns its folder.

    Args:
        folder: Folder of the file; it exists when ``open`` is called.
        path: Name in messages.
        map_size: Initial bytes.
        sync: Wait for the disk at each commit.
    """

    def __init__(self, folder: Path, path: str, *, map_size: int = 16 * MIB, sync: bool = True) -> None:
        self.num_samples = 0
        self.pending_samples = 0
        self.pending_bytes = 0
        self._lmdb = import_lmdb("writing LMDB stores")
        self._folder = folder
        self._path = path
        self._map_size = map_size
        self._sync = sync
        self._environment: Environment | None = None
        self._pending: list[_Record] = []

    def open(self) -> None:
        """Open or make the file."""
        try:
            # No lock: the folder is its owner's alone.
            self._environment = self._lmdb.open(
                str(self._folder), map_size=self._map_size, lock=False, sync=self._sync, metasync=False
            )
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        self._map_size = max(self._map_size, self._environment.info()["map_size"])

    def close(self) -> None:
        """Close the file as it was after the last transaction."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def go_on(self) -> bytes | None:
        """Go on behind the last ``commit`` of an earlier writer, and return its state, or ``None`` if the file is new.

        Raises:
            DataError: The store is whole, or has no state to go on with.
        """
        if self.finished_samples() is not None:
            raise DataError(
                f"{self._folder}: is a whole store that has not got its name; rename it to {self._path}, or remove it"
            )
        record = self._get(STATE_KEY)
        if record is None:
            if self._is_empty():
                return None
            raise DataError(
                f"{self._folder}: was left by a writer that nobody can go on for. Remove it and start again"
            )
        number, _, state = record.partition(b" ")
        self.num_samples = int(number)
        return state

    def finished_samples(self) -> int | None:
        """Return the number of samples if ``finish`` was called by any writer, else ``None``."""
        record = self._get(COUNT_KEY)
        return None if record is None else int(record)

    def add(
        self,
        image: bytes,
        label: str,
        lexicon: Sequence[str] | None,
        large_lexicon: Sequence[str] | None,
        size: tuple[int, int] | None,
    ) -> None:
        """Append one sample, as ``LmdbWriter.add``; the next transaction writes it."""
        if self._environment is None:
            raise RuntimeError(f"{self._path}: the writer is not open; use it in a with statement")
        number = self.num_samples + 1
        if not image:
            raise ImageError(f"{self._path}: image {number} has 0 bytes; expected an image file", reason="empty")
        digits = b"%09d" % number
        text = self._encoded(label)
        records = [(b"image-" + digits, image), (b"label-" + digits, text)]
        num_bytes = len(image) + len(text)
        if size is not None:
            if size[0] < 1 or size[1] < 1:
                raise DataError(f"{self._path}: sample {number} has the size {size}; expected at least 1 by 1 pixel")
            records.append((b"wh-" + digits, b"%d_%d" % size))
        for key, words in ((b"lexicon-", lexicon), (b"large-lexicon-", large_lexicon)):
            if words is not None:
                records.append((key + digits, self._joined(words, number)))
                num_bytes += len(records[-1][1])
        self._pending += records
        self.pending_bytes += num_bytes
        self.pending_samples += 1
        self.num_samples = number

    def commit(self, state: bytes | None = None) -> None:
        """Write all added samples, and the ``state`` for ``go_on``, in one transaction."""
        if state is not None:
            self._pending.append((STATE_KEY.encode(), b"%d %s" % (self.num_samples, state)))
        self._write()

    def finish(self) -> None:
        """Write the rest and the number of samples, and close the file."""
        self._pending.append((COUNT_KEY.encode(), b"%d" % self.num_samples))
        self._write(without=STATE_KEY)
        assert self._environment is not None
        try:
            self._environment.sync(True)
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        self.close()

    def _joined(self, words: Sequence[str], number: int) -> bytes:
        if isinstance(words, str):
            raise TypeError(f"lexicon is the text {words!r}; expected a sequence of words")
        unfit = next((word for word in words if word.split() != [word]), None)
        if unfit is not None:
            raise DataError(
                f"{self._path}: sample {number} has the lexicon word {unfit!r}; expected words without white space, "
                "because the layout joins them by spaces. Split or drop it"
            )
        return self._encoded(" ".join(words))

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{self._path}: {text!r} has half of a surrogate pair, which UTF-8 cannot hold. Correct the text"
            ) from None

    def _get(self, key: str) -> bytes | None:
        assert self._environment is not None
        try:
            with self._environment.begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
                return value
        except self._lmdb.Error as error:
            raise self._write_error(error) from error

    def _is_empty(self) -> bool:
        assert self._environment is not None
        entries: int = self._environment.stat()["entries"]
        return entries == 0

    def _write(self, without: str = "") -> None:
        """Put the pending records and delete one key, in one transaction."""
        assert self._environment is not None
        records = self._pending
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    for first in range(0, len(records), _RECORDS_AT_ONCE):
                        transaction.put(_BEHIND_IMAGES, b"")
                        cursor.putmulti(records[first : first + _RECORDS_AT_ONCE])
                        transaction.delete(_BEHIND_IMAGES)
                    if without:
                        transaction.delete(without.encode())
                break
            except self._lmdb.MapFullError:  # the transaction is undone; all of it goes in again
                growth = max(min(self._map_size, _MAX_GROWTH_BYTES), 2 * self.pending_bytes)
                self._map_size += -(-growth // MIB) * MIB
                self._environment.set_mapsize(self._map_size)
            except self._lmdb.Error as error:
                raise self._write_error(error, self.pending_bytes) from error
        self._pending = []
        self.pending_samples = 0
        self.pending_bytes = 0

    def _write_error(self, error: Exception, num_bytes: int = 0) -> DataError:
        # LMDB reports a full disk as an input/output error, so the message says how much room there is.
        free_mib = shutil.disk_usage(self._folder.parent).free // MIB
        return DataError(
            f"{self._path}: cannot be written: {error}; its disk has {free_mib} MiB left, "
            f"the next records need {num_bytes // MIB + 1} MiB. Make room or choose another folder"
        )


_NAMES = ("data.mdb", "lock.mdb")


class LmdbWriter(FolderWriter):
    """Context manager that writes an LMDB folder.

    Samples go to ``path`` with ``.partial`` at the end, which is renamed when whole. An exception removes it; a killed
    process leaves it, without ``num-samples``. With ``keep_partial`` an exception leaves it, too, and the next writer
    goes on behind the last ``commit``; each commit then waits for the disk, so that even a crash of the machine spoils
    nothing.

    Args:
        path: The folder to write; it must not exist yet, or be empty.
        map_size: Initial bytes; grows as needed. The file is no larger than its contents (on Windows: than the map).
        commit_every: Samples per transaction; with ``keep_partial`` the caller commits.
        keep_partial: Keep a partial store, and go on with an earlier one.

    Raises:
        DataError: The folder is not empty, another writer is or was killed at it, nothing was added, the disk is full,
            or the partial store cannot be continued.

    Example:
        ``with LmdbWriter("plates") as writer: writer.add(image, "AB 123")``
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_size: int = 16 * MIB,
        commit_every: int = 1000,
        keep_partial: bool = False,
    ) -> None:
        if commit_every < 1 or map_size < 1:
            raise ValueError(f"commit_every is {commit_every} and map_size {map_size}; expected at least 1")
        super().__init__(path, _NAMES, go_on=keep_partial)
        # No sync before the end, unless somebody may go on with it: until then the store does not count as whole.
        self._file = StoreFile(self._folder.partial, self.path, map_size=map_size, sync=keep_partial)
        self._commit_every = commit_every
        self._keep_partial = keep_partial

    @property
    def num_samples(self) -> int:
        """Samples added so far, by earlier writers too."""
        return self._file.num_samples

    @property
    def pending_bytes(self) -> int:
        """Bytes of the samples added since the last transaction."""
        return self._file.pending_bytes

    def commit(self, state: bytes) -> None:
        """Write all added samples and the next writer's ``state``; needs ``keep_partial``."""
        if not self._keep_partial:
            raise RuntimeError(f"{self.path}: the writer keeps no state; expected keep_partial=True")
        self._file.commit(state)

    def add(
        self,
        image: bytes,
        label: str,
        *,
        lexicon: Sequence[str] | None = None,
        large_lexicon: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Append one sample.

        Args:
            image: Bytes of an image file, stored unchanged.
            label: Its text.
            lexicon: Words that the sample may be, without white space: they are joined by spaces.
            large_lexicon: Words of a larger lexicon.
            size: Width and height in pixels.

        Raises:
            ImageError: ``image`` has 0 bytes (``empty``).
            DataError: The label or a word cannot be stored, the size is not positive, or the disk is full.
        """
        file = self._file
        file.add(image, label, lexicon, large_lexicon, size)
        if self._keep_partial:
            return  # the caller commits
        if file.pending_samples >= self._commit_every or file.pending_bytes >= MAX_PENDING_BYTES:
            file.commit()

    def _begin(self) -> None:
        self._file.open()
        if self._keep_partial:
            self.state = self._file.go_on()

    def _finish(self) -> None:
        if self.num_samples == 0:
            raise DataError(f"{self.path}: no sample was added; expected at least one. Nothing was written")
        self._file.finish()

    def _leave(self) -> None:
        self._file.close()
        if self._keep_partial:
            self._folder.release()
        else:
            self._folder.discard()

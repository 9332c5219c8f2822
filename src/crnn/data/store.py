"""Stores of samples: the interface that all have, and LMDB folders in the layout of the field's published sets.

ASCII keys, from 1: ``image-%09d`` (file), ``label-%09d`` (UTF-8), ``num-samples``; optional: ``lexicon-%09d`` (words
joined by spaces), ``wh-%09d`` (``{width}_{height}``) and, only here, ``large-lexicon-%09d``.
References: bgshih/crnn, clovaai/deep-text-recognition-benchmark, Topdu/OpenOCR (create_dataset, create_lmdb_dataset).
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import shutil
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from crnn.errors import DataError, ImageError, MissingExtraError
from crnn.files import FolderWriter

if TYPE_CHECKING:
    from lmdb import Environment


class SampleStore(ABC):
    """Stored images and labels in a fixed order, with indices in [0, len); others are an ``IndexError``.

    A store can be pickled, forked, and read from threads; open files are not carried over. Nothing is held per sample
    but its place.
    """

    path: str  # as the user typed it
    num_unread: int = 0  # samples beyond the number that the store says it has, ``beyond_num_samples`` where counted
    _num_samples: int

    def __len__(self) -> int:
        return self._num_samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the name of the sample in messages."""

    @abstractmethod
    def label(self, index: int) -> str:
        """Return the label as stored, or raise ``DataError`` where it is missing or not UTF-8."""

    @abstractmethod
    def image_bytes(self, index: int) -> bytes:
        """Return the bytes of the image file, at least one, not decoded, or raise ``ImageError`` with a reason."""

    def lexicon(self, index: int, *, large: bool = False) -> tuple[str, ...] | None:  # noqa: ARG002
        """Return the words of the smaller or larger lexicon of the sample, or ``None`` where not stored."""
        self._number(index)
        return None

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Return width and height in pixels without decoding, or ``None`` where not stored."""
        self._number(index)
        return None

    @abstractmethod
    def close(self) -> None:
        """Close open files and free memory; the next read opens the store again."""

    def _number(self, index: int) -> int:
        """Return the number of a sample, from 1."""
        if not 0 <= index < self._num_samples:
            raise IndexError(f"{self.path}: sample {index} of {self._num_samples}")
        return index + 1


COUNT_KEY = "num-samples"  # written last: a store without it is not whole
STATE_KEY = "conversion-state"  # in partial stores only: the number of samples and the caller's state


class LmdbStore(SampleStore):
    """An LMDB folder (with ``data.mdb``), opened for reading; one that is not whole is a ``DataError``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Path(self.path).absolute() / "data.mdb"
        self._opened: tuple[int, Environment] | None = None  # with the process that opened it
        _check_pages(self.path, self._file)
        try:
            self._num_samples = self._checked_count()
            while self._get(f"label-{self._num_samples + self.num_unread + 1:09d}") is not None:
                self.num_unread += 1
        finally:
            self.close()  # so that workers forked from here on inherit nothing open

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._opened = None

    def key(self, index: int) -> str:
        """Return the key of the image."""
        return f"image-{self._number(index):09d}"

    def label(self, index: int) -> str:
        """Return the label, or raise ``DataError`` where it is missing or not UTF-8."""
        key = f"label-{self._number(index):09d}"
        text = self._text(key)
        if text is None:
            raise DataError(f"{self.path}: has no record {key!r}; expected one per sample. Write the store again")
        return text

    def image_bytes(self, index: int) -> bytes:
        """Return the image; the reasons of ``ImageError`` are ``missing`` and ``empty``."""
        key = self.key(index)
        image = self._get(key)
        if not image:
            found, reason = ("has no record {!r}", "missing") if image is None else ("record {!r} has 0 bytes", "empty")
            raise ImageError(f"{self.path}: {found.format(key)}; expected an image", reason=reason)
        return image

    def lexicon(self, index: int, *, large: bool = False) -> tuple[str, ...] | None:
        """Return the words of ``lexicon-`` or ``large-lexicon-``, if any."""
        text = self._text(f"{'large-' if large else ''}lexicon-{self._number(index):09d}")
        return None if text is None else tuple(text.split())

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Return the numbers of ``wh-``, if any."""
        key = f"wh-{self._number(index):09d}"
        raw = self._get(key)
        if raw is None:
            return None
        width, _, height = raw.partition(b"_")
        if not (len(raw) <= 20 and width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise self._unfit(key, raw, "'{width}_{height}' in pixels")
        return int(width), int(height)

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
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _shared_environment(self.path, self._file)
        try:
            with self._opened[1].begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
                return value
        except lmdb.Error as error:
            raise DataError(
                f"{self.path}: record {key!r} cannot be read: {error}. data.mdb is damaged: copy or write it again"
            ) from error

    def _checked_count(self) -> int:
        raw = self._get(COUNT_KEY)
        if raw is None:
            raise DataError(
                f"{self.path}: has no record 'num-samples', which its writer puts in last. Write the store again"
            )
        if not raw.strip().isdigit() or len(raw) > 20:
            raise self._unfit(COUNT_KEY, raw, "a whole number")
        if int(raw) == 0:
            raise self._unfit(COUNT_KEY, raw, "at least 1 sample")
        if self._get(f"label-{int(raw):09d}") is None:
            raise DataError(
                f"{self.path}: num-samples is {int(raw)}, but there is no 'label-{int(raw):09d}' (keys count from 1)"
            )
        return int(raw)


def _import_lmdb(purpose: str) -> ModuleType:
    try:
        import lmdb
    except ImportError:
        raise MissingExtraError("lmdb", "data", purpose) from None
    return lmdb


# LMDB must not have a file open twice in one process: all stores of a process that read a file share its environment,
# which is closed with the last reference to it.
_environments: WeakValueDictionary[tuple[int, Path], Environment] = WeakValueDictionary()
_locks: dict[int, threading.Lock] = {}  # by process: one that was forked may inherit a lock that nobody gives back


def _shared_environment(path: str, file: Path) -> Environment:
    key = (os.getpid(), file.resolve())
    with _locks.setdefault(os.getpid(), threading.Lock()):
        environment = _environments.get(key)
        if environment is None:
            for (pid, _), inherited in list(_environments.items()):
                if pid != os.getpid():
                    inherited.close()  # LMDB cannot be used across a fork, nor opened beside an inherited environment
            environment = _environments[key] = _open_environment(path, file)
        return environment


def _open_environment(path: str, file: Path) -> Environment:
    lmdb = _import_lmdb("reading LMDB stores")
    try:
        environment: Environment = lmdb.open(
            str(file.parent),
            readonly=True,
            create=False,
            lock=False,  # works on read-only file systems; nobody writes to a finished store
            readahead=False,  # samples are read in random order
            meminit=False,
            max_readers=32,
        )
    except (OSError, lmdb.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: there is no data.mdb that can be read in it ({why}); expected an LMDB folder"
        ) from error
    return environment


_META = struct.Struct("<16xII16xI76xQQQQ")  # LMDB 0.9: magic, version; page size; records, root, last page, transaction
_MAGIC = (0xBEEFC0DE, 1)
_PAGE = struct.Struct("<Q2xHH2x")  # of keys: number, flags, where the places of its nodes end, which follow
_NODE = struct.Struct("<IHH")  # length of the record or, with the flags, page below; flags; length of the key behind it
_BRANCH, _LEAF, _LEAF2 = 1, 2, 0x20  # flags of pages
_BIG, _DUPLICATES = 1, 4  # flags of nodes
_MAX_CHECKED = 300_000  # records, a second; where there are more, only the length of the file is checked


def _check_pages(path: str, file: Path) -> None:
    """Raise ``DataError`` where LMDB would read beyond the file's end, for which the system kills the process."""
    fault = ""
    with contextlib.suppress(OSError, ValueError, struct.error):  # LMDB says what is wrong with such a file
        status = file.stat()
        fault = _page_fault(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if fault:
        raise DataError(f"{path}: data.mdb {fault}")


@functools.lru_cache(maxsize=64)  # a run opens a store again and again, and the check may read most of the file
def _page_fault(file: Path, *_version: int) -> str:
    """Return what is wrong with the pages of keys, else with the length, or an empty text."""
    fault = "is damaged: a page of keys is not as LMDB writes them. Copy or download it again"
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, version, size, *_ = _META.unpack_from(data)
        if (magic, version) != _MAGIC:
            return ""
        if size not in (1 << bits for bits in range(9, 17)):
            return fault
        entries, root, last, _ = max((_META.unpack_from(data, at)[3:] for at in (0, size)), key=lambda meta: meta[-1])
        if len(data) // size <= last:  # no fault where records of the last pages were deleted before they were written
            fault = (
                f"has {len(data)} bytes, {(last + 1) * size} expected: it was cut short. Copy or download it again "
                "(if it is whole but records were deleted from it, compact it with: python -m lmdb copy --compact)"
            )
        if entries > _MAX_CHECKED:
            return fault if len(data) // size <= last else ""
        return "" if not entries or _keys_fit(data, size, root, last) else fault


def _keys_fit(data: mmap.mmap, size: int, root: int, last: int) -> bool:
    """Check all pages of keys, level by level, in the order of the file."""
    level, checked = [root], 0
    while level:
        checked += len(level)
        if checked > last or None in (below := [_children(data, size, page) for page in sorted(level)]):
            return False
        level = [page for children in below if children for page in children]
    return True


def _children(data: mmap.mmap, size: int, page: int) -> list[int] | None:
    """Return the pages below a page of keys, or ``None`` where it or a record is not within the file."""
    start, in_file = page * size, len(data) // size
    number, flags, lower = _PAGE.unpack_from(data, start) if 2 <= page < in_file else (0, 0, 0)
    kind = flags & (_BRANCH | _LEAF | _LEAF2)
    if number != page or kind not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= size:
        return None
    children = []
    for node in struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", data, start + _PAGE.size):
        if not lower <= node <= size - _NODE.size:
            return None
        length, node_flags, key_size = _NODE.unpack_from(data, start + node)
        end, pages_end = node + _NODE.size + key_size, 0
        if kind == _BRANCH:
            children.append(length | node_flags << 32)
        elif node_flags & _BIG and end <= size - 8:  # the record is on pages of its own
            pages_end = struct.unpack_from("<Q", data, start + end)[0] + -(-(_PAGE.size + length) // size)
        else:
            end += length
        if end > size or pages_end > in_file or (node_flags & _DUPLICATES and kind == _LEAF):
            return None
    return children


_MIB = 1 << 20
_MAP_BYTES, _MAX_GROWTH_BYTES = 16 * _MIB, 1024 * _MIB  # at first, and at once

# When a full page of LMDB gets a new last record, the one before it moves to the new page, too: of three images that
# fit, a page keeps one or two, and a store of MJSynth is half empty. With another record behind the images pages stay
# full. It is deleted before the transaction ends, and put anew now and then, as it may end up alone on a page. Measured
# with images of 0.1 to 9 kB: those of 1.3 kB take 0.64 of the room, all others about the same.
_BEHIND_IMAGES = b"image-~"
_RECORDS_AT_ONCE = 48


class LmdbWriter(FolderWriter):
    """Context manager that writes an LMDB folder, which must not exist yet, or be empty.

    Samples go to ``path`` with ``.partial`` at the end, which is renamed when whole. After an exception or a kill it
    stays, without ``num-samples``, and the next writer goes on behind the last ``commit``; each commit waits for the
    disk, so that even a crash of the machine spoils nothing. A store without samples is a ``DataError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, ("data.mdb", "lock.mdb"))
        self.pending_bytes = 0  # of samples since the last commit, held in memory
        self._pending: list[tuple[bytes, bytes]] = []
        self._map_size = _MAP_BYTES
        self._environment: Environment | None = None
        self._lmdb = _import_lmdb("writing LMDB stores")

    def add(
        self,
        image: bytes,
        label: str,
        *,
        lexicon: Sequence[str] | None = None,
        large_lexicon: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Append one sample: an image file, its text, words without white space, width and height."""
        digits = b"%09d" % (self.num_samples + 1)
        records = [(b"image-" + digits, image), (b"label-" + digits, label.encode())]
        if size is not None:
            records.append((b"wh-" + digits, b"%d_%d" % size))
        for key, words in ((b"lexicon-", lexicon), (b"large-lexicon-", large_lexicon)):
            if words:
                records.append((key + digits, " ".join(words).encode()))
        self._pending += records
        self.pending_bytes += sum(len(value) for _, value in records)
        self.num_samples += 1

    def commit(self, state: bytes) -> None:
        """Write all added samples, and the next writer's ``state``, in one transaction."""
        self._pending.append((STATE_KEY.encode(), b"%d %s" % (self.num_samples, state)))
        self._write()

    def _begin(self) -> None:
        partial = self.partial
        try:
            # No lock: the folder is this writer's alone.
            self._environment = self._lmdb.open(str(partial), map_size=self._map_size, lock=False, metasync=False)
            self._map_size = max(self._map_size, self._environment.info()["map_size"])
            with self._environment.begin() as transaction:
                whole, state = (transaction.get(key.encode()) for key in (COUNT_KEY, STATE_KEY))
            empty = self._environment.stat()["entries"] == 0
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        if whole is not None:
            raise DataError(
                f"{partial}: is a whole store that has not got its name; rename it to {self.path}, or remove it"
            )
        if state is not None:
            number, _, self.state = state.partition(b" ")
            self.num_samples = int(number)
        elif not empty:
            raise DataError(f"{partial}: was left by a writer that nobody can go on for. Remove it and start again")

    def _write(self, last: bool = False) -> None:
        """Put the pending records, and complete the store where they are the last, in one transaction."""
        assert self._environment is not None
        records = self._pending
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    for first in range(0, len(records), _RECORDS_AT_ONCE):
                        transaction.put(_BEHIND_IMAGES, b"")
                        cursor.putmulti(records[first : first + _RECORDS_AT_ONCE])
                        transaction.delete(_BEHIND_IMAGES)
                    if last:
                        transaction.put(COUNT_KEY.encode(), b"%d" % self.num_samples)
                        transaction.delete(STATE_KEY.encode())
                if last:
                    self._environment.sync(True)
                break
            except self._lmdb.MapFullError:  # the transaction is undone; all of it goes in again
                growth = max(min(self._map_size, _MAX_GROWTH_BYTES), 2 * self.pending_bytes)
                self._map_size += -(-growth // _MIB) * _MIB
                self._environment.set_mapsize(self._map_size)
            except self._lmdb.Error as error:
                raise self._write_error(error) from error
        self._pending = []
        self.pending_bytes = 0

    def _finish(self) -> None:
        self._write(last=True)
        self._close()

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _write_error(self, error: Exception) -> DataError:
        # LMDB reports a full disk as an input/output error, so the message says how much room there is.
        free_mib = shutil.disk_usage(self.partial.parent).free // _MIB
        return DataError(
            f"{self.path}: cannot be written: {error}; its disk has {free_mib} MiB left, "
            f"the next records need {self.pending_bytes // _MIB + 1} MiB. Make room or choose another folder"
        )

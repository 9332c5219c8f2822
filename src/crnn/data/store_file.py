"""The ``data.mdb`` of a store that is being written.

This room and ``crnn.data.store`` are the only ones that know ``lmdb``.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crnn.data.store import COUNT_KEY, import_lmdb
from crnn.errors import DataError, ImageError

if TYPE_CHECKING:
    from lmdb import Environment

__all__ = ["MAX_PENDING_BYTES", "MIB", "STATE_KEY", "StoreFile"]

STATE_KEY = "conversion-state"
"""Key, in partial stores only, of the number of samples and of what the writer's caller needs to go on."""

MIB = 1 << 20

MAX_PENDING_BYTES = 64 * MIB
"""More than this should not wait in memory for the next transaction."""

_MAX_GROWTH_BYTES = 1024 * MIB

# Where a page of LMDB is full and a new record would be its last, the one before it moves to the new page with it: of
# three pictures that a page has room for it keeps one or two, and a store of MJSynth is half empty. With another record
# behind the pictures pages stay full. It is gone before the transaction ends, and is put anew now and then, as it may
# come to stand on a page of its own. Measured with pictures of 0.1 to 9 kB: those of 1.3 kB take 0.64 of the room, all
# others about the same.
_BEHIND_IMAGES = b"image-~"
_RECORDS_AT_ONCE = 48


_Record = tuple[bytes, bytes]


class _Commit(threading.Thread):
    """A transaction that is written while the caller goes on.

    Args:
        transact: Writes it.
        records: What to write.
        num_bytes: How much that is.

    Attributes:
        put: Set when everything is in the transaction, of which only the end is left, where the disk is waited for; or
            when it failed.
        failure: Why it failed.
    """

    def __init__(
        self,
        transact: Callable[[Sequence[_Record], int, threading.Event], None],
        records: Sequence[_Record],
        num_bytes: int,
    ) -> None:
        super().__init__(name="commit")
        self.records, self.num_bytes = records, num_bytes
        self.put = threading.Event()
        self.failure: BaseException | None = None
        self._transact = transact

    def run(self) -> None:
        try:
            self._transact(self.records, self.num_bytes, self.put)
        except BaseException as error:
            self.failure = error
        finally:
            self.put.set()


class StoreFile:
    """One ``data.mdb`` that is being written: samples go in, transaction by transaction.

    Which folder it is in, and when that gets its name, is its owner's business (``LmdbWriter``).

    Args:
        folder: Where the file is or will be; it exists when ``open`` is called.
        path: What messages call it.
        map_size: Bytes to start with.
        sync: Wait for the disk at each commit.

    Attributes:
        num_samples: Samples added so far, those of earlier writers included.
        pending_samples: Samples added since the last transaction.
        pending_bytes: Their bytes.
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
        self._commit: _Commit | None = None

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            DataError: It cannot be written.
        """
        try:
            # No lock: the folder is its owner's alone.
            self._environment = self._lmdb.open(
                str(self._folder), map_size=self._map_size, lock=False, sync=self._sync, metasync=False
            )
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        self._map_size = max(self._map_size, self._environment.info()["map_size"])

    def close(self) -> None:
        """Leave the file as it was after the last transaction."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def go_on(self) -> bytes | None:
        """Go on behind the last ``commit`` of an earlier writer.

        Returns:
            The state that it was given; ``None`` where there is nothing yet.

        Raises:
            DataError: This is a whole store, or one that nobody can go on with.
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
        """The number of samples, if ``finish`` was called by this or an earlier writer."""
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
        """Append one sample, as ``LmdbWriter.add`` says; it is in the file after the next transaction."""
        if self._environment is None:
            raise RuntimeError(f"{self._path}: the writer is not open; use it in a with statement")
        number = self.num_samples + 1
        if not image:
            raise ImageError(f"{self._path}: picture {number} has 0 bytes; expected a picture file", reason="empty")
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

    def commit(self, state: bytes | None = None, *, wait: bool = True) -> None:
        """Write everything added so far in one transaction, and ``state`` with it.

        Args:
            state: What ``go_on`` will return.
            wait: Otherwise this returns while the disk is waited for; the next call that writes waits for both, and
                raises what was wrong.

        Raises:
            DataError: The disk is full.
        """
        self._settle()
        if state is not None:
            self._pending.append((STATE_KEY.encode(), b"%d %s" % (self.num_samples, state)))
        if wait:
            self._write()
            return
        self._commit = _Commit(self._transact, self._pending, self.pending_bytes)
        self._forget_pending()
        self._commit.start()
        # Two threads that both run Python would hold each other up at every record.
        self._commit.put.wait()

    def finish(self) -> None:
        """Write what is left, and the number of samples; then close the file, which is whole now.

        Raises:
            DataError: The disk is full.
        """
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

    def _settle(self) -> None:
        """Wait for the other thread; what it could not write is to be written again."""
        if self._commit is None:
            return
        self._commit.join()
        commit, self._commit = self._commit, None
        if commit.failure is not None:
            self._pending[:0] = commit.records
            self.pending_bytes += commit.num_bytes
            raise commit.failure

    def _write(self, without: str = "") -> None:
        """One transaction: what waits goes in, that key goes out."""
        self._settle()
        self._transact(self._pending, self.pending_bytes, threading.Event(), without)
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._pending = []
        self.pending_samples = 0
        self.pending_bytes = 0

    def _transact(self, records: Sequence[_Record], num_bytes: int, put: threading.Event, without: str = "") -> None:
        assert self._environment is not None
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    for first in range(0, len(records), _RECORDS_AT_ONCE):
                        transaction.put(_BEHIND_IMAGES, b"")
                        cursor.putmulti(records[first : first + _RECORDS_AT_ONCE])
                        transaction.delete(_BEHIND_IMAGES)
                    if without:
                        transaction.delete(without.encode())
                    put.set()
                return
            except self._lmdb.MapFullError:  # the transaction is undone; all of it goes in again
                growth = max(min(self._map_size, _MAX_GROWTH_BYTES), 2 * num_bytes)
                self._map_size += -(-growth // MIB) * MIB
                self._environment.set_mapsize(self._map_size)
            except self._lmdb.Error as error:
                raise self._write_error(error, num_bytes) from error

    def _write_error(self, error: Exception, num_bytes: int = 0) -> DataError:
        # LMDB reports a full disk as an input/output error, so the message says how much room there is.
        free_mib = shutil.disk_usage(self._folder.parent).free // MIB
        return DataError(
            f"{self._path}: cannot be written: {error}; its disk has {free_mib} MiB left, "
            f"the next records need {num_bytes // MIB + 1} MiB. Make room or choose another folder"
        )

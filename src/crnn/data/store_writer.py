"""Writes LMDB stores of samples, which are whole or are not there.

The layout is that of ``crnn.data.store``, which reads them. A store gets its name when everything is in it, so that
nothing reads half of one, and the number of samples goes in last, so that what a killed writer leaves is no store.

A writer that keeps its partial store can be killed and go on: it stores what its caller needs for that in the same
transaction as the samples, under ``STATE_KEY``, which is not in a finished store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from crnn.data.partial_folder import PartialFolder
from crnn.data.store import COUNT_KEY, import_lmdb
from crnn.errors import DataError, ImageError

if TYPE_CHECKING:
    from lmdb import Environment

__all__ = ["STATE_KEY", "LmdbWriter"]

STATE_KEY = "conversion-state"
"""Key, in partial stores only, of the number of samples and of what the writer's caller needs to go on."""

_MIB = 1 << 20
_MAX_PENDING_BYTES = 64 * _MIB
_MAX_GROWTH_BYTES = 1024 * _MIB
_NAMES = ("data.mdb", "lock.mdb")


class LmdbWriter:
    """Writes an LMDB folder; a context manager.

    The samples go to a folder beside it, ``path`` with ``.partial`` at the end, which gets its name when all is
    written. An exception inside the ``with`` removes it; a killed process leaves it, without ``num-samples``.

    With ``keep_partial`` an exception leaves it too, with all samples up to the last ``commit``, and the next writer of
    the same path goes on behind them. Each commit then waits for the disk, so that not even the end of the machine
    spoils a partial store.

    Args:
        path: The folder to write. It must not exist yet, or be empty.
        map_size: Bytes to start with. It grows as needed; the file is never larger than its contents (on Windows: than
            the map).
        commit_every: Samples per transaction; with ``keep_partial`` the caller commits instead.
        keep_partial: Keep a partial store, and go on where there is one.

    Attributes:
        path: As given.
        num_samples: Samples added so far, by earlier writers too.
        state: With ``keep_partial``: what the last ``commit`` of an earlier writer was given; ``None`` where there was
            none.

    Raises:
        DataError: The folder has something in it, another writer is at it or was killed there, nothing was added, the
            disk is full, or the partial store is none to go on with.
        MissingExtraError: The package ``lmdb`` is not installed.

    Example:
        ``with LmdbWriter("plates") as writer: writer.add(image, "AB 123")``
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_size: int = 16 * _MIB,
        commit_every: int = 1000,
        keep_partial: bool = False,
    ) -> None:
        if commit_every < 1 or map_size < 1:
            raise ValueError(f"commit_every is {commit_every} and map_size {map_size}; expected at least 1")
        self.path = os.fspath(path)
        self.num_samples = 0
        self.state: bytes | None = None
        self._lmdb = import_lmdb("writing LMDB stores")
        self._folder = PartialFolder(path, _NAMES)
        self._map_size = map_size
        self._commit_every = commit_every
        self._keep_partial = keep_partial
        self._environment: Environment | None = None
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_samples = 0
        self._pending_bytes = 0

    def __enter__(self) -> Self:
        self._folder.open(go_on=self._keep_partial)
        try:
            # No lock: the folder is ours alone. No sync before the end, unless somebody may go on with it: until then
            # the store does not count as whole.
            self._environment = self._lmdb.open(
                str(self._folder.partial), map_size=self._map_size, lock=False, sync=self._keep_partial, metasync=False
            )
            if self._keep_partial:
                self._go_on()
        except self._lmdb.Error as error:
            self._leave()
            raise self._write_error(error) from error
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._leave()
            return
        try:
            self._finish()
        except BaseException:
            self._leave()
            raise
        self._folder.publish()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the samples that were added since the last transaction."""
        return self._pending_bytes

    def commit(self, state: bytes) -> None:
        """With ``keep_partial``: write everything added so far, and what the caller needs to go on from here.

        Args:
            state: What the next writer's ``state`` will be.

        Raises:
            DataError: The disk is full.
        """
        if not self._keep_partial:
            raise RuntimeError(f"{self.path}: the writer keeps no state; expected keep_partial=True")
        self._pending.append((STATE_KEY.encode(), b"%d %s" % (self.num_samples, state)))
        self._commit()

    def discard_earlier(self) -> None:
        """Remove the partial store of an earlier writer, before entering this one.

        Raises:
            DataError: There is something in it that no writer put there, or another writer is at it.
        """
        self._folder.discard_earlier()

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
            image: The bytes of a picture file, stored as they are.
            label: Its text.
            lexicon: The words that the sample may be; stored joined by spaces, so no word may have white space in it.
            large_lexicon: The same from a larger lexicon, where the set has two.
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
        for key, words in ((b"lexicon-%09d", lexicon), (b"large-lexicon-%09d", large_lexicon)):
            if words is not None:
                records.append((key % number, self._joined(words, number)))
        if size is not None:
            if min(size) < 1:
                raise DataError(f"{self.path}: sample {number} has the size {size}; expected at least 1 by 1 pixel")
            records.append((b"wh-%09d" % number, b"%d_%d" % size))
        self._pending += records
        self._pending_bytes += sum(len(value) for _, value in records)
        self._pending_samples += 1
        self.num_samples = number
        full = self._pending_samples >= self._commit_every or self._pending_bytes >= _MAX_PENDING_BYTES
        if full and not self._keep_partial:
            self._commit()

    def _joined(self, words: Sequence[str], number: int) -> bytes:
        if isinstance(words, str):
            raise TypeError(f"lexicon is the text {words!r}; expected a sequence of words")
        unfit = next((word for word in words if word.split() != [word]), None)
        if unfit is not None:
            raise DataError(
                f"{self.path}: sample {number} has the lexicon word {unfit!r}; expected words without white space, "
                "because the layout joins them by spaces. Split or drop it"
            )
        return self._encoded(" ".join(words))

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{self.path}: {text!r} has half of a surrogate pair, which UTF-8 cannot hold. Correct the text"
            ) from None

    def _go_on(self) -> None:
        assert self._environment is not None
        self._map_size = max(self._map_size, self._environment.info()["map_size"])
        with self._environment.begin() as transaction:
            record = transaction.get(STATE_KEY.encode())
            whole = transaction.get(COUNT_KEY.encode()) is not None
            empty = transaction.stat()["entries"] == 0
        if whole:
            raise DataError(
                f"{self._folder.partial}: is a whole store that has not got its name; rename it to {self.path}, or "
                "remove it"
            )
        if record is None and not empty:
            raise DataError(
                f"{self._folder.partial}: was left by a writer that nobody can go on for. Remove it and start again"
            )
        if record is not None:
            number, _, self.state = record.partition(b" ")
            self.num_samples = int(number)

    def _commit(self, *, last: bool = False) -> None:
        assert self._environment is not None
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    cursor.putmulti(self._pending)
                    if last:
                        transaction.delete(STATE_KEY.encode())
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
        self._pending.append((COUNT_KEY.encode(), b"%d" % self.num_samples))
        self._commit(last=True)
        assert self._environment is not None
        try:
            self._environment.sync(True)
        except self._lmdb.Error as error:
            raise self._write_error(error) from error
        self._environment.close()
        self._environment = None

    def _leave(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
        if self._keep_partial:
            self._folder.release()
        else:
            self._folder.discard()

    def _write_error(self, error: Exception) -> DataError:
        # LMDB reports a full disk as an input/output error, so the message says how much room there is.
        free_mib = shutil.disk_usage(self._folder.partial.parent).free // _MIB
        return DataError(
            f"{self.path}: cannot be written: {error}; its disk has {free_mib} MiB left, "
            f"the next records need {self._pending_bytes // _MIB + 1} MiB. Make room or choose another folder"
        )

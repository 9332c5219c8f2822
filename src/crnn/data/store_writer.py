"""Writes LMDB stores of samples, which are whole or are not there.

The layout is that of ``crnn.data.store``, which reads them. A store gets its name when everything is in it, so that
nothing reads half of one, and the number of samples goes in last, so that what a killed writer leaves is no store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from crnn.data.store import COUNT_KEY, import_lmdb
from crnn.errors import DataError, ImageError

if TYPE_CHECKING:
    from lmdb import Environment

__all__ = ["LmdbWriter"]

_MIB = 1 << 20
_MAX_PENDING_BYTES = 64 * _MIB
_MAX_GROWTH_BYTES = 1024 * _MIB


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
        self._lmdb = import_lmdb("writing LMDB stores")
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
        self._pending = [(COUNT_KEY.encode(), b"%d" % self.num_samples)]
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

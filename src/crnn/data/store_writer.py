"""Writes LMDB stores of samples, which are whole or are not there.

The layout is that of ``crnn.data.store``, which reads them. A store gets its name when everything is in it, so that
nothing reads half of one, and the number of samples goes in last, so that what a killed writer leaves is no store.

A writer that keeps its partial store can be killed and go on: it stores what its caller needs for that in the same
transaction as the samples, which is not in a finished store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from crnn.data.partial_folder import FolderWriter
from crnn.data.store_file import MAX_PENDING_BYTES, MIB, StoreFile
from crnn.errors import DataError

__all__ = ["LmdbWriter"]

_NAMES = ("data.mdb", "lock.mdb")


class LmdbWriter(FolderWriter):
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
        """Bytes of the samples that were added since the last transaction."""
        return self._file.pending_bytes

    def commit(self, state: bytes, *, wait: bool = True) -> None:
        """With ``keep_partial``: write everything added so far, and what the caller needs to go on from here.

        Args:
            state: What the next writer's ``state`` will be.
            wait: Otherwise this returns while the disk is waited for, and what goes wrong is raised by a later call.

        Raises:
            DataError: The disk is full.
        """
        if not self._keep_partial:
            raise RuntimeError(f"{self.path}: the writer keeps no state; expected keep_partial=True")
        self._file.commit(state, wait=wait)

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

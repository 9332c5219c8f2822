"""A folder that is written under another name and gets its own when everything is in it.

``PATH.partial`` stands beside ``PATH`` while it is written. One process at a time may be at it: the folder is made by
whoever comes first, and a file in it is locked until that process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from crnn.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: there only the making of the folder keeps two writers apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderWriter", "PartialFolder"]

_LOCK_NAME = "writer.lock"


class PartialFolder:
    """The way of one folder from nothing to its name.

    Args:
        path: The folder to write, as the user typed it.
        names: What its writer puts into it; ``*`` and ``[0-9]`` are those of the shell. A partial folder with anything
            else in it is not ours and never removed.

    Attributes:
        path: As given.
        partial: Where to write.
    """

    def __init__(self, path: str | os.PathLike[str], names: Collection[str]) -> None:
        self.path = os.fspath(path)
        self._folder = Path(self.path).absolute()
        self.partial = self._folder.parent / f"{self._folder.name}.partial"
        self._names = {*names, _LOCK_NAME}
        self._lock: IO[bytes] | None = None

    def open(self, *, go_on: bool = False) -> None:
        """Make the partial folder, or take over the one that an earlier writer left.

        Args:
            go_on: An earlier writer's partial folder is taken over; otherwise it is refused.

        Raises:
            DataError: The folder has something in it, another writer is at the partial one, or was killed there and
                ``go_on`` is false, or nothing can be written there.
        """
        self.check_free()
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            # Fails where it exists: of two writers at once, one is refused.
            self.partial.mkdir(exist_ok=go_on)
            foreign = self._foreign()
            if foreign:
                raise DataError(
                    f"{self.partial}: has {foreign!r} in it, which no writer of this form left; expected a new folder. "
                    "Remove it, or choose another path"
                )
            self._take_lock()
        except OSError as error:
            if self.partial.exists() and not go_on:
                raise DataError(
                    f"{self.partial}: exists already; another writer is at it, or was killed. "
                    "If none is running, remove that folder and start again"
                ) from None
            raise DataError(f"{self.path}: cannot be written: {error}. Choose another folder") from error

    def check_free(self) -> None:
        """Refuse a folder that has something in it.

        Raises:
            DataError: It has.
        """
        if self._folder.exists() and not (self._folder.is_dir() and not any(self._folder.iterdir())):
            raise DataError(
                f"{self.path}: exists already; expected a new or empty folder. Choose another, or remove it"
            )

    def publish(self) -> None:
        """Give the folder its name.

        Raises:
            DataError: The name was taken meanwhile; the partial folder stays.
        """
        if fcntl is None:
            self.release()  # Windows moves nothing that is open
        try:
            (self.partial / _LOCK_NAME).unlink(missing_ok=True)
            if self._folder.exists():
                self._folder.rmdir()  # it was empty; Windows does not rename onto a folder
            self.partial.rename(self._folder)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be given its name: {error}. The store is whole: rename {self.partial} yourself"
            ) from error
        finally:
            self.release()

    def discard(self) -> None:
        """Remove the partial folder."""
        self.release()
        shutil.rmtree(self.partial, ignore_errors=True)

    def discard_earlier(self) -> None:
        """Remove what an earlier writer left, before ``open``.

        Raises:
            DataError: There is something in it that no writer put there, or another writer is at it.
        """
        if not self.partial.exists():
            return
        try:
            foreign = self._foreign()
            if foreign:
                raise DataError(
                    f"{self.partial}: has {foreign!r} in it, which no writer of this form left; nothing was removed. "
                    "Remove it yourself, or choose another path"
                )
            self._take_lock()
            self.release()
            shutil.rmtree(self.partial)
        except OSError as error:
            raise DataError(f"{self.partial}: cannot be removed: {error}. Remove it yourself") from error

    def release(self) -> None:
        """Let another writer go on here."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _foreign(self) -> str:
        found = (entry.name for entry in self.partial.iterdir())
        return min((name for name in found if not any(fnmatch.fnmatchcase(name, n) for n in self._names)), default="")

    def _take_lock(self) -> None:
        self._lock = (self.partial / _LOCK_NAME).open("ab")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go however this process ends
        except OSError:
            with contextlib.suppress(OSError):
                self.release()
            raise DataError(
                f"{self.partial}: another process is writing there; expected to be alone. Wait for it to end"
            ) from None


class FolderWriter:
    """Writes a folder that gets its name when it is left without an exception; a context manager.

    What is written, and how, is a subclass's business: ``_begin``, ``_finish`` and ``_leave``.

    Args:
        path: The folder to write. It must not exist yet, or be empty.
        names: What the writer puts into it; see ``PartialFolder``.
        go_on: Whether to go on with what an earlier writer left.

    Attributes:
        path: As given.
        state: What the last ``commit`` of an earlier writer was given; ``None`` where there was none.
    """

    def __init__(self, path: str | os.PathLike[str], names: Collection[str], *, go_on: bool = True) -> None:
        self.path = os.fspath(path)
        self.state: bytes | None = None
        self._folder = PartialFolder(path, names)
        self._goes_on = go_on

    def __enter__(self) -> Self:
        self._folder.open(go_on=self._goes_on)
        try:
            self._begin()
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError):
                raise self._write_error(error) from error
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

    def discard_earlier(self) -> None:
        """Remove the partial folder of an earlier writer, before entering this one.

        Raises:
            DataError: There is something in it that no writer put there, or another writer is at it.
        """
        self._folder.discard_earlier()

    def _begin(self) -> None:
        """Begin to write into the partial folder, or go on."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is left and close everything."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Close everything and let go of the partial folder, which stays unless it is removed here."""
        raise NotImplementedError

    def _write_error(self, error: OSError) -> DataError:
        return DataError(f"{self.path}: cannot be written: {error}. Choose another folder")

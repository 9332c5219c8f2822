"""Files that are either whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from crnn.errors import CrnnError, DataError, ImageError


def atomic_write(path: Path, data: bytes, error: type[CrnnError] | None = None) -> None:
    """Write a file beside its place (``NAME.partial``) and give it its name when it is on the disk.

    Args:
        path: The file.
        data: Its content.
        error: Raised in place of ``OSError``, with a message.

    Raises:
        OSError: The disk is full, or the folder cannot be written; what was at ``path`` is still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as failure:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if error is None:
            raise
        why = "the disk is full" if failure.errno in (errno.ENOSPC, errno.EDQUOT) else failure.strerror or str(failure)
        raise error(
            f"cannot write {path}: {why}. What was written before is untouched; make room or choose another "
            "place (a training goes on with --resume)"
        ) from failure


def _sync_folder(path: Path) -> None:
    """Let a rename survive a power cut, too."""
    if os.name == "nt":
        return  # it opens no folders
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL):  # some network file systems cannot do that for folders
            raise
    finally:
        os.close(folder)


try:
    import fcntl
except ImportError:  # Windows: there only the making of the folder keeps two writers apart
    fcntl = None  # type: ignore[assignment]

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
        self._paused = False

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
        if kind is not None or self._paused:
            self._leave()
            return
        try:
            self._finish()
        except BaseException:
            self._leave()
            raise
        self._folder.publish()

    def pause(self) -> None:
        """Leave the partial folder without its name at the end, as after an exception."""
        self._paused = True

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


MAX_IMAGE_BYTES = 256 * 1024 * 1024
"""Larger files are not read: no crop of a word has this size."""

_MAX_FOLDERS = 10_000
_SMALL_BYTES = 16 << 10  # nearly all word pictures have fewer, and to ask for their size first takes as long as to read
_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # O_NONBLOCK: not to wait for a writer of a pipe
    _FLAGS |= getattr(os, _name, 0)


class PictureFolder:
    """The files below one folder, by their relative paths. It can be pickled.

    Links are followed as long as they stay inside. Folders are resolved once and remembered, since sets have millions
    of files in thousands of folders: what is asked of the system for a small picture is to open and to read it.

    Args:
        root: The folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._resolved_root = os.path.realpath(self.root)
        self._folders: dict[str, str] = {}

    def read(self, path: str) -> bytes:
        """The bytes of a picture file.

        Args:
            path: Relative to the root, with ``/``.

        Raises:
            ImageError: There is no such file, or it is not one that can be read (``missing``), it has 0 bytes
                (``empty``), more than ``MAX_IMAGE_BYTES`` (``too_large``), or lies outside of the folder, be it by
                ``..``, by an absolute path or by a link (``outside_root``).
        """
        try:
            descriptor = self._open(path)
            try:
                data = os.read(descriptor, _SMALL_BYTES)
                if 0 < len(data) < _SMALL_BYTES:
                    return data
                status = os.fstat(descriptor)
                size = status.st_size
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError(f"{path}: is not a file; expected a picture", reason="missing")
                if size == 0:
                    raise ImageError(f"{path}: has 0 bytes; expected a picture", reason="empty")
                if size > MAX_IMAGE_BYTES:
                    raise ImageError(
                        f"{path}: has {size} bytes; expected at most {MAX_IMAGE_BYTES}", reason="too_large"
                    )
                while len(data) < size and (more := os.read(descriptor, size - len(data))):
                    data += more
                return data
            finally:
                os.close(descriptor)
        except ImageError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
            why = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"{path}: cannot be read: {why}; expected a picture", reason="missing") from error

    def _open(self, path: str) -> int:
        if path.startswith("/"):
            self._checked(os.path.realpath(path), path)
        folder, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise ImageError(f"{path!r}: is no path of a file; expected a picture", reason="missing")
        resolved = self._folders.get(folder) or self._resolve(folder, path)
        if hasattr(os, "O_NOFOLLOW"):
            try:
                return os.open(f"{resolved}/{name}", _FLAGS)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
        # The file itself is a link, or may be one.
        return os.open(self._checked(os.path.realpath(os.path.join(resolved, name)), path), _FLAGS)  # noqa: PTH118

    def _resolve(self, folder: str, path: str) -> str:
        resolved = self._checked(os.path.realpath(os.path.join(self._resolved_root, folder)), path)  # noqa: PTH118
        if len(self._folders) >= _MAX_FOLDERS:
            self._folders.clear()
        self._folders[folder] = resolved
        return resolved

    def _checked(self, resolved: str, path: str) -> str:
        root = self._resolved_root
        if resolved != root and not resolved.startswith(root if root.endswith(os.sep) else root + os.sep):
            raise ImageError(
                f"{path}: lies outside of {self.root}; expected a path inside it. Move the pictures below it",
                reason="outside_root",
            )
        return resolved

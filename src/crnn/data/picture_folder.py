"""Picture files of a set, read from inside its folder and from nowhere else."""

from __future__ import annotations

import errno
import os
import stat

from crnn.errors import ImageError

__all__ = ["MAX_IMAGE_BYTES", "PictureFolder"]

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

"""Atomic writing of files and folders, and reading of image files below one folder."""

import contextlib
import errno
import fnmatch
import gzip
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Self
from weakref import WeakSet

from crnn.errors import CrnnError, DataError, ImageError

try:
    import fcntl
except ImportError:  # Windows: there only the making of a folder keeps two writers apart
    fcntl = None  # type: ignore[assignment]


def atomic_write(path: Path, data: bytes, error: type[CrnnError] | None = None) -> None:
    """Write a file as ``NAME.partial`` and rename it once it is on the disk; on failure the earlier file is untouched.

    ``error``, where given, is raised in place of ``OSError``, with a message.
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
            f"cannot write {path}: {why}; what was there before is untouched. Make room, or choose another place"
        ) from failure


def _sync_folder(path: Path) -> None:
    """Make a rename survive a power cut."""
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


_locked: WeakSet[IO[bytes]] = WeakSet()  # of this process


def lock_file(path: Path) -> IO[bytes]:
    """Open a file and lock it until it is closed, or this process ends in whatever way.

    Forked children close it: a data worker may outlive a killed process by some seconds. On Windows nothing is locked.

    Raises:
        BlockingIOError: It is locked already.
    """
    file = path.open("a+b", buffering=0)
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):  # just removed
                raise BlockingIOError
        except OSError:
            file.close()
            raise
    _locked.add(file)
    return file


def _close_locked() -> None:
    for file in _locked:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locked)

_LOCK_NAME = "writer.lock"


def partial_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder beside ``path``, ``NAME.partial``, in which a ``FolderWriter`` writes."""
    folder = Path(path).absolute()
    return folder.parent / f"{folder.name}.partial"


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise ``DataError`` if a folder exists and is not empty."""
    folder = Path(path)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(
            f"{os.fspath(path)}: exists already; expected a new or empty folder. Choose another, or remove it"
        )


class FolderWriter:
    """Context manager that writes a new or empty folder beside its place, and renames it if no exception came.

    Subclasses define the writing: ``_begin``, ``_finish`` and ``_close``. They go on with the partial folder of an
    earlier writer; ``state`` is then the argument of its last ``commit``. ``names`` are those that the writer creates,
    as patterns of ``fnmatch``; a partial folder with others is never removed.
    """

    def __init__(self, path: str | os.PathLike[str], names: Collection[str]) -> None:
        self.path = os.fspath(path)
        self.partial = partial_folder(path)
        self.state: bytes | None = None
        self.num_samples = 0  # those of earlier writers included
        self._names = {*names, _LOCK_NAME}
        self._lock: IO[bytes] | None = None
        self._paused = False

    def __enter__(self) -> Self:
        check_free(self.path)
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.partial.mkdir(exist_ok=True)
            self._take()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error}. Choose another folder") from error
        try:
            self._begin()
        except BaseException as error:
            self._close()
            self._release()
            if isinstance(error, OSError):
                raise self._write_error(error) from error
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._paused:
                if self.num_samples == 0:
                    raise DataError(f"{self.path}: no sample was added; expected at least one. Nothing was written")
                self._finish()
                self._publish()
        finally:
            self._close()
            self._release()

    def pause(self) -> None:
        """Keep the partial folder unnamed at the end, as after an exception."""
        self._paused = True

    def discard_earlier(self) -> None:
        """Remove an earlier writer's partial folder; ``DataError`` if a writer is at it, or it holds foreign names."""
        if not self.partial.exists():
            return
        try:
            self._take()
            self._release()
            shutil.rmtree(self.partial)
        except OSError as error:
            raise DataError(f"{self.partial}: cannot be removed: {error}. Remove it yourself") from error

    def _begin(self) -> None:
        """Begin to write into the partial folder, or go on."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write the rest and close everything."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close what is open."""
        raise NotImplementedError

    def _write_error(self, error: OSError) -> DataError:
        raise NotImplementedError

    def _take(self) -> None:
        """Lock the partial folder, if no writer is at it and it has nothing but what writers leave."""
        for name in sorted(entry.name for entry in self.partial.iterdir()):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._names):
                raise DataError(f"{self.partial}: has {name!r}, which no writer of this form left. Remove it yourself")
        try:
            self._lock = lock_file(self.partial / _LOCK_NAME)
        except BlockingIOError:
            raise DataError(
                f"{self.partial}: another process is writing there; expected to be alone. Wait for it to end"
            ) from None

    def _publish(self) -> None:
        """Rename the partial folder; it stays, with a ``DataError``, if the name was taken meanwhile."""
        if fcntl is None:
            self._release()  # Windows moves nothing that is open
        folder = self.partial.with_suffix("")
        try:
            (self.partial / _LOCK_NAME).unlink(missing_ok=True)
            if folder.exists():
                folder.rmdir()  # it was empty; Windows does not rename onto a folder
            self.partial.rename(folder)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be given its name: {error}. The store is whole: rename {self.partial} yourself"
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = None


MAX_WORDS = 5_000_000  # lines of a list of words: as a lexicon these take up to 1.5 GB
_MAX_LINE = 1 << 20  # characters
_MAX_UNPACKED = 1 << 30  # characters of a gzipped file, which may have a thousandth of that in bytes


def text_lines(path: Path, name: str = "", max_lines: int = sys.maxsize) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped, with their ends, without byte order mark; nothing is held.

    Bytes that are not UTF-8 become surrogates, which ``not_utf8`` finds. ``name`` stands for the path in messages.

    Raises:
        DataError: The file cannot be read, is none (a pipe would be waited for), has a NUL near its beginning, more
            than ``max_lines`` lines, a line of more than a million characters, or unpacks to more than a billion.
    """
    name = name or str(path)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{name}: is not a file; expected a text file. Check the path")
        with path.open("rb") as head:
            packed = head.read(2) == b"\x1f\x8b"
        opener, left = (gzip.open, _MAX_UNPACKED) if packed else (open, sys.maxsize)
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            if "\0" in file.read(4096):  # before an archive or an image is read as one long line
                raise DataError(f"{name}: is not text in UTF-8; expected lines of text. Save it as UTF-8")
            file.seek(0)
            for number, line in enumerate(iter(partial(file.readline, _MAX_LINE + 1), ""), start=1):
                left -= len(line)
                if len(line) > _MAX_LINE or number > max_lines or left < 0:
                    fault = f"lines: expected at most {max_lines:,}"
                    if number <= max_lines:
                        fault = f"characters in line {number}: expected at most {_MAX_LINE:,}"
                        fault += f", and {_MAX_UNPACKED:,} in all when unpacked" if packed else ""
                    raise DataError(f"{name}: has too many {fault}. Check the file, or shorten it")
                yield line
    except (OSError, EOFError, zlib.error) as error:  # the last two: compressed data break off
        why = getattr(error, "strerror", None) or "it is damaged"
        raise DataError(f"{name}: cannot be read: {why}; expected a text file. Check the path") from error


# Files that are given in place of others, by their first bytes: what they are, and what to do.
_FOREIGN_FILES: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file it stands for: git lfs pull"),
    (b"<", "an HTML or XML page", "Download the file itself (raw), not the page that shows it"),
    (
        (b"PK\x03\x04", b"\x80"), "a pickle or zip archive, as PyTorch's .pth files are",
        "Nothing is unpickled, since that runs code of others; make one with crnn",
    ),
)  # fmt: skip


def check_not_foreign(path: Path, name: str, expected: str, error: type[CrnnError]) -> None:
    """Raise ``error`` for a Git LFS pointer, a page or an archive in place of a file; ``name`` stands for the path."""
    head = b""
    with contextlib.suppress(OSError), path.open("rb") as file:  # what cannot be read is said by those who read it
        head = file.read(64)
    for start, what, advice in _FOREIGN_FILES:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start) and head[8:9] != b"{":  # as safetensors have it
            raise error(f"{name}: is {what}; expected {expected}. {advice}")


def not_utf8(text: str) -> bool:
    """Return whether a text has surrogates, which stand for bytes that are not UTF-8 (PEP 383)."""
    return _SURROGATE.search(text) is not None


_SURROGATE = re.compile("[\ud800-\udfff]")


def slashed(path: str, root: str = "") -> str:
    r"""Return a path made under Windows with ``/``, its drive absolute, unless ``root`` has a file of this name."""
    place = ("/" if os.name != "nt" and _DRIVE.match(path) else "") + path.replace("\\", "/")
    literal = root and place != path and os.name != "nt" and os.path.lexists(os.path.join(root, path))  # noqa: PTH118
    return path if literal else place


MAX_IMAGE_BYTES = 256 * 1024 * 1024  # larger files are not read: no crop of a word has this size
_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_FOLDERS = 10_000
_SMALL_BYTES = 16 << 10  # nearly all word images are smaller, and asking for the size takes as long as reading
_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # O_NONBLOCK: not to wait for a writer of a pipe
    _FLAGS |= getattr(os, _name, 0)


class ImageFolder:
    """The image files below one folder, by relative path. It can be pickled.

    Links are followed as long as they stay inside. Resolved folders are cached, so that a small image costs one open
    and one read: sets have millions of files in thousands of folders.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._resolved_root = os.path.realpath(self.root)
        self._folders: dict[str, str] = {}

    def read(self, path: str) -> bytes:
        r"""Return the bytes of an image file; ``path`` is relative to the root, with ``/`` or ``\``.

        Raises:
            ImageError: With the reason ``missing`` (no regular file that can be read), ``empty`` (0 bytes),
                ``too_large`` (more than ``MAX_IMAGE_BYTES``) or ``outside_root`` (by ``..``, an absolute path, a drive
                or a link).
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
                    raise ImageError(f"{path}: is not a file; expected an image", reason="missing")
                if size == 0:
                    raise ImageError(f"{path}: has 0 bytes; expected an image", reason="empty")
                if size > MAX_IMAGE_BYTES:
                    raise ImageError(
                        f"{path}: has {size} bytes; expected at most {MAX_IMAGE_BYTES}", reason="too_large"
                    )
                while len(data) < size and (more := os.read(descriptor, size - len(data))):
                    data += more
                return data
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
            if isinstance(error, ImageError):
                raise
            why = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"{path}: cannot be read: {why}; expected an image", reason="missing") from error

    def relative(self, path: str) -> str | None:
        """Return a path relative to the root, with ``/`` and without ``..``, or ``None`` where it leads outside."""
        place = slashed(path, self._resolved_root)
        with contextlib.suppress(ImageError, OSError, ValueError):
            if os.path.isabs(place) or "/../" in f"/{place}/":  # noqa: PTH117
                place = self._resolved(os.path.join(self._resolved_root, place), path)  # noqa: PTH118
                place = os.path.relpath(place, self._resolved_root)
            return None if (place := os.path.normpath(place)) == "." else place.replace(os.sep, "/")
        return None

    def _open(self, path: str) -> int:
        place = slashed(path, self._resolved_root)
        folder, name = place[: place.rfind("/") + 1], place[place.rfind("/") + 1 :]
        resolved = self._folders.get(folder)
        if resolved is None:
            resolved = self._resolved(os.path.join(self._resolved_root, folder), path)  # noqa: PTH118
            if len(self._folders) >= _MAX_FOLDERS:
                self._folders.clear()
            self._folders[folder] = resolved
        if name in ("", ".", ".."):
            raise ImageError(f"{path!r}: is no path of a file; expected an image", reason="missing")
        if hasattr(os, "O_NOFOLLOW"):
            try:
                return os.open(f"{resolved}/{name}", _FLAGS)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
        # The file itself is a link, or may be one.
        return os.open(self._resolved(f"{resolved}/{name}", path), _FLAGS)

    def _resolved(self, place: str, path: str) -> str:
        """Follow all links; ``ImageError`` where they end outside of the root."""
        resolved, root = os.path.realpath(place), self._resolved_root
        if resolved != root and not resolved.startswith(root if root.endswith(os.sep) else root + os.sep):
            raise ImageError(f"{path}: lies outside of {self.root}; expected a path inside it", reason="outside_root")
        return resolved

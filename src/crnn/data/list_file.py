"""Samples in a list file: lines of ``path<TAB>label``, paths relative to the list's folder.

The file is UTF-8, with or without a byte order mark; lines end in LF or CRLF; blank lines are ignored. The label is
everything after the first tab.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from crnn.errors import DataError, ImageError
from crnn.files import FolderWriter, ImageFolder

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1024 * 1024
_TAB, _LF, _CR = 9, 10, 13

_Offsets = npt.NDArray[np.uint64]


class ListFile:
    """A list of images and labels, with the interface of ``SampleStore``.

    The content is held in memory, with 8 bytes per line for its offset. It can be pickled and forked: forked processes
    share the memory, others read the file again. Image files are opened one at a time, never outside of the list's
    folder. An index outside of [0, len) is an ``IndexError``.

    Raises:
        DataError: The file is missing or has no samples, or a line is not UTF-8, has no tab, or no path before it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Path(self.path).absolute()
        self._images = ImageFolder(self._file.parent)
        self._version: tuple[int, int] | None = None
        self._loaded: tuple[bytes, _Offsets] | None = None
        _, starts = self._load()
        if len(starts) == 0:
            raise DataError(f"{self.path}: has no samples; expected lines of the form path<TAB>label. Check the file")
        self._num_samples = len(starts)

    def __len__(self) -> int:
        return self._num_samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __repr__(self) -> str:
        return f"ListFile({self.path!r})"

    def close(self) -> None:
        """Free the memory; the next read loads the file again."""
        self._loaded = None

    def key(self, index: int) -> str:
        """Return the image's path as listed."""
        return self._fields(index)[0].decode()

    def label(self, index: int) -> str:
        """Return the label as listed; it may be empty."""
        return self._fields(index)[1].decode()

    def image_bytes(self, index: int) -> bytes:
        """Return the bytes of the image file, not decoded; errors as in ``ImageFolder.read``."""
        try:
            return self._images.read(self.key(index))
        except ImageError as error:
            raise ImageError(f"{self.path}: {error}", reason=error.reason) from error

    def lexicon(self, index: int) -> tuple[str, ...] | None:
        """Return ``None``: lists have no lexicons."""
        self._check(index)
        return None

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """Return ``None``: lists have no sizes."""
        self._check(index)
        return None

    def _check(self, index: int) -> None:
        if not 0 <= index < self._num_samples:
            raise IndexError(f"{self.path}: sample {index} of {self._num_samples}")

    def _fields(self, index: int) -> tuple[bytes, bytes]:
        self._check(index)
        content, starts = self._loaded or self._load()
        start = int(starts[index])
        end = content.find(b"\n", start)
        line = content[start:] if end < 0 else content[start:end]
        key, _, label = line.removesuffix(b"\r").partition(b"\t")
        return key, label

    def _load(self) -> tuple[bytes, _Offsets]:
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                version = (status.st_size, status.st_mtime_ns)
                if self._version not in (None, version):
                    raise DataError(
                        f"{self.path}: was changed while in use; expected {self._version[0]} bytes as at the start. "
                        "Start again"
                    )
                if b"\0" in file.read(4096):  # before an archive or a disk image is read into memory
                    raise DataError(f"{self.path}: is not UTF-8 text; expected lines of the form path<TAB>label")
                file.seek(0)
                content = file.read()
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read: {error.strerror}; expected a list file. Check the path"
            ) from error
        chunks = [np.zeros(0, np.uint64), *_line_starts(content, self.path)]
        self._version = version
        self._loaded = content, np.concatenate(chunks)
        return self._loaded


def _line_starts(content: bytes, path: str) -> Iterator[_Offsets]:
    """Yield byte offsets of the non-blank lines per chunk, so that temporary memory does not grow with the file."""
    begin = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    line = 1
    while begin < len(content):
        end = content.find(b"\n", begin + _CHUNK_BYTES) + 1 or len(content)
        chunk = content[begin:end]
        _check_utf8(chunk, path, line)
        starts, num_lines = _chunk_starts(chunk, path, line)
        yield starts + np.uint64(begin)
        line += num_lines
        begin = end


def _chunk_starts(chunk: bytes, path: str, first_line: int) -> tuple[_Offsets, int]:
    """Return offsets of the non-blank lines, and the number of all lines."""
    array = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(array == _LF)
    if not chunk.endswith(b"\n"):
        ends = np.append(ends, len(chunk))
    starts = np.concatenate(([0], ends[:-1] + 1))
    tabs = np.append(np.flatnonzero(array == _TAB), len(chunk))
    first_tabs = tabs[np.searchsorted(tabs, starts)]
    # A line that is empty or only CR. Where the line is empty, the byte before its end is not its own.
    blank = (ends == starts) | ((ends == starts + 1) & (array[ends - 1] == _CR))
    unfit = ((first_tabs >= ends) | (first_tabs == starts)) & ~blank
    for i in np.flatnonzero(unfit):
        text = chunk[starts[i] : ends[i]]
        if text.strip():
            found = "no tab" if first_tabs[i] >= ends[i] else "no path before the tab"
            raise DataError(
                f"{path}, line {first_line + int(i)}: {_shortened(text)} has {found}; expected path<TAB>label. "
                "Put one tab between the image's path and its label"
            )
        blank[i] = True
    return starts[~blank].astype(np.uint64), len(ends)


def _check_utf8(chunk: bytes, path: str, first_line: int) -> None:
    if chunk.isascii():
        return
    try:
        chunk.decode()
    except UnicodeDecodeError as error:
        line = first_line + chunk.count(b"\n", 0, error.start)
        start = chunk.rfind(b"\n", 0, error.start) + 1
        end = chunk.find(b"\n", start)
        raise DataError(
            f"{path}, line {line}: {_shortened(chunk[start:end] if end >= 0 else chunk[start:])} is not UTF-8 "
            f"(byte {chunk[error.start]:#04x}). Save the file as UTF-8"
        ) from None


def _shortened(line: bytes) -> str:
    text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 60 else text[:57] + "...")


LIST_NAME = "labels.tsv"
_IMAGES, _STATE_NAME = "images", "conversion-state.json"
_NAMES = (_IMAGES, LIST_NAME, _STATE_NAME, f"{_STATE_NAME}.new")
_PER_FOLDER = 1000

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"P", ".ppm"),
)


class ListWriter(FolderWriter):
    """Context manager that writes a folder of images and their list.

    Images are numbered in order, a thousand to a folder, with their bytes unchanged. An exception leaves the partial
    folder, and the next writer goes on behind the last ``commit``; a crash of the machine may damage it.

    Args:
        path: The folder to write; it must not exist yet, or be empty.

    Attributes:
        num_samples: Samples added so far, by earlier writers too.
        state: Argument of an earlier writer's last ``commit``, or ``None``.
        pending_bytes: Always 0: images are written at once.

    Raises:
        DataError: The folder is not empty, another writer is at it, nothing was added, or the disk is full.
    """

    pending_bytes = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, _NAMES)
        self.num_samples = 0
        self._list: IO[bytes] | None = None

    def add(
        self,
        image: bytes,
        label: str,
        *,
        lexicon: object = None,  # noqa: ARG002 - the interface of LmdbWriter
        large_lexicon: object = None,  # noqa: ARG002
        size: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> None:
        """Append one sample; lexicons and size are ignored.

        Raises:
            DataError: The label has a line break or a lone surrogate in it, or the disk is full.
        """
        if self._list is None:
            raise RuntimeError(f"{self.path}: the writer is not open; use it in a with statement")
        if "\n" in label or label.endswith("\r"):
            raise DataError(f"{self.path}: {label!r} has a line break; expected one line. Correct the text")
        number = self.num_samples + 1
        suffix = next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), ".img")
        name = f"{_IMAGES}/{number // _PER_FOLDER:06d}/{number:09d}{suffix}"
        try:
            line = f"{name}\t{label}\n".encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{self.path}: {label!r} has half of a surrogate pair, which UTF-8 cannot hold. Correct the text"
            ) from None
        place = self._folder.partial / name
        try:
            if number == 1 or number % _PER_FOLDER == 0:
                place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image)
            self._list.write(line)
        except OSError as error:
            raise self._write_error(error) from error
        self.num_samples = number

    def commit(self, state: bytes) -> None:
        """Record the samples so far, and UTF-8 text that becomes the next writer's ``state``."""
        assert self._list is not None
        try:
            self._list.flush()
            values = {"samples": self.num_samples, "list_bytes": self._list.tell(), "state": state.decode()}
            new = self._state_path.with_name(f"{_STATE_NAME}.new")
            new.write_text(json.dumps(values), encoding="utf-8")
            new.replace(self._state_path)
        except OSError as error:
            raise self._write_error(error) from error

    @property
    def _state_path(self) -> Path:
        return self._folder.partial / _STATE_NAME

    def _begin(self) -> None:
        list_path = self._folder.partial / LIST_NAME
        length = 0
        if self._state_path.exists():
            try:
                values = json.loads(self._state_path.read_text(encoding="utf-8"))
                length, self.num_samples = int(values["list_bytes"]), int(values["samples"])
                self.state = str(values["state"]).encode()
                if not list_path.is_file() or list_path.stat().st_size < length:
                    raise ValueError(f"{LIST_NAME} is shorter than it was")
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._folder.partial}: nobody can go on with it ({error}). Remove it and start again"
                ) from error
        self._list = list_path.open("ab")
        # What was written behind the last commit is written again.
        self._list.truncate(length)
        self._list.seek(length)
        number = self.num_samples
        (self._folder.partial / _IMAGES / f"{number // _PER_FOLDER:06d}").mkdir(parents=True, exist_ok=True)

    def _finish(self) -> None:
        assert self._list is not None
        if self.num_samples == 0:
            raise DataError(f"{self.path}: no sample was added; expected at least one. Nothing was written")
        try:
            self._list.flush()
            os.fsync(self._list.fileno())
            self._list.close()
            self._list = None
            self._state_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._write_error(error) from error

    def _leave(self) -> None:
        if self._list is not None:
            with contextlib.suppress(OSError):
                self._list.close()
            self._list = None
        self._folder.release()

    def _write_error(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written: {error.strerror or error}. Make room or choose another folder; the same "
            "command goes on where it ended"
        )

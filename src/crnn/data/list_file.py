"""Samples in a list file: lines of ``path<TAB>label``, paths relative to the list's folder.

The file is UTF-8, with or without a byte order mark; lines end in LF or CRLF; blank lines are ignored. A second tab, as
before a third column, is an error: labels have none.
"""

from __future__ import annotations

import contextlib
import json
import os
import string
from array import array
from pathlib import Path
from typing import IO, Any

from crnn.data.store import SampleStore
from crnn.errors import DataError, ImageError
from crnn.files import FolderWriter, ImageFolder, atomic_write, text_lines


class ListFile(SampleStore):
    """A list of images and labels.

    The lines are held in memory, with 8 bytes per line for its place. Forked processes share the memory, others read
    the file again. Image files are never opened outside of the list's folder. A malformed line is a ``DataError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Path(self.path).absolute()
        self._images = ImageFolder(self._file.parent)
        self._version: tuple[int, int] | None = None
        self._loaded: tuple[bytearray, array[int]] | None = None
        self._num_samples = len(self._load()[1])
        if self._num_samples == 0:
            raise DataError(f"{self.path}: has no samples; expected lines of the form path<TAB>label. Check the file")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def close(self) -> None:
        """Free the memory; the next read loads the file again."""
        self._loaded = None

    def key(self, index: int) -> str:
        """Return the image's path as listed."""
        return self._line(index).partition("\t")[0]

    def label(self, index: int) -> str:
        """Return the label as listed; it may be empty."""
        return self._line(index).partition("\t")[2]

    def image_bytes(self, index: int) -> bytes:
        """Return the bytes of the image file, not decoded; errors as in ``ImageFolder.read``."""
        try:
            return self._images.read(self.key(index))
        except ImageError as error:
            raise ImageError(f"{self.path}: {error}", reason=error.reason) from error

    def _line(self, index: int) -> str:
        self._number(index)
        lines, ends = self._loaded or self._load()
        return lines[ends[index - 1] if index else 0 : ends[index]].decode()

    def _load(self) -> tuple[bytearray, array[int]]:
        """Return all lines one behind the other, and the end of each."""
        lines, ends = bytearray(), array("Q")
        for number, line in enumerate(text_lines(self._file, self.path), start=1):
            if not line.strip(string.whitespace):
                continue
            line = line.removesuffix("\n").removesuffix("\r")
            try:
                lines += line.encode()
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) - 0xDC00
                raise self._unfit(number, line, f"is not UTF-8 (byte {byte:#04x}). Save the file as UTF-8") from None
            if fault := line_fault(line):
                raise self._unfit(number, line, f"{fault}; expected path<TAB>label, with one tab between them")
            ends.append(len(lines))
        status = self._file.stat()
        version = (status.st_size, status.st_mtime_ns)
        if self._version not in (None, version):
            raise DataError(f"{self.path}: was changed while in use; expected it as at the start. Start again")
        self._version = version
        self._loaded = lines, ends
        return self._loaded

    def _unfit(self, number: int, line: str, why: str) -> DataError:
        text = line.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return DataError(f"{self.path}, line {number}: {text if len(text) <= 60 else text[:57] + '...'!r} {why}")


def line_fault(line: str) -> str:
    """Return why a line is no path, tab and label, or an empty text."""
    tab = line.find("\t")
    if tab < 1:
        return "has no path before the tab" if tab == 0 else "has no tab"
    return "has a second tab" if "\t" in line[tab + 1 :] else ""


LIST_NAME = "labels.tsv"
_PARTIAL_NAME = f"{LIST_NAME}.partial"  # until all is written: no command takes half a folder for a whole one
_IMAGES, _STATE_NAME = "images", "conversion-state.json"
_NAMES = (_IMAGES, LIST_NAME, _PARTIAL_NAME, _STATE_NAME, f"{_STATE_NAME}.partial")
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


def check_whole(path: Path, name: str) -> None:
    """Raise ``DataError`` if a path is the list of a conversion that has not ended, or its folder."""
    if (path / _PARTIAL_NAME).is_file() or (path.name == _PARTIAL_NAME and path.is_file()):
        raise DataError(f"{name}: is half a set, whose conversion was stopped. Give its command again, which goes on")


class ListWriter(FolderWriter):
    """Context manager that writes a folder of images and their list, with the interface of ``LmdbWriter``.

    Images are numbered in order, a thousand to a folder, with their bytes unchanged. An exception leaves the partial
    folder, and the next writer goes on behind the last ``commit``; a crash of the machine may damage it.
    """

    pending_bytes = 0  # images are written at once

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, _NAMES)
        self._list: IO[bytes] | None = None

    def add(self, image: bytes, label: str, **_: object) -> None:
        """Append one sample; lexicons and size, as of ``LmdbWriter.add``, are ignored."""
        assert self._list is not None
        if "\n" in label or "\t" in label or label.endswith("\r"):
            raise DataError(f"{self.path}: {label!r} has a line break or a tab; expected one line. Correct the text")
        number = self.num_samples + 1
        suffix = next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), ".img")
        name = f"{_IMAGES}/{number // _PER_FOLDER:06d}/{number:09d}{suffix}"
        place = self.partial / name
        try:
            line = f"{name}\t{label}\n".encode()
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
            atomic_write(self.partial / _STATE_NAME, json.dumps(values).encode())
        except OSError as error:
            raise self._write_error(error) from error

    def _begin(self) -> None:
        list_path, state_path = (self.partial / name for name in (_PARTIAL_NAME, _STATE_NAME))
        with contextlib.suppress(FileNotFoundError):  # killed before the folder had its name
            (self.partial / LIST_NAME).replace(list_path)
        length = 0
        if state_path.exists():
            try:
                values = json.loads(state_path.read_text(encoding="utf-8"))
                length, self.num_samples = int(values["list_bytes"]), int(values["samples"])
                self.state = str(values["state"]).encode()
                if not list_path.is_file() or list_path.stat().st_size < length:
                    raise ValueError(f"{LIST_NAME} is shorter than it was")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{self.partial}: nobody can go on with it ({error}). Remove it and start again"
                ) from error
        self._list = list_path.open("ab")
        self._list.truncate(length)  # what was written behind the last commit is written again
        self._list.seek(length)
        (self.partial / _IMAGES / f"{self.num_samples // _PER_FOLDER:06d}").mkdir(parents=True, exist_ok=True)

    def _finish(self) -> None:
        assert self._list is not None
        try:
            self._list.flush()
            os.fsync(self._list.fileno())
            self._list.close()
            (self.partial / _STATE_NAME).unlink(missing_ok=True)
            (self.partial / _PARTIAL_NAME).replace(self.partial / LIST_NAME)
        except OSError as error:
            raise self._write_error(error) from error

    def _close(self) -> None:
        if self._list is not None:
            with contextlib.suppress(OSError):
                self._list.close()

    def _write_error(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written: {error.strerror or error}. Make room or choose another folder; the same "
            "command goes on where it ended"
        )

"""Writes samples as plain files: a folder with the pictures and a list, ``labels.tsv``, that ``ListFile`` reads.

For those who want to look at their samples, or to use them elsewhere. The interface is that of a ``LmdbWriter`` that
keeps its partial store; lexicons and sizes have no place in a list.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO

from crnn.data.partial_folder import FolderWriter
from crnn.errors import DataError

__all__ = ["LIST_NAME", "ListWriter"]

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
    """Writes a folder of pictures and their list; a context manager.

    Pictures are numbered in the order in which they come, a thousand to a folder, and their bytes are written as they
    are. An exception inside the ``with`` leaves the partial folder, and the next writer goes on behind the last
    ``commit``; it is not safe against the end of the whole machine.

    Args:
        path: The folder to write. It must not exist yet, or be empty.

    Attributes:
        path: As given.
        num_samples: Samples added so far, by earlier writers too.
        state: What the last ``commit`` of an earlier writer was given; ``None`` where there was none.
        pending_bytes: Always 0: pictures are written at once.

    Raises:
        DataError: The folder has something in it, another writer is at it, nothing was added, or the disk is full.
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
        """Append one sample.

        Args:
            image: The bytes of a picture file, written as they are.
            label: Its text, without line breaks.
            lexicon: Has no place in a list.
            large_lexicon: Has no place in a list.
            size: Has no place in a list.

        Raises:
            DataError: The label has a line break or half of a surrogate pair in it, or the disk is full.
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

    def commit(self, state: bytes, *, wait: bool = True) -> None:  # noqa: ARG002 - the interface of LmdbWriter
        """Keep what the caller needs to go on from here.

        Args:
            state: What the next writer's ``state`` will be; UTF-8 text.
            wait: Nothing is waited for in any case.

        Raises:
            DataError: The disk is full.
        """
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

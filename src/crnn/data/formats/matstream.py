"""The bytes of one variable of a MATLAB file, in order, stored as they are or deflated, with nothing held."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Self

from crnn.errors import DataError

__all__ = ["ElementStream"]

_CHUNK_BYTES = 256 * 1024


class ElementStream:
    """The contents of a data element, without its tag, read from its start to its end.

    At most two chunks are in memory beside what is asked for, however much a deflated element grows.

    Args:
        path: The file.
        name: What messages call the variable.
        offset: Where its tag is.
        num_bytes: What the tag says.
        is_compressed: Whether it is deflated.
    """

    def __init__(self, path: str, name: str, offset: int, num_bytes: int, is_compressed: bool) -> None:
        self._path = path
        self._name = name
        self._stored = num_bytes
        self._inflate = zlib.decompressobj() if is_compressed else None
        self._buffer = b""
        self._at = 0
        # What a tag can say: the largest that a deflated element may become, until its own tag is read.
        self.remaining = num_bytes if not is_compressed else 1 << 32
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115 - closed by close()
            self._file.seek(offset + 8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}. Check the path") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def limit(self, num_bytes: int) -> None:
        """Say how many bytes are left."""
        self.remaining = num_bytes

    def peek(self, num_bytes: int) -> bytes:
        """The next bytes, fewer where there are fewer, which stay to be read."""
        num_bytes = min(num_bytes, self.remaining)
        self._fill(num_bytes)
        return self._buffer[self._at : self._at + num_bytes]

    def read(self, num_bytes: int) -> bytes:
        """The next bytes.

        Raises:
            DataError: There are fewer, or they cannot be inflated.
        """
        end = self._at + num_bytes
        if end > len(self._buffer):
            self._fill(num_bytes)
            end = self._at + num_bytes
        if end > len(self._buffer) or num_bytes > self.remaining:
            raise self._damaged("ends too early")
        data = self._buffer[self._at : end]
        self._at = end
        self.remaining -= num_bytes
        return data

    def finish(self) -> None:
        """Check that nothing is left but padding, and the checksum of what was deflated.

        Raises:
            DataError: There is more, or the checksum is wrong.
        """
        if self.remaining >= 8:
            raise self._damaged("has more than its dimensions say")
        if self._inflate is not None:
            self.read(self.remaining)
            self._fill(1)
            if self._at < len(self._buffer) or not self._inflate.eof:
                raise self._damaged("does not end where it says")

    def _fill(self, num_bytes: int) -> None:
        """Have ``num_bytes`` in the buffer, if there are as many."""
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < num_bytes:
            chunk = self._next_chunk()
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        self._buffer = b"".join(parts)
        self._at = 0

    def _next_chunk(self) -> bytes:
        if self._inflate is None:
            return self._stored_chunk()
        while not self._inflate.eof:
            stored = self._inflate.unconsumed_tail or self._stored_chunk()
            try:
                chunk = self._inflate.decompress(stored, _CHUNK_BYTES)
            except zlib.error as error:
                raise self._damaged(f"cannot be inflated ({error})") from error
            if chunk:
                return chunk
            if not stored:
                raise self._damaged("ends too early")
        return b""

    def _stored_chunk(self) -> bytes:
        try:
            chunk = self._file.read(min(_CHUNK_BYTES, self._stored))
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}. Check the disk") from error
        self._stored -= len(chunk)
        return chunk

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path}: variable {self._name!r} is damaged: it {what}. Download it again")

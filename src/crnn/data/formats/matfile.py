"""MATLAB files of version 5 to 7, read without trust and element by element.

For the annotations of IIIT5k and SynthText: cell arrays and arrays of structs, of texts and numbers. One element is in
memory at a time, so that a file of any size takes a few megabytes; scipy's reader makes millions of objects of it, and
ends the whole process with a segmentation fault where a file has a wrong byte in the wrong place, which no ``except``
can catch (seen with version 1.17 and one changed type code; its documentation says that it is not for untrusted
files).

A file is a header of 128 bytes and then a data element per variable, each with a tag that says its type and number of
bytes. A matrix is such an element with others in it: flags with its class, dimensions, a name, contents. A compressed
element has one matrix in it, deflated. Nothing in the format is executed or unpickled, and of the classes only cells,
structs, characters and real numbers are read: a cell of another class, or whose inside does not fit its own shape, is
``None``, for its reader to count, and the next one is read. What ends too early or contradicts itself as a whole is an
error.

References:
    MathWorks, "MAT-File Format", the level 5 format. Checked against the reader and writer of scipy, and the files by
    MATLAB 5 to 7.4 that its tests have.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crnn.data.formats.matstream import ElementStream
from crnn.data.formats.matvalue import (
    COMPRESSED,
    KINDS,
    MATRIX,
    NUMBERS,
    STRUCT,
    DamageError,
    MatHead,
    MatParser,
    MatValue,
)
from crnn.errors import DataError

__all__ = ["MAX_ELEMENT_BYTES", "MatFile", "MatVariable"]

MAX_ELEMENT_BYTES = 16 * 1024 * 1024
"""A cell with more is refused. The largest of the published ones, a lexicon of 1,000 words, has some 80 kB."""

_HEADER_BYTES = 128
_HEAD_BYTES = 64 * 1024  # flags, dimensions, name and the names of the fields fit in, or the file is not one of ours


@dataclass(frozen=True, slots=True)
class MatVariable:
    """A variable of a file, not yet read.

    Attributes:
        name: Its name.
        kind: ``cell``, ``struct``, ``text``, ``numbers``, or one that is not read: ``sparse``, ``object``,
            ``function``.
        shape: Its dimensions.
        fields: Names of the fields of a struct.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    offset: int
    num_bytes: int
    is_compressed: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class MatFile:
    """The variables of a MATLAB file. Only what comes first in each is read here; it can be pickled.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, is not a MATLAB file, is one of version 4 or 7.3, ends too early, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._version = self._status()
        self._order = self._byte_order()
        self.variables: dict[str, MatVariable] = {}
        offset = _HEADER_BYTES
        while offset < self._version[0]:
            variable = self._variable(offset)
            if variable.name:  # one without a name holds what functions need
                self.variables[variable.name] = variable
            offset += 8 + variable.num_bytes

    def cells(self, name: str) -> Iterator[MatValue | None]:
        """The cells of a cell array, one after the other, column after column.

        Raises:
            DataError: There is no such variable, it is not a cell array, the file is damaged or was changed.
        """
        return (values[0] for values in self._elements(name, "cell", ()))

    def structs(self, name: str, fields: Sequence[str]) -> Iterator[tuple[MatValue | None, ...]]:
        """The structs of an array, one after the other: the values of ``fields``, ``None`` for one that they lack.

        Raises:
            DataError: There is no such variable, it is not an array of structs, the file is damaged or was changed.
        """
        return self._elements(name, "struct", fields)

    def _elements(self, name: str, kind: str, fields: Sequence[str]) -> Iterator[tuple[MatValue | None, ...]]:
        variable = self.variables.get(name)
        if variable is None or variable.kind != kind:
            found = ", ".join(f"{v.name} ({v.kind})" for v in self.variables.values()) or "nothing"
            raise DataError(f"{self.path}: has {found}; expected {name} ({kind}). Check that it is the right file")
        if self._status() != self._version:
            raise DataError(f"{self.path}: was changed while in use. Start again")
        return self._read(variable, fields)

    def _read(self, variable: MatVariable, fields: Sequence[str]) -> Iterator[tuple[MatValue | None, ...]]:
        if variable.kind == "cell":
            wanted: list[int | None] = [0]
            per_element = 1
        else:
            wanted = [variable.fields.index(field) if field in variable.fields else None for field in fields]
            per_element = len(variable.fields)
        with self._stream(variable) as stream:
            _, _, used = self._head(variable, stream)
            stream.read(used)
            if variable.size * per_element * 8 > stream.remaining:
                raise self._damaged(variable.name, f"has no room for its {variable.size} elements")
            for _ in range(variable.size if per_element else 0):
                values = [self._next_value(variable, stream, i in wanted) for i in range(per_element)]
                yield tuple(None if i is None else values[i] for i in wanted)
            stream.finish()

    def _next_value(self, variable: MatVariable, stream: ElementStream, is_wanted: bool) -> MatValue | None:
        kind, num_bytes = struct.unpack(self._order + "II", stream.read(8))
        if kind != MATRIX:
            raise self._damaged(variable.name, "has an element that is not a matrix")
        if num_bytes > MAX_ELEMENT_BYTES:
            raise DataError(
                f"{self.path}: variable {variable.name!r} has an element of {num_bytes} bytes; expected at most "
                f"{MAX_ELEMENT_BYTES}. Check that it is the right file"
            )
        block = stream.read(num_bytes)
        return MatParser(block, self._order).value() if is_wanted else None

    def _variable(self, offset: int) -> MatVariable:
        tag = self._bytes(offset, 8)
        kind, num_bytes = struct.unpack(self._order + "II", tag) if len(tag) == 8 else (0, 0)
        if len(tag) < 8 or offset + 8 + num_bytes > self._version[0]:
            raise DataError(
                f"{self.path}: ends in the middle of a variable, after {self._version[0]} bytes. Download it again"
            )
        if kind not in (MATRIX, COMPRESSED):
            raise self._damaged(f"at byte {offset}", f"has the type {kind}")
        variable = MatVariable(f"at byte {offset}", "", (), (), offset, num_bytes, kind == COMPRESSED)
        with self._stream(variable) as stream:
            head, fields, _ = self._head(variable, stream)
        kind_name = "numbers" if head.mat_class in NUMBERS else KINDS.get(head.mat_class, "unknown")
        return MatVariable(head.name, kind_name, head.shape, fields, offset, num_bytes, kind == COMPRESSED)

    def _head(self, variable: MatVariable, stream: ElementStream) -> tuple[MatHead, tuple[str, ...], int]:
        """What comes before the contents, the names of the fields, and how many bytes these two take."""
        block = stream.peek(_HEAD_BYTES)
        try:
            parser = MatParser(block, self._order)
            head = parser.head()
            fields, at = parser.fields(head) if head.mat_class == STRUCT else ((), head.end)
        except DamageError as error:
            raise self._damaged(variable.name, str(error)) from error
        return head, fields, at

    def _stream(self, variable: MatVariable) -> ElementStream:
        stream = ElementStream(self.path, variable.name, variable.offset, variable.num_bytes, variable.is_compressed)
        try:
            if variable.is_compressed:
                kind, num_bytes = struct.unpack(self._order + "II", stream.read(8))
                if kind != MATRIX:
                    raise self._damaged(variable.name, "is compressed and not a matrix")
                stream.limit(num_bytes)
        except BaseException:
            stream.close()
            raise
        return stream

    def _status(self) -> tuple[int, int]:
        try:
            status = Path(self.path).stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{self.path}: is not a file; expected a MATLAB file. Check the path")
        return status.st_size, status.st_mtime_ns

    def _byte_order(self) -> str:
        header = self._bytes(0, _HEADER_BYTES)
        is_hdf5 = b"\x89HDF\r\n\x1a\n" in (header[:8], self._bytes(512, 8))
        orders = {(b"IM", b"\x00\x01"): "<", (b"MI", b"\x01\x00"): ">"}
        order = orders.get((header[126:128], header[124:126]))
        if is_hdf5 or header.startswith(b"MATLAB 7.3"):
            raise DataError(
                f"{self.path}: is a MATLAB file of version 7.3 (HDF5), which is not read; expected version 5 to 7. "
                "Save it in MATLAB with save(..., '-v7')"
            )
        if order is None or b"\0" in header[:4]:  # a zero there marks version 4
            raise DataError(
                f"{self.path}: is not a MATLAB file of version 5 to 7; expected one as the set is published. "
                "Nothing is unpickled or read in its place. Check the path"
            )
        return order

    def _bytes(self, offset: int, num_bytes: int) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                file.seek(offset)
                return file.read(num_bytes)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"{self.path}: cannot be read: {error.strerror}; expected a MATLAB file. Check the path")

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(f"{self.path}: variable {name!r} is damaged: it {what}. Download it again")

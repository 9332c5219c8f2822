"""The matrices inside a MATLAB file of version 5 to 7: blocks of bytes, turned into texts, numbers and tuples of them.

Every offset is checked against the block's end before it is used, and every shape against the bytes that are there, so
that a block of n bytes cannot ask for much more than n bytes of memory. ``crnn.data.formats.matfile`` says what a file
is made of and where that is written down.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "COMPRESSED",
    "KINDS",
    "MATRIX",
    "NUMBERS",
    "STRUCT",
    "DamageError",
    "MatHead",
    "MatParser",
    "MatText",
    "MatValue",
]

MATRIX, COMPRESSED = 14, 15
"""Types of elements."""

CELL, STRUCT, CHAR, OBJECT = 1, 2, 4, 17
"""Classes of matrices."""

NUMBERS = range(6, 16)
"""Classes of matrices of numbers."""

KINDS = {1: "cell", 2: "struct", 3: "object", 4: "text", 5: "sparse", 16: "function", 17: "object"}
"""What messages call the other classes."""

_MAX_DEPTH = 4
_MAX_NAME_BYTES = 255  # MATLAB has 63 characters
_MAX_DIMS = 32
_COMPLEX = 0x800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {
    order: {1: "latin-1", 2: "latin-1", 3: f"utf-16-{end}", 4: f"utf-16-{end}", 16: "utf-8", 17: f"utf-16-{end}"}
    | {18: f"utf-32-{end}"}
    for order, end in (("<", "le"), (">", "be"))
}
_INTEGERS = (5, 6)  # some writers have unsigned dimensions


@dataclass(frozen=True, slots=True)
class MatText:
    """A matrix of characters: one text per row, padded with spaces to equal lengths as MATLAB has them.

    Attributes:
        rows: The rows. What could not be decoded is U+FFFD.
    """

    rows: tuple[str, ...]

    @property
    def text(self) -> str:
        """The rows, one below the other; of a simple text the text itself."""
        return "\n".join(self.rows)


MatValue = npt.NDArray[np.generic] | MatText | tuple["MatValue | None", ...]
"""Numbers with their shape, text, or the cells of a cell array in MATLAB's order (column after column)."""


_EMPTY = np.zeros((0, 0))
_EMPTY.setflags(write=False)


class DamageError(Exception):
    """What is wrong with a block of bytes, as the end of a sentence that begins with "it"."""


class MatHead(NamedTuple):
    """What a matrix has before its contents.

    Attributes:
        mat_class: Its class.
        is_complex: Whether its numbers have imaginary parts.
        shape: Its dimensions.
        name: Its name; empty inside of another matrix.
        end: Where the contents begin.
    """

    mat_class: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    end: int


class MatParser:
    """A block of bytes that is a matrix without its tag, or begins one.

    Args:
        block: The bytes.
        order: ``<`` or ``>``.
    """

    def __init__(self, block: bytes, order: str) -> None:
        self._block = block
        self._order = order
        self._pair = struct.Struct(order + "II").unpack_from
        self._encodings = _ENCODINGS[order]

    def value(self) -> MatValue | None:
        """The matrix; ``None`` if it is of a class that is not read, or is not of the form that its class has."""
        try:
            return self._matrix(0, len(self._block), 0)
        except DamageError:
            return None

    def head(self) -> MatHead:
        """What is before the contents.

        Raises:
            DamageError: It has not the form of a matrix.
        """
        return self._head(0, len(self._block))

    def fields(self, head: MatHead) -> tuple[tuple[str, ...], int]:
        """The names of the fields of a struct, and where its contents begin.

        Raises:
            DamageError: It has none.
        """
        kind, start, num_bytes, at = self._element(head.end, len(self._block))
        width = struct.unpack_from(self._order + "i", self._block, start)[0] if (kind, num_bytes) == (5, 4) else 0
        _, start, num_bytes, at = self._element(at, len(self._block))
        if width <= 0 or num_bytes % width:
            raise DamageError("has no names of fields")
        names = (self._block[i : i + width].split(b"\0")[0] for i in range(start, start + num_bytes, width))
        return tuple(_name(name) for name in names), at

    def _matrix(self, at: int, end: int, depth: int) -> MatValue | None:
        if at == end:
            return _EMPTY
        head = self._head(at, end)
        size = math.prod(head.shape)
        if head.mat_class == CELL:
            return self._cells(head.end, end, size, depth)
        if head.mat_class == CHAR:
            return self._text(head, end, size)
        if head.mat_class in NUMBERS and not head.is_complex:
            return self._numbers(head, end, size)
        return None

    def _head(self, at: int, end: int) -> MatHead:
        kind, start, num_bytes, at = self._element(at, end)
        if kind != 6 or num_bytes != 8:
            raise DamageError("has no flags")
        flags = self._pair(self._block, start)[0]
        mat_class = flags & 0xFF
        if mat_class not in KINDS and mat_class not in NUMBERS:
            raise DamageError(f"is of class {mat_class}")
        if mat_class == OBJECT:  # has names here, and no dimensions
            return MatHead(mat_class, False, (), "", at)
        kind, start, num_bytes, at = self._element(at, end)
        num_dims = num_bytes // 4
        if kind not in _INTEGERS or num_bytes % 4 or not 2 <= num_dims <= _MAX_DIMS:
            raise DamageError("has no dimensions")
        shape = struct.unpack_from(f"{self._order}{num_dims}i", self._block, start)
        if min(shape) < 0:
            raise DamageError(f"has the dimensions {shape}")
        _, start, num_bytes, at = self._element(at, end)
        name = _name(self._block[start : start + num_bytes])
        return MatHead(mat_class, bool(flags & _COMPLEX), shape, name, at)

    def _element(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Type, first byte, number of bytes and end (with padding) of the element at ``at``."""
        if at + 8 > end:
            raise DamageError("ends too early")
        kind, num_bytes = self._pair(self._block, at)
        if kind >> 16:  # at most four bytes, in the tag itself
            kind, num_bytes = kind & 0xFFFF, kind >> 16
            if num_bytes > 4:
                raise DamageError("has a short element that is long")
            return kind, at + 4, num_bytes, at + 8
        start = at + 8
        if num_bytes > end - start:
            raise DamageError("has an element that reaches behind its end")
        return kind, start, num_bytes, min(end, start + num_bytes + -num_bytes % 8)

    def _cells(self, at: int, end: int, size: int, depth: int) -> tuple[MatValue | None, ...]:
        if depth >= _MAX_DEPTH:
            raise DamageError("has cells in cells without end")
        values = []
        for _ in range(size):
            kind, start, num_bytes, at = self._element(at, end)
            if kind != MATRIX:
                raise DamageError("has a cell that is not a matrix")
            values.append(self._matrix(start, start + num_bytes, depth + 1))
        return tuple(values)

    def _numbers(self, head: MatHead, end: int, size: int) -> npt.NDArray[np.generic]:
        # Numbers may be stored in a smaller type than that of their class.
        kind, start, num_bytes, _ = self._element(head.end, end)
        if kind not in _DTYPES:
            raise DamageError(f"has numbers of type {kind}")
        dtype = np.dtype(self._order + _DTYPES[kind])
        if num_bytes != size * dtype.itemsize:
            raise DamageError(f"has {num_bytes} bytes for the shape {head.shape}")
        return np.frombuffer(self._block, dtype, size, start).reshape(head.shape, order="F")

    def _text(self, head: MatHead, end: int, size: int) -> MatText:
        if size == 0:
            return MatText(())
        kind, start, num_bytes, _ = self._element(head.end, end)
        if kind not in self._encodings:
            raise DamageError(f"has text of type {kind}")
        text = self._block[start : start + num_bytes].decode(self._encodings[kind], "replace")
        num_rows = head.shape[0]
        if num_rows == 1 and len(text) <= size:  # fewer, where a character takes two or more of MATLAB's
            return MatText((text,))
        if len(text) == size:
            return MatText(tuple(text[row::num_rows] for row in range(num_rows)))
        units = np.frombuffer(text.encode("utf-16-le", "replace"), "<u2")
        if len(units) != size:
            raise DamageError(f"has {len(text)} characters for the shape {head.shape}")
        rows = (units[row::num_rows].tobytes().decode("utf-16-le", "replace") for row in range(num_rows))
        return MatText(tuple(rows))


def _name(data: bytes) -> str:
    """A name that fits in a line of a message, whatever it is made of."""
    if len(data) > _MAX_NAME_BYTES:
        raise DamageError(f"has a name of {len(data)} bytes")
    name = data.decode("utf-8", "replace")
    return name if name.isprintable() else ascii(name)

"""MindSpore's checkpoint files (``.ckpt``), read without MindSpore and without protobuf.

A file is a row of protobuf messages, ``Checkpoint {repeated Value value = 1}``, ``Value {string tag = 1; TensorProto
tensor = 2}``, ``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``, and with
``crc_check`` ends in ``crc_num`` and the CRC-32 of all before it, as ten bytes, big-endian. Reference:
mindspore-ai/mindspore, ``mindspore/ccsrc/utils/checkpoint.proto`` and ``train/serialization.py`` (Apache-2.0).
"""

import math
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crnn.errors import CheckpointError

_CRC, _CRC_BYTES = b"crc_num", 10
_TYPES = {
    "Float16": "<f2", "Float32": "<f4", "Float64": "<f8", "BFloat16": "<u2", "Bool": "?", "Int8": "i1", "Int16": "<i2",
    "Int32": "<i4", "Int64": "<i8", "UInt8": "u1", "Uint8": "u1", "UInt16": "<u2", "UInt32": "<u4", "UInt64": "<u8",
}  # fmt: skip
_MAX_DIMS = 8


def read_checkpoint(data: bytes, name: str) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of a checkpoint by name, those of types that numpy lacks left out; bfloat16 as float32.

    Raises:
        CheckpointError: It is encrypted, cut short, damaged, or no checkpoint of MindSpore; ``name`` says which.
    """
    if data[:1] != b"\x0a":
        raise CheckpointError(
            f"{name}: is encrypted, or no file of MindSpore, PyTorch or safetensors; expected one, without enc_key"
        )
    end = len(data) - len(_CRC) - _CRC_BYTES
    if data[end : end + len(_CRC)] == _CRC:
        if zlib.crc32(memoryview(data)[:end]) != int.from_bytes(data[end + len(_CRC) :]):
            raise CheckpointError(f"{name}: checksum does not fit, the file is damaged; use another copy")
    else:
        end = len(data)
    parts: dict[str, list[memoryview]] = {}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    try:
        for field, value in _fields(memoryview(data)[:end]):
            if field == 1 and isinstance(value, memoryview):
                tag, kind, dims, content = _tensor(value)
                kinds.setdefault(tag, (kind, dims))
                parts.setdefault(tag, []).append(content)  # large ones are cut into several of one name
        return {tag: _array(parts[tag], *kinds[tag]) for tag in parts if kinds[tag][0] in _TYPES}
    except ValueError as error:
        raise CheckpointError(
            f"{name}: is cut short or damaged ({error}); expected a whole checkpoint of MindSpore"
        ) from error


def _tensor(message: memoryview) -> tuple[str, str, tuple[int, ...], memoryview]:
    """Return name, type, dimensions and content of a ``Value``; a type of its own for what is no tensor."""
    values = dict(_fields(message))
    tag, tensor = values.get(1), values.get(2)
    if not isinstance(tag, memoryview):
        raise ValueError("a value without a name")
    if not isinstance(tensor, memoryview):  # a map parameter
        return str(tag, "utf-8"), "", (), memoryview(b"")
    dims: list[int] = []
    kind, content = b"", memoryview(b"")
    for field, value in _fields(tensor):
        if field == 1 and isinstance(value, int):
            dims.append(value)
        elif field == 2 and isinstance(value, memoryview):
            kind = bytes(value)
        elif field == 3 and isinstance(value, memoryview):
            content = value
    return str(tag, "utf-8"), kind.decode(), tuple(dims), content


def _array(parts: list[memoryview], kind: str, dims: tuple[int, ...]) -> npt.NDArray[np.generic]:
    content = b"".join(parts)
    dtype = np.dtype(_TYPES[kind])
    dims = () if dims == (0,) and content else dims  # a scalar
    if len(dims) > _MAX_DIMS or math.prod(dims) * dtype.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for a tensor of shape {dims[:_MAX_DIMS]}")
    array: npt.NDArray[np.generic] = np.frombuffer(content, dtype).reshape(dims)
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BFloat16" else array


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError(f"{size} bytes announced, {len(data) - at} left")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"no field of a checkpoint at byte {at}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number in groups of seven bits, the lowest first, and the place behind it."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise ValueError("the end within a number")
        value |= (data[at + place] & 0x7F) << (7 * place)
        if data[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError(f"no number at byte {at}")

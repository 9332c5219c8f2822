"""A writer of MindSpore's checkpoints, for the tests of their reader and of imports."""

import zlib

import numpy as np
import pytest


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def text(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def value(name, array, kind=None, dims=None, content=None):
    dims = (array.shape or (0,)) if dims is None else dims
    kind = kind or {"f2": "Float16", "f4": "Float32", "f8": "Float64", "i4": "Int32"}[array.dtype.str[1:]]
    tensor = b"".join(b"\x08" + varint(size) for size in dims) + text(2, kind.encode())
    tensor += text(3, array.tobytes() if content is None else content)
    return text(1, text(1, name.encode()) + text(2, tensor))  # a Checkpoint of one Value


def checkpoint(tensors, crc=False):
    data = b"".join(value(name, np.asarray(array)) for name, array in tensors.items())
    return data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big") if crc else data


@pytest.fixture(scope="session")
def make_checkpoint():
    """A function that returns the bytes of a checkpoint of arrays by name."""
    return checkpoint


@pytest.fixture(scope="session")
def make_value():
    """A function that returns the bytes of one tensor of a checkpoint."""
    return value

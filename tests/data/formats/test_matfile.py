"""MATLAB files: read in a child process; whatever is wrong is one DataError in one line."""

import contextlib
import os
import pickle
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from crnn.data.formats.matfile import Variables, read_mat, text_rows
from crnn.errors import DataError, MissingExtraError


def texts(path: Path, variables: Variables) -> Iterator[Any]:
    for name, value in variables.items():
        yield name, None if value is None else text_rows(value)


def crash(path: Path, variables: Variables) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def many(path: Path, variables: Variables) -> Iterator[int]:
    yield from range(2500)


def without_scipy(path: Path, variables: Variables) -> Iterator[Any]:
    raise MissingExtraError("scipy", "data", "Reading MATLAB files")
    yield


@pytest.mark.parametrize("compress", [False, True])
def test_variables_that_were_asked_for(tmp_path, cells, compress):
    path = tmp_path / "a.mat"
    rows = np.array(["Lines:\nI", "grün"])
    scipy.io.savemat(path, {"a": rows, "b": "not this", "c": cells("x"), "d": ""}, do_compression=compress)
    assert dict(read_mat(path, ("a", "c", "d", "e"), texts)) == {
        "a": ["Lines:\nI", "grün    "],
        "b": None,
        "c": None,
        "d": [],
    }


def test_items_come_in_order_and_a_crash_is_an_error(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {})
    assert list(read_mat(tmp_path / "a.mat", (), many)) == list(range(2500))
    with pytest.raises(DataError, match=r"a\.mat: ended the process that reads it: it is damaged"):
        list(read_mat(tmp_path / "a.mat", (), crash))
    with pytest.raises(MissingExtraError, match=r"pip install 'crnn\[data\]'"):
        list(read_mat(tmp_path / "a.mat", (), without_scipy))


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize("dimensions", [(1, 2**31 - 1), (2**31 - 1,) * 2, (2**31 - 1,) * 8])
def test_dimensions_that_are_too_large_take_no_memory(tmp_path, cells, dimensions):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": cells("x")})
    whole = path.read_bytes()
    place = whole.index(struct.pack("<IIII", 5, 8, 1, 1), 128)
    raw = struct.pack(f"<{len(dimensions)}I", *dimensions)
    grown = struct.pack("<I", len(whole) - 136 - 8 + len(raw))
    head = whole[:132] + grown + whole[136 : place + 4] + struct.pack("<I", len(raw))
    path.write_bytes(head + raw + whole[place + 16 :])
    with pytest.raises(
        DataError, match=r"a\.mat: cannot be read as a MATLAB file .*(Unable to allocate|too big|dimension)"
    ):
        list(read_mat(path, ("a",), texts))


@pytest.mark.parametrize("content", ["pickle", "hdf5", "cut", "gone"])
def test_other_files_are_one_line(tmp_path, cells, content):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": cells("x" * 1000)}, do_compression=True)
    contents = {
        "pickle": pickle.dumps(Trap(tmp_path / "sprung")),
        "hdf5": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n",
        "cut": path.read_bytes()[:-20],
    }
    if content in contents:
        path.write_bytes(contents[content])
    given = tmp_path / "gone.mat" if content == "gone" else path
    with pytest.raises(DataError) as caught:
        list(read_mat(given, ("a",), texts))
    assert str(caught.value).startswith(f"{given}: ")
    assert "\n" not in str(caught.value)
    assert ("version 7.3 (HDF5)" in str(caught.value)) == (content == "hdf5")
    assert not (tmp_path / "sprung").exists()


def test_a_changed_byte_never_ends_the_caller(tmp_path, cells):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": cells("word", np.arange(4.0), cells("x", "y"))})
    whole = path.read_bytes()
    for position in range(128, len(whole), 280):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            list(read_mat(path, ("a",), texts))

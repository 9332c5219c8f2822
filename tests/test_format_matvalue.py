"""MATLAB files made by hand: what MATLAB writes and scipy does not, and what nobody should write."""

import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.matfile import MAX_ELEMENT_BYTES, MatFile
from crnn.data.formats.matvalue import MatText
from crnn.errors import DataError


def element(order: str, kind: int, data: bytes, *, short: bool = False) -> bytes:
    if short:
        return struct.pack(order + "I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(order: str, mat_class: int, shape: tuple[int, ...], contents: bytes, name: bytes = b"") -> bytes:
    body = element(order, 6, struct.pack(order + "II", mat_class, 0))
    body += element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape))
    body += element(order, 1, name, short=0 < len(name) <= 4) + contents
    return struct.pack(order + "II", 14, len(body)) + body


def mat_file(path: Path, *matrices: bytes, order: str = "<") -> Path:
    header = b"MATLAB 5.0 MAT-file, by hand".ljust(124) + struct.pack(order + "H", 0x100)
    path.write_bytes(header + (b"IM" if order == "<" else b"MI") + b"".join(matrices))
    return path


def cells_of(order: str, *values: bytes, name: bytes = b"c") -> bytes:
    return matrix(order, 1, (1, len(values)), b"".join(values), name)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "encoding"),
    [(16, "utf-8"), (17, "utf-16"), (4, "utf-16"), (18, "utf-32"), (2, "latin-1"), (1, "latin-1")],
)
def test_texts_of_all_types(tmp_path, order, kind, encoding):
    text = "Größe" if encoding == "latin-1" else "Größe €"
    ending = "" if encoding in ("utf-8", "latin-1") else "-le" if order == "<" else "-be"
    data = element(order, kind, text.encode(encoding + ending))
    path = mat_file(tmp_path / "a.mat", cells_of(order, matrix(order, 4, (1, len(text)), data)), order=order)
    assert [value.text for value in MatFile(path).cells("c")] == [text]


def test_short_elements_and_numbers_in_a_smaller_type(tmp_path):
    values = matrix("<", 6, (1, 4), element("<", 2, bytes([1, 2, 3, 255]), short=True))
    text = matrix("<", 4, (1, 2), element("<", 16, b"ab", short=True))
    numbers, word = MatFile(mat_file(tmp_path / "a.mat", cells_of("<", values, text))).cells("c")
    assert numbers.tolist() == [[1, 2, 3, 255]]
    assert word.text == "ab"


def test_a_character_that_is_two_of_matlabs(tmp_path):
    one = matrix("<", 4, (1, 3), element("<", 4, "a😀".encode("utf-16-le")))
    # Two rows "x😀", "yz-": column after column, in units of 16 bits.
    units = np.frombuffer("x😀yz-".encode("utf-16-le"), "<u2").reshape(2, 3)
    two = matrix("<", 4, (2, 3), element("<", 4, units.tobytes("F")))
    first, second = MatFile(mat_file(tmp_path / "a.mat", cells_of("<", one, two))).cells("c")
    assert first.rows == ("a😀",)
    assert second.rows[1] == "yz-"


def test_what_is_not_read_is_none_and_the_rest_is_read(tmp_path):
    good = matrix("<", 4, (1, 1), element("<", 16, b"a"))
    bad = {
        "sparse": matrix("<", 5, (1, 1), b""),
        "struct": matrix("<", 2, (1, 1), b""),
        "object": matrix("<", 17, (), b""),
        "complex": good.replace(struct.pack("<II", 4, 0), struct.pack("<II", 6 | 0x800, 0)),
        "class": matrix("<", 99, (1, 1), b""),
        "shape": matrix("<", 6, (3, 5), element("<", 9, bytes(8))),
        "huge shape": matrix("<", 6, (2**31 - 1, 2**31 - 1, 2**31 - 1), element("<", 9, bytes(8))),
        "negative shape": matrix("<", 6, (-1, -1), element("<", 9, bytes(8))),
        "text shape": matrix("<", 4, (2, 5), element("<", 16, b"abc")),
        "type of text": matrix("<", 4, (1, 1), element("<", 9, bytes(8))),
        # With these two, scipy 1.17 reads memory that is not its own; often that ends the process.
        "type 8": matrix("<", 6, (1, 1), element("<", 8, bytes(8))),
        "type 200": matrix("<", 6, (1, 1), element("<", 200, bytes(8))),
        "too many cells": matrix("<", 1, (1, 2**31 - 1), good),
        "not a cell": matrix("<", 1, (1, 1), element("<", 9, bytes(8))),
        "flags": struct.pack("<II", 14, 8) + bytes(8),
        "numbers behind its end": matrix("<", 6, (1, 100), struct.pack("<II", 9, 800) + bytes(8)),
        "flags behind its end": struct.pack("<II", 14, 8) + struct.pack("<II", 6, 2**32 - 1),
    }
    path = mat_file(tmp_path / "a.mat", cells_of("<", *(cell for b in bad.values() for cell in (b, good))))
    values = list(MatFile(path).cells("c"))
    assert dict(zip(bad, values[::2], strict=True)) == dict.fromkeys(bad)
    assert values[1::2] == [MatText(("a",))] * len(bad)


def test_names_fit_in_a_line_of_a_message(tmp_path):
    cell = matrix("<", 4, (1, 1), element("<", 16, b"a"))
    file = MatFile(mat_file(tmp_path / "a.mat", cells_of("<", cell, name=b"a\nb\x1b[31m"), cells_of("<", cell)))
    assert list(file.variables) == [r"'a\nb\x1b[31m'", "c"]
    with pytest.raises(DataError, match="is damaged: it has a name of 300 bytes"):
        MatFile(mat_file(tmp_path / "b.mat", cells_of("<", cell, name=b"x" * 300)))


def test_structs_without_fields_are_none(tmp_path):
    fields = element("<", 5, struct.pack("<i", 32), short=True) + element("<", 1, b"")
    file = MatFile(mat_file(tmp_path / "a.mat", matrix("<", 2, (2**31 - 1, 2**31 - 1), fields, b"s")))
    assert file.variables["s"].fields == ()
    assert list(file.structs("s", ("a",))) == []


def test_cells_in_cells_without_end(tmp_path):
    value = matrix("<", 4, (1, 1), element("<", 16, b"a"))
    for _ in range(2000):
        value = cells_of("<", value, name=b"")
    path = mat_file(tmp_path / "a.mat", cells_of("<", value))
    assert list(MatFile(path).cells("c")) == [None]


@settings(max_examples=60)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_after_the_header(content, compressed):
    with tempfile.TemporaryDirectory() as folder:
        packed = zlib.compress(content)
        inside = struct.pack("<II", 15, len(packed)) + packed if compressed else content
        message = "a.mat: "  # it may be read as well
        try:
            file = MatFile(mat_file(Path(folder) / "a.mat", inside))
            for name, variable in file.variables.items():
                list(file.cells(name) if variable.kind == "cell" else file.structs(name, variable.fields))
        except DataError as error:
            message = str(error)
        assert "a.mat: " in message
        assert "\n" not in message


def test_a_bomb_is_not_inflated(tmp_path):
    """200 MB of zeros in 200 kB, as one cell, and as the rest of a head."""
    zeros = 200_000_000
    text = struct.pack("<II", 14, zeros) + element("<", 6, struct.pack("<II", 4, 0))
    head = matrix("<", 1, (1, 1), b"", b"c")[8:]
    packer = zlib.compressobj(1)
    packed = packer.compress(struct.pack("<II", 14, len(head) + zeros + 8) + head + text)
    for _ in range(zeros // 1_000_000):
        packed += packer.compress(bytes(1_000_000))
    packed += packer.flush()
    path = mat_file(tmp_path / "a.mat", struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"an element of {zeros} bytes; expected at most {MAX_ELEMENT_BYTES}"):
            list(MatFile(path).cells("c"))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_more_cells_than_bytes(tmp_path):
    path = mat_file(tmp_path / "a.mat", matrix("<", 1, (2**31 - 1, 2**31 - 1), bytes(64), b"c"))
    with pytest.raises(DataError, match="variable 'c' is damaged: it has no room for its"):
        list(MatFile(path).cells("c"))


def test_bytes_that_are_left_over(tmp_path):
    cell = matrix("<", 4, (1, 1), element("<", 16, b"a"))
    path = mat_file(tmp_path / "a.mat", matrix("<", 1, (1, 1), cell + cell, b"c"))
    with pytest.raises(DataError, match="has more than its dimensions say"):
        list(MatFile(path).cells("c"))

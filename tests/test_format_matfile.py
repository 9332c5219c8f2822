"""MATLAB files: read as scipy writes them and as MATLAB does, in bounded memory; whatever is wrong is a DataError."""

import io
import os
import pickle
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.matfile import MatFile
from crnn.data.formats.matvalue import MatText
from crnn.errors import DataError

MATLAB_FILES = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"

# Nothing that MATLAB's texts end in by themselves (NUL) and nothing outside of Unicode (surrogates).
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
NUMBERS = st.sampled_from(["<f8", "<f4", "<i2", "<u1"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 100), min_size=6, max_size=6).map(
        lambda values: np.array(values, dtype).reshape(2, 3)
    )
)
VALUE = st.recursive(WORD | NUMBERS, lambda children: st.lists(children, max_size=4), max_leaves=8)


def cell_array(values: list) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        array[0, i] = cell_array(value) if isinstance(value, list) else value
    return array


def save(path: Path, variables: dict, *, compress: bool = False) -> Path:
    scipy.io.savemat(path, variables, do_compression=compress)
    return path


def assert_same(read, written) -> None:
    if isinstance(written, str):
        assert read == MatText((written,))
    elif isinstance(written, list):
        assert isinstance(read, tuple)
        assert len(read) == len(written)
        for a, b in zip(read, written, strict=True):
            assert_same(a, b)
    else:
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)


@settings(max_examples=60)
@given(values=st.lists(VALUE, min_size=1, max_size=5), compress=st.booleans())
def test_cells_as_scipy_writes_them(values, compress):
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "a.mat", {"before": np.arange(3), "c": cell_array(values)}, compress=compress)
        file = MatFile(path)
        assert file.variables["c"].kind == "cell"
        assert file.variables["c"].shape == (1, len(values))
        assert_same(tuple(file.cells("c")), values)
        assert_same(tuple(file.cells("c")), values)


@pytest.mark.parametrize("compress", [False, True])
def test_structs_by_the_names_of_their_fields(tmp_path, compress):
    records = np.zeros((1, 3), [("a", object), ("b", object), ("c", object)])
    for i in range(3):
        records[0, i] = (f"text {i}", np.full((2, 2), i), cell_array(["x", "y" * i or "-"]))
    file = MatFile(save(tmp_path / "a.mat", {"s": records}, compress=compress))
    assert file.variables["s"].fields == ("a", "b", "c")
    assert [(c[1].text, a.text, gone) for c, a, gone in file.structs("s", ("c", "a", "none"))] == [
        ("-", "text 0", None),
        ("y", "text 1", None),
        ("yy", "text 2", None),
    ]


def test_rows_of_text_keep_their_padding(tmp_path):
    file = MatFile(save(tmp_path / "a.mat", {"c": cell_array([np.array(["Lines:\nI", "will", "grün"])])}))
    (text,) = file.cells("c")
    assert text.rows == ("Lines:\nI", "will    ", "grün    ")
    assert text.text == "Lines:\nI\nwill    \ngrün    "


def test_the_order_of_cells_and_numbers_is_matlabs(tmp_path):
    grid = np.array([["a", "b"], ["c", "d"]], object)
    file = MatFile(save(tmp_path / "a.mat", {"g": grid, "n": cell_array([np.arange(6).reshape(2, 3)])}))
    assert [cell.text for cell in file.cells("g")] == ["a", "c", "b", "d"]
    np.testing.assert_array_equal(next(file.cells("n")), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.skipif(not MATLAB_FILES.is_dir(), reason="this scipy comes without the files that MATLAB wrote")
def test_files_that_matlab_wrote():
    """MATLAB 5.3 to 7.4, on machines of both byte orders; scipy reads them for comparison."""
    num_compared = 0
    for path in sorted(MATLAB_FILES.glob("test*cell*_[5-9].*.mat")) + sorted(MATLAB_FILES.glob("*_endian.mat")):
        published = scipy.io.loadmat(path)
        file = MatFile(path)
        for name in (name for name, variable in file.variables.items() if variable.kind == "cell"):
            assert_like_scipy(tuple(file.cells(name)), published[name])
            num_compared += 1
    for path in sorted(MATLAB_FILES.glob("teststruct*_[5-9].*.mat")):
        published = scipy.io.loadmat(path)
        file = MatFile(path)
        for name, variable in file.variables.items():
            for got, expected in zip(file.structs(name, variable.fields), published[name].ravel("F"), strict=True):
                for a, b in zip(got, expected, strict=True):
                    assert_like_scipy(a, b)
                    num_compared += 1
    assert num_compared > 30


def assert_like_scipy(read, expected) -> None:
    if isinstance(read, tuple):
        assert len(read) == expected.size
        for a, b in zip(read, expected.ravel("F"), strict=True):
            assert_like_scipy(a, b)
    elif isinstance(read, MatText):
        assert [row.rstrip() for row in read.rows] == [str(row).rstrip() for row in expected.ravel()]
    elif read is None:
        assert expected.dtype.names or expected.dtype.kind == "c"  # a struct or complex numbers
    else:
        np.testing.assert_array_equal(read, expected)


# What is no MATLAB file, or a damaged one.


def of_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\0" * 4096, pickle.dumps(list(range(100))), of_npz(), b"\x93NUMPY" + bytes(200), bytes(128)],
    ids=["empty", "text", "zeros", "pickle", "npz", "npy", "header"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat: is not a MATLAB file of version 5 to 7; expected .*unpickled"):
        MatFile(path)


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path = tmp_path / "a.mat"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        MatFile(path)
    assert not (tmp_path / "sprung").exists()


def test_version_7_3_is_named(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"
    )
    with pytest.raises(DataError, match=r"version 7\.3 \(HDF5\), which is not read; .*'-v7'"):
        MatFile(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    with pytest.raises(DataError, match="HDF5"):
        MatFile(path)


def test_version_4_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.arange(6)}, format="4")
    with pytest.raises(DataError, match="version 5 to 7"):
        MatFile(tmp_path / "a.mat")


def test_what_is_no_file(tmp_path):
    for path, match in ((tmp_path, "is not a file"), (tmp_path / "none.mat", "No such file")):
        with pytest.raises(DataError, match=match):
            MatFile(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mat")
    with pytest.raises(DataError, match="is not a file"):
        MatFile(tmp_path / "a.mat")


def small_file(path: Path, *, compress: bool) -> bytes:
    records = np.zeros((1, 2), [("a", object)])
    records["a"] = [["one", "two"]]
    save(path, {"c": cell_array(["word", np.arange(4.0), ["x", "y"]]), "s": records}, compress=compress)
    return path.read_bytes()


def read_all(path: Path) -> None:
    file = MatFile(path)
    for name, variable in file.variables.items():
        if variable.kind == "cell":
            list(file.cells(name))
        elif variable.kind == "struct":
            list(file.structs(name, variable.fields))


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_off_anywhere_is_an_error(tmp_path, compress):
    content = small_file(tmp_path / "whole.mat", compress=compress)
    ends = {128, len(content)}
    offset = 128
    while offset < len(content):
        offset += 8 + struct.unpack_from("<I", content, offset + 4)[0]
        ends.add(offset)
    for length in range(0, len(content), 3):
        if length not in ends:
            (tmp_path / "cut.mat").write_bytes(content[:length])
            with pytest.raises(DataError):
                read_all(tmp_path / "cut.mat")


@pytest.mark.parametrize("compress", [False, True])
def test_a_changed_byte_is_read_over_or_an_error(tmp_path, compress):
    content = small_file(tmp_path / "whole.mat", compress=compress)
    refused = 0
    positions = range(124, len(content), 2)
    for position in positions:
        for change in (0x01, 0xFF):
            changed = bytearray(content)
            changed[position] ^= change
            (tmp_path / "changed.mat").write_bytes(changed)
            try:
                read_all(tmp_path / "changed.mat")
            except DataError:
                refused += 1
    if compress:
        assert refused == 2 * len(positions)  # what is deflated has a checksum
    else:
        assert 20 < refused < 2 * len(positions)


def test_the_wrong_variable_is_named(tmp_path):
    file = MatFile(save(tmp_path / "a.mat", {"other": np.arange(3), "c": cell_array(["a"])}))
    with pytest.raises(DataError, match=r"has other \(numbers\), c \(cell\); expected gt \(cell\)"):
        file.cells("gt")
    with pytest.raises(DataError, match=r"expected c \(struct\)"):
        file.structs("c", ("a",))


def test_a_file_that_changes_is_found(tmp_path):
    file = MatFile(save(tmp_path / "a.mat", {"c": cell_array(["a"])}))
    save(tmp_path / "a.mat", {"c": cell_array(["a", "b"])})
    with pytest.raises(DataError, match="was changed while in use"):
        file.cells("c")


def test_it_can_be_pickled_and_holds_nothing_open(tmp_path):
    file = MatFile(save(tmp_path / "a.mat", {"c": cell_array(["a", "b"])}, compress=True))
    cells = pickle.loads(pickle.dumps(file)).cells("c")
    assert next(cells).text == "a"
    del cells  # a warning about an open file would be an error here

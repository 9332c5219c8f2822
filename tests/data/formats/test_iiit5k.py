"""IIIT5k: files as MATLAB would have them, by scipy; what is missing or odd is counted or one clear error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from crnn.data.formats.iiit5k import Iiit5kReader
from crnn.data.formats.records import Record
from crnn.errors import DataError

FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")
SMALL = tuple(f"SMALL{i}" for i in range(50))
LARGE = tuple(f"LARGE{i}" for i in range(1000))


def structs(*rows: tuple, fields: tuple[str, ...] = FIELDS) -> np.ndarray:
    array = np.zeros((1, len(rows)), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


@pytest.fixture
def mat(tmp_path: Path, cells: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """A function that writes words, with both lexicons, as a set's file."""

    def mat(*words: tuple[object, object], name: str = "testdata", compress: bool = False) -> Path:
        path = tmp_path / "IIIT5K" / f"{name}.mat"
        path.parent.mkdir(exist_ok=True)
        rows = structs(*((*word, cells(*SMALL), cells(*LARGE)) for word in words))
        scipy.io.savemat(path, {name: rows}, do_compression=compress)
        return path

    return mat


def test_words_with_both_lexicons(tmp_path, mat):
    mat(("test/1002_1.png", "PRIVATE"), ("test/1002_2.png", "it's"), compress=True)
    train = mat(("train/1_1.png", "TRAIN"), name="traindata")
    reader = Iiit5kReader(tmp_path)
    assert (reader.root, len(reader)) == (tmp_path / "IIIT5K", 2)
    expected = [
        Record("test/1002_1.png", "PRIVATE", "test/1002_1.png", None, SMALL, LARGE),
        Record("test/1002_2.png", "it's", "test/1002_2.png", None, SMALL, LARGE),
    ]
    assert list(reader) == list(reader) == expected
    for reader in (Iiit5kReader(tmp_path / "IIIT5K", "train"), Iiit5kReader(train, "test")):
        assert [sample.label for sample in reader] == ["TRAIN"]


def test_fields_are_found_by_name_and_odd_lexicons_left_out(tmp_path, cells):
    fields = ("GroundTruth", "smallLexi", "mediumLexi", "ImgName", "extra")
    rows = structs(("DOG", "not cells", cells("A", np.arange(2), "", "B"), "test/1.png", 7), fields=fields)
    scipy.io.savemat(tmp_path / "testdata.mat", {"testdata": rows})
    assert list(Iiit5kReader(tmp_path)) == [Record("test/1.png", "DOG", "test/1.png", None, (), ("A", "B"))]


def test_words_that_cannot_be_used_are_counted(tmp_path, mat, cells, samples):
    path = mat(
        ("test/0.png", "GOOD"),
        ("../../etc/passwd", "A"),
        ("/etc/passwd", "A"),
        ("", "A"),
        (np.arange(3.0), "A"),
        ("test/1.png", np.arange(3.0)),
        ("test/2.png", cells("A")),
        ("test/3.png", np.array(["TWO", "ROWS"])),
        ("test/4.png", ""),
        ("test/5.png", "GRÜN"),
    )
    path.write_bytes(path.read_bytes().replace("GRÜN".encode(), b"GR\xf0\x9fN"))
    assert samples(Iiit5kReader(tmp_path)) == [
        ("test/0.png", "GOOD"),
        ("../../etc/passwd", "!outside_root"),
        ("/etc/passwd", "!outside_root"),
        ("word 4", "!malformed"),
        ("word 5", "!malformed"),
        ("test/1.png", "!malformed"),
        ("test/2.png", "!malformed"),
        ("test/3.png", "!malformed"),
        ("test/4.png", "!no_label"),
        ("test/5.png", "!encoding"),
    ]


@pytest.mark.parametrize(
    "variables",
    [{"testdata": structs()}, {"testCharBound": structs(("test/1.png", "DOG"), fields=("ImgName", "chars"))}],
)
def test_files_of_another_form(tmp_path, variables):
    scipy.io.savemat(tmp_path / "testdata.mat", variables)
    with pytest.raises(DataError, match=f"has {next(iter(variables))}; expected structs of ImgName"):
        Iiit5kReader(tmp_path)

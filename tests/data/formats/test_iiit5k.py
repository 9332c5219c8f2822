"""IIIT5k: files as MATLAB would have them, by scipy; what is missing or odd is counted or one clear error."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from crnn.data.formats.iiit5k import Iiit5kReader
from crnn.data.formats.records import Record, Skipped
from crnn.errors import ConfigError, DataError

FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")
SMALL = [f"SMALL{i}" for i in range(50)]
LARGE = [f"LARGE{i}" for i in range(1000)]


def cells(words: list) -> np.ndarray:
    array = np.empty((1, len(words)), object)
    array[0, :] = words
    return array


def structs(*rows: tuple, fields: tuple[str, ...] = FIELDS) -> np.ndarray:
    array = np.zeros((1, len(rows)), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def word(name: object, label: object, small: list = SMALL, large: list = LARGE) -> tuple:
    return (name, label, cells(small), cells(large))


def write(folder: Path, *rows: tuple, name: str = "testdata", file: str | None = None, compress: bool = True) -> Path:
    path = folder / f"{file or name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {name: structs(*rows)}, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_words_with_both_lexicons(tmp_path, compress):
    write(tmp_path, word("test/1002_1.png", "PRIVATE"), word("test/1002_2.png", "PARKING"), compress=compress)
    reader = Iiit5kReader(tmp_path)
    assert reader.root == tmp_path
    assert len(reader) == 2
    expected = [
        Record("test/1002_1.png", "PRIVATE", "test/1002_1.png", None, tuple(SMALL), tuple(LARGE)),
        Record("test/1002_2.png", "PARKING", "test/1002_2.png", None, tuple(SMALL), tuple(LARGE)),
    ]
    assert list(reader) == expected
    assert list(reader) == expected
    assert list(pickle.loads(pickle.dumps(reader))) == expected


def test_splits_and_places(tmp_path):
    write(tmp_path / "IIIT5K", word("test/1_1.png", "TEST"))
    path = write(tmp_path / "IIIT5K", word("train/1_1.png", "TRAIN"), name="traindata")

    def labels(source: Path, *split: str) -> list[str]:
        return [sample.label for sample in Iiit5kReader(source, *split)]

    assert labels(tmp_path) == labels(tmp_path / "IIIT5K", "test") == ["TEST"]
    assert labels(tmp_path, "train") == labels(path) == labels(path, "test") == ["TRAIN"]
    assert Iiit5kReader(tmp_path, "train").root == path.parent


def test_fields_are_found_by_name(tmp_path):
    rows = structs(("DOG", cells(["A"]), "test/1.png", 7), fields=("GroundTruth", "smallLexi", "ImgName", "extra"))
    scipy.io.savemat(tmp_path / "testdata.mat", {"testdata": rows})
    assert list(Iiit5kReader(tmp_path)) == [Record("test/1.png", "DOG", "test/1.png", None, ("A",), ())]


def test_labels_are_kept_as_published(tmp_path):
    labels = ["a", "Größe", "it's", "two words", "0"]
    write(tmp_path, *(word(f"test/{i}.png", label, ["ONE"], []) for i, label in enumerate(labels)))
    assert [sample.label for sample in Iiit5kReader(tmp_path)] == labels


def test_words_that_cannot_be_used_are_counted(tmp_path):
    write(
        tmp_path,
        word("test/0.png", "GOOD"),
        word("../../etc/passwd", "A"),
        word("/etc/passwd", "A"),
        word("C:\\1.png", "A"),
        word("", "A"),
        word("a\nb.png", "A"),
        word(np.arange(3.0), "A"),
        word("test/1.png", np.arange(3.0)),
        word("test/2.png", cells(["A"])),
        word("test/3.png", np.array(["TWO", "ROWS"])),
        word("test/4.png", ""),
    )
    reader = Iiit5kReader(tmp_path)
    samples = list(reader)
    assert len(reader) == len(samples) == 11
    assert isinstance(samples[0], Record)
    assert samples[1:] == [
        Skipped("../../etc/passwd", "outside_root"),
        Skipped("/etc/passwd", "outside_root"),
        Skipped("C:\\1.png", "outside_root"),
        Skipped("word 5", "malformed"),
        Skipped("a b.png", "malformed"),
        Skipped("word 7", "malformed"),
        Skipped("test/1.png", "malformed"),
        Skipped("test/2.png", "malformed"),
        Skipped("test/3.png", "malformed"),
        Skipped("test/4.png", "no_label"),
    ]


def test_text_that_is_not_utf8_is_counted(tmp_path):
    path = write(tmp_path, word("test/0.png", "GRÜN"), word("test/1.png", "GOOD"), compress=False)
    content = path.read_bytes()
    assert content.count("GRÜN".encode()) == 1
    path.write_bytes(content.replace("GRÜN".encode(), b"GR\xf0\x9fN"))
    first, second = Iiit5kReader(tmp_path)
    assert first == Skipped("test/0.png", "encoding")
    assert second.label == "GOOD"


def test_lexicons_of_another_form_are_left_out(tmp_path):
    rows = structs(("test/1.png", "DOG", "not cells", cells(["A", np.arange(2), "", "B"])))
    scipy.io.savemat(tmp_path / "testdata.mat", {"testdata": rows})
    assert list(Iiit5kReader(tmp_path)) == [Record("test/1.png", "DOG", "test/1.png", None, (), ("A", "B"))]


def test_the_file_of_character_boxes_is_named(tmp_path):
    rows = structs(("test/1.png", "DOG", np.ones((3, 4))), fields=("ImgName", "chars", "charBB"))
    path = tmp_path / "testCharBound.mat"
    scipy.io.savemat(path, {"testCharBound": rows})
    with pytest.raises(DataError, match=r"has testCharBound; it has the boxes of characters; .*testdata\.mat"):
        Iiit5kReader(path)
    with pytest.raises(
        DataError, match=r"has no testdata\.mat or IIIT5K/testdata\.mat; expected the folder of the set"
    ):
        Iiit5kReader(tmp_path)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        (
            {"testdata": np.arange(5)},
            r"testdata has the shape \(1, 5\) and the fields none; expected structs with ImgName",
        ),
        ({"testdata": structs(("a", "b"), fields=("ImgName", "Word"))}, "and the fields ImgName, Word; expected"),
        ({"testdata": structs()}, r"has the shape \(\d, 0\)"),
        ({"words": structs(word("a", "b"))}, "has words; expected traindata or testdata"),
        ({}, "has no variables; expected traindata or testdata"),
    ],
)
def test_files_of_another_form(tmp_path, variables, match):
    scipy.io.savemat(tmp_path / "testdata.mat", variables)
    with pytest.raises(DataError, match=match) as caught:
        Iiit5kReader(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_file(tmp_path):
    path = write(tmp_path, *(word(f"test/{i}.png", "DOG") for i in range(8)))
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:-200] + bytes([whole[-200] ^ 0xFF]) + whole[-199:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"testdata\.mat: cannot be read as a MATLAB file of version 5 to 7: "):
            Iiit5kReader(tmp_path)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="no split 'val'; expected train or test"):
        Iiit5kReader(tmp_path, "val")
    with pytest.raises(DataError, match=r"does not exist; expected testdata\.mat or its folder"):
        Iiit5kReader(tmp_path / "none")
    with pytest.raises(DataError, match=r"null|exist"):
        Iiit5kReader("a\0b")

"""What readers share: paths stay inside, lines and names of files, an annotation is found or named."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.records import (
    Record,
    Skipped,
    annotation_lines,
    find_annotation,
    relative_path,
    sample,
)
from crnn.errors import DataError, printable


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("a//b/./c d.png", "a/b/c d.png"),
        ("a\\b.png", "a/b.png"),
        ("größe/日本.png", "größe/日本.png"),
        ("...png", "...png"),
        ("a..b/c", "a..b/c"),
        *((path, None) for path in ("/etc/passwd", "\\\\host\\share\\a.png", "//host/a.png", "../a.png", "C:/a.png")),
        *((path, None) for path in ("a/../../b.png", "a/../b.png", "a\\..\\..\\b.png", "..", "c:a.png", "", "./")),
    ],
)
def test_paths_stay_inside(path, expected):
    assert relative_path(path) == expected


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab./\\:.. C"), max_size=12))
def test_no_path_leaves_its_folder(path):
    kept = relative_path(path)
    if kept is not None:
        assert ".." not in kept.split("/")
        assert Path("/set", *kept.split("/")).parts[:2] == ("/", "set")
        assert kept not in ("", ".")
        assert relative_path(kept) == kept or kept[1:2] == ":"


def test_a_sample_is_a_record_or_has_one_reason():
    assert sample("a\\b.png", "x", word=2) == Record("a/b.png#2", "x", "a/b.png")
    assert sample(" ", "x", place="row 7") == Skipped("row 7", "malformed")
    assert sample("../a.png", "", fault="no_area") == Skipped("../a.png", "outside_root")
    assert sample("a.png", "", fault="no_area") == Skipped("a.png", "no_area")
    assert sample("a.png", "caf\udce9") == Skipped("a.png", "encoding")
    assert sample("a.png", " ") == Skipped("a.png", "no_label")
    assert sample("a.png", "", empty_label=True) == Record("a.png", "", "a.png")
    assert sample("../a\nb\x1b.png", "x").key == "../a\\nb\\x1b.png"


def test_lines_are_those_of_a_list_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\n one \n\n \t \ntwo\r\r\n\x0bthree\nfo\xe9r")
    assert list(annotation_lines(path)) == [" one ", "two\r", "\x0bthree", "fo\udce9r"]
    path.write_bytes(b"a\0")
    with pytest.raises(DataError, match=r"lines\.txt: is not text in UTF-8"):
        list(annotation_lines(path))
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        list(annotation_lines(tmp_path / "none.txt"))


def test_an_annotation_is_found_in_its_folder_or_named(tmp_path, write):
    path = write(tmp_path / "set" / "words.xml")
    for source in (path, str(path), tmp_path, tmp_path / "set"):
        assert find_annotation(source, ("words.xml", "set/words.xml")) == path
    write(tmp_path / "set" / "._a.csv")
    with pytest.raises(DataError, match=r"set: has no such file; expected one \*\.csv in it"):
        find_annotation(tmp_path / "set", ("*.csv",))
    for name in ("a.csv", "b.csv"):
        write(tmp_path / "set" / name)
    with pytest.raises(DataError, match=r"set: has 2 \(a\.csv, b\.csv\); expected one \*\.csv in it"):
        find_annotation(tmp_path / "set", ("*.csv",))
    for name in ("nowhere", "n" * 300, "nul\0"):
        with pytest.raises(DataError, match=r"does not exist; expected words\.xml, or its folder"):
            find_annotation(tmp_path / name, ("words.xml",))


def test_what_is_no_text_can_be_named():
    assert printable("a" * 20, 10) == "aaaa...aaa"
    assert printable("gr\ud800f") == "gr\\ud800f"
    assert printable("a\n\x1b[2J\t日本\u2028") == "a\\n\\x1b[2J\\t日本\\u2028"

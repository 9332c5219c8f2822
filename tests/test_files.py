"""Text files: bounds of lines and of what is unpacked, before memory is spent."""

import gzip

import pytest

from crnn import files
from crnn.errors import DataError
from crnn.files import text_lines


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lines_are_as_they_are_in_the_file(pack, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(pack("\ufeffeins\r\n\nzwei\u2028\ndrei".encode()))
    assert list(text_lines(path)) == ["eins\r\n", "\n", "zwei\u2028\n", "drei"]
    path.write_bytes(pack(b""))
    assert list(text_lines(path)) == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_length_of_a_line_is_bounded(pack, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(pack(b"a\n" + b"b" * ((1 << 20) - 1) + b"\n" + b"c" * (1 << 20) + b"\n"))
    lines = text_lines(path, "words")
    assert [len(next(lines)), len(next(lines))] == [2, 1 << 20]
    with pytest.raises(
        DataError, match=r"words: has too many characters in line 3: expected at most 1,048,576.*\. Check"
    ):
        next(lines)


def test_what_a_packed_file_unpacks_to_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_UNPACKED", 1000)
    path, plain = tmp_path / "words.gz", tmp_path / "words.txt"
    plain.write_bytes(b"abc\n" * 251)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    lines = text_lines(path)
    assert [next(lines) for _ in range(250)] == ["abc\n"] * 250
    with pytest.raises(
        DataError, match=r"words\.gz: has too many characters .*, and 1,000 in all when unpacked\. Check"
    ):
        next(lines)
    assert len(list(text_lines(plain))) == 251


def test_the_number_of_lines_is_bounded_where_it_is_asked_for(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"abc\n" * 3)
    assert len(list(text_lines(path, max_lines=3))) == 3
    with pytest.raises(
        DataError, match=r"words\.txt: has too many lines: expected at most 2\. Check the file, or shorten"
    ):
        list(text_lines(path, max_lines=2))

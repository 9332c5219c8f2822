"""Lists and tables of images and labels: read like a list file, with every bad line counted."""

import collections
import csv
import io
import json
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.files import CsvReader, ListReader
from crnn.data.formats.records import Reader, Record
from crnn.data.list_file import ListFile
from crnn.errors import DataError


def write(folder: Path, content: str | bytes, name: str = "labels.tsv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def samples(reader: Reader) -> list[tuple[str, str]]:
    """Path or key, and label or reason."""
    found = [(s.path, s.label) if isinstance(s, Record) else (s.key, f"!{s.reason}") for s in reader]
    assert len(found) == len(reader)
    return found


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_read_as_they_are_written(tmp_path, mark, end):
    lines = ["a.png\tone", "", "my crops/ß 1.png\t two\twords ", "c.png\t", "./d\\e.png\tMaß 日本", "   "]
    reader = ListReader(write(tmp_path / "set", mark + end.join(lines)))
    expected = [("a.png", "one"), ("my crops/ß 1.png", " two\twords "), ("c.png", ""), ("d/e.png", "Maß 日本")]
    assert samples(reader) == expected
    assert samples(pickle.loads(pickle.dumps(reader))) == expected
    assert reader.root == tmp_path / "set"
    assert next(iter(reader)) == Record(key="a.png", label="one", path="a.png")
    assert ListReader(tmp_path / "set" / "labels.tsv", root=tmp_path / "images").root == tmp_path / "images"


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0\ufeff"), max_size=12)
LINES = st.lists(st.none() | st.tuples(FIELD.filter(str.strip), FIELD), min_size=1, max_size=12)


@settings(max_examples=150)
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_list_file_is_read_as_training_reads_it(lines, end, last):
    content = end.join("" if line is None else "\t".join(line) for line in lines) + (end if last else "")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        if all(line is None for line in lines):
            with pytest.raises(DataError, match="has no samples"):
                ListReader(path)
            return
        with ListFile(path) as file:
            expected = [(file.key(i), file.label(i)) for i in range(len(file))]
        found = list(ListReader(path))
        assert len(found) == len(expected)
        for sample, (key, label) in zip(found, expected, strict=True):
            if isinstance(sample, Record):
                assert sample.label == label
                assert Path(sample.path).parts == Path(key.replace("\\", "/")).parts
            else:
                assert sample.reason == "outside_root"


def test_several_images_may_share_a_label(tmp_path):
    lines = [
        '["a.jpg","b 1.jpg"]\tone',
        "[1].png\ttwo",
        '[broken, "x.png"]\tthree',
        "[]\tfour",
        "[1, 2]\tfive",
        json.dumps(["größe.jpg", "../x.jpg"]) + "\tsix",
        '["c.jpg","d.jpg"] no tab',
        '["\\ud800.jpg"]\tseven',
        "[" * 5000 + "\teight",
        '["e.jpg"]\tnine',
    ]
    reader = ListReader(write(tmp_path, "\n".join(lines)))
    assert samples(reader) == [
        ("a.jpg", "one"),
        ("b 1.jpg", "one"),
        ("[1].png", "two"),
        ('[broken, "x.png"]', "three"),
        ("[]", "four"),
        ("[1, 2]", "five"),
        ("größe.jpg", "six"),
        ("../x.jpg", "!outside_root"),
        ('["c.jpg","d.jpg"] no tab', "!malformed"),
        ("\\xed\\xa0\\x80.jpg", "!encoding"),
        ("[" * 5000, "eight"),
        ("e.jpg", "nine"),
    ]


PATH = st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0."), min_size=1, max_size=6)


@settings(max_examples=80)
@given(groups=st.lists(st.tuples(st.lists(PATH, min_size=1, max_size=3), FIELD), min_size=1, max_size=6))
def test_any_json_list_of_paths_is_read(groups):
    content = "".join(f"{json.dumps(paths)}\t{label}\n" for paths, label in groups)
    expected = [(path, label) for paths, label in groups for path in paths if path.strip()]
    with tempfile.TemporaryDirectory() as folder:
        found = samples(ListReader(write(Path(folder), content)))
    assert [sample for sample in found if sample[1] != "!malformed"] == expected
    assert len(found) == sum(len(paths) for paths, _ in groups)


def test_bad_lines_are_counted(tmp_path):
    lines = [
        b"a.png\tone",
        b"b.png two",
        b"\tthree",
        b"/etc/passwd\tfour",
        b"../../etc/passwd\tfive",
        b"c:\\x.png\tsix",
        b"caf\xe9.png\tseven",
        b"h.png\tcaf\xe9",
        b"  \teight",
        b"i.png\tnine",
    ]
    assert samples(ListReader(write(tmp_path, b"\r\n".join(lines)))) == [
        ("a.png", "one"),
        ("b.png two", "!malformed"),
        ("\\tthree", "!malformed"),
        ("/etc/passwd", "!outside_root"),
        ("../../etc/passwd", "!outside_root"),
        ("c:\\x.png", "!outside_root"),
        ("caf\\xe9.png", "!encoding"),
        ("h.png", "!encoding"),
        ("  \\teight", "!malformed"),
        ("i.png", "nine"),
    ]


def test_what_is_no_list_is_refused(tmp_path):
    for content in (b"", b"\xef\xbb\xbf", b"\n \r\n"):
        with pytest.raises(DataError, match=r"labels\.tsv: has no samples; expected lines of the form path<TAB>label"):
            ListReader(write(tmp_path, content))
    with pytest.raises(DataError, match=r"no line has a tab; the first is 'a\.png,one'; expected"):
        ListReader(write(tmp_path, "a.png,one\nb.png,two\n"))
    with pytest.raises(DataError, match="is not text in UTF-8"):
        ListReader(write(tmp_path, "a.png\tone\n".encode("utf-16")))
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read: No such file"):
        ListReader(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="is not a file; expected a text file"):
        ListReader(tmp_path)


def test_nothing_is_held_for_a_line(tmp_path):
    lines = [f"images/{i:08d}.png\tlabel {i}" for i in range(10_000)]
    listed = write(tmp_path, "\n".join(lines))
    table = write(tmp_path, "\n".join(["path,label", *lines]).replace("\t", ","), "labels.csv")
    for kind, path in ((ListReader, listed), (CsvReader, table)):
        tracemalloc.start()
        reader = kind(path)
        last = collections.deque(reader, maxlen=1)[0]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (len(reader), last.label) == (10_000, "label 9999")
        assert peak < 200_000  # the file has 0.35 MB


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("filename,words", "a.png,one", ("a.png", "one")),
        ("image_path,plate_text", "images/a.png,KNN 505", ("images/a.png", "KNN 505")),
        ("image_path,plate_text,plate_region", "a.png,AB1,es", ("a.png", "AB1")),
        ("id,Label,Path", "7,one,a.png", ("a.png", "one")),
        ("text;filename", "one;a.png", ("a.png", "one")),
        ("filename\ttext", "a.png\tone", ("a.png", "one")),
        (" filename , words ", " a.png ,  one ", ("a.png", "  one ")),
        ("filename,words", 'a.png,"one, ""two"""', ("a.png", 'one, "two"')),
        ("filename,words", '"b, c.png",5" x', ("b, c.png", '5" x')),
        ("filename,words", "a.png,1,000 and more, much", ("a.png", "1,000 and more, much")),
        ("filename,words", "a.png,", ("a.png", "")),
        ("filename,words", 'a.png,"one\ntwo"', ("a.png", "!several_lines")),
        ('"filename","words"', '"größe.png","日本"', ("größe.png", "日本")),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n   \n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_read_by_the_names_of_their_columns(tmp_path, header, row, expected, mark, end):
    path = write(tmp_path / "set", mark + end.join([header, "", "  ", row, ""]), "labels.csv")
    for source in (path, path.parent):
        reader = CsvReader(source)
        assert samples(reader) == [expected]
        assert reader.root == tmp_path / "set"
    assert samples(pickle.loads(pickle.dumps(reader))) == [expected]


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=10)


@settings(max_examples=120)
@given(
    rows=st.lists(st.tuples(CELL.filter(str.strip), CELL, CELL), min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_table_is_read_back(rows, delimiter, quoting, end):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([("path", "comment", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        found = list(CsvReader(write(Path(folder), stream.getvalue(), "words.csv")))
    assert len(found) == len(rows)
    for sample, (path, _, label) in zip(found, rows, strict=True):
        if isinstance(sample, Record):
            assert sample.label == label
            assert Path(sample.path).parts == Path(path.strip().replace("\\", "/")).parts
        else:
            assert sample.reason == "outside_root"


def test_bad_rows_are_counted(tmp_path):
    rows = [
        b"a.png,one,x",
        b"b.png",
        b"c.png,caf\xe9,x",
        b"../d.png,four,x",
        b",five,x",
        b"e.png,six,x,y",
        b"f.png,7,x",
    ]
    reader = CsvReader(write(tmp_path, b"\n".join([b"filename,words,split", *rows]), "labels.csv"))
    assert samples(reader) == [
        ("a.png", "one"),
        ("line 3: b.png", "!malformed"),
        ("c.png", "!encoding"),
        ("../d.png", "!outside_root"),
        ("line 6: ,five,x", "!malformed"),
        ("line 7: e.png,six,x,y", "!malformed"),
        ("f.png", "7"),
    ]


def test_what_names_a_sample_is_one_line(tmp_path):
    path = write(tmp_path, 'path,label\n"a\nb\x1b.png",one\n"../a\nb",two\n', "labels.csv")
    record, skipped = CsvReader(path)
    assert (record.key, record.path) == ("a\\nb\\x1b.png", "a\nb\x1b.png")
    assert skipped.key == "../a\\nb"


def test_columns_may_be_named(tmp_path):
    path = write(tmp_path, "image,filename,path,words,truth\n1.png,2.png,3.png,one,two\n", "labels.csv")
    with pytest.raises(
        DataError, match=r"the columns filename, path could be meant; .* Name the one to use \(path_col"
    ):
        CsvReader(path)
    with pytest.raises(DataError, match=r"no column file; its columns are image, filename, path, words, truth"):
        CsvReader(path, path_column="file")
    assert samples(CsvReader(path, path_column="Path")) == [("3.png", "one")]
    reader = CsvReader(path, path_column="image", label_column="truth", root=tmp_path / "images")
    assert (samples(reader), reader.root) == ([("1.png", "two")], tmp_path / "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header such as filename,words"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"a.png,one\nb.png,two\n", "no column filename or image_path or path; its columns are a.png, one"),
        (b"filename,words\n", "has no rows below its header"),
        (
            b'filename,words\na.png,one\nb.png,"two\nc.png,three\n',
            r"labels\.csv, after line 2: is not CSV: unexpected end of data",
        ),
        (b'filename,words\na.png,"one" two\n', "after line 0: is not CSV: ',' expected after '\"'"),
        (b'filename,words\na.png,"' + b"x" * 200_000, "after line 0: is not CSV: field larger than field limit"),
        ("filename,words\na.png,one\n".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        CsvReader(write(tmp_path, content, "labels.csv"))


def test_a_folder_has_one_table(tmp_path):
    for name in ("nowhere", "n" * 300, "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"there is no such file|has no \*\.csv in it; expected one"):
            CsvReader(tmp_path / name)
    for name in ("a.csv", "b.csv"):
        write(tmp_path / "two", "filename,words\na.png,one\n", name)
    with pytest.raises(DataError, match=r"has 2 tables \(a\.csv, b\.csv\) in it; expected one"):
        CsvReader(tmp_path / "two")

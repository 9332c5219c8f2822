"""Lists, tables, folders with texts and images named by their words: read as they are written, every fault counted."""

import collections
import csv
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.files import CsvReader, FolderReader, LabelledNamesReader, ListReader
from crnn.data.formats.records import Record
from crnn.data.list_file import ListFile
from crnn.errors import DataError

ENDS = pytest.mark.parametrize("end", ["\n", "\r\n"])


# ---- list


def test_a_list_is_found_in_its_folder(tmp_path, write, samples):
    path = write(tmp_path / "set" / "labels.tsv", "\ufeffa.png\tone\n\n./d\\e.png\tMaß 日本\r\n")
    for reader in (ListReader(path), ListReader(str(path.parent))):
        assert samples(reader) == samples(reader) == [("a.png", "one"), ("d/e.png", "Maß 日本")]
        assert reader.root == tmp_path / "set"
    assert ListReader(path, root=tmp_path / "images").root == tmp_path / "images"


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0\ufeff"), max_size=12)
LINES = st.lists(st.none() | st.tuples(FIELD.filter(str.strip), FIELD), min_size=1, max_size=12)


@settings(max_examples=20)
@given(lines=LINES.filter(any), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_list_file_is_read_as_training_reads_it(write, lines, end, last):
    content = end.join("" if line is None else "\t".join(line) for line in lines) + (end if last else "")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "labels.tsv"), content)
        with ListFile(path) as file:
            expected = [(file.key(i), file.label(i)) for i in range(len(file))]
        assert expected == [line for line in lines if line is not None]
        found = list(ListReader(path))
    assert len(found) == len(expected)
    for sample, (key, label) in zip(found, expected, strict=True):
        if isinstance(sample, Record):
            assert (sample.label, Path(sample.path)) == (label, Path(key.replace("\\", "/")))
        else:
            assert sample.reason in ("outside_root", "malformed")  # or the folder itself: "."


def test_several_images_may_share_a_label(tmp_path, write, samples):
    lines = {
        '["a.jpg","b 1.jpg"]\tone': [("a.jpg", "one"), ("b 1.jpg", "one")],
        "[1].png\ttwo": [("[1].png", "two")],
        '[broken, "x.png"]\tthree': [('[broken, "x.png"]', "three")],
        "[]\tfour": [("[]", "four")],
        "[1, 2]\tfive": [("[1, 2]", "five")],
        json.dumps(["größe.jpg", "../x.jpg"]) + "\tsix": [("größe.jpg", "six"), ("../x.jpg", "!outside_root")],
        '["c.jpg","d.jpg"] no tab': [('["c.jpg","d.jpg"] no tab', "!malformed")],
        "[" * 5000 + "\teight": [("[" * 5000, "eight")],
    }
    reader = ListReader(write(tmp_path / "labels.tsv", "\n".join(lines)))
    assert samples(reader) == [sample for found in lines.values() for sample in found]


def test_bad_lines_are_counted(tmp_path, write, samples):
    lines = {
        b"a.png\tone": ("a.png", "one"),
        b"b.png two": ("b.png two", "!malformed"),
        b"\tthree": ("\\tthree", "!malformed"),
        b"  \tfour": ("  \\tfour", "!malformed"),
        b"/etc/passwd\tfive": ("/etc/passwd", "!outside_root"),
        b"../../etc/passwd\tsix": ("../../etc/passwd", "!outside_root"),
        b"c:\\x.png\tseven": ("c:\\x.png", "!outside_root"),
        b"h.png\tcaf\xe9": ("h.png", "!encoding"),
        b"i.png\tnine": ("i.png", "nine"),
        b"j.png\tten\ten": ("j.png\\tten\\ten", "!malformed"),
    }
    assert samples(ListReader(write(tmp_path / "labels.tsv", b"\r\n".join(lines)))) == list(lines.values())


def test_nothing_is_held_for_a_line(tmp_path, write):
    lines = [f"images/{i:08d}.png\tlabel {i}" for i in range(10_000)]
    listed = write(tmp_path / "labels.tsv", "\n".join(lines))
    table = write(tmp_path / "labels.csv", "\n".join(["path,label", *lines]).replace("\t", ","))
    for kind, path in ((ListReader, listed), (CsvReader, table)):
        tracemalloc.start()
        reader = kind(path)
        last = collections.deque(reader, maxlen=1)[0]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (len(reader), last.label) == (10_000, "label 9999")
        assert peak < 200_000  # the file has 0.35 MB


# ---- csv


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("filename,words", "a.png,one", ("a.png", "one")),
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
@ENDS
def test_tables_are_read_by_the_names_of_their_columns(tmp_path, write, samples, header, row, expected, mark, end):
    path = write(tmp_path / "set" / "labels.csv", mark + end.join([header, "", "  ", row, ""]))
    for source in (path, path.parent):
        reader = CsvReader(source)
        assert (samples(reader), reader.root) == ([expected], tmp_path / "set")


def test_bad_rows_are_counted(tmp_path, write, samples):
    rows = {
        b"a.png,one,x": ("a.png", "one"),
        b"b.png": ("line 3: b.png", "!malformed"),
        b"c.png,caf\xe9,x": ("c.png", "!encoding"),
        b"../d.png,four,x": ("../d.png", "!outside_root"),
        b",five,x": ("line 6: ,five,x", "!malformed"),
        b"e.png,six,x,y": ("line 7: e.png,six,x,y", "!malformed"),
        b"f.png,7,x": ("f.png", "7"),
    }
    reader = CsvReader(write(tmp_path / "labels.csv", b"\n".join([b"filename,words,split", *rows])))
    assert samples(reader) == list(rows.values())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (['b.png,"two', "c.png,three"], [('line 3: b.png,"two', "!malformed"), ("c.png", "three")]),
        (['b.png,"two" x', "c.png,3"], [('line 3: b.png,"two" x', "!malformed"), ("c.png", "3")]),
        (['b.png,"' + "x" * 200_000], [('line 3: b.png,"' + "x" * 22 + "..." + "x" * 28, "!malformed")]),
        (
            ['b.png,"two', "c.png,3", 'd.png,"x', 'e.png,"5"'],
            [
                *[('line 3: b.png,"two', "!malformed"), ("c.png", "3")],
                ('line 5: d.png,"x', "!malformed"),
                ("e.png", "5"),
            ],
        ),
        # Closed in a line below, it is a label of several lines, whatever they look like.
        (['b.png,"two\nlines, really"', "c.png,three"], [("b.png", "!several_lines"), ("c.png", "three")]),
        (['b.png,"two\nd.png,x"\n\n"c.png",three'], [("b.png", "!several_lines"), ("c.png", "three")]),
        (['"b.png', 'c.png",three'], [("b.png\\nc.png", "!several_lines")]),
        ([",", '"b\n.png",two', "c.png,three"], [("b\\n.png", "!several_lines"), ("c.png", "three")]),
    ],
)
def test_a_quote_that_is_not_closed_costs_its_own_row(tmp_path, write, samples, rows, expected):
    reader = CsvReader(write(tmp_path / "labels.csv", "\n".join(["path,label", "a.png,one", *rows, ""])))
    assert samples(reader) == [("a.png", "one"), *expected]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_column_too_many_is_said_and_a_tab_is_no_label(tmp_path, write, samples, delimiter):
    rows = ["path|label", "a.png|one|en", "b.png|two", 'c.png|"t\tw"', "d.png|x|y"]
    reader = CsvReader(write(tmp_path / "labels.csv", "\n".join(rows).replace("|", delimiter)))
    found = [label for _, label in samples(reader)]
    if delimiter == "\t":
        assert (found, reader.notes) == (["!malformed", "two", "!malformed", "!malformed"], ())
    else:
        assert found == [f"one{delimiter}en", "two", "!malformed", f"x{delimiter}y"]
        (note,) = reader.notes
        assert note.startswith("2 rows of ")
        assert note.endswith("have more columns than its header; their labels (label) take the rest of the row")


def test_a_table_has_one_reader_until_a_fault(tmp_path, write, monkeypatch):
    path = write(tmp_path / "labels.csv", "path,label\n" + "a.png,1\n" * 50 + 'b.png,"two\nc.png,3\n')
    readers = []
    make = csv.reader
    monkeypatch.setattr(csv, "reader", lambda *lines, **kind: readers.append(1) or make(*lines, **kind))
    reader = CsvReader(path)
    readers.clear()
    assert (len(list(reader)), len(readers)) == (52, 2)


@pytest.mark.skipif(os.name == "nt", reason="there these are no names of files")
def test_files_with_backslashes_and_colons_in_their_names_are_read(tmp_path):
    for name in ("a\\b_x_1.png", "c:1_x_1.png"):
        (tmp_path / name).write_bytes(b"image")
        (tmp_path / name).with_suffix(".txt").write_text("x")
    for kind in (FolderReader, LabelledNamesReader):
        reader = kind(tmp_path)
        found = [(record.path, record.label, reader.image_source()(record.path)) for record in reader]
        assert found == [("a\\b_x_1.png", "x", b"image"), ("c:1_x_1.png", "x", b"image")]


def test_columns_may_be_named(tmp_path, write, samples):
    path = write(tmp_path / "labels.csv", "image,filename,path,words,truth\n1.png,2.png,3.png,one,two\n")
    with pytest.raises(DataError, match=r"2 columns are named filename or .*Name the one to use \(path_column\)"):
        CsvReader(path)
    with pytest.raises(DataError, match=r"no columns are named file; its columns are image, filename, path, words"):
        CsvReader(path, path_column="file")
    assert samples(CsvReader(path, path_column="Path")) == [("3.png", "one")]
    reader = CsvReader(path, path_column="image", label_column="truth", root=tmp_path / "images")
    assert (samples(reader), reader.root) == ([("1.png", "two")], tmp_path / "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"filename,words\n", "has no rows below its header"),
        ("filename,words\na.png,one\n".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_what_is_no_table_or_list_is_refused(tmp_path, write, content, message):
    with pytest.raises(DataError, match=message):
        CsvReader(write(tmp_path / "labels.csv", content))
    with pytest.raises(DataError, match=r"labels\.tsv: no line has a tab; expected lines"):
        ListReader(write(tmp_path / "labels.tsv", b"a.png,one\nb.png,two\n"))


# ---- folder


def test_pairs_are_read_in_the_order_of_their_names(tmp_path, write, samples):
    files = {
        "b.png": "", "b.gt.txt": "two words\n", "a.JPG": "", "a.txt": "one\r\n", "c/10.png": "", "c/10.txt": "ten",
        "c/9.tiff": "", "c/9.gt.txt": "\ufeffnine\n\n", "c/d/x.webp": "", "c/d/x.gt.txt": " spaces stay \n",
        "c/b/y.png": "", "c/b/y.txt": "why", "B/z.png": "", "B/z.txt": "größe 日本", "notes.md": "not looked at",
        ".hidden.png": "", "._b.png": "", ".git/e.png": "",
    }  # fmt: skip
    for name, content in files.items():
        write(tmp_path / "set" / name, content)
    expected = [
        ("a.JPG", "one"), ("b.png", "two words"), ("B/z.png", "größe 日本"), ("c/10.png", "ten"), ("c/9.tiff", "nine"),
        ("c/b/y.png", "why"), ("c/d/x.webp", " spaces stay "),
    ]  # fmt: skip
    for source in (tmp_path / "set", f"{tmp_path}/set/"):
        reader = FolderReader(source)
        assert samples(reader) == samples(reader) == expected


@pytest.mark.parametrize(
    ("image", "names", "label"),
    [
        ("7.png", ["7.gt.txt", "7.txt"], "7.gt.txt"),
        ("7.bin.png", ["7.bin.gt.txt", "7.bin.txt", "7.gt.txt", "7.txt"], "7.bin.gt.txt"),
        ("7.bin.png", ["7.bin.txt", "7.gt.txt", "7.txt"], "7.bin.txt"),
        ("7.bin.png", ["7.txt"], "7.txt"),
        ("7.bin.png", ["8.gt.txt"], "!no_label"),
    ],
)
def test_an_image_s_text_is_found_as_line_recognisers_find_it(tmp_path, write, samples, image, names, label):
    for name in (image, "z.png"):
        write(tmp_path / name)
    for name in (*names, "z.txt"):
        write(tmp_path / name, name)
    assert (image, label) in samples(FolderReader(tmp_path))


def test_texts_that_are_no_label_are_counted(tmp_path, write, samples):
    texts = {
        "a": (b"fits", "fits"),
        "c": (b"caf\xe9\n", "!encoding"),
        "d": (b"", "!no_label"),
        "e": (b" \r\n", "!no_label"),
        "f": (b"one\ntwo\n", "!several_lines"),
    }
    for name, (content, _) in texts.items():
        write(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.txt", content)
    write(tmp_path / "g.png")
    write(tmp_path / "h.txt", "no image")
    assert samples(FolderReader(tmp_path)) == [
        *((f"{name}.png", expected) for name, (_, expected) in texts.items()),
        ("g.png", "!no_label"),
        ("h.txt", "!missing"),
    ]


def test_no_text_outside_of_the_folder_is_read(tmp_path, write, samples):
    folder = tmp_path / "set"
    for name in ("secret.txt", "outside/x_word_1.txt", "set/b_kept_1.txt", "set/c.txt"):
        write(tmp_path / name, Path(name).stem)
    for name in ("outside/x_word_1.png", "set/a.png", "set/b.png", "set/c_word_1.png"):
        write(tmp_path / name)
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "b.txt").symlink_to("b_kept_1.txt")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    assert samples(FolderReader(folder)) == [
        ("a.png", "!outside_root"),
        ("b.png", "b_kept_1"),
        ("c_word_1.png", "!no_label"),
        ("b_kept_1.txt", "!missing"),
        ("c.txt", "!missing"),
        ("linked", "!linked_folder"),
        ("loop", "!linked_folder"),
    ]
    assert ("linked", "!linked_folder") in samples(LabelledNamesReader(folder))
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be a link
    assert ("b.png", "b_kept_1") in samples(FolderReader(tmp_path / "alias"))


# ---- names


def test_words_are_taken_from_names(tmp_path, write, samples):
    names = {
        "2425/1/115_Lube_45484.jpg": "Lube",
        "2425/1/116_snake_case_1.PNG": "snake_case",
        "2425/1/117__1.jpg": "!no_label",
        "2425/1/118_größe 日本_2.jpg": "größe 日本",
        "2425/1/119_a.b_3.jpg": "a.b",
        "2425/1/word_1.png": "!no_label",
    }
    for name in (*names, "annotation_train.txt", ".x_y_z.png"):
        write(tmp_path / name)
    assert samples(LabelledNamesReader(tmp_path)) == list(names.items())


def test_names_that_are_not_utf8_can_be_read_and_named(tmp_path, samples):
    raw = os.fsencode(tmp_path)
    try:
        for name in (b"1_caf\xe9_2.png", b"caf\xe9_word_1.png", b"caf\xe9_word_1.txt"):
            Path(os.fsdecode(raw + b"/" + name)).write_bytes(b"text")
    except OSError:
        pytest.skip("the file system has no such names")
    assert [label for _, label in samples(LabelledNamesReader(tmp_path))] == ["!encoding", "word"]
    record = next(sample for sample in FolderReader(tmp_path) if isinstance(sample, Record))
    assert (record.key, record.label) == ("caf\\udce9_word_1.png", "text")
    assert FolderReader(tmp_path).image_source()(record.path) == b"text"


@pytest.mark.parametrize("reader", [FolderReader, LabelledNamesReader])
def test_what_is_no_such_folder_is_refused(tmp_path, write, reader):
    for name in ("file.png", "empty/readme.txt", "unlabelled/word_1.png"):
        write(tmp_path / name)
    for name in ("nowhere", "file.png", "n" * 300):
        with pytest.raises(DataError, match=f"{name}: there is no such folder; expected one with images"):
            reader(tmp_path / name)
    for name in ("empty", "unlabelled"):
        with pytest.raises(DataError, match=f"{name}: has no image "):
            reader(tmp_path / name)

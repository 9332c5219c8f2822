"""MJSynth: the published layout is read from wherever the archive was unpacked, and nothing of it is held."""

import collections
import os
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.mjsynth import NUM_SAMPLES, MjsynthReader
from crnn.data.formats.records import AnnotationLines, Record, decoded, kind_of, printable, relative_path
from crnn.errors import DataError

INSIDE = "mnt/ramdisk/max/90kDICT32px"
WORDS = ["aa", "lube", "marbling", "down", "sale"]


def write_set(folder: Path, *, lexicon: bytes | None = None, **annotations: str | bytes) -> Path:
    """The folder that the archive unpacks to, without its images; annotations by the name of their split."""
    root = folder / INSIDE
    root.mkdir(parents=True)
    for split, content in annotations.items():
        data = content if isinstance(content, bytes) else content.encode()
        (root / f"annotation_{split}.txt").write_bytes(data)
    (root / "lexicon.txt").write_bytes("".join(f"{word}\n" for word in WORDS).encode() if lexicon is None else lexicon)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(
        tmp_path,
        train="./2425/1/115_Lube_1.jpg 1\n./2425/1/116_SALE_4.jpg 4\n",
        val="./2557/2/351_DOWN_3.jpg 3\n",
        test="./1881/4/225_Marbling_2.jpg 2\n./1/1/1_aa_0.jpg 0\n",
    )


def samples(reader: MjsynthReader) -> list[tuple[str, str]]:
    """Path or key, and label or reason."""
    return [(s.path, s.label) if isinstance(s, Record) else (s.key, f"!{s.reason}") for s in reader]


def test_a_split_is_read_in_the_order_of_its_annotation(root):
    reader = MjsynthReader(root)
    expected = [("2425/1/115_Lube_1.jpg", "lube"), ("2425/1/116_SALE_4.jpg", "sale")]
    assert samples(reader) == expected
    assert samples(reader) == expected  # and again
    assert (len(reader), reader.labels_from, reader.root) == (2, "lexicon", root)
    first = next(iter(reader))
    assert first == Record(key="2425/1/115_Lube_1.jpg", label="lube", path="2425/1/115_Lube_1.jpg")
    assert samples(MjsynthReader(root, "val")) == [("2557/2/351_DOWN_3.jpg", "down")]
    assert [label for _, label in samples(MjsynthReader(root, "all"))] == ["lube", "sale", "down", "marbling", "aa"]
    assert len(MjsynthReader(root, "all")) == 5


def test_the_published_counts_add_up():
    assert NUM_SAMPLES["train"] + NUM_SAMPLES["val"] + NUM_SAMPLES["test"] == NUM_SAMPLES["all"]


@pytest.mark.parametrize("depth", range(5))
def test_the_set_is_found_below_the_folder_that_it_was_unpacked_in(root, depth):
    source = [root, *root.parents][depth]
    reader = MjsynthReader(source, "test")
    assert (reader.root, len(reader)) == (root, 2)
    assert len(MjsynthReader(str(source), "test")) == 2


def test_the_label_may_come_from_the_name(root):
    reader = MjsynthReader(root, label="name")
    assert reader.labels_from == "name"
    assert [label for _, label in samples(reader)] == ["Lube", "SALE"]
    (root / "lexicon.txt").unlink()
    without = MjsynthReader(root)
    assert without.labels_from == "name"
    assert without.notes == (
        f"{root}/lexicon.txt is not there: the labels are those of the names, with their capitals",
    )
    assert reader.notes == ()
    assert samples(without) == samples(reader)


def test_lines_without_a_number_serve_where_the_name_has_the_label(tmp_path):
    root = write_set(tmp_path, train="./1/1_Lube_1.jpg\n./1/2_SALE_4.jpg 4\n./1/plain.jpg\n")
    assert samples(MjsynthReader(root, label="name")) == [
        ("1/1_Lube_1.jpg", "Lube"),
        ("1/2_SALE_4.jpg", "SALE"),
        ("1/plain.jpg", "!no_label"),
    ]
    assert samples(MjsynthReader(root)) == [
        ("./1/1_Lube_1.jpg", "!malformed"),
        ("1/2_SALE_4.jpg", "sale"),
        ("./1/plain.jpg", "!malformed"),
    ]


def test_what_cannot_be_used_is_counted(tmp_path):
    lines = [
        b"./1/1_Lube_1.jpg 1",
        b"",
        b"./1/2_Lube_9.jpg 5",
        b"./1/3_Lube_9.jpg " + b"9" * 5000,
        b"./1/4_Lube_9.jpg -1",
        b"./1/5_none_6.jpg 6",
        b"../../etc/passwd 1",
        b"/etc/passwd 1",
        b"C:\\windows\\a.jpg 1",
        b"./1/caf\xe9_lube_1.jpg 1",
        b"   ",
        "./1/größe 7_Down_3.jpg 3  ".encode(),
    ]
    root = write_set(
        tmp_path, train=b"\xef\xbb\xbf" + b"\r\n".join(lines), lexicon=b"aa\r\nlube\r\n\xc3\xa9\r\ndown\r\n\r\n"
    )
    reader = MjsynthReader(root)
    assert samples(reader) == [
        ("1/1_Lube_1.jpg", "lube"),
        ("1/2_Lube_9.jpg", "!index"),
        ("1/3_Lube_9.jpg", "!index"),
        ("./1/4_Lube_9.jpg -1", "!malformed"),
        ("1/5_none_6.jpg", "!index"),
        ("../../etc/passwd", "!outside_root"),
        ("/etc/passwd", "!outside_root"),
        ("C:\\windows\\a.jpg", "!outside_root"),
        ("./1/caf\\xe9_lube_1.jpg", "!encoding"),
        ("1/größe 7_Down_3.jpg", "down"),
    ]
    assert len(reader) == 10


def test_a_blank_line_of_the_lexicon_is_no_label(tmp_path):
    root = write_set(tmp_path, train="./1_aa_0.jpg 0\n./2_x_1.jpg 1\n./3_down_2.jpg 2\n", lexicon=b"aa\n\ndown\n")
    assert samples(MjsynthReader(root)) == [("1_aa_0.jpg", "aa"), ("2_x_1.jpg", "!no_label"), ("3_down_2.jpg", "down")]


@pytest.mark.parametrize("lexicon", [b"lube\nmarbling\ndown\nsale\nx\n", b"\naa\nlube\nmarbling\ndown\nsale\n"])
def test_a_lexicon_of_another_set_is_found_out(root, lexicon):
    (root / "lexicon.txt").write_bytes(lexicon)
    with pytest.raises(DataError, match=r"lexicon\.txt: contradicts 2 of the first 2 names in annotation_train\.txt: "):
        MjsynthReader(root)
    assert [label for _, label in samples(MjsynthReader(root, label="name"))] == ["Lube", "SALE"]


def test_names_that_say_nothing_do_not_contradict_a_lexicon(tmp_path):
    root = write_set(tmp_path, train="a.jpg 0\nb.jpg 1\n")
    assert samples(MjsynthReader(root)) == [("a.jpg", "aa"), ("b.jpg", "lube")]


def test_what_is_no_such_set_is_refused(tmp_path, root):
    with pytest.raises(DataError, match="nowhere: there is no such folder; expected 90kDICT32px"):
        MjsynthReader(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: annotation_train\.txt is neither in it nor in mnt/ramdisk"):
        MjsynthReader(tmp_path / "empty")
    (root / "annotation_val.txt").unlink()
    for split in ("val", "all"):
        with pytest.raises(DataError, match=r"90kDICT32px: annotation_val\.txt is not in it"):
            MjsynthReader(tmp_path, split)
    for content, begin in ((b"", "it is empty"), (b"Tiredness\nkills\n", "it begins with 'Tiredness'")):
        (root / "annotation_val.txt").write_bytes(content)
        with pytest.raises(DataError, match=rf"annotation_val\.txt: none of its first lines names a word: {begin}"):
            MjsynthReader(root, "val")
    (root / "annotation_val.txt").write_bytes("./1/1_aa_0.jpg 0\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"annotation_val\.txt: is not text in UTF-8"):
        MjsynthReader(root, "val")
    (root / "lexicon.txt").write_bytes(b"aa\nca\xe9\n")
    with pytest.raises(DataError, match=r"lexicon\.txt, line 2: is not UTF-8"):
        MjsynthReader(root)
    for arguments in ({"split": "dev"}, {"label": "both"}):
        with pytest.raises(ValueError, match="expected"):
            MjsynthReader(root, **arguments)


def test_nothing_is_held_for_a_line(tmp_path):
    num_lines = 20_000
    root = write_set(tmp_path, train="".join(f"./{i // 100}/{i % 100}_Lube_1.jpg 1\n" for i in range(num_lines)))
    tracemalloc.start()
    reader = MjsynthReader(root)
    last = collections.deque(reader, maxlen=1)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reader) == num_lines
    assert last.path == "199/99_Lube_1.jpg"
    assert peak < 1_000_000  # a record per line would be 8 MB
    twin = pickle.loads(pickle.dumps(reader))
    assert next(iter(twin)) == next(iter(reader))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"], exclude_characters="/\\_."))
NAMES = st.tuples(TEXT.filter(bool), TEXT.filter(bool))


@settings(max_examples=60)
@given(names=st.lists(NAMES, min_size=1, max_size=12), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_names_and_words_are_read_back(names, end, last):
    lines = [f"./{folder}/1_{word}_{number}.jpg {number}" for number, (folder, word) in enumerate(names)]
    content = end.join(lines) + (end if last else "")
    with tempfile.TemporaryDirectory() as folder:
        lexicon = "".join(f"{word}\n" for _, word in names).encode()
        root = write_set(Path(folder), train=content, lexicon=lexicon)
        for label in ("lexicon", "name"):
            for sample, (name, word) in zip(MjsynthReader(root, label=label), names, strict=True):
                if len(name) > 1 and name[0].isascii() and name[0].isalpha() and name[1] == ":":
                    continue  # a drive, not a folder
                assert isinstance(sample, Record)
                assert (sample.label, sample.path.startswith(f"{name}/1_{word}_")) == (word, True)


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
        ("/etc/passwd", None),
        ("\\\\host\\share\\a.png", None),
        ("//host/a.png", None),
        ("../a.png", None),
        ("a/../../b.png", None),
        ("a/../b.png", None),
        ("a\\..\\..\\b.png", None),
        ("..", None),
        ("C:/a.png", None),
        ("c:a.png", None),
        ("", None),
        ("./", None),
    ],
)
def test_paths_stay_inside(path, expected):
    assert relative_path(path) == expected


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab./\\:.. C"), max_size=12))
def test_no_path_leaves_its_folder(path):
    kept = relative_path(path)
    if kept is not None:
        folder = Path("/set/of/words")
        resolved = Path(*folder.parts, *kept.split("/"))
        assert ".." not in kept.split("/")
        assert resolved.is_relative_to(folder)
        assert resolved != folder
        assert relative_path(kept) == kept or kept[1:2] == ":"


def test_lines_are_those_of_a_list_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\n one \n\n \t \ntwo\r\r\n\x0bthree\nfour")
    assert list(AnnotationLines(path)) == [b" one ", b"two\r", b"\x0bthree", b"four"]
    path.write_bytes(b"a" * 5000 + b"\0")  # text for as long as it is looked at beforehand
    assert list(AnnotationLines(path)) == [b"a" * 5000 + b"\0"]
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        list(AnnotationLines(tmp_path / "none.txt"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt: is not a file; expected a text file"):
        list(AnnotationLines(tmp_path / "pipe.txt"))
    assert [kind_of(tmp_path / name) for name in ("pipe.txt", "none", "nul\0", "")] == ["", "", "", "folder"]


def test_what_is_no_text_can_be_named():
    assert decoded("größe".encode()) == "größe"
    assert decoded(b"gr\xf6\xdfe") is None
    assert printable(b"gr\xf6\xdfe") == "gr\\xf6\\xdfe"
    assert printable("gr\udcf6") == "gr\\xf6"
    assert printable("a" * 20, 10) == "aaaaaaa..."
    assert printable("gr\ud800f") == "gr\\ud800f"
    assert printable("a\n\x1b[2J\t日本\u2028") == "a\\n\\x1b[2J\\t日本\\u2028"

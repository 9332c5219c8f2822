"""MJSynth: the published layout is read from wherever the archive was unpacked, every fault counted."""

from pathlib import Path

import pytest

from crnn.data.formats.mjsynth import MjsynthReader
from crnn.errors import DataError

WORDS = b"aa\nlube\nmarbling\ndown\nsale\n"


def write_set(folder: Path, *, lexicon: bytes = WORDS, **annotations: str | bytes) -> Path:
    """The folder that the archive unpacks to, without its images; annotations by the name of their split."""
    root = folder / "mnt/ramdisk/max/90kDICT32px"
    root.mkdir(parents=True)
    for split, content in annotations.items():
        data = content if isinstance(content, bytes) else content.encode()
        (root / f"annotation_{split}.txt").write_bytes(data)
    (root / "lexicon.txt").write_bytes(lexicon)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(
        tmp_path,
        train="./2425/1/115_Lube_1.jpg 1\n./2425/1/116_SALE_4.jpg 4\n",
        val="./2557/2/351_DOWN_3.jpg 3\n",
        test="./1881/4/225_Marbling_2.jpg 2\n./1/1/1_aa_0.jpg 0\n",
    )


def test_a_split_is_read_in_the_order_of_its_annotation(root, samples):
    reader = MjsynthReader(root)
    expected = [("2425/1/115_Lube_1.jpg", "lube"), ("2425/1/116_SALE_4.jpg", "sale")]
    assert samples(reader) == samples(reader) == expected
    assert (reader.root, reader.notes) == (root, ())
    for source in (MjsynthReader(root, "val"), MjsynthReader(root / "annotation_val.txt")):
        assert samples(source) == [("2557/2/351_DOWN_3.jpg", "down")]
    assert [label for _, label in samples(MjsynthReader(root, "all"))] == ["lube", "sale", "down", "marbling", "aa"]
    for source in (*list(root.parents)[:4], str(root.parents[3])):  # above the folder that it was unpacked in
        reader = MjsynthReader(source, "test")
        assert (reader.root, len(reader)) == (root, 2)


def test_the_label_may_come_from_the_name(root, samples):
    assert [label for _, label in samples(MjsynthReader(root, labels="name"))] == ["Lube", "SALE"]
    (root / "lexicon.txt").unlink()
    without = MjsynthReader(root)
    assert [label for _, label in samples(without)] == ["Lube", "SALE"]
    assert without.notes == (
        f"{root}/lexicon.txt is not there: the labels are those of the names, with their capitals",
    )


def test_lines_without_a_number_serve_where_the_name_has_the_label(tmp_path, samples):
    root = write_set(tmp_path, train="./1/1_Lube_1.jpg\n./1/2_SALE_4.jpg 4\n./1/plain.jpg\n")
    assert samples(MjsynthReader(root, labels="name")) == [
        ("1/1_Lube_1.jpg", "Lube"), ("1/2_SALE_4.jpg", "SALE"), ("1/plain.jpg", "!no_label"),
    ]  # fmt: skip
    assert samples(MjsynthReader(root)) == [
        ("./1/1_Lube_1.jpg", "!malformed"), ("1/2_SALE_4.jpg", "sale"), ("./1/plain.jpg", "!malformed"),
    ]  # fmt: skip


def test_what_cannot_be_used_is_counted(tmp_path, samples):
    lines = {
        b"./1/1_Lube_1.jpg 1": ("1/1_Lube_1.jpg", "lube"),
        b"./1/2_Lube_9.jpg 5": ("1/2_Lube_9.jpg", "!index"),
        b"./1/3_Lube_9.jpg " + b"9" * 5000: ("1/3_Lube_9.jpg", "!index"),
        b"./1/4_Lube_9.jpg -1": ("./1/4_Lube_9.jpg -1", "!malformed"),
        b"../../etc/passwd 1": ("../../etc/passwd", "!outside_root"),
        b"/etc/passwd 1": ("/etc/passwd", "!outside_root"),
        b"C:\\windows\\a.jpg 1": ("C:\\windows\\a.jpg", "!outside_root"),
        b"./1/5_x_6.jpg 4": ("1/5_x_6.jpg", "!no_label"),  # a blank line of the lexicon, which counts
        b"./1/5_x_6.jpg 2": ("1/5_x_6.jpg", "!encoding"),
        "./1/größe 7_Down_3.jpg 3  ".encode(): ("1/größe 7_Down_3.jpg", "down"),
    }
    content = b"\xef\xbb\xbf" + b"\r\n".join([b"", *lines, b"   "])
    root = write_set(tmp_path, train=content, lexicon=b"aa\r\nlube\r\n\xe9\r\ndown\r\n\r\n")
    assert samples(MjsynthReader(root)) == list(lines.values())


def test_what_is_no_such_set_is_refused(tmp_path, root):
    (root / "annotation_val.txt").unlink()
    with pytest.raises(DataError, match=r"expected one annotation_val\.txt"):
        MjsynthReader(tmp_path, "val")
    with pytest.raises(DataError, match=r"90kDICT32px/annotation_val\.txt: cannot be read: No such file"):
        len(MjsynthReader(tmp_path, "all"))

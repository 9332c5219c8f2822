"""Folders that are their own annotation: images with a text file each, and images with the word in their names."""

import os
import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats import files as folder_module
from crnn.data.formats.files import FolderReader, LabelledNamesReader, label_of_name
from crnn.data.formats.records import Reader, Record
from crnn.errors import DataError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def samples(reader: Reader) -> list[tuple[str, str]]:
    """Path or key, and label or reason."""
    found = [(s.path, s.label) if isinstance(s, Record) else (s.key, f"!{s.reason}") for s in reader]
    assert len(found) == len(reader)
    return found


def test_pairs_are_read_in_the_order_of_their_names(tmp_path):
    folder = write(
        tmp_path / "set",
        {
            "b.png": "",
            "b.gt.txt": "two words\n",
            "a.JPG": "",
            "a.txt": "one\r\n",
            "c/10.png": "",
            "c/10.txt": "ten",
            "c/9.tiff": "",
            "c/9.gt.txt": "\ufeffnine\n\n",
            "c/d/x.webp": "",
            "c/d/x.gt.txt": " spaces stay \n",
            "c/b/y.png": "",
            "c/b/y.txt": "why",
            "B/z.png": "",
            "B/z.txt": "zed",
            "notes.md": "not looked at",
            ".hidden.png": "",
            "._b.png": "",
            ".git/e.png": "",
        },
    )
    expected = [
        ("a.JPG", "one"),
        ("b.png", "two words"),
        ("B/z.png", "zed"),
        ("c/10.png", "ten"),
        ("c/9.tiff", "nine"),
        ("c/b/y.png", "why"),
        ("c/d/x.webp", " spaces stay "),
    ]
    for source in (folder, str(folder), f"{folder}/"):
        reader = FolderReader(source)
        assert samples(reader) == expected
        assert samples(reader) == expected
        assert samples(pickle.loads(pickle.dumps(reader))) == expected
    assert next(iter(FolderReader(folder))) == Record(key="a.JPG", label="one", path="a.JPG")


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["7.gt.txt", "7.txt"], "7.gt.txt"),
        (["7.bin.gt.txt", "7.bin.txt", "7.gt.txt", "7.txt"], "7.bin.gt.txt"),
        (["7.bin.txt", "7.gt.txt", "7.txt"], "7.bin.txt"),
        (["7.gt.txt"], "7.gt.txt"),
        (["7.txt"], "7.txt"),
        (["7.bin.png.txt"], None),
        (["8.gt.txt"], None),
    ],
)
def test_an_image_s_text_is_found_as_line_recognisers_find_it(tmp_path, names, label):
    image = "7.bin.png" if names != ["7.gt.txt", "7.txt"] else "7.png"
    files = {name: name for name in names}
    folder = write(tmp_path, {image: "", **files, "z.png": "", "z.txt": "z"})
    assert (image, label or "!no_label") in samples(FolderReader(folder))


def test_an_image_without_text_and_a_text_without_image_are_counted(tmp_path):
    folder = write(
        tmp_path,
        {"a.png": "", "a.txt": "a", "b.png": "", "sub/c.gt.txt": "c", "d.bin.png": "", "d.png": "", "d.txt": "d"},
    )
    assert samples(FolderReader(folder)) == [
        ("a.png", "a"),
        ("b.png", "!no_label"),
        ("d.bin.png", "d"),
        ("d.png", "d"),
        ("sub/c.gt.txt", "!missing"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_texts_that_are_no_label_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_MAX_LABEL_BYTES", 100)
    texts = {
        "a": (b"fits" * 25, "fits" * 25),
        "b": (b"fits" * 25 + b"!", "!too_large"),
        "c": (b"caf\xe9\n", "!encoding"),
        "d": (b"", "!no_label"),
        "e": (b" \r\n", "!no_label"),
        "f": (b"one\ntwo\n", "!several_lines"),
        "g": ("größe 日本\n".encode(), "größe 日本"),
    }
    write(tmp_path, {f"{name}.png": "" for name in [*texts, "h"]})
    write(tmp_path, {f"{name}.txt": content for name, (content, _) in texts.items()})
    os.mkfifo(tmp_path / "h.txt")
    assert samples(FolderReader(tmp_path)) == [
        *((f"{name}.png", expected) for name, (_, expected) in texts.items()),
        ("h.png", "!no_label"),
    ]


def test_no_text_outside_of_the_folder_is_read(tmp_path):
    write(tmp_path, {"secret.txt": "secret", "outside/x_word_1.png": "", "outside/x_word_1.txt": "x"})
    folder = write(
        tmp_path / "set", {"a.png": "", "b.png": "", "b_kept_1.txt": "kept", "c_word_1.png": "", "c.txt": "c"}
    )
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "b.txt").symlink_to("b_kept_1.txt")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to(tmp_path / "nothing")
    assert samples(FolderReader(folder)) == [
        ("a.png", "!outside_root"),
        ("b.png", "kept"),
        ("c_word_1.png", "!no_label"),
        ("b_kept_1.txt", "!missing"),
        ("c.txt", "!missing"),
        ("linked", "!linked_folder"),
        ("loop", "!linked_folder"),
    ]
    assert ("linked", "!linked_folder") in samples(LabelledNamesReader(folder))
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be a link
    assert ("b.png", "kept") in samples(FolderReader(tmp_path / "alias"))


def test_words_are_taken_from_names(tmp_path):
    folder = write(
        tmp_path,
        {
            "2425/1/115_Lube_45484.jpg": "",
            "2425/1/116_snake_case_1.PNG": "",
            "2425/1/117__1.jpg": "",
            "2425/1/word_1.png": "",
            "2425/1/118_größe 日本_2.jpg": "",
            "2425/1/119_a.b_3.jpg": "",
            "annotation_train.txt": "",
            ".x_y_z.png": "",
        },
    )
    reader = LabelledNamesReader(folder)
    expected = [
        ("2425/1/115_Lube_45484.jpg", "Lube"),
        ("2425/1/116_snake_case_1.PNG", "snake_case"),
        ("2425/1/117__1.jpg", "!no_label"),
        ("2425/1/118_größe 日本_2.jpg", "größe 日本"),
        ("2425/1/119_a.b_3.jpg", "a.b"),
        ("2425/1/word_1.png", "!no_label"),
    ]
    assert samples(reader) == expected
    assert samples(pickle.loads(pickle.dumps(reader))) == expected


@settings(max_examples=80)
@given(st.lists(st.text("ab_ .", min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
def test_any_name_gives_its_middle(words):
    assert [label_of_name(f"dir_x/1_{word}_2.png") for word in words] == words
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), {f"{n}_{word}_{n}.png": "" for n, word in enumerate(words)})
        assert sorted(label for _, label in samples(LabelledNamesReader(folder))) == sorted(words)


def test_names_that_are_not_utf8_can_be_read_and_named(tmp_path):
    raw = os.fsencode(tmp_path)
    try:
        for name in (b"1_caf\xe9_2.png", b"caf\xe9_word_1.png", b"caf\xe9_word_1.txt"):
            Path(os.fsdecode(raw + b"/" + name)).write_bytes(b"text")
    except OSError:
        pytest.skip("the file system has no such names")
    assert samples(LabelledNamesReader(tmp_path)) == [
        ("1_caf\\xe9_2.png", "!encoding"),
        ("caf\udce9_word_1.png", "word"),
    ]
    record = next(sample for sample in FolderReader(tmp_path) if isinstance(sample, Record))
    assert (record.key, record.label) == ("caf\\xe9_word_1.png", "text")
    assert (tmp_path / record.path).read_bytes() == b"text"


def test_what_is_no_such_folder_is_refused(tmp_path):
    write(tmp_path, {"file.png": "", "empty/readme.txt": "nothing", "unlabelled/word_1.png": ""})
    for reader in (FolderReader, LabelledNamesReader):
        for name in ("nowhere", "file.png", "n" * 300):
            with pytest.raises(DataError, match=f"{name}: there is no such folder; expected one with images"):
                reader(tmp_path / name)
    for name in ("empty", "unlabelled"):
        with pytest.raises(DataError, match=r"has no image with a text file of its name; expected a\.png with"):
            FolderReader(tmp_path / name)
        with pytest.raises(DataError, match=r"has no image whose name holds a word; expected names like 115_Lube"):
            LabelledNamesReader(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    folder = write(tmp_path, {"a.png": "", "a.txt": "a", "closed/b.png": ""})
    (folder / "closed").chmod(0)
    with pytest.raises(DataError, match="closed/: cannot be read: Permission denied"):
        FolderReader(folder)
    (folder / "closed").chmod(0o700)

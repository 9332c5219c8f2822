"""The word sets of ICDAR 2013 and 2015: every way of writing their text files is read as it is meant."""

from pathlib import Path

import pytest

from crnn.data.formats.icdar import IcdarReader, parse_line
from crnn.data.formats.records import Quad
from crnn.errors import DataError

TEST_GT = "Challenge2_Test_Task3_GT.txt"


def write_set(folder: Path, content: str | bytes, *, name: str = "gt.txt", images: int = 0) -> Path:
    """A folder as the archives have it: a text file among ``word_N.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for number in range(1, images + 1):
        (folder / f"word_{number}.png").write_bytes(b"\x89PNG")
    return folder


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('word_1.png, "Tiredness"', ("word_1.png", "Tiredness")),
        (r'word_3.png, "\"Kills,\" he said"', ("word_3.png", '"Kills," he said')),
        (r'word_4.png, "C:\\"', ("word_4.png", "C:\\")),
        ("word_1.png, flying", ("word_1.png", "flying")),  # copies without quotes
        ('  word_1.png ,\t"a" ', ("word_1.png", "a")),
        (r'word_1.png, "a\"', ("word_1.png", "a\\")),  # not escaped as the page says it is
        ('word_1.png, "say "no" twice"', ("word_1.png", 'say "no" twice')),
        (r'word_1.png, "\n\\n\"n"', ("word_1.png", r'\n\n"n')),
        ('word_1.png, ""', ("word_1.png", "")),
        ('word_1.png, """', ("word_1.png", '"')),
        ('my words/word 1.png,"日本"', ("my words/word 1.png", "日本")),
        ("word_1.png", None),
        ("word_1.png,", None),
        (', "a"', None),
        ('word_1.png, "a', None),  # cut off
    ],
)
def test_a_line_is_an_image_and_its_word(line, expected):
    assert parse_line(line) == expected


def test_what_cannot_be_used_is_counted(tmp_path, samples):
    lines = {
        'word_1.png, "one"': ("word_1.png", "one"),
        "word_2.png": ("word_2.png", "!malformed"),
        '../../etc/passwd, "two"': ("../../etc/passwd", "!outside_root"),
        'word_1.png, "another"': ("word_1.png", "!duplicate"),
        'word_3.png, ""': ("word_3.png", "!no_label"),
        'sub/word 5.png, "five"': ("sub/word 5.png", "five"),
    }
    assert samples(IcdarReader(write_set(tmp_path, "\n".join(lines)))) == list(lines.values())


def test_odd_lines_and_images_left_out_are_noted(tmp_path, samples):
    content = 'word_1.png, "café"\n'.encode("latin-1") + 'word_2.png, "naïve"\n'.encode()
    content += b'word_3.png, "\x93don\x92t\x94 \x80"\nword_4.png, "\x81"\n'
    folder = write_set(tmp_path / "set", content, images=6)
    (folder / "._word_9.png").touch()
    reader = IcdarReader(folder)
    assert samples(reader) == [
        ("word_1.png", "café"),
        ("word_2.png", "naïve"),
        ("word_3.png", "“don’t” €"),
        ("word_4.png", "!encoding"),
    ]
    assert reader.notes == (
        f"3 lines of {folder}/gt.txt are not UTF-8 and were read as Windows-1252",
        f"2 images in {folder} are not in gt.txt, word_5.png the first",
    )


def test_the_text_file_of_a_test_is_published_beside_the_images(tmp_path, samples):
    lines = 'word_1.png, "Tiredness"\nword_2.png, "kills"\n'
    expected = [("word_1.png", "Tiredness"), ("word_2.png", "kills")]
    # The archive unpacked into a folder beside it, and the training set in another one.
    base = write_set(tmp_path / "ic13", lines, name=TEST_GT)
    images = write_set(base / "Challenge2_Test_Task3_Images", b"", name="notes.md", images=2)
    write_set(base / "Challenge2_Training_Task3_Images_GT", 'word_1.png, "PROPER"\n', images=2)
    (base / "a link").symlink_to(images)
    for source in (base, base / TEST_GT):
        reader = IcdarReader(source)
        assert (reader.root, samples(reader), reader.notes) == (images, expected, ())
    # Put among the images, as the ModelZoo wants it.
    inside = write_set(tmp_path / "together", lines, name=TEST_GT, images=2)
    assert IcdarReader(inside).root == inside
    # Somewhere else.
    elsewhere = write_set(tmp_path / "texts", lines, name="words.txt") / "words.txt"
    reader = IcdarReader(elsewhere, images=images)
    assert (reader.root, samples(reader)) == (images, expected)
    # Nowhere: converting will count them as missing.
    assert IcdarReader(elsewhere).root == tmp_path / "texts"


def test_images_and_text_files_are_not_guessed(tmp_path):
    base = write_set(tmp_path, 'word_1.png, "Tiredness"\n', name=TEST_GT)
    for name in ("a", "b"):
        write_set(base / name, b"", name="notes.md", images=1)
    with pytest.raises(DataError, match=r"word_1\.png is in 2 folders beside it \(a, b\); name the"):
        IcdarReader(base)
    assert IcdarReader(base, images=base / "b").root == base / "b"
    write_set(base, 'word_1.png, "a"')
    with pytest.raises(DataError, match=r"has 2 \(gt\.txt, Challenge2_Test_Task3_GT\.txt\); expected one gt\.txt or"):
        IcdarReader(base)
    for content in (b"", b"word_1.png\tone\n"):
        write_set(tmp_path / "other", content)
        with pytest.raises(DataError, match=r"gt\.txt: has no line like word_1\.png, \"Tiredness\""):
            IcdarReader(tmp_path / "other")


def test_words_are_cut_out_by_their_corners(tmp_path, samples):
    folder = write_set(tmp_path, "".join(f'word_{number}.png, "w{number}"\n' for number in range(1, 7)))
    with pytest.raises(DataError, match=r"coords\.txt: cannot be read: No such file"):
        IcdarReader(folder, upright=True)
    (folder / "coords.txt").write_bytes(
        b"\xef\xbb\xbfword_1.png,2,3,40,1,41,20,3,22\r\nword_2.png, 0, 0, 9.5, 0, 9.5, 9, 0, 9\r\n"
        b"word_3.png,1,2,3,4,5,6,7\r\nword_4.png,1,2,3,4,5,6,7,nan\r\nword_5.png,a,b,c,d,e,f,g,h\r\n"
    )
    reader = IcdarReader(folder, upright=True)
    no_box = [(f"word_{number}.png", "!no_box") for number in range(3, 7)]
    assert samples(reader) == [("word_1.png", "w1"), ("word_2.png", "w2"), *no_box]
    assert [sample.region for sample in list(reader)[:2]] == [
        Quad(((2, 3), (40, 1), (41, 20), (3, 22))),
        Quad(((0, 0), (9.5, 0), (9.5, 9), (0, 9))),
    ]
    assert {sample.region for sample in IcdarReader(folder)} == {None}

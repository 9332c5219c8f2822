"""IC03: the scenes' words.xml and the word sets' word.xml, as they are published."""

import pickle
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.icdar import Ic03Reader
from crnn.data.formats.records import Box, Record, Skipped
from crnn.errors import ConfigError, DataError

# The layout of the published file to the letter: its encoding, indents, numbers and attributes.
SCENES = """<?xml version="1.0" encoding="ISO-8859-1"?>
<tagset>
  <image>
    <imageName>ryoungt_05.08.2002/aPICT0034.JPG</imageName>
    <resolution x="960" y="1280" />
    <taggedRectangles>
      <taggedRectangle x="196.0" y="901.0" width="111.0" height="67.0" offset="0.0" rotation="0.0" userName="admin">
        <tag>311</tag>
        <segmentation />
      </taggedRectangle>
      <taggedRectangle x="18.0" y="107.0" width="471.0" height="62.0" offset="6.5" rotation="0.0" userName="admin">
        <tag>£5-OFF!</tag>
        <segmentation>
          <xOff>55.0</xOff>
        </segmentation>
      </taggedRectangle>
    </taggedRectangles>
  </image>
  <image>
    <imageName>sml_01.08.2002/IMG_1197.JPG</imageName>
    <resolution x="1279" y="347" />
    <taggedRectangles>
      <taggedRectangle x="613.0" y="200.0" width="137.0" height="56.0" offset="0.0" rotation="0.0" userName="admin">
        <tag>FOR</tag>
        <segmentation />
      </taggedRectangle>
    </taggedRectangles>
  </image>
</tagset>
"""
FIRST, SECOND = "ryoungt_05.08.2002/aPICT0034.JPG", "sml_01.08.2002/IMG_1197.JPG"
EXPECTED_SCENES = [
    Record(f"{FIRST}#1", "311", FIRST, Box(196, 901, 111, 67)),
    Record(f"{FIRST}#2", "£5-OFF!", FIRST, Box(18, 107, 471, 62)),
    Record(f"{SECOND}#1", "FOR", SECOND, Box(613, 200, 137, 56)),
]

WORDS = """<?xml version="1.0" encoding="ISO-8859-1"?>
<imagelist>
  <image file="word/1/1.jpg" tag="self" />
  <image file="word/1/2.jpg" tag="&quot;£&amp;'" />
</imagelist>
"""
EXPECTED_WORDS = [
    Record("word/1/1.jpg", "self", "word/1/1.jpg"),
    Record("word/1/2.jpg", "\"£&'", "word/1/2.jpg"),
]


def write(folder: Path, text: str, name: str = "words.xml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode("latin-1"))
    return folder / name


def test_words_of_the_scenes(tmp_path):
    write(tmp_path, SCENES)
    reader = Ic03Reader(tmp_path)
    assert reader.root == tmp_path
    assert len(reader) == 3
    assert list(reader) == EXPECTED_SCENES
    assert list(reader) == EXPECTED_SCENES
    assert list(pickle.loads(pickle.dumps(reader))) == EXPECTED_SCENES


def test_the_word_sets(tmp_path):
    write(tmp_path, WORDS, "word.xml")
    reader = Ic03Reader(tmp_path, "word")
    assert reader.root == tmp_path
    assert len(reader) == 2
    assert list(reader) == EXPECTED_WORDS
    assert list(reader) == EXPECTED_WORDS


def test_variants_splits_and_places(tmp_path):
    write(tmp_path / "SceneTrialTest", SCENES)
    write(tmp_path / "SceneTrialTrain", SCENES.replace("311", "TRAIN"))
    write(tmp_path / "TrialTest", WORDS, "word.xml")
    file = write(tmp_path / "TrialTrain", WORDS.replace("self", "train"), "word.xml")

    def first(source: Path, *arguments: str) -> str:
        return next(iter(Ic03Reader(source, *arguments))).label

    assert first(tmp_path) == first(tmp_path, "scene", "test") == first(tmp_path / "SceneTrialTest") == "311"
    assert first(tmp_path, "scene", "train") == first(tmp_path / "SceneTrialTrain", "scene", "train") == "TRAIN"
    assert first(tmp_path, "word") == first(tmp_path / "TrialTest", "word") == "self"
    assert first(tmp_path, "word", "train") == "train"
    # A file says itself what it is.
    assert first(file) == first(file, "scene", "test") == "train"
    assert first(tmp_path / "SceneTrialTrain" / "words.xml", "word") == "TRAIN"
    assert Ic03Reader(tmp_path, "word", "train").root == tmp_path / "TrialTrain"


def test_words_that_cannot_be_used_are_counted(tmp_path):
    write(tmp_path, SCENES.replace('height="67.0"', 'height="0.0"').replace(SECOND, "/etc/passwd"))
    assert list(Ic03Reader(tmp_path)) == [
        Skipped(f"{FIRST}#1", "no_area"),
        EXPECTED_SCENES[1],
        Skipped("/etc/passwd#1", "outside_root"),
    ]
    images = [
        '<image file="word/1/1.jpg" tag="self" />',
        '<image file="../1.jpg" tag="a" />',
        '<image file="C:\\1.jpg" tag="a" />',
        '<image file="" tag="a" />',
        '<image file="a&#10;b.jpg" tag="a" />',
        '<image file="word/1/2.jpg" />',
        '<image file="word/1/3.jpg" tag=" " />',
    ]
    write(tmp_path, f"<imagelist>{''.join(images)}</imagelist>", "word.xml")
    reader = Ic03Reader(tmp_path, "word")
    assert len(reader) == 7
    assert list(reader) == [
        EXPECTED_WORDS[0],
        Skipped("../1.jpg", "outside_root"),
        Skipped("C:\\1.jpg", "outside_root"),
        Skipped("image 4", "malformed"),
        Skipped("a b.jpg", "malformed"),
        Skipped("word/1/2.jpg", "no_label"),
        Skipped("word/1/3.jpg", "no_label"),
    ]


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(codec="latin-1", exclude_categories=("Cc",))), min_size=1, max_size=5))
def test_any_tags_of_word_sets_come_back(tmp_path_factory, labels):
    images = "".join(f'<image file="word/{n}.jpg" tag={quoteattr(label)} />' for n, label in enumerate(labels))
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<imagelist>{images}</imagelist>'
    path = write(tmp_path_factory.mktemp("ic03"), text, "word.xml")
    found = [sample.label if isinstance(sample, Record) else sample.reason for sample in Ic03Reader(path)]
    assert found == [label.strip() or "no_label" for label in labels]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<tagset></tagset>", "has no words; expected <image>"),
        (SCENES[:-30], "not well-formed XML"),
        (
            SCENES.replace("ISO-8859-1", "utf-8"),
            "not well-formed XML: .*expected XML in the encoding that its first line",
        ),
        (SCENES.replace("<tagset>", '<!DOCTYPE tagset SYSTEM "a.dtd"><tagset>'), "document type"),
    ],
)
def test_files_of_another_form(tmp_path, text, match):
    write(tmp_path, text)
    with pytest.raises(DataError, match=match) as caught:
        Ic03Reader(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match=r"no variant '867' .*expected scene or word"):
        Ic03Reader(tmp_path, "867")
    with pytest.raises(ConfigError, match="split 'val'; expected scene or word, and train or test"):
        Ic03Reader(tmp_path, "word", "val")
    with pytest.raises(DataError, match=r"has no words\.xml or SceneTrialTest/words\.xml"):
        Ic03Reader(tmp_path)

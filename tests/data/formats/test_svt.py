"""SVT: XML as it is published; the lexicon of a scene goes to each of its words."""

import pickle
from pathlib import Path

import pytest

from crnn.data.formats.records import Box, Record, Skipped
from crnn.data.formats.svt import SvtReader
from crnn.errors import ConfigError, DataError

# The layout of the published file to the letter: declaration, indents, order of elements and of attributes.
PUBLISHED = """<?xml version="1.0" encoding="utf-8"?>
<tagset>
   <image>
      <imageName>img/18_01.jpg</imageName>
      <address>? 216 High Street Anytown WA</address>
      <lex>THE,THREE,DOORS,WILD,GINGER,THE,MARKET</lex>
      <Resolution x="1280" y="800"/>
      <taggedRectangles>
         <taggedRectangle height="79" width="186" x="539" y="349">
            <tag>DOORS</tag>
         </taggedRectangle>
         <taggedRectangle height="38" width="71" x="-4" y="633">
            <tag>THE</tag>
         </taggedRectangle>
      </taggedRectangles>
   </image>
   <image>
      <imageName>img/13_11.jpg</imageName>
      <address>1636 South Street Anytown AZ</address>
      <lex>MAGIC,AUTO</lex>
      <Resolution x="1024" y="768"/>
      <taggedRectangles>
         <taggedRectangle height="34" width="106" x="474" y="452">
            <tag>AUTO</tag>
         </taggedRectangle>
      </taggedRectangles>
   </image>
</tagset>
"""
FIRST = ("THE", "THREE", "DOORS", "WILD", "GINGER", "THE", "MARKET")
EXPECTED = [
    Record("img/18_01.jpg#1", "DOORS", "img/18_01.jpg", Box(539, 349, 186, 79), FIRST),
    Record("img/18_01.jpg#2", "THE", "img/18_01.jpg", Box(-4, 633, 71, 38), FIRST),
    Record("img/13_11.jpg#1", "AUTO", "img/13_11.jpg", Box(474, 452, 106, 34), ("MAGIC", "AUTO")),
]


def write(folder: Path, text: str = PUBLISHED, name: str = "test.xml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder / name


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_words_with_the_lexicon_of_their_scene(tmp_path, ending):
    write(tmp_path, PUBLISHED.replace("\n", ending))
    reader = SvtReader(tmp_path)
    assert reader.root == tmp_path
    assert len(reader) == 3
    assert list(reader) == EXPECTED
    assert list(reader) == EXPECTED
    assert list(pickle.loads(pickle.dumps(reader))) == EXPECTED


def test_splits_and_places(tmp_path):
    write(tmp_path / "svt1")
    train = write(tmp_path / "svt1", PUBLISHED.replace("DOORS</tag>", "TRAIN</tag>"), "train.xml")
    assert list(SvtReader(tmp_path)) == list(SvtReader(tmp_path / "svt1", "test")) == EXPECTED
    for reader in (SvtReader(tmp_path, "train"), SvtReader(train), SvtReader(str(train), "test")):
        assert next(iter(reader)).label == "TRAIN"
        assert reader.root == tmp_path / "svt1"


@pytest.mark.parametrize(
    ("lex", "expected"),
    [
        ("<lex>\n  LIVING, ROOM ,,HALF\n  </lex>", ("LIVING", "ROOM", "HALF")),
        ("<lex></lex>", ()),
        ("", ()),
        ("<lex>CAFÉ,A&amp;P</lex>", ("CAFÉ", "A&P")),
    ],
)
def test_lexicons(tmp_path, lex, expected):
    write(tmp_path, PUBLISHED.replace("<lex>MAGIC,AUTO</lex>", lex))
    assert list(SvtReader(tmp_path))[2].lexicon == expected


def test_words_that_cannot_be_used_are_counted(tmp_path):
    text = PUBLISHED.replace('width="186"', 'width="0"').replace("img/13_11.jpg", "../13_11.jpg")
    write(tmp_path, text)
    reader = SvtReader(tmp_path)
    assert len(reader) == 3
    assert list(reader) == [
        Skipped("img/18_01.jpg#1", "no_area"),
        EXPECTED[1],
        Skipped("../13_11.jpg#1", "outside_root"),
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<tagset></tagset>", "has no words; expected <image> with <taggedRectangle>"),
        ("<html><body/></html>", "has no words"),
        (PUBLISHED[:-40], "not well-formed XML"),
        (PUBLISHED.replace("utf-8", "ascii").replace("HIGH", "H").replace("DOORS<", "DÖORS<"), "not well-formed XML"),
        (PUBLISHED.replace("<tagset>", "<!DOCTYPE tagset><tagset>"), "document type"),
    ],
)
def test_files_of_another_form(tmp_path, text, match):
    write(tmp_path, text)
    with pytest.raises(DataError, match=match) as caught:
        SvtReader(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="no split 'val'; expected train or test"):
        SvtReader(tmp_path, "val")
    with pytest.raises(DataError, match=r"has no test\.xml or svt1/test\.xml; expected the folder of the set"):
        SvtReader(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        SvtReader(tmp_path / "none")

"""XML of SVT and IC03: read as published, in the declared encoding; bombs and damage are one clear DataError."""

import os
import socket
import sys
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from crnn.data.formats.records import Box, Record, Skipped
from crnn.data.formats.tagged_xml import Ic03Reader, SvtReader, read_xml
from crnn.errors import ConfigError, DataError, MissingExtraError

# ---- The published files to the letter: declarations, indents, order of elements and of attributes.

SVT = """<?xml version="1.0" encoding="utf-8"?>
<tagset>
   <image>
      <imageName>img/18_01.jpg</imageName>
      <lex>THE,THREE,DOORS,WILD,GINGER,THE,MARKET</lex>
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
      <lex>MAGIC,AUTO</lex>
      <taggedRectangles>
         <taggedRectangle height="34" width="106" x="474" y="452">
            <tag>AUTO</tag>
         </taggedRectangle>
      </taggedRectangles>
   </image>
</tagset>
"""
FIRST = ("THE", "THREE", "DOORS", "WILD", "GINGER", "THE", "MARKET")
SVT_WORDS = [
    Record("img/18_01.jpg#1", "DOORS", "img/18_01.jpg", Box(539, 349, 186, 79), FIRST),
    Record("img/18_01.jpg#2", "THE", "img/18_01.jpg", Box(-4, 633, 71, 38), FIRST),
    Record("img/13_11.jpg#1", "AUTO", "img/13_11.jpg", Box(474, 452, 106, 34), ("MAGIC", "AUTO")),
]

SCENES = """<?xml version="1.0" encoding="ISO-8859-1"?>
<tagset>
  <image>
    <imageName>ryoungt_05.08.2002/aPICT0034.JPG</imageName>
    <taggedRectangles>
      <taggedRectangle x="196.0" y="901.0" width="111.0" height="67.0" offset="0.0" rotation="0.0" userName="admin">
        <tag>311</tag>
      </taggedRectangle>
      <taggedRectangle x="18.0" y="107.0" width="471.0" height="62.0" offset="6.5" rotation="0.0" userName="admin">
        <tag>£5-OFF!</tag>
        <segmentation><xOff>55.0</xOff></segmentation>
      </taggedRectangle>
    </taggedRectangles>
  </image>
</tagset>
"""
SCENE = "ryoungt_05.08.2002/aPICT0034.JPG"
SCENE_WORDS = [
    Record(f"{SCENE}#1", "311", SCENE, Box(196, 901, 111, 67)),
    Record(f"{SCENE}#2", "£5-OFF!", SCENE, Box(18, 107, 471, 62)),
]

WORDS = """<?xml version="1.0" encoding="ISO-8859-1"?>
<imagelist>
  <image file="word/1/1.jpg" tag="self" />
  <image file="word/1/2.jpg" tag="&quot;£&amp;'" />
</imagelist>
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_words_of_svt_with_the_lexicon_of_their_scene(tmp_path, write, ending):
    path = write(tmp_path / "svt1" / "test.xml", SVT.replace("\n", ending))
    train = write(tmp_path / "svt1" / "train.xml", SVT.replace("DOORS</tag>", "TRAIN</tag>"))
    for source in (tmp_path, tmp_path / "svt1", path):
        reader = SvtReader(source)
        assert (reader.root, len(reader)) == (tmp_path / "svt1", 3)
        assert list(reader) == list(reader) == SVT_WORDS
    for reader in (SvtReader(tmp_path, "train"), SvtReader(train), SvtReader(str(train), "test")):
        assert next(iter(reader)).label == "TRAIN"
    with pytest.raises(DataError, match=r"has no such file; expected one val\.xml or svt1/val\.xml"):
        SvtReader(tmp_path, "val")


@pytest.mark.parametrize(
    ("lex", "expected"),
    [
        ("<lex>\n  LIVING, ROOM ,,HALF\n  </lex>", ("LIVING", "ROOM", "HALF")),
        ("", ()),
        ("<lex>CAFÉ,A&amp;P</lex>", ("CAFÉ", "A&P")),
    ],
)
def test_lexicons(tmp_path, write, lex, expected):
    path = write(tmp_path / "test.xml", SVT.replace("<lex>MAGIC,AUTO</lex>", lex))
    assert list(SvtReader(path))[2].lexicon == expected


def test_scenes_and_word_sets_of_ic03(tmp_path, write):
    write(tmp_path / "SceneTrialTest/words.xml", SCENES.encode("latin-1"))
    scenes = write(tmp_path / "SceneTrialTrain/words.xml", SCENES.replace("311", "TRAIN").encode("latin-1"))
    write(tmp_path / "TrialTest/word.xml", WORDS.encode("latin-1"))
    words = write(tmp_path / "TrialTrain/word.xml", WORDS.replace("self", "train").encode("latin-1"))
    assert list(Ic03Reader(tmp_path)) == list(Ic03Reader(tmp_path / "SceneTrialTest")) == SCENE_WORDS
    assert list(Ic03Reader(tmp_path, "word")) == [
        Record("word/1/1.jpg", "self", "word/1/1.jpg"),
        Record("word/1/2.jpg", "\"£&'", "word/1/2.jpg"),
    ]
    for reader, label in (
        (Ic03Reader(tmp_path, "scene", "train"), "TRAIN"),
        (Ic03Reader(scenes, "word"), "TRAIN"),  # a file says itself what it is
        (Ic03Reader(tmp_path, "word", "train"), "train"),
        (Ic03Reader(words), "train"),
    ):
        assert next(iter(reader)).label == label
    assert reader.root == tmp_path / "TrialTrain"
    with pytest.raises(ConfigError, match="no split 'val'; expected train or test"):
        Ic03Reader(tmp_path, "word", "val")


# ---- Words that cannot be used


def scene(name: str, *rectangles: str) -> str:
    return f"<image><imageName>{name}</imageName><taggedRectangles>{''.join(rectangles)}</taggedRectangles></image>"


def rectangle(tag: str | None = "<tag>WORD</tag>", **numbers: object) -> str:
    values = {"x": 1, "y": 2, "width": 30, "height": 10} | numbers
    attributes = " ".join(f"{name}={quoteattr(str(value))}" for name, value in values.items() if value is not None)
    return f"<taggedRectangle {attributes}>{tag or ''}</taggedRectangle>"


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        *(({key: value}, "malformed") for key, value in (("x", None), ("y", ""), ("width", "wide"), ("x", "nan"))),
        *(({key: value}, "malformed") for key, value in (("width", "inf"), ("x", "1e300"))),
        ({"width": 0}, "no_area"),
        ({"height": -3}, "no_area"),
        ({"tag": None}, "no_label"),
        ({"tag": "<tag> \n </tag>"}, "no_label"),
    ],
)
def test_rectangles_that_cannot_be_used_are_counted(tmp_path, write, numbers, reason):
    path = write(tmp_path / "test.xml", f"<tagset>{scene('a.jpg', rectangle(**numbers), rectangle())}</tagset>")
    assert list(SvtReader(path)) == [Skipped("a.jpg#1", reason), Record("a.jpg#2", "WORD", "a.jpg", Box(1, 2, 30, 10))]


def test_names_that_are_none_or_lead_elsewhere_are_counted(tmp_path, write, samples):
    names = ("", "../../etc/passwd", "/etc/passwd", "C:\\a.jpg")
    path = write(tmp_path / "test.xml", f"<tagset>{''.join(scene(name, rectangle()) for name in names)}</tagset>")
    outside = [(f"{name}#1", "!outside_root") for name in names[1:]]
    assert samples(SvtReader(path)) == [("image 1#1", "!malformed"), *outside]
    tags = (
        'file="a.jpg" tag="a"',
        'file="../a.jpg" tag="a"',
        'file="" tag="a"',
        'file="b.jpg"',
        'file="b.jpg" tag=" "',
    )
    path = write(tmp_path / "word.xml", f"<imagelist>{''.join(f'<image {tag} />' for tag in tags)}</imagelist>")
    assert samples(Ic03Reader(path, "word")) == [
        ("a.jpg", "a"), ("../a.jpg", "!outside_root"), ("image 3", "!malformed"), *[("b.jpg", "!no_label")] * 2,
    ]  # fmt: skip


# ---- What an XML file can do to whoever reads it, and damage

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
ATTACKS = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>',
    "file": '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
    "network": '<!DOCTYPE a [<!ENTITY e SYSTEM "http://127.0.0.1:9/e">]><a>&e;</a>',
    "parameter": '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><a/>',
    "external type": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
}


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_xml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", ATTACKS)
def test_document_types_and_entities_are_refused(tmp_path, write, monkeypatch, attack):
    def no_network(*arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", no_network)
    refused(write(tmp_path / "a.xml", ATTACKS[attack]), "is no XML of elements alone: DTDForbidden")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(b"<a>")
    os.truncate(path, 1 << 40)
    refused(path, "has more than 16777216 bytes")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeff<a>Maß £</a>".encode(), "Maß £"),
        ('<?xml version="1.0" encoding="utf-8"?>\r\n<a>Maß\r\n£</a>'.encode(), "Maß\n£"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><a>Maß £</a>'.encode("latin-1"), "Maß £"),
        ("<a>Maß €</a>".encode("utf-16"), "Maß €"),
    ],
)
def test_encodings(tmp_path, write, content, expected):
    assert read_xml(write(tmp_path / "a.xml", content)).text == expected


@pytest.mark.parametrize(
    "content",
    [
        "<a>Maß</a>".encode("latin-1"),
        b'<?xml version="1.0" encoding="shift_jis"?><a>\x83\x41</a>',
        b"",
        b"<a><b></a>",
        b"<a>&pound;</a>",
        b"word_1.png, 'x'\r\n",
    ],
)
def test_damage_is_one_clear_line(tmp_path, write, content):
    refused(write(tmp_path / "a.xml", content), "is no XML of elements alone: ")


def test_a_set_without_words_and_a_missing_package(tmp_path, write, monkeypatch):
    for content in ("<tagset></tagset>", "<html><body/></html>"):
        with pytest.raises(DataError, match="has no words; expected <image> with <taggedRectangle>"):
            SvtReader(write(tmp_path / "test.xml", content))
    monkeypatch.setitem(sys.modules, "defusedxml.ElementTree", None)
    with pytest.raises(MissingExtraError, match=r"'defusedxml'.*crnn\[data\]"):
        read_xml(tmp_path / "test.xml")

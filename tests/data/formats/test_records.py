"""XML annotations: read in the encoding that they declare; bombs, other files and damage are one clear DataError."""

import os
import socket
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats import records as xmlfile
from crnn.data.formats.records import Box, Record, Skipped, read_xml, tagged_words
from crnn.errors import DataError, MissingExtraError


def write(folder: Path, content: str | bytes, name: str = "words.xml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_xml(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message


# What an XML file can do to whoever reads it.

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
ATTACKS = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>',
    "quadratic": f'<!DOCTYPE a [<!ENTITY e "{"x" * 50_000}">]><a>{"&e;" * 5_000}</a>',
    "file": '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
    "network": '<!DOCTYPE a [<!ENTITY e SYSTEM "http://127.0.0.1:9/e">]><a>&e;</a>',
    "parameter": '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><a/>',
    "external type": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
    "public type": '<!DOCTYPE a PUBLIC "-//A//B//EN" "file:///etc/passwd"><a/>',
    "empty type": "<!DOCTYPE a><a/>",
    "default attribute": '<!DOCTYPE a [<!ATTLIST a b CDATA "x">]><a/>',
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_document_types_and_entities_are_refused(tmp_path, monkeypatch, attack):
    def no_network(*arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", no_network)
    refused(write(tmp_path, ATTACKS[attack]), "document type or entities .*expected elements only")


def test_the_entities_that_xml_has_by_itself_are_read(tmp_path):
    assert read_xml(write(tmp_path, "<a>&lt;&amp;&quot;&#163;&#x20AC;</a>")).text == '<&"£€'


def test_an_unknown_entity_is_an_error(tmp_path):
    refused(write(tmp_path, "<a>&pound;</a>"), "not well-formed XML: undefined entity")


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(xmlfile, "MAX_XML_BYTES", 100)
    assert read_xml(write(tmp_path, "<a>" + "x" * 93 + "</a>")).tag == "a"
    refused(write(tmp_path, "<a>" + "x" * 94 + "</a>"), "more than 100 bytes; expected an annotation")


def test_elements_in_elements_without_end(tmp_path):
    depth = 100_000
    element = read_xml(write(tmp_path, "<a>" * depth + "</a>" * depth))
    assert sum(1 for _ in element.iter()) == depth


# Encodings.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<a>Maß £</a>".encode(), "Maß £"),
        ("\ufeff<a>Maß £</a>".encode(), "Maß £"),
        ('<?xml version="1.0" encoding="utf-8"?>\r\n<a>Maß\r\n£</a>'.encode(), "Maß\n£"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><a>Maß £</a>'.encode("latin-1"), "Maß £"),
        ('<?xml version="1.0" encoding="windows-1252"?><a>€</a>'.encode("cp1252"), "€"),
        ("<a>Maß €</a>".encode("utf-16"), "Maß €"),
    ],
)
def test_encodings(tmp_path, content, expected):
    assert read_xml(write(tmp_path, content)).text == expected


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("<a>Maß</a>".encode("latin-1"), r"not well-formed XML: .*line 1, column \d+; .*without one UTF-8"),
        ('<?xml version="1.0" encoding="utf-8"?><a>ß</a>'.encode("latin-1"), "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "unknown encoding|cannot be decoded"),
        (b'<?xml version="1.0" encoding="shift_jis"?><a>\x83\x41</a>', "encoding|decoded"),
        (b"", "no element found"),
        (b"\0" * 100, "not well-formed"),
        (b"<a><b></a>", "mismatched tag"),
        (b"<a><b>cut of", "no element found|unclosed"),
        (b"<a/><b/>", "junk after document element"),
        (b"<a>1 & 2</a>", "not well-formed"),
        (b"<a>\x01</a>", "not well-formed"),
        (b"word_1.png, 'x'\r\n", "syntax error"),
        (b"\x89PNG\r\n\x1a\n", "not well-formed"),
    ],
)
def test_damage_is_one_clear_line(tmp_path, content, match):
    refused(write(tmp_path, content), match)


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.text("<a>/!?=&;\"' x[]-", max_size=40).map(str.encode))
def test_any_bytes_are_xml_or_an_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        message = str(path)  # some of it is XML
        try:
            read_xml(path)
        except DataError as error:
            message = str(error)
        assert message.startswith(str(path))
        assert "\n" not in message


def test_what_is_no_file(tmp_path):
    refused(tmp_path, "is not a file")
    refused(tmp_path / "none.xml", "No such file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "words.xml")
    refused(tmp_path / "words.xml", "is not a file")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "defusedxml", None)
    with pytest.raises(MissingExtraError, match=r"'defusedxml'.*crnn\[data\]"):
        read_xml(write(tmp_path, "<a/>"))


# Tagged rectangles.


def scene(name: str, *rectangles: str) -> str:
    return f"<image><imageName>{name}</imageName><taggedRectangles>{''.join(rectangles)}</taggedRectangles></image>"


def rectangle(tag: str | None = "<tag>WORD</tag>", **numbers: object) -> str:
    values = {"x": 1, "y": 2, "width": 30, "height": 10} | numbers
    attributes = " ".join(f"{name}={quoteattr(str(value))}" for name, value in values.items() if value is not None)
    return f"<taggedRectangle {attributes}>{tag or ''}</taggedRectangle>"


def words(folder: Path, text: str, lexicon: tuple[str, ...] = ()) -> list[Record | Skipped]:
    return list(tagged_words(read_xml(write(folder, text)), 7, lexicon))


def test_words_of_a_scene(tmp_path):
    text = scene("img/a b.jpg", rectangle(x="-1.5", y=0.25), rectangle("<tag>\n  two words \n</tag>"))
    assert words(tmp_path, text, ("A", "B")) == [
        Record("img/a b.jpg#1", "WORD", "img/a b.jpg", Box(-1.5, 0.25, 30, 10), ("A", "B")),
        Record("img/a b.jpg#2", "two words", "img/a b.jpg", Box(1, 2, 30, 10), ("A", "B")),
    ]


def test_a_scene_without_words(tmp_path):
    assert words(tmp_path, scene("a.jpg")) == []
    assert words(tmp_path, "<image><imageName>a.jpg</imageName></image>") == []


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"x": None}, "malformed"),
        ({"height": None}, "malformed"),
        ({"y": ""}, "malformed"),
        ({"width": "wide"}, "malformed"),
        ({"x": "nan"}, "malformed"),
        ({"width": "inf"}, "malformed"),
        ({"x": "1e300"}, "malformed"),
        ({"width": 0}, "no_area"),
        ({"height": -3}, "no_area"),
        ({"tag": None}, "no_label"),
        ({"tag": "<tag></tag>"}, "no_label"),
        ({"tag": "<tag> \n </tag>"}, "no_label"),
    ],
)
def test_rectangles_that_cannot_be_used_are_counted(tmp_path, numbers, reason):
    assert words(tmp_path, scene("a.jpg", rectangle(**numbers), rectangle())) == [
        Skipped("a.jpg#1", reason),
        Record("a.jpg#2", "WORD", "a.jpg", Box(1, 2, 30, 10)),
    ]


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("", "image 7#1", "malformed"),
        ("../../etc/passwd", "../../etc/passwd#1", "outside_root"),
        ("/etc/passwd", "/etc/passwd#1", "outside_root"),
        ("img/../a.jpg", "img/../a.jpg#1", "outside_root"),
        ("C:\\a.jpg", "C:\\a.jpg#1", "outside_root"),
        ("a\nb.jpg", "a b.jpg#1", "malformed"),
    ],
)
def test_names_that_lead_elsewhere_are_counted(tmp_path, name, key, reason):
    assert words(tmp_path, scene(name, rectangle())) == [Skipped(key, reason)]
    if not name:
        assert words(tmp_path, f"<image><taggedRectangles>{rectangle()}</taggedRectangles></image>") == [
            Skipped(key, reason)
        ]


LABEL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=10)


@settings(max_examples=100)
@given(
    labels=st.lists(LABEL, max_size=4),
    corner=st.tuples(st.floats(-500, 5000), st.floats(-500, 5000)),
    size=st.tuples(st.floats(0.5, 900), st.floats(0.5, 900)),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_any_labels_and_boxes_come_back(labels, corner, size, encoding):
    numbers = {"x": corner[0], "y": corner[1], "width": size[0], "height": size[1]}
    text = scene("a.jpg", *(rectangle(f"<tag>{escape(label)}</tag>", **numbers) for label in labels))
    with tempfile.TemporaryDirectory() as folder:
        element = read_xml(write(Path(folder), text.encode(encoding)))
    expected = [
        Record(f"a.jpg#{n}", label.strip(), "a.jpg", Box(*corner, *size))
        if label.strip()
        else Skipped(f"a.jpg#{n}", "no_label")
        for n, label in enumerate(labels, start=1)
    ]
    assert list(tagged_words(element, 1)) == expected

"""XML annotations, read without trust, and the layout of tagged rectangles that IC03 and SVT share.

XML can name other files, the network, and texts that grow without end. None of that is in a published set, so a
document type is refused as such, and with it every entity; what is left is bounded by the size of the file. The parser
is defusedxml's, imported when a file is read and not before. Nothing here opens pictures.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crnn.data.formats.annotation import printable, relative_path
from crnn.data.formats.locate import is_name, one_line
from crnn.data.formats.record import Box, Record, Skipped
from crnn.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["MAX_XML_BYTES", "read_xml", "tagged_words"]

MAX_XML_BYTES = 16 * 1024 * 1024
"""Larger files are refused: the published ones have less than 0.3 MB, and the tree takes some ten times the file."""

_MAX_COORDINATE = 1e6  # pixels; more than any picture has, and far from where floats lose the pixel


def read_xml(path: str | os.PathLike[str]) -> Element:
    """The outermost element of an XML file.

    Args:
        path: The file, in the encoding that it declares, or else in UTF-8 or UTF-16.

    Raises:
        DataError: It cannot be read, is larger than ``MAX_XML_BYTES``, is not well-formed, or has a document type.
        MissingExtraError: The package ``defusedxml`` is not installed.
    """
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as error:
        raise MissingExtraError("defusedxml", "data", "Reading XML annotations") from error
    name = os.fspath(path)
    content = _content(name)
    try:
        element: Element = fromstring(content, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise DataError(
            f"{name}: has a document type or entities ({type(error).__name__}); expected elements only, as the set is "
            "published. Take the file from its publisher"
        ) from error
    except ParseError as error:
        raise DataError(
            f"{name}: is not well-formed XML: {error}; expected XML in the encoding that its first line declares, "
            "without one UTF-8. Take the file from its publisher"
        ) from error
    except (LookupError, ValueError) as error:  # encodings that expat does not know or cannot use
        raise DataError(f"{name}: cannot be decoded: {error}; expected UTF-8. Save the file as UTF-8") from error
    return element


def tagged_words(image: Element, number: int, lexicon: tuple[str, ...] = ()) -> Iterator[Record | Skipped]:
    """The words of one scene: ``imageName``, then ``taggedRectangles`` of ``taggedRectangle`` with a ``tag`` each.

    White space around a name or a label is layout of the file and is left out.

    Args:
        image: The element of the scene.
        number: Which it is in the file, from 1; names it where it has no ``imageName``.
        lexicon: What each of the words gets as its lexicon.

    Returns:
        A ``Record`` with a ``Box``, or a ``Skipped`` for each rectangle: ``malformed`` (no name of the picture, or a
        number that is missing or none), ``outside_root``, ``no_area``, ``no_label``.
    """
    name = _text(image.find("imageName"))
    path = relative_path(name)
    shown = (path if is_name(name) else None) or printable(one_line(name)) or f"image {number}"
    rectangles = [child for group in image.findall("taggedRectangles") for child in group.findall("taggedRectangle")]
    for n, rectangle in enumerate(rectangles, start=1):
        key = f"{shown}#{n}"
        label = _text(rectangle.find("tag"))
        box = _box(rectangle)
        if not is_name(name) or box is None:
            yield Skipped(key, "malformed")
        elif path is None:
            yield Skipped(key, "outside_root")
        elif box.width <= 0 or box.height <= 0:
            yield Skipped(key, "no_area")
        elif not label:
            yield Skipped(key, "no_label")
        else:
            yield Record(key=key, label=label, path=path, region=box, lexicon=lexicon)


def _content(name: str) -> bytes:
    try:
        # A pipe would be waited for; it has no size either.
        if not stat.S_ISREG(Path(name).stat().st_mode):
            raise DataError(f"{name}: is not a file; expected an XML file. Check the path")
        with Path(name).open("rb") as file:
            content = file.read(MAX_XML_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}; expected an XML file. Check the path") from error
    if len(content) > MAX_XML_BYTES:
        raise DataError(
            f"{name}: has more than {MAX_XML_BYTES} bytes; expected an annotation of a set of words. Check the path"
        )
    return content


def _text(element: Element | None) -> str:
    return "" if element is None else "".join(element.itertext()).strip()


def _box(rectangle: Element) -> Box | None:
    try:
        left, top, width, height = (float(rectangle.attrib[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    if not all(math.isfinite(number) and abs(number) <= _MAX_COORDINATE for number in (left, top, width, height)):
        return None
    return Box(left, top, width, height)

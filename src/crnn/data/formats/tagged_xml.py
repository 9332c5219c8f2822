"""Sets in XML with tagged rectangles: Street View Text, and ICDAR 2003, which also has sets of words.

``<lex>`` of a scene of SVT is the lexicon for all its words. References: Wang, Babenko and Belongie 2011, "End-to-end
scene text recognition"; Lucas et al. 2003, "ICDAR 2003 robust reading competitions".
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crnn.data.formats.records import Box, Reader, Record, Skipped, find_annotation, sample
from crnn.errors import ConfigError, DataError, MissingExtraError, printable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_BYTES = 16 << 20  # a hundred times what these sets have; elements take twenty times as much memory
_MAX_COORDINATE = 1e6  # pixels; more than any image has, and well within the precision of floats


class _XmlReader(Reader):
    """The words of all ``image`` elements of a file."""

    def __init__(self, path: Path) -> None:
        self.root = path.parent
        images = read_xml(path).findall("image")
        self._samples = [word for number, image in enumerate(images, start=1) for word in _words(image, number)]
        if not self._samples:
            raise DataError(f"{path}: has no words; expected <image> with <taggedRectangle>. Check the file")

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)


class SvtReader(_XmlReader):
    """The words of SVT, of a file, or of that of ``split`` in ``svt1`` or its parent, in their order."""

    def __init__(self, source: str | os.PathLike[str], split: Literal["train", "test"] = "test") -> None:
        super().__init__(find_annotation(source, (f"{split}.xml", f"svt1/{split}.xml")))


class Ic03Reader(_XmlReader):
    """The words of ICDAR 2003, in the order of the file.

    ``source`` is the folder with ``words.xml`` or ``word.xml``, its parent, for which ``split`` is the part, or one of
    these files, for which ``kind`` is ignored, too.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        kind: Literal["scene", "word"] = "scene",
        split: Literal["train", "test"] = "test",
    ) -> None:
        if split not in ("train", "test"):
            raise ConfigError(f"ICDAR 2003 has no split {split!r}; expected train or test")
        folder = f"{'SceneTrial' if kind == 'scene' else 'Trial'}{split.capitalize()}"
        name = "words.xml" if kind == "scene" else "word.xml"
        super().__init__(find_annotation(source, (name, f"{folder}/{name}")))


def read_xml(path: Path) -> Element:
    """Return the root element of an XML file, in its declared encoding, else UTF-8 or UTF-16.

    More than 16 MiB, a document type and entities are a ``DataError``.
    """
    try:
        from defusedxml.ElementTree import ParseError, parse
    except ImportError as error:
        raise MissingExtraError("defusedxml", "data", "Reading XML annotations") from error
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"has more than {_MAX_BYTES} bytes")
        element: Element = parse(path, forbid_dtd=True).getroot()
    except (ParseError, OSError, LookupError, ValueError) as error:  # a document type is a ValueError, too
        raise DataError(
            f"{path}: is no XML of elements alone: {printable(str(error), 200)}. Take it from its publisher"
        ) from error
    return element


def _words(image: Element, number: int) -> Iterator[Record | Skipped]:
    """Yield the words of a scene, which has ``imageName`` and ``taggedRectangles``, or the image that is a word."""
    if "file" in image.attrib:
        yield sample(image.attrib["file"].strip(), image.get("tag", "").strip(), place=f"image {number}")
        return
    name = _text(image.find("imageName"))
    lexicon = tuple(word for part in (image.findtext("lex") or "").split(",") if (word := part.strip()))
    rectangles = [child for group in image.findall("taggedRectangles") for child in group.findall("taggedRectangle")]
    for n, rectangle in enumerate(rectangles, start=1):
        box = _box(rectangle)
        fault = "malformed" if box is None else "no_area" if box.width <= 0 or box.height <= 0 else ""
        label = _text(rectangle.find("tag"))
        yield sample(name, label, word=n, region=box, lexicon=lexicon, fault=fault, place=f"image {number}")


def _text(element: Element | None) -> str:
    return "" if element is None else "".join(element.itertext()).strip()


def _box(rectangle: Element) -> Box | None:
    try:
        box = [float(rectangle.attrib[name]) for name in ("x", "y", "width", "height")]
    except (KeyError, ValueError):
        return None
    return Box(*box) if all(math.isfinite(number) and abs(number) <= _MAX_COORDINATE for number in box) else None

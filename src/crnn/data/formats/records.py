"""Records of readers: a sample's image, label and region, and shared parsing of annotations.

Readers look at annotations only; images are opened later, by the worker processes of ``crnn.data.convert``. So millions
of records stay light, and every reader knows its number of samples beforehand.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from crnn.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle in pixels of the image; the part outside is clipped. Width and height exceed 0."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Quad:
    """A quadrilateral to be rectified.

    Attributes:
        points: (x, y) in pixels of the text's top left, top right, bottom right, bottom left.
    """

    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


class Record(NamedTuple):  # of millions; a frozen dataclass takes four times as long to make and to send
    """One sample of a published set, its image not yet opened.

    Attributes:
        key: Reproducible name in messages: the image's path, with ``#n`` for the nth word in it.
        label: The text as published.
        path: Path of the image, relative to the reader's root, with ``/``.
        region: Part of the image; ``None``: all of it, bytes unchanged.
        lexicon: The set's smaller lexicon for this sample (50 words), or empty.
        large_lexicon: The larger one (1,000 words), or empty.
    """

    key: str
    label: str
    path: str
    region: Box | Quad | None = None
    lexicon: tuple[str, ...] = ()
    large_lexicon: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """An annotated sample that cannot be used: its name in messages, and one word for counting."""

    key: str
    reason: str


class Reader(Protocol):
    """The samples of one published set, in a reproducible order."""

    root: Path
    """Folder of the paths; nothing outside it is read."""

    def __len__(self) -> int:
        """Return the number of annotated samples, skipped ones included."""
        ...

    def __iter__(self) -> Iterator[Record | Skipped]:
        """Iterate over the samples; may be called again."""
        ...


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 4096
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


class AnnotationLines:
    """The non-blank lines of a text file as bytes, without line ends (LF or CRLF) and byte order mark.

    Each iteration reads the file anew and holds nothing, so lists may have any length. It raises ``DataError`` if the
    file is missing, unreadable or not text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[bytes]:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # a pipe would be waited for
                raise DataError(f"{self.path}: is not a file; expected a text file. Check the path")
            with self.path.open("rb") as file:
                head = file.read(_SNIFFED_BYTES)
                if b"\0" in head:  # before an archive or an image is read as one long line
                    raise DataError(f"{self.path}: is not text in UTF-8; expected a list. Save it as UTF-8")
                file.seek(len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0)
                for line in file:
                    if not line.isspace():
                        yield line.removesuffix(b"\n").removesuffix(b"\r")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read: {error.strerror}; expected a text file. Check the path"
            ) from error


def kind_of(path: Path) -> Literal["file", "folder", ""]:
    """Return ``file``, ``folder``, or nothing for anything else."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else ""


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder, without hidden ones."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names only
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}. Check its permissions") from error


def decoded(text: bytes) -> str | None:
    """Decode UTF-8, or return ``None``."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def printable(text: str | bytes, limit: int = 1000) -> str:
    r"""Return a text of a file for messages: one line of at most ``limit`` characters.

    Control characters and bytes that are not UTF-8 are escaped, as ``\n`` and ``\xe9``.

    Example:
        >>> printable(b"caf\xe9.png")
        'caf\\xe9.png'
    """
    if isinstance(text, str) and text.isprintable() and len(text) <= limit:
        return text
    try:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        shown = raw.decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON and .mat files may have
        shown = str(text).encode("utf-8", "backslashreplace").decode()
    shown = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def relative_path(path: str) -> str | None:
    r"""Normalize a record's path, or return ``None`` where it leaves its folder.

    Only the text is checked: links are resolved when the image is opened. ``\`` separates, too, for lists made under
    Windows. Any ``..`` is refused, as a link on the way would lead elsewhere.

    Example:
        >>> relative_path("./2425/1/115_Lube_45484.jpg")
        '2425/1/115_Lube_45484.jpg'
        >>> [relative_path(path) for path in ("/etc/passwd", "a/../../b", "C:/b", "..")]
        [None, None, None, None]
    """
    path = path.replace("\\", "/")
    if path.startswith("/") or (":" in path and _DRIVE.match(path)):
        return None
    path = path.removeprefix("./")
    parts = path.split("/")
    if ".." in parts:
        return None
    if "" not in parts and "." not in parts:
        return path
    return "/".join(part for part in parts if part not in ("", ".")) or None


_ASCII_CONTROL = re.compile("[\0-\x1f\x7f]")


def find_annotation(source: str | os.PathLike[str], candidates: Sequence[str]) -> Path:
    """Return the absolute path of the annotation ``source``, or of the first of ``candidates`` in that folder.

    Raises:
        DataError: ``source`` does not exist, or has none of ``candidates`` in it.
    """
    path = Path(source)
    try:
        if path.is_file():
            return path.absolute()
        if not path.exists():
            raise DataError(
                f"{os.fspath(source)}: does not exist; expected {candidates[0]} or its folder. Check the path"
            )
        for candidate in candidates:
            if (path / candidate).is_file():
                return (path / candidate).absolute()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path; but DataError is one too
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{os.fspath(source)}: cannot be read: {why}. Check the path") from error
    raise DataError(
        f"{os.fspath(source)}: has no {' or '.join(candidates)}; expected the folder of the set as it is published, or "
        "the annotation itself. Check the path"
    )


def is_name(text: str) -> bool:
    """Return whether a text can name an image: not empty, without control characters."""
    return bool(text) and not _ASCII_CONTROL.search(text)


def one_line(text: str) -> str:
    """Replace control characters by spaces, for messages."""
    return _ASCII_CONTROL.sub(" ", text).strip()


MAX_XML_BYTES = 16 * 1024 * 1024
"""Larger files are refused: published ones have less than 0.3 MB, and the tree takes some ten times the file."""

_MAX_COORDINATE = 1e6  # pixels; more than any image has, and well within the precision of floats


def read_xml(path: str | os.PathLike[str]) -> Element:
    """Return the root element of an XML file, in its declared encoding, else UTF-8 or UTF-16.

    Raises:
        DataError: It cannot be read, is larger than ``MAX_XML_BYTES``, is not well-formed, or has a document type.
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
    """Yield the words of one scene, whose ``number`` counts from 1.

    It has ``imageName``, and ``taggedRectangles`` of ``taggedRectangle`` with a ``tag`` each; white space around names
    and labels is dropped. Reasons of skips: ``malformed`` (no image name, or no valid number), ``outside_root``,
    ``no_area``, ``no_label``.
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

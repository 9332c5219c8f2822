"""What every reader gives: where a sample's picture is, what it says, which part of the picture it is.

A reader looks at annotations only. Pictures are opened later, by the worker processes of ``crnn.data.convert``, so that
reading the annotations of millions of samples stays light and every reader can tell its number of samples beforehand.
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
    """An upright rectangle in pixels of the picture; it may reach outside, and is then cut to the picture.

    Attributes:
        left: First column.
        top: First row.
        width: Columns, more than 0.
        height: Rows, more than 0.
    """

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Quad:
    """A quadrilateral in pixels of the picture, to be cut out upright by a perspective warp.

    Attributes:
        points: (x, y) of the text's top left, top right, bottom right, bottom left.
    """

    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


class Record(NamedTuple):  # of millions; a frozen dataclass takes four times as long to make and to send
    """One sample of a published set, its picture not yet opened.

    Attributes:
        key: What names it in messages, the same each time; the picture's path, with ``#n`` for the nth word in it.
        label: The text as published.
        path: The picture, relative to the reader's root, with ``/``.
        region: The part of the picture; ``None``: all of it, whose bytes are then kept as they are.
        lexicon: The smaller lexicon that the set gives for this sample (50 words), or empty.
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
    """A sample that the annotation names and that cannot be used.

    Attributes:
        key: What names it.
        reason: One word by which such samples are counted.
    """

    key: str
    reason: str


class Reader(Protocol):
    """The samples of one published set, in an order that is the same each time."""

    root: Path
    """The folder that paths are relative to; nothing outside it is read."""

    def __len__(self) -> int:
        """Number of samples that the annotation names, those skipped included: what a progress bar needs."""
        ...

    def __iter__(self) -> Iterator[Record | Skipped]:
        """The samples, one after the other; may be called again."""
        ...


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 4096
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


class AnnotationLines:
    """The lines of a text file that are not blank, in bytes, without their ends (LF or CRLF) and byte order mark.

    The file is read anew by each iteration and nothing of it is held, so that lists of any length can be read.

    Args:
        path: The file.

    Raises:
        DataError: When it is iterated: there is no such file, it cannot be read, or it is not text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[bytes]:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # a pipe would be waited for
                raise DataError(f"{self.path}: is not a file; expected a text file. Check the path")
            with self.path.open("rb") as file:
                head = file.read(_SNIFFED_BYTES)
                if b"\0" in head:  # before an archive or a picture is read as one long line
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
    """Whether there is a file or a folder; neither if there is something else, or nothing that may be looked at."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else ""


def names_in(folder: Path) -> list[str]:
    """The names of what is in a folder, in alphabetical order, without those that are hidden.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names only
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}. Check its permissions") from error


def decoded(text: bytes) -> str | None:
    """``text`` as UTF-8, or ``None`` where it is not."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def printable(text: str | bytes, limit: int = 1000) -> str:
    r"""What messages call something that a file says: one line of at most ``limit`` characters.

    Control characters, and bytes that are not UTF-8, are written as ``\n`` and ``\xe9``.

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
    r"""A path as a record has it, or ``None`` where it does not stay inside the folder that it is relative to.

    Only the text is looked at: links are found when the picture is opened. ``\`` separates as ``/`` does, for lists
    that were made under Windows. A path with ``..`` in it is refused even where it comes back into the folder, as a
    link on the way would lead it elsewhere.

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


_CONTROL_locate = re.compile("[\0-\x1f\x7f]")


def find_annotation(source: str | os.PathLike[str], candidates: Sequence[str]) -> Path:
    """The annotation that ``source`` is, or that is in the folder ``source``.

    Args:
        source: The annotation itself, or the folder of the set.
        candidates: Where it may be in that folder, the likeliest first, with ``/``.

    Returns:
        An absolute path of a file.

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
    """Whether a text can name a picture: it is not empty, and has no line feed or other control character in it."""
    return bool(text) and not _CONTROL_locate.search(text)


def one_line(text: str) -> str:
    """A text as messages have it: control characters are spaces."""
    return _CONTROL_locate.sub(" ", text).strip()


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

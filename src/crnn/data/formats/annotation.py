"""What annotation files have in common: lines of text of which nothing is held, and paths that stay inside a folder.

The readers beside this file tell what they cannot use by one word each:

=================  ===================================================================================================
``malformed``      A line, a row or a name has not the form of the format.
``encoding``       A text is not UTF-8 (nor, where a format says so, Windows-1252).
``outside_root``   A path is absolute, has a drive letter or a ``..`` in it, or is a link that leads out of the folder.
``no_label``       Nothing says what the picture shows.
``missing``        A label file has no picture.
``duplicate``      A picture is named a second time where the format names each once.
``index``          A number points at no line of the lexicon.
``several_lines``  A label file has more than one line.
``too_large``      A label file is larger than any label.
``linked_folder``  A folder is a link; links to folders are not followed.
``no_box``         The corners of the word are not given, and were asked for.
``bad_record``     A record of a store is missing or is not text.
``not_in_variant`` The sample is good, and the variant of the set that was asked for is without it.
=================  ===================================================================================================

Those of boxes that no word can be cut out of are told where they arise.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from crnn.errors import DataError

__all__ = ["AnnotationLines", "decoded", "kind_of", "names_in", "printable", "relative_path"]

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

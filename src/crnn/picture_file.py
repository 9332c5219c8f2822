"""Encoded pictures, opened without trust: what format they are, whether their size is allowed, and what is wrong.

The first half of the way from a file to pixels: ``read_picture_file`` gives the bytes of a path, ``open_picture`` the
picture that they hold, with nothing decoded yet; ``crnn.image`` decodes it. Picture files come from anywhere, so the
formats are a closed list, told by how the bytes begin and never by the name, and a size is checked before any memory is
spent on it. Whatever is wrong leaves as an ``ImageError``, never as a warning or as an exception of Pillow.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import logging
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from crnn.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.ImageFile import ImageFile

__all__ = [
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "check_size",
    "open_picture",
    "pillow_error",
    "read_open_file",
    "read_picture_file",
    "silence_codecs",
]

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded: about 150 MB of colour pixels."""

_MAX_BYTES = 1 << 30  # above any picture of MAX_PIXELS

_PIPE_BYTES = 1 << 20
"""Read from a pipe at a time."""

PICTURE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
))  # fmt: skip
"""How the names of picture files end, in lower case."""

_WANTED = "expected a JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF picture"

# How the files begin, and the class of Pillow that reads them. A closed list, because Pillow's own also has formats
# that start other programs (EPS runs Ghostscript), nest pictures in pictures, or have no signature at all.
_CODECS = (
    (re.compile(rb"\xff\xd8\xff"), "JpegImagePlugin", "jpeg_factory"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PngImagePlugin", "PngImageFile"),
    (re.compile(rb"GIF8[79]a"), "GifImagePlugin", "GifImageFile"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebPImagePlugin", "WebPImageFile"),
    (re.compile(rb"BM"), "BmpImagePlugin", "BmpImageFile"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TiffImagePlugin", "TiffImageFile"),
    (re.compile(rb"P[1-6][\s#]"), "PpmImagePlugin", "PpmImageFile"),
    (re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"), "Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    (re.compile(rb".{4}ftyp(?:avif|avis|mif1|msf1)", re.DOTALL), "AvifImagePlugin", "AvifImageFile"),
)
_SIGNATURE_BYTES = 64


def read_open_file(file: Any, name: str) -> bytes:
    """The rest of a file that the caller has opened, by its ``read``.

    Raises:
        ImageError: It gives text (``not_an_image``), cannot be read (``missing``), or is too large (``too_large``).
    """
    try:
        data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed, or gives text that is none
        raise ImageError(
            f"{name}: cannot be read: {error}; expected a file opened with 'rb'", reason="missing"
        ) from error
    if not isinstance(data, bytes):
        raise ImageError(
            f"{name}: gives {type(data).__name__}; expected a file opened with 'rb'", reason="not_an_image"
        )
    if len(data) > _MAX_BYTES:
        raise _too_large(name)
    return data


def read_picture_file(name: str) -> bytes:
    """The bytes of a picture file; of a file that does not begin like a picture only the first.

    Args:
        name: The path as it was typed.

    Raises:
        ImageError: It cannot be read (``missing``), or is above the size of any picture (``too_large``).
    """
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - pathlib doubles the time of opening, at every sample
            data = file.read(_SIGNATURE_BYTES)
            if _codec(data) is None:
                return data  # not a picture, whatever follows; it may be endless
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                if found.st_size > _MAX_BYTES:
                    raise _too_large(name)
                return data + file.read()
            parts = [data]  # a pipe has no size and may be endless
            while part := file.read(_PIPE_BYTES):
                parts.append(part)
                if len(parts) * _PIPE_BYTES > _MAX_BYTES:
                    raise _too_large(name)
            return b"".join(parts)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; expected the path of a picture", reason="missing") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte or a lone surrogate
        if isinstance(error, IsADirectoryError) or os.path.isdir(name):  # noqa: PTH112 - Path raises for such names
            message = f"{name}: is a folder; expected the path of a picture"
        else:
            cause = getattr(error, "strerror", None) or error
            message = f"{name}: cannot be opened ({cause}); expected the path of a picture that you may read"
        raise ImageError(message, reason="missing") from error


def _too_large(name: str) -> ImageError:
    return ImageError(f"{name}: above {_MAX_BYTES:,} bytes; expected one picture", reason="too_large")


def open_picture(data: bytes, name: str) -> ImageFile:
    """A picture whose header has been read and whose size is allowed; nothing is decoded yet.

    ``Image.open`` is not used because it warns (``DecompressionBombWarning``) about pictures that we refuse anyway.
    Silencing it would mean to change ``Image.MAX_IMAGE_PIXELS`` or the warning filters, and both belong to the whole
    program: ``catch_warnings`` swaps the filters of every thread, and puts stale ones back where two threads overlap.
    The classes behind ``Image.open`` do not warn, so our own limit is applied to the size that they report.

    Args:
        data: The bytes of a picture file.
        name: What messages call it.

    Raises:
        ImageError: There are no bytes or no pixels (``empty``), or more than ``MAX_PIXELS`` (``too_large``); it is none
            of the formats or has no good header (``not_an_image``), or ends before the header does (``truncated``).
    """
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); {_WANTED}", reason="empty")
    codec = _codec(data)
    if codec is None:
        raise ImageError(f"{name}: not a picture that can be read; {_WANTED}", reason="not_an_image")
    # Damaged files leave Pillow as nearly any exception, and as a Warning where the caller made those errors.
    try:
        if codec[0] == "GifImagePlugin":
            # Of the classes used here, only this one checks a size by itself, and warns: that of a first frame which
            # reaches over the canvas.
            check_size(_gif_extent(data), name)
        image = _factory(*codec)(io.BytesIO(data), "")
    except ImageError:
        raise
    except ImportError as error:
        raise pillow_error(error, name, "a format that this Pillow was built without", "not_an_image") from error
    except Exception as error:
        if _is_cut(data):
            raise pillow_error(error, name, "cut short", "truncated") from error
        raise pillow_error(error, name, "begins like a picture but has no good header", "not_an_image") from error
    check_size(image.size, name)
    return image


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a picture whose width and height in pixels are not allowed.

    Raises:
        ImageError: It has no pixels (``empty``), or more than ``MAX_PIXELS`` (``too_large``).
    """
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: is {width} x {height} pixels; expected at least 1 x 1", reason="empty")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: is {width} x {height} pixels; expected at most {MAX_PIXELS:,}. Crop it or make it smaller",
            reason="too_large",
        )


def pillow_error(error: Exception, name: str, problem: str, reason: str) -> ImageError:
    """The ``ImageError`` to raise for an error of Pillow, whatever its class.

    Args:
        error: What Pillow raised.
        name: What messages call the picture.
        problem: What it means there, in a few words.
        reason: The word by which it is counted. Where the picture was too much for the memory or for Pillow's own
            limit, problem and reason say that instead.
    """
    if isinstance(error, MemoryError | Image.DecompressionBombError | Image.DecompressionBombWarning):
        problem, reason = "too large to decode", "too_large"
    wanted = "expected a whole picture" if reason == "truncated" else _WANTED
    return ImageError(f"{name}: {problem} ({str(error) or type(error).__name__}); {wanted}", reason=reason)


def silence_codecs() -> None:
    """Keep libtiff and Pillow from writing of damaged pictures to stderr, for the rest of the process.

    What they say reaches callers in the ``ImageError``, too; libtiff adds a line of its own for every bad row. For
    programs that own their process, as commands do.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):  # a Pillow with libtiff inside of it, or with none
        # Pillow has no function for it. The symbol is looked up in what Pillow is linked to: its own copy of libtiff.
        set_handler = ctypes.CDLL(importlib.import_module("PIL._imaging").__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _codec(data: bytes) -> tuple[str, str] | None:
    """Module and class of Pillow that read a file which begins like this."""
    for signature, module, factory in _CODECS:
        if signature.match(data):
            return module, factory
    return None


@functools.cache
def _factory(module: str, name: str) -> Callable[[io.BytesIO, str], ImageFile]:
    # Imported at first use: most programs meet one or two formats, and AVIF came only with Pillow 11.3.
    return cast("Callable[[io.BytesIO, str], ImageFile]", getattr(importlib.import_module(f"PIL.{module}"), name))


def _is_cut(data: bytes) -> bool:
    """Whether a picture file ends before its end, for the formats in which the opening itself needs the end."""
    if data.startswith(b"RIFF"):
        return len(data) >= 30 and int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith((b"II*\0", b"MM\0*")) and len(data) >= 8:
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") + 2 > len(data)
    return False


def _gif_extent(data: bytes) -> tuple[int, int]:
    """Width and height that Pillow gives a GIF: the canvas, or more where the first frame reaches over it."""
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + ((6 << (data[10] & 7)) if data[10] & 0x80 else 0)  # behind the palette of the file
    while at < len(data):
        if data[at] == ord(","):
            left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
            return max(width, left + frame_width), max(height, top + frame_height)
        if data[at] == ord("!"):  # an extension: its label, then blocks that begin with their length, last 0
            at += 2
            while at < len(data) and data[at]:
                at += 1 + data[at]
        at += 1
    return max(width, 1), max(height, 1)

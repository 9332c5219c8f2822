"""Encoded pictures, opened without trust: what format they are, whether their size is allowed, and what is wrong.

The first half of the way from a file to pixels: ``read_picture_file`` gives the bytes of a path, ``open_picture`` the
picture that they hold, with nothing decoded yet; ``crnn.image`` decodes it. Picture files come from anywhere, so the
formats are a closed list, told by how the bytes begin and never by the name, and a size is checked before any memory is
spent on it. Whatever is wrong is an ``ImageError``, never another exception of Pillow.
"""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from crnn.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = [
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "check_size",
    "open_picture",
    "pillow_error",
    "read_open_file",
    "read_picture_file",
]

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded: about 150 MB of colour pixels."""

_MAX_BYTES = 1 << 30  # above any picture of MAX_PIXELS

PICTURE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
))  # fmt: skip
"""How the names of picture files end, in lower case."""

_UNREADABLE = "not a picture that can be read, or cut short"
_WANTED = "expected a JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF picture"

# Closed, because Pillow's own list has formats that start other programs (EPS runs Ghostscript), nest images, or have
# no signature at all.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


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
    """The bytes of a picture file.

    Args:
        name: The path as it was typed.

    Raises:
        ImageError: It is no file or pipe, or cannot be read (``missing``), or is above the size of any picture
            (``too_large``).
    """
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - pathlib doubles the time of opening, at every sample
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                if found.st_size > _MAX_BYTES:
                    raise _too_large(name)
                return file.read()
            if not stat.S_ISFIFO(found.st_mode):  # /dev/zero is endless
                raise ImageError(f"{name}: is a device; expected the path of a picture", reason="missing")
            return read_open_file(file, name)  # has no size, and may be endless
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
    """Read the header of a picture and check its size; nothing is decoded yet.

    Args:
        data: The bytes of a picture file.
        name: What messages call it.

    Raises:
        ImageError: There are no bytes or no pixels (``empty``), or more than ``MAX_PIXELS`` (``too_large``), or it is
            none of the formats or has no good header (``not_an_image``).
    """
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); {_WANTED}", reason="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {_UNREADABLE}; {_WANTED}", reason="not_an_image") from None
    except Exception as error:  # nearly anything; a Warning where the caller made those errors
        raise pillow_error(error, name, _UNREADABLE, "not_an_image") from error
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

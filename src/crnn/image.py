"""Loading of images for training, evaluation and reading alike; errors are ``ImageError``, counted by their ``reason``.

``source -> load_image (H, W, C) uint8 -> resize (C, H, W) uint8``
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageStat, UnidentifiedImageError

from crnn.config.model import ImageConfig
from crnn.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 50_000_000
"""Largest number of pixels, checked before decoding, of one image and of those that are decoded at once: up to 1 GB."""

_MAX_SIDE = 65_535  # JPEG's own limit; Pillow spends twenty bytes on a row, and on a pixel of a side while resizing
_MAX_BYTES = 1 << 28  # of a file
_MAX_SCANS = 100  # of a JPEG, each as slow as the whole; ten are usual, and libtiff has the same limit
_MAX_PLAIN_BYTES = 1 << 22  # of PPM as text, 0.2 s a MB

IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
))  # fmt: skip
"""Suffixes of image files, in lower case."""

_UNREADABLE = "not an image that can be read, or cut short"
_WANTED = "expected a JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF image"

# Pillow's own list has formats that start other programs (EPS runs Ghostscript), nest images, or have no signature.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_ORIENTATION = 0x0112  # tag of TIFF 6.0 and EXIF 2.3
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF 6.0
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of JPEG, with a length behind it, or the end
_PNG_EXIF = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")  # may also follow the pixels
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
LineWarning: TypeAlias = Literal["page", "turned", "too_wide", "frames"]
_ADVICE: dict[LineWarning, str] = {
    "page": "likely a page or several lines; expected one line: cut the lines out, or find them with --detect",
    "turned": "likely a line turned by {} degrees clockwise; expected an upright one: turn it back and read it again",
    "too_wide": "likely longer than the network can see at once; cut it into parts",
    "frames": "has several pages or frames, of which the first was read; save the others as images of their own",
}

_LEAST_CHROMA = 32  # of 255; noise and the dyes of paper have less

# Scores below are doubtful: 1 in 7 of upright narrow crops, all of pages.
_UNSURE = math.log(0.35)
_TALL = 1.6  # height by width, of characters at most
_STROKES = frozenset("1IJijl|!:;.,'/()[]{}")  # may be much taller than wide


def advice(warning: LineWarning, turned: int | None = None) -> str:
    """Return the line for a warning: likely content, and what to do; ``turned`` are degrees, where they are known."""
    return _ADVICE[warning].format(turned or "90 or 270")


def read_image_file(file: Any, name: str = "") -> bytes:
    """Read an image file: a path if ``name`` is empty, else an open file that messages call ``name``.

    Raises:
        ImageError: It cannot be read (``missing``), is text (``not_an_image``) or too large (``too_large``).
    """
    expected = "a file opened with 'rb'" if name else "the path of an image"
    try:
        with contextlib.nullcontext(file) if name else open(file, "rb") as opened:  # noqa: PTH123 - twice as fast
            size = 0 if name else os.fstat(opened.fileno()).st_size  # 0 for pipes and devices, too
            data = b"" if size > _MAX_BYTES else opened.read(size + 1 if size else _MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path, a closed file
        cause = getattr(error, "strerror", None) or error
        raise ImageError(f"{name or file}: {cause}; expected {expected}", reason="missing") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: gives {type(data).__name__}; expected {expected}", reason="not_an_image")
    if max(size, len(data)) > _MAX_BYTES:
        raise ImageError(f"{name or file}: above {_MAX_BYTES:,} bytes; expected one image", reason="too_large")
    return data


def open_image(data: bytes, name: str) -> ImageFile:
    """Read the header of an image and check its size, as ``load_image`` does; ``name`` is its name in messages."""
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); {_WANTED}", reason="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {_UNREADABLE}; {_WANTED}", reason="not_an_image") from None
    except Exception as error:  # nearly anything; a Warning where the caller made those errors
        raise pillow_error(error, name, _UNREADABLE, "not_an_image") from error
    _check_header(image, name)
    if image.format in ("JPEG", "MPO") and _above_scans(data):
        problem = f"has more than {_MAX_SCANS} scans; expected at most that many. Save it again"
        raise ImageError(f"{name}: {problem}", reason="too_large")
    if image.format == "PPM" and data[1:2] in b"123" and len(data) > _MAX_PLAIN_BYTES:
        problem = f"is PPM as text of {len(data):,} bytes; expected at most {_MAX_PLAIN_BYTES:,}. Save it as PNG"
        raise ImageError(f"{name}: {problem}", reason="too_large")
    return image


def _check_header(image: Image.Image, name: str) -> None:
    check_size(image.size, name)
    tags = getattr(image, "tag_v2", {})
    tile = (tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1))  # decoded whole, however small the image
    if all(isinstance(side, int) and side > 0 for side in tile):  # others are refused by libtiff
        check_size(tile, f"{name}, its first tile")


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a width and height in pixels without pixels (``empty``) or above the limits (``too_large``)."""
    width, height = size
    given = f"{name}: is {width} x {height} pixels; expected"
    if width < 1 or height < 1:
        raise ImageError(f"{given} at least 1 x 1", reason="empty")
    if width * height > MAX_PIXELS or max(size) > _MAX_SIDE:
        wanted = f"at most {MAX_PIXELS:,}, and {_MAX_SIDE:,} on a side. Crop it or make it smaller"
        raise ImageError(f"{given} {wanted}", reason="too_large")


def _above_scans(data: bytes) -> bool:
    """Return whether a JPEG has more than the allowed number of scans, not counting thumbnails and what follows it."""
    if data.count(b"\xff\xda") <= _MAX_SCANS:  # all but never passed by an ordinary image
        return False
    scans, at = 0, 2
    while (marker := _MARKER.search(data, at)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans > _MAX_SCANS


class _Room:
    """Room for the pixels that threads decode at once; a large image waits for others."""

    def __init__(self) -> None:
        self._clear()
        if hasattr(os, "register_at_fork"):  # the threads that hold room are not in the child
            os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        self.free, self._changed = MAX_PIXELS, threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self.free += pixels
                self._changed.notify_all()


_room = _Room()


def pillow_error(error: Exception, name: str, problem: str, reason: str) -> ImageError:
    """Return the ``ImageError`` for any exception of Pillow: ``too_large`` where memory or Pillow's limit ran out."""
    if isinstance(error, MemoryError | Image.DecompressionBombError | Image.DecompressionBombWarning):
        problem, reason = "too large to decode", "too_large"
    wanted = "expected a whole image" if reason == "truncated" else _WANTED
    return ImageError(f"{name}: {problem} ({str(error) or type(error).__name__}); {wanted}", reason=reason)


@runtime_checkable
class BinaryFile(Protocol):
    """Source of bytes: an open file, an upload, ``io.BytesIO``."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | npt.NDArray[Any] | Image.Image
)
"""Images to read: a path, bytes of an image file or an open one, an array, or a Pillow image."""


def load_image(source: ImageSource, channels: Literal[1, 3]) -> npt.NDArray[np.uint8]:
    """Load the pixels of an image: upright by its EXIF orientation, the first frame, in 8 bits.

    Transparent images are laid over white, or over black where they would nearly vanish on white.

    Args:
        source: A path, the bytes of an image file, a Pillow image, or an array: ``(H, W)`` or ``(H, W, C)`` with 1, 3
            (RGB) or 4 (RGBA) channels, of ``uint8``, ``bool``, ``uint16`` or floats in [0, 1].
        channels: 1 for grey (luma of ITU-R BT.601), 3 for RGB.

    Returns:
        A new array ``(H, W, channels)``, ``uint8``.

    Raises:
        ImageError: ``reason`` is ``missing`` (no file, or not readable), ``empty`` (no bytes or no pixels),
            ``not_an_image``, ``truncated`` (only the header can be read) or ``too_large`` (above ``MAX_PIXELS``, or
            another limit that bounds memory and time).
    """
    with _decoded(*_opened(source), channels) as image:
        pixels = np.array(image)
    return pixels[:, :, np.newaxis] if channels == 1 else pixels


@dataclass(frozen=True, slots=True)
class FittedImage:
    """An image at the size of the network."""

    pixels: npt.NDArray[np.uint8]  # (C, 32, W)
    original_size: tuple[int, int]  # width and height in pixels, as given
    on_side: npt.NDArray[np.uint8] | None = None  # turned by 90 degrees counterclockwise, where its text may be turned
    several: bool = False  # the file has further pages or frames
    colors: npt.NDArray[np.uint8] | None = None  # (3, 32, W), for ``chroma``

    def chroma(self) -> npt.NDArray[np.uint8] | None:
        """Return the chroma, ``(1, 32, W)``: the largest of red, green and blue less the smallest; ``None`` for grey.

        Its first and last percentile become 0 and 255. Letters that are as bright as what is around them, but of
        another color, stand out in it.
        """
        if self.colors is None:
            return None
        chroma = self.colors.max(axis=0) - self.colors.min(axis=0)
        ordered = np.sort(chroma, axis=None)
        low, high = int(ordered[chroma.size // 100]), int(ordered[-1 - chroma.size // 100])
        if high - low < _LEAST_CHROMA:
            return None
        # In integers, so that it is the same everywhere.
        stretched = (255 * (chroma.astype(np.int32) - low) + (high - low) // 2) // (high - low)
        levels: npt.NDArray[np.uint8] = stretched.clip(0, 255).astype(np.uint8)
        return levels[np.newaxis]


def load_fitted(source: ImageSource, config: ImageConfig) -> FittedImage:
    """Return the image at the network's size, colors for its chroma, and hints that it is turned or has more frames."""
    opened, name = _opened(source)
    colored = config.chroma_retry and config.image_channels == 1 and Image.getmodebase(opened.mode) != "L"
    with _decoded(opened, name, 3 if colored else config.image_channels) as image:
        colors = _resized(image, config, None) if colored else None
        image = image.convert("L") if colored else image
        tall = image.height > _TALL * image.width
        on_side = _resized(image.transpose(Image.Transpose.ROTATE_90), config, None) if tall else None
        fitted, size = _resized(image, config, None), image.size
    several = False
    # A JPEG's further images are previews. Of a Pillow image the caller chose the frame.
    if opened is not source and opened.format != "MPO":
        with contextlib.suppress(Exception):  # damaged behind the first frame
            several = getattr(opened, "is_animated", False)
    return FittedImage(fitted, size, on_side, several, colors)


def load_resized(source: ImageSource, config: ImageConfig, width: int | None = None) -> npt.NDArray[np.uint8]:
    """Return ``resize`` of ``load_image``."""
    with _decoded(*_opened(source), config.image_channels) as image:
        return _resized(image, config, width)


def image_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of ``load_image``, from the header (but for PNGs with EXIF after the pixels)."""
    image = open_image(data, "image bytes")
    # Pillow has turned a TIFF already; to search a PNG for EXIF data behind its pixels it would decode them.
    if image.format == "TIFF" or (image.format == "PNG" and not any(chunk in data for chunk in _PNG_EXIF)):
        return image.size
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def target_width(size: tuple[int, int], config: ImageConfig) -> int:
    """Return the width in pixels to which an image of a size (width, height) is resized.

    Under ``keep_ratio`` it is the width at ``image_height`` times ``width_scale``, rounded to the nearest multiple of
    ``width_step`` (halves up, for more time steps), then clipped to ``min_width`` and ``max_width``.
    """
    if min(size) < 1:
        raise ImageError(f"image is {size[0]} x {size[1]} pixels; expected at least 1 x 1", reason="empty")
    if config.resize == "squash":
        return config.image_width
    return min(max(_proportional_width(size, config), config.min_width), config.max_width)


def _proportional_width(size: tuple[int, int], config: ImageConfig) -> int:
    width, height = size
    # In integers, so that the same image has the same width everywhere.
    scale = round(1000 * config.width_scale)
    unit = 1000 * height * config.width_step
    return (2 * width * config.image_height * scale + unit) // (2 * unit) * config.width_step


def resize(pixels: npt.NDArray[np.uint8], config: ImageConfig, width: int | None = None) -> npt.NDArray[np.uint8]:
    """Resize ``(H, W, C)`` uint8 to a new C-contiguous ``(C, image_height, width)``; default: ``target_width``."""
    return _resized(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), config, width)


def _opened(source: ImageSource) -> tuple[Image.Image, str]:
    """Return an image of which only the header is read, and its name in messages."""
    image: Image.Image
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        image = open_image(read_image_file(name), name)
    elif isinstance(source, bytes | bytearray | memoryview):
        name = "image bytes"
        image = open_image(bytes(source), name)
    elif isinstance(source, BinaryFile):
        name = f"image file {getattr(source, 'name', '')}".rstrip()
        image = open_image(read_image_file(source, name), name)
    elif isinstance(source, np.ndarray):
        name = "image array"
        image = _from_array(source, name)
    elif isinstance(source, Image.Image):
        name = f"Pillow image {getattr(source, 'filename', '')}".rstrip()
        _check_header(source, name)
        image = source
    else:
        raise ImageError(
            f"image is {'None' if source is None else f'a {type(source).__name__}'}; expected a path, bytes, an array "
            "or a Pillow image" + (" (OpenCV gives None for a file that it cannot read)" if source is None else ""),
            reason="not_an_image",
        )
    return image, name


@contextlib.contextmanager
def _decoded(image: Image.Image, name: str, channels: Literal[1, 3]) -> Iterator[Image.Image]:
    """Decode an image, ``L`` or ``RGB``, for as long as there is room for it."""
    if channels not in (1, 3):
        raise ConfigError(f"channels is {channels!r}; expected 1 (grey) or 3 (red, green, blue)")
    with _room.of(image.width * image.height):
        yield _upright(image, "L" if channels == 1 else "RGB", name)


def _upright(image: Image.Image, mode: Literal["L", "RGB"], name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # see open_image
        raise pillow_error(error, name, "cut short or damaged", "truncated") from error
    try:
        flat = _flatten(image, mode)
        turn = _UPRIGHT.get(_orientation(image))
        return flat if turn is None else flat.transpose(turn)
    except Exception as error:  # a palette or a transparency that contradicts the pixels, a mode without conversion
        raise pillow_error(error, name, f"has unusable pixels of mode {image.mode}", "not_an_image") from error


def _resized(image: Image.Image, config: ImageConfig, width: int | None) -> npt.NDArray[np.uint8]:
    if width is None:
        width = target_width(image.size, config)
    resized = np.asarray(image.resize((width, config.image_height), _RESAMPLING[config.interpolation]))
    return np.array(resized.reshape(config.image_height, width, -1).transpose(2, 0, 1), order="C")


def _flatten(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Lay an image over its ground, in 8 bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(_to_8_bits(values))
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(values != transparent).convert("L"))
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied; has no other conversion
            image = image.convert("LA")
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = layer.getchannel("A")
        image = Image.new("RGB", image.size, _ground(layer.convert("L"), alpha))
        image.paste(layer, mask=alpha)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _ground(grey: Image.Image, alpha: Image.Image) -> str:
    """Return the ground for a transparent image: black if on white its contrast is less than half of that on black."""
    on_black = ImageChops.multiply(grey, alpha)
    on_white = ImageChops.add(on_black, ImageChops.invert(alpha))
    white, black = (ImageStat.Stat(image).stddev[0] for image in (on_white, on_black))
    return "black" if 2 * white < black else "white"


def _to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale bools, integers in [0, 65535] of more than 8 bits, and floats in [0, 1]."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if size == 1:
        return values * np.uint8(255) if kind == "b" else values
    low, high = values.min().item(), values.max().item()
    if kind == "f" and not (low >= 0 and high <= 1):  # also where a value is NaN
        raise ValueError("floats outside [0, 1]")
    if low < 0 or high > 65535:
        raise ValueError(f"values from {low} to {high}, expected 0 to 65535")
    pixels = np.empty(values.shape, np.uint8)
    for row, scaled in zip(values, pixels, strict=True):  # for all at once, copies would take eight times the memory
        # 257 = 65535 / 255, rounded to nearest
        scaled[:] = np.rint(row.astype(np.float64) * 255) if kind == "f" else (row.astype(np.uint32) + 128) // 257
    return pixels


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    array = np.asarray(array)  # subclasses (np.matrix, masked arrays) index differently
    given = f"{name} of shape {array.shape} and type {array.dtype}"
    wanted = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, bool, uint16 or floats in [0, 1]"
    if array.size == 0:
        raise ImageError(f"{given}: has no pixels; {wanted}", reason="empty")
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    has_type = array.dtype.kind in "bf" or (array.dtype.kind == "u" and array.dtype.itemsize <= 2)
    if not has_shape or not has_type:
        raise ImageError(f"{given}: not an image; {wanted}", reason="not_an_image")
    check_size((array.shape[1], array.shape[0]), given)
    try:
        pixels = _to_8_bits(array)
    except ValueError as error:
        raise ImageError(f"{given}: has {error}; {wanted}", reason="not_an_image") from None
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if missing or unreadable."""
    # Damaged EXIF data are common in images that are otherwise fine.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def line_warning(size: tuple[int, int], text: str, score: float, config: ImageConfig) -> LineWarning | None:
    """Return the likely content of an image of that size (width, height) that is not one upright, fitting line."""
    width, height = size
    if height > 600 and width > 300 and width < 2 * height < 8 * width and score < _UNSURE:
        return "page"
    # No character but a stroke is two and a half times as tall as wide.
    narrow = height > 2.5 * width and text not in _STROKES
    if narrow or (height > _TALL * width and score < _UNSURE):
        return "turned"
    if config.resize == "keep_ratio" and _proportional_width(size, config) > config.max_width:
        return "too_wide"
    return None

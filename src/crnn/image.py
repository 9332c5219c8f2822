"""Bytes, path or array to the array that the network sees: the only place that makes pixels.

::

    source --load_image--> (H, W, C) uint8 --resize--> (C, H, W) uint8 --normalise--> (C, H, W) float32 in [-1, 1]

Training, evaluation and reading all come through here, so a picture gives the same numbers in each of them, whether it
came as a path, as encoded bytes, as a Pillow image or as an array. H, W and C are height, width and colour channels.
Whatever is wrong with a picture leaves as an ``ImageError`` whose ``reason`` can be counted.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import re
import struct
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.config import ImageConfig
from crnn.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.ImageFile import ImageFile

__all__ = ["MAX_PIXELS", "ImageSource", "image_size", "load_image", "normalise", "resize", "target_width"]

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[Any] | Image.Image
"""What can be read: a path, the encoded bytes of a picture file, an array, or a Pillow image."""

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded: about 150 MB of colour pixels."""

_MAX_BYTES = 1 << 30  # above any picture of MAX_PIXELS

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

_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101  # tags of TIFF 6.0 and EXIF 2.3
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

# In a PNG these may also follow the pixels.
_PNG_ORIENTATION_CHUNKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_image(source: ImageSource, channels: Literal[1, 3]) -> npt.NDArray[np.uint8]:
    """Pixels of a picture, upright and without transparency.

    The EXIF orientation is applied, of an animation the first frame is taken (of a Pillow image the current one),
    transparent pixels are laid over white, and 16-bit pictures are scaled to 8 bits. Colour profiles are not applied.

    Args:
        source: A path, the bytes of a picture file, a Pillow image, or an array: ``(H, W)`` or ``(H, W, C)`` with 1, 3
            (red, green, blue) or 4 (and alpha) channels, of ``uint8``, ``bool``, ``uint16`` or floats in [0, 1].
        channels: 1 for grey (luma of ITU-R BT.601), 3 for red, green, blue.

    Returns:
        A new array ``(H, W, channels)``, ``uint8``.

    Raises:
        ImageError: The picture cannot be read. Its ``reason`` is ``missing`` (no such file, or it may not
            be read), ``empty`` (no bytes or no pixels), ``not_an_image``, ``truncated`` (the header can be read, the
            rest cannot) or ``too_large`` (more than ``MAX_PIXELS``).
        ConfigError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels is {channels!r}; expected 1 (grey) or 3 (red, green, blue)")
    image: Image.Image
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        image = _open(_read_file(name), name)
    elif isinstance(source, bytes | bytearray | memoryview):
        name = "image bytes"
        image = _open(bytes(source), name)
    elif isinstance(source, np.ndarray):
        name = "image array"
        image = _from_array(source, name)
    elif isinstance(source, Image.Image):
        name = f"Pillow image {getattr(source, 'filename', '')}".rstrip()
        _check_size(source.size, name)
        image = source
    else:
        raise ImageError(
            f"image is a {type(source).__name__}; expected a path, bytes, an array or a Pillow image",
            reason="not_an_image",
        )
    return _pixels(image, "L" if channels == 1 else "RGB", name)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels that ``load_image`` will give, from the header of a picture file.

    The pixels are not decoded (but for the odd PNG that has its EXIF data after them).

    Raises:
        ImageError: As for ``load_image``, as far as the header tells.
    """
    image = _open(data, "image bytes")
    width, height = image.size
    if image.format == "TIFF":
        # Pillow's own size is turned already, in some versions.
        tags = cast(Any, image).tag_v2
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    elif image.format == "PNG" and not any(chunk in data for chunk in _PNG_ORIENTATION_CHUNKS):
        return width, height  # for a PNG without EXIF data Pillow would decode the pixels to search behind them
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def target_width(size: tuple[int, int], config: ImageConfig) -> int:
    """Width in pixels to which a picture is resized.

    Under ``keep_ratio`` it is the width at ``image_height``, rounded to the nearest multiple of ``width_step`` (halves
    go up: a wider picture has more time steps) and then clipped to ``min_width`` and ``max_width``.

    Args:
        size: Width and height of the picture in pixels.
        config: The ``image`` settings.

    Raises:
        ImageError: The picture has no pixels.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"image is {width} x {height} pixels; expected at least 1 x 1", reason="empty")
    if config.resize == "squash":
        return config.image_width
    # In integers, so that the same picture has the same width everywhere.
    unit = height * config.width_step
    steps = (2 * width * config.image_height + unit) // (2 * unit)
    return min(max(steps * config.width_step, config.min_width), config.max_width)


def resize(pixels: npt.NDArray[np.uint8], config: ImageConfig, width: int | None = None) -> npt.NDArray[np.uint8]:
    """Pixels at the size of the network, channels first.

    Pillow's resampling, which widens its filter when it makes a picture smaller (antialiasing).

    Args:
        pixels: ``(H, W, C)``, ``uint8``, as ``load_image`` gives them.
        config: The ``image`` settings.
        width: Width in pixels. Default: ``target_width``.

    Returns:
        A new C-contiguous array ``(C, image_height, width)``, ``uint8``.
    """
    height, own_width, channels = pixels.shape
    if width is None:
        width = target_width((own_width, height), config)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    resized = np.asarray(image.resize((width, config.image_height), _RESAMPLING[config.interpolation]))
    return np.array(resized.reshape(config.image_height, width, channels).transpose(2, 0, 1), order="C")


def normalise(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pixels as the network takes them: ``(x - 127.5) / 127.5``, in [-1, 1].

    As the ModelZoo does. PARSeq's and DTRB's ``(x / 255 - 0.5) / 0.5`` is the same up to rounding.

    Args:
        pixels: Any shape, ``uint8``.

    Returns:
        A new array of the same shape, ``float32``.
    """
    # The difference is exact and the division rounded once: any engine that computes it in float32 gets these bits.
    # Multiplying by 1 / 127.5 would not have that.
    values = pixels.astype(np.float32)
    values -= np.float32(127.5)
    values /= np.float32(127.5)
    return values


def _read_file(name: str) -> bytes:
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - pathlib doubles the time of opening, at every sample
            data = file.read(_SIGNATURE_BYTES)
            if _codec(data) is None:
                return data  # not a picture, whatever follows; it may be endless
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise ImageError(f"{name}: above {_MAX_BYTES:,} bytes; expected one picture", reason="too_large")
            return data + file.read()
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


def _open(data: bytes, name: str) -> ImageFile:
    """A picture whose header has been read and whose size is allowed; nothing is decoded yet.

    ``Image.open`` is not used because it warns (``DecompressionBombWarning``) about pictures that we refuse anyway.
    Silencing it would mean to change ``Image.MAX_IMAGE_PIXELS`` or the warning filters, and both belong to the whole
    program: ``catch_warnings`` swaps the filters of every thread, and puts stale ones back where two threads overlap.
    The classes behind ``Image.open`` do not warn, so our own limit is applied to the size that they report.
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
            _check_size(_gif_extent(data), name)
        image = _factory(*codec)(io.BytesIO(data), "")
    except ImageError:
        raise
    except ImportError as error:
        raise _pillow_error(error, name, "a format that this Pillow was built without", "not_an_image") from error
    except Exception as error:
        if _is_cut(data):
            raise _pillow_error(error, name, "cut short", "truncated") from error
        raise _pillow_error(error, name, "begins like a picture but has no good header", "not_an_image") from error
    _check_size(image.size, name)
    return image


def _pixels(image: Image.Image, mode: Literal["L", "RGB"], name: str) -> npt.NDArray[np.uint8]:
    try:
        image.load()
    except Exception as error:  # see _open
        raise _pillow_error(error, name, "cut short or damaged", "truncated") from error
    try:
        flat = _flatten(image, mode)
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            flat = flat.transpose(turn)
        pixels = np.array(flat)
    except Exception as error:  # a palette or a transparency that contradicts the pixels, a mode without conversion
        raise _pillow_error(error, name, f"has unusable pixels of mode {image.mode}", "not_an_image") from error
    return pixels[:, :, np.newaxis] if mode == "L" else pixels


def _flatten(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The picture over white, in 8 bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_wide_grey(np.asarray(image), image.info.get("transparency")))
    elif image.has_transparency_data:
        if image.mode == "La":  # premultiplied; has no other conversion
            image = image.convert("LA")
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _wide_grey(values: npt.NDArray[Any], transparent: object) -> npt.NDArray[np.uint8]:
    """Grey of more than 8 bits: integers in [0, 65535] or floats in [0, 1]."""
    if values.dtype.kind == "f":
        return _from_floats(values)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to 65535")
    pixels = _from_16_bits(values)
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    return pixels


def _from_16_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 257 = 65535 / 255, rounded to nearest


def _from_floats(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not ((values >= 0) & (values <= 1)).all():  # also where a value is NaN
        raise ValueError("floats outside [0, 1]")
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    array = np.asarray(array)  # subclasses (np.matrix, masked arrays) index differently
    given = f"{name} of shape {array.shape} and type {array.dtype}"
    wanted = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, bool, uint16 or floats in [0, 1]"
    if array.size == 0:
        raise ImageError(f"{given}: has no pixels; {wanted}", reason="empty")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{given}: not a picture; {wanted}", reason="not_an_image")
    _check_size((array.shape[1], array.shape[0]), given)
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _from_16_bits(array)
    elif array.dtype.kind == "f":
        try:
            array = _from_floats(array)
        except ValueError as error:
            raise ImageError(f"{given}: has {error}; {wanted}", reason="not_an_image") from None
    elif array.dtype != np.uint8:
        raise ImageError(f"{given}: not a picture; {wanted}", reason="not_an_image")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: is {width} x {height} pixels; expected at least 1 x 1", reason="empty")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: is {width} x {height} pixels; expected at most {MAX_PIXELS:,}. Crop it or make it smaller",
            reason="too_large",
        )


def _pillow_error(error: Exception, name: str, problem: str, reason: str) -> ImageError:
    """What an error of Pillow means for the caller."""
    if isinstance(error, MemoryError | Image.DecompressionBombError | Image.DecompressionBombWarning):
        problem, reason = "too large to decode", "too_large"
    wanted = "expected a whole picture" if reason == "truncated" else _WANTED
    return ImageError(f"{name}: {problem} ({str(error) or type(error).__name__}); {wanted}", reason=reason)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    # Damaged EXIF data are common in pictures that are otherwise fine.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


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

"""Word images out of scene images: boxes cut out, quadrilaterals rectified.

Coordinates are those of the stored image, without its EXIF orientation, as published annotations have them. Pixel (x,
y) covers the area from (x, y) to (x + 1, y + 1).
"""

import io
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from crnn.data.augment import unit_square_map
from crnn.data.formats.records import Box, Quad
from crnn.errors import ConfigError, ImageError
from crnn.image import MAX_PIXELS, image_size, load_image, open_image, pillow_error

_MAX_CROP_PIXELS = 16_000_000  # larger crops are refused before memory is spent: no word has this size
_MAX_SIDE = 65_500  # JPEG's own limit, nearly
_MARGIN = 2  # pixels around a point that bicubic interpolation reads

Point = tuple[float, float]


def decode_scene(data: bytes, name: str) -> Image.Image:
    """Return the image as stored, grey (``L``) or in color (``RGB``), over white; errors as in ``load_image``."""
    image = open_image(data, name)
    try:
        image.load()
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise pillow_error(error, name, "cut short or damaged", "truncated") from error
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    bare = image.copy()
    bare.info = {key: value for key, value in image.info.items() if key == "transparency"}  # without the orientation
    return _upright(bare, image.mode)


def crop(image: Image.Image, region: Box | Quad) -> Image.Image:
    """Return a region of an image, upright, of the same mode and at least 1 by 1 pixel.

    A box covers each pixel that it touches, and is clipped to the image. A quadrilateral is rectified by a perspective
    warp (bicubic, averaged where it shrinks) to the mean lengths of its opposite sides; outside of the image its edge
    pixels are repeated.

    The reasons of ``ImageError`` are those of ``Quad.fault``, ``outside_image`` (a box has no pixel in common with the
    image, a quadrilateral less than half of its area) and ``too_large`` (more than 16 million pixels).
    """
    if isinstance(region, Box):
        return _crop_box(image, region)
    given = f"the quadrilateral {region.points}"
    if not all(math.isfinite(value) for point in region.points for value in point):
        raise ImageError(f"{given} is not finite; expected pixels", reason="outside_image")
    if fault := region.fault(1e-6):
        raise ImageError(
            f"{given} is {fault}; expected top left, top right, bottom right, bottom left of the text", reason=fault
        )
    return _crop_quad(image, region.points)


def _upright(source: bytes | Image.Image, mode: str) -> Image.Image:
    """Return the image as trained on: EXIF orientation applied, over white, ``L`` or ``RGB``."""
    grey = Image.getmodebase(mode) == "L"
    return Image.fromarray(load_image(source, 1)[:, :, 0] if grey else load_image(source, 3))


def _crop_box(image: Image.Image, box: Box) -> Image.Image:
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    if not all(math.isfinite(edge) for edge in edges):
        raise ImageError(f"the box {edges} is not finite; expected pixels", reason="outside_image")
    left, top = max(0, math.floor(edges[0])), max(0, math.floor(edges[1]))
    right, bottom = min(image.width, math.ceil(edges[2])), min(image.height, math.ceil(edges[3]))
    if right <= left or bottom <= top:
        raise ImageError(
            f"the box {edges} lies outside of the {image.width} x {image.height} pixels", reason="outside_image"
        )
    _check_crop_size(right - left, bottom - top)
    return image.crop((left, top, right, bottom))


def _crop_quad(image: Image.Image, points: Sequence[Point]) -> Image.Image:
    above, right_side, below, left_side = (math.dist(points[i], points[(i + 1) % 4]) for i in range(4))
    _check_crop_size((above + below) / 2, (left_side + right_side) / 2)
    width, height = max(1, round((above + below) / 2)), max(1, round((left_side + right_side) / 2))
    if 2 * _area(_inside(points, image.size)) < _area(points):
        raise ImageError(f"the quadrilateral {tuple(points)} lies outside of {image.size}", reason="outside_image")
    # Where a side is longer than the output is wide, interpolation would jump over pixels: there more points are taken,
    # and averaged.
    steps = max(above, below) / width, max(left_side, right_side) / height
    columns, rows = (min(4, max(1, math.ceil(step - 0.25))) for step in steps)
    _check_crop_size(width * columns, height * rows)

    x0, y0 = (math.floor(min(p[axis] for p in points)) - _MARGIN for axis in (0, 1))
    x1, y1 = (math.ceil(max(p[axis] for p in points)) + _MARGIN for axis in (0, 1))
    if (x1 - x0) * (y1 - y0) > MAX_PIXELS:
        raise ImageError(f"the quadrilateral {tuple(points)} is too large to cut out", reason="too_large")
    # Outside of the image its edge pixels are repeated.
    left, top, right, bottom = max(0, x0), max(0, y0), min(image.width, x1), min(image.height, y1)
    pixels = np.asarray(image.crop((left, top, right, bottom)))
    outside = ((top - y0, y1 - bottom), (left - x0, x1 - right), (0, 0))[: pixels.ndim]
    patch = Image.fromarray(np.pad(pixels, outside, mode="edge"))
    w, h = width * columns, height * rows
    a, b, c, d, e, f, g, k = unit_square_map([(x - x0, y - y0) for x, y in points])
    coefficients = (a / w, b / h, c, d / w, e / h, f, g / w, k / h)
    warped = patch.transform((w, h), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    return warped.reduce((columns, rows)) if columns * rows > 1 else warped


def _check_crop_size(width: float, height: float) -> None:
    if width * height > _MAX_CROP_PIXELS or max(width, height) > _MAX_SIDE:
        raise ImageError(
            f"the region is {width:.0f} x {height:.0f} pixels, above {_MAX_CROP_PIXELS:,}", reason="too_large"
        )


def _area(points: Sequence[Point]) -> float:
    following = [*points[1:], *points[:1]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2


def _inside(points: Sequence[Point], size: tuple[int, int]) -> list[Point]:
    """Clip a convex polygon to the image (Sutherland and Hodgman 1974)."""
    kept = list(points)
    for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, size[0], -1), (1, size[1], -1)):
        polygon, kept = kept, []
        for i, (point, following) in enumerate(zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)):
            a, b = sign * (point[axis] - limit), sign * (following[axis] - limit)
            if a >= 0:
                kept.append(polygon[i])
            if (a < 0) != (b < 0):
                at = a / (a - b)
                kept.append((point[0] + at * (following[0] - point[0]), point[1] + at * (following[1] - point[1])))
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOptions:
    """Treatment of images on their way into a store."""

    # Of unchanged images: header and last bytes, decoding those that look cut short, or all, at several times the cost.
    check: Literal["header", "full"] = "header"
    max_height: int | None = None  # pixels, to which higher images are shrunk
    encoding: Literal["png", "jpeg"] = "png"  # of cut or shrunk images; jpeg has about a third of the size
    quality: int = 95  # of JPEG, 1 to 100

    def __post_init__(self) -> None:
        if self.max_height is not None and self.max_height < 1:
            raise ConfigError(f"max_height is {self.max_height}; expected at least 1 pixel")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")


# From a record's ``path`` to image bytes, or an ``ImageError``; it can be pickled.
ImageReader: TypeAlias = Callable[[str], bytes]

# One image to prepare: source number, path there, and the region to cut out (``None``: all, bytes unchanged).
Request: TypeAlias = tuple[int, str, Box | Quad | None]


class Prepared(NamedTuple):
    """An image ready to be stored, its size in pixels as trained on, or the reason why there is none."""

    image: bytes
    width: int = 0
    height: int = 0
    reason: str = ""
    message: str = ""


def prepare(sources: Sequence[ImageReader], options: CropOptions, requests: Iterable[Request]) -> list[Prepared]:
    """Prepare images, whose requests name a source by number; a scene is decoded once for consecutive words of it."""
    found = []
    for (source, path), group in itertools.groupby(requests, lambda request: request[:2]):
        scene: Image.Image | None = None
        for _, _, region in group:
            try:
                if region is None:
                    found.append(_prepare_whole(sources[source](path), path, options))
                else:
                    scene = scene or decode_scene(sources[source](path), path)
                    found.append(_encoded(crop(scene, region), options))
            except ImageError as error:
                found.append(Prepared(b"", reason=error.reason, message=str(error)))
    return found


def _prepare_whole(data: bytes, path: str, options: CropOptions) -> Prepared:
    width, height = image_size(data)
    if options.max_height is not None and height > options.max_height:
        return _encoded(_upright(data, open_image(data, path).mode), options)
    if options.check == "full" or not _ends_well(data):
        load_image(data, 3)
    return Prepared(data, width, height)


def _encoded(image: Image.Image, options: CropOptions) -> Prepared:
    if options.max_height is not None and image.height > options.max_height:
        width = max(1, round(image.width * options.max_height / image.height))
        image = image.resize((width, options.max_height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if options.encoding == "jpeg":
        image.save(file, "JPEG", quality=options.quality, subsampling=0)  # colored letters keep their edges
    else:
        image.save(file, "PNG")
    return Prepared(file.getvalue(), *image.size)


def _ends_well(data: bytes) -> bool:
    """Return whether a JPEG or PNG has its end marker, behind which somebody may have put zeros."""
    if data.startswith(b"\xff\xd8\xff"):
        return data.endswith(b"\xff\xd9") or b"\xff\xd9" in data[-64:]
    return data.startswith(b"\x89PNG") and b"IEND" in data[-64:]

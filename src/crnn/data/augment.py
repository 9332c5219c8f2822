"""Random changes to training images: pose, margins, tones, sharpness, resolution, noise.

Images ``(H, W, C)`` are changed at their own size, at most ``MAX_HEIGHT``; lengths scale with the height.
References: Baek, Matsui and Aizawa 2021, arXiv:2103.04400 (a CRNN gains most from geometry); Bautista and Atienza 2022,
arXiv:2207.06966 (rotation with a growing canvas); Heckbert 1989, "Fundamentals of Texture Mapping and Image Warping",
section 2.2.3.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from crnn.config.training import AugmentConfig

Pixels = npt.NDArray[np.uint8]
Point = tuple[float, float]

MAX_HEIGHT = 40  # pixels, to which higher images are shrunk; the largest default cut leaves as many as the network sees
MAX_GROWTH = 1.5  # of the shorter side by rotation, as a share of it; a long line turned further becomes illegible
_NETWORK_HEIGHT = 32  # pixels, for which the settings state lengths
_MAX_MINIFICATION = 1.2  # pixels that the warp may step over per output pixel; finer images are filtered first
_SHARP_HEIGHT = 24  # images up to it are warped bicubically, which is slower, as they have no detail to lose
_MIN_DEPTH_RATIO = 0.25  # smallest ratio of the depths of two corners of the canvas, so that the image does not fold
_PERSPECTIVE_DAMPING = (1.0, 0.5, 0.25, 0.125, 0.0)  # of the corners' moves, in order until the map is sound
_OUTLIERS = 0.01  # share of pixels at either end of the grey levels that is neither ink nor ground
_UNIT_SQUARE = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))

# A random byte picks one of these, several times faster than drawing normal numbers; they end at 2.9 deviations. The
# middles of the steps spread a little less than the distribution they stand for.
_QUANTILES = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)])
_QUANTILES /= _QUANTILES.std()


def augment(pixels: Pixels, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    """Change an image ``(H, W, 1 or 3)`` at random, up to the strengths of ``config``, to ``(H', W', C)`` uint8.

    The result is contiguous and depends on the arguments alone; an unchanged image is not copied. Each change has its
    own random numbers: switching one off does not alter the others. With probability 0 none is drawn.
    """
    moves = bool(config.rotate_degrees or config.shear or config.perspective or config.crop)
    tones = config.contrast or config.invert
    off = not (moves or tones or config.stretch or config.blur or config.noise or config.low_resolution > 1)
    if config.probability == 0 or rng.random() >= config.probability or off:
        return pixels
    pose = rng.uniform(-1.0, 1.0, 14).tolist()
    stretch, contrast, brightness = rng.uniform(-1.0, 1.0, 3).tolist()
    flip, blur, coarseness, noise = rng.random(4).tolist()

    height, width, channels = pixels.shape
    new_height = min(height, MAX_HEIGHT)
    new_width = width * new_height / height * (1.0 + config.stretch * stretch)
    coarsening = 1.0
    if config.low_resolution > 1:
        factor = 1.0 + (config.low_resolution - 1.0) * coarseness
        coarsening = max(1.0, factor * new_height / _NETWORK_HEIGHT)
    # Low resolution is a smaller image to start from, which the warp enlarges. It, tones and blur do not depend on
    # the pose, and there are fewer pixels before the canvas grows.
    image = pixels[:, :, 0] if channels == 1 else pixels
    tolerance = 1.0 if coarsening > 1 else _MAX_MINIFICATION
    image = _reduced(image, new_width / coarsening, new_height / coarsening, tolerance)
    if config.contrast or flip < config.invert:
        image = _toned(image, config.contrast * contrast, config.contrast * brightness, flip < config.invert)
    if config.blur:
        sigma = config.blur * blur * image.shape[0] / _NETWORK_HEIGHT
        image = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    if moves or image.shape[:2] != (new_height, max(1, round(new_width))):
        image = _warped(image, new_width, new_height, config, pose)
    if config.noise:
        table = np.rint(_QUANTILES * (config.noise * noise)).astype(np.int16)
        steps = np.frombuffer(rng.bytes(image.size), dtype=np.uint8).reshape(image.shape)
        image = np.clip(table.take(steps) + image, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image).reshape(*image.shape[:2], channels)


def _reduced(image: Pixels, width: float, height: float, tolerance: float) -> Pixels:
    """Shrink an image with filtering, unless neither side shrinks by more than ``tolerance``."""
    old_height, old_width = image.shape[:2]
    size = (max(1, min(old_width, round(width))), max(1, min(old_height, round(height))))
    if old_width <= size[0] * tolerance and old_height <= size[1] * tolerance:
        return image
    # Hamming is sharper than bilinear at the same cost.
    return np.array(Image.fromarray(image).resize(size, Resampling.HAMMING, reducing_gap=3.0))


def _toned(image: Pixels, contrast: float, brightness: float, invert: bool) -> Pixels:
    """Apply contrast about the middle grey, brightness in half ranges, and inversion, as one table."""
    table = np.arange(256.0)
    if contrast or brightness:
        shares = np.cumsum(np.bincount(image.ravel(), minlength=256))
        dark, bright = np.searchsorted(shares, (_OUTLIERS * image.size, (1 - _OUTLIERS) * image.size)).tolist()
        middle = (dark + bright) / 2
        # A sixth of the distance between ink and ground may be lost beyond black and white, as in a real exposure; text
        # that is bright on bright or dark on dark would be wiped out otherwise.
        room = min((1.0 + contrast) * (bright - dark) / 3, 127.5)
        level = min(max(middle + 127.5 * brightness, room), 255.0 - room)
        table = (table - middle) * (1.0 + contrast) + level
    if invert:
        table = 255.0 - table
    toned: Pixels = np.clip(np.rint(table), 0, 255).astype(np.uint8).take(image)
    return toned


def _warped(image: Pixels, new_width: float, new_height: int, config: AugmentConfig, pose: list[float]) -> Pixels:
    """Warp to the new size and pose, on a canvas that holds it, outside filled with the nearest edge pixels."""
    height, width = image.shape[:2]
    size, (a, b, c, d, e, f, g, h) = _map_to_image(new_width, float(new_height), config, pose)
    depths = [(x, y, g * x + h * y + 1.0) for x, y in _corners_of(size)]
    xs = [width * (a * x + b * y + c) / depth for x, y, depth in depths]
    ys = [height * (d * x + e * y + f) / depth for x, y, depth in depths]
    # One pixel more than the canvas reaches on each side, so that rounding never reads from outside.
    left, right = max(0, 1 - math.floor(min(xs))), max(0, 1 + math.ceil(max(xs)) - width)
    top, bottom = max(0, 1 - math.floor(min(ys))), max(0, 1 + math.ceil(max(ys)) - height)
    rows = np.clip(np.arange(-top, height + bottom), 0, height - 1)
    columns = np.clip(np.arange(-left, width + right), 0, width - 1)
    padded = Image.fromarray(image.take(rows, axis=0).take(columns, axis=1))
    # From the unit square to pixels of the padded image.
    x_row = (width * a + left * g, width * b + left * h, width * c + left)
    y_row = (height * d + top * g, height * e + top * h, height * f + top)
    resample = Resampling.BICUBIC if new_height <= _SHARP_HEIGHT else Resampling.BILINEAR
    return np.array(padded.transform(size, Image.Transform.PERSPECTIVE, (*x_row, *y_row, g, h), resample))


def _map_to_image(
    width: float, height: float, config: AugmentConfig, pose: list[float]
) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Return the canvas size in pixels, and the map from it to the image as a unit square."""
    for damping in _PERSPECTIVE_DAMPING:
        quad = _posed(width, height, config, pose[:10], damping)
        left, right = min(x for x, _ in quad), max(x for x, _ in quad)
        top, bottom = min(y for _, y in quad), max(y for _, y in quad)
        margin = config.crop * min(width, height, right - left, bottom - top)
        left, right = left + margin * pose[10], right + margin * pose[11]
        top, bottom = top + margin * pose[12], bottom + margin * pose[13]
        size = (max(1, round(right - left)), max(1, round(bottom - top)))
        # The canvas has whole pixels; the rest of the division is spread over all of them.
        x_scale, y_scale = size[0] / (right - left), size[1] / (bottom - top)
        coefficients = _inverse_map([((x - left) * x_scale, (y - top) * y_scale) for x, y in quad])
        depths = [coefficients[6] * x + coefficients[7] * y + 1.0 for x, y in _corners_of(size)]
        if min(depths) >= _MIN_DEPTH_RATIO * max(depths):
            break
    # Without perspective every depth is 1, so the last damping is always sound.
    return size, coefficients


def _posed(width: float, height: float, config: AugmentConfig, pose: list[float], damping: float) -> list[Point]:
    """Return the corners about the center, clockwise from the upper left: perspective, slant, then rotation."""
    short, long = min(width, height), max(width, height)
    limit = math.asin(min(1.0, MAX_GROWTH * short / long))
    angle = pose[0] * min(math.radians(config.rotate_degrees), limit)
    cosine, sine = math.cos(angle), math.sin(angle)
    slant = pose[1] * config.shear
    reach = config.perspective * damping * short
    quad = []
    for (unit_x, unit_y), move_x, move_y in zip(_UNIT_SQUARE, pose[2:6], pose[6:10], strict=True):
        x, y = unit_x * width + reach * move_x, unit_y * height + reach * move_y
        x -= slant * y
        quad.append((cosine * x - sine * y, sine * x + cosine * y))
    return quad


def _corners_of(size: tuple[int, int]) -> tuple[Point, ...]:
    width, height = size
    return (0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height))


def _inverse_map(quad: Sequence[Point]) -> tuple[float, ...]:
    """Return the eight coefficients of the map from ``quad``, clockwise from the upper left, to the unit square."""
    a, b, c, d, e, f, g, h = unit_square_map(quad)
    # The adjugate is the inverse but for a factor, which the division by the last coefficient removes.
    adjugate = (e - f * h, c * h - b, b * f - c * e, f * g - d, a - c * g, c * d - a * f, d * h - e * g, b * g - a * h)
    last = a * e - b * d
    return tuple(value / last for value in adjugate)


def unit_square_map(quad: Sequence[Point]) -> tuple[float, ...]:
    """Return the coefficients a to h of the map from the unit square to ``quad``, clockwise from the upper left.

    ``x' = (a x + b y + c) / (g x + h y + 1)`` and ``y' = (d x + e y + f) / (g x + h y + 1)``.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = quad
    ux, uy, vx, vy = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    area = ux * vy - uy * vx
    g, h = (sx * vy - sy * vx) / area, (ux * sy - uy * sx) / area
    return (x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h)

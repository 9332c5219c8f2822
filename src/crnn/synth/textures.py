"""Bank of textures on the device: procedural ones, and parts of the user's images.

A word of the bank packs a pixel with its right and lower neighbours for bilinear interpolation; tiles are there in
several sizes (Williams 1983, "Pyramidal Parametrics"). All is integers: a crop is the same in any batch.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from crnn.config.synth import StyleConfig
from crnn.distributed import on_device
from crnn.errors import ConfigError, ImageError
from crnn.image import load_image, open_image, read_image_file
from crnn.synth.filters import Floats
from crnn.synth.patterns import normalize, pattern

Grey = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

MIN_SIDE = 64  # Pixels; smaller images have no structure left when they are as large as a tile
MIN_DEVIATION = 4.0  # Grey levels; parts with less, sky or paper, would become tiles of compression noise
SIDES = (0.3, 1.0)  # A part's side, as a share of its image's shorter side: the same things are seen near and far
_TRIES_PER_PART = 4
_DECODED_SIDE = 1024  # JPEG files are decoded at a half, quarter or eighth where that leaves as much as this

TILE_SIZE = 256  # Pixels; a power of two
LEVELS = 4  # Sizes of each tile, each half of the one before
_SIZES = [TILE_SIZE >> level for level in range(LEVELS)]
_WORDS = sum(size * size for size in _SIZES)  # of a tile, in all its sizes
_STARTS = np.cumsum([0, *(size * size for size in _SIZES)])[:-1]
_TEXTURES = 4  # first word of the seeds of textures, apart from those of words and of `crnn.data`

# Positions are in 1/65536 of a pixel. Overflow is harmless: twice a tile's size divides 2**32.
_FRACTION_BITS = 16
_ONE = 1 << _FRACTION_BITS
_PAIR = 0x00FF00FF  # two bytes, with room above each for a product with a weight of up to 256
_WHITE = 255 << 16  # a byte after both interpolations


def background_tiles(folders: tuple[str, ...], count: int, size: int, rng: np.random.Generator) -> list[Grey]:
    """Cut ``count`` parts, ``(size, size)`` uint8, none of them flat, of random images below folders.

    Files that cannot be used are logged by reason; ``ConfigError`` where none can.
    """
    paths = [path for folder in folders for path in _files(folder)]
    paths = [paths[place] for place in rng.permutation(len(paths)).tolist()]
    tiles: list[Grey] = []
    problems: list[ImageError] = []
    while paths and len(tiles) < count:
        usable = []
        for number, path in enumerate(paths):
            wanted = -(-(count - len(tiles)) // (len(paths) - number))
            try:
                tiles += _parts(path, wanted, size, rng)
                usable.append(path)
            except ImageError as error:
                problems.append(error)
            if len(tiles) == count:
                break
        paths = usable
    skipped = ", ".join(f"{n} {reason}" for reason, n in Counter(e.reason for e in problems).most_common())
    if len(tiles) < count:
        raise ConfigError(f"style.backgrounds: no image in {', '.join(folders)} can be used ({skipped}: {problems[0]})")
    if problems:
        examples = "; ".join(str(error) for error in problems[:3])
        _log.warning("style.backgrounds: left out %d files (%s), for example: %s", len(problems), skipped, examples)
    return tiles


def _files(folder: str) -> list[Path]:
    """Return the files below a folder, in the same order on every machine."""
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"style.backgrounds: {folder}: no such folder; expected a folder with images")
    # is_file: to open a pipe would be to wait for its writer.
    files = [path for path in root.rglob("*") if not path.name.startswith(".") and path.is_file()]
    if not files:
        raise ConfigError(f"style.backgrounds: {folder}: holds no file; expected a folder with images")
    return sorted(files, key=lambda path: (path.parent.parts, path.name))


def _parts(path: Path, count: int, size: int, rng: np.random.Generator) -> list[Grey]:
    """Return at least one part, and usually ``count``."""
    file = open_image(read_image_file(str(path)), str(path))
    file.draft(None, (_DECODED_SIDE, _DECODED_SIDE))
    try:
        image = Image.fromarray(load_image(file, 1)[:, :, 0])
    except ImageError as error:  # it knows the path no longer
        raise ImageError(f"{path}: {error}", reason=error.reason) from error
    shorter = min(image.size)
    if shorter < MIN_SIDE:
        raise ImageError(f"{path}: has a side of {shorter} pixels; expected at least {MIN_SIDE}", reason="too_small")
    parts: list[Grey] = []
    for _ in range(_TRIES_PER_PART * count):
        side = shorter * rng.uniform(*SIDES)
        left, top = rng.uniform(0.0, image.width - side), rng.uniform(0.0, image.height - side)
        box = (left, top, left + side, top + side)
        part = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
        if part.std() >= MIN_DEVIATION:
            parts.append(part)
            if len(parts) == count:
                break
    if not parts:
        raise ImageError(f"{path}: is of one grey all over; expected a photograph", reason="flat")
    return parts


class TextureBank:
    """Square grey tiles, procedural and from the user's images, and crops of them."""

    def __init__(self, style: StyleConfig, seed: int, device: torch.device) -> None:
        self._count = style.texture_tiles
        photographed = round(self._count * style.background_share) if style.backgrounds else 0
        words = [
            _packed(pattern(np.random.default_rng([seed, _TEXTURES, number]), TILE_SIZE))
            for number in range(self._count - photographed)
        ]
        if photographed:
            rng = np.random.default_rng([seed, _TEXTURES])
            parts = background_tiles(style.backgrounds, photographed, TILE_SIZE, rng)
            words += [_packed(normalize(part.astype(np.float32))) for part in parts]
        self._words = torch.from_numpy(np.concatenate(words)).to(device)

    def __len__(self) -> int:
        return self._count

    def sample(
        self, tile: Tensor, origin: Floats, scale: Floats, angle: Floats, aspect: Floats, shape: tuple[int, int]
    ) -> Tensor:
        """Return crops of tiles, turned and stretched, ``(n, *shape)`` float32 in [-1, 1]; tiles go on mirrored.

        ``origin`` (n, 2) is the place of the upper left corner in the tile, down and across, in [0, 1), ``scale`` (n,)
        in pixels of the tile per pixel of the crop, down, ``aspect`` (n,) the shrinking across over that down.
        """
        # Between the steps down and across, so that neither is far from its best size.
        level = np.clip(np.rint(np.log2(scale * np.sqrt(aspect))), 0, LEVELS - 1).astype(np.int64)
        step = scale / 2.0**level
        cos, sin = np.cos(angle) * step, np.sin(angle) * step
        sizes = np.array(_SIZES)[level]
        positions = [origin[:, 0] * sizes, origin[:, 1] * sizes, cos, -sin, sin * aspect, cos * aspect]
        fixed = np.rint(np.stack(positions) * _ONE).astype(np.int64)
        rows = on_device(np.concatenate([[_STARTS[level], sizes], fixed]).astype(np.int32), self._words.device)
        rows[0] += (tile * _WORDS).int()
        start, size, top, left, down_y, down_x, across_y, across_x = rows[..., None, None].unbind()
        down = torch.arange(shape[0], dtype=torch.int32, device=rows.device)[:, None]
        across = torch.arange(shape[1], dtype=torch.int32, device=rows.device)
        last = size * (2 * _ONE) - 1  # of a tile and its mirror image
        y = _mirrored((top + down_y * down) + across_y * across, last)
        x = _mirrored((left + down_x * down) + across_x * across, last)
        places = (y >> _FRACTION_BITS).mul_(size).add_(x >> _FRACTION_BITS).add_(start)
        words = self._words.index_select(0, places.view(-1)).view(places.shape)
        # A pixel and the lower one in one word, their right neighbours in another: interpolated together.
        right = (words >> 8).bitwise_and_(_PAIR)
        weight = x.bitwise_right_shift_(_FRACTION_BITS - 8).bitwise_and_(0xFF)
        pair = right.mul_(weight).add_(words.bitwise_and_(_PAIR).mul_(weight.neg_().add_(256)))
        lower = (pair >> 16).bitwise_and_(0xFFFF)
        upper = pair.bitwise_and_(0xFFFF)
        weight = y.bitwise_right_shift_(_FRACTION_BITS - 8).bitwise_and_(0xFF)
        grey = lower.sub_(upper).mul_(weight).add_(upper.bitwise_left_shift_(8))
        return grey.mul(2.0 / _WHITE).sub_(1.0)


def _mirrored(position: Tensor, last: Tensor) -> Tensor:
    """Mirror int32 positions into the tile, in place; ``last`` is 2**k - 1, so that a mask wraps them."""
    position.bitwise_and_(last)
    return torch.minimum(position, position ^ last)


def _packed(tile: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Pack a tile in [-1, 1] in all its sizes, each pixel with its neighbours."""
    levels = []
    for size in _SIZES:
        grey = np.rint((tile + 1.0) * 127.5).astype(np.uint32)
        grey = np.pad(grey, ((0, 1), (0, 1)), mode="edge")
        words = grey[:-1, :-1] | grey[:-1, 1:] << 8 | grey[1:, :-1] << 16 | grey[1:, 1:] << 24
        levels.append(words.ravel())
        tile = tile.reshape(size // 2, 2, size // 2, 2).mean(axis=(1, 3))
    return np.concatenate(levels).view(np.int32)

"""A bank of textures on the device that composes: procedural ones, and pictures from the user's folders.

Tiles are made once, large and smooth, so that one lookup per pixel, without interpolation, serves every scale.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.errors import ConfigError, ImageError
from crnn.image import load_image
from crnn.picture_file import read_picture_file
from crnn.synth.patterns import normalised, pattern
from crnn.synth.settings import LookConfig

__all__ = ["TextureBank"]

_log = logging.getLogger(__name__)

_TEXTURES = 4
"""First word of the seeds of textures, apart from those of words and of ``crnn.data``."""

_SIZE = 256
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_MAX_LISTED = 100_000
_EXAMPLES = 3
_LEAST_DEVIATION = 4.0  # of a background's crop, in grey levels: flat ones are no texture


class TextureBank:
    """Square grey tiles, and crops of them.

    Args:
        look: How many tiles, which of them are from folders.
        seed: Of the tiles.
        device: Where they are kept.

    Attributes:
        skipped: Background pictures that were left out, by reason.

    Raises:
        ConfigError: A folder of backgrounds is missing, or has no picture that can be used.
    """

    def __init__(self, look: LookConfig, seed: int, device: torch.device) -> None:
        self.skipped: Counter[str] = Counter()
        count = look.texture_tiles
        pictured = round(count * look.background_share) if look.backgrounds else 0
        tiles = np.empty((count, _SIZE, _SIZE), dtype=np.uint8)
        for number in range(count - pictured):
            tiles[number] = _to_bytes(pattern(np.random.default_rng([seed, _TEXTURES, number]), _SIZE))
        if pictured:
            tiles[count - pictured :] = self._from_folders(look.backgrounds, pictured, seed)
        self._tiles = torch.from_numpy(tiles).to(device).view(-1)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def sample(
        self,
        tile: Tensor,
        origin: npt.NDArray[np.float64],
        scale: npt.NDArray[np.float64],
        angle: npt.NDArray[np.float64],
        aspect: npt.NDArray[np.float64],
        shape: tuple[int, int],
    ) -> Tensor:
        """Crops of tiles, turned and stretched; behind an edge a tile goes on mirrored.

        Args:
            tile: ``(n,)`` int64: which tiles, on the device.
            origin: ``(n, 2)`` in [0, 1): where in the tile the upper left corner is: down, across.
            scale: ``(n,)`` pixels of the tile per pixel of the crop's height.
            angle: ``(n,)`` radians.
            aspect: ``(n,)`` by how much more the tile is shrunk across than down.
            shape: H and W of the crops.

        Returns:
            ``(n, H, W)`` float32 in [-1, 1], about 0 on the whole.
        """
        device = self._tiles.device
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        values = np.stack([origin[:, 0] * _SIZE, origin[:, 1] * _SIZE, cos, sin, cos * aspect, sin * aspect], axis=1)
        top, left, cos_y, sin_y, cos_x, sin_x = (
            torch.from_numpy(values.astype(np.float32)).to(device).T[:, :, None, None].unbind()
        )
        rows = torch.arange(shape[0], dtype=torch.float32, device=device)[:, None]
        columns = torch.arange(shape[1], dtype=torch.float32, device=device)
        y = (top + cos_y * rows) + sin_x * columns
        x = (left - sin_y * rows) + cos_x * columns
        places = _mirrored(y).mul_(_SIZE).add_(_mirrored(x)).add_((tile * (_SIZE * _SIZE)).int()[:, None, None])
        found = self._tiles.index_select(0, places.view(-1)).view(places.shape)
        return found.to(torch.float32).mul_(1.0 / 127.5).sub_(1.0)

    def _from_folders(self, folders: tuple[str, ...], count: int, seed: int) -> npt.NDArray[np.uint8]:
        """Crops of random pictures, each shrunk so that it is seen at another scale."""
        paths = _pictures(folders)
        rng = np.random.default_rng([seed, _TEXTURES])
        order = rng.permutation(len(paths))
        tiles: list[npt.NDArray[np.uint8]] = []
        examples: list[str] = []
        for number in range(max(4 * count, 64)):
            if len(tiles) == count:
                break
            path = paths[order[number % len(paths)]]
            try:
                pixels = load_image(read_picture_file(str(path)), 1)[0]
            except ImageError as error:
                self.skipped[error.reason] += 1
                examples.append(str(error))
                continue
            crop = _crop(pixels, np.random.default_rng([seed, _TEXTURES, number, 1]))
            if crop.std() < _LEAST_DEVIATION:
                self.skipped["flat"] += 1
                continue
            tiles.append(_to_bytes(normalised(crop)))
        if self.skipped:
            _log.warning("look.backgrounds: left out %s; for example %s", dict(self.skipped), examples[:_EXAMPLES])
        if not tiles:
            raise ConfigError(
                f"look.backgrounds: none of the pictures in {', '.join(folders)} can be used ({dict(self.skipped)}); "
                "give folders with photographs"
            )
        return np.stack([tiles[number % len(tiles)] for number in range(count)])


def _mirrored(position: Tensor) -> Tensor:
    """Whole positions in a tile, int32, forwards and backwards again and again."""
    place = position.floor().to(torch.int32).remainder_(2 * _SIZE)
    return torch.minimum(place, (2 * _SIZE - 1) - place)


def _to_bytes(tile: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint((tile + 1.0) * 127.5).astype(np.uint8)


def _crop(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A square part of a picture, of a random size, as a tile."""
    height, width = pixels.shape
    side = int(min(height, width) * rng.uniform(0.3, 1.0))
    side = max(2, side)
    top, left = int(rng.integers(0, max(1, height - side + 1))), int(rng.integers(0, max(1, width - side + 1)))
    part = pixels[top : top + side, left : left + side].astype(np.float32)
    places = (np.arange(_SIZE) + 0.5) / _SIZE * min(part.shape)
    whole = np.clip(places.astype(int), 0, min(part.shape) - 1)
    return part[np.ix_(whole, whole)]


def _pictures(folders: tuple[str, ...]) -> list[Path]:
    paths: list[Path] = []
    for folder in folders:
        root = Path(folder)
        if not root.is_dir():
            raise ConfigError(f"look.backgrounds: {folder}: there is no such folder; expected folders with pictures")
        found = []
        for place, _, names in os.walk(root):
            found += [Path(place) / name for name in names if Path(name).suffix.lower() in _SUFFIXES]
            if len(found) > _MAX_LISTED:
                break
        paths += sorted(found)[:_MAX_LISTED]
    if not paths:
        raise ConfigError(
            f"look.backgrounds: no picture in {', '.join(folders)}; expected files with the suffixes "
            f"{', '.join(sorted(_SUFFIXES))}"
        )
    return paths

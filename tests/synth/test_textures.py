"""Textures: crops are the parts of tiles that were asked for; images of the user become tiles, or are refused."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crnn.config.synth import StyleConfig
from crnn.errors import ConfigError
from crnn.synth.patterns import PATTERNS, normalize, pattern
from crnn.synth.textures import MIN_DEVIATION, TILE_SIZE, TextureBank, background_tiles

CPU = torch.device("cpu")
SHAPE = (32, 100)
COUNT = 40
STEP = 2 / 255  # of a tile's values


def make(count: int = COUNT, seed: int = 0, **style: object) -> TextureBank:
    return TextureBank(StyleConfig.model_validate({"texture_tiles": count, **style}), seed, CPU)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return make()


@pytest.fixture(scope="module")
def tiles(bank: TextureBank) -> np.ndarray:
    return whole(bank)


def crops(bank: TextureBank, tiles: list[int], shape: tuple[int, int] = SHAPE, **given: object) -> torch.Tensor:
    """Crops; unless given, from the upper left corner, of scale 1 and neither turned nor stretched."""
    values = {"origin": (0.0, 0.0), "scale": 1.0, "angle": 0.0, "aspect": 1.0, **given}
    rows = {
        name: np.broadcast_to(np.asarray(value, np.float64), (len(tiles), 2) if name == "origin" else len(tiles))
        for name, value in values.items()
    }
    return bank.sample(torch.tensor(tiles, dtype=torch.int64), shape=shape, **rows)


def random_rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "origin": rng.random((count, 2)),
        "scale": np.exp(rng.uniform(np.log(0.2), np.log(20.0), count)),
        "angle": rng.uniform(-7.0, 7.0, count),
        "aspect": np.exp(rng.uniform(-1.0, 1.0, count)),
    }


def whole(bank: TextureBank) -> np.ndarray:
    return crops(bank, list(range(len(bank))), (TILE_SIZE, TILE_SIZE)).numpy()


def stepped(tile: np.ndarray) -> np.ndarray:
    """A tile at the 256 levels that a bank keeps."""
    return np.rint((tile + 1.0) * 127.5) / 127.5 - 1.0


def looked_up(tile: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear interpolation at positions, mirrored outside: the sampler in floats, a pixel at a time."""
    size = len(tile)

    def inside(position: np.ndarray) -> np.ndarray:
        position = np.mod(position, 2 * size)
        return np.minimum(position, 2 * size - 1e-9 - position)

    y, x = inside(y), inside(x)
    top, left = y.astype(int), x.astype(int)
    below, right = np.minimum(top + 1, size - 1), np.minimum(left + 1, size - 1)
    down, across = y - top, x - left
    upper = tile[top, left] * (1 - across) + tile[top, right] * across
    lower = tile[below, left] * (1 - across) + tile[below, right] * across
    return upper * (1 - down) + lower * down


def test_tiles_differ_and_none_is_flat(tiles: np.ndarray) -> None:
    assert len(tiles) == COUNT
    assert tiles.min() >= -1.0
    assert tiles.max() <= 1.0
    flat = tiles.reshape(COUNT, -1)
    assert np.abs(flat.mean(axis=1)).max() < 0.1
    assert 0.3 < flat.std(axis=1).min() <= flat.std(axis=1).max() < 0.45
    assert np.array_equal(whole(make(6)), tiles[:6])
    assert not np.array_equal(whole(make(6, seed=1)), tiles[:6])
    likeness = np.corrcoef(flat) - np.eye(COUNT)
    assert np.abs(likeness).max() < 0.9  # two lights from the same side are alike, and no more


@pytest.mark.parametrize("maker", [maker for maker, _ in PATTERNS])
def test_every_pattern_varies_and_is_never_flat(maker: Callable[[np.random.Generator, int], np.ndarray]) -> None:
    made = [maker(np.random.default_rng(seed), 64) for seed in range(12)]
    assert {(tile.shape, tile.dtype) for tile in made} == {((64, 64), np.dtype(np.float32))}
    assert min(normalize(tile).std() for tile in made) > 0.25
    assert np.array_equal(maker(np.random.default_rng(3), 64), made[3])
    assert all(not np.array_equal(made[0], other) for other in made[1:])


def test_a_crop_of_scale_1_is_the_tile_itself(bank: TextureBank) -> None:
    tile = pattern(np.random.default_rng([0, 4, 5]), TILE_SIZE)
    found = crops(bank, [5], (TILE_SIZE, TILE_SIZE))[0]
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - stepped(tile)).max() < 1e-6
    moved = crops(bank, [5], (20, 30), origin=(0.25, 0.5))[0].numpy()
    assert np.abs(moved - stepped(tile)[64:84, 128:158]).max() < 1e-6


@pytest.mark.parametrize("shape", [SHAPE, (17, 43)])
def test_crops_are_those_of_plain_interpolation(bank: TextureBank, shape: tuple[int, int]) -> None:
    rows = random_rows(60)
    rows["scale"] = np.clip(rows["scale"], 0.2, 1.2) / np.sqrt(rows["aspect"])  # at the tile's own size
    found = crops(bank, [9] * 60, shape, **rows).numpy()
    tile = stepped(pattern(np.random.default_rng([0, 4, 9]), TILE_SIZE))
    down, across = np.arange(shape[0])[:, None], np.arange(shape[1])
    for row in range(60):
        step, cos, sin = rows["scale"][row], np.cos(rows["angle"][row]), np.sin(rows["angle"][row])
        far = across * rows["aspect"][row]
        y = rows["origin"][row, 0] * TILE_SIZE + step * (cos * down + sin * far)
        x = rows["origin"][row, 1] * TILE_SIZE + step * (cos * far - sin * down)
        # Weights have 8 bits, and a position is off by up to 1/650 of a pixel at the far end.
        assert np.abs(found[row] - looked_up(tile, y, x)).max() < 6 * STEP


@pytest.mark.parametrize(("scale", "block"), [(2.0, 2), (4.0, 4), (8.0, 8)])
def test_crops_from_far_away_are_means_and_not_picks(
    bank: TextureBank, tiles: np.ndarray, scale: float, block: int
) -> None:
    size = TILE_SIZE // block
    found = crops(bank, list(range(COUNT)), (size, size), scale=scale).numpy()
    means = tiles.reshape(COUNT, size, block, size, block).mean(axis=(2, 4))
    assert np.abs(found - means).max() < 2 * STEP
    assert np.abs(found - tiles[:, ::block, ::block]).max() > 0.5


SIZE = 64


def photograph(path: Path, size: tuple[int, int] = (200, 150), seed: int = 0, low: int = 0, high: int = 255) -> Path:
    """Smooth random greys, from ``low`` to ``high``."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(low, high + 1, (12, 16), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(path)
    return path


def take(folder: Path, count: int = 8, seed: int = 0) -> np.ndarray:
    return np.stack(background_tiles((str(folder),), count, SIZE, np.random.default_rng(seed)))


def test_parts_are_upright_grey_and_of_many_scales(tmp_path: Path) -> None:
    # Dark above and light below, stored lying on its side with the orientation that says so.
    slope = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[:, None], 400, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(slope).rotate(90).convert("RGB").save(tmp_path / "photo.jpg", exif=exif, quality=95)
    tiles = take(tmp_path, 30)
    rises = tiles[:, -1].mean(axis=1) - tiles[:, 0].mean(axis=1)
    assert rises.min() > 0.25 * 255
    assert rises.max() > 2 * rises.min()
    assert np.abs(np.diff(tiles.astype(int), axis=2)).max() < 8


def test_parts_of_all_images_and_none_twice(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"deep{number}" / "er" / "photo.jpg", seed=number, low=60 * number, high=60 * number + 50)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    tiles = take(tmp_path, 8)
    assert (tiles.shape, tiles.dtype) == ((8, SIZE, SIZE), np.uint8)
    assert sorted(int(tile.mean()) // 60 for tile in tiles) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(np.unique(tiles.reshape(8, -1), axis=0)) == 8
    assert min(tile.std() for tile in tiles) >= MIN_DEVIATION
    assert np.array_equal(take(tmp_path, 8), tiles)
    assert not np.array_equal(take(tmp_path, 8, seed=1), tiles)


def test_images_take_their_share_and_what_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, tiles: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    good = photograph(tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    photograph(tmp_path / "icon.png", (16, 16))
    Image.new("L", (100, 100), 77).save(tmp_path / "sky.png")
    (tmp_path / ".hidden").write_text("left by a file manager")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")  # is not waited for
    with caplog.at_level(logging.WARNING):
        found = whole(make(12, backgrounds=(str(tmp_path),), background_share=0.5))
    assert np.array_equal(found[:6], tiles[:6])
    assert min(tile.std() for tile in found[6:]) > 0.25
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("style.backgrounds: left out 5 files (")
    assert all(f"1 {reason}" in message for reason in ("not_an_image", "empty", "truncated", "too_small", "flat"))
    assert message.count(str(tmp_path)) == 3  # examples, by path


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", r"style\.backgrounds: .*nowhere: no such folder"),
        ("good.png", "no such folder"),
        ("empty", r"style\.backgrounds: .*empty: holds no file"),
        ("texts", r"no image in .* can be used \(2 not_an_image: .*\.txt: "),
    ],
)
def test_folders_without_one_good_image_are_refused(tmp_path: Path, folder: str, said: str) -> None:
    photograph(tmp_path / "good.png")
    (tmp_path / "empty" / "within").mkdir(parents=True)
    (tmp_path / "texts").mkdir()
    for name in ("notes.txt", "more.txt"):
        (tmp_path / "texts" / name).write_text("not an image")
    with pytest.raises(ConfigError, match=said):
        take(tmp_path / folder)

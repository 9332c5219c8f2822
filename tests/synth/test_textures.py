"""The bank of textures: what its tiles are, and that a crop is the part of the tile that was asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crnn.config.synth import StyleConfig
from crnn.synth.patterns import PATTERNS, normalize, pattern
from crnn.synth.textures import TILE_SIZE, TextureBank

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


# --- tiles -----------------------------------------------------------------------------------------------------------


def test_tiles_differ_and_none_is_flat(tiles: np.ndarray) -> None:
    assert len(tiles) == COUNT
    assert tiles.min() >= -1.0
    assert tiles.max() <= 1.0
    flat = tiles.reshape(COUNT, -1)
    assert np.abs(flat.mean(axis=1)).max() < 0.1
    assert 0.3 < flat.std(axis=1).min() <= flat.std(axis=1).max() < 0.45
    likeness = np.corrcoef(flat) - np.eye(COUNT)
    assert np.abs(likeness).max() < 0.9  # two lights from the same side are alike, and no more


@pytest.mark.parametrize("place", range(len(PATTERNS)), ids=[maker.__name__ for maker, _ in PATTERNS])
def test_every_pattern_varies_and_is_never_flat(place: int) -> None:
    maker = PATTERNS[place][0]
    made = [maker(np.random.default_rng(seed), 64) for seed in range(12)]
    for tile in made:
        assert tile.shape == (64, 64)
        assert tile.dtype == np.float32
        assert np.isfinite(tile).all()
        assert normalize(tile).std() > 0.25
    again = maker(np.random.default_rng(3), 64)
    assert np.array_equal(again, made[3])
    assert all(not np.array_equal(made[0], other) for other in made[1:])


def test_a_bank_has_surfaces_of_every_fineness() -> None:
    made = [pattern(np.random.default_rng(seed), 128) for seed in range(60)]
    fine = np.array([np.abs(np.diff(tile, axis=1)).mean() / tile.std() for tile in made])
    assert np.quantile(fine, 0.15) < 0.06  # light, things out of focus
    assert np.quantile(fine, 0.85) > 0.25  # cloth, gravel, leaves


def test_seed_and_number_decide_a_tile(tiles: np.ndarray) -> None:
    assert np.array_equal(whole(make(6)), tiles[:6])
    assert all(not np.array_equal(one, two) for one, two in zip(whole(make(6, seed=1)), tiles, strict=False))


def test_memory_is_what_the_setting_says(bank: TextureBank) -> None:
    held = sum(value.nbytes for value in vars(bank).values() if isinstance(value, torch.Tensor))
    assert held <= 350_000 * COUNT


# --- crops -----------------------------------------------------------------------------------------------------------


def test_a_crop_of_scale_1_is_the_tile_itself(bank: TextureBank) -> None:
    tile = pattern(np.random.default_rng([0, 4, 5]), TILE_SIZE)
    found = crops(bank, [5], (TILE_SIZE, TILE_SIZE))[0]
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - stepped(tile)).max() < 1e-6
    moved = crops(bank, [5], (20, 30), origin=(0.25, 0.5))[0].numpy()
    assert np.abs(moved - stepped(tile)[64:84, 128:158]).max() < 1e-6


def test_behind_its_edges_a_tile_goes_on_mirrored(bank: TextureBank) -> None:
    found = crops(bank, [7], (2 * TILE_SIZE + 50, 2 * TILE_SIZE + 20))[0].numpy()
    wide = 2 * TILE_SIZE
    tile = found[:TILE_SIZE, :TILE_SIZE]
    back = [TILE_SIZE - 1, *range(TILE_SIZE - 1, 0, -1)]  # the edge is the last pixel's, on both sides
    # Weights have 8 bits: the way back is off by 1/256 of a pixel.
    assert np.abs(found[TILE_SIZE:wide, :TILE_SIZE] - tile[back]).max() < 2 * STEP
    assert np.abs(found[:TILE_SIZE, TILE_SIZE:wide] - tile[:, back]).max() < 2 * STEP
    assert np.abs(found[wide:, :TILE_SIZE] - tile[:50]).max() < 1e-6
    assert np.abs(found[:TILE_SIZE, wide:] - tile[:, :20]).max() < 1e-6


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


def test_a_quarter_turn_turns_the_crop(bank: TextureBank) -> None:
    upright = crops(bank, [3], (40, 40), origin=(0.25, 0.25))[0].numpy()
    turned = crops(bank, [3], (40, 40), origin=(0.25, 0.25 + 39 / TILE_SIZE), angle=np.pi / 2)[0].numpy()
    assert np.abs(turned - np.rot90(upright)).max() < 2 * STEP


@pytest.mark.parametrize(("scale", "block"), [(2.0, 2), (4.0, 4), (8.0, 8)])
def test_crops_from_far_away_are_means_and_not_picks(
    bank: TextureBank, tiles: np.ndarray, scale: float, block: int
) -> None:
    size = TILE_SIZE // block
    found = crops(bank, list(range(COUNT)), (size, size), scale=scale).numpy()
    means = tiles.reshape(COUNT, size, block, size, block).mean(axis=(2, 4))
    assert np.abs(found - means).max() < 2 * STEP
    assert np.abs(found - tiles[:, ::block, ::block]).max() > 0.5


def test_aspect_shrinks_across_only(bank: TextureBank, tiles: np.ndarray) -> None:
    found = crops(bank, [2], (50, 40), scale=0.7, aspect=2.0)[0].numpy()
    down, across = np.arange(50)[:, None] * 0.7 + np.zeros((1, 40)), np.arange(40) * 1.4 + np.zeros((50, 1))
    assert np.abs(found - looked_up(tiles[2], down, across)).max() < 6 * STEP


def test_the_farthest_crops_are_still_crops(bank: TextureBank) -> None:
    found = crops(bank, [0, 1, 2], scale=[1e-3, 100.0, 5000.0], aspect=[0.01, 1.0, 30.0]).numpy()
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.0
    assert found[0].std() < 0.3


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (7, 13), (32, 333)])
def test_a_crop_is_the_same_alone_and_in_a_batch(bank: TextureBank, shape: tuple[int, int]) -> None:
    rows, tiles = random_rows(64, seed=4), [number % COUNT for number in range(64)]
    together = crops(bank, tiles, shape, **rows)
    assert together.shape == (64, *shape)
    for row in (0, 5, 6, 19, 20, 41, 63):
        part = {name: values[row : row + 1] for name, values in rows.items()}
        assert torch.equal(together[row], crops(bank, tiles[row : row + 1], shape, **part)[0])


def test_no_crops(bank: TextureBank) -> None:
    assert crops(bank, [], origin=np.zeros((0, 2))).shape == (0, *SHAPE)


def test_what_is_given_is_left_alone(bank: TextureBank) -> None:
    rows = random_rows(8)
    before = {name: values.copy() for name, values in rows.items()}
    first = crops(bank, list(range(8)), **rows)
    assert all(np.array_equal(rows[name], before[name]) for name in rows)
    assert torch.equal(first, crops(bank, list(range(8)), **rows))


# --- images among them ---------------------------------------------------------------------------------------------


def test_images_take_their_share(tmp_path: Path, tiles: np.ndarray) -> None:
    for number in range(5):
        pixels = np.zeros((120, 160), dtype=np.uint8)
        pixels[:, : 50 + 12 * number] = 200
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    mixed = make(12, backgrounds=(str(tmp_path),), background_share=0.5)
    found = whole(mixed)
    assert np.array_equal(found[:6], tiles[:6])
    for tile in found[6:]:
        assert tile.std() > 0.3
        assert np.abs(tile.mean(axis=0) - tile).max() < 2 * STEP  # columns of one grey
    assert mixed.skipped == {"too_small": 1}
    assert np.array_equal(found, whole(make(12, backgrounds=(str(tmp_path),), background_share=0.5)))


def test_a_share_of_no_images_opens_no_folder(tiles: np.ndarray) -> None:
    assert np.array_equal(whole(make(3, backgrounds=("nowhere",), background_share=0.0)), tiles[:3])

"""Textures from the user's images: what is taken, what is left out and said, and what is refused."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn.errors import ConfigError
from crnn.synth import textures as backgrounds
from crnn.synth.textures import MIN_DEVIATION, background_tiles

SIZE = 64


def photograph(path: Path, size: tuple[int, int] = (200, 150), seed: int = 0, low: int = 0, high: int = 255) -> Path:
    """Smooth random greys, from ``low`` to ``high``."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(low, high + 1, (12, 16), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(path)
    return path


def take(folder: Path, count: int = 8, seed: int = 0) -> tuple[np.ndarray, dict[str, int]]:
    tiles, skipped = background_tiles((str(folder),), count, SIZE, np.random.default_rng(seed))
    return tiles, dict(skipped)


def test_parts_of_all_images_and_none_twice(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"deep{number}" / "er" / "photo.jpg", seed=number, low=60 * number, high=60 * number + 50)
    tiles, skipped = take(tmp_path, 8)
    assert tiles.shape == (8, SIZE, SIZE)
    assert tiles.dtype == np.uint8
    assert skipped == {}
    assert sorted(int(tile.mean()) // 60 for tile in tiles) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(np.unique(tiles.reshape(8, -1), axis=0)) == 8
    assert min(tile.std() for tile in tiles) >= MIN_DEVIATION


def test_more_images_than_parts_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        photograph(tmp_path / f"{number}.png", (80, 80), seed=number)
    opened: list[str] = []
    read = backgrounds.read_image_file
    monkeypatch.setattr(backgrounds, "read_image_file", lambda name: opened.append(name) or read(name))
    take(tmp_path, 5)
    assert len(set(opened)) == len(opened) == 5
    assert sorted(opened) != sorted(map(str, tmp_path.iterdir()))[:5]  # a random five


def test_seed_and_images_decide_the_parts(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"{number}.png", seed=number)
    assert np.array_equal(take(tmp_path)[0], take(tmp_path)[0])
    assert not np.array_equal(take(tmp_path)[0], take(tmp_path, seed=1)[0])


def test_parts_are_upright_grey_and_of_many_scales(tmp_path: Path) -> None:
    # Dark above and light below, stored lying on its side with the orientation that says so.
    slope = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[:, None], 400, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(slope).rotate(90).convert("RGB").save(tmp_path / "photo.jpg", exif=exif, quality=95)
    tiles, _ = take(tmp_path, 30)
    rises = tiles[:, -1].mean(axis=1) - tiles[:, 0].mean(axis=1)
    assert rises.min() > 0.25 * 255
    assert rises.max() > 2 * rises.min()
    assert np.abs(np.diff(tiles.astype(int), axis=2)).max() < 8


def test_huge_jpeg_files_are_decoded_at_a_fraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(tmp_path / "photo.jpg", (4200, 4200))
    decoded: list[tuple[int, ...]] = []
    load = backgrounds.load_image

    def watched(source: object, channels: int) -> np.ndarray:
        pixels = load(source, channels)
        decoded.append(pixels.shape)
        return pixels

    monkeypatch.setattr(backgrounds, "load_image", watched)
    take(tmp_path, 2)
    assert decoded == [(1050, 1050, 1)]


def test_what_cannot_be_used_is_counted_and_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = photograph(tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    photograph(tmp_path / "icon.png", (16, 16))
    Image.new("L", (100, 100), 77).save(tmp_path / "sky.png")
    (tmp_path / ".hidden").write_text("left by a file manager")
    with caplog.at_level(logging.WARNING):
        tiles, skipped = take(tmp_path, 6)
    assert len(tiles) == 6
    assert skipped == {"not_an_image": 1, "empty": 1, "truncated": 1, "too_small": 1, "flat": 1}
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert message.startswith("style.backgrounds: left out 5 files (")
    assert "1 truncated" in message
    assert message.count(str(tmp_path)) == 3  # examples, by path


def test_nothing_is_said_where_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photograph(tmp_path / "good.png")
    take(tmp_path)
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    photograph(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert take(tmp_path)[1] == {}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    photograph(tmp_path / "good.png")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert take(tmp_path)[1] == {}


def test_of_too_many_files_the_first_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backgrounds, "MAX_LISTED", 3)
    for name in "abc":
        photograph(tmp_path / name / "photo.png", low=0, high=40)
    for name in "de":
        photograph(tmp_path / name / "photo.png", low=200, high=255)
    tiles, _ = take(tmp_path, 20)
    assert tiles.max() < 100
    assert "more than 3 files" in caplog.text


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"style\.backgrounds: .*nowhere: no such folder"):
        take(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        take(photograph(tmp_path / "photo.png"))


def test_an_empty_folder_is_an_error_also_beside_a_full_one(tmp_path: Path) -> None:
    photograph(tmp_path / "full" / "photo.png")
    (tmp_path / "empty" / "within").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"style\.backgrounds: .*empty: holds no file") as caught:
        background_tiles((str(tmp_path / "full"), str(tmp_path / "empty")), 4, SIZE, np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_a_folder_without_one_good_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "more.txt").write_text("not an image")
    with pytest.raises(ConfigError, match=r"no image in .* can be used \(2 not_an_image: .*\.txt: ") as caught:
        take(tmp_path)
    assert "\n" not in str(caught.value)

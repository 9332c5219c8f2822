"""JPEG on pixels: what libjpeg does, for any grid and size of blocks."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from crnn.synth.filters import blur
from crnn.synth.jpeg import jpeg

UNMOVED = np.zeros((1, 2), dtype=np.int64)


def drawn(count, channels=1, height=32, width=100):
    """Words in grey on grey, ``(count, channels, height, width)``."""
    images = []
    for number in range(count):
        canvas = Image.new("L", (width, height), 200 - 5 * number)
        ImageDraw.Draw(canvas).text((4 + number, 1), "Reading", 40 + 7 * number, font=ImageFont.load_default(24))
        grey = np.asarray(canvas, np.float32) / 255
        images.append(np.stack([grey * (1 - 0.2 * channel) for channel in range(channels)]))
    return torch.from_numpy(np.stack(images))


def stored_by_pillow(image, quality):
    """``(C, H, W)`` in [0, 1], through a file."""
    levels = (image.numpy() * 255).round().astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    stored = np.asarray(Image.open(file), np.float32) / 255
    return torch.from_numpy(stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 50, 95])
def test_jpeg_is_what_pillow_writes_and_reads(channels, quality):
    rng = np.random.default_rng(quality)
    images = drawn(8, channels, width=96)
    images = (images + torch.from_numpy(rng.normal(0, 4 / 255, images.shape).astype(np.float32))).clamp(0, 1)
    images = images.mul(255).round().div(255)
    unmoved = UNMOVED.repeat(8, axis=0)
    ours = jpeg(images, np.full(8, quality), unmoved, unmoved)
    theirs = torch.stack([stored_by_pillow(image, quality) for image in images])
    # Now and then a coefficient lies so near the middle between two steps that libjpeg's integers round it elsewhere.
    change, difference = (images - theirs).abs().mean(), (ours - theirs).abs()
    assert difference.mean() * 255 < 1
    assert difference.mean() < 0.3 * change
    assert (difference * 255 < 2.5).float().mean() > 0.93


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("cut", [3, 8, 13])
def test_the_grid_of_jpeg_moves_with_the_crop(axis, cut):
    whole = drawn(1, height=48, width=48)
    shift = UNMOVED.copy()
    shift[0, axis - 2] = cut % 8
    found = jpeg(whole.narrow(axis, cut, 32), np.array([20]), shift, UNMOVED)
    expected = jpeg(whole, np.array([20]), UNMOVED, UNMOVED).narrow(axis, cut, 32)
    # Blocks that lie in the crop as a whole are the same.
    assert torch.equal(found.narrow(axis, -cut % 8, 24), expected.narrow(axis, -cut % 8, 24))


@pytest.mark.parametrize(("finer", "block"), [((0, 0), (8, 8)), ((1, 0), (4, 8)), ((1, 2), (4, 2)), ((2, 2), (2, 2))])
def test_blocks_of_larger_files_are_smaller(finer, block):
    image = torch.full((1, 1, 32, 96), 0.5)
    image[..., 9, 21] = 1.0
    # Rounding smears the point over its block and no further.
    changed = jpeg(image, np.array([70]), UNMOVED, np.array([finer])) != 128 / 255
    rows, columns = changed[0, 0].any(dim=1).nonzero().flatten(), changed[0, 0].any(dim=0).nonzero().flatten()
    top, left = 9 // block[0] * block[0], 21 // block[1] * block[1]
    assert top <= rows.min() <= rows.max() < top + block[0]
    assert left <= columns.min() <= columns.max() < left + block[1]


def cosines(size):
    k = np.arange(size)
    matrix = np.cos(np.pi * np.outer(k, 2 * k + 1) / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def test_jpeg_of_a_file_twice_as_large_keeps_the_same_coefficients():
    # Blocks of 4 enlarged to blocks of 8 that have the same coefficients and no more, so nothing but rounding differs.
    image = blur(drawn(1, width=96), np.full((1, 2), 0.8), np.zeros((1, 2))) * 0.5 + 0.25
    blocks = image[0, 0].double().numpy().reshape(8, 4, 24, 4).transpose(0, 2, 1, 3)
    enlarging = 2**0.5 * cosines(8)[:4].T @ cosines(4)  # (8, 4)
    large = (enlarging @ blocks @ enlarging.T).transpose(0, 2, 1, 3).reshape(1, 1, 64, 192)
    # At quality 25 all steps are even, so that half of each is a whole number.
    stored = jpeg(torch.from_numpy(large.astype(np.float32)), np.array([25]), UNMOVED, UNMOVED)
    stored = stored[0, 0].double().numpy().reshape(8, 8, 24, 8).transpose(0, 2, 1, 3)
    expected = (enlarging.T @ stored @ enlarging / 4).transpose(0, 2, 1, 3).reshape(32, 96)
    found = jpeg(image, np.array([25]), UNMOVED, UNMOVED + 1)[0, 0].double().numpy()
    own, other = (one - image[0, 0].numpy() for one in (found, expected))
    assert np.abs(own).mean() * 255 > 1
    assert np.abs(own - other).mean() < 0.4 * np.abs(own).mean()
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.75

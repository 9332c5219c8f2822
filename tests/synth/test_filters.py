"""Noise by counter: its numbers, and that nothing but seed and place decides them; blur and sizes of images."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image

from crnn.synth.filters import MAX_SIGMA, blur, enlarge, hash_normal, hash_uniform, shrink, smooth_noise

SHAPE = (32, 100)
POINT = torch.zeros(1, 1, 41, 41)
POINT[..., 20, 20] = 1


def numbers(start: int, count: int) -> torch.Tensor:
    return torch.arange(start, start + count, dtype=torch.int64)


def lowbias32(word: int) -> int:
    word ^= word >> 16
    word = word * 0x7FEB352D % 2**32
    word ^= word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ word >> 16


def mixed(word: int) -> int:
    return lowbias32((word + 0x9E3779B9) % 2**32)


def word_of(seed: int, counter: int) -> int:
    key = mixed(mixed(seed % 2**32) ^ seed >> 32)
    return lowbias32((key + mixed(counter)) % 2**32)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 7, 2**63 - 1])
def test_uniform_numbers_are_the_hash_in_plain_integers(seed: int) -> None:
    found = hash_uniform(torch.tensor([seed]), (2, 3, 5)).flatten()
    assert found.dtype == torch.float32
    assert found.tolist() == [(word_of(seed, counter) >> 8) / 2**24 for counter in range(30)]


def test_normal_numbers_are_quantiles_chosen_by_bytes() -> None:
    middles = [NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)]
    spread = math.sqrt(sum(value**2 for value in middles) / 256)
    data = b"".join(word_of(3, 2**30 + counter).to_bytes(4, "little") for counter in range(3))
    expected = [middles[byte] / spread for byte in data[:10]]  # the last two bytes are not needed
    assert hash_normal(torch.tensor([3]), (2, 5)).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_field_is_the_blend_of_its_corners() -> None:
    seed = 11
    corners = [2 * (word_of(seed, 2**31 + number) >> 8) / 2**24 - 1 for number in range(6)]
    field = smooth_noise(torch.tensor([seed]), (1, 2), (4, 6))[0]
    for y, x in itertools.product(range(4), range(6)):
        down, across = (y + 0.5) / 4, (x + 0.5) / 3
        left = int(across)
        weights = [t * t * (3 - 2 * t) for t in (down, across - left)]
        upper = corners[left] + (corners[left + 1] - corners[left]) * weights[1]
        lower = corners[3 + left] + (corners[4 + left] - corners[3 + left]) * weights[1]
        assert float(field[y, x]) == pytest.approx(upper + (lower - upper) * weights[0], abs=1e-6)


@pytest.mark.parametrize("sigma", [(0.8, 0.8), (1.5, 1.5), (0.7, 2.4), (2.8, 0.6)])
def test_a_gaussian_blur_has_the_sigma_that_is_stated(sigma):
    spread = blur(POINT, np.array([sigma]), np.zeros((1, 2)))[0, 0].double()
    assert spread.sum() == 1
    places = torch.arange(41.0).double() - 20
    for axis in (0, 1):
        found = (spread.sum(dim=1 - axis) * places**2).sum().sqrt()
        assert abs(found - sigma[axis]) < 0.1 * sigma[axis]


def test_too_large_a_sigma_is_cut_off_and_blur_keeps_flat_images():
    images = torch.rand(2, 1, 32, 100)
    huge, most = (blur(images, np.full((2, 2), sigma), np.zeros((2, 2))) for sigma in (50.0, MAX_SIGMA))
    assert torch.equal(huge, most)
    flat = torch.full((2, 3, 8, 9), 512 / 1023)
    assert torch.equal(blur(flat, np.full((2, 2), 1.3), np.full((2, 2), 2.0)), flat)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_motion_goes_in_its_direction_as_far_as_is_stated(degrees):
    angle, length = np.radians(degrees), 8.0
    path = length * np.array([[np.sin(angle), np.cos(angle)]])
    smear = blur(POINT, np.zeros((1, 2)), path)[0, 0].double()
    down, across = (places.double() - 20 for places in torch.meshgrid(*[torch.arange(41)] * 2, indexing="ij"))
    along = down * np.sin(angle) + across * np.cos(angle)
    neighbors = across * np.sin(angle) - down * np.cos(angle)
    assert abs((smear * along**2).sum().sqrt() - length / np.sqrt(12)) < 0.6
    assert (smear * neighbors**2).sum().sqrt() < 0.8
    # One line, not a row of dots: seen from its side, no place on it is empty.
    step = 1.0 if degrees % 90 == 0 else np.sqrt(2)
    profile = [(smear * ((along / step).round() == place)).sum() for place in range(-2, 3)]
    assert min(profile) > 0.5 * max(profile)


def test_shrinking_and_enlarging_to_the_same_size_changes_nothing():
    images = torch.rand(3, 3, 32, 37)
    size = np.tile([32, 37], (3, 1))
    assert torch.equal(shrink(images, size), images)
    assert torch.equal(enlarge(images, size, np.array([0, 1, 2])), images)


def test_shrinking_samples_a_slope_at_the_middles_of_the_new_pixels_and_enlarging_restores_it():
    slope = torch.linspace(0, 1, 101)[:-1].add(0.005).expand(3, 1, 32, 100)
    size = np.array([[16, 50], [11, 23], [32, 71]])
    small = shrink(slope, size)
    for row, (height, width) in enumerate(size):
        expected = (torch.arange(width) + 0.5) / width
        assert torch.allclose(small[row, 0, :height, :width], expected.expand(height, -1), atol=1e-5)
        assert torch.equal(small[row, 0, height:], small[row, 0, height - 1 : height].expand(32 - height, -1))
    large = enlarge(small, size, np.array([0, 1, 1]))
    inner = slice(8, -8)
    assert torch.allclose(large[..., inner], slope[..., inner], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "resample"), [(0, Image.Resampling.BICUBIC), (1, Image.Resampling.BILINEAR), (2, Image.Resampling.NEAREST)]
)
def test_enlarging_is_what_pillow_does(kind, resample):
    rng = np.random.default_rng(1)
    small = rng.random((13, 41)).astype(np.float32)
    part = torch.zeros(1, 1, 32, 100)
    part[0, 0, :13, :41] = torch.from_numpy(small)
    found = enlarge(part, np.array([[13, 41]]), np.array([kind]))[0, 0].numpy()
    expected = np.asarray(Image.fromarray(small).resize((100, 32), resample))
    # Pillow shortens the kernel at the edge, we repeat the edge's pixels.
    edge = (slice(4, -4), slice(4, -4))
    assert np.abs(found - expected)[edge].max() < 1e-5


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_enlarging_looks_at_the_part_only(kind):
    images = torch.zeros(1, 3, 32, 100)
    images[..., 13:, :] = images[..., 41:] = float("nan")
    assert torch.equal(enlarge(images, np.array([[13, 41]]), np.array([kind])), torch.zeros(1, 3, 32, 100))

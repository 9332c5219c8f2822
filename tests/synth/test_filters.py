"""Noise by counter: its numbers, that they are random enough, and that nothing but seed and place decides them."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from crnn.synth.filters import hash_normal, hash_uniform, smooth_noise

SHAPE = (32, 100)


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


def chi_square(counts: np.ndarray) -> float:
    """How many standard deviations the statistic is from what even counts give."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


# --- the numbers -----------------------------------------------------------------------------------------------------


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


# --- random enough ---------------------------------------------------------------------------------------------------


def test_uniform_numbers_are_uniform() -> None:
    found = hash_uniform(numbers(0, 256), SHAPE).numpy()
    assert 0.0 <= found.min() < 1e-5
    assert 1.0 - 1e-5 < found.max() < 1.0
    counts = np.bincount((found.ravel() * 1024).astype(int), minlength=1024)
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("shift", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1)])
def test_neighbouring_places_and_seeds_are_independent(shift: tuple[int, int, int]) -> None:
    found = (hash_uniform(numbers(40, 128), SHAPE).numpy() * 32).astype(int)
    later = found[tuple(slice(step, None) for step in shift)]
    earlier = found[tuple(slice(0, size - step) for step, size in zip(shift, found.shape, strict=True))]
    counts = np.bincount((later * 32 + earlier).ravel(), minlength=32 * 32)
    assert abs(chi_square(counts)) < 4


def test_a_change_of_one_bit_of_the_seed_changes_every_bit_half_the_time() -> None:
    bits = torch.tensor([0, *(1 << bit for bit in range(62))])
    words = (hash_uniform(bits, (4096,)).numpy() * 2**24).astype(np.int64)
    changed = (words[1:] ^ words[0])[..., None] >> np.arange(24) & 1
    assert np.abs(changed.mean(axis=1) - 0.5).max() < 0.04  # five standard errors


def test_no_two_seeds_share_their_noise() -> None:
    found = hash_uniform(numbers(0, 4096), (4,))
    assert len(found.unique(dim=0)) == 4096


def test_normal_numbers_are_normal() -> None:
    found = hash_normal(numbers(7, 256), SHAPE).double().flatten()
    assert abs(float(found.mean())) < 0.004
    assert float(found.std()) == pytest.approx(1.0, abs=0.003)
    assert abs(float((found**3).mean())) < 0.012
    assert float((found**4).mean()) == pytest.approx(2.92, abs=0.02)
    ordered, places = np.sort(found.numpy()), (np.arange(len(found)) + 0.5) / len(found)
    expected = np.array([NormalDist().cdf(value) for value in ordered[::1000]])
    assert np.abs(expected - places[::1000]).max() < 0.004


def test_neighbouring_normal_numbers_are_independent() -> None:
    found = hash_normal(numbers(7, 64), SHAPE).double()
    for later, earlier in ((found[..., 1:], found[..., :-1]), (found[:, 1:], found[:, :-1]), (found[1:], found[:-1])):
        assert abs(float((later * earlier).mean())) < 5 / math.sqrt(later.numel())


def test_the_functions_do_not_share_numbers() -> None:
    seeds = numbers(0, 64)
    uniform, normal = hash_uniform(seeds, (64, 64)) - 0.5, hash_normal(seeds, (64, 64))
    corners = smooth_noise(seeds, (64, 64), (65, 65))[:, :64, :64]
    for one, other in itertools.combinations((uniform, normal, corners), 2):
        assert abs(np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1]) < 0.01


# --- smooth fields ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(1, 1), (2, 4), (5, 3), (40, 120)])
@pytest.mark.parametrize("shape", [SHAPE, (31, 77), (1, 1)])
def test_a_field_stays_in_its_range(cells: tuple[int, int], shape: tuple[int, int]) -> None:
    field = smooth_noise(numbers(0, 50), cells, shape)
    assert field.shape == (50, *shape)
    assert field.dtype == torch.float32
    assert float(field.abs().max()) <= 1.0 + 1e-6


def test_a_field_is_smooth_and_spread_about_zero() -> None:
    field = smooth_noise(numbers(0, 2000), (2, 4), SHAPE)
    # The steepest that 3t^2 - 2t^3 gets is 1.5, between corners that differ by 2.
    assert float(field.diff(dim=2).abs().max()) < 1.5 * 2 * 4 / 100
    assert float(field.diff(dim=1).abs().max()) < 1.5 * 2 * 2 / 32
    assert abs(float(field.mean())) < 0.01
    assert float(field.std()) == pytest.approx(0.43, abs=0.02)


def test_a_field_has_as_many_cells_as_asked_for() -> None:
    # A field of k cells is flat at its k + 1 corners and nowhere else in general.
    field = smooth_noise(numbers(0, 300), (1, 5), (8, 200)).double()
    steepness = field.diff(dim=2).abs().mean(dim=(0, 1))
    dips = [place for place in range(1, 198) if steepness[place] < min(steepness[place - 1], steepness[place + 1])]
    assert dips == pytest.approx([39, 79, 119, 159], abs=1)


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


# --- batches ---------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "uniform": hash_uniform,
    "normal": hash_normal,
    "smooth": lambda seeds, shape: smooth_noise(seeds, (3, 5), shape),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [SHAPE, (7, 13), (1, 1), (300, 400)])
def test_a_sample_is_the_same_alone_and_in_a_batch(name: str, shape: tuple[int, int]) -> None:
    seeds = numbers(1000, 64) * 77_777_777
    together = FUNCTIONS[name](seeds, shape)
    for row in (0, 20, 21, 41, 63):  # about where blocks of rows begin and end
        assert torch.equal(together[row], FUNCTIONS[name](seeds[row : row + 1], shape)[0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_samples_and_strided_seeds(name: str) -> None:
    assert FUNCTIONS[name](numbers(0, 0), (4, 6)).shape == (0, 4, 6)
    assert torch.equal(FUNCTIONS[name](numbers(0, 9)[::2], (4, 6)), FUNCTIONS[name](numbers(0, 9), (4, 6))[::2])


def test_one_number_per_seed() -> None:
    seeds = numbers(0, 5)
    assert torch.equal(hash_uniform(seeds, ()), hash_uniform(seeds, (3,))[:, 0])
    assert hash_normal(seeds, ()).shape == (5,)
    assert hash_uniform(seeds, (0, 4)).shape == (5, 0, 4)


def test_seeds_are_left_alone() -> None:
    seeds = numbers(5, 4)
    for function in FUNCTIONS.values():
        function(seeds, (3, 3))
    assert torch.equal(seeds, numbers(5, 4))

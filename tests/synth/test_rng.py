"""Random numbers by name: pure functions of seed, index and name, in whatever company they are drawn."""

import zlib
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.synth.rng import Choices, SampleRandom, WeightedChoice

MANY = 50_000
NAMES = ["slant", "slant strength", "camera/noise", "camera/noise/read", ""]

indices = st.lists(st.integers(0, 2**62), min_size=1, max_size=20)
seeds = st.integers(0, 2**32 - 1)


def mixed(word: int) -> int:
    """SplitMix64 in whole numbers."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def random(count: int = MANY, seed: int = 1, first: int = 0) -> SampleRandom:
    return SampleRandom(seed, np.arange(first, first + count, dtype=np.int64))


@settings(max_examples=40)
@given(seed=seeds, index=st.integers(0, 2**62), name=st.text(max_size=20))
def test_the_bits_are_those_of_the_published_function(seed: int, index: int, name: str) -> None:
    """Written again with Python's whole numbers, so that images stay what they are from version to version."""
    key = mixed((mixed(seed) + index * 0x9E3779B97F4A7C15) % 2**64)
    code = mixed(zlib.crc32(name.encode()) << 32 | zlib.adler32(name.encode()))
    assert SampleRandom(seed, np.array([index])).bits(name).tolist() == [mixed((key + code) % 2**64)]


def test_splitmix64_is_the_published_one() -> None:
    """The first numbers that its authors' program gives for the seed 0."""
    gamma = 0x9E3779B97F4A7C15
    assert [mixed(i * gamma % 2**64) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def everything(some: SampleRandom) -> list[np.ndarray]:
    """One array of each kind of number."""
    return [
        some.bits("a"), some.seeds("a"), some.uniform("a"), some.uniform("a", -3.0, 5.0),
        some.log_uniform("a", 0.1, 10.0), some.signed("a", 2.0), some.normal("a", 1.0, 3.0), some.chance("a", 0.4),
        some.integers("a", 7), some.integers("a", some.indices % 5 + 1), some.choice("a", (1.0, 0.0, 2.5)),
    ]  # fmt: skip


@settings(max_examples=40)
@given(seed=seeds, numbers=indices, place=st.integers(0, 10**6))
def test_a_sample_has_the_same_numbers_alone_and_among_others(seed: int, numbers: list[int], place: int) -> None:
    row = place % len(numbers)
    together = everything(SampleRandom(seed, np.array(numbers)))
    alone = everything(SampleRandom(seed, np.array([numbers[row]])))
    backwards = everything(SampleRandom(seed, np.array(numbers[::-1])))
    for one, other, turned in zip(together, alone, backwards, strict=True):
        assert one.shape == (len(numbers),)
        assert one[row] == other[0]
        assert (one == turned[::-1]).all()


def test_rows_have_the_numbers_that_they_have_in_the_whole() -> None:
    whole = random(100)
    chosen = np.array([7, 3, 99, 7])
    flags = whole.chance("some", 0.3)
    for rows, places in ((chosen, chosen), (flags, np.flatnonzero(flags))):
        part = whole.rows(rows)
        assert len(part) == len(places)
        assert (part.indices == places).all()
        assert part.seed == whole.seed
        for one, other in zip(everything(part), everything(whole), strict=True):
            assert (one == other[places]).all()
    assert (part.rows(np.array([0])).uniform("x") == whole.uniform("x")[places[:1]]).all()
    assert all(array.shape == (0,) for array in everything(random(0)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [0, 10**12])
def test_numbers_are_uniform(name: str, first: int) -> None:
    """Kolmogorov's and Smirnov's distance, below what one in a thousand has by chance."""
    unit = np.sort(random(first=first).uniform(name))
    steps = np.arange(MANY) / MANY
    assert unit[0] >= 0.0
    assert unit[-1] < 1.0
    assert max(np.abs(unit - steps).max(), np.abs(unit - steps - 1.0 / MANY).max()) < 1.95 / np.sqrt(MANY)


def test_names_seeds_and_neighbours_are_independent() -> None:
    columns = [random().uniform(name) for name in NAMES]
    columns += [random(seed=2).uniform(NAMES[0]), random(first=1).uniform("slant strength")]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(MANY)


def test_distributions() -> None:
    some = random()
    high = np.linspace(3.0, 5.0, MANY)
    assert ((some.uniform("x", 2.0, high) >= 2.0) & (some.uniform("x", 2.0, high) < high)).all()
    assert np.abs(some.signed("x", 0.5)).max() <= 0.5
    logs = np.log(some.log_uniform("x", 0.01, 100.0))
    assert (logs.min(), logs.max(), logs.mean()) == pytest.approx((np.log(0.01), np.log(100.0), 0.0), abs=0.05)
    normal = np.sort(some.normal("x", 5.0, 2.0))
    assert np.isfinite(normal).all()
    for share in (0.001, 0.02, 0.3, 0.5, 0.9, 0.999):
        assert NormalDist(5.0, 2.0).cdf(normal[int(share * MANY)]) == pytest.approx(share, abs=0.01)
    assert [some.chance("x", share).mean() for share in (0.0, 0.25, 1.0)] == pytest.approx([0.0, 0.25, 1.0], abs=0.01)
    assert (some.chance("x", 0.2) <= some.chance("x", 0.3)).all(), "a larger share keeps those of a smaller one"
    seeds = some.seeds("x")
    assert (seeds.dtype, seeds.min() >= 0, seeds.max() < 2**31) == (np.int64, True, True)
    assert len(np.unique(seeds)) > MANY - 20


def test_whole_numbers_and_choices() -> None:
    some = random()
    assert np.bincount(some.integers("x", 7), minlength=7) == pytest.approx(np.full(7, MANY / 7), rel=0.05)
    counts = np.arange(MANY) % 9 + 1
    assert ((some.integers("x", counts) >= 0) & (some.integers("x", counts) < counts)).all()
    picked = some.choice("x", (3.0, 0.0, 1.0, 0.0))
    assert np.bincount(picked, minlength=4) / MANY == pytest.approx([0.75, 0.0, 0.25, 0.0], abs=0.01)


def test_choices_have_their_shares() -> None:
    choices = Choices(np.random.default_rng(5))
    weighted = WeightedChoice({"a": 3.0, "b": 1.0, "c": 0.0})
    counts = Counter(weighted.draw(choices) for _ in range(4000))
    assert {item: count / 4000 for item, count in counts.items()} == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.04)
    spread = Counter(choices.between(3, 5) for _ in range(3000))
    assert set(spread) == {3, 4, 5}
    assert min(spread.values()) > 850

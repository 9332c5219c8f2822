"""Random numbers by name for samples by number, and random choices from numpy's generators."""

from __future__ import annotations

import bisect
import copy
import functools
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SampleRandom:
    """Counter-based random numbers for N samples, each a function of seed, index and name alone.

    So samples are the same in any batch, rank or process, effects are independent, and there is no state to save.
    Mixing is SplitMix64's (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
    """

    _without: frozenset[str] = frozenset()
    _where: npt.NDArray[np.bool_] | None = None

    def __init__(self, seed: int, indices: npt.NDArray[np.int64]) -> None:
        self.seed = seed
        self.indices = np.asarray(indices, dtype=np.int64)
        self._keys = _mix(_mix(np.full(self.indices.shape, seed, np.uint64)) + self.indices.astype(np.uint64) * _GOLDEN)

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> SampleRandom:
        """Return the same numbers for some of the samples."""
        some = copy.copy(self)
        some.indices, some._keys = self.indices[rows], self._keys[rows]
        some._where = None if self._where is None else self._where[rows]
        return some

    def without(self, names: frozenset[str], where: npt.NDArray[np.bool_]) -> SampleRandom:
        """Return the same numbers, with ``chance`` of these names false for the samples ``where``."""
        some = copy.copy(self)
        some._without, some._where = names, where
        return some

    def bits(self, name: str) -> npt.NDArray[np.uint64]:
        """Return ``(N,)`` uniform 64-bit words."""
        return _mix(self._keys + _code(name))

    def seeds(self, name: str) -> npt.NDArray[np.int64]:
        """Return seeds of pixel noise, ``(N,)`` int64 in [0, 2**31)."""
        return (self.bits(name) >> np.uint64(33)).astype(np.int64)

    def uniform(self, name: str, low: float | Floats = 0.0, high: float | Floats = 1.0) -> Floats:
        """Return ``(N,)`` float64 in [low, high)."""
        unit = (self.bits(name) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.asarray(low + (high - low) * unit)

    def log_uniform(self, name: str, low: float, high: float) -> Floats:
        """Return ``(N,)`` float64 in [low, high), uniform in the logarithm; both ends above 0."""
        return np.exp(self.uniform(name, np.log(low), np.log(high)))

    def signed(self, name: str, strength: float) -> Floats:
        """Return ``(N,)`` float64, uniform in [-strength, strength)."""
        return self.uniform(name, -strength, strength)

    def normal(self, name: str, mean: float = 0.0, deviation: float = 1.0) -> Floats:
        """Return ``(N,)`` float64, normally distributed (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(name + "/radius")))
        return np.asarray(mean + deviation * radius * np.cos(2.0 * np.pi * self.uniform(name + "/angle")))

    def chance(self, name: str, share: float) -> npt.NDArray[np.bool_]:
        """Return ``(N,)`` bool, true for ``share`` of the samples."""
        chosen = self.uniform(name) < share
        return chosen & ~self._where if self._where is not None and name in self._without else chosen

    def integers(self, name: str, count: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return ``(N,)`` int64 in [0, count)."""
        return np.asarray(np.minimum((self.uniform(name) * count).astype(np.int64), np.asarray(count) - 1))

    def choice(self, name: str, weights: Sequence[float]) -> npt.NDArray[np.int64]:
        """Return ``(N,)`` int64: positions in ``weights``, drawn in proportion to them."""
        ends = np.cumsum(np.asarray(weights, dtype=np.float64))
        places = np.searchsorted(ends, self.uniform(name) * ends[-1], side="right")
        return np.asarray(np.minimum(places, len(ends) - 1), dtype=np.int64)


@functools.lru_cache(maxsize=1024)
def _code(name: str) -> npt.NDArray[np.uint64]:
    """Hash a name to 64 bits, ``(1,)``."""
    # Two checksums, as 32 bits alone might collide among some hundred names.
    word = name.encode()
    return _mix(np.full(1, zlib.crc32(word) << 32 | zlib.adler32(word), np.uint64))


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix by SplitMix64: add the golden ratio, then its finaliser; wraps around by design."""
    z = words + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


T = TypeVar("T")

_BLOCK = 32


class Choices:
    """Random decisions from a numpy generator, read in whole blocks."""

    __slots__ = ("_numbers", "_rng")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers: list[float] = []

    def unit(self) -> float:
        """Draw uniformly from [0, 1)."""
        if not self._numbers:
            self._numbers = self._rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def chance(self, share: float) -> bool:
        """Return True for ``share`` of the calls."""
        return self.unit() < share

    def between(self, low: int, high: int) -> int:
        """Draw uniformly from ``low`` ... ``high``, both included."""
        return low + int(self.unit() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """Draw an item uniformly."""
        return items[int(self.unit() * len(items))]


class WeightedChoice(Generic[T]):
    """Items drawn in proportion to their weights; items of weight 0 are dropped."""

    __slots__ = ("_ends", "items")

    def __init__(self, items: Mapping[T, float] | Iterable[tuple[T, float]]) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        kept = [(item, weight) for item, weight in pairs if weight > 0.0]
        self.items = tuple(item for item, _ in kept)
        self._ends = list(itertools.accumulate(weight for _, weight in kept))

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, choices: Choices) -> T:
        """Draw an item; there must be one."""
        # The last end is left out of the search, so that a rounded product cannot pass it.
        place = bisect.bisect_right(self._ends, choices.unit() * self._ends[-1], 0, len(self._ends) - 1)
        return self.items[place]

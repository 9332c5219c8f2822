"""Many small random decisions from one numpy generator, at the price of a few.

A scalar from ``numpy.random.Generator`` costs about a microsecond and a text takes some twenty of them; here they are
taken in blocks.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

__all__ = ["Dice", "Weighted"]

T = TypeVar("T")

_BLOCK = 32


class Dice:
    """Random decisions that are a pure function of the generator's state.

    Args:
        rng: Where the numbers come from; it is moved on by whole blocks.
    """

    __slots__ = ("_numbers", "_rng")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._numbers:
            self._numbers = self._rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def chance(self, share: float) -> bool:
        """True for ``share`` of the calls."""
        return self.unit() < share

    def below(self, count: int) -> int:
        """Uniform in 0 ... ``count`` - 1."""
        return int(self.unit() * count)

    def between(self, low: int, high: int) -> int:
        """Uniform in ``low`` ... ``high``, both included."""
        return low + int(self.unit() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely as the others."""
        return items[int(self.unit() * len(items))]


class Weighted(Generic[T]):
    """Items that are drawn in proportion to their weights; items of weight 0 are left out.

    Args:
        items: Each with its weight, at least 0.
    """

    __slots__ = ("_ends", "items")

    def __init__(self, items: Mapping[T, float] | Iterable[tuple[T, float]]) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        kept = [(item, weight) for item, weight in pairs if weight > 0.0]
        self.items = tuple(item for item, _ in kept)
        self._ends = list(itertools.accumulate(weight for _, weight in kept))

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, dice: Dice) -> T:
        """One item; there must be one."""
        # The last end is left out of the search, so that a rounded product cannot pass it.
        place = bisect.bisect_right(self._ends, dice.unit() * self._ends[-1], 0, len(self._ends) - 1)
        return self.items[place]

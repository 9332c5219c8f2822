"""How numbers are spread: counts of whole numbers, brought to a dozen bins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["MAX_BINS", "Histogram"]

MAX_BINS = 12

_COMMON_SHARE = 0.99
"""Share of the numbers that must lie below the last bin; the few above would leave one bin for all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Numbers of samples in bins of one width, of which the last may be wider.

    Attributes:
        minimum: Smallest number; all three are 0 where there is none.
        median: The number in the middle, the smaller of the two where there are two.
        maximum: Largest number.
        edges: Where the bins begin, ascending, and, last, where the last one ends: bin i has the numbers in
            [``edges[i]``, ``edges[i + 1]``).
        unit: What two numbers that follow each other differ by: 1, or 0.1 where tenths were counted.
        counts: Numbers in each bin; at most ``MAX_BINS``, none where there are no numbers.
    """

    minimum: float
    median: float
    maximum: float
    edges: tuple[float, ...]
    unit: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Mapping[int, int], *, parts: int = 1) -> Histogram:
        """The spread of whole numbers.

        Args:
            numbers: How often each was met, numbers of 0 or more.
            parts: What the numbers are divided by: 10 where tenths were counted.

        Example:
            >>> Histogram.of({1: 5, 2: 1}).counts
            (5, 1)
        """
        met = sorted((number, count) for number, count in numbers.items() if count > 0)
        if not met:
            return cls(minimum=0, median=0, maximum=0, edges=(), unit=1 / parts, counts=())
        sums = list(accumulate(count for _, count in met))
        median = _at(met, sums, 0.5)
        smallest, largest, common = met[0][0], met[-1][0], _at(met, sums, _COMMON_SHARE)
        step = next(step for step in _steps() if common // step - smallest // step < MAX_BINS - 1)
        first = smallest // step
        num_bins = min(largest // step, common // step + 1) - first + 1
        counts = [0] * num_bins
        for number, count in met:
            counts[min(number // step - first, num_bins - 1)] += count
        edges = [(first + place) * step for place in range(num_bins)]
        edges.append(max(edges[-1] + step, largest + 1))
        # Divided, not multiplied by a fraction: 3 tenths must be 0.3 and not 0.30000000000000004.
        scaled = [number if parts == 1 else number / parts for number in (smallest, median, largest, *edges)]
        return cls(
            minimum=scaled[0],
            median=scaled[1],
            maximum=scaled[2],
            edges=tuple(scaled[3:]),
            unit=1 / parts,
            counts=tuple(counts),
        )


def _at(met: list[tuple[int, int]], sums: list[int], share: float) -> int:
    """The smallest number that at least this share of all do not exceed."""
    return next(number for (number, _), below in zip(met, sums, strict=True) if below >= share * sums[-1])


def _steps() -> Iterator[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10

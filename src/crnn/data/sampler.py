"""Order of samples: a pure function of the settings, the seed and the batch number.

No state is kept between batches: a resumed run goes on at any batch, any number of workers makes the same ones, and n
ranks share exactly the batch of one rank.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crnn.errors import ConfigError

_ORDER, _BUCKETS = 0, 1  # first words of the seeds of the two shuffles


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The B samples of one batch, or of one rank's part of it."""

    sources: npt.NDArray[np.int64]  # (B,): source of each sample
    indices: npt.NDArray[np.int64]  # (B,): position among the usable samples of that source
    draws: npt.NDArray[np.int64]  # (B,): number among all samples drawn in the run; seeds the augmentation
    width: int | None  # pixels that all images of the batch are resized to; None: the width of the settings

    def share(self, rank: int, world_size: int) -> BatchPlan:
        """Return the part of one rank; all ranks have equally many samples."""
        size = len(self.sources) // world_size
        own = slice(rank * size, (rank + 1) * size)
        return BatchPlan(self.sources[own], self.indices[own], self.draws[own], self.width)


class _Stream(NamedTuple):
    """Endless shuffled epochs of samples ``first`` to ``first + size - 1``; each batch takes the next ``places``."""

    first: int
    size: int
    places: int


class SampleOrder:
    """The order of samples of one or several sources.

    Without ratios all sources are shuffled together, each sample once per epoch. With ratios each source has a fixed
    number of places in every batch and its own epochs. With ``widths``, ``(size,)`` pixels per source, the samples of
    ``bucket_batches`` batches are sorted by width together, and a batch has one width (``keep_ratio``). ``batch_size``
    is that of all ranks together.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ratios: Sequence[float],
        batch_size: int,
        seed: int,
        widths: Sequence[npt.NDArray[np.uint16]] | None = None,
        bucket_batches: int = 32,
    ) -> None:
        self.batch_size = batch_size
        self._seed = seed
        self._firsts = np.cumsum([0, *sizes])  # the first sample of each source, and the number of all
        self._widths = None if widths is None else np.concatenate(widths)
        self._bucket_batches = bucket_batches
        if ratios:
            places = places_per_source(ratios, batch_size)
            self._streams = [_Stream(*stream) for stream in zip(map(int, self._firsts), sizes, places, strict=False)]
        else:
            self._streams = [_Stream(0, sum(sizes), batch_size)]
        self._permutations: OrderedDict[tuple[int, int], npt.NDArray[np.uint32]] = OrderedDict()
        self._bucket: tuple[int, list[BatchPlan]] | None = None

    @property
    def epoch_batches(self) -> int:
        """Batches that draw as many samples as there are (at least one; the rest is carried over)."""
        return max(1, int(self._firsts[-1]) // self.batch_size)

    def plan(self, number: int) -> BatchPlan:
        """Return the samples of batch ``number``, counted from 0."""
        if self._widths is None:
            return self._plan(*self._draw(number, 1), None)
        bucket, place = divmod(number, self._bucket_batches)
        if self._bucket is None or self._bucket[0] != bucket:
            self._bucket = (bucket, self._sorted_by_width(bucket))
        return self._bucket[1][place]

    def _plan(self, samples: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], width: int | None) -> BatchPlan:
        sources = np.searchsorted(self._firsts, samples, side="right") - 1
        return BatchPlan(sources, samples - self._firsts[sources], draws, width)

    def _draw(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the samples of ``count`` batches from ``first`` on, and their numbers in the run."""
        drawn = [
            self._next(number, first * stream.places, count * stream.places).reshape(count, stream.places)
            for number, stream in enumerate(self._streams)
        ]
        draws = np.arange(first * self.batch_size, (first + count) * self.batch_size)
        return np.concatenate(drawn, axis=1).ravel(), draws

    def _next(self, number: int, position: int, count: int) -> npt.NDArray[np.int64]:
        """Return the next ``count`` samples of a stream after ``position`` ones."""
        stream = self._streams[number]
        parts: list[npt.NDArray[np.uint32]] = []
        while count:
            epoch, offset = divmod(position, stream.size)
            parts.append(self._permutation(number, epoch)[offset : offset + count])
            position += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts).astype(np.int64) + stream.first

    def _permutation(self, number: int, epoch: int) -> npt.NDArray[np.uint32]:
        key = (number, epoch)
        if key not in self._permutations:
            rng = np.random.default_rng([self._seed, _ORDER, number, epoch])
            size = np.uint32(self._streams[number].size)
            self._permutations[key] = rng.permutation(size).astype(np.uint32, copy=False)
            # An epoch and the next one per stream meet in a batch; older ones never come back.
            while len(self._permutations) > 2 * len(self._streams):
                self._permutations.popitem(last=False)
        return self._permutations[key]

    def _sorted_by_width(self, bucket: int) -> list[BatchPlan]:
        """Return the batches of a bucket: sorted by width, cut, shuffled; each is as wide as its widest sample."""
        assert self._widths is not None
        count = self._bucket_batches
        samples, draws = self._draw(bucket * count, count)
        widths = self._widths[samples]
        by_width = np.argsort(widths, kind="stable").reshape(count, self.batch_size)
        rng = np.random.default_rng([self._seed, _BUCKETS, bucket])
        plans = []
        for row in rng.permutation(count):
            members = rng.permutation(by_width[row])  # mixed, so that no rank always gets the narrow ones
            plans.append(self._plan(samples[members], draws[members], int(widths[members].max())))
        return plans


def places_per_source(ratios: Sequence[float], batch_size: int) -> list[int]:
    """Distribute the places of a batch in proportion to the ratios; a source without a place is a ``ConfigError``."""
    shares = np.asarray(ratios, dtype=np.float64) / np.sum(ratios) * batch_size
    places = np.floor(shares).astype(int)
    for source in np.argsort(-(shares - places), kind="stable")[: batch_size - places.sum()]:
        places[source] += 1
    if (places == 0).any():
        raise ConfigError(
            f"data.ratios {list(ratios)}: no place in {batch_size} for source {int(np.argmin(places)) + 1}"
        )
    return [int(p) for p in places]

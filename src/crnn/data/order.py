"""Which samples make up which batch: a pure function of the settings, the seed and the number of the batch.

Nothing is remembered between batches. The number of a batch decides its samples, so a resumed run goes on at any
batch, any number of workers makes the same ones, and n ranks share out exactly the batch that one rank would have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.errors import ConfigError

__all__ = ["BatchPlan", "SampleOrder"]

_ORDER, _BUCKETS = 0, 1
"""First words of the seeds of the two kinds of shuffling, so that they are independent of each other."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The samples of one batch of all ranks.

    Attributes:
        sources: ``(B,)`` int64: which source each sample is from.
        indices: ``(B,)`` int64: its position among the usable samples of that source.
        draws: ``(B,)`` int64: its number among all samples drawn in the run, which seeds its augmentation.
        width: Pixels that all pictures of the batch are resized to; ``None``: the one width of the settings.
    """

    sources: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int64]
    width: int | None

    def share(self, rank: int, world_size: int) -> BatchPlan:
        """The part of one rank: every rank has as many samples as every other."""
        size = len(self.sources) // world_size
        part = slice(rank * size, (rank + 1) * size)
        return BatchPlan(self.sources[part], self.indices[part], self.draws[part], self.width)


class SampleOrder:
    """The order of samples of one or several sources.

    Without ratios all sources are shuffled together and each sample is drawn once per epoch. With ratios each source
    has a fixed number of places in every batch and its own epochs.

    Args:
        sizes: Usable samples per source.
        ratios: Share of each batch per source; empty for one common shuffle.
        batch_size: Samples B per batch, all ranks together.
        seed: Seed of the order.
        widths: Width in pixels of every sample per source, ``(size,)`` each, for batches of one width (``keep_ratio``);
            ``None`` where all pictures have one width anyway.
        bucket_batches: Batches whose samples are sorted by width together.

    Raises:
        ConfigError: A ratio gives a source no place in a batch.
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
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.batch_size = batch_size
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self._seed = seed
        self._widths = widths
        self._bucket_batches = bucket_batches
        if ratios:
            self.places = places_per_source(ratios, batch_size)
            self._streams = [int(size) for size in self.sizes]
        else:
            self.places = [batch_size]
            self._streams = [int(self.sizes.sum())]
        self._permutations: OrderedDict[tuple[int, int], npt.NDArray[np.uint32]] = OrderedDict()
        self._bucket: tuple[int, list[BatchPlan]] | None = None

    @property
    def epoch_batches(self) -> int:
        """Batches in which as many samples are drawn as there are (at least one; the rest is carried over)."""
        return max(1, int(self.sizes.sum()) // self.batch_size)

    def plan(self, number: int) -> BatchPlan:
        """The samples of batch ``number``, counted from 0."""
        if self._widths is None:
            return self._draw(number, 1)
        bucket, place = divmod(number, self._bucket_batches)
        if self._bucket is None or self._bucket[0] != bucket:
            self._bucket = (bucket, self._sorted_by_width(bucket))
        return self._bucket[1][place]

    def _draw(self, first: int, count: int) -> BatchPlan:
        """Batches ``first`` to ``first + count`` as one, in the order of drawing."""
        sources, indices, draws = [], [], []
        base = np.arange(first, first + count, dtype=np.int64)[:, None]
        for stream, places in enumerate(self.places):
            positions = base * places + np.arange(places)  # (count, places): how often the stream was drawn from
            picked = self._at(stream, positions.ravel()).reshape(positions.shape)
            if len(self.places) == 1 and len(self.sizes) != 1:  # one shuffle of all sources
                source = np.searchsorted(self._offsets, picked, side="right") - 1
                picked = picked - self._offsets[source]
            else:
                source = np.full_like(picked, stream)
            sources.append(source)
            indices.append(picked)
            draws.append(base * self.batch_size + sum(self.places[:stream]) + np.arange(places))
        return BatchPlan(
            np.concatenate(sources, axis=1).ravel(),
            np.concatenate(indices, axis=1).ravel(),
            np.concatenate(draws, axis=1).ravel(),
            None,
        )

    def _at(self, stream: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The samples at these positions of an endless sequence of shuffled epochs."""
        size = self._streams[stream]
        epochs, offsets = np.divmod(positions, size)
        picked = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            picked[here] = self._permutation(stream, int(epoch))[offsets[here]]
        return picked

    def _permutation(self, stream: int, epoch: int) -> npt.NDArray[np.uint32]:
        key = (stream, epoch)
        if key not in self._permutations:
            rng = np.random.default_rng([self._seed, _ORDER, stream, epoch])
            self._permutations[key] = rng.permutation(np.uint32(self._streams[stream])).astype(np.uint32, copy=False)
            # An epoch and the next one per stream meet in a batch; older ones never come back.
            while len(self._permutations) > 2 * len(self._streams):
                self._permutations.popitem(last=False)
        return self._permutations[key]

    def _sorted_by_width(self, bucket: int) -> list[BatchPlan]:
        """The batches of a bucket: its samples sorted by width, cut into batches, the batches shuffled.

        Every batch is full and has one width, the widest of its samples; a picture that is a little narrower is
        stretched to it, which is a small augmentation, instead of being padded.
        """
        assert self._widths is not None
        count = self._bucket_batches
        drawn = self._draw(bucket * count, count)
        widths = np.empty(len(drawn.sources), dtype=np.int64)
        for source in range(len(self.sizes)):
            here = drawn.sources == source
            widths[here] = self._widths[source][drawn.indices[here]]
        by_width = np.argsort(widths, kind="stable").reshape(count, self.batch_size)
        rng = np.random.default_rng([self._seed, _BUCKETS, bucket])
        plans = []
        for row in rng.permutation(count):
            # Mixed within the batch, so that no rank always gets the narrow ones.
            members = rng.permutation(by_width[row])
            plans.append(
                BatchPlan(
                    drawn.sources[members], drawn.indices[members], drawn.draws[members], int(widths[members].max())
                )
            )
        return plans


def places_per_source(ratios: Sequence[float], batch_size: int) -> list[int]:
    """Places of a batch that each source gets: proportional to its ratio, whole numbers, none lost.

    Raises:
        ConfigError: A source would get no place.
    """
    shares = np.asarray(ratios, dtype=np.float64) / np.sum(ratios) * batch_size
    places = np.floor(shares).astype(int)
    for source in np.argsort(-(shares - places), kind="stable")[: batch_size - places.sum()]:
        places[source] += 1
    if (places == 0).any():
        raise ConfigError(
            f"data.ratios {list(ratios)} give source {int(np.argmin(places)) + 1} no place in a batch of {batch_size}; "
            "raise its ratio or train.batch_size"
        )
    return [int(p) for p in places]

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

__all__ = ["BatchPlan", "SampleOrder", "check_sharing"]

_ORDER, _BUCKETS = 0, 1
"""First words of the seeds of the two kinds of shuffling, so that they are independent of each other."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The samples of one batch of all ranks, or of one rank's part of it.

    Attributes:
        sources: ``(B,)`` int64: which store each sample is from.
        indices: ``(B,)`` int64: its position among the usable samples of that store.
        draws: ``(B,)`` int64: its number among all samples drawn in the run, which seeds its augmentation.
        width: Pixels that all pictures of the batch are resized to; ``None``: the one width of the settings.
        parts: Sizes of the parts, one behind the other, that are each shared out to the ranks; their sum is B.
    """

    sources: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int64]
    width: int | None
    parts: tuple[int, ...]

    def share(self, rank: int, world_size: int) -> BatchPlan:
        """The part of one rank: every rank has as many samples as every other."""
        own = np.concatenate([np.arange(*bounds) for bounds in _bounds(self.parts, rank, world_size)])
        parts = tuple(size // world_size for size in self.parts)
        return BatchPlan(self.sources[own], self.indices[own], self.draws[own], self.width, parts)


@dataclass(frozen=True, slots=True)
class _Stream:
    """Endless shuffled epochs of some stores, from which each batch has a fixed number of samples."""

    stores: tuple[int, ...]
    places: int


class SampleOrder:
    """The order of samples of one or several sources.

    Without ratios all sources are shuffled together and each sample is drawn once per epoch. With ratios each source
    has a fixed number of places in every batch and its own epochs.

    With ``shards`` each shard of a source has its own epochs and as many places in every batch as every other shard, so
    that a rank draws from its own shards alone. Without ratios, shards of the same number are shuffled together.

    Args:
        sizes: Usable samples per store: a source is one, or as many as it has shards.
        ratios: Share of each batch per source; empty for one common shuffle.
        batch_size: Samples B per batch, all ranks together.
        seed: Seed of the order.
        widths: Width in pixels of every sample per store, ``(size,)`` each, for batches of one width (``keep_ratio``);
            ``None`` where all pictures have one width anyway.
        bucket_batches: Batches whose samples are sorted by width together.
        shards: Shards of each source; 0 for a source that has none and that every rank has. Empty: no source is
            shared out by shards.
        world_size: Number of ranks, which has to fit to the shards.

    Raises:
        ConfigError: A ratio gives a source no place in a batch, or places cannot be shared out to shards and ranks.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ratios: Sequence[float],
        batch_size: int,
        seed: int,
        widths: Sequence[npt.NDArray[np.uint16]] | None = None,
        bucket_batches: int = 32,
        *,
        shards: Sequence[int] = (),
        world_size: int = 1,
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.batch_size = batch_size
        self._seed = seed
        self._widths = widths
        self._bucket_batches = bucket_batches
        self._parts: tuple[int, ...] = (batch_size,)
        if shards:
            self._streams, self._parts = _sharded(shards, ratios, batch_size, world_size)
        elif ratios:
            self._streams = [_Stream((i,), places) for i, places in enumerate(places_per_source(ratios, batch_size))]
        else:
            self._streams = [_Stream(tuple(range(len(sizes))), batch_size)]
        self._sort_apart = bool(shards)
        self._permutations: OrderedDict[tuple[int, int], npt.NDArray[np.uint32]] = OrderedDict()
        self._bucket: tuple[int, list[BatchPlan]] | None = None

    @property
    def epoch_batches(self) -> int:
        """Batches in which as many samples are drawn as there are (at least one; the rest is carried over)."""
        return max(1, int(self.sizes.sum()) // self.batch_size)

    def plan(self, number: int, rank: int = 0, world_size: int = 1) -> BatchPlan:
        """The samples of batch ``number``, counted from 0, or one rank's part of them."""
        if self._widths is None:
            return self._draw(number, 1, rank, world_size)
        bucket, place = divmod(number, self._bucket_batches)
        if self._bucket is None or self._bucket[0] != bucket:
            self._bucket = (bucket, self._sorted_by_width(bucket))
        return self._bucket[1][place].share(rank, world_size)

    def _draw(self, first: int, count: int, rank: int = 0, world_size: int = 1) -> BatchPlan:
        """Batches ``first`` to ``first + count`` as one, in the order of drawing.

        Epochs of streams that this rank has no part of are not shuffled.
        """
        sources, indices, draws = [], [], []
        base = np.arange(first, first + count, dtype=np.int64)[:, None]
        bounds = _bounds(self._parts, rank, world_size)
        offset = 0
        for number, stream in enumerate(self._streams):
            own = [np.arange(max(low - offset, 0), min(high - offset, stream.places)) for low, high in bounds]
            places = np.concatenate(own)
            if len(places):
                positions = base * stream.places + places  # (count, places): how often the stream was drawn from
                picked = self._at(number, positions.ravel()).reshape(positions.shape)
                ends = np.cumsum(self.sizes[list(stream.stores)])
                which = np.searchsorted(ends, picked, side="right")
                sources.append(np.asarray(stream.stores)[which])
                indices.append(picked - np.concatenate([[0], ends])[which])
                draws.append(base * self.batch_size + offset + places)
            offset += stream.places
        return BatchPlan(
            np.concatenate(sources, axis=1).ravel(),
            np.concatenate(indices, axis=1).ravel(),
            np.concatenate(draws, axis=1).ravel(),
            None,
            tuple(size // world_size for size in self._parts),
        )

    def _at(self, stream: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The samples at these positions of an endless sequence of shuffled epochs."""
        size = self._size(stream)
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
            self._permutations[key] = rng.permutation(np.uint32(self._size(stream))).astype(np.uint32, copy=False)
            # An epoch and the next one per stream meet in a batch; older ones never come back.
            while len(self._permutations) > 2 * len(self._streams):
                self._permutations.popitem(last=False)
        return self._permutations[key]

    def _size(self, stream: int) -> int:
        return int(self.sizes[list(self._streams[stream].stores)].sum())

    def _sorted_by_width(self, bucket: int) -> list[BatchPlan]:
        """The batches of a bucket: its samples sorted by width, cut into batches, the batches shuffled.

        Every batch is full and has one width, the widest of its samples; a picture that is a little narrower is
        stretched to it, which is a small augmentation, instead of being padded.

        What is shared out by shards is sorted shard by shard, and the narrowest of each come together, and so on: the
        shards are fair mixes of one set, so that these are about as wide.
        """
        assert self._widths is not None
        count = self._bucket_batches
        drawn = self._draw(bucket * count, count)
        widths = np.empty(len(drawn.sources), dtype=np.int64)
        for store in range(len(self.sizes)):
            here = drawn.sources == store
            widths[here] = self._widths[store][drawn.indices[here]]
        sizes = [stream.places for stream in self._streams] if self._sort_apart else [self.batch_size]
        columns = np.split(np.arange(count * self.batch_size).reshape(count, -1), np.cumsum(sizes)[:-1], axis=1)
        by_width = [
            some.ravel()[np.argsort(widths[some.ravel()], kind="stable")].reshape(count, -1) for some in columns
        ]
        rng = np.random.default_rng([self._seed, _BUCKETS, bucket])
        plans = []
        for row in rng.permutation(count):
            # Mixed within the batch, so that no rank always gets the narrow ones.
            members = np.concatenate([rng.permutation(some[row]) for some in by_width])
            plans.append(
                BatchPlan(
                    drawn.sources[members],
                    drawn.indices[members],
                    drawn.draws[members],
                    int(widths[members].max()),
                    self._parts,
                )
            )
        return plans


def check_sharing(shards: Sequence[int], ratios: Sequence[float], batch_size: int, world_size: int) -> None:
    """Whether a ``SampleOrder`` can share out shards, before anything is read; its arguments are those of that.

    Raises:
        ConfigError: As for ``SampleOrder``.
    """
    _sharded(shards, ratios, batch_size, world_size)


def _bounds(parts: Sequence[int], rank: int, world_size: int) -> list[tuple[int, int]]:
    """Where in a batch the samples of a rank are: from and to, for each part."""
    starts = np.cumsum([0, *parts])
    sizes = [size // world_size for size in parts]
    return [
        (int(start) + rank * size, int(start) + (rank + 1) * size) for start, size in zip(starts, sizes, strict=False)
    ]


def _sharded(
    shards: Sequence[int], ratios: Sequence[float], batch_size: int, world_size: int
) -> tuple[list[_Stream], tuple[int, ...]]:
    """Streams where every shard has its own, and the parts of a batch that the ranks share out."""
    if len(shards) > 1 and not ratios:
        if len(set(shards)) > 1 or 0 in shards:
            raise ConfigError(
                f"data.shards is own, the sources of data.train have {list(shards)} shards (0: not in shards) and "
                "data.ratios is empty; expected ratios, or sources of one number of shards. Give data.ratios, or "
                "convert the sources to as many shards each"
            )
        _check_division(1, batch_size, shards[0], world_size)
        groups = [tuple(range(shard, sum(shards), shards[0])) for shard in range(shards[0])]
        return [_Stream(stores, batch_size // shards[0]) for stores in groups], (batch_size,)
    parts = places_per_source(ratios or [1.0], batch_size)
    streams: list[_Stream] = []
    for source, (count, places) in enumerate(zip(shards, parts, strict=True), start=1):
        _check_division(source, places, count, world_size)
        number = max(1, count)
        streams += [_Stream((len(streams) + shard,), places // number) for shard in range(number)]
    return streams, tuple(parts)


def _check_division(source: int, places: int, shards: int, world_size: int) -> None:
    """Whether the places of a source in a batch can be shared out to its shards, and these to the ranks."""
    if shards % world_size:
        raise ConfigError(
            f"data.shards is own, source {source} of data.train has {shards} shards and there are {world_size} ranks; "
            "expected as many shards for each rank. Start another number of ranks, or convert it to another number of "
            "shards"
        )
    number, which = (shards, "shards") if shards else (world_size, "ranks")
    if places % number:
        raise ConfigError(
            f"data.shards is own and source {source} of data.train has {places} places in a batch of all ranks, which "
            f"cannot be shared out to {number} {which}; expected a multiple of {number}. Change train.batch_size or "
            "data.ratios"
        )


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

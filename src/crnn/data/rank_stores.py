"""Which stores a rank of a training run reads: all of them, or its own shards and what is not in shards.

Stores are numbered through: a source that is shared out by shards is as many stores as it has shards, any other source
is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crnn.data.order import check_sharing
from crnn.data.shards import ShardList, is_sharded, open_shards
from crnn.data.source import SampleStore, open_source, split_name
from crnn.errors import ConfigError, DataError
from crnn.training.settings import DataConfig

__all__ = ["RankStores", "check_training_data", "open_rank_stores"]

_FIRST_PICTURES = 16
"""That are looked for before a run begins."""


@dataclass(frozen=True, slots=True)
class RankStores:
    """The sources of a run as one rank has them.

    Attributes:
        paths: The sources, as the user typed them.
        stores: What this rank reads, by number.
        shards: Shards of each source, 0 for one that every rank reads; empty where no source is shared out by shards.
        identities: What tells the sets apart: identity and number of shards; empty for what is not in shards.
    """

    paths: tuple[str, ...]
    stores: dict[int, SampleStore]
    shards: tuple[int, ...] = ()
    identities: tuple[str, ...] = ()

    def by_source(self) -> Iterator[tuple[str, int, range]]:
        """For each source its path, its shards, and the numbers of its stores."""
        first = 0
        for path, count in zip(self.paths, self.shards or (0,) * len(self.paths), strict=True):
            yield path, count, range(first, first + max(1, count))
            first += max(1, count)

    def check_same(self, identities: Sequence[tuple[str, ...]]) -> None:
        """Whether all ranks have shards of the same sets.

        Args:
            identities: Those of each rank.

        Raises:
            DataError: They have not.
        """
        for rank, others in enumerate(identities):
            for path, first, other in zip(self.paths, identities[0], others, strict=True):
                if first != other:
                    raise DataError(
                        f"{path}: rank 0 has the set {first or 'not in'} shards, rank {rank} has {other or 'not in'} "
                        "shards; expected those of one conversion on all ranks. Copy them again, with their shards.json"
                    )


def check_training_data(data: DataConfig) -> None:
    """Find out whether all sets of a run are there, as far as one can without knowing the rank.

    Raises:
        DataError: A set is missing or cannot be used, or a validation set's first pictures are all missing.
        ConfigError: ``data.shards`` is ``own`` and nothing is in shards.
    """
    paths = [split_name(spec)[1] for spec in data.train]
    in_shards = [path for path in paths if data.shards == "own" and is_sharded(path)]
    for path in in_shards:
        ShardList.read(path)
    for path in paths:
        if path not in in_shards:
            open_source(path).close()
    for spec in data.validation:
        store = open_source(split_name(spec)[1])
        _check_first_pictures(store)
        store.close()
    if data.shards == "own" and not in_shards:
        raise ConfigError(
            f"data.shards is own, and no source of data.train ({', '.join(data.train)}) is in shards; expected folders "
            "with shards.json. Make them with: crnn data convert lmdb SRC DST --shards N, or leave data.shards out"
        )


def _check_first_pictures(store: SampleStore) -> None:
    """Pictures of a training set are missed at once, those of a validation set only when it is read: hours later."""
    why = ""
    for index in range(min(len(store), _FIRST_PICTURES)):
        try:
            store.image_bytes(index)
            return
        except DataError as error:
            why = why or str(error)
    if why:
        raise DataError(
            f"data.validation: none of the first pictures can be read: {why}; expected paths relative to the list file"
        )


def open_rank_stores(data: DataConfig, batch_size: int, rank: int, world_size: int) -> RankStores:
    """The stores that a rank reads.

    Under ``data.shards = "own"`` rank r of R has the shards r * S / R to (r + 1) * S / R - 1 of a source with S shards;
    only these have to be on its machine.

    Args:
        data: Sources, ratios and what to do with shards.
        batch_size: Samples of a batch of all ranks.
        rank: This process among all.
        world_size: Their number.

    Raises:
        DataError: A source is missing or cannot be used.
        ConfigError: Shards cannot be shared out to ranks, or the places of a batch to shards.
    """
    paths = tuple(split_name(spec)[1] for spec in data.train)
    if data.shards == "all":
        return RankStores(paths, {number: open_source(path) for number, path in enumerate(paths)})
    lists = [ShardList.read(path) if is_sharded(Path(path)) else None for path in paths]
    shards = tuple(found.num_shards if found else 0 for found in lists)
    check_sharing(shards, data.ratios, batch_size, world_size)
    stores: dict[int, SampleStore] = {}
    first = 0
    for path, found in zip(paths, lists, strict=True):
        if found is None:
            stores[first] = open_source(path)
            first += 1
            continue
        own = found.num_shards // world_size
        numbers = range(rank * own, (rank + 1) * own)
        stores.update(zip((first + number for number in numbers), open_shards(found, numbers), strict=True))
        first += found.num_shards
    return RankStores(
        paths, stores, shards, tuple(f"{found.identity} in {found.num_shards}" if found else "" for found in lists)
    )

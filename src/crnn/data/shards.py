"""Sets in shards: one set as several LMDB stores, for sets that are larger than one disk.

::

    MJ/shards.json                          how many shards, how many samples in each, which set this is
    MJ/shard-00000-of-00016/data.mdb        an ordinary store, which anything that reads stores can read
    MJ/shard-00001-of-00016/data.mdb

Samples are dealt round: of every S samples that follow each other each shard gets one, and each round begins at another
shard, as if by chance, so that what comes back every so many samples comes to all shards. Which shard a sample is in
follows from its number, so the shards together have the order of the set that they were made from, and no table.

All shards together are a ``ShardedStore``, one store like any other. A rank that trains may have a part of them and
opens only those (``open_shards``). ``crnn.data.shard_writer`` writes them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from crnn.data.store import LmdbStore
from crnn.errors import DataError

__all__ = [
    "MAX_SHARDS",
    "SHARDS_NAME",
    "SHARD_NAME",
    "ShardList",
    "ShardedStore",
    "is_sharded",
    "open_shards",
    "open_store",
    "place_of",
    "shard_name",
    "shard_size",
]

SHARDS_NAME = "shards.json"

MAX_SHARDS = 256
"""Each open shard is one or two open files, of which a process commonly may have 1024."""

SHARD_NAME = re.compile(r"shard-\d{5}-of-\d{5}")

_FORMAT, _VERSION = "crnn-shards", 1
_MAX_LIST_BYTES = 1 << 20
_MAX_NAMED = 4


def shard_name(number: int, num_shards: int) -> str:
    """The folder of a shard, counted from 0: ``shard-00003-of-00016``."""
    return f"shard-{number:05d}-of-{num_shards:05d}"


def place_of(index: int, num_shards: int) -> tuple[int, int]:
    """Where a sample is: its shard, and its place in it, counted from 0.

    Example:
        >>> [place_of(index, 3)[0] for index in range(12)]
        [0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 2, 0]
    """
    position, turn = divmod(index, num_shards)
    return (_first(position, num_shards) + turn) % num_shards, position


def shard_size(number: int, num_shards: int, num_samples: int) -> int:
    """Samples of one shard, of so many in all; the sizes of two shards differ by one at most."""
    full, rest = divmod(num_samples, num_shards)
    return full + ((number - _first(full, num_shards)) % num_shards < rest)


def _first(position: int, num_shards: int) -> int:
    """The shard at which a round begins: its number well mixed, by the last steps of MurmurHash3 (public domain)."""
    mixed = (position ^ (position >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) * num_shards) >> 32


@dataclass(frozen=True, slots=True)
class ShardList:
    """What ``shards.json`` says.

    Attributes:
        path: The folder of the shards, as the user typed it.
        identity: Follows from all pictures and labels of the set, and is in each shard, too.
        num_samples: Samples of all shards together.
        num_shards: How many there are.
        records: Kinds of records that samples have (``image``, ``label``, ``wh``, ...).
    """

    path: str
    identity: str
    num_samples: int
    num_shards: int
    records: tuple[str, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ShardList:
        """The list of a folder.

        Raises:
            DataError: There is none, it is damaged, or it is of a later version.
        """
        typed = os.fspath(path)
        file = Path(typed) / SHARDS_NAME
        try:
            with file.open("rb") as opened:
                raw = opened.read(_MAX_LIST_BYTES)
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read: {error.strerror}; expected the list that 'crnn data convert --shards' writes "
                "beside the shards. Copy it to them"
            ) from error
        try:
            return cls._from_json(typed, raw)
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{file}: is damaged ({type(error).__name__}: {error}); expected the list that 'crnn data convert "
                "--shards' writes beside the shards. Copy it again"
            ) from error

    @classmethod
    def _from_json(cls, path: str, raw: bytes) -> ShardList:
        values: dict[str, Any] = json.loads(raw)
        if values["format"] != _FORMAT or type(values["version"]) is not int:
            raise ValueError(f"format {values['format']!r}")
        if values["version"] != _VERSION:
            raise DataError(
                f"{Path(path) / SHARDS_NAME}: is of version {values['version']}; expected {_VERSION}. Use a newer crnn"
            )
        sizes, count, records = values["samples_per_shard"], values["samples"], values["records"]
        if type(count) is not int or not 1 <= len(sizes) <= min(count, MAX_SHARDS):
            raise ValueError(f"{count!r} samples in {len(sizes)} shards")
        if sizes != [shard_size(number, len(sizes), count) for number in range(len(sizes))]:
            raise ValueError(f"samples_per_shard is not {count} samples dealt round")
        if not isinstance(values["id"], str) or not all(isinstance(record, str) for record in records):
            raise TypeError("id and records are no text")
        return cls(path, values["id"], count, len(sizes), tuple(records))

    def to_json(self) -> str:
        """The text of ``shards.json``."""
        sizes = [shard_size(number, self.num_shards, self.num_samples) for number in range(self.num_shards)]
        values = {
            "format": _FORMAT,
            "version": _VERSION,
            "id": self.identity,
            "samples": self.num_samples,
            "records": list(self.records),
            "samples_per_shard": sizes,
        }
        return json.dumps(values, indent=1) + "\n"

    def mark(self, number: int) -> str:
        """What a shard says of itself, under ``SHARD_KEY``."""
        return f"{self.identity} {number} {self.num_shards}"


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds shards and not a store; also where ``shards.json`` was forgotten, to say so."""
    folder = Path(path)
    if not folder.is_dir() or (folder / "data.mdb").exists():
        return False
    if (folder / SHARDS_NAME).is_file():
        return True
    with os.scandir(folder) as entries:
        return any(SHARD_NAME.fullmatch(entry.name) for entry in entries)


def open_store(path: str | os.PathLike[str]) -> LmdbStore | ShardedStore:
    """A store, be it one LMDB folder or shards.

    Raises:
        DataError: As for ``LmdbStore`` and ``ShardedStore``.
        MissingExtraError: The package ``lmdb`` is not installed.
    """
    return ShardedStore(path) if is_sharded(path) else LmdbStore(path)


def open_shards(shards: ShardList, numbers: Iterable[int]) -> list[LmdbStore]:
    """Some shards of a set, each a store of its own; only these have to be there.

    Raises:
        DataError: One is missing, is no whole store, has another number of samples, or is of another set.
        MissingExtraError: The package ``lmdb`` is not installed.
    """
    numbers = list(numbers)
    paths = [os.fspath(Path(shards.path) / shard_name(number, shards.num_shards)) for number in numbers]
    missing = [Path(path).name for path in paths if not (Path(path) / "data.mdb").is_file()]
    if missing:
        shown = ", ".join(missing[:_MAX_NAMED]) + (", ..." if len(missing) > _MAX_NAMED else "")
        raise DataError(
            f"{shards.path}: {len(missing)} of the {len(paths)} shards that are needed here are missing: {shown}. Copy "
            "them here; a rank that trains with data.shards = 'own' needs only its own"
        )
    return [_open_shard(shards, number, path) for number, path in zip(numbers, paths, strict=True)]


def _open_shard(shards: ShardList, number: int, path: str) -> LmdbStore:
    store = LmdbStore(path)
    mark, expected = store.shard_mark(), shard_size(number, shards.num_shards, shards.num_samples)
    store.close()
    if mark != shards.mark(number):
        found = f"says that it is {mark!r}" if mark else "does not say that it is a shard"
        raise DataError(
            f"{path}: {found}; {Path(shards.path) / SHARDS_NAME} expects {shards.mark(number)!r} (set, shard, shards): "
            "it is of another conversion. Copy all shards and shards.json of one"
        )
    if len(store) != expected:
        raise DataError(
            f"{path}: has {len(store)} samples; {Path(shards.path) / SHARDS_NAME} expects {expected}. It was changed: "
            "copy it again"
        )
    return store


class ShardedStore:
    """All shards of a set as one store, in the order of the set that they were made from.

    It can be pickled and can live through a fork, as its shards can.

    Args:
        path: The folder that has ``shards.json`` in it.

    Raises:
        DataError: ``shards.json`` is damaged, or as for ``open_shards``.
        MissingExtraError: The package ``lmdb`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        shards = ShardList.read(path)
        self._num_samples = shards.num_samples
        self._stores: Sequence[LmdbStore] = open_shards(shards, range(shards.num_shards))

    def __len__(self) -> int:
        return self._num_samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ShardedStore({self.path!r})"

    def close(self) -> None:
        """Give all files back. Reading again opens them again."""
        for store in self._stores:
            store.close()

    def key(self, index: int) -> str:
        """What messages call the sample: its shard, and the key of its picture there."""
        store, position = self._find(index)
        return f"{Path(store.path).name}/{store.key(position)}"

    def label(self, index: int) -> str:
        """As ``LmdbStore.label``."""
        store, position = self._find(index)
        return store.label(position)

    def image_bytes(self, index: int) -> bytes:
        """As ``LmdbStore.image_bytes``."""
        store, position = self._find(index)
        return store.image_bytes(position)

    def lexicon(self, index: int) -> tuple[str, ...] | None:
        """As ``LmdbStore.lexicon``."""
        store, position = self._find(index)
        return store.lexicon(position)

    def large_lexicon(self, index: int) -> tuple[str, ...] | None:
        """As ``LmdbStore.large_lexicon``."""
        store, position = self._find(index)
        return store.large_lexicon(position)

    def stored_size(self, index: int) -> tuple[int, int] | None:
        """As ``LmdbStore.stored_size``."""
        store, position = self._find(index)
        return store.stored_size(position)

    def _find(self, index: int) -> tuple[LmdbStore, int]:
        if not 0 <= index < self._num_samples:
            raise IndexError(f"{self.path}: sample {index} of {self._num_samples}")
        shard, position = place_of(index, len(self._stores))
        return self._stores[shard], position

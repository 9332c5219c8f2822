"""Writes a set as shards (``crnn.data.shards``), all of which are there or none.

The interface is that of an ``LmdbWriter`` that keeps its partial store, so that a conversion does not know which of the
two it writes to.

A commit is a transaction in each shard, and a process can be killed between two of them. So each shard keeps the state
that belongs to what is in it. Whoever goes on takes the state of the shard that is furthest behind and cuts the others
back to it; what is in them is then as if the last commit had not been begun.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crnn.data.partial_folder import FolderWriter
from crnn.data.shards import MAX_SHARDS, SHARD_NAME, SHARDS_NAME, ShardList, place_of, shard_name, shard_size
from crnn.data.store import SHARD_KEY
from crnn.data.store_file import StoreFile
from crnn.errors import ConfigError, DataError

__all__ = ["ShardedWriter"]

_NAMES = ("shard-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]", SHARDS_NAME)
_KINDS = ("image", "label", "lexicon", "large-lexicon", "wh")


@dataclass(slots=True)
class _Contents:
    """What was added so far: how much, which kinds of records, and checksums that tell sets apart."""

    num_samples: int = 0
    kinds: int = 0  # a bit for each of _KINDS
    pictures: int = 0
    labels: int = 0

    def add(self, image: bytes, label: str, lexicon: object, large_lexicon: object, size: object) -> None:
        self.num_samples += 1
        self.kinds |= 3 | (lexicon is not None) << 2 | (large_lexicon is not None) << 3 | (size is not None) << 4
        self.pictures = zlib.crc32(image, self.pictures)
        self.labels = zlib.crc32(b"%s\n" % label.encode(), self.labels)

    @property
    def identity(self) -> str:
        return f"{self.pictures:08x}{self.labels:08x}"

    def with_state(self, state: bytes) -> bytes:
        return b"%d %d %d %d %s" % (self.num_samples, self.kinds, self.pictures, self.labels, state)

    @classmethod
    def from_state(cls, text: bytes) -> tuple[_Contents, bytes]:
        *numbers, state = text.split(b" ", 4)
        return cls(*map(int, numbers)), state


class ShardedWriter(FolderWriter):
    """Writes a folder of shards; a context manager.

    It is written beside its place, as ``path`` with ``.partial`` at the end, which stays there with all samples up to
    the last ``commit`` if it is left by an exception or killed; the next writer goes on behind them.

    Args:
        path: The folder to write. It must not exist yet, or be empty.
        num_shards: How many shards, 1 to ``MAX_SHARDS``.

    Attributes:
        path: As given.
        num_shards: As given.
        state: What the last ``commit`` of an earlier writer was given; ``None`` where there was none.

    Raises:
        ConfigError: It is no such number of shards.
        DataError: The folder has something in it, another writer is at it, there are fewer samples than shards, the
            disk is full, or the partial folder is none to go on with.
        MissingExtraError: The package ``lmdb`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], num_shards: int) -> None:
        if not 1 <= num_shards <= MAX_SHARDS:
            raise ConfigError(f"shards is {num_shards}; expected 1 to {MAX_SHARDS}")
        super().__init__(path, _NAMES)
        self.num_shards = num_shards
        names = [shard_name(number, num_shards) for number in range(num_shards)]
        self._files = [StoreFile(self._folder.partial / name, os.fspath(Path(self.path) / name)) for name in names]
        self._contents = _Contents()
        self._pending_bytes = 0
        self._is_open = False

    @property
    def num_samples(self) -> int:
        """Samples added so far, by earlier writers too."""
        return self._contents.num_samples

    @property
    def pending_bytes(self) -> int:
        """Bytes of the pictures that were added since the last ``commit``."""
        return self._pending_bytes

    def add(
        self,
        image: bytes,
        label: str,
        *,
        lexicon: Sequence[str] | None = None,
        large_lexicon: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Append one sample, to the shard whose turn it is; as ``LmdbWriter.add``."""
        if not self._is_open:
            raise RuntimeError(f"{self.path}: the writer is not open; use it in a with statement")
        shard, _ = place_of(self.num_samples, len(self._files))
        self._files[shard].add(image, label, lexicon, large_lexicon, size)
        self._contents.add(image, label, lexicon, large_lexicon, size)
        self._pending_bytes += len(image)

    def commit(self, state: bytes, *, wait: bool = True) -> None:
        """Write everything added so far, and what the caller needs to go on from here.

        Args:
            state: What the next writer's ``state`` will be.
            wait: Otherwise this returns while the disk is waited for, and what goes wrong is raised by a later call.

        Raises:
            DataError: The disk is full.
        """
        kept = self._contents.with_state(state)
        for file in self._files:
            file.commit(kept, wait=wait)
        self._pending_bytes = 0

    def _begin(self) -> None:
        self._check_number()
        for number, file in enumerate(self._files):
            (self._folder.partial / shard_name(number, len(self._files))).mkdir(exist_ok=True)
            file.open()
        self._go_on()
        self._is_open = True

    def _check_number(self) -> None:
        ours = {shard_name(number, len(self._files)) for number in range(len(self._files))}
        others = {entry.name for entry in self._folder.partial.iterdir() if SHARD_NAME.fullmatch(entry.name)} - ours
        if others:
            raise DataError(
                f"{self._folder.partial}: was begun with another number of shards ({min(others)} is there; now "
                f"{len(self._files)}). Give the number of then to go on, or begin anew with --restart"
            )

    def _go_on(self) -> None:
        """Find out how far all shards have come, and bring them there.

        Shards are finished from the last to the first, when all of their samples are in. So the first one has a state
        unless everything is done, and those that are finished are not behind it.
        """
        finished = [file.finished_samples() is not None for file in self._files]
        if finished[0]:
            raise DataError(
                f"{self._folder.partial}: is a whole set that has not got its name; rename it to {self.path}, or "
                "remove it"
            )
        kept = {number: file.go_on() for number, file in enumerate(self._files) if not finished[number]}
        found = [_Contents.from_state(text) if text is not None else (_Contents(), b"") for text in kept.values()]
        self._contents, state = min(found, key=lambda entry: entry[0].num_samples)
        self.state = state or None
        text = self._contents.with_state(state)
        for number, file in enumerate(self._files):
            if kept.get(number) not in (None, text) or finished[number]:
                file.go_back(shard_size(number, len(self._files), self.num_samples), text)

    def _finish(self) -> None:
        self._is_open = False
        count, num_shards = self.num_samples, len(self._files)
        if count < num_shards:
            raise DataError(
                f"{self.path}: {count} samples cannot fill {num_shards} shards; expected one for each at least. Begin "
                "anew with fewer --shards and --restart"
            )
        kinds = tuple(kind for bit, kind in enumerate(_KINDS) if self._contents.kinds >> bit & 1)
        shards = ShardList(self.path, self._contents.identity, count, num_shards, kinds)
        for number in reversed(range(num_shards)):
            if number == 0:
                self._write_list(shards)
            self._files[number].finish({SHARD_KEY: shards.mark(number)})

    def _write_list(self, shards: ShardList) -> None:
        try:
            with (self._folder.partial / SHARDS_NAME).open("w", encoding="utf-8") as file:
                file.write(shards.to_json())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written: {error.strerror}. Make room or choose another folder"
            ) from error

    def _leave(self) -> None:
        self._is_open = False
        for file in self._files:
            file.close()
        self._folder.release()

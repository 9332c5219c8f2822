"""An LMDB folder as a set to convert: to copy, merge, split, filter or re-encode it.

Its images are no files: a record's ``path`` is a key of the store (``image-000000001``). Readers may have a method
``read_image(path)``, which is called, in any process, instead of opening ``root / path``; such a reader can be
pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crnn.data.formats.records import Record, Skipped
from crnn.data.store import LmdbStore
from crnn.errors import DataError

_KEY = "image-"


class StoreReader:
    """The samples of an LMDB folder, in its order, with their lexicons.

    ``indices`` are the samples to read, from 0, such as ``range(0, 1000)``; default: all.

    Raises:
        DataError: The store is missing or not whole, or an index is out of range.
    """

    def __init__(self, source: str | os.PathLike[str], *, indices: Sequence[int] | None = None) -> None:
        self.root = Path(source)
        self._store = LmdbStore(source)
        self._indices = range(len(self._store)) if indices is None else indices
        if len(self._indices) and not 0 <= min(self._indices) <= max(self._indices) < len(self._store):
            raise DataError(
                f"{source}: has {len(self._store)} samples; indices from {min(self._indices)} to {max(self._indices)} "
                "were asked for. Ask for fewer"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Record | Skipped]:
        for index in self._indices:
            key = self._store.key(index)
            try:
                label = self._store.label(index)
                lexicon = self._store.lexicon(index) or ()
                large_lexicon = self._store.large_lexicon(index) or ()
            except DataError as error:
                if error.__cause__ is not None:  # the file is damaged, and not just this record of it
                    raise
                yield Skipped(key, "bad_record")
            else:
                yield Record(key=key, label=label, path=key, lexicon=lexicon, large_lexicon=large_lexicon)

    def __repr__(self) -> str:
        return f"StoreReader({str(self.root)!r})"

    def read_image(self, path: str) -> bytes:
        """Return the stored bytes of the image at a record's ``path``; errors as in ``LmdbStore.image_bytes``."""
        return self._store.image_bytes(int(path.removeprefix(_KEY)) - 1)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._store.close()

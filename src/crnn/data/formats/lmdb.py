"""An LMDB folder as a set to convert: to copy, merge, split, filter or re-encode it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.store import LmdbStore
from crnn.errors import DataError


class StoreReader(Reader):
    """The samples of an LMDB folder, in its order, with their lexicons; a record's ``path`` is a key of the store.

    Raises:
        DataError: The store is missing or not whole.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.root = Path(source)
        self._store = LmdbStore(source)

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Record | Skipped]:
        for index in range(len(self)):
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

    def image_source(self) -> Callable[[str], bytes]:
        """Return a function from a key to image bytes; errors as in ``LmdbStore.image_bytes``."""
        return self._image_bytes

    def _image_bytes(self, key: str) -> bytes:
        return self._store.image_bytes(int(key.removeprefix("image-")) - 1)

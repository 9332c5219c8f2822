"""A store as a set to convert: to copy, merge, split, filter or re-encode it."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.store import LmdbStore, SampleStore
from crnn.errors import DataError


class StoreReader(Reader):
    """The samples of an LMDB folder, or of a store, in its order, with their lexicons.

    A record's ``path`` is its image's key in an LMDB. ``fault`` returns why a sample is skipped, or an empty text.
    """

    def __init__(
        self, source: str | os.PathLike[str] | SampleStore, fault: Callable[[int], str] = lambda _: ""
    ) -> None:
        self._store = source if isinstance(source, SampleStore) else LmdbStore(source)
        self.root = Path(self._store.path)
        self._fault = fault

    def __len__(self) -> int:
        return len(self._store) + self._store.num_unread

    def __iter__(self) -> Iterator[Record | Skipped]:
        for index in range(len(self._store)):
            key = self._store.key(index)
            if fault := self._fault(index):
                yield Skipped(key, fault)
                continue
            try:
                label = self._store.label(index)
                small, large = (self._store.lexicon(index, large=is_large) or () for is_large in (False, True))
            except DataError as error:
                if error.__cause__ is not None:  # the file is damaged, and not just this record of it
                    raise
                yield Skipped(key, "bad_record")
            else:
                yield Record(key, label, f"image-{index + 1:09d}", lexicon=small, large_lexicon=large)
        for number in range(len(self._store) + 1, len(self) + 1):
            yield Skipped(f"image-{number:09d}", "beyond_num_samples")

    def image_source(self) -> Callable[[str], bytes]:
        """Return a function from a record's path to image bytes; errors as in ``SampleStore.image_bytes``."""
        return functools.partial(_stored_image, self._store)


def _stored_image(store: SampleStore, path: str) -> bytes:
    return store.image_bytes(int(path.removeprefix("image-")) - 1)

"""A share of a set, chosen by chance but the same each time: to split one into parts for training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from crnn.data.formats.record import Reader, Record, Skipped
from crnn.errors import ConfigError

__all__ = ["ShareReader", "parse_share"]


class ShareReader:
    """The samples of a set whose chance number lies in a range; the others are counted as ``other_share``.

    The number, in [0, 1), follows from the path of the sample's picture alone. So it is the same each time and in any
    order, two ranges that do not meet have no sample in common, and all words of a scene have the same one.

    Args:
        reader: The set.
        start: In [0, 1): the lowest number that is in.
        stop: In (start, 1]: the lowest that is out again.

    Attributes:
        notes: Those of the set.

    Raises:
        ConfigError: That is no range.
    """

    def __init__(self, reader: Reader, start: float, stop: float) -> None:
        if not 0 <= start < stop <= 1:
            raise ConfigError(f"the share is {start}:{stop}; expected START:STOP with 0 <= START < STOP <= 1")
        self.root = reader.root
        self.notes: tuple[str, ...] = getattr(reader, "notes", ())
        self._reader = reader
        self._range = (start, stop)
        picture_bytes = getattr(reader, "picture_bytes", None)
        if picture_bytes is not None:  # only readers of what is no file have it
            self.picture_bytes = picture_bytes

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Record | Skipped]:
        start, stop = self._range
        for sample in self._reader:
            if isinstance(sample, Record) and not start <= _chance(sample.path) < stop:
                yield Skipped(sample.key, "other_share")
            else:
                yield sample


def parse_share(text: str) -> tuple[float, float]:
    """``START:STOP`` as two numbers.

    Raises:
        ConfigError: It has not this form.

    Example:
        >>> parse_share("0.9:1")
        (0.9, 1.0)
    """
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(start or 0), float(stop or 1)
    except ValueError:
        raise ConfigError(f"--share is {text!r}; expected START:STOP, such as 0:0.9 and 0.9:1") from None


def _chance(path: str) -> float:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)

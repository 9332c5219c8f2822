"""Exceptions of ``crnn``, under ``CrnnError``; each also derives from a built-in, so that callers may catch either.

Every message says what was given, what was expected and what to do, with the path, key or flag as the user typed it.
"""

import re
from functools import partial

# What a terminal obeys instead of showing it, marks of the direction of writing too, and what no encoding has.
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = 1000) -> str:
    """Return a text for people as one line, of ``limit`` characters: the rest is left out of its middle."""
    shown = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    end = (limit - 3) // 2
    return shown if len(shown) <= limit else f"{shown[: limit - 3 - end]}...{shown[len(shown) - end :]}"


class CrnnError(Exception):
    """Root of all errors that this package raises on purpose; as a text it is one line that can be printed."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(CrnnError, ValueError):
    """A setting is unknown, mistyped or contradicts another one."""


class CharsetError(CrnnError, ValueError):
    """A character is not in the charset, or a charset is unusable."""


class DataError(CrnnError, ValueError):
    """A dataset, a record or a label cannot be used."""


class ImageError(DataError):
    """One image cannot be read; ``reason`` is its name for counting.

    Reasons: ``missing``, ``empty``, ``not_an_image``, ``truncated``, ``too_large``, ``outside_root``; for crops also
    ``outside_image``, ``no_area``, ``mirrored``, ``not_convex``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (data workers) by pickling; the keyword argument must come along, and the
        # attributes, as notes (the traceback over there) are one of them.
        return (partial(ImageError, reason=self.reason), (str(self),), self.__dict__)


class CheckpointError(CrnnError, RuntimeError):
    """A weights file or a checkpoint is missing, damaged, foreign or from a newer version."""


class ExportMismatchError(CrnnError, RuntimeError):
    """An exported network does not compute what its source computes."""


class TrainingError(CrnnError, RuntimeError):
    """A training run cannot go on: non-finite loss, a dead worker, a locked folder."""


class MissingExtraError(CrnnError, ImportError):
    """An optional package is not installed; the message says what to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'. Install it with: pip install 'crnn[{extra}]'")
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[object, ...]:
        return (MissingExtraError, (self.package, self.extra, self.purpose), self.__dict__)

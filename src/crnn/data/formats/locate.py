"""Where the annotation of a set is, and what in it can name a picture."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from crnn.errors import DataError

__all__ = ["find_annotation", "is_name", "one_line"]

_CONTROL = re.compile("[\0-\x1f\x7f]")


def find_annotation(source: str | os.PathLike[str], candidates: Sequence[str]) -> Path:
    """The annotation that ``source`` is, or that is in the folder ``source``.

    Args:
        source: The annotation itself, or the folder of the set.
        candidates: Where it may be in that folder, the likeliest first, with ``/``.

    Returns:
        An absolute path of a file.

    Raises:
        DataError: ``source`` does not exist, or has none of ``candidates`` in it.
    """
    path = Path(source)
    try:
        if path.is_file():
            return path.absolute()
        if not path.exists():
            raise DataError(
                f"{os.fspath(source)}: does not exist; expected {candidates[0]} or its folder. Check the path"
            )
        for candidate in candidates:
            if (path / candidate).is_file():
                return (path / candidate).absolute()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path; but DataError is one too
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{os.fspath(source)}: cannot be read: {why}. Check the path") from error
    raise DataError(
        f"{os.fspath(source)}: has no {' or '.join(candidates)}; expected the folder of the set as it is published, or "
        "the annotation itself. Check the path"
    )


def is_name(text: str) -> bool:
    """Whether a text can name a picture: it is not empty, and has no line feed or other control character in it."""
    return bool(text) and not _CONTROL.search(text)


def one_line(text: str) -> str:
    """A text as messages have it: control characters are spaces."""
    return _CONTROL.sub(" ", text).strip()

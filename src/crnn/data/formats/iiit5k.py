"""IIIT 5K-Word: ``traindata.mat`` (2,000 words) and ``testdata.mat`` (3,000), cropped, with two lexicons.

Structs with ``ImgName``, ``GroundTruth``, ``smallLexi`` (50 words) and ``mediumLexi`` (1,000), upper-case.
Reference: Mishra, Alahari and Jawahar 2012, "Scene text recognition using higher order language priors"; README of the
archive. Read against mindspore-ai/models (order of the fields) and docTR (boxes of characters in ``*CharBound.mat``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crnn.data.formats.matfile import Variables, read_mat, text_rows
from crnn.data.formats.records import Record, Skipped, find_annotation, is_name, one_line, printable, relative_path
from crnn.errors import ConfigError, DataError

_FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")


class Iiit5kReader:
    """The words of IIIT5k, in the order of the file.

    ``source`` is the folder with ``traindata.mat`` and ``testdata.mat`` (``IIIT5K``, or its parent), or one of these
    files, for which ``split`` is ignored. Reasons of skips: ``malformed`` (image name or label is no text),
    ``encoding``, ``outside_root``, ``no_label``.
    """

    def __init__(self, source: str | os.PathLike[str], split: Literal["train", "test"] = "test") -> None:
        if split not in ("train", "test"):
            raise ConfigError(f"IIIT5k has no split {split!r}; expected train or test")
        self._path = find_annotation(source, (f"{split}data.mat", f"IIIT5K/{split}data.mat"))
        self.root: Path = self._path.parent
        self._samples = list(read_mat(self._path, ("traindata", "testdata"), _samples))

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)

    def __repr__(self) -> str:
        return f"Iiit5kReader({str(self._path)!r})"


def _samples(path: Path, variables: Variables) -> Iterator[Record | Skipped]:
    name = next((name for name in ("traindata", "testdata") if name in variables), None)
    if name is None:
        hint = "it has the boxes of characters; " if any("CharBound" in other for other in variables) else ""
        raise DataError(
            f"{path}: has {', '.join(variables) or 'no variables'}; {hint}expected traindata or testdata. Give "
            "traindata.mat or testdata.mat"
        )
    words = variables[name]
    fields = words.dtype.names or ()
    if not set(fields).issuperset(_FIELDS[:2]) or words.size == 0:
        raise DataError(
            f"{path}: {name} has the shape {words.shape} and the fields {', '.join(fields) or 'none'}; expected "
            f"structs with {', '.join(_FIELDS)}. Check the file"
        )
    empty = np.zeros((0, 0))
    for number, word in enumerate(words.ravel("F"), start=1):
        yield _sample(number, *(word[field] if field in fields else empty for field in _FIELDS))


def _sample(number: int, name: Any, label: Any, small: Any, large: Any) -> Record | Skipped:
    published = "\n".join(text_rows(name) or ())
    key = printable(one_line(published)) or f"word {number}"
    rows = text_rows(label)
    if not is_name(published) or rows is None or len(rows) > 1:
        return Skipped(key, "malformed")
    path = relative_path(published)
    if path is None:
        return Skipped(key, "outside_root")
    if not "".join(rows):
        return Skipped(path, "no_label")
    if "\ufffd" in rows[0] + path:
        return Skipped(path, "encoding")
    return Record(key=path, label=rows[0], path=path, lexicon=_words(small), large_lexicon=_words(large))


def _words(cells: Any) -> tuple[str, ...]:
    if not isinstance(cells, np.ndarray) or cells.dtype.kind != "O":
        return ()
    words = ("\n".join(text_rows(cell) or ()) for cell in cells.ravel("F"))
    return tuple(sys.intern(word) for word in words if word)  # lexicons have many words in common

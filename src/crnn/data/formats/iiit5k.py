"""IIIT 5K-Word: ``traindata.mat`` (2,000 words) and ``testdata.mat`` (3,000), cropped, with two lexicons.

Structs with ``ImgName``, ``GroundTruth``, ``smallLexi`` (50 words) and ``mediumLexi`` (1,000), upper-case.
Reference: Mishra, Alahari and Jawahar 2012, "Scene text recognition using higher order language priors"; README of the
archive. Read against mindspore-ai/models (order of the fields) and docTR (boxes of characters in ``*CharBound.mat``).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crnn.data.formats.matfile import Variables, read_mat, text_rows
from crnn.data.formats.records import Reader, Record, Skipped, find_annotation, sample
from crnn.errors import DataError

_FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")


class Iiit5kReader(Reader):
    """The words of a file, or of that of ``split`` in ``IIIT5K`` or its parent, in their order."""

    def __init__(self, source: str | os.PathLike[str], split: Literal["train", "test"] = "test") -> None:
        path = find_annotation(source, (f"{split}data.mat", f"IIIT5K/{split}data.mat"))
        self.root = path.parent
        self._samples = list(read_mat(path, ("traindata", "testdata"), _samples))

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)


def _samples(path: Path, variables: Variables) -> Iterator[Record | Skipped]:
    words = variables.get("traindata", variables.get("testdata"))
    fields = () if words is None else words.dtype.names or ()
    if not set(fields).issuperset(_FIELDS[:2]) or words.size == 0:
        raise DataError(f"{path}: has {', '.join(variables) or 'nothing'}; expected structs of {', '.join(_FIELDS)}")
    for number, word in enumerate(words.ravel("F"), start=1):
        name, label, small, large = (word[field] if field in fields else None for field in _FIELDS)
        rows = text_rows(label)
        text = "".join(rows or ())
        fault = "malformed" if rows is None or len(rows) > 1 else "encoding" if "\ufffd" in text else ""
        yield sample(
            "\n".join(text_rows(name) or ()), text, lexicon=_words(small), large_lexicon=_words(large), fault=fault,
            place=f"word {number}",
        )  # fmt: skip


def _words(cells: Any) -> tuple[str, ...]:
    if not isinstance(cells, np.ndarray) or cells.dtype.kind != "O":
        return ()
    words = ("\n".join(text_rows(cell) or ()) for cell in cells.ravel("F"))
    return tuple(sys.intern(word) for word in words if word)  # lexicons have many words in common

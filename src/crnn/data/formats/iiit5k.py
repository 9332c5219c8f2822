"""IIIT 5K-Word: ``traindata.mat``, ``testdata.mat`` beside ``train/`` and ``test/``; cropped words, two lexicons.

Each file has one array of structs, called like the file, with the fields ``ImgName`` (``test/1002_1.png``),
``GroundTruth`` (``PRIVATE``), ``smallLexi`` (a cell array of 50 words) and ``mediumLexi`` (of 1,000). 2,000 words are
for training, 3,000 for testing. Labels and lexicons are upper-case as published. ``trainCharBound.mat`` and
``testCharBound.mat`` in the same archive are something else: boxes of single characters, without lexicons.

References:
    Mishra, Alahari and Jawahar 2012, "Scene text recognition using higher order language priors". Read against: the
    README of the archive, mindspore-ai/models (official/cv/CRNN: the order of the four fields), docTR (the files of
    character boxes), and two readers that go by the names and by the order of the fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from crnn.data.formats.annotation import printable, relative_path
from crnn.data.formats.locate import find_annotation, is_name, one_line
from crnn.data.formats.matfile import MatFile
from crnn.data.formats.matvalue import MatText, MatValue
from crnn.data.formats.record import Record, Skipped
from crnn.errors import ConfigError, DataError

__all__ = ["Iiit5kReader"]

_FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")


class Iiit5kReader:
    """The words of IIIT5k, in the order of the file, which is read as they are asked for.

    Reasons of what is skipped: ``malformed`` (the picture's name or the label is not a text), ``encoding``,
    ``outside_root``, ``no_label``.

    Args:
        source: The folder with ``traindata.mat`` and ``testdata.mat`` (``IIIT5K`` in the archive, or the folder around
            it), or one of these files.
        split: Which of the two; it does not matter where ``source`` is a file.

    Raises:
        ConfigError: There is no such split.
        DataError: There is no such file, it is not what IIIT5k publishes, or has no word in it. A file that is damaged
            further on is found when it is iterated.
    """

    def __init__(self, source: str | os.PathLike[str], split: Literal["train", "test"] = "test") -> None:
        if split not in ("train", "test"):
            raise ConfigError(f"IIIT5k has no split {split!r}; expected train or test")
        path = find_annotation(source, (f"{split}data.mat", f"IIIT5K/{split}data.mat"))
        self.root: Path = path.parent
        self._file = MatFile(path)
        found = self._file.variables
        names = [name for name in ("traindata", "testdata") if name in found]
        if not names:
            hint = "it has the boxes of characters; " if any("CharBound" in name for name in found) else ""
            raise DataError(
                f"{path}: has {', '.join(found) or 'no variables'}; {hint}expected traindata or testdata. Give "
                "traindata.mat or testdata.mat"
            )
        self._name = names[0]
        variable = found[self._name]
        missing = [field for field in _FIELDS[:2] if field not in variable.fields]
        if variable.kind != "struct" or missing or variable.size == 0:
            raise DataError(
                f"{path}: {self._name} is {variable.kind} of the shape {variable.shape} with the fields "
                f"{', '.join(variable.fields) or 'none'}; expected structs with {', '.join(_FIELDS)}. Check the file"
            )
        self._num_samples = variable.size

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        for number, values in enumerate(self._file.structs(self._name, _FIELDS), start=1):
            yield _sample(number, *values)

    def __repr__(self) -> str:
        return f"Iiit5kReader({self._file.path!r})"


def _sample(
    number: int, name: MatValue | None, label: MatValue | None, small: MatValue | None, large: MatValue | None
) -> Record | Skipped:
    published = name.text if isinstance(name, MatText) else ""
    key = printable(one_line(published)) or f"word {number}"
    if not is_name(published) or not _is_text(label):
        return Skipped(key, "malformed")
    path = relative_path(published)
    if path is None:
        return Skipped(key, "outside_root")
    text = label.text if isinstance(label, MatText) else ""
    if not text:
        return Skipped(path, "no_label")
    if "\ufffd" in text + path:
        return Skipped(path, "encoding")
    return Record(key=path, label=text, path=path, lexicon=_words(small), large_lexicon=_words(large))


def _is_text(value: MatValue | None) -> bool:
    # An empty text is an empty matrix of numbers for some writers.
    if isinstance(value, MatText):
        return len(value.rows) <= 1
    return value is not None and not isinstance(value, tuple) and value.size == 0


def _words(value: MatValue | None) -> tuple[str, ...]:
    cells = value if isinstance(value, tuple) else ()
    return tuple(cell.text for cell in cells if isinstance(cell, MatText) and cell.text)

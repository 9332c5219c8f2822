"""ICDAR 2003 Robust Reading: words tagged in scenes (``words.xml``), or cut out by the organisers (``word.xml``).

The scene sets (``SceneTrialTrain``, ``SceneTrialTest``)::

    <tagset>
      <image>
        <imageName>ryoungt_05.08.2002/aPICT0035.JPG</imageName>
        <resolution x="1279" y="507" />
        <taggedRectangles>
          <taggedRectangle x="513.0" y="89.0" width="154.0" height="75.0" offset="0.0" rotation="0.0" userName="admin">
            <tag>ARE</tag>
            <segmentation>...</segmentation>

and the word sets (``TrialTrain``, ``TrialTest``)::

    <image file="word/1/1.jpg" tag="self" />

The benchmarks of 867 and 860 words come from the scenes of the test part, by a rule on labels that is applied when a
set is converted, not here. ``offset`` (how far slanted letters lean, in pixels, not 0 for some words), ``rotation`` (0
throughout what was seen) and ``segmentation`` are not used: every reader below takes the upright rectangle.

References:
    Lucas et al. 2005, "ICDAR 2003 robust reading competitions: entries, results, and future directions". Read against:
    words.xml of the test part itself (as lluisgomez/TextProposals has it, with its evaluation, which also takes words
    of three or more letters and digits), docTR, the descriptions by the organisers (algoval.essex.ac.uk) and by TC11,
    and a reader of ``word.xml`` that quotes a line of it; no copy of that file was at hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crnn.data.formats.annotation import printable, relative_path
from crnn.data.formats.locate import find_annotation, is_name, one_line
from crnn.data.formats.record import Record, Skipped
from crnn.data.formats.xmlfile import read_xml, tagged_words
from crnn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["Ic03Reader"]

_CANDIDATES = {
    ("scene", "train"): ("words.xml", "SceneTrialTrain/words.xml"),
    ("scene", "test"): ("words.xml", "SceneTrialTest/words.xml"),
    ("word", "train"): ("word.xml", "TrialTrain/word.xml"),
    ("word", "test"): ("word.xml", "TrialTest/word.xml"),
}


class Ic03Reader:
    """The words of IC03, in the order of the file.

    Args:
        source: The folder with ``words.xml`` or ``word.xml``, the folder around it, or one of these files.
        variant: ``scene`` or ``word``; it does not matter where ``source`` is a file, which says itself what it is.
        split: Which part, where ``source`` is the folder around several; else the folder decides.

    Raises:
        ConfigError: There is no such variant or split.
        DataError: There is no such file, it is not what ICDAR 2003 publishes, or has no word in it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        variant: Literal["scene", "word"] = "scene",
        split: Literal["train", "test"] = "test",
    ) -> None:
        if (variant, split) not in _CANDIDATES:
            raise ConfigError(
                f"IC03 has no variant {variant!r} with split {split!r}; expected scene or word, and train or test"
            )
        path = find_annotation(source, _CANDIDATES[variant, split])
        self.root: Path = path.parent
        self._samples: list[Record | Skipped] = []
        for number, image in enumerate(read_xml(path).findall("image"), start=1):
            if image.get("file") is None:
                self._samples.extend(tagged_words(image, number))
            else:
                self._samples.append(_word(image, number))
        if not self._samples:
            raise DataError(
                f"{path}: has no words; expected <image> with <taggedRectangle>, or <image file=... tag=...>. "
                "Check the file"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)


def _word(image: Element, number: int) -> Record | Skipped:
    name = image.get("file", "").strip()
    if not is_name(name):
        return Skipped(printable(one_line(name)) or f"image {number}", "malformed")
    path = relative_path(name)
    if path is None:
        return Skipped(printable(name), "outside_root")
    label = image.get("tag", "").strip()
    return Record(key=path, label=label, path=path) if label else Skipped(path, "no_label")

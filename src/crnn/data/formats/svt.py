"""Street View Text: ``train.xml`` and ``test.xml`` beside ``img/``, words tagged in scenes.

``<lex>`` of an ``<image>`` is the lexicon of about 50 words for all its words; labels are upper-case. 647 words in 249
test scenes, 257 in 100 training scenes. Boxes are clipped to the image, as in mmocr and MindOCR.
Reference: Wang, Babenko and Belongie 2011, "End-to-end scene text recognition"; vision.ucsd.edu/~kai/svt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from crnn.data.formats.records import Record, Skipped, find_annotation, read_xml, tagged_words
from crnn.errors import ConfigError, DataError


class SvtReader:
    """The words of SVT, in the order of the file.

    ``source`` is the folder with ``train.xml`` and ``test.xml`` (``svt1``, or its parent), or one of these files, for
    which ``split`` is ignored.
    """

    def __init__(self, source: str | os.PathLike[str], split: Literal["train", "test"] = "test") -> None:
        if split not in ("train", "test"):
            raise ConfigError(f"SVT has no split {split!r}; expected train or test")
        path = find_annotation(source, (f"{split}.xml", f"svt1/{split}.xml"))
        self.root: Path = path.parent
        self._samples: list[Record | Skipped] = []
        for number, image in enumerate(read_xml(path).findall("image"), start=1):
            lexicon = tuple(word for part in (image.findtext("lex") or "").split(",") if (word := part.strip()))
            self._samples.extend(tagged_words(image, number, lexicon))
        if not self._samples:
            raise DataError(f"{path}: has no words; expected <image> with <taggedRectangle>. Check the file")

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Record | Skipped]:
        return iter(self._samples)

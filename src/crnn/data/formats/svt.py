"""Street View Text: ``train.xml`` and ``test.xml`` beside ``img/``, words tagged in scenes, one lexicon per scene.

::

    <tagset>
      <image>
        <imageName>img/14_03.jpg</imageName>
        <address>341 Southwest 10th Avenue Portland OR</address>
        <lex>LIVING,ROOM,THEATERS,KENNY,...</lex>
        <Resolution x="1280" y="880"/>
        <taggedRectangles>
          <taggedRectangle height="75" width="236" x="375" y="253"><tag>LIVING</tag></taggedRectangle>

``<lex>`` is the list of about 50 words by which the set is read "with lexicon"; all words of a scene share it. Labels
are upper-case as published. The test part has 249 scenes with 647 words, the training part 100 with 257.

References:
    Wang, Babenko and Belongie 2011, "End-to-end scene text recognition"; vision.ucsd.edu/~kai/svt. Read against:
    test.xml itself (as lluisgomez/TextProposals has it), mmocr, docTR, MindOCR and OpenCV's datasets module, which
    agree on all of the above. Boxes that begin left of or above the picture are cut at its edge there (mmocr, MindOCR)
    and here.
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

    Args:
        source: The folder with ``train.xml`` and ``test.xml`` (``svt1`` in the archive, or the folder around it), or
            one of these files.
        split: Which of the two; it does not matter where ``source`` is a file.

    Raises:
        ConfigError: There is no such split.
        DataError: There is no such file, it is not what SVT publishes, or has no word in it.
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

"""MJSynth ("Synth90k"): 8.9 million synthetic words in the folder ``90kDICT32px``.

``annotation_*.txt`` has lines ``./2425/1/115_Lube_45484.jpg 45484``: path, with the word as drawn, and line of
``lexicon.txt``, from 0. 32 images are damaged (issue 117 of YCG09/chinese_ocr), which clovaai's LMDBs lack.
Reference: Jaderberg et al. 2014, arXiv:1406.2227; read against mindspore-ai/models, mmocr, docTR.
"""

import os
from collections.abc import Iterator
from typing import Literal

from crnn.data.formats.files import label_of_name
from crnn.data.formats.records import Reader, Record, Skipped, annotation_lines, find_annotation, sample
from crnn.errors import printable
from crnn.files import MAX_WORDS, text_lines

_FOLDERS = ("", "90kDICT32px/", "max/90kDICT32px/", "ramdisk/max/90kDICT32px/", "mnt/ramdisk/max/90kDICT32px/")


class MjsynthReader(Reader):
    """The words of one split of MJSynth, in the order of its annotation file.

    The annotation is read lazily; only the lexicon (88,000 words) is held. ``source`` is ``90kDICT32px``, a folder
    above it (``mnt/ramdisk/max`` in the archive), or an annotation file. ``labels`` are the lower-case words of
    ``lexicon.txt``, as in the ModelZoo, or those in the images' names, with their capitals, as without that file.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        split: Literal["train", "val", "test", "all"] = "train",
        *,
        labels: Literal["lexicon", "name"] = "lexicon",
    ) -> None:
        first, *others = ("train", "val", "test") if split == "all" else (split,)
        annotation = find_annotation(source, [f"{folder}annotation_{first}.txt" for folder in _FOLDERS])
        self.root = annotation.parent
        self._files = [annotation, *(self.root / f"annotation_{name}.txt" for name in others)]
        lexicon = self.root / "lexicon.txt"
        self._words: list[str] | None = None
        if labels == "lexicon" and lexicon.exists():
            words = text_lines(lexicon, max_lines=MAX_WORDS)
            self._words = [line.strip() for line in words]  # with blank lines: the annotation counts them
        elif labels == "lexicon":
            self.notes = (f"{lexicon} is not there: the labels are those of the names, with their capitals",)

    def __len__(self) -> int:
        return sum(1 for file in self._files for _ in annotation_lines(file))

    def __iter__(self) -> Iterator[Record | Skipped]:
        for file in self._files:
            yield from map(self._sample, annotation_lines(file))

    def _sample(self, line: str) -> Record | Skipped:
        name, _, number = line.strip().rpartition(" ")
        if not (name and number.isdecimal()):
            name, number = line.strip(), ""
        if self._words is None:
            return sample(name, label_of_name(name))
        if not number:
            return Skipped(printable(line), "malformed")
        known = len(number) < 10 and int(number) < len(self._words)
        return sample(name, self._words[int(number)] if known else "", fault="" if known else "index")

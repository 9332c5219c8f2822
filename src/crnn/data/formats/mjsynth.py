"""MJSynth ("Synth90k"): 8.9 million synthetic words in the folder ``90kDICT32px``.

``annotation_*.txt`` has lines ``./2425/1/115_Lube_45484.jpg 45484``: path, with the word as drawn, and line of
``lexicon.txt``, from 0. 32 images are damaged (issue 117 of YCG09/chinese_ocr); clovaai's LMDBs lack them.
Reference: Jaderberg et al. 2014, arXiv:1406.2227; read against mindspore-ai/models, mmocr, docTR.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from crnn.data.formats.files import label_of_name
from crnn.data.formats.records import AnnotationLines, Record, Skipped, decoded, kind_of, printable, relative_path
from crnn.errors import ConfigError, DataError

Split = Literal["train", "val", "test", "all"]

NUM_SAMPLES = {"train": 7_224_612, "val": 802_734, "test": 891_927, "all": 8_919_273}
"""Lines of the published annotations; clovaai's LMDBs have 7,224,586, 802,731 and 891,924 samples."""

_INSIDE = ("", "90kDICT32px", "max/90kDICT32px", "ramdisk/max/90kDICT32px", "mnt/ramdisk/max/90kDICT32px")
_NUM_CHECKED = 1000
_MAX_DIGITS = 9


class MjsynthReader:
    """The words of one split of MJSynth, in the order of its annotation file.

    The annotation is read lazily; only the lexicon (88,000 words) is held.

    Args:
        source: ``90kDICT32px``, or a folder above it (``mnt/ramdisk/max`` in the archive).
        split: ``all`` is train, then val, then test.
        label: ``lexicon``: the lower-case word of ``lexicon.txt``, as in the ModelZoo; ``name``: the word in the
            image's name, with its capitals, also used where ``lexicon.txt`` is missing.

    Raises:
        DataError: The set is missing, its annotation is malformed, or the lexicon contradicts the images' names.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        split: Split = "train",
        *,
        label: Literal["lexicon", "name"] = "lexicon",
    ) -> None:
        if split not in NUM_SAMPLES:
            raise ConfigError(f"split is {split!r}; expected train, val, test or all")
        if label not in ("lexicon", "name"):
            raise ConfigError(f"label is {label!r}; expected lexicon or name")
        names = ("train", "val", "test") if split == "all" else (split,)
        self.root, self._files = _found(os.fspath(source), [f"annotation_{name}.txt" for name in names])
        lexicon = self.root / "lexicon.txt"
        self._words = _lexicon(lexicon) if label == "lexicon" and kind_of(lexicon) else None
        self.labels_from: Literal["lexicon", "name"] = "name" if self._words is None else "lexicon"
        self.notes: tuple[str, ...] = ()
        if self.labels_from != label:
            self.notes = (f"{lexicon} is not there: the labels are those of the names, with their capitals",)
        self._check()
        self._num_samples = sum(1 for _ in self._lines())

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[Record | Skipped]:
        return map(self._sample, self._lines())

    def __repr__(self) -> str:
        return f"MjsynthReader({str(self.root)!r})"

    def _lines(self) -> Iterator[bytes]:
        return itertools.chain.from_iterable(AnnotationLines(file) for file in self._files)

    def _sample(self, line: bytes) -> Record | Skipped:
        head, _, number = line.strip().rpartition(b" ")
        if not (head and number.isdigit()):
            head, number = line.strip(), b""
        name = decoded(head)
        if name is None:
            return Skipped(printable(head), "encoding")
        path = relative_path(name)
        if path is None:
            return Skipped(printable(name), "outside_root")
        if self._words is None:
            label = label_of_name(path)
        elif not number:
            return Skipped(printable(name), "malformed")
        elif len(number) > _MAX_DIGITS or int(number) >= len(self._words):
            return Skipped(printable(path), "index")
        else:
            label = self._words[int(number)]
        key = printable(path)
        return Record(key=key, label=label, path=path) if label else Skipped(key, "no_label")

    def _check(self) -> None:
        """Refuse a malformed annotation, or another set's lexicon, before millions of lines are read."""
        for file in self._files:
            head = list(itertools.islice(AnnotationLines(file), _NUM_CHECKED))
            good = [sample for sample in map(self._sample, head) if isinstance(sample, Record)]
            if not good:
                first = f"it begins with '{printable(head[0], 60)}'" if head else "it is empty"
                raise DataError(
                    f"{file}: none of its first lines names a word: {first}; expected lines like "
                    "'./2425/1/115_Lube_45484.jpg 45484'. Check the file"
                )
            if self._words is None:
                continue
            named = [(sample, name) for sample in good if (name := label_of_name(sample.path))]
            wrong = [(sample, name) for sample, name in named if name.lower() != sample.label.lower()]
            if 2 * len(wrong) > len(named):
                sample, name = wrong[0]
                raise DataError(
                    f"{self.root / 'lexicon.txt'}: contradicts {len(wrong)} of the first {len(named)} names in "
                    f"{file.name}: {sample.label!r} for {sample.path!r}, which says {name!r}. "
                    "Put the lexicon of this set there, or take the labels from the names"
                )


def _found(source: str, names: list[str]) -> tuple[Path, list[Path]]:
    base = Path(source)
    if kind_of(base) != "folder":
        raise DataError(f"{source}: there is no such folder; expected 90kDICT32px or a folder above it. Check the path")
    for inside in _INSIDE:
        root = base / inside
        files = [root / name for name in names]
        missing = ", ".join(file.name for file in files if kind_of(file) != "file")
        if not missing:
            return root, files
        if any(kind_of(root / name) for name in (*names, "lexicon.txt")):
            raise DataError(f"{root}: {missing} is not in it; expected it beside lexicon.txt. Unpack the archive again")
    raise DataError(
        f"{source}: {names[0]} is neither in it nor in {_INSIDE[-1]} below it; expected 90kDICT32px or a folder above "
        "it. Check the path"
    )


def _lexicon(file: Path) -> list[str]:
    """Return the words, one per line; blank lines count, as the annotation counts lines."""
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}. Check the file") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}, line {line}: is not UTF-8; expected a word a line. Save the file as UTF-8") from None
    return [word.strip() for word in text.removesuffix("\n").split("\n")]

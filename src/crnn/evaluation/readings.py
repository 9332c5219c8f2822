"""Readings in files, of any program, and their figures under the protocols of ``evaluate``.

A file has lines of ``path<TAB>text[<TAB>confidence]``, as ``crnn read`` prints and ``crnn evaluate --readings`` writes
them, or of JSON objects with ``image`` and ``text`` (and perhaps ``confidence`` and ``score``) or ``error``, as those
of ``crnn read --json``.
"""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from crnn.config.model import CharsetConfig
from crnn.config.section import checked_call
from crnn.config.training import ProtocolName
from crnn.data.source import SampleStore
from crnn.data.store import LmdbStore
from crnn.errors import ConfigError, DataError
from crnn.evaluation.evaluate import DataSpecs, ProtocolCharset, SetSamples, check_lexicons, open_sets
from crnn.evaluation.lexicons import SetLexicon, open_lexicon
from crnn.evaluation.results import Evaluation
from crnn.files import ImageFolder, atomic_write, not_utf8, slashed, text_lines
from crnn.image import load_image
from crnn.reading_order import as_read

_MAX_LINES = 5_000_000  # some 300 bytes each in memory


@dataclass(frozen=True, slots=True)
class FileReading:
    """One line of a file: name of the image, text (``None`` where the program gave an error), and how sure it is."""

    line: int
    image: str
    text: str | None
    confidence: float | None = None  # in [0, 1]
    score: float = math.nan  # log-probability


def load_readings(path: str | os.PathLike[str]) -> list[FileReading]:
    """Load the readings of a file; a line that is none is a ``DataError`` with its number."""
    path = os.fspath(path)
    readings: list[FileReading] = []
    objects = None
    for number, line in enumerate(text_lines(Path(path), path, _MAX_LINES), start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if not line.strip():
            continue
        if objects is None:  # names of images may begin with a brace, and objects have no bare tabs
            objects = line.lstrip().startswith("{") and "\t" not in line.strip()
        try:
            if not_utf8(line):
                raise ValueError("is not UTF-8; expected a file in UTF-8")
            readings.append(_from_json(number, line) if objects else _from_columns(number, line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {line[:60]!r} {error}") from None
    if not readings:
        raise DataError(f"{path}: has no reading; expected path<TAB>text, or JSON objects with image and text")
    return readings


def _from_columns(number: int, line: str) -> FileReading:
    image, *columns = line.split("\t")
    if not image or len(columns) not in (1, 2):
        raise ValueError("is no reading; expected path<TAB>text[<TAB>confidence], or a JSON object on every line")
    sure = "".join(columns[1:])
    is_number = re.fullmatch(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?", sure)
    return _reading(number, image, columns[0], float(sure) if is_number else sure or None)


def _from_json(number: int, line: str) -> FileReading:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    values = found if isinstance(found, dict) else {}
    image, text = values.get("image"), values.get("text")
    if not isinstance(image, str) or not image or not isinstance(values.get("error") if text is None else text, str):
        raise ValueError('is no reading; expected a JSON object with "image" and "text" or "error"')
    return _reading(number, image, text, values.get("confidence"), values.get("score"))


def _reading(number: int, image: str, text: str | None, sure: Any, score: Any = None) -> FileReading:
    if sure is None:
        return FileReading(number, image, text)
    if not isinstance(sure, int | float) or not 0 <= sure <= 1:
        raise ValueError(f"has the confidence {sure!r:.40}; expected a number from 0 to 1, or none")
    if not isinstance(score, int | float) or not -1e9 <= score <= 0:
        score = math.log(sure) if sure else -math.inf
    return FileReading(number, image, text, float(sure), float(score))


def write_readings(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write the readings of an evaluation, from which ``score_readings`` gets the same counts; atomically.

    Images have the names that they have in their set, behind ``NAME=`` where there are several sets.
    """
    lines = {}  # by image: a list may have one twice
    for dataset in evaluation.datasets:
        for sample in dataset.samples:
            name = f"{dataset.name}={sample.key}" if len(evaluation.datasets) > 1 else sample.key
            sure = math.exp(min(sample.score, 0.0)) if sample.confidence is None else sample.confidence
            lines[name] = f"{name}\t{sample.raw_prediction}" + ("" if math.isnan(sure) else f"\t{sure:.6f}")
    atomic_write(Path(path), "".join(f"{line}\n" for line in lines.values()).encode(), DataError)


class _SetNames:
    """The samples of a set by the names that readings give their images."""

    def __init__(self, store: SampleStore) -> None:
        self._root = os.path.dirname(os.path.abspath(store.path))  # noqa: PTH100, PTH120
        self._num_numbered = len(store) if isinstance(store, LmdbStore) else 0
        self._images = ImageFolder(self._root)
        self._paths: defaultdict[str, list[int]] = defaultdict(list)  # of one image perhaps several
        self._bases: defaultdict[str, set[str]] = defaultdict(set)
        for index in range(0 if self._num_numbered else len(store)):
            path = os.path.normpath(slashed(store.key(index), self._root))
            self._paths[path].append(index)
            self._bases[PurePosixPath(path).name].add(path)

    def by_path(self, image: str) -> list[int]:
        """Return the samples whose key, number or file it is: relative to the list, absolute, or from here."""
        if self._num_numbered:
            number = re.fullmatch(r"(?:image-)?(\d{1,18})", PurePosixPath(slashed(image)).stem)
            return [int(number[1]) - 1] if number is not None and 0 < int(number[1]) <= self._num_numbered else []
        place = slashed(image, self._root)
        if (path := os.path.normpath(place)) not in self._paths:
            path = os.path.relpath(place, self._root)
        if path not in self._paths:  # by way of a link
            path = self._images.relative(os.path.abspath(place)) or ""  # noqa: PTH100
        return self._paths.get(path, [])

    def by_base_name(self, image: str) -> list[int]:
        """Return the samples of the one image in the set that has this name, in whatever folder."""
        paths = self._bases.get(PurePosixPath(slashed(image)).name, set())
        return self._paths[next(iter(paths))] if len(paths) == 1 else []


def match_readings(
    path: str, readings: Sequence[FileReading], sets: Sequence[tuple[str, SampleStore]]
) -> tuple[list[dict[int, FileReading]], list[FileReading]]:
    """Return the readings of each set by the index of the sample, and those of no sample.

    An image is named as in the set (path in a list, key or number in an LMDB folder), also behind ``NAME=`` of the set;
    by a path to the file, absolute or from the current folder; or, if no reading is so of any sample of a set, by a
    base name that one image of it has. Two readings of one sample, one of two sets, and a set with none are a
    ``DataError``.
    """
    names = {f"{name}=": _SetNames(store) for name, store in sets}
    found: dict[str, dict[int, FileReading]] = {prefix: {} for prefix in names}
    owners: dict[int, str] = {}  # the set of a reading, by its line

    def take(prefix: str, reading: FileReading, indices: Sequence[int]) -> None:
        if indices and (owner := owners.setdefault(reading.line, prefix)) != prefix:
            where = f"{owner[:-1]} and of {prefix[:-1]}; expected {owner}IMAGE, or one set"
            raise DataError(f"{path}:{reading.line}: {reading.image!r} is an image of {where}")
        for index in indices:
            if (other := found[prefix].setdefault(index, reading)) is not reading:
                raise DataError(
                    f"{path}:{reading.line}: {reading.image!r} is read in line {other.line} already, as "
                    f"{other.image!r}; expected one reading of each image. Remove one, or give paths"
                )

    for reading in readings:
        given = next((prefix for prefix in names if reading.image.startswith(prefix)), "")
        for prefix in [given] if given else names:
            take(prefix, reading, names[prefix].by_path(reading.image.removeprefix(given)))
    for prefix in [prefix for prefix, matches in found.items() if not matches]:
        for reading in [reading for reading in readings if reading.line not in owners]:
            take(prefix, reading, names[prefix].by_base_name(reading.image))
    for name, store in sets:
        if not found[f"{name}="]:
            raise DataError(
                f"{path}: has no reading of {store.path}, whose first image is {store.key(0)!r}; the first reading is "
                f"of {readings[0].image!r}. Expected the names of the set, or paths of its files"
            )
    return list(found.values()), [reading for reading in readings if reading.line not in owners]


@checked_call
def score_readings(
    path: str | os.PathLike[str],
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    like: CharsetConfig | None = None,
    lexicons: Sequence[str] = (),
    max_bad_share: float = 0.1,
) -> Evaluation:
    """Compare the readings in a file with the labels of sets, as ``evaluate`` does with those of a model.

    A sample without a text counts as wrong, and is named, unless its image cannot be read here either: then it is left
    out, as it is for a model. So all readers are measured on the same samples.

    Args:
        path: The file.
        data: LMDB folders or list files; ``NAME=PATH`` gives the name in the table.
        protocol: Rules for labels and readings.
        charset: Characters that are compared. ``auto``: those of ``like``, as for a model that has them, else 36.
        like: Characters and label rules of a model.
        lexicons: As for ``evaluate``; of a lexicon the word at the smallest edit distance is taken, the first of
            several. Reference: Shi et al. 2018, "ASTER", section 4.
        max_bad_share: A larger share of unreadable images, at least ten, is an error.

    Raises:
        DataError: As ``evaluate``, ``load_readings`` and ``match_readings``.
        ConfigError: As ``evaluate``; or there are lexicons for lines.
    """
    if lexicons and protocol == "lines":
        raise ConfigError(f"lexicon {lexicons[0]!r} is given for readings under protocol lines; expected one of words")
    path = os.fspath(path)
    sets = open_sets(like, data, protocol=protocol, charset=charset)
    found, unknown = match_readings(path, load_readings(path), [(name, store) for name, store, _ in sets])
    results = []
    for (name, store, rules), readings in zip(sets, found, strict=True):
        opened = [open_lexicon(spec, store, rules.charset, rules.label_rules) for spec in lexicons]
        samples, missing = SetSamples(store, rules), []
        unsure = 0.0 if any(reading.confidence is not None for reading in readings.values()) else None
        for sample in samples.labelled(range(len(store))):
            read = readings.get(sample.index)
            if read is None or read.text is None:
                try:
                    load_image(store.image_bytes(sample.index), 1)
                except DataError as error:
                    samples.skip_unreadable(sample.index, error)
                    continue
                missing.append(sample.key)
                read = FileReading(0, sample.key, None, unsure)
            text = no_reading(sample.label) if read.text is None else rules.prediction(read.text)
            if text and as_read(text) == sample.label:  # lines of mixed direction have several orders that look alike
                text = sample.label
            words = tuple(_nearest(lexicon, sample.index, text, read.text is not None) for lexicon in opened)
            raw = text if read.text is None else read.text
            sample = replace(sample, prediction=text, raw_prediction=raw, words=words)
            samples.samples.append(replace(sample, score=read.score, confidence=read.confidence))
        samples.finish(None, max_bad_share)
        results.append(samples.result(name, opened, without_reading=tuple(missing)))
    check_lexicons(lexicons, results)
    return Evaluation(path, protocol, tuple(results), tuple(reading.image for reading in unknown))


def no_reading(label: str) -> str:
    """Return the text that stands for a missing reading: an empty one, unless that would be right."""
    return "" if label else "\ufffd"


def _nearest(lexicon: SetLexicon, index: int, text: str, is_read: bool) -> str | None:
    """Return the word of a lexicon that is nearest to a text; ``None`` without a lexicon."""
    if (words := lexicon.of(index)) is None or not is_read:
        return None if words is None else text
    return str(process.extractOne(text, words.words, scorer=Levenshtein.distance)[0])

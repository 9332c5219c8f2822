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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from crnn.config.model import CharsetConfig
from crnn.config.section import checked_call
from crnn.config.training import ProtocolName
from crnn.data.source import SampleStore
from crnn.data.store import LmdbStore
from crnn.errors import DataError
from crnn.evaluation.evaluate import (
    DataSpecs,
    ProtocolCharset,
    SetSamples,
    check_lexicon_names,
    check_lexicons,
    open_sets,
)
from crnn.evaluation.lexicons import nearest_words
from crnn.evaluation.results import Evaluation
from crnn.files import ImageFolder, atomic_write, not_utf8, slashed, text_lines
from crnn.image import load_image

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
    parse: Callable[[int, str], FileReading] | None = None
    for number, line in enumerate(text_lines(Path(path), path, _MAX_LINES), start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if not line.strip():
            continue
        parse = parse or (_from_json if line.lstrip().startswith("{") else _from_columns)
        try:
            if not_utf8(line):
                raise ValueError("is not UTF-8; expected a file in UTF-8")
            readings.append(parse(number, line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: {line[:60]!r} {error}") from None
    if not readings:
        raise DataError(f"{path}: has no reading; expected path<TAB>text, or JSON objects with image and text")
    return readings


def _from_columns(number: int, line: str) -> FileReading:
    image, *columns = line.split("\t")
    if not image or len(columns) not in (1, 2):
        raise ValueError("is no reading; expected path<TAB>text[<TAB>confidence], or a JSON object on every line")
    text, sure = columns[0], columns[1] if len(columns) == 2 else ""
    return _reading(number, image, text, float(sure) if _NUMBER.fullmatch(sure) else sure or None)


_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")


def _from_json(number: int, line: str) -> FileReading:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    image, text, error = (values.get(k) for k in ("image", "text", "error")) if isinstance(values, dict) else [None] * 3
    if not isinstance(image, str) or not image or not isinstance(error if text is None else text, str):
        raise ValueError('is no reading; expected a JSON object with "image" and "text" or "error"')
    return _reading(number, image, text, values.get("confidence"), values.get("score"))


def _reading(number: int, image: str, text: str | None, confidence: object, score: object = None) -> FileReading:
    if confidence is None:
        return FileReading(number, image, text)
    if not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise ValueError(f"has the confidence {confidence!r:.40}; expected a number from 0 to 1, or none")
    known = isinstance(score, int | float) and -1e9 <= score <= 0
    log_prob = score if known else math.log(confidence) if confidence else -math.inf
    return FileReading(number, image, text, float(confidence), float(log_prob))  # type: ignore[arg-type]


def write_readings(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write the readings of an evaluation, from which ``score_readings`` gets the same counts; atomically.

    Images have the names that they have in their set, behind ``NAME=`` where there are several sets.
    """
    several = len(evaluation.datasets) > 1
    lines = {}  # by image: a list may have one twice
    for dataset in evaluation.datasets:
        for sample in dataset.samples:
            name = f"{dataset.name}={sample.key}" if several else sample.key
            sure = math.exp(min(sample.score, 0.0)) if sample.confidence is None else sample.confidence
            shown = "" if math.isnan(sure) else f"\t{sure:.6f}"
            lines[name] = f"{name}\t{sample.raw_prediction}{shown}\n"
    atomic_write(Path(path), "".join(lines.values()).encode(), DataError)


class _SetNames:
    """The samples of a set by the names that readings give their images."""

    def __init__(self, store: SampleStore) -> None:
        self._store, self._root = store, os.path.dirname(os.path.abspath(store.path))  # noqa: PTH100, PTH120
        self._paths: defaultdict[str, list[int]] = defaultdict(list)  # of one image perhaps several
        self._bases: defaultdict[str, set[str]] = defaultdict(set)
        if isinstance(store, LmdbStore):
            return
        self._images = ImageFolder(self._root)
        for index in range(len(store)):
            path = os.path.normpath(slashed(store.key(index), self._root))
            self._paths[path].append(index)
            self._bases[PurePosixPath(path).name].add(path)

    def by_path(self, image: str) -> list[int]:
        """Return the samples whose key, number or file it is: relative to the list, absolute, or from here."""
        if isinstance(self._store, LmdbStore):
            number = re.fullmatch(r"(?:image-)?(\d{1,18})", PurePosixPath(slashed(image)).stem)
            return [int(number[1]) - 1] if number is not None and 0 < int(number[1]) <= len(self._store) else []
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
    base name that one image of it has.

    Raises:
        DataError: Two readings are of one sample, one is of two sets, or a set has none.
    """
    names = [_SetNames(store) for _, store in sets]
    found: list[dict[int, FileReading]] = [{} for _ in sets]
    known: dict[int, int] = {}  # the set of a reading, by its line

    def take(k: int, reading: FileReading, indices: Sequence[int]) -> None:
        if indices and known.setdefault(reading.line, k) != k:
            both = f"{sets[known[reading.line]][0]} and {sets[k][0]}"
            raise DataError(
                f"{path}:{reading.line}: {reading.image!r} is an image of {both}; expected NAME=IMAGE, or one set"
            )
        for index in indices:
            if (other := found[k].setdefault(index, reading)) is not reading:
                raise DataError(
                    f"{path}:{reading.line}: is a second reading of {sets[k][1].key(index)}, after line {other.line}; "
                    "expected one of each image. Remove one, or give paths"
                )

    called = {f"{name}=": k for k, (name, _) in enumerate(sets)}
    for reading in readings:
        prefix = next((prefix for prefix in called if reading.image.startswith(prefix)), "")
        for k in [called[prefix]] if prefix else range(len(sets)):
            take(k, reading, names[k].by_path(reading.image.removeprefix(prefix)))
    for k in [k for k, matches in enumerate(found) if not matches]:
        for reading in [reading for reading in readings if reading.line not in known]:
            take(k, reading, names[k].by_base_name(reading.image))
    for matches, (_, store) in zip(found, sets, strict=True):
        if not matches:
            raise DataError(
                f"{path}: has no reading of {store.path}, whose first image is {store.key(0)!r}; the first reading is "
                f"of {readings[0].image!r}. Expected the names of the set, or paths of its files"
            )
    return found, [reading for reading in readings if reading.line not in known]


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
    progress: Callable[[int], None] = lambda _: None,
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
        progress: Called with the number of samples done since the last call.

    Raises:
        DataError: As ``evaluate``, ``load_readings`` and ``match_readings``.
        ConfigError: As ``evaluate``.
    """
    check_lexicon_names(lexicons)
    path = os.fspath(path)
    sets = open_sets(like, data, protocol=protocol, charset=charset)
    found, unknown = match_readings(path, load_readings(path), [(name, store) for name, store, _ in sets])
    results = []
    for (name, store, rules), readings in zip(sets, found, strict=True):
        nearest = [nearest_words(spec, store, rules) for spec in lexicons]
        samples = SetSamples(store, rules)
        missing: list[str] = []
        unsure = 0.0 if any(reading.confidence is not None for reading in readings.values()) else None
        for sample in samples.labelled(_counted(len(store), progress)):
            reading = readings.get(sample.index)
            if reading is not None and reading.text is not None:
                compared = rules.prediction(reading.text)
                read = replace(sample, prediction=compared, raw_prediction=reading.text)
                read = replace(read, score=reading.score, confidence=reading.confidence)
                words = tuple(word(sample.index, compared) for _, _, word in nearest)
                samples.samples.append(replace(read, words=words))
                continue
            try:
                load_image(store.image_bytes(sample.index), 1)
            except DataError as error:
                samples.skip_unreadable(sample.index, error)
                continue
            missing.append(sample.key)
            text = no_reading(sample.label)
            words = tuple(None if word(sample.index, text) is None else text for _, _, word in nearest)
            read = replace(sample, prediction=text, raw_prediction=text, confidence=unsure, words=words)
            samples.samples.append(read)
        samples.finish(None, max_bad_share)
        sizes = [(lexicon, size) for lexicon, size, _ in nearest]
        results.append(samples.result(name, sizes, without_reading=tuple(missing)))
    check_lexicons(lexicons, results)
    return Evaluation(path, protocol, tuple(results), tuple(reading.image for reading in unknown))


def no_reading(label: str) -> str:
    """Return the text that stands for a missing reading: an empty one, unless that would be right."""
    return "" if label else "\ufffd"


def _counted(count: int, progress: Callable[[int], None]) -> Iterator[int]:
    for index in range(count):
        progress(1)
        yield index

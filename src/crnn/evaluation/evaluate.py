"""Evaluation of a recogniser on benchmark sets, under a published protocol: accuracy, 1-NED and CER with their counts.

The network runs once per image; its output is decoded without a lexicon and with each lexicon.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from crnn.charset import NAMED_CHARSETS, LabelSkip
from crnn.data.source import SampleStore, open_source, split_name
from crnn.decoding.confidence import (
    UNCALIBRATED,
    Calibration,
    ConfidenceCurve,
    confidences,
    expected_calibration_error,
    fit_curve,
)
from crnn.decoding.ctc import decode_greedy, greedy
from crnn.decoding.language_search import search_with_language
from crnn.distributed import Ranks
from crnn.errors import CharsetError, ConfigError, DataError, ImageError
from crnn.evaluation.lexicons import SetLexicon, check_lexicon, lexicon_name, open_lexicon
from crnn.evaluation.metrics import score_texts
from crnn.evaluation.protocol import (
    CharsetName,
    LineProtocol,
    Protocol,
    ProtocolName,
    line_protocol,
    own_protocol,
    protocol_for,
)
from crnn.evaluation.results import DatasetResult, Evaluation, LexiconResult, SampleResult
from crnn.recognizer import NetworkOutput, Recognizer

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class ComparedSample(Generic[_R]):
    """One compared sample: raw label, label under the protocol, and the result ``found`` from the network's output."""

    index: int
    key: str
    raw_label: str
    label: str
    found: _R


@dataclass(frozen=True, slots=True)
class ReadSet(Generic[_R]):
    """Samples of a set after reading, in its order: compared, skipped by reason, unreadable keys with the reason."""

    samples: list[ComparedSample[_R]]
    skipped: dict[str, int]
    unreadable: list[str]


def read_set(
    recognizer: Recognizer,
    store: SampleStore,
    protocol: Protocol,
    read: Callable[[NetworkOutput, list[int]], Sequence[_R]],
    *,
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> ReadSet[_R]:
    """Run the network on the samples of a set that count under a protocol.

    ``read`` gets the network's output for a batch and the indices of its images in the set, and returns one result per
    image. Ranks share the work, and each gets the whole result; ``progress`` gets the number of samples done on this
    rank since the last call.

    Raises:
        CharsetError: The model's own rules make unknown characters an error, and a label has one.
    """
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    skipped: Counter[str] = Counter()
    unreadable: list[tuple[int, str]] = []  # they are met in an order that depends on batches
    samples: list[ComparedSample[_R]] = []
    kept: dict[int, tuple[int, str, str]] = {}  # those that wait for their result, by the index of their image

    def images() -> Iterator[bytes]:
        place = 0
        for index in range(rank, len(store), world_size):
            progress(1)
            try:
                raw = store.label(index)
                label = protocol.label(raw)
                image = store.image_bytes(index)
            except LabelSkip as skip:
                skipped[skip.reason] += 1
                continue
            except CharsetError as error:
                raise CharsetError(f"{store.path}, {store.key(index)}: {error}") from None
            except DataError as error:
                skipped[error.reason if isinstance(error, ImageError) else "unreadable_record"] += 1
                unreadable.append((index, f"{store.key(index)}: {error}"))
                continue
            kept[place] = (index, raw, label)
            place += 1
            yield image

    def results(output: NetworkOutput) -> Sequence[_R]:
        return read(output, [kept[place][0] for place in output.places])

    for place, found in enumerate(recognizer.run(images(), results)):
        index, raw, label = kept.pop(place)
        if isinstance(found, ImageError):
            skipped[found.reason] += 1
            unreadable.append((index, f"{store.key(index)}: {found}"))
        else:
            samples.append(ComparedSample(index, store.key(index), raw, label, found))

    if ranks is not None:
        parts = ranks.gather((samples, skipped, unreadable))
        samples = sorted((s for part in parts for s in part[0]), key=lambda s: s.index)
        skipped = sum((part[1] for part in parts), Counter())
        unreadable = [line for part in parts for line in part[2]]
    return ReadSet(samples, dict(sorted(skipped.items())), [line for _, line in sorted(unreadable)])


ProtocolCharset = Literal["auto"] | CharsetName

DataSpecs: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # one set, or several


class _Found(NamedTuple):
    """Readings of one sample: without a lexicon (``None``: not asked for), without the language, with each lexicon."""

    text: str | None
    score: float
    confidence: float
    words: tuple[str | None, ...]
    greedy: str | None = None


def evaluate(
    recognizer: Recognizer,
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    model: str = "",
    lexicons: Sequence[str] = (),
    lexicon_margin: float | None = None,
    lexicon_only: bool = False,
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Read every sample of every set and compare.

    Args:
        recognizer: The recogniser.
        data: LMDB folders or list files; ``NAME=PATH`` gives the name in the table.
        protocol: Rules for labels and readings.
        charset: Characters that are compared; ``lines`` compares all. ``auto``: the model's own (under PARSeq's rules)
            if it is none of the field's sets, else 36, the one of most papers.
        model: Name for the result.
        lexicons: Each adds an accuracy to every set. ``50``, ``1k``: the lexicons kept with the samples; ``full``: the
            labels of the set; or a file.
        lexicon_margin: ``DecodingOptions.lexicon_margin`` for these lexicons.
        lexicon_only: Use the readings with the one lexicon as the readings.
        ranks: Processes that share the work; each gets the whole result.
        progress: Called with the number of samples done since the last call, on this rank.

    Raises:
        DataError: A set is missing or empty, two have one name, or no set has the requested lexicons.
        CharsetError: The model's own rules make unknown characters an error, and a label has one.
        ConfigError: The protocol has no such evaluation, or a lexicon is neither a name nor a file.
    """
    if lexicon_only and len(lexicons) != 1:
        raise ConfigError(f"{len(lexicons)} lexicons are given to read with and nothing else; expected one")
    for name, count in Counter(map(lexicon_name, lexicons)).items():
        if count > 1:
            raise ConfigError(f"{count} lexicons are called {name!r}; expected each once, files under different names")
    for spec in lexicons:
        check_lexicon(spec)
    sets = _open_sets(recognizer, data, protocol, charset)
    rules = recognizer.config.charset.rules()
    calibrated = recognizer.decoder.calibrated
    results = []
    for dataset, store, rule in sets:
        own = [open_lexicon(spec, store, recognizer.charset, rules, margin=lexicon_margin) for spec in lexicons]
        read = _reading_all(recognizer, own, lexicon_only=lexicon_only)
        found = read_set(recognizer, store, rule, read, ranks=ranks, progress=progress)
        results.append(
            _dataset_result(dataset, store, rule, found, () if lexicon_only else own, calibrated or lexicon_only)
        )
    for k, spec in enumerate(lexicons):
        if not any(result.samples if lexicon_only else result.lexicons[k].sums.samples for result in results):
            raise DataError(
                f"lexicon {spec!r}: {', '.join(result.path for result in results)}: no sample has such a lexicon; "
                "expected LMDB stores of sets that are published with them (SVT, IIIT5K), 'full', or a file"
            )
    return Evaluation(model, protocol, tuple(results))


def calibrate(
    recognizer: Recognizer,
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    current: Calibration | None = None,
    progress: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Fit the confidence curves on labelled images outside the training set; arguments as in ``evaluate``.

    All samples weigh the same. A fit that does not lower the calibration error of held-out readings is dropped: the
    curve of ``current`` stays (default: confidences are the probabilities). ``say`` gets lines on skipped samples and
    dropped fits.

    Raises:
        DataError: A set is missing or empty, two have one name, or there are too few readings, all right or all wrong.
    """
    prior = recognizer.decoder.prior

    def read(output: NetworkOutput, _: list[int]) -> list[list[tuple[str, float]]]:
        decode = recognizer.charset.decode
        free = [(decode(text.ids), math.exp(text.score)) for text in decode_greedy(output.log_probs)]
        if prior is None:
            return [[pair] for pair in free]
        spoken = search_with_language([output.log_probs], prior, recognizer.decoder.options.beam_width)[0]
        return [
            [pair, (decode(found.texts[0].ids), found.probability)] for pair, found in zip(free, spoken, strict=True)
        ]

    probabilities: list[list[float]] = [[], []]
    correct: list[list[bool]] = [[], []]
    names = []
    for name, store, rule in _open_sets(recognizer, data, protocol, charset):
        names.append(name)
        found = read_set(recognizer, store, rule, read, progress=progress)
        for reason, count in found.skipped.items():
            say(f"{name}: {count} samples left out: {reason}")
        for line in found.unreadable[:3]:
            say(f"{name}: unreadable image {line}")
        for sample in found.samples:
            for way, (text, probability) in enumerate(sample.found):
                probabilities[way].append(probability)
                correct[way].append(rule.prediction(text) == sample.label)

    def fit(way: int, name: str, old: ConfidenceCurve) -> ConfidenceCurve:
        fitted = fit_curve(probabilities[way], correct[way])
        error = expected_calibration_error(confidences(probabilities[way], old), np.array(correct[way]))
        if fitted.error_after < error:
            return fitted
        say(
            f"{name}: the curve stays as it was: calibration error {100 * error:.2f} %, with a new one "
            f"{100 * fitted.error_after:.2f} % on readings that it was not fitted on"
        )
        return replace(fitted, slope=old.slope, offset=old.offset, error_after=error)

    current = current or UNCALIBRATED
    free = fit(0, "greedy", current.greedy)
    spoken = None if prior is None else fit(1, "with language", current.language or current.greedy)
    return Calibration(free, spoken, tuple(names))


def check_sets(
    recognizer: Recognizer,
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
) -> None:
    """Raise the errors of ``evaluate`` that need no image (``DataError``, ``ConfigError``), hours before it runs."""
    _open_sets(recognizer, data, protocol, charset)


def count_samples(data: DataSpecs) -> int:
    """Return the number of samples of these sets together."""
    return sum(len(open_source(split_name(spec)[1])) for spec in _specs(data))


def _specs(data: DataSpecs) -> list[str]:
    specs = [os.fspath(spec) for spec in ([data] if isinstance(data, str | os.PathLike) else data)]
    if not specs:
        raise DataError("no data is given; expected LMDB folders or list files")
    return specs


def _open_sets(
    recognizer: Recognizer, data: DataSpecs, protocol: ProtocolName, charset: ProtocolCharset
) -> list[tuple[str, SampleStore, Protocol]]:
    stores = [(name, open_source(path)) for name, path in map(split_name, _specs(data))]
    for name, count in Counter(name for name, _ in stores).items():
        if count > 1:
            raise DataError(f"{count} sets are called {name!r}; give each a name of its own with NAME=DATA")
    for _, store in stores:
        if not len(store):
            raise DataError(f"{store.path}: has no samples; expected at least one")
    return [(name, store, _protocol(recognizer, name, protocol, charset)) for name, store in stores]


def _protocol(recognizer: Recognizer, dataset: str, protocol: ProtocolName, charset: ProtocolCharset) -> Protocol:
    own = recognizer.charset.characters
    if protocol == "lines":
        return line_protocol(dataset)
    if charset == "auto" and set(own) not in [set(characters) for characters in NAMED_CHARSETS.values()]:
        return own_protocol(recognizer.config.charset.rules(), recognizer.charset, dataset)
    return protocol_for(protocol, "36" if charset == "auto" else charset, dataset)


def _reading_all(
    recognizer: Recognizer, lexicons: Sequence[SetLexicon], *, lexicon_only: bool
) -> Callable[[NetworkOutput, list[int]], list[_Found]]:
    """Return a function that decodes the network's output, without a lexicon and with each."""
    charset, decoder = recognizer.charset, recognizer.decoder

    def read(output: NetworkOutput, indices: list[int]) -> list[_Found]:
        matches = [lexicon.matches(output.log_probs, indices, posterior=lexicon_only) for lexicon in lexicons]
        if lexicon_only:
            known = decoder.matched(output.log_probs, [row or [] for row in matches[0]])
            return [
                _Found(None if row is None else charset.decode(d.text.ids), d.text.score, d.confidence, ())
                for d, row in zip(known, matches[0], strict=True)
            ]
        words = [
            tuple(None if row is None else charset.decode(row[0].ids) if row else "" for row in rows)
            for rows in zip(*matches, strict=True)
        ] or [()] * len(indices)
        free = decoder.decode(output.log_probs)
        plain = [charset.decode(ids) for ids in greedy(output.log_probs)] if decoder.prior else [None] * len(free)
        return [
            _Found(charset.decode(d.text.ids), d.text.score, d.confidence, own, text)
            for d, own, text in zip(free, words, plain, strict=True)
        ]

    return read


def _dataset_result(
    name: str,
    store: SampleStore,
    protocol: Protocol,
    found: ReadSet[_Found],
    lexicons: Sequence[SetLexicon],
    calibrated: bool,
) -> DatasetResult:
    samples = tuple(
        SampleResult(
            s.index,
            s.key,
            s.raw_label,
            s.label,
            protocol.prediction(s.found.text),
            s.found.score,
            s.found.confidence if calibrated else None,
        )
        for s in found.samples
        if s.found.text is not None
    )
    read = [s for s in found.samples if s.found.text is not None]
    forms = protocol.forms if isinstance(protocol, LineProtocol) else ()
    skipped = dict(found.skipped)
    if len(samples) < len(found.samples):
        skipped["no_lexicon"] = len(found.samples) - len(samples)
    results = []
    for k, lexicon in enumerate(lexicons):
        pairs = [(s.label, word) for s in found.samples if (word := s.found.words[k]) is not None]
        sums = score_texts((label, protocol.prediction(word)) for label, word in pairs)
        words = None if lexicon.shared is None else len(lexicon.shared)
        results.append(LexiconResult(lexicon.name, words, sums, len(found.samples) - len(pairs)))
    return DatasetResult(
        name,
        store.path,
        protocol.title,
        score_texts((s.label, s.prediction) for s in samples),
        dict(sorted(skipped.items())),
        protocol.expected_count,
        samples,
        tuple(found.unreadable[:3]),
        tuple(results),
        score_texts((s.label, protocol.prediction(s.found.greedy)) for s in read if s.found.greedy is not None)
        if any(s.found.greedy is not None for s in read)
        else None,
        tuple((name, score_texts((form(s.raw_label), form(s.found.text or "")) for s in read)) for name, form in forms),
    )

"""Evaluation of a recognizer on benchmark sets, under a published protocol: accuracy, 1-NED and CER with their counts.

The network runs once per image; its output is decoded without a lexicon and with each lexicon.
"""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import SkipValidation

from crnn.charset import NAMED_CHARSETS, LabelSkip, characters_outside
from crnn.config.model import CharsetConfig
from crnn.config.section import checked_call
from crnn.config.training import ProtocolName
from crnn.data.source import SampleStore, open_source, split_name, too_many
from crnn.decoding.confidence import (
    UNCALIBRATED,
    Calibration,
    ConfidenceCurve,
    confidences,
    expected_calibration_error,
    fit_curve,
)
from crnn.decoding.ctc import decode_greedy
from crnn.decoding.language_search import search_with_language
from crnn.decoding.lexicon_search import LexiconMatch
from crnn.errors import CharsetError, ConfigError, DataError, ImageError
from crnn.evaluation.lexicons import SetLexicon, lexicon_name, open_lexicon
from crnn.evaluation.metrics import score_texts
from crnn.evaluation.protocol import CharsetName, Protocol, own_protocol, protocol_for
from crnn.evaluation.results import DatasetResult, Evaluation, LexiconResult, SampleResult, label_warnings
from crnn.reading_order import as_read
from crnn.recognizer import NetworkOutput, Recognizer

if TYPE_CHECKING:
    from crnn.distributed import Ranks
else:  # which has torch, without which one process evaluates as well
    Ranks = Any

_MAX_NAMED = 3  # unreadable images of a set

ProtocolCharset: TypeAlias = Literal["auto"] | CharsetName
DataSpecs: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # one set, or several


@dataclass(slots=True)
class SetSamples:
    """Samples of a set that count under a protocol, and those left out; the same whoever reads them."""

    store: SampleStore
    protocol: Protocol
    samples: list[SampleResult] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[int, str]] = field(default_factory=list)  # in an order that depends on batches

    def labelled(self, indices: Iterable[int]) -> Iterator[SampleResult]:
        """Yield the samples whose label the protocol compares, without a reading; count the others."""
        store, protocol = self.store, self.protocol
        for index in indices:
            try:
                raw = store.label(index)
                label = as_read(protocol.label(raw))
            except LabelSkip as skip:
                self.skipped[skip.reason] += 1
                continue
            except CharsetError as error:
                raise CharsetError(f"{store.path}, {store.key(index)}: {error}") from None
            except DataError as error:
                self.skip_unreadable(index, error)
                continue
            lost = characters_outside(raw, protocol.charset, protocol.label_rules) if protocol.name != "lines" else ()
            yield SampleResult(index, store.key(index), raw, label, lost="".join(lost))

    def skip_unreadable(self, index: int, error: DataError) -> None:
        """Leave out a sample whose image or record cannot be read."""
        self.skipped[error.reason if isinstance(error, ImageError) else "unreadable_record"] += 1
        self.unreadable.append((index, f"{self.store.key(index)}: {error}"))

    def finish(self, ranks: Ranks | None, max_bad_share: float) -> None:
        """Bring together what the ranks have, in the set's order; too many unreadable images are a ``DataError``."""
        own = (self.samples, self.skipped, self.unreadable)
        parts = [own] if ranks is None else ranks.gather(own)
        self.samples = sorted((sample for part in parts for sample in part[0]), key=lambda sample: sample.index)
        self.unreadable = sorted(line for part in parts for line in part[2])
        self.skipped = sum((part[1] for part in parts), Counter(beyond_num_samples=self.store.num_unread))
        if too_many(len(self.unreadable), len(self.store), max_bad_share):
            raise DataError(
                f"{self.store.path}: {len(self.unreadable)} of {len(self.store)} images cannot be read, the first "
                f"{self.unreadable[0][1]}; expected at most a share of {max_bad_share:g}. Repair the set, or raise "
                "the share: --max-bad-share, in a training data.max_bad_share"
            )

    def result(self, name: str, lexicons: Sequence[SetLexicon], **more: Any) -> DatasetResult:
        """Return the figures; ``lexicons`` are those that the samples have been read with."""
        samples, rules = tuple(self.samples), self.protocol
        with_lexicons = []
        for k, lexicon in enumerate(lexicons):
            pairs = [(s.label, text) for s in samples if (text := s.words[k]) is not None]
            without = len(samples) - len(pairs)
            with_lexicons.append(LexiconResult(lexicon.name, lexicon.size, score_texts(pairs), without))
        best_paths = [(s.label, s.greedy) for s in samples if s.greedy is not None]
        return DatasetResult(
            name,
            self.store.path,
            rules.title,
            score_texts((s.label, s.prediction) for s in samples),
            dict(sorted((+self.skipped).items())),
            rules.expected_count,
            samples,
            tuple(line for _, line in self.unreadable[:_MAX_NAMED]),
            tuple(with_lexicons),
            score_texts(best_paths) if best_paths else None,
            tuple(
                (k, score_texts((form(as_read(s.raw_label)), form(s.raw_prediction)) for s in samples))
                for k, form in rules.forms
            ),
            **more,
        )


def _read_set(
    recognizer: Recognizer,
    store: SampleStore,
    protocol: Protocol,
    read: Callable[[NetworkOutput, list[SampleResult]], list[SampleResult]],
    ranks: Ranks | None,
    progress: Callable[[int], None],
    max_bad_share: float,
) -> SetSamples:
    """Run the network on the samples of a set that count under a protocol; ranks share the work, each gets the whole.

    ``read`` fills in what was read for a batch. Too many unreadable images are a ``DataError``.
    """
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    found = SetSamples(store, protocol)
    waiting: dict[int, SampleResult] = {}  # those without a result yet, by the place of their image
    # Twice, so that a space lies between others; NFD, as marks may be composed with letters.
    writable = set(unicodedata.normalize("NFD", protocol.prediction(2 * recognizer.charset.characters)))

    def indices() -> Iterator[int]:
        for index in range(rank, len(store), world_size):
            progress(1)
            yield index

    def images() -> Iterator[bytes]:
        place = 0
        for sample in found.labelled(indices()):
            try:
                image = store.image_bytes(sample.index)
            except DataError as error:
                found.skip_unreadable(sample.index, error)
                continue
            missing = "".join(c for c in unicodedata.normalize("NFD", sample.label) if c not in writable)
            waiting[place] = replace(sample, unwritable=missing)
            place += 1
            yield image

    results = recognizer.run(images(), lambda output: read(output, [waiting[place] for place in output.places]))
    for place, result in enumerate(results):
        sample = waiting.pop(place)
        if isinstance(result, ImageError):
            found.skip_unreadable(sample.index, result)
        else:
            found.samples.append(result)
    found.finish(ranks, max_bad_share)
    return found


@checked_call
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
    max_bad_share: float = 0.1,
    ranks: SkipValidation[Ranks | None] = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Read every sample of every set and compare.

    Args:
        recognizer: The recognizer.
        data: LMDB folders or list files; ``NAME=PATH`` gives the name in the table.
        protocol: Rules for labels and readings.
        charset: Characters that are compared; ``lines`` compares all. ``auto``: the model's own (under PARSeq's rules)
            if it is none of the field's sets, else 36, the one of most papers.
        model: Name for the result.
        lexicons: Each adds an accuracy to every set. ``50``, ``1k``: the lexicons kept with the samples; ``full``: the
            labels of the set; or a file.
        lexicon_margin: ``DecodingOptions.lexicon_margin`` for these lexicons.
        lexicon_only: Use the readings with the one lexicon as the readings.
        max_bad_share: A larger share of unreadable images, at least ten, is an error.
        ranks: Processes that share the work; each gets the whole result.
        progress: Called with the number of samples done since the last call, on this rank.

    Raises:
        DataError: A set is missing or empty, two have one name, too many images cannot be read, or no set has the
            requested lexicons.
        CharsetError: The model's own rules make unknown characters an error, and a label has one.
        ConfigError: The protocol has no such evaluation, or a lexicon is neither a name nor a file.
    """
    if lexicon_only and len(lexicons) != 1:
        raise ConfigError(f"{len(lexicons)} lexicons are given to read with and nothing else; expected one")
    if not 0 <= max_bad_share <= 1:
        raise ConfigError(f"max_bad_share is {max_bad_share}; expected a share from 0 to 1")
    names = [lexicon_name(spec) for spec in lexicons]
    if len(set(names)) < len(names):
        raise ConfigError(f"lexicons are called {', '.join(names)}; expected each name once")
    sets = open_sets(recognizer.config.charset, data, protocol=protocol, charset=charset)
    label_rules = recognizer.config.charset.rules()
    results = []
    for name, store, rules in sets:
        own = [open_lexicon(spec, store, recognizer.charset, label_rules, lexicon_margin) for spec in lexicons]
        results.append(_evaluate_set(recognizer, name, store, rules, own, lexicon_only, max_bad_share, ranks, progress))
    check_lexicons(lexicons, results)
    return Evaluation(model, protocol, tuple(results))


def _evaluate_set(
    recognizer: Recognizer,
    name: str,
    store: SampleStore,
    rules: Protocol,
    lexicons: Sequence[SetLexicon],
    lexicon_only: bool,
    max_bad_share: float,
    ranks: Ranks | None,
    progress: Callable[[int], None],
) -> DatasetResult:
    decoder, text_of = recognizer.decoder, recognizer.charset.decode

    def compared(ids: Sequence[int]) -> str:
        return rules.prediction(text_of(ids))

    def word(match: list[LexiconMatch] | None) -> str | None:
        return None if match is None else compared(match[0].ids) if match else ""

    def read(output: NetworkOutput, samples: list[SampleResult]) -> list[SampleResult]:
        log_probs, indices = output.log_probs, [sample.index for sample in samples]
        matches = [lexicon.matches(log_probs, indices, posterior=lexicon_only) for lexicon in lexicons]
        if lexicon_only:
            decoded = decoder.matched(log_probs, [match or [] for match in matches[0]])
        else:
            decoded = decoder.decode(log_probs)
        best_paths = decode_greedy(log_probs) if decoder.prior and not lexicon_only else None
        return [
            replace(
                sample,
                raw_prediction=text_of(decoded[n].ids),
                prediction=compared(decoded[n].ids),
                score=decoded[n].score,
                confidence=decoded[n].confidence if decoder.calibrated or lexicon_only else None,
                words=tuple(word(row[n]) for row in matches),
                greedy=None if best_paths is None else compared(best_paths[n].ids),
            )
            for n, sample in enumerate(samples)
        ]

    found = _read_set(recognizer, store, rules, read, ranks, progress, max_bad_share)
    if lexicon_only:
        with_lexicon = [sample for sample in found.samples if sample.words[0] is not None]
        found.skipped["no_lexicon"] += len(found.samples) - len(with_lexicon)
        found.samples = with_lexicon
    return found.result(name, () if lexicon_only else lexicons)


@checked_call
def calibrate(
    recognizer: Recognizer,
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    current: Calibration | None = None,
    max_bad_share: float = 0.1,
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
    current, prior, text_of = current or UNCALIBRATED, recognizer.decoder.prior, recognizer.charset.decode

    def read(output: NetworkOutput, samples: list[SampleResult]) -> list[SampleResult]:
        """Fill in the best path and its score, and the reading with the language and its probability."""
        free = decode_greedy(output.log_probs)
        samples = [replace(s, greedy=text_of(x.ids), score=x.score) for s, x in zip(samples, free, strict=True)]
        if prior is None:
            return samples
        found = search_with_language([output.log_probs], prior, recognizer.decoder.options.beam_width)[0]
        return [
            replace(s, prediction=text_of(x.texts[0].ids), confidence=x.probability)
            for s, x in zip(samples, found, strict=True)
        ]

    free: list[tuple[float, bool]] = []  # probability, and true if right
    spoken: list[tuple[float, bool]] = []
    names = []
    for name, store, rules in open_sets(recognizer.config.charset, data, protocol=protocol, charset=charset):
        names.append(name)
        found = _read_set(recognizer, store, rules, read, None, progress, max_bad_share)
        for reason, count in sorted(found.skipped.items()):
            say(f"{name}: {count} samples left out: {reason}")
        unreadable = (f"unreadable image {line}" for _, line in found.unreadable[:_MAX_NAMED])
        for line in (*unreadable, *label_warnings(found.samples)):
            say(f"{name}: {line}")
        for s in found.samples:
            free.append((math.exp(s.score), rules.prediction(s.greedy or "") == s.label))
            spoken.append((s.confidence or 0.0, rules.prediction(s.prediction) == s.label))

    def fit(readings: list[tuple[float, bool]], name: str, old: ConfidenceCurve) -> ConfidenceCurve:
        probabilities, correct = [probability for probability, _ in readings], [right for _, right in readings]
        fitted = fit_curve(probabilities, correct)
        error = expected_calibration_error(confidences(probabilities, old), np.array(correct))
        if fitted.error_after < error:
            return fitted
        say(
            f"{name}: the curve stays as it was: calibration error {100 * error:.2f} %, with a new one "
            f"{100 * fitted.error_after:.2f} % on readings that it was not fitted on"
        )
        return replace(fitted, slope=old.slope, offset=old.offset, error_after=error)

    greedy_curve = fit(free, "greedy", current.greedy)
    language_curve = None if prior is None else fit(spoken, "with language", current.language or current.greedy)
    return replace(current, greedy=greedy_curve, language=language_curve, data=tuple(names))


def check_lexicons(lexicons: Sequence[str], results: Sequence[DatasetResult]) -> None:
    """Raise ``DataError`` for a lexicon that no sample has been read with."""
    for k, spec in enumerate(lexicons):
        if not any(result.lexicons[k].sums.samples if result.lexicons else result.samples for result in results):
            raise DataError(
                f"lexicon {spec!r}: none in {', '.join(r.path for r in results)} has one; expected 'full' or a file"
            )


def count_samples(data: DataSpecs) -> int:
    """Return the number of samples of these sets together."""
    return sum(len(open_source(spec)) for spec in _specs(data))


def open_sets(
    own: CharsetConfig | None, data: DataSpecs, *, protocol: ProtocolName = "parseq", charset: ProtocolCharset = "auto"
) -> list[tuple[str, SampleStore, Protocol]]:
    """Return name, store and rules of each set; ``evaluate``'s errors without images. ``own``: a model's, for auto."""
    specs = _specs(data)
    if not specs:
        raise DataError("no data is given; expected LMDB folders or list files")
    stores = [(name, open_source(path)) for name, path in map(split_name, specs)]
    for name, count in Counter(name for name, _ in stores).items():
        if count > 1:
            raise DataError(f"{count} sets are called {name!r}; give each a name of its own with NAME=DATA")
    for _, store in stores:
        if not len(store):
            raise DataError(f"{store.path}: has no samples; expected at least one")
    characters = set(own.charset().characters) if own is not None and charset == "auto" else set()
    is_own = characters and all(characters != set(named) for named in NAMED_CHARSETS.values())

    def rules(name: str) -> Protocol:
        if protocol != "lines" and is_own and own is not None:
            return own_protocol(own.rules(), own.charset(), name)
        return protocol_for(protocol, "36" if charset == "auto" else charset, name)

    return [(name, store, rules(name)) for name, store in stores]


def check_labels(sets: Iterable[tuple[str, SampleStore, Protocol]]) -> None:
    """Raise ``DataError`` for a validation set, as of ``open_sets``, whose rules leave nothing of all labels."""
    for _, store, rules in sets:
        found: Counter[str] = Counter()
        for index in range(len(store)):
            try:
                found["" if rules.label(store.label(index)) else "empty_label"] += 1
            except (LabelSkip, DataError) as error:
                found[getattr(error, "reason", "unreadable_record")] += 1
            if found[""]:
                break
        else:
            counts = ", ".join(f"{reason}: {count}" for reason, count in sorted((+found).items()))
            raise DataError(
                f"data.validation: {store.path}: none of {len(store)} labels is left to compare ({counts}; "
                f"{rules.title}); expected labels in charset.characters, or another eval.protocol"
            )


def _specs(data: DataSpecs) -> list[str]:
    return [os.fspath(spec) for spec in ([data] if isinstance(data, str | os.PathLike) else data)]

"""A recogniser over benchmark sets, under a published protocol: accuracy, 1-NED and CER with their counts.

Every sample of a set ends in one of two places: it is compared, or it is skipped and counted by reason. Ranks share
out the samples; each counts its own, and what they counted is put together before anything is divided, so that the
numbers depend neither on the batch size nor on the number of ranks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crnn.charset import NAMED_CHARSETS, LabelSkip
from crnn.data.source import SampleStore, open_source, split_name
from crnn.distributed import Ranks
from crnn.errors import DataError, ImageError
from crnn.metrics import TextSums, score_texts
from crnn.protocol import (
    CharsetName,
    Protocol,
    ProtocolName,
    combined_accuracy,
    mean_accuracy,
    own_protocol,
    protocol_for,
)
from crnn.recognizer import Recognizer

__all__ = ["DatasetResult", "Evaluation", "SampleResult", "evaluate"]

ProtocolCharset = Literal["auto"] | CharsetName


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One compared sample.

    Attributes:
        index: Its place in the set.
        key: What names it in the set.
        raw_label: The label as the set has it.
        label: The label as the protocol compares it.
        prediction: The reading as the protocol compares it.
        score: Log-probability of the reading.
    """

    index: int
    key: str
    raw_label: str
    label: str
    prediction: str
    score: float


@dataclass(frozen=True, slots=True)
class DatasetResult:
    """One set under one protocol.

    Attributes:
        name: As in the table.
        path: Where the set is.
        sums: Counts over the compared samples.
        skipped: Samples that were not compared, by reason.
        expected: Published number of samples of a set of that name, or ``None``.
        samples: The compared samples, in the set's order.
        unreadable: Up to three keys of pictures that could not be read, with why.
    """

    name: str
    path: str
    sums: TextSums
    skipped: dict[str, int]
    expected: int | None
    samples: tuple[SampleResult, ...]
    unreadable: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the table must know about the count of samples."""
        lines = [f"{self.name}: unreadable picture {line}" for line in self.unreadable]
        if self.expected is not None and self.sums.samples != self.expected:
            skipped = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items()) or "none"
            lines.append(
                f"{self.name}: {self.sums.samples} samples compared, {self.expected} published (skipped: {skipped}); "
                "figures are not comparable with published ones"
            )
        return lines


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Several sets under one protocol.

    Attributes:
        model: What was evaluated, as the user named it.
        protocol: The protocol's name.
        title: The protocol in a few words.
        datasets: The sets in the order given.
    """

    model: str
    protocol: str
    title: str
    datasets: tuple[DatasetResult, ...]

    @property
    def mean_accuracy(self) -> float:
        """Arithmetic mean of the sets' accuracies: papers' "average"."""
        return mean_accuracy(result.sums for result in self.datasets)

    @property
    def combined_accuracy(self) -> float:
        """Accuracy over all samples of all sets together: PARSeq's "combined"."""
        return combined_accuracy(result.sums for result in self.datasets)

    @property
    def one_minus_ned(self) -> float:
        """1-NED over all samples of all sets together."""
        return sum((result.sums for result in self.datasets), TextSums()).one_minus_ned

    def as_dict(self) -> dict[str, Any]:
        """What ``crnn evaluate --json`` prints. Accuracies are in [0, 1]; ``null`` where a set has no sample."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            "datasets": [
                {
                    "name": result.name,
                    "samples": result.sums.samples,
                    "skipped": result.skipped,
                    "expected": result.expected,
                    "accuracy": _number(result.sums.accuracy),
                    "accuracy_low": result.sums.accuracy_interval[0],
                    "accuracy_high": result.sums.accuracy_interval[1],
                    "one_minus_ned": _number(result.sums.one_minus_ned),
                    "cer": _number(result.sums.cer),
                    "warnings": result.warnings,
                }
                for result in self.datasets
            ],
            "mean_accuracy": _number(self.mean_accuracy),
            "combined_accuracy": _number(self.combined_accuracy),
        }


def evaluate(
    recognizer: Recognizer,
    data: Sequence[str],
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    model: str = "",
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Read every sample of every set and compare.

    Args:
        recognizer: What reads.
        data: LMDB folders and list files; ``NAME=PATH`` gives one the name that the table shows.
        protocol: Rules for labels and readings.
        charset: Characters that are compared. ``auto``: the model's own where it is none of 36, 62 and 94 (then
            under PARSeq's rules), else 36, which is what papers report.
        model: Name for the result.
        ranks: Processes that share the work; each gets the whole result.
        progress: Called with the number of samples done since the last call, on this rank.

    Raises:
        DataError: A set is missing or empty.
        ConfigError: The protocol has no such evaluation.
    """
    stores = [(name, open_source(path)) for name, path in map(split_name, data)]
    for _, store in stores:
        if not len(store):
            raise DataError(f"{store.path}: has no samples; expected at least one")
    rules = [_protocol(recognizer, name, protocol, charset) for name, _ in stores]
    results = [
        _evaluate_set(recognizer, name, store, rule, ranks, progress)
        for (name, store), rule in zip(stores, rules, strict=True)
    ]
    return Evaluation(model, protocol, rules[0].title if rules else "", tuple(results))


def count_samples(data: Sequence[str]) -> int:
    """Number of samples of these sets together, for a progress bar.

    Raises:
        DataError: A set is missing.
    """
    return sum(len(open_source(split_name(spec)[1])) for spec in data)


def _protocol(recognizer: Recognizer, dataset: str, protocol: ProtocolName, charset: ProtocolCharset) -> Protocol:
    own = recognizer.charset.characters
    if charset == "auto" and set(own) not in [set(characters) for characters in NAMED_CHARSETS.values()]:
        return own_protocol(recognizer.config.charset.rules(), recognizer.charset, dataset)
    return protocol_for(protocol, "36" if charset == "auto" else charset, dataset)


def _evaluate_set(
    recognizer: Recognizer,
    name: str,
    store: SampleStore,
    protocol: Protocol,
    ranks: Ranks | None,
    progress: Callable[[int], None],
) -> DatasetResult:
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    skipped: Counter[str] = Counter()
    unreadable: list[str] = []
    samples: list[SampleResult] = []
    kept: deque[tuple[int, str, str]] = deque()  # those that wait for their reading, in the order of their pictures

    def pictures() -> Iterator[bytes]:
        for index in range(rank, len(store), world_size):
            progress(1)
            try:
                raw = store.label(index)
                label = protocol.label(raw)
                picture = store.image_bytes(index)
            except LabelSkip as skip:
                skipped[skip.reason] += 1
                continue
            except ImageError as error:
                skipped[error.reason] += 1
                unreadable.append(f"{store.key(index)}: {error}")
                continue
            kept.append((index, raw, label))
            yield picture

    for reading in recognizer.stream(pictures()):
        index, raw, label = kept.popleft()
        if isinstance(reading, ImageError):
            skipped[reading.reason] += 1
            unreadable.append(f"{store.key(index)}: {reading}")
            continue
        prediction = protocol.prediction(reading.text)
        samples.append(SampleResult(index, store.key(index), raw, label, prediction, reading.score))

    if ranks is not None:
        parts = ranks.gather((samples, skipped, unreadable))
        samples = sorted((s for part in parts for s in part[0]), key=lambda s: s.index)
        skipped = sum((part[1] for part in parts), Counter())
        unreadable = [line for part in parts for line in part[2]]
    return DatasetResult(
        name,
        store.path,
        score_texts((s.label, s.prediction) for s in samples),
        dict(sorted(skipped.items())),
        protocol.expected_count,
        tuple(samples),
        tuple(unreadable[:3]),
    )


def _number(value: float) -> float | None:
    return None if value != value else value  # NaN is not JSON

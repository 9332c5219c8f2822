"""Results of an evaluation: compared samples, counts per set, published figures."""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from crnn.evaluation.calibration import Reliability, measure_reliability
from crnn.evaluation.metrics import TextSums, mean_accuracy, score_texts


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One compared sample: label and reading, as they are (``raw``) and under the protocol."""

    index: int
    key: str
    raw_label: str
    label: str
    prediction: str = ""
    score: float = math.nan  # log-probability of the reading
    confidence: float | None = None  # probability that the reading is right; None for uncalibrated weights
    raw_prediction: str = ""
    words: tuple[str | None, ...] = ()  # readings with each lexicon; None where the sample has no such lexicon
    greedy: str | None = None  # reading of the best path, if the prediction is read with a language
    lost: str = ""  # characters of the label that the protocol does not compare
    unwritable: str = ""  # characters of the compared label that the model cannot write: it is never read right


@dataclass(frozen=True, slots=True)
class LexiconResult:
    """The same samples, read with a lexicon; ``words`` is ``None`` for a lexicon per sample.

    ``sums`` are over the samples that have a lexicon; ``without`` counts the others.
    """

    name: str
    words: int | None
    sums: TextSums
    without: int


def label_losses(samples: Sequence[SampleResult]) -> dict[str, dict[str, Any]]:
    """Return the number of labels with ``lost`` and with ``unwritable`` characters, and the number of each of these."""
    kinds = {"lost": [s.lost for s in samples], "unwritable": [s.unwritable for s in samples]}
    return {
        kind: {"labels": sum(map(bool, texts)), "characters": dict(Counter("".join(texts)).most_common())}
        for kind, texts in kinds.items()
    }


def label_warnings(samples: Sequence[SampleResult]) -> list[str]:
    """Return a line on the labels with lost characters, and one on those with unwritable characters."""
    whats = ("are not compared", "the model cannot write, which count as wrong")
    return [
        f"{loss['labels']} of {len(samples)} labels have characters that {what}: {''.join(loss['characters'])[:20]!r}"
        for loss, what in zip(label_losses(samples).values(), whats, strict=True)
        if loss["labels"]
    ]


def _listed(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


@dataclass(frozen=True, slots=True)
class DatasetResult:
    """One set under one protocol: the compared samples in the set's order, and counts over them.

    ``lexicons``, ``greedy`` and ``forms`` count the same samples read with lexicons, by the best path (papers' figure,
    if they were read with a language), and compared in other forms (protocol ``lines``).
    """

    name: str
    path: str
    title: str  # the protocol's rules for this set, in a few words
    sums: TextSums
    skipped: dict[str, int]  # samples not compared, by reason
    expected: int | None  # published number of samples of a set of that name
    samples: tuple[SampleResult, ...]
    unreadable: tuple[str, ...]  # the first keys of unreadable images, with the reason
    lexicons: tuple[LexiconResult, ...] = ()
    greedy: TextSums | None = None
    forms: tuple[tuple[str, TextSums], ...] = ()
    without_reading: tuple[str, ...] | None = None  # of readings from a file: keys of samples that have none there

    @property
    def warnings(self) -> list[str]:
        """Warnings on the number of samples, and on their labels."""
        lines = [f"unreadable image {line}" for line in self.unreadable]
        skipped = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items())
        if not self.sums.samples:
            lines.append(f"no sample was compared ({skipped}); expected readable images with labels that count")
        elif self.expected is not None and self.sums.samples != self.expected:
            lines.append(
                f"{self.sums.samples} samples compared, {self.expected} published (skipped: {skipped or 'none'}); "
                "figures are not comparable with published ones"
            )
        lines += label_warnings(self.samples)
        lines += [
            f"{x.without} of {self.sums.samples} samples have no lexicon {x.name!r}; they are not in its accuracy"
            for x in self.lexicons
            if x.without
        ]
        if self.without_reading:
            what = f"of {self.sums.samples} samples have no text in the file, and count as wrong"
            lines.append(_listed(self.without_reading, what))
        return [f"{self.name}: {line}" for line in lines]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Several sets, in the order given, under one protocol."""

    model: str
    protocol: str
    datasets: tuple[DatasetResult, ...]
    unknown: tuple[str, ...] = ()  # of readings from a file: images that are in none of the sets

    @property
    def warnings(self) -> list[str]:
        """Warnings of all sets, and on readings of no set."""
        lines = [line for dataset in self.datasets for line in dataset.warnings]
        if self.unknown:
            lines.append(_listed(self.unknown, "readings are of no image of the data"))
        return lines

    @property
    def title(self) -> str:
        """The rules of all sets in a few words, without repetition."""
        return "; ".join(dict.fromkeys(result.title for result in self.datasets))

    @property
    def from_file(self) -> bool:
        """True for readings from a file."""
        return any(result.without_reading is not None for result in self.datasets)

    @property
    def sums(self) -> TextSums:
        """Counts over all samples of all sets."""
        return sum((result.sums for result in self.datasets), TextSums())

    @property
    def mean_accuracy(self) -> float:
        """Arithmetic mean of the sets' accuracies: papers' "average"."""
        return mean_accuracy(result.sums for result in self.datasets)

    @property
    def combined_accuracy(self) -> float:
        """Accuracy over all samples of all sets: PARSeq's "combined"."""
        return self.sums.accuracy

    @property
    def one_minus_ned(self) -> float:
        """1-NED over all samples of all sets."""
        return self.sums.one_minus_ned

    @property
    def samples(self) -> list[SampleResult]:
        """The compared samples of all sets."""
        return [sample for result in self.datasets for sample in result.samples]

    @property
    def reliability(self) -> Reliability:
        """Reliability of the readings of all sets; of none if they come from a file without confidences."""
        samples = self.samples
        if self.from_file and all(math.isnan(s.score) for s in samples):
            samples = []
        correct = [s.prediction == s.label for s in samples]
        return measure_reliability([s.score for s in samples], [s.confidence for s in samples], correct)

    @property
    def lexicon_names(self) -> tuple[str, ...]:
        """Names of the lexicons in the order given."""
        return tuple(lexicon.name for lexicon in self.datasets[0].lexicons) if self.datasets else ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON of ``crnn evaluate``. Accuracies are in [0, 1]; ``null`` for a set without samples."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            **({"unknown_readings": len(self.unknown)} if self.from_file else {}),
            "datasets": [
                {
                    "name": result.name,
                    "samples": result.sums.samples,
                    "skipped": result.skipped,
                    "expected": result.expected,
                    **({"without_reading": len(result.without_reading or ())} if self.from_file else {}),
                    **label_losses(result.samples),
                    **_accuracy(result.sums),
                    **_distances(result.sums),
                    "greedy": None if result.greedy is None else _figures(result.greedy),
                    "forms": {name: _figures(sums) for name, sums in result.forms},
                    "warnings": result.warnings,
                    "lexicons": [
                        {"name": x.name, "words": x.words, "samples": x.sums.samples, **_accuracy(x.sums)}
                        for x in result.lexicons
                    ],
                }
                for result in self.datasets
            ],
            "mean_accuracy": finite(self.mean_accuracy),
            "combined_accuracy": finite(self.combined_accuracy),
            "calibration": asdict(self.reliability),
        }


def _accuracy(sums: TextSums) -> dict[str, float | None]:
    low, high = sums.accuracy_interval
    return {"accuracy": finite(sums.accuracy), "accuracy_low": low, "accuracy_high": high}


def _distances(sums: TextSums) -> dict[str, float | None]:
    return {"one_minus_ned": finite(sums.one_minus_ned), "cer": finite(sums.cer)}


def _figures(sums: TextSums) -> dict[str, float | None]:
    return {"accuracy": finite(sums.accuracy), **_distances(sums)}


def finite(value: float) -> float | None:
    """Return a number as JSON has it, which lacks NaN."""
    return None if math.isnan(value) else value


def accuracy_by_length(samples: Iterable[SampleResult], longest: int = 20) -> dict[int, TextSums]:
    """Return the counts by label length, ascending; ``longest + 1`` stands for all longer labels."""
    pairs: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for sample in samples:
        pairs[min(len(sample.label), longest + 1)].append((sample.label, sample.prediction))
    return {length: score_texts(pairs[length]) for length in sorted(pairs)}


def confusions(samples: Iterable[SampleResult], limit: int | None = None) -> list[tuple[str, str, int, int]]:
    """Return at most ``limit`` confused characters, most frequent first, then by code points.

    Each is the expected character (empty for an insertion), the read one (empty for a deletion), their count, and the
    occurrences of the expected one. Readings are aligned by the fewest edits; of several such alignments (``rn`` read
    as ``m``), one is counted.
    """
    counts: Counter[tuple[str, str]] = Counter()
    occurrences: Counter[str] = Counter()
    for sample in samples:
        label, prediction = sample.label, sample.prediction
        occurrences.update(label)
        for operation in Levenshtein.editops(label, prediction):
            expected = "" if operation.tag == "insert" else label[operation.src_pos]
            read = "" if operation.tag == "delete" else prediction[operation.dest_pos]
            counts[expected, read] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(expected, read, n, occurrences[expected]) for (expected, read), n in ranked[:limit]]


def worst_errors(datasets: Iterable[DatasetResult], limit: int) -> list[tuple[str, SampleResult]]:
    """Return at most ``limit`` wrong readings of highest score, with set names, in set order if equal; NaN last."""
    wrong = ((dataset.name, s) for dataset in datasets for s in dataset.samples if s.prediction != s.label)
    return heapq.nsmallest(limit, wrong, key=lambda error: math.inf if math.isnan(error[1].score) else -error[1].score)

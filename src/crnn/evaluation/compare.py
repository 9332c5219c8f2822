"""Two readers on the same samples: accuracies, the samples on which they differ, and a paired test."""

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crnn.config.model import CharsetConfig
from crnn.config.section import checked_call
from crnn.config.training import ProtocolName
from crnn.errors import DataError, printable
from crnn.evaluation.evaluate import DataSpecs, ProtocolCharset
from crnn.evaluation.metrics import Z_95, TextSums, score_texts
from crnn.evaluation.readings import no_reading, score_readings
from crnn.evaluation.results import DatasetResult
from crnn.files import atomic_write

Right = Literal["both", "a", "b", "neither"]


@dataclass(frozen=True, slots=True)
class PairedSample:
    """One sample with both readings, all under the protocol."""

    index: int
    key: str
    label: str
    a: str
    b: str

    @property
    def right(self) -> Right:
        """The readers that are right."""
        a, b = self.a == self.label, self.b == self.label
        return ("both" if b else "a") if a else "b" if b else "neither"


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Samples by the readers that are right; ``+`` merges."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0

    def __add__(self, other: "PairedCounts") -> "PairedCounts":
        return PairedCounts(
            self.both + other.both, self.only_a + other.only_a, self.only_b + other.only_b, self.neither + other.neither
        )

    @property
    def samples(self) -> int:
        """Number of all."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of B minus that of A; NaN without samples."""
        return (self.only_b - self.only_a) / self.samples if self.samples else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``difference``; (-1, 1) without samples.

        The adjusted Wald interval for paired shares: one sample more on which each alone is right. Reference: Bonett
        and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data", Journal of Educational and Behavioral Statistics 37(4).
        """
        total = self.samples + 2
        a, b = (self.only_a + 1) / total, (self.only_b + 1) / total
        spread = Z_95 * math.sqrt((a + b - (b - a) ** 2) / total)
        return max(-1.0, b - a - spread), min(1.0, b - a + spread)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of McNemar's exact test: one reader is as often right alone as the other.

        The samples on which one alone is right are tosses of a coin. Reference: McNemar 1947, "Note on the sampling
        error of the difference between correlated proportions or percentages"; exact by the binomial distribution.
        """
        n = self.only_a + self.only_b
        ways = total = 1  # of tosses with k heads, and of those with at most k
        for k in range(min(self.only_a, self.only_b)):
            ways = ways * (n - k) // (k + 1)
            total += ways
        return min(1.0, 2 * total / 2**n)


@dataclass(frozen=True, slots=True)
class ComparedSet:
    """One set under one protocol: figures of both readers on the same samples, and all that they read differently."""

    name: str
    path: str
    title: str
    a: TextSums
    b: TextSums
    counts: PairedCounts
    differing: tuple[PairedSample, ...]  # in the set's order


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two readers on several sets."""

    a: str
    b: str
    protocol: str
    datasets: tuple[ComparedSet, ...]
    warnings: tuple[str, ...]

    @property
    def counts(self) -> PairedCounts:
        """Counts over all sets."""
        return sum((dataset.counts for dataset in self.datasets), PairedCounts())

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON of ``crnn compare``. Shares are in [0, 1]; ``null`` without samples."""
        return {
            "a": self.a,
            "b": self.b,
            "protocol": self.protocol,
            "datasets": [
                {
                    "name": x.name,
                    "accuracy_a": x.a.accuracy if x.a.samples else None,
                    "accuracy_b": x.b.accuracy if x.b.samples else None,
                    "cer_a": x.a.cer if x.a.characters else None,
                    "cer_b": x.b.cer if x.b.characters else None,
                    **_test(x.counts),
                    "differing": [
                        {"image": s.key, "label": s.label, "a": s.a, "b": s.b, "right": s.right} for s in x.differing
                    ],
                }
                for x in self.datasets
            ],
            "combined": _test(self.counts),
            "warnings": list(self.warnings),
        }

    def write_table(self, path: str | os.PathLike[str]) -> None:
        """Write all samples that are read differently as tab-separated values with a heading, atomically."""
        rows = [("dataset", "image", "label", "a", "b", "right")]
        rows += [(x.name, s.key, s.label, s.a, s.b, s.right) for x in self.datasets for s in x.differing]
        lines = ("\t".join(printable(cell, 1 << 20) for cell in row) + "\n" for row in rows)
        atomic_write(Path(path), "".join(lines).encode(), DataError)


def _test(counts: PairedCounts) -> dict[str, Any]:
    low, high = counts.interval
    return {
        "samples": counts.samples,
        "both_right": counts.both,
        "only_a_right": counts.only_a,
        "only_b_right": counts.only_b,
        "neither_right": counts.neither,
        "difference": counts.difference if counts.samples else None,
        "difference_low": low,
        "difference_high": high,
        "p_value": counts.p_value,
    }


@checked_call
def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    data: DataSpecs,
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    like: CharsetConfig | None = None,
    max_bad_share: float = 0.1,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Compare the readings in two files, sample by sample; arguments and errors as of ``score_readings``.

    A sample that one of them alone has a text of counts as wrong for the other.
    """
    first, second = (
        score_readings(
            file, data, protocol=protocol, charset=charset, like=like, max_bad_share=max_bad_share, progress=progress
        )
        for file in (a, b)
    )
    sets = tuple(_paired(left, right) for left, right in zip(first.datasets, second.datasets, strict=True))
    shared = [line for line in first.warnings if line in second.warnings]  # on the labels
    own = (f"{x.model}: {line}" for x in (first, second) for line in x.warnings if line not in shared)
    return Comparison(first.model, second.model, protocol, sets, (*shared, *own))


def _paired(left: DatasetResult, right: DatasetResult) -> ComparedSet:
    labelled = {sample.index: sample for result in (left, right) for sample in result.samples}
    a, b = ({sample.index: sample.prediction for sample in result.samples} for result in (left, right))
    samples = [
        PairedSample(n, s.key, s.label, a.get(n, no_reading(s.label)), b.get(n, no_reading(s.label)))
        for n, s in sorted(labelled.items())
    ]
    found = Counter(sample.right for sample in samples)
    return ComparedSet(
        left.name,
        left.path,
        left.title,
        score_texts((s.label, s.a) for s in samples),
        score_texts((s.label, s.b) for s in samples),
        PairedCounts(found["both"], found["a"], found["b"], found["neither"]),
        tuple(sample for sample in samples if sample.a != sample.b),
    )

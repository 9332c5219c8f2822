"""Two readers on the same samples: accuracies, the samples on which they differ, and a paired test."""

import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from crnn.config.model import CharsetConfig
from crnn.config.section import checked_call
from crnn.config.training import ProtocolName
from crnn.evaluation.evaluate import DataSpecs, ProtocolCharset
from crnn.evaluation.metrics import Z_95, TextSums, score_texts
from crnn.evaluation.readings import no_reading, score_readings
from crnn.evaluation.results import DatasetResult, finite


@dataclass(frozen=True, slots=True)
class PairedSample:
    """One sample with both readings, all under the protocol; ``right``: ``both``, ``a``, ``b`` or ``neither``."""

    dataset: str
    index: int
    key: str
    label: str
    a: str
    b: str

    @property
    def right(self) -> str:
        """The readers that are right."""
        a, b = self.a == self.label, self.b == self.label
        return ("both" if b else "a") if a else "b" if b else "neither"


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Samples by the readers that are right."""

    both: int = 0
    a: int = 0
    b: int = 0
    neither: int = 0

    @property
    def samples(self) -> int:
        """Number of all."""
        return self.both + self.a + self.b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of B minus that of A; NaN without samples."""
        return (self.b - self.a) / self.samples if self.samples else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``difference``: adjusted Wald for paired shares, each alone right on one sample more.

        Reference: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions
        based on paired data", Journal of Educational and Behavioral Statistics 37(4).
        """
        total = self.samples + 2
        a, b = (self.a + 1) / total, (self.b + 1) / total
        spread = Z_95 * math.sqrt((a + b - (b - a) ** 2) / total)
        return max(-1.0, b - a - spread), min(1.0, b - a + spread)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of McNemar's exact test: of samples on which one alone is right, each is so equally often.

        Reference: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
        percentages"; exact by the binomial distribution.
        """
        n = self.a + self.b
        logs = (
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(self.a, self.b) + 1)
        )
        return min(
            1.0, 2 * math.fsum(math.exp(log - n * math.log(2)) for log in logs)
        )  # of tosses with at most k heads


@dataclass(frozen=True)
class ComparedSet:
    """Both readers on one set, in its order; ``title`` are the rules in a few words."""

    name: str
    path: str
    title: str
    samples: tuple[PairedSample, ...]

    @cached_property
    def sums(self) -> tuple[TextSums, TextSums]:
        """Figures of both readers."""
        return score_texts((s.label, s.a) for s in self.samples), score_texts((s.label, s.b) for s in self.samples)

    @cached_property
    def counts(self) -> PairedCounts:
        """Samples by the readers that are right."""
        return PairedCounts(**Counter(s.right for s in self.samples))

    @cached_property
    def differing(self) -> list[PairedSample]:
        """Samples that are read differently."""
        return [s for s in self.samples if s.a != s.b]

    def as_dict(self) -> dict[str, Any]:
        """Return a set in the JSON of ``crnn compare``. Shares are in [0, 1]; ``null`` without samples."""
        counts = self.counts
        return {
            "name": self.name,
            "samples": counts.samples,
            "accuracies": [finite(sums.accuracy) for sums in self.sums],
            "cers": [finite(sums.cer) for sums in self.sums],
            "right": asdict(counts),
            "difference": finite(counts.difference),
            "interval": counts.interval,
            "p_value": counts.p_value,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two readers, by name, on several sets."""

    a: str
    b: str
    protocol: str
    datasets: tuple[ComparedSet, ...]
    warnings: tuple[str, ...]

    @property
    def combined(self) -> ComparedSet:
        """All sets as one."""
        title = "; ".join(dict.fromkeys(x.title for x in self.datasets))
        return ComparedSet("combined", "", title, tuple(s for x in self.datasets for s in x.samples))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON of ``crnn compare``."""
        whole, fields = self.combined, ("dataset", "key", "label", "a", "b", "right")
        return {
            **{name: getattr(self, name) for name in ("a", "b", "protocol")},
            "datasets": [x.as_dict() for x in self.datasets],
            "combined": whole.as_dict(),
            "differing": [{name: getattr(s, name) for name in fields} for s in whole.differing],
            "warnings": list(self.warnings),
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
) -> Comparison:
    """Compare the readings in two files, sample by sample; arguments and errors as of ``score_readings``.

    A sample that one of them alone has a text of counts as wrong for the other.
    """
    first, second = (score_readings(x, data, protocol=protocol, charset=charset, like=like) for x in (a, b))
    sets = tuple(_paired(left, right) for left, right in zip(first.datasets, second.datasets, strict=True))
    shared = [line for line in first.warnings if line in second.warnings]  # on the labels
    own = (f"{x.model}: {line}" for x in (first, second) for line in x.warnings if line not in shared)
    return Comparison(first.model, second.model, protocol, sets, (*shared, *own))


def _paired(left: DatasetResult, right: DatasetResult) -> ComparedSet:
    labelled = {s.index: s for result in (left, right) for s in result.samples}
    a, b = ({s.index: s.prediction for s in result.samples} for result in (left, right))
    pairs = ((s, no_reading(s.label)) for _, s in sorted(labelled.items()))
    samples = (
        PairedSample(left.name, s.index, s.key, s.label, a.get(s.index, none), b.get(s.index, none))
        for s, none in pairs
    )
    return ComparedSet(left.name, left.path, left.title, tuple(samples))

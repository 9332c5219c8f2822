"""Reliability of confidences: bins of a reliability diagram, calibration error, accuracy against coverage.

A confidence is the probability, in [0, 1], that a reading is right. Confidences are calibrated when, of all readings
with a confidence of 0.8, four in five are right. Numbers only; what a confidence is made of says
``crnn.decoding.confidence``.

References:
    Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 2 (reliability diagrams, expected calibration
    error);
    Geifman and El-Yaniv 2017, arXiv 1705.08500 (accuracy against coverage of what is not refused).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_BINS = 15
"""Bins of equal width; as most papers have it."""

_THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)

_Numbers = npt.NDArray[np.floating[Any]]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The readings whose confidence is in [``low``, ``high``), or in [``low``, 1] for the last bin.

    Attributes:
        low: Lower end.
        high: Upper end.
        samples: Number of readings, at least 1.
        confidence: Mean of their confidences.
        accuracy: Share of them that is right.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """Readings that remain when those below a confidence are refused.

    Attributes:
        threshold: Readings with a lower confidence are refused.
        samples: Readings that remain, at least 1.
        coverage: Their share of all.
        accuracy: Share of those that remain that is right.
    """

    threshold: float
    samples: int
    coverage: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability of the readings of an evaluation.

    Attributes:
        samples: Number of readings.
        error_before: Expected calibration error of ``exp(score)``, the probability that the network gives the text; NaN
            without readings.
        before: The bins of it.
        error_after: That of the confidences; ``None`` where the weights are not calibrated.
        after: The bins of it.
        coverage: What remains when readings under a threshold are refused, by confidence (where there is none, by
            ``exp(score)``).
    """

    samples: int
    error_before: float
    before: tuple[ReliabilityBin, ...]
    error_after: float | None
    after: tuple[ReliabilityBin, ...]
    coverage: tuple[CoverageRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {
            "samples": self.samples,
            "error_before": None if math.isnan(self.error_before) else self.error_before,
            "error_after": None if self.error_after is None or math.isnan(self.error_after) else self.error_after,
            "before": [asdict(row) for row in self.before],
            "after": [asdict(row) for row in self.after],
            "coverage": [asdict(row) for row in self.coverage],
        }


def measure_reliability(
    scores: Sequence[float], confidences: Sequence[float | None], correct: Sequence[bool]
) -> Reliability:
    """The reliability of readings with and without calibration.

    Args:
        scores: ``(N,)`` log-probabilities; what is not a number counts as impossible.
        confidences: ``(N,)`` in [0, 1]; there is no "after" where one is ``None``.
        correct: ``(N,)`` whether the reading is right.
    """
    right = np.array(correct, dtype=np.bool_)
    before = np.exp(np.minimum(np.nan_to_num(np.array(scores, dtype=np.float64), nan=-np.inf, neginf=-np.inf), 0.0))
    known = [confidence for confidence in confidences if confidence is not None]
    after = np.array(known, dtype=np.float64) if known and len(known) == len(confidences) else None
    return Reliability(
        samples=len(scores),
        error_before=expected_calibration_error(before, right),
        before=tuple(reliability_bins(before, right)),
        error_after=None if after is None else expected_calibration_error(after, right),
        after=() if after is None else tuple(reliability_bins(after, right)),
        coverage=tuple(coverage_rows(before if after is None else after, right, _THRESHOLDS)),
    )


def reliability_bins(confidences: _Numbers, correct: _Mask, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """The bins of a reliability diagram, ascending; empty ones are left out.

    Args:
        confidences: ``(N,)`` in [0, 1].
        correct: ``(N,)`` whether the reading is right.
        num_bins: Number of bins of equal width.
    """
    bins = np.minimum((confidences * num_bins).astype(np.intp), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    confidence_sums = np.bincount(bins, weights=confidences, minlength=num_bins)
    correct_sums = np.bincount(bins, weights=correct, minlength=num_bins)
    return [
        ReliabilityBin(
            k / num_bins,
            (k + 1) / num_bins,
            int(counts[k]),
            float(confidence_sums[k] / counts[k]),
            float(correct_sums[k] / counts[k]),
        )
        for k in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(confidences: _Numbers, correct: _Mask, num_bins: int = NUM_BINS) -> float:
    """Mean difference of confidence and accuracy, over the bins of ``reliability_bins``, weighted by their samples.

    Args:
        confidences: ``(N,)`` in [0, 1].
        correct: ``(N,)`` whether the reading is right.
        num_bins: Number of bins of equal width.

    Returns:
        In [0, 1]; 0 is best. NaN when there are no readings.
    """
    if not confidences.size:
        return math.nan
    parts = (abs(b.confidence - b.accuracy) * b.samples for b in reliability_bins(confidences, correct, num_bins))
    return math.fsum(parts) / confidences.size


def coverage_rows(confidences: _Numbers, correct: _Mask, thresholds: tuple[float, ...]) -> list[CoverageRow]:
    """Accuracy against coverage: what remains, and how much of it is right, for each threshold.

    Args:
        confidences: ``(N,)`` in [0, 1].
        correct: ``(N,)`` whether the reading is right.
        thresholds: In the order of the rows; those that leave no reading have no row.
    """
    rows = []
    for threshold in thresholds:
        kept = confidences >= threshold
        count = int(np.count_nonzero(kept))
        if count:
            right = int(np.count_nonzero(correct[kept]))
            rows.append(CoverageRow(threshold, count, count / confidences.size, right / count))
    return rows

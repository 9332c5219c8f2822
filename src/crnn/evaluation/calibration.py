"""Reliability of confidences: reliability diagram, calibration error, accuracy against coverage.

Confidences, in [0, 1], are calibrated if four in five of the readings with a confidence of 0.8 are right.

References: Guo et al. 2017, arXiv 1706.04599, section 2 (reliability diagrams, expected calibration error); Geifman
and El-Yaniv 2017, arXiv 1705.08500 (accuracy against coverage).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_BINS = 15  # of equal width, the usual number in papers

_THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)

_Numbers = npt.NDArray[np.floating[Any]]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Readings with a confidence in [``low``, ``high``), or in [``low``, 1] for the last bin; at least one.

    ``confidence`` is their mean confidence, ``accuracy`` the share of right ones.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """Readings with a confidence of at least ``threshold``; at least one.

    ``coverage`` is their share of all, ``accuracy`` the share of right ones among them.
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
        error_before: Expected calibration error of ``exp(score)``, the network's probability of the text; NaN without
            readings.
        before: Bins of ``exp(score)``.
        error_after: Expected calibration error of the confidences; ``None`` for uncalibrated weights.
        after: Bins of the confidences.
        coverage: Rows by confidence, or by ``exp(score)`` without confidences.
    """

    samples: int
    error_before: float
    before: tuple[ReliabilityBin, ...]
    error_after: float | None
    after: tuple[ReliabilityBin, ...]
    coverage: tuple[CoverageRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
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
    """Measure the reliability of ``(N,)`` readings with and without calibration.

    ``scores`` are log-probabilities, NaN counts as impossible; there is no "after" if a confidence is ``None``.
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
    """Return the bins of equal width of a reliability diagram, ascending, without empty ones."""
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
    """Return the mean difference of confidence and accuracy over ``reliability_bins``, weighted by samples.

    It is in [0, 1]; 0 is best, NaN without readings.
    """
    if not confidences.size:
        return math.nan
    parts = (abs(b.confidence - b.accuracy) * b.samples for b in reliability_bins(confidences, correct, num_bins))
    return math.fsum(parts) / confidences.size


def coverage_rows(confidences: _Numbers, correct: _Mask, thresholds: tuple[float, ...]) -> list[CoverageRow]:
    """Return accuracy against coverage, one row per threshold; thresholds that leave no reading have none."""
    rows = []
    for threshold in thresholds:
        kept = confidences >= threshold
        count = int(np.count_nonzero(kept))
        if count:
            right = int(np.count_nonzero(correct[kept]))
            rows.append(CoverageRow(threshold, count, count / confidences.size, right / count))
    return rows

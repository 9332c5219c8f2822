"""Reliability of confidences: bins of a diagram, calibration error, accuracy against coverage.

References: Guo et al. 2017, arXiv 1706.04599, section 2 (reliability diagrams, expected calibration error); Geifman
and El-Yaniv 2017, arXiv 1705.08500 (accuracy against coverage).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.decoding.confidence import expected_calibration_error

NUM_BINS = 15  # of equal width, the usual number in papers

_THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)

_Numbers = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The readings with a confidence in [``low``, ``high``), of the last bin up to 1: mean confidence, accuracy."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """The readings with a confidence of at least ``threshold``: their share of all, and their accuracy."""

    threshold: float
    samples: int
    coverage: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability of readings: expected calibration errors, bins, and coverage by confidence.

    ``before`` is that of ``exp(score)``, the network's probability of the text, ``after`` that of the confidences. An
    error is ``None`` without readings, or without confidences; coverage then is by ``exp(score)``.
    """

    samples: int
    error_before: float | None
    error_after: float | None
    before: list[ReliabilityBin]
    after: list[ReliabilityBin]
    coverage: list[CoverageRow]


def measure_reliability(
    scores: Sequence[float], confidences: Sequence[float | None], correct: Sequence[bool]
) -> Reliability:
    """Measure the reliability of ``(N,)`` readings with and without calibration.

    ``scores`` are log-probabilities, NaN counts as impossible; there is no "after" if a confidence is ``None``.
    """
    right = np.array(correct, dtype=np.bool_)
    log_probs = np.nan_to_num(np.array(scores, dtype=np.float64), nan=-np.inf, neginf=-np.inf)
    before: _Numbers = np.exp(np.minimum(log_probs, 0.0))
    calibrated = bool(scores) and None not in confidences
    after: _Numbers = np.array(confidences if calibrated else [], dtype=np.float64)
    return Reliability(
        samples=len(scores),
        error_before=expected_calibration_error(before, right, NUM_BINS) if scores else None,
        error_after=expected_calibration_error(after, right, NUM_BINS) if calibrated else None,
        before=reliability_bins(before, right),
        after=reliability_bins(after, right) if calibrated else [],
        coverage=coverage_rows(after if calibrated else before, right, _THRESHOLDS),
    )


def reliability_bins(confidences: _Numbers, correct: _Mask, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Return the bins of equal width of a reliability diagram, ascending, without empty ones."""
    places = np.minimum((confidences * num_bins).astype(np.intp), num_bins - 1)
    sums = (np.bincount(places, weights, minlength=num_bins).tolist() for weights in (None, confidences, correct))
    return [
        ReliabilityBin(k / num_bins, (k + 1) / num_bins, count, confidence / count, right / count)
        for k, (count, confidence, right) in enumerate(zip(*sums, strict=True))
        if count
    ]


def coverage_rows(confidences: _Numbers, correct: _Mask, thresholds: Sequence[float]) -> list[CoverageRow]:
    """Return accuracy against coverage, one row per threshold; thresholds that leave no reading have none."""
    kept = [(threshold, correct[confidences >= threshold]) for threshold in thresholds]
    return [CoverageRow(t, r.size, r.size / correct.size, float(r.mean())) for t, r in kept if r.size]

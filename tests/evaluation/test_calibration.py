"""Bins, calibration error and coverage, counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from crnn.evaluation.calibration import (
    CoverageRow,
    ReliabilityBin,
    coverage_rows,
    expected_calibration_error,
    measure_reliability,
    reliability_bins,
)

CONFIDENCES = np.array([0.0, 0.1, 0.55, 0.6, 0.95, 1.0])
RIGHT = np.array([False, True, False, True, True, True])


def test_bins_by_hand() -> None:
    assert reliability_bins(CONFIDENCES, RIGHT, num_bins=4) == [
        ReliabilityBin(0.0, 0.25, 2, pytest.approx(0.05), 0.5),
        ReliabilityBin(0.5, 0.75, 2, pytest.approx(0.575), 0.5),
        ReliabilityBin(0.75, 1.0, 2, pytest.approx(0.975), 1.0),  # with the end itself
    ]


def test_the_calibration_error_is_the_mean_distance_weighted_by_samples() -> None:
    expected = (2 * 0.45 + 2 * 0.075 + 2 * 0.025) / 6
    assert expected_calibration_error(CONFIDENCES, RIGHT, num_bins=4) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_confidences_that_are_true_have_an_error_near_0(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.random(20_000)
    right = rng.random(20_000) < true
    assert expected_calibration_error(true, right) < 0.02
    assert expected_calibration_error(true**3, right) > 0.15  # not sure enough
    assert expected_calibration_error(np.ones(20_000), right) == pytest.approx(1 - right.mean())


def test_no_readings_have_no_error() -> None:
    nothing = np.array([])
    assert math.isnan(expected_calibration_error(nothing, nothing.astype(bool)))
    assert coverage_rows(nothing, nothing.astype(bool), (0.0, 0.5)) == []
    found = measure_reliability([], [], [])
    assert (found.samples, found.error_after, found.before, found.coverage) == (0, None, (), ())
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["error_before"] is None


def test_coverage_by_hand() -> None:
    assert coverage_rows(CONFIDENCES, RIGHT, (0.0, 0.6, 1.0, 1.5)) == [
        CoverageRow(0.0, 6, 1.0, 4 / 6),
        CoverageRow(0.6, 3, 0.5, 1.0),  # the threshold itself is kept
        CoverageRow(1.0, 1, 1 / 6, 1.0),
    ]


def test_before_is_of_the_scores_and_after_of_the_confidences() -> None:
    scores = [math.log(0.3)] * 4
    found = measure_reliability(scores, [0.75] * 4, [True, True, True, False])
    assert found.error_before == pytest.approx(0.45)
    assert found.error_after == pytest.approx(0.0)
    assert [row.samples for row in found.coverage] == [4, 4]  # up to a threshold of 0.5: by confidence
    assert [b.samples for b in found.before] == [b.samples for b in found.after] == [4]


def test_without_confidences_coverage_is_by_score() -> None:
    found = measure_reliability([math.log(0.9), math.log(0.4)], [None, 0.5], [True, False])
    assert (found.error_after, found.after) == (None, ())
    assert [(row.threshold, row.samples) for row in found.coverage] == [(0.0, 2), (0.5, 1), (0.8, 1), (0.9, 1)]


def test_scores_that_are_no_numbers_count_as_impossible() -> None:
    found = measure_reliability([math.nan, -math.inf, 0.01], [None] * 3, [False, False, True])
    assert [(b.samples, b.confidence) for b in found.before] == [(2, 0.0), (1, 1.0)]
    assert found.error_before == 0.0
    json.dumps(found.as_dict(), allow_nan=False)

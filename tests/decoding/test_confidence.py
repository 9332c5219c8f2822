"""Confidences: the curve, its fit, and what files have of it."""

import json
import math
from typing import Any

import numpy as np
import pytest

from crnn.decoding.confidence import (
    MIN_SAMPLES,
    UNCALIBRATED,
    Calibration,
    ConfidenceCurve,
    confidences,
    expected_calibration_error,
    fit_curve,
    logit,
)
from crnn.errors import ConfigError, DataError


def readings(count: int, slope: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether readings are right as often as the curve says."""
    rng = np.random.default_rng(seed)
    given = rng.random(count)
    return given, rng.random(count) < confidences(given, ConfidenceCurve(slope, offset))


def test_without_a_calibration_confidences_are_probabilities() -> None:
    given = np.linspace(0.001, 0.999, 50)
    assert confidences(given, UNCALIBRATED.greedy) == pytest.approx(given)
    assert np.isfinite(logit([0.0, 1.0])).all()


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, 0.3), (2.0, -1.0)])
def test_the_curve_is_found_again(slope: float, offset: float) -> None:
    given, right = readings(20_000, slope, offset)
    curve = fit_curve(given.tolist(), right.tolist())
    assert curve.slope == pytest.approx(slope, rel=0.08)
    assert curve.offset == pytest.approx(offset, abs=0.08)
    assert (curve.samples, curve.accuracy) == (20_000, pytest.approx(right.mean()))
    assert curve.error_after < 0.02
    assert curve.error_before == pytest.approx(expected_calibration_error(given, right))
    if slope != 1.0:
        assert curve.error_after < curve.error_before


def test_readings_that_can_be_told_apart_give_a_finite_curve() -> None:
    given = [0.9] * 30 + [0.1] * 30
    curve = fit_curve(given, [True] * 30 + [False] * 30)
    assert math.isfinite(curve.slope)
    # What is right less often the surer the network is still has a slope above 0.
    assert fit_curve(given, [False] * 30 + [True] * 30).slope > 0.0


@pytest.mark.parametrize("right", [[True] * MIN_SAMPLES, [False] * MIN_SAMPLES, [True, False] * (MIN_SAMPLES // 4)])
def test_too_little_is_refused(right: list[bool]) -> None:
    with pytest.raises(DataError, match=f"expected at least {MIN_SAMPLES}, some right"):
        fit_curve([0.5] * len(right), right)


def test_files_keep_both_curves_and_old_ones_have_a_temperature() -> None:
    given, right = readings(200, 0.7, 0.1)
    curve = fit_curve(given.tolist(), right.tolist())
    for calibration in (Calibration(curve, None, ("a", "b")), Calibration(curve, ConfidenceCurve(0.5, 0.2), (), 2.5)):
        again = Calibration.from_dict(calibration.as_dict())
        assert again.greedy == curve
        assert (again.language is None) == (calibration.language is None)
        assert (again.data, again.shift) == (calibration.data, calibration.shift)
        json.dumps(calibration.as_dict(), allow_nan=False)  # what is not known is null
        assert again.as_dict() == calibration.as_dict()
    old = Calibration.from_dict({"temperature": 2.0, "samples": 10, "accuracy": 0.5, "data": ["x"]})
    assert (old.greedy.slope, old.greedy.offset, old.greedy.samples, old.language) == (0.5, 0.0, 10, None)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"greedy": {"slope": "x"}, "data": []}, {"temperature": 0.0}, {"greedy": {"slope": -1.0}, "data": []},
        {"greedy": None, "data": []}, [1], {"greedy": {}, "data": [], "shift": 40.0},
        {"greedy": {}, "data": [], "shift": "x"},
    ],
)  # fmt: skip
def test_what_no_file_of_ours_has_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Calibration.from_dict(values)

"""Calibrated confidences: ``1 / (1 + exp(-(slope * log-odds + offset)))`` of the probability of a text.

Slope and offset are fitted on labelled images, one pair for reading with the language and one for reading without.
References: Platt 1999, "Probabilistic Outputs for Support Vector Machines" (the curve); Guo, Pleiss, Sun and
Weinberger 2017, arXiv 1706.04599 (calibration of networks, by a temperature: this curve without offset).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.errors import ConfigError, DataError

MIN_SAMPLES = 20  # least number of readings for a fit; some hundreds make it reliable
_MOST_SHIFT = 16.0  # pixels; the receptive field of a step reaches little further
_EDGE = 1e-7  # least distance of a probability from 0 and 1

_Doubles = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ConfidenceCurve:
    """Curve from log-odds to confidences."""

    slope: float = 1.0  # above 0; below 1 for networks that are too sure
    offset: float = 0.0
    samples: int = 0  # readings that it was fitted on
    accuracy: float = math.nan  # share of right ones
    error_before: float = math.nan  # expected calibration error of the probabilities
    error_after: float = math.nan  # of the confidences; each half of the readings is judged by the curve of the other

    def __post_init__(self) -> None:
        if not (0.0 < self.slope < math.inf and math.isfinite(self.offset)):
            raise ConfigError(f"slope is {self.slope}, offset {self.offset}; expected a slope above 0, a finite offset")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Numbers fitted to weights: confidence curves, without and with the language, and the shift of places.

    Without a curve for ``language``, ``greedy`` is used.
    """

    greedy: ConfidenceCurve
    language: ConfidenceCurve | None = None
    data: tuple[str, ...] = ()  # names of the sets of the curves
    shift: float = 0.0  # of characters to the right, in pixels of the network's image: some networks tell early

    def __post_init__(self) -> None:
        if not -_MOST_SHIFT <= self.shift <= _MOST_SHIFT:
            raise ConfigError(f"shift is {self.shift}; expected {-_MOST_SHIFT} to {_MOST_SHIFT} pixels")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = dataclasses.asdict(self)
        for curve in filter(None, (values["greedy"], values["language"])):
            curve.update({name: None for name, value in curve.items() if value != value})  # NaN is not JSON
        return {**values, "data": list(self.data)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration of an ``as_dict``; the temperature of older files is a curve without offset."""
        try:
            if "temperature" in values:
                return cls(_curve({**values, "slope": 1.0 / float(values["temperature"])}))
            language = None if values.get("language") is None else _curve(values["language"])
            names = tuple(str(name) for name in values["data"])
            return cls(_curve(values["greedy"]), language, names, float(values.get("shift", 0.0)))
        except ConfigError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"calibration {values!r} cannot be used: {error!r}; expected what crnn wrote") from None


UNCALIBRATED = Calibration(ConfidenceCurve())  # confidences are the probabilities themselves


def _curve(values: Mapping[str, Any]) -> ConfidenceCurve:
    names = [field.name for field in dataclasses.fields(ConfidenceCurve) if values.get(field.name) is not None]
    return ConfidenceCurve(**{name: (int if name == "samples" else float)(values[name]) for name in names})  # type: ignore[arg-type]


def logit(probabilities: npt.ArrayLike) -> _Doubles:
    """Return the log-odds of probabilities, finite also for 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), _EDGE, 1.0 - _EDGE)
    odds: _Doubles = np.log(clipped) - np.log1p(-clipped)
    return odds


def confidences(probabilities: npt.ArrayLike, curve: ConfidenceCurve) -> _Doubles:
    """Return the confidence of each probability, in [0, 1]."""
    result: _Doubles = 1.0 / (1.0 + np.exp(-(curve.slope * logit(probabilities) + curve.offset)))
    return result


def expected_calibration_error(given: _Doubles, correct: _Mask, num_bins: int = 10) -> float:
    """Return the mean distance between confidence and accuracy over bins of equal width, weighted by readings."""
    bins = np.minimum((given * num_bins).astype(np.intp), num_bins - 1)
    sums = np.bincount(bins, given - correct, minlength=num_bins)
    return float(np.abs(sums).sum() / max(given.size, 1))


def fit_curve(probabilities: Sequence[float], correct: Sequence[bool]) -> ConfidenceCurve:
    """Fit a curve by maximum likelihood; ``DataError`` for few readings, or if all are right, or all wrong."""
    given, right = np.asarray(probabilities, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    odds = logit(given)
    num_right = int(np.count_nonzero(right))
    if right.size < MIN_SAMPLES or num_right in (0, right.size):
        raise DataError(
            f"{right.size} readings, {num_right} right; expected at least {MIN_SAMPLES}, some right and some wrong"
        )
    # Every other reading of a random order, so that the halves are alike however the set is sorted.
    first = np.zeros(right.size, dtype=np.bool_)
    first[np.random.default_rng(0).permutation(right.size)[::2]] = True
    after = np.empty(right.size)
    for half in (first, ~first):
        after[~half] = confidences(given[~half], ConfidenceCurve(*_newton(odds[half], right[half])))
    errors = (expected_calibration_error(some, right) for some in (given, after))
    return ConfidenceCurve(*_newton(odds, right), right.size, num_right / right.size, *errors)


def _newton(odds: _Doubles, right: _Mask) -> tuple[float, float]:
    """Fit a logistic regression with a weak pull towards (1, 0), which keeps it finite for separable readings."""
    design = np.stack([odds, np.ones_like(odds)], axis=1)
    center, pull = np.array([1.0, 0.0]), 0.1
    found = center.copy()
    for _ in range(50):
        given = 1.0 / (1.0 + np.exp(-(design @ found)))
        gradient = design.T @ (given - right) + pull * (found - center)
        curvature = (design * (given * (1.0 - given))[:, None]).T @ design + pull * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found - np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    return round(max(float(found[0]), 0.01), 4), round(float(found[1]), 4)

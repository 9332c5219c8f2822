"""From the probability of a text to a confidence: one temperature, fitted on labelled pictures, kept with the weights.

The score of a reading is what the network says: the CTC probability of its text. Networks are too sure or not sure
enough. The confidence is the same probability after the network's logits are divided by a temperature (above 1: less
sure), which is chosen so that confidences are true: it minimises the mean of -log(probability of what happened), where
what happened is that the reading was right or wrong. Texts are found without it, so that they never depend on it.

Shape letters: N batch, T time steps, V classes with the blank (the last one), K temperatures.

References:
    Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599 (temperature scaling; there for single classes, here the
    probability is that of a whole text, and what is fitted is whether the text was right).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.decoding.ctc import sequence_log_probs
from crnn.errors import ConfigError, DataError
from crnn.evaluation.reliability import expected_calibration_error

__all__ = [
    "MIN_SAMPLES",
    "Calibration",
    "check_temperature",
    "fit_calibration",
    "is_at_the_end",
    "temper",
    "temperature_scores",
    "text_confidences",
]

MIN_SAMPLES = 20
"""Fewer readings than these fit nothing; some hundreds make a temperature that can be relied on."""

_TEMPERATURES = np.geomspace(0.2, 5.0, 41)  # 8 % apart; a parabola finds the place between them
_ALMOST_SURE = 1e-6  # what the rounding of float32 leaves of a probability of 1

_Floats = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a weights file knows of how sure its readings can be.

    Attributes:
        temperature: The network's logits are divided by it for confidences, and for nothing else.
        samples: Readings that it was fitted on.
        accuracy: Share of them that was right.
        error_before: Expected calibration error of ``exp(score)`` on them.
        error_after: That of the confidences, where each half of the readings has the temperature of the other half.
        data: Names of the sets.
    """

    temperature: float
    samples: int
    accuracy: float
    error_before: float
    error_after: float
    data: tuple[str, ...]

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {**dataclasses.asdict(self), "data": list(self.data)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """What ``as_dict`` gave; fields of later versions are passed over.

        Raises:
            ConfigError: Fields are missing or of another type, or the temperature cannot be one.
        """
        try:
            return cls(
                temperature=float(values["temperature"]),
                samples=int(values["samples"]),
                accuracy=float(values["accuracy"]),
                error_before=float(values["error_before"]),
                error_after=float(values["error_after"]),
                data=tuple(str(name) for name in values["data"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"calibration {values!r} cannot be used: {error!r}; expected what crnn wrote") from None


def check_temperature(temperature: float) -> None:
    """Refuse what cannot be a temperature.

    Raises:
        ConfigError: It is not finite, or not above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}; expected a number above 0")


def temper(log_probs: _Floats, temperature: float) -> _Doubles:
    """Log-probabilities of the logits divided by a temperature.

    Args:
        log_probs: ``(N, T, V)``, normalised over V; entries may be -inf.
        temperature: Above 0.

    Returns:
        ``(N, T, V)`` float64, normalised over V.

    Raises:
        ConfigError: It is no temperature.
    """
    check_temperature(temperature)
    divided = log_probs.astype(np.float64) / temperature
    divided -= divided.max(axis=2, keepdims=True)
    divided -= np.log(np.exp(divided).sum(axis=2, keepdims=True))
    return divided


def text_confidences(
    log_probs: _Floats, texts: Sequence[Sequence[int]], temperature: float, rows: npt.NDArray[np.intp] | None = None
) -> _Doubles:
    """Confidence that each text is what its picture shows.

    Args:
        log_probs: ``(N, T, V)``.
        texts: K sequences of class ids.
        temperature: Of the calibration.
        rows: ``(K,)``, the picture of each text. Default: one text of each picture, K = N.

    Returns:
        ``(K,)`` in [0, 1].
    """
    confidences: _Doubles = np.exp(sequence_log_probs(temper(log_probs, temperature), texts, rows))
    return confidences


def temperature_scores(log_probs: _Floats, texts: Sequence[Sequence[int]]) -> _Doubles:
    """Log-probability of each text at each temperature that ``fit_calibration`` compares.

    So that the log-probabilities of a large set need not be kept.

    Args:
        log_probs: ``(N, T, V)``.
        texts: N sequences of class ids.

    Returns:
        ``(N, K)`` float64.
    """
    return np.stack([sequence_log_probs(temper(log_probs, t), texts) for t in _TEMPERATURES.tolist()], axis=1)


def fit_calibration(scores: _Doubles, correct: _Mask, data: Sequence[str] = ()) -> Calibration:
    """The temperature under which the confidences of readings are true, and how true they are with and without it.

    Args:
        scores: ``(N, K)`` from ``temperature_scores``.
        correct: ``(N,)`` whether the reading is right.
        data: Names of the sets, to be remembered.

    Raises:
        DataError: There are fewer than ``MIN_SAMPLES`` readings, or all of them are right, or all wrong.
    """
    num_right = int(np.count_nonzero(correct))
    if correct.size < MIN_SAMPLES or num_right in (0, correct.size):
        raise DataError(
            f"{correct.size} readings, {num_right} of them right; a temperature is fitted on at least {MIN_SAMPLES} "
            "readings, of which some are right and some wrong. Take more pictures, and none that it was trained on"
        )
    # Every other reading of a random order, so that the halves are alike however the set is sorted.
    is_first = np.zeros(correct.size, dtype=np.bool_)
    is_first[np.random.default_rng(0).permutation(correct.size)[::2]] = True
    held_out = np.empty(correct.size)
    for half in (is_first, ~is_first):
        held_out[~half] = _scores_at(scores[~half], _best_temperature(scores[half], correct[half]))
    before = _scores_at(scores, 1.0)
    return Calibration(
        temperature=_best_temperature(scores, correct),
        samples=correct.size,
        accuracy=num_right / correct.size,
        error_before=expected_calibration_error(np.exp(before), correct),
        error_after=expected_calibration_error(np.exp(held_out), correct),
        data=tuple(data),
    )


def is_at_the_end(temperature: float) -> bool:
    """Whether the best temperature was the first or the last that was tried: the readings asked for an extreme one."""
    return not _TEMPERATURES[0] * 1.01 < temperature < _TEMPERATURES[-1] * 0.99


def _best_temperature(scores: _Doubles, correct: _Mask) -> float:
    """Where the mean of -log(probability of what happened) is smallest."""
    clipped = np.clip(scores, -700.0, -_ALMOST_SURE)
    losses = -np.where(correct[:, None], clipped, np.log(-np.expm1(clipped))).mean(axis=0)
    k = int(losses.argmin())
    place = float(k)
    if 0 < k < losses.size - 1:
        before, at, after = losses[k - 1 : k + 2].tolist()
        bend = before - 2.0 * at + after
        place += 0.5 * (before - after) / bend if bend > 0.0 else 0.0
    low, high = math.log(_TEMPERATURES[0]), math.log(_TEMPERATURES[-1])
    return round(math.exp(low + (high - low) * place / (losses.size - 1)), 4)


def _scores_at(scores: _Doubles, temperature: float) -> _Doubles:
    """Scores at any temperature within those tried, linear between its neighbours (on the scale of logarithms)."""
    place = float(np.interp(math.log(temperature), np.log(_TEMPERATURES), np.arange(_TEMPERATURES.size)))
    k = min(int(place), _TEMPERATURES.size - 2)
    share = place - k
    if share == 0.0:
        return scores[:, k]
    between: _Doubles = (1.0 - share) * scores[:, k] + share * scores[:, k + 1]
    return between

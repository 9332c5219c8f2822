"""The temperature: what it does to log-probabilities, and that the fit finds the one that made the data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from crnn.decoding.ctc import greedy, sequence_log_probs
from crnn.errors import ConfigError, DataError
from crnn.evaluation.calibration import (
    MIN_SAMPLES,
    Calibration,
    fit_calibration,
    is_at_the_end,
    temper,
    temperature_scores,
    text_confidences,
)
from crnn.evaluation.reliability import expected_calibration_error

Draw = Callable[..., np.ndarray]


def read_with_luck(random_log_probs: Draw, seed: int, true_temperature: float, count: int = 1500) -> tuple:
    """Texts of best paths, each right with its probability at ``true_temperature``."""
    log_probs = random_log_probs(seed, count, 6, 5, sharpness=4.0, dtype=np.float32)
    texts = greedy(log_probs)
    chances = text_confidences(log_probs, texts, true_temperature)
    return log_probs, texts, np.random.default_rng(seed).random(count) < chances


# -- temperature ------------------------------------------------------------------------------------------------------


def test_a_temperature_divides_logits(random_log_probs: Draw) -> None:
    log_probs = random_log_probs(0, 3, 4, 5)
    tempered = temper(log_probs, 2.0)
    expected = np.exp(log_probs / 2) / np.exp(log_probs / 2).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(np.exp(tempered), expected)
    np.testing.assert_allclose(temper(log_probs + 7.0, 2.0), tempered)  # logits, whatever they are normalised by
    np.testing.assert_allclose(temper(log_probs, 1.0), log_probs, atol=1e-12)


def test_what_is_impossible_stays_so() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[[1.0, 0.0], [0.5, 0.5]]]))
    assert np.array_equal(np.exp(temper(log_probs, 3.0)), [[[1.0, 0.0], [0.5, 0.5]]])


def test_the_best_path_does_not_depend_on_it(random_log_probs: Draw) -> None:
    log_probs = random_log_probs(1, 50, 8, 6)
    for temperature in (0.2, 0.7, 5.0):
        assert greedy(temper(log_probs, temperature)) == greedy(log_probs)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature is .*; expected a number above 0"):
        temper(np.zeros((1, 1, 2)), temperature)


def test_a_confidence_is_the_probability_of_the_text_at_the_temperature(random_log_probs: Draw) -> None:
    log_probs = random_log_probs(2, 20, 6, 4)
    texts = greedy(log_probs)
    np.testing.assert_allclose(
        text_confidences(log_probs, texts, 1.0), np.exp(sequence_log_probs(log_probs, texts)), rtol=1e-9
    )
    assert (text_confidences(log_probs, texts, 0.3) > text_confidences(log_probs, texts, 1.0)).all()


# -- fit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.2])
def test_the_fit_finds_the_temperature_that_made_the_readings_right(
    true_temperature: float, random_log_probs: Draw
) -> None:
    log_probs, texts, right = read_with_luck(random_log_probs, 3, true_temperature)
    found = fit_calibration(temperature_scores(log_probs, texts), right, ["a", "b"])
    assert found.temperature == pytest.approx(true_temperature, rel=0.12)
    assert (found.samples, found.data) == (1500, ("a", "b"))
    assert found.accuracy == right.mean()
    assert found.error_after < 0.04
    if true_temperature == 1.0:
        assert found.error_before < 0.04
    else:
        assert found.error_before > 0.08
    assert not is_at_the_end(found.temperature)


def test_scores_at_the_temperatures_are_those_of_tempered_log_probabilities(random_log_probs: Draw) -> None:
    log_probs = random_log_probs(4, 5, 6, 4)
    texts = greedy(log_probs)
    scores = temperature_scores(log_probs, texts)
    middle = scores.shape[1] // 2
    np.testing.assert_allclose(scores[:, middle], sequence_log_probs(log_probs, texts), atol=1e-9)
    assert (scores[:, :-1] >= scores[:, 1:]).all()  # the best path loses by heat


def test_the_error_after_is_of_readings_that_were_not_fitted_on(random_log_probs: Draw) -> None:
    # One reading decides the temperature of its half: fitted on all, it would flatter itself.
    log_probs, texts, right = read_with_luck(random_log_probs, 5, 0.6, count=40)
    scores = temperature_scores(log_probs, texts)
    found = fit_calibration(scores, right)
    again = fit_calibration(scores, right)
    assert found == again
    halves = np.random.default_rng(0).permutation(40)
    first = fit_calibration(np.repeat(scores[halves[::2]], 2, axis=0), np.repeat(right[halves[::2]], 2)).temperature
    second = fit_calibration(np.repeat(scores[halves[1::2]], 2, axis=0), np.repeat(right[halves[1::2]], 2)).temperature
    own = np.empty(40)
    own[halves[1::2]] = text_confidences(log_probs, texts, first)[halves[1::2]]
    own[halves[::2]] = text_confidences(log_probs, texts, second)[halves[::2]]
    assert found.error_after == pytest.approx(expected_calibration_error(own, right), abs=0.01)


@pytest.mark.parametrize(
    ("right", "message"),
    [
        ([True] * 5 + [False] * 5, "10 readings, 5 of them right"),
        ([True] * MIN_SAMPLES, f"{MIN_SAMPLES} readings, {MIN_SAMPLES} of them right"),
        ([False] * MIN_SAMPLES, f"{MIN_SAMPLES} readings, 0 of them right"),
    ],
)
def test_too_little_to_fit_is_said(right: list[bool], message: str, random_log_probs: Draw) -> None:
    log_probs = random_log_probs(6, len(right), 5, 4)
    scores = temperature_scores(log_probs, greedy(log_probs))
    with pytest.raises(DataError, match=f"{message}; a temperature is fitted on at least {MIN_SAMPLES} readings"):
        fit_calibration(scores, np.array(right))


def test_readings_that_ask_for_more_than_there_is_give_the_end() -> None:
    scores = temperature_scores(np.log(np.full((100, 4, 3), 1 / 3)), [[0]] * 100)
    sure = fit_calibration(scores, np.arange(100) < 50)  # every temperature says the same: the first is taken
    assert is_at_the_end(sure.temperature)


# -- kept -------------------------------------------------------------------------------------------------------------


def test_a_calibration_comes_back_from_json() -> None:
    given = Calibration(temperature=0.7, samples=30, accuracy=0.5, error_before=0.2, error_after=0.1, data=("a", "b"))
    values = json.loads(json.dumps(given.as_dict()))
    assert Calibration.from_dict({**values, "of a later version": 1}) == given


@pytest.mark.parametrize(
    "change", [{"temperature": 0}, {"temperature": "warm"}, {"samples": None}, {"data": 5}, {"accuracy": [1]}]
)
def test_what_is_no_calibration_is_refused(change: dict[str, object]) -> None:
    values = {
        "temperature": 0.7, "samples": 30, "accuracy": 0.5, "error_before": 0.2, "error_after": 0.1, "data": ["a"],
    }  # fmt: skip
    Calibration.from_dict(values)
    with pytest.raises(ConfigError, match="expected"):
        Calibration.from_dict({**values, **change})
    with pytest.raises(ConfigError, match="expected"):
        Calibration.from_dict({})


def test_each_half_is_judged_by_the_temperature_of_the_other(random_log_probs: Callable[..., np.ndarray]) -> None:
    log_probs = random_log_probs(5, 40, 6, 5, sharpness=4.0, dtype=np.float32)
    scores = temperature_scores(log_probs, greedy(log_probs))
    halves, right = np.random.default_rng(0).permutation(40), np.zeros(40, dtype=np.bool_)
    right[halves[2::2]] = right[halves[1]] = True  # nearly all of the first half, nearly none of the other
    assert fit_calibration(scores, right).error_after > 0.5  # 0.84; 0.13 on what was fitted


@pytest.mark.parametrize("true", [0.5, 0.8, 1.7, 2.2])
def test_the_temperature_is_found_between_those_that_are_tried(
    true: float, random_log_probs: Callable[..., np.ndarray]
) -> None:
    log_probs = random_log_probs(3, 400, 6, 5, sharpness=4.0, dtype=np.float32)
    texts = greedy(log_probs)
    right = np.random.default_rng(3).random(400) < text_confidences(log_probs, texts, true)
    found = fit_calibration(temperature_scores(log_probs, texts), right).temperature
    near = np.geomspace(0.9 * found, 1.1 * found, 81)
    chances = [text_confidences(log_probs, texts, t) for t in near]
    best = near[np.argmin([-np.log(np.where(right, p, 1.0 - p)).mean() for p in chances])]
    assert found == pytest.approx(best, rel=0.006)


def test_both_ends_are_ends() -> None:
    assert is_at_the_end(0.2)
    assert is_at_the_end(5.0)
    assert not is_at_the_end(1.0)

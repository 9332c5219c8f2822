"""Bins, calibration error and coverage, counted by hand; curves fitted on sets, dropped where they better nothing."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crnn.charset import NAMED_CHARSETS
from crnn.data.store import LmdbWriter
from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.decoding.language import train_language
from crnn.errors import DataError
from crnn.evaluation import evaluate as module
from crnn.evaluation.calibration import (
    CoverageRow,
    ReliabilityBin,
    coverage_rows,
    measure_reliability,
    reliability_bins,
)
from crnn.evaluation.evaluate import calibrate, evaluate
from crnn.recognizer import Recognizer

MakeReader = Callable[..., Recognizer]
Barcode = Callable[..., bytes]

CONFIDENCES = np.array([0.0, 0.1, 0.55, 0.6, 0.95, 1.0])
RIGHT = np.array([False, True, False, True, True, True])


def test_bins_by_hand() -> None:
    assert reliability_bins(CONFIDENCES, RIGHT, num_bins=4) == [
        ReliabilityBin(0.0, 0.25, 2, pytest.approx(0.05), 0.5),
        ReliabilityBin(0.5, 0.75, 2, pytest.approx(0.575), 0.5),
        ReliabilityBin(0.75, 1.0, 2, pytest.approx(0.975), 1.0),  # with the end itself
    ]


def test_no_readings_have_no_error() -> None:
    found = measure_reliability([], [], [])
    assert (found.samples, found.error_before, found.error_after) == (0, None, None)
    assert (found.before, found.coverage) == ([], [])


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


def test_scores_that_are_no_numbers_count_as_impossible() -> None:
    found = measure_reliability([math.nan, -math.inf, 0.01], [None] * 3, [False, False, True])
    assert [(b.samples, b.confidence) for b in found.before] == [(2, 0.0), (1, 1.0)]
    assert found.error_before == 0.0
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.fixture
def lucky_set(tmp_path: Path, barcode: Barcode) -> str:
    """Words of one to four bars; every third label is another one."""
    folder = tmp_path / "lucky"
    folder.mkdir()
    lines = []
    for number in range(90):
        word = "abcd"[: 1 + number % 4]
        (folder / f"{number}.png").write_bytes(barcode(word))
        lines.append(f"{number}.png\t{word if number % 3 else word + 'x'}\n")
    (folder / "labels.tsv").write_text("".join(lines))
    return str(folder)


def test_a_recogniser_is_calibrated_on_sets(lucky_set: str, barcode_reader: MakeReader) -> None:
    done: list[int] = []
    found = calibrate(barcode_reader(), [f"mine={lucky_set}"], progress=done.append)
    assert (found.greedy.samples, found.greedy.accuracy) == (90, pytest.approx(2 / 3))
    assert (found.language, found.data) == (None, ("mine",))  # it has no language
    assert sum(done) == 90
    # Each bar is 90 % sure of itself, so that texts are 40 to 80 % sure, and in truth all are right in two of three.
    reader = barcode_reader(calibration=found)
    result, plain = evaluate(reader, [lucky_set]), evaluate(barcode_reader(), [lucky_set])
    measured = result.reliability
    assert measured.error_before == pytest.approx(found.greedy.error_before, abs=1e-6)
    assert measured.error_after is not None
    # Fitted on these very readings.
    assert measured.error_after < min(measured.error_before, found.greedy.error_after + 1e-9)
    assert plain.reliability.error_after is None
    assert [(s.prediction, s.score) for s in result.samples] == [(s.prediction, s.score) for s in plain.samples]


def test_reading_with_and_without_the_language_are_calibrated_apart(lucky_set: str, barcode_reader: MakeReader) -> None:
    language = train_language([("abcd", 1.0), ("ab", 1.0)], "bars", 3)
    reader = barcode_reader(lm=language, lm_weight=2.0)
    found = calibrate(reader, [lucky_set])
    assert found.greedy == calibrate(barcode_reader(), [lucky_set]).greedy
    assert found.language is not None
    assert found.language.samples == 90
    assert found.language.accuracy == evaluate(reader, [lucky_set]).combined_accuracy
    assert (found.language.slope, found.language.offset) != (found.greedy.slope, found.greedy.offset)
    # Each way of reading has its own curve.
    fitted = barcode_reader(calibration=found, lm=language, lm_weight=2.0)
    assert fitted.decoder.curve == found.language
    assert barcode_reader(calibration=found).decoder.curve == found.greedy
    measured = evaluate(fitted, [lucky_set]).reliability
    assert measured.error_after is not None
    assert measured.error_after < found.language.error_before


def test_samples_that_are_all_left_out_calibrate_nothing(
    tmp_path: Path, barcode_reader: MakeReader, barcode: Barcode
) -> None:
    with LmdbWriter(tmp_path / "marks") as writer:
        writer.add(barcode("cat"), "?!")
    said: list[str] = []
    with pytest.raises(DataError, match="0 readings, 0 right; expected at least 20"):
        calibrate(barcode_reader(), [str(tmp_path / "marks")], say=said.append)
    assert said == ["marks: 1 samples left out: empty_label"]


@pytest.mark.parametrize("current", [None, Calibration(ConfidenceCurve(0.5, 0.25))])
@pytest.mark.parametrize("is_better", [True, False])
def test_a_curve_gives_way_only_to_a_better_one(
    current: Calibration | None,
    is_better: bool,
    lucky_set: str,
    barcode_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted = ConfidenceCurve(2.0, 1.0, 90, 0.6, 0.2, -1.0 if is_better else 2.0)
    monkeypatch.setattr(module, "fit_curve", lambda *_: fitted)
    lines: list[str] = []
    found = calibrate(barcode_reader(), lucky_set, current=current, say=lines.append)
    kept = fitted if is_better else (current.greedy if current else ConfidenceCurve())
    assert (found.greedy.slope, found.greedy.offset) == (kept.slope, kept.offset)
    assert ["the curve stays as it was" in line for line in lines] == [True] * (not is_better)
    assert (found.greedy.samples, found.greedy.accuracy, found.greedy.error_before) == (90, 0.6, 0.2)


def test_readings_of_a_sensitive_model_are_compared_as_the_protocol_says(
    tmp_path: Path, barcode: Barcode, barcode_reader: MakeReader
) -> None:
    characters = NAMED_CHARSETS["94"]
    with LmdbWriter(tmp_path / "words") as writer:
        for number in range(24):
            shown = ["It's", "Cat", "DOG"][number % 3]
            writer.add(barcode(shown, characters), shown if number % 4 else "other", lexicon=[shown, "Cow"])
    reader = barcode_reader(characters)
    (dataset,) = evaluate(reader, [str(tmp_path / "words")], lexicons=["50"]).datasets
    assert (dataset.sums.correct, dataset.lexicons[0].sums.correct) == (18, 18)
    assert calibrate(reader, [str(tmp_path / "words")]).greedy.accuracy == 18 / 24

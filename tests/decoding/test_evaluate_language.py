"""Evaluation with a language beside the best path, and of lines; by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crnn.charset import LabelSkip
from crnn.data.store import LmdbWriter
from crnn.decoding.language import train_language
from crnn.evaluation.evaluate import evaluate
from crnn.evaluation.protocol import protocol_for
from crnn.recognizer import Recognizer

MakeReader = Callable[..., Recognizer]
Barcode = Callable[..., bytes]

LANGUAGE = train_language([("bad", 1.0), ("cab", 1.0), ("ace", 1.0), ("dab", 1.0)], "abc", 4)

# Label, what the image shows. The language makes "bad" of "bcd", for better or worse.
SHOWN = [("Bad", "bcd"), ("cab", "cab"), ("ace", "ace"), ("bcd", "bcd"), ("bad", "bcd")]


def written(folder: Path, barcode: Barcode, shown: list[tuple[str, str]], characters: str | None = None) -> str:
    with LmdbWriter(folder) as writer:
        for label, text in shown:
            writer.add(barcode(text) if characters is None else barcode(text, characters), label)
    return str(folder)


def test_readings_with_a_language_stand_beside_those_of_the_best_path(
    tmp_path: Path, barcode: Barcode, barcode_reader: MakeReader
) -> None:
    data = written(tmp_path / "words", barcode, SHOWN)
    result = evaluate(barcode_reader(doubt="ca", lm=LANGUAGE, lm_weight=2.0), [data])
    (dataset,) = result.datasets
    assert [s.prediction for s in dataset.samples] == ["bad", "cab", "ace", "bad", "bad"]
    assert (dataset.sums.correct, dataset.sums.samples) == (4, 5)
    assert dataset.greedy is not None
    assert (dataset.greedy.correct, dataset.greedy.samples) == (3, 5)
    (values,) = json.loads(json.dumps(result.as_dict(), allow_nan=False))["datasets"]
    assert (values["accuracy"], values["cer"]) == (0.8, pytest.approx(1 / 15))
    assert values["one_minus_ned"] == pytest.approx(1 - (1 / 3) / 5)
    assert values["greedy"] == {
        "accuracy": 0.6,
        "cer": pytest.approx(2 / 15),
        "one_minus_ned": pytest.approx(1 - (1 / 3 + 1 / 3) / 5),
    }
    # The best path is what a reader without a language has.
    plain = evaluate(barcode_reader(doubt="ca"), [data]).datasets[0]
    assert plain.greedy is None
    assert plain.sums == dataset.greedy


CHARACTERS = "ABCDabcd ,."


def test_lines_are_compared_in_three_forms(tmp_path: Path, barcode: Barcode, barcode_reader: MakeReader) -> None:
    shown = [("Ab cd.", "ab cd."), ("a, b", "a b"), ("cd  ab", "cd ab"), ("abcd", "ab cd")]
    data = written(tmp_path / "lines", barcode, shown, CHARACTERS)
    result = evaluate(barcode_reader(CHARACTERS), [data], protocol="lines")
    assert result.title == "lines, case folded"
    (dataset,) = result.datasets
    assert [(s.label, s.prediction) for s in dataset.samples] == [
        ("ab cd.", "ab cd."), ("a, b", "a b"), ("cd ab", "cd ab"), ("abcd", "ab cd"),
    ]  # fmt: skip
    (values,) = json.loads(json.dumps(result.as_dict(), allow_nan=False))["datasets"]
    assert (values["accuracy"], values["cer"]) == (0.5, pytest.approx(2 / 19))
    assert list(values["forms"]) == ["as annotated", "letters and digits"]
    annotated, letters = values["forms"].values()
    assert (annotated["accuracy"], annotated["cer"]) == (0.25, pytest.approx(3 / 19))
    assert (letters["accuracy"], letters["cer"]) == (0.75, pytest.approx(1 / 17))
    assert annotated["one_minus_ned"] == pytest.approx(1 - (1 / 6 + 1 / 4 + 0 + 1 / 5) / 4)
    # Under the field's rules spaces and marks count for nothing, and there are no other forms.
    (words,) = evaluate(barcode_reader(CHARACTERS), [data], charset="36").datasets
    assert (words.sums.correct, words.forms) == (4, ())


def test_the_rules_for_lines() -> None:
    rules = protocol_for("lines", "36", "receipts")
    assert rules.label("  Total:\t 12.50 \u20ac ") == "total: 12.50 \u20ac"
    assert rules.prediction("STRASSE") == rules.prediction("Stra\u00dfe")
    assert rules.label("e\u0301") == "\u00e9"
    assert rules.prediction(" ") == ""
    with pytest.raises(LabelSkip) as caught:
        rules.label(" \t")
    assert caught.value.reason == "empty_label"

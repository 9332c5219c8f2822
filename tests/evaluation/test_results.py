"""The results of an evaluation: figures over several sets, warnings, JSON, lengths, confusions, worst errors."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from crnn.evaluation.metrics import TextSums, score_texts
from crnn.evaluation.results import (
    DatasetResult,
    Evaluation,
    SampleResult,
    accuracy_by_length,
    confusions,
    worst_errors,
)


def dataset(name: str = "set", pairs: Sequence[tuple[str, str]] = (), **others: Any) -> DatasetResult:
    """A set of these labels and readings."""
    samples = tuple(SampleResult(i, str(i), label, label, read, -0.5) for i, (label, read) in enumerate(pairs))
    values = {"title": "parseq, 36 characters", "skipped": {}, "expected": None, "unreadable": (), **others}
    return DatasetResult(name=name, path=f"sets/{name}", sums=score_texts(pairs), samples=samples, **values)


def sample(label: str, prediction: str, score: float = -0.5) -> SampleResult:
    return SampleResult(0, "1", label, label, prediction, score)


def evaluation(*datasets: DatasetResult) -> Evaluation:
    return Evaluation(model="runs/a", protocol="parseq", datasets=datasets)


LARGE = dataset("large", [("ab", "ab"), ("ab", "ab"), ("ab", "ab"), ("abcd", "abxd")])
SMALL = dataset("small", [("a", "b")])
EMPTY = dataset("empty", skipped={"too_long": 3})


def test_json_has_the_figures_of_the_sums() -> None:
    skipped = {"empty_label": 1, "too_long": 2}
    pairs = [("abcd", "abcd"), ("abcd", "abxd"), ("ab", "ab"), ("ab", "ab")]
    values = evaluation(dataset("SVT", pairs, skipped=skipped, expected=4)).as_dict()
    low, high = TextSums(samples=4, correct=3).accuracy_interval
    assert values == {
        "model": "runs/a",
        "protocol": "parseq",  # the name, as it was given to --protocol; not the title
        "datasets": [
            {
                "name": "SVT",
                "samples": 4,
                "skipped": {"empty_label": 1, "too_long": 2},
                "expected": 4,
                "lost": {"labels": 0, "characters": {}},
                "unwritable": {"labels": 0, "characters": {}},
                "accuracy": 0.75,
                "accuracy_low": low,
                "accuracy_high": high,
                "one_minus_ned": 0.9375,  # 1 - (1/4) / 4
                "cer": pytest.approx(1 / 12),
                "greedy": None,
                "forms": {},
                "warnings": [],
                "lexicons": [],
            }
        ],
        "mean_accuracy": 0.75,
        "combined_accuracy": 0.75,
        "calibration": values["calibration"],  # its own tests are those of crnn.evaluation.calibration
    }
    assert 0 < low < 0.75 < high < 1


def test_json_has_other_readings_and_other_forms_of_the_same_samples() -> None:
    shown = replace(
        LARGE,
        greedy=score_texts([("ab", "ab"), ("abcd", "abxd")]),
        forms=(("as annotated", score_texts([("A B", "a b")])), ("letters and digits", TextSums())),
    )
    (entry,) = evaluation(shown).as_dict()["datasets"]
    assert entry["greedy"] == {"accuracy": 0.5, "one_minus_ned": 0.875, "cer": pytest.approx(1 / 6)}
    assert entry["forms"] == {
        "as annotated": {"accuracy": 0.0, "one_minus_ned": pytest.approx(1 / 3), "cer": pytest.approx(2 / 3)},
        "letters and digits": {"accuracy": None, "one_minus_ned": None, "cer": None},
    }


def test_what_is_not_a_number_is_null_and_the_rest_strict_json() -> None:
    values = json.loads(json.dumps(evaluation(SMALL, EMPTY).as_dict(), allow_nan=False))  # raises at a NaN
    zero, entry = values["datasets"]
    assert (zero["accuracy"], zero["one_minus_ned"], zero["cer"]) == (0.0, 0.0, 1.0)  # and not null
    assert (entry["accuracy"], entry["one_minus_ned"], entry["cer"]) == (None, None, None)
    assert (entry["accuracy_low"], entry["accuracy_high"]) == (0.0, 1.0)  # nothing is known
    assert (entry["samples"], entry["skipped"]) == (0, {"too_long": 3})
    assert values["calibration"]["error_after"] is None


def test_figures_over_several_sets() -> None:
    shown = evaluation(LARGE, EMPTY, SMALL)  # a set without samples does not pull the mean down
    assert shown.mean_accuracy == pytest.approx(0.375)  # of 3/4 and 0/1
    assert shown.combined_accuracy == pytest.approx(0.6)  # 3 of 5
    assert shown.one_minus_ned == pytest.approx((3 * 1 + 3 / 4 + 0) / 5)
    values = shown.as_dict()
    assert (values["mean_accuracy"], values["combined_accuracy"]) == (shown.mean_accuracy, shown.combined_accuracy)
    assert [entry["name"] for entry in values["datasets"]] == ["large", "empty", "small"]
    assert shown.title == "parseq, 36 characters"
    other = replace(SMALL, title="modelzoo, all words")
    assert evaluation(LARGE, other).title == "parseq, 36 characters; modelzoo, all words"


def test_warnings_name_the_set_and_what_is_wrong() -> None:
    shown = dataset("SVT", [("a", "a")] * 3, skipped={"empty_label": 1}, expected=647, unreadable=("7.png: is cut",))
    unreadable, count = shown.warnings
    assert unreadable == "SVT: unreadable image 7.png: is cut"
    assert count.startswith("SVT: 3 samples compared, 647 published (skipped: empty_label: 1)")
    assert evaluation(shown).as_dict()["datasets"][0]["warnings"] == shown.warnings
    assert dataset("SVT", [("a", "a")] * 3, skipped={"too_long": 2}, expected=3).warnings == []
    assert dataset("plates", [("a", "a")], skipped={"too_long": 2}).warnings == []
    nothing = "no sample was compared (too_long: 3); expected readable images with labels that count"
    assert replace(EMPTY, name="SVT", expected=647).warnings == [f"SVT: {nothing}"]


def test_labels_with_characters_that_are_not_compared_or_cannot_be_written_are_counted() -> None:
    shown = dataset("SVT", [("a", "a")] * 4)
    first, second, third, _ = shown.samples
    lost = replace(first, lost="ß"), replace(second, lost="ßı", unwritable="-"), replace(third, lost="")
    shown = replace(shown, samples=(*lost, shown.samples[3]))
    (entry,) = evaluation(shown).as_dict()["datasets"]
    assert entry["lost"] == {"labels": 2, "characters": {"ß": 2, "ı": 1}}
    assert entry["unwritable"] == {"labels": 1, "characters": {"-": 1}}
    assert entry["warnings"] == [
        "SVT: 2 of 4 labels have characters that are not compared: 'ßı'",
        "SVT: 1 of 4 labels have characters that the model cannot write, which count as wrong: '-'",
    ]


def test_accuracy_by_length_counts_the_compared_label_and_pools_the_longest() -> None:
    samples = [
        sample("ab", "ab"),
        sample("ab", "abc"),  # the length of the label counts, not of the reading
        SampleResult(index=0, key="1", raw_label="It's!", label="its", prediction="its", score=-0.1),
        sample("abcd", "abcd"),
        sample("abcdef", "x"),
        sample("", ""),
    ]
    assert accuracy_by_length(samples, longest=3) == {
        0: score_texts([("", "")]),
        2: score_texts([("ab", "ab"), ("ab", "abc")]),
        3: score_texts([("its", "its")]),
        4: score_texts([("abcd", "abcd"), ("abcdef", "x")]),
    }
    assert accuracy_by_length([]) == {}


def test_confusions_count_substitutions_insertions_and_deletions() -> None:
    samples = [
        sample("book", "b0ok"),  # o -> 0
        sample("oo", "00"),  # o -> 0, twice
        sample("cat", "cart"),  # r too many
        sample("door", "dor"),  # one of the two o is missing
        sample("good", "good"),  # right: its two o only count as occurrences
    ]
    assert confusions(samples) == [("o", "0", 3, 8), ("", "r", 1, 0), ("o", "", 1, 8)]


def test_equally_frequent_confusions_have_a_fixed_order_and_the_limit_cuts_the_rarest() -> None:
    samples = [sample("b", "x"), sample("a", "y"), sample("a", "x"), sample("c", "z"), sample("c", "z")]
    assert [c[:2] for c in confusions(samples)] == [("c", "z"), ("a", "x"), ("a", "y"), ("b", "x")]
    assert confusions(reversed(samples)) == confusions(samples)
    assert [c[:2] for c in confusions(samples, limit=2)] == [("c", "z"), ("a", "x")]


def test_confusions_count_every_edit_once() -> None:
    pairs = [("kitten", "sitting"), ("saturday", "sunday"), ("rn", "m"), ("", "ab"), ("ab", ""), ("abc", "abc")]
    counted = sum(count for _, _, count, _ in confusions(sample(label, prediction) for label, prediction in pairs))
    assert counted == score_texts(pairs).edits == 3 + 3 + 2 + 2 + 2


def test_worst_errors_are_the_wrong_readings_of_highest_score_over_all_sets() -> None:
    first = [sample("a", "a", -0.01), sample("b", "x", -2.0), sample("c", "x", -0.5), sample("g", "x", -math.inf)]
    second = [sample("d", "x", math.nan), sample("e", "x", -0.1), sample("f", "x", -0.5)]
    sets = [replace(dataset(name), samples=tuple(found)) for name, found in (("first", first), ("second", second))]
    worst = worst_errors([*sets, EMPTY], limit=10)
    assert [(name, s.label) for name, s in worst[:4]] == [
        ("second", "e"),
        ("first", "c"),  # as sure as f of the second set, which comes later
        ("second", "f"),
        ("first", "b"),
    ]
    assert {s.label for _, s in worst[4:]} == {"d", "g"}  # impossible, or no number
    assert worst_errors(sets, limit=2) == worst[:2]

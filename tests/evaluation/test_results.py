"""The results of an evaluation: the figures over several sets, the warnings, and what ``--json`` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from crnn.evaluation.metrics import TextSums, score_texts, wilson_interval
from crnn.evaluation.results import DatasetResult, Evaluation, SampleResult

# Other programs read these names.
EVALUATION_KEYS = ["model", "protocol", "datasets", "mean_accuracy", "combined_accuracy", "calibration"]
DATASET_KEYS = [
    "name", "samples", "skipped", "accuracy", "accuracy_low", "accuracy_high", "one_minus_ned", "cer",
]  # fmt: skip
MORE_DATASET_KEYS = ["expected", "warnings", "lexicons", "greedy", "forms"]


def dataset(
    name: str = "set",
    pairs: Sequence[tuple[str, str]] = (),
    *,
    skipped: Mapping[str, int] | None = None,
    expected: int | None = None,
    unreadable: tuple[str, ...] = (),
) -> DatasetResult:
    """A set of these labels and readings."""
    return DatasetResult(
        name=name,
        path=f"sets/{name}",
        title="parseq, 36 characters",
        sums=score_texts(pairs),
        skipped=dict(skipped or {}),
        expected=expected,
        samples=tuple(SampleResult(i, str(i), label, label, read, -0.5) for i, (label, read) in enumerate(pairs)),
        unreadable=unreadable,
    )


def evaluation(*datasets: DatasetResult) -> Evaluation:
    return Evaluation(model="runs/a", protocol="parseq", datasets=datasets)


LARGE = dataset("large", [("ab", "ab"), ("ab", "ab"), ("ab", "ab"), ("abcd", "abxd")])
SMALL = dataset("small", [("a", "b")])
EMPTY = dataset("empty", skipped={"too_long": 3})


# -- as_dict ----------------------------------------------------------------------------------------------------------


def test_the_names_in_json_are_those_that_other_programs_read() -> None:
    values = evaluation(LARGE, SMALL).as_dict()
    assert list(values) == EVALUATION_KEYS
    assert len(values["datasets"]) == 2
    for entry in values["datasets"]:
        assert sorted(entry) == sorted(DATASET_KEYS + MORE_DATASET_KEYS)


def test_json_has_the_figures_of_the_sums() -> None:
    skipped = {"empty_label": 1, "too_long": 2}
    pairs = [("abcd", "abcd"), ("abcd", "abxd"), ("ab", "ab"), ("ab", "ab")]
    values = evaluation(dataset("SVT", pairs, skipped=skipped, expected=4)).as_dict()
    low, high = wilson_interval(3, 4)
    assert values == {
        "model": "runs/a",
        "protocol": "parseq",  # the name, as it was given to --protocol; not the title
        "datasets": [
            {
                "name": "SVT",
                "samples": 4,
                "skipped": {"empty_label": 1, "too_long": 2},
                "expected": 4,
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


def test_the_sets_are_in_the_order_given() -> None:
    values = evaluation(SMALL, LARGE, EMPTY).as_dict()
    assert [entry["name"] for entry in values["datasets"]] == ["small", "large", "empty"]


def test_what_is_not_a_number_is_null_and_the_rest_strict_json() -> None:
    text = json.dumps(evaluation(EMPTY).as_dict(), allow_nan=False)  # raises at a NaN
    values = json.loads(text)
    entry = values["datasets"][0]
    assert (entry["accuracy"], entry["one_minus_ned"], entry["cer"]) == (None, None, None)
    assert (entry["accuracy_low"], entry["accuracy_high"]) == (0.0, 1.0)  # nothing is known
    assert (entry["samples"], entry["skipped"]) == (0, {"too_long": 3})
    assert (values["mean_accuracy"], values["combined_accuracy"]) == (None, None)


def test_no_set_at_all_is_json_too() -> None:
    values = json.loads(json.dumps(evaluation().as_dict(), allow_nan=False))
    assert values["datasets"] == []
    assert (values["mean_accuracy"], values["combined_accuracy"]) == (None, None)


def test_zero_is_a_number_and_not_null() -> None:
    values = evaluation(dataset("wrong", [("a", "b")])).as_dict()
    entry = values["datasets"][0]
    assert (entry["accuracy"], entry["one_minus_ned"], entry["cer"]) == (0.0, 0.0, 1.0)
    assert values["mean_accuracy"] == values["combined_accuracy"] == 0.0


def test_labels_without_characters_have_an_accuracy_but_no_cer() -> None:
    entry = evaluation(dataset("blank", [("", ""), ("", "x")])).as_dict()["datasets"][0]
    assert (entry["accuracy"], entry["one_minus_ned"], entry["cer"]) == (0.5, 0.5, None)


# -- figures over several sets ----------------------------------------------------------------------------------------


def test_the_mean_weighs_sets_and_the_combined_accuracy_samples() -> None:
    shown = evaluation(LARGE, SMALL)
    assert shown.mean_accuracy == pytest.approx(0.375)  # of 3/4 and 0/1
    assert shown.combined_accuracy == pytest.approx(0.6)  # 3 of 5
    values = shown.as_dict()
    assert (values["mean_accuracy"], values["combined_accuracy"]) == (shown.mean_accuracy, shown.combined_accuracy)


def test_a_set_without_samples_does_not_pull_the_mean_down() -> None:
    shown = evaluation(LARGE, EMPTY)
    assert shown.mean_accuracy == pytest.approx(0.75)
    assert shown.combined_accuracy == pytest.approx(0.75)


def test_one_minus_ned_is_averaged_over_samples_of_all_sets() -> None:
    assert evaluation(LARGE, SMALL).one_minus_ned == pytest.approx((3 * 1 + 3 / 4 + 0) / 5)


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_a_count_that_differs_from_the_published_one_is_a_warning() -> None:
    shown = dataset("SVT", [("a", "a")] * 3, skipped={"empty_label": 1, "too_long": 2}, expected=647)
    assert shown.warnings == [
        "SVT: 3 samples compared, 647 published (skipped: empty_label: 1, too_long: 2); "
        "figures are not comparable with published ones"
    ]
    assert evaluation(shown).as_dict()["datasets"][0]["warnings"] == shown.warnings


@pytest.mark.parametrize("count", [2, 4])
def test_too_few_and_too_many_samples_are_both_warned_of(count: int) -> None:
    (warning,) = dataset("SVT", [("a", "a")] * count, expected=3).warnings
    assert f"{count} samples compared, 3 published (skipped: none)" in warning


def test_the_published_count_is_no_warning_even_if_samples_were_skipped() -> None:
    assert dataset("SVT", [("a", "a")] * 3, skipped={"too_long": 2}, expected=3).warnings == []


def test_a_set_without_a_published_count_is_not_compared_with_one() -> None:
    assert dataset("plates", [("a", "a")], skipped={"too_long": 2}).warnings == []


def test_unreadable_images_are_named_before_the_count() -> None:
    shown = dataset("SVT", [("a", "a")], expected=3, unreadable=("7.png: is empty", "9.png: is cut"))
    first, second, third = shown.warnings
    assert first == "SVT: unreadable image 7.png: is empty"
    assert second == "SVT: unreadable image 9.png: is cut"
    assert third.startswith("SVT: 1 samples compared, 3 published")


def test_labels_with_a_third_column_are_warned_of() -> None:
    shown = dataset("SVT", [("a\tb", "a"), ("c", "c")])
    (line,) = shown.warnings
    assert line.startswith(r"SVT: 1 labels have a tab in them (the first: 'a\tb'), as where a list has a third column;")


def test_a_set_of_which_nothing_was_compared_says_so_once() -> None:
    wanted = "no sample was compared (too_long: 3); expected readable images with labels that count"
    assert EMPTY.warnings == [f"empty: {wanted}"]
    assert replace(EMPTY, name="SVT", expected=647).warnings == [f"SVT: {wanted}"]


def test_the_title_says_each_rule_once() -> None:
    other = replace(SMALL, title="modelzoo, words of 3 and more")
    assert evaluation(LARGE, SMALL, other).title == "parseq, 36 characters; modelzoo, words of 3 and more"

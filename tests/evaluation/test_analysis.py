"""The aggregations over compared samples, each against counts made by hand."""

from __future__ import annotations

import math

from crnn.evaluation.metrics import TextSums, score_texts
from crnn.evaluation.results import (
    Confusion,
    DatasetResult,
    LengthRow,
    SampleResult,
    accuracy_by_length,
    confusions,
    worst_errors,
)


def sample(label: str, prediction: str, score: float = -0.5) -> SampleResult:
    return SampleResult(index=0, key="1", raw_label=label, label=label, prediction=prediction, score=score)


def dataset(name: str, *samples: SampleResult) -> DatasetResult:
    sums = score_texts((s.label, s.prediction) for s in samples)
    return DatasetResult(
        name=name, path="", title="", sums=sums, skipped={}, expected=None, samples=samples, unreadable=()
    )


# -- lengths ----------------------------------------------------------------------------------------------------------


def test_accuracy_by_length_counts_the_label_and_pools_the_longest() -> None:
    samples = [
        sample("ab", "ab"),
        sample("ab", "abc"),  # the length of the label counts, not of the reading
        sample("abc", "abc"),
        sample("abcd", "abcd"),
        sample("abcdef", "x"),
        sample("", ""),
    ]
    rows = accuracy_by_length(samples, longest=3)
    assert [(row.length, row.or_more, row.sums.samples, row.sums.correct) for row in rows] == [
        (0, False, 1, 1),
        (2, False, 2, 1),
        (3, False, 1, 1),
        (4, True, 2, 1),
    ]
    assert rows[-1].sums == score_texts([("abcd", "abcd"), ("abcdef", "x")])


def test_accuracy_by_length_of_nothing() -> None:
    assert accuracy_by_length([]) == []


def test_labels_of_the_longest_length_have_their_own_row() -> None:
    assert accuracy_by_length([sample("a" * 20, "")])[0] == LengthRow(20, False, score_texts([("a" * 20, "")]))
    assert accuracy_by_length([sample("a" * 21, "")])[0].or_more


def test_the_rows_together_hold_every_sample() -> None:
    pairs = [("a" * length, "a" * (length // 3 * 3)) for length in range(30)]
    rows = accuracy_by_length(sample(label, prediction) for label, prediction in pairs)
    assert sum((row.sums for row in rows), TextSums()) == score_texts(pairs)
    assert len(rows) == 22  # 0 to 20, and all that are longer


def test_length_is_that_of_the_compared_label_not_of_the_stored_one() -> None:
    stored = SampleResult(index=0, key="1", raw_label="It's!", label="its", prediction="its", score=-0.1)
    assert [row.length for row in accuracy_by_length([stored])] == [3]


# -- characters -------------------------------------------------------------------------------------------------------


def test_confusions_count_substitutions_insertions_and_deletions() -> None:
    samples = [
        sample("book", "b0ok"),  # o -> 0
        sample("oo", "00"),  # o -> 0, twice
        sample("cat", "cart"),  # r too many
        sample("door", "dor"),  # one of the two o is missing
        sample("good", "good"),  # right: its two o only count as occurrences
    ]
    assert confusions(samples) == [
        Confusion("o", "0", 3, 8),
        Confusion("", "r", 1, 0),
        Confusion("o", "", 1, 8),
    ]


def test_equally_frequent_confusions_have_a_fixed_order_and_the_limit_cuts_the_rarest() -> None:
    samples = [sample("b", "x"), sample("a", "y"), sample("a", "x"), sample("c", "z"), sample("c", "z")]
    assert [(c.expected, c.read) for c in confusions(samples)] == [("c", "z"), ("a", "x"), ("a", "y"), ("b", "x")]
    assert confusions(reversed(samples)) == confusions(samples)
    assert [(c.expected, c.read) for c in confusions(samples, limit=2)] == [("c", "z"), ("a", "x")]


def test_confusions_count_every_edit_once() -> None:
    pairs = [("kitten", "sitting"), ("saturday", "sunday"), ("rn", "m"), ("", "ab"), ("ab", "")]
    counted = sum(c.count for c in confusions(sample(label, prediction) for label, prediction in pairs))
    assert counted == score_texts(pairs).edits == 3 + 3 + 2 + 2 + 2


def test_right_readings_have_no_confusion() -> None:
    assert confusions([sample("abc", "abc"), sample("", "")]) == []


# -- readings ---------------------------------------------------------------------------------------------------------


def test_worst_errors_are_the_wrong_readings_of_highest_score_over_all_sets() -> None:
    first = dataset("first", sample("a", "a", -0.01), sample("b", "x", -2.0), sample("c", "x", -0.5))
    second = dataset("second", sample("d", "x", math.nan), sample("e", "x", -0.1), sample("f", "x", -0.5))
    worst = worst_errors([first, second], limit=10)
    assert [(name, s.label) for name, s in worst] == [
        ("second", "e"),
        ("first", "c"),  # as sure as f of the second set, which comes later
        ("second", "f"),
        ("first", "b"),
        ("second", "d"),
    ]
    assert worst_errors([first, second], limit=2) == worst[:2]


def test_an_impossible_reading_comes_after_all_that_have_a_probability() -> None:
    shown = worst_errors([dataset("d", sample("a", "x", -math.inf), sample("b", "x", -900.0))], limit=10)
    assert [s.label for _, s in shown] == ["b", "a"]


def test_sets_without_an_error_have_no_worst_one() -> None:
    assert worst_errors([dataset("right", sample("a", "a")), dataset("empty")], limit=10) == []

"""Two readers on the same samples: counts and texts by hand, the test, its interval."""

import itertools
import json
import math

import pytest

from crnn.errors import DataError
from crnn.evaluation.compare import PairedCounts, compare
from crnn.evaluation.readings import score_readings


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
        (6, 0, 2 / 2**6),
        (0, 2000, 0.0),
        (480, 520, 2 * sum(math.comb(1000, k) for k in range(481)) / 2**1000),
    ],
)
def test_p_values_by_the_binomial_distribution(only_a, only_b, expected):
    for counts in (PairedCounts(50, only_a, only_b, 7), PairedCounts(0, only_b, only_a, 0)):
        assert counts.p_value == pytest.approx(expected, rel=1e-12)


def test_differences_and_intervals_by_hand():
    counts = PairedCounts(90, 1, 6, 3)
    assert (counts.samples, counts.difference) == (100, 0.05)
    a, b = 2 / 102, 7 / 102
    spread = 1.959964 * math.sqrt((a + b - (b - a) ** 2) / 102)
    assert counts.interval == pytest.approx((b - a - spread, b - a + spread))
    assert PairedCounts(3, 0, 0, 0).interval[0] < 0 < PairedCounts(3, 0, 0, 0).interval[1]
    assert math.isnan(PairedCounts().difference)
    assert PairedCounts().interval == (-1.0, 1.0)


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.1), (0.02, 0.06), (0.05, 0.3)])
def test_intervals_hold_the_true_difference_in_95_of_100_sets(a, b):
    n = 60
    covered = 0.0
    for x, y in itertools.product(range(n + 1), repeat=2):
        if x + y <= n:
            ways = math.comb(n, x) * math.comb(n - x, y)
            low, high = PairedCounts(n - x - y, x, y, 0).interval
            covered += ways * a**x * b**y * (1 - a - b) ** (n - x - y) * (low <= b - a <= high)
    assert 0.94 < covered < 0.99


@pytest.fixture
def compared(word_list, tmp_path):
    """Files of readings of six words, the fifth of which has no image, and the sixth nothing in the second file."""
    words = word_list(labels=["cat", "dog", "bird", "tree", "fox", "It's"])
    (words.parent / "images" / "5.png").unlink()
    texts = (["Cat", "dig", "bird", "tee", "fox", "its"], ["cat", "dog", "burd", "three"])
    for name, row in zip("ab", texts, strict=True):
        lines = [f"images/{n}.png\t{text}\n" for n, text in enumerate(row, start=1)]
        (tmp_path / name).write_text("".join(lines) + "new.png\tx\n" * (name == "b"))
    return str(tmp_path / "a"), str(tmp_path / "b"), words


def test_counts_and_texts_by_hand(compared):
    a, b, words = compared
    found = compare(a, b, words)
    (dataset,) = found.datasets
    assert dataset.counts == PairedCounts(both=1, a=3, b=1, neither=1)
    assert [(s.key, s.label, s.a, s.b, s.right) for s in dataset.differing] == [
        ("images/2.png", "dog", "dig", "dog", "b"),
        ("images/3.png", "bird", "bird", "burd", "a"),
        ("images/4.png", "tree", "tee", "three", "neither"),
        ("images/5.png", "fox", "fox", "", "a"),
        ("images/6.png", "its", "its", "", "a"),
    ]
    first, second = dataset.sums
    assert first == score_readings(a, words).datasets[0].sums
    assert (second.samples, second.correct, second.edits) == (6, 2, 1 + 1 + 3 + 3)
    assert any(line.startswith(f"{b}: words: 1 of 5 samples have no text in the file") for line in found.warnings)
    assert f"{b}: 1 readings are of no image of the data: new.png" in found.warnings
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (values["a"], values["b"], values["protocol"]) == (a, b, "parseq")
    assert values["combined"]["right"] == {"both": 1, "a": 3, "b": 1, "neither": 1}
    assert values["combined"]["p_value"] == pytest.approx(0.625)
    assert values["datasets"][0]["accuracies"] == [4 / 6, 2 / 6]
    expected = {"dataset": "words", "key": "images/2.png", "label": "dog", "a": "dig", "b": "dog", "right": "b"}
    assert values["differing"][0] == expected
    assert len(values["differing"]) == 5


def test_a_reader_compared_with_itself_has_no_difference(compared):
    a, _, words = compared
    found = compare(a, a, words, protocol="lines")
    counts = found.combined.counts
    assert (counts.a, counts.b, counts.p_value, found.combined.differing) == (0, 0, 1.0, [])
    (words.parent / "other.tsv").write_text("crops/x.png\tx\n")
    with pytest.raises(DataError, match=r"a: has no reading of .*other\.tsv, whose first image is 'crops/x\.png'"):
        compare(a, a, [words, words.parent / "other.tsv"])

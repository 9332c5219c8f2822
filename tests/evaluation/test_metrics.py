"""Counts against the definitions and by hand; sums that are exact in any order; intervals of a share."""

import math
import pickle
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.evaluation.metrics import TextSums, mean_accuracy, score_texts

# Few letters, so that texts share some; é as one code point and as two; one outside the basic plane.
texts = st.text(alphabet="abé\u0301𝟗", max_size=9)
pairs_of_texts = st.lists(st.tuples(texts, texts), max_size=20)

Pairs = list[tuple[str, str]]


def slow_distance(a: str, b: str) -> int:
    """Levenshtein distance by the textbook's full table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[-1][-1]


@given(pairs_of_texts.filter(bool))
def test_equals_the_definitions(pairs: Pairs) -> None:
    sums = score_texts(pairs)
    distances = [slow_distance(label, prediction) for label, prediction in pairs]
    assert (sums.samples, sums.correct) == (len(pairs), sum(label == prediction for label, prediction in pairs))
    assert (sums.edits, sums.characters) == (sum(distances), sum(len(label) for label, _ in pairs))
    assert sums.accuracy == sums.correct / len(pairs)
    kept = [
        1 - Fraction(distance, max(len(label), len(prediction), 1))
        for (label, prediction), distance in zip(pairs, distances, strict=True)
    ]
    assert sums.one_minus_ned == float(sum(kept) / len(pairs))
    if sums.characters:
        assert sums.cer == sum(distances) / sums.characters
    else:
        assert math.isnan(sums.cer)


@given(pairs_of_texts, st.randoms(use_true_random=False))
def test_sums_are_exact_over_any_split_and_order(pairs: Pairs, random: Random) -> None:
    whole = score_texts(pairs)
    shuffled = random.sample(pairs, len(pairs))
    assert sum((score_texts([pair]) for pair in shuffled), TextSums()) == whole
    parts = [pickle.loads(pickle.dumps(score_texts(shuffled[rank::3]))) for rank in range(3)]  # as from other ranks
    assert parts[2] + (parts[0] + parts[1]) == whole
    assert hash(parts[2] + parts[1] + parts[0]) == hash(whole)


def test_no_samples() -> None:
    empty = score_texts([])
    assert empty == TextSums()
    assert all(math.isnan(value) for value in (empty.accuracy, empty.one_minus_ned, empty.cer))
    assert empty.accuracy_interval == (0.0, 1.0)


def test_many_samples_do_not_drift() -> None:
    # A float sum of 1 - 1/3 a million times is off in the last digits; this is not.
    third = TextSums(samples=1_000_000, correct=0, characters=3_000_000, edits_by_length=((3, 1_000_000),))
    assert third.one_minus_ned == (third + third).one_minus_ned == 2 / 3


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    [
        # By hand, z^2 = 3.841459. 8 of 10: (8 + z^2/2 -+ z sqrt(8 * 0.2 + z^2/4)) / (10 + z^2)
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),  # high = z^2 / (10 + z^2)
        (10, 10, 0.7224672, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_values(correct: int, samples: int, low: float, high: float) -> None:
    assert TextSums(samples=samples, correct=correct).accuracy_interval == pytest.approx((low, high), abs=5e-8)


@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_is_symmetric(counts: tuple[int, int]) -> None:
    correct, samples = counts
    low, high = TextSums(samples, correct).accuracy_interval
    assert 0.0 <= low <= correct / samples <= high <= 1.0
    assert ((low == 0.0), (high == 1.0)) == ((correct == 0), (correct == samples))
    other = TextSums(samples, samples - correct).accuracy_interval
    assert other == pytest.approx((1 - high, 1 - low), abs=1e-12)
    # Both ends p solve (share - p)^2 = z^2 p (1 - p) / samples, which is what the interval is defined by.
    for end in (low, high):
        assert (correct / samples - end) ** 2 == pytest.approx(
            1.959963984540054**2 * end * (1 - end) / samples, rel=1e-6, abs=1e-15
        )


def test_the_mean_weighs_sets_alike() -> None:
    sets = [TextSums(samples=10, correct=9), TextSums(samples=90, correct=45), TextSums()]
    assert mean_accuracy(iter(sets)) == pytest.approx((0.9 + 0.5) / 2)  # a set without samples changes nothing
    assert math.isnan(mean_accuracy([TextSums()]))

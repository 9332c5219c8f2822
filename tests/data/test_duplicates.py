"""Groups of equal hashes, what two sets have in common, and histograms, each against the obvious slow way."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crnn.data.inspection import MAX_BINS, Histogram, equal_groups, in_common

HASHES = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 3)), max_size=20)
LARGEST = 2**64 - 1


def hashes_of(values: list[int]) -> np.ndarray:
    # Far apart, and the largest and the smallest of all among them.
    return np.array([(0, 7, 2**63, LARGEST, 1, 2**40)[value] for value in values], np.uint64)


@given(HASHES)
def test_groups_are_those_of_a_dictionary(samples: list[tuple[int, bool, int]]) -> None:
    hashes = hashes_of([value for value, _, _ in samples])
    among = np.array([has for _, has, _ in samples], bool)
    expected: dict[int, list[int]] = defaultdict(list)
    for index, (value, has, _) in enumerate(samples):
        if has:
            expected[value].append(index)
    groups = sorted(group for group in expected.values() if len(group) > 1)
    found = equal_groups(hashes, among)
    assert [group.tolist() for group in found] == groups


@given(HASHES, HASHES)
def test_what_two_sets_have_in_common(ours: list[tuple[int, bool, int]], theirs: list[tuple[int, bool, int]]) -> None:
    arrays = [
        (hashes_of([value for value, _, _ in part]), np.array([has for _, has, _ in part], bool))
        for part in (ours, theirs)
    ]
    there = {value: index for index, (value, has, _) in reversed(list(enumerate(theirs))) if has}
    expected = [there.get(value, -1) if has else -1 for value, has, _ in ours]
    assert in_common(*arrays[0], *arrays[1]).tolist() == expected


@given(st.dictionaries(st.integers(0, 100_000), st.integers(0, 50), max_size=40), st.sampled_from([1, 10]))
def test_histograms_count_every_number_once(numbers: dict[int, int], parts: int) -> None:
    spread = Histogram.of(numbers, parts=parts)
    every = sorted(Counter(numbers).elements())
    assert sum(spread.counts) == len(every)
    assert len(spread.counts) <= MAX_BINS
    if not every:
        assert (spread.minimum, spread.median, spread.maximum, spread.edges, spread.counts) == (0, 0, 0, (), ())
        return
    assert len(spread.edges) == len(spread.counts) + 1
    assert (spread.minimum, spread.maximum) == (every[0] / parts, every[-1] / parts)
    assert spread.median == every[(len(every) - 1) // 2] / parts
    for low, high, count in zip(spread.edges, spread.edges[1:], spread.counts, strict=False):
        assert low < high
        assert count == sum(low <= number / parts < high for number in every)
    widths = {round(high - low, 3) for low, high in zip(spread.edges[:-1], spread.edges[1:-1], strict=False)}
    assert len(widths) <= 1  # all but the last are as wide


def test_a_few_large_numbers_do_not_leave_one_bin_for_the_others() -> None:
    spread = Histogram.of({**dict.fromkeys(range(10, 60), 20), 9000: 1})
    assert spread.edges == (10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 9001)
    assert spread.counts == (100,) * 10 + (1,)
    assert Histogram.of({3: 2}).edges == (3, 4)
    assert Histogram.of({3: 2}, parts=10) == Histogram(
        minimum=0.3, median=0.3, maximum=0.3, edges=(0.3, 0.4), unit=0.1, counts=(2,)
    )

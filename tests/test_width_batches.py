"""Batches of one width: order, bounds, and how full they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from crnn.errors import ImageError
from crnn.recognizer import FittedPicture, in_width_batches

Batch = list[tuple[int, int]]
"""Place and width of each picture in it."""


def picture(width: int) -> FittedPicture:
    return FittedPicture(np.zeros((1, 32, width), np.uint8), (width, 32))


class Network:
    """Notes its batches and says the place and width of each picture."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, places: Sequence[int], pictures: Sequence[FittedPicture]) -> Batch:
        self.batches.append([(place, one.pixels.shape[2]) for place, one in zip(places, pictures, strict=True)])
        return self.batches[-1]


def in_batches(widths: Sequence[int], batch_size: int, held: int) -> list[list[int]]:
    """The places of each batch; what every sequence must have is checked on the way."""
    network, drawn, given = Network(), 0, 0

    def pictures() -> Iterator[FittedPicture]:
        nonlocal drawn
        for width in widths:
            drawn += 1
            assert drawn - given <= held
            yield picture(width)

    for given, result in enumerate(in_width_batches(pictures(), network, batch_size=batch_size, held=held), start=1):
        assert result == (given - 1, widths[given - 1])
    assert given == drawn == len(widths)
    assert all(len({width for _, width in batch}) == 1 for batch in network.batches)
    assert all(1 <= len(batch) <= batch_size for batch in network.batches)
    return [[place for place, _ in batch] for batch in network.batches]


def test_one_width() -> None:
    assert in_batches([64] * 7, 3, 24) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_fills_from_wherever_its_width_comes() -> None:
    assert in_batches([1, 2, 1, 2, 2, 1, 1, 2], 4, 32) == [[0, 2, 5, 6], [1, 3, 4, 7]]


def test_the_oldest_does_not_wait_longer_than_the_bound() -> None:
    # The 9 waits while three others come, and then goes alone; the 5s behind it are not disturbed.
    assert in_batches([9, 5, 5, 5, 5, 5, 5, 5], 4, 4) == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert in_batches([9, 5, 9, 6, 5, 6], 4, 4) == [[0, 2], [1, 4], [3, 5]]


def test_what_is_left_goes_oldest_first() -> None:
    assert in_batches([8, 7, 9, 7], 4, 32) == [[0], [1, 3], [2]]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
@pytest.mark.parametrize("windows", [1, 3, 8])
def test_any_sequence_keeps_order_and_bound(batch_size: int, windows: int) -> None:
    rng = np.random.default_rng(batch_size + 100 * windows)
    for count in (0, 1, 2, 17, 300):
        widths = (16 * (2 + rng.poisson(4, count))).tolist()
        batches = in_batches(widths, batch_size, batch_size * windows)
        assert sorted(place for batch in batches for place in batch) == list(range(count))


def test_batches_are_fuller_than_those_of_windows() -> None:
    rng = np.random.default_rng(4)
    widths = (16 * (2 + rng.poisson(4, 20_000))).tolist()
    windows = [widths[start : start + 512] for start in range(0, len(widths), 512)]
    cut = sum(-(-window.count(width) // 64) for window in windows for width in set(window))
    assert len(in_batches(widths, 64, 512)) < 0.85 * cut


def test_errors_stand_in_their_place() -> None:
    network = Network()
    bad = [ImageError(str(n), reason="empty") for n in range(3)]
    given = [bad[0], picture(4), bad[1], picture(4), picture(4), bad[2]]
    found = list(in_width_batches(iter(given), network, batch_size=2, held=16))
    assert found == [bad[0], (1, 4), bad[1], (3, 4), (4, 4), bad[2]]
    assert network.batches == [[(1, 4), (3, 4)], [(4, 4)]]


def test_errors_count_as_held() -> None:
    drawn = 0

    def pictures() -> Iterator[FittedPicture | ImageError]:
        nonlocal drawn
        yield picture(4)
        while True:
            drawn += 1
            yield ImageError("bad", reason="empty")

    results = in_width_batches(pictures(), Network(), batch_size=8, held=16)
    assert next(results) == (0, 4)
    assert drawn == 15


def test_an_exception_comes_after_what_was_before_it() -> None:
    network = Network()

    def pictures() -> Iterator[FittedPicture]:
        yield from [picture(4), picture(8), picture(4)]
        raise OSError("the list is cut short")

    results = in_width_batches(pictures(), network, batch_size=8, held=64)
    assert [next(results) for _ in range(3)] == [(0, 4), (1, 8), (2, 4)]
    with pytest.raises(OSError, match="cut short"):
        next(results)
    assert network.batches == [[(0, 4), (2, 4)], [(1, 8)]]


def test_an_exception_of_the_network_comes_at_once() -> None:
    def fail(places: Sequence[int], pictures: Sequence[FittedPicture]) -> list[int]:
        raise ArithmeticError(f"{len(pictures)} pictures")

    with pytest.raises(ArithmeticError, match="2 pictures"):
        next(in_width_batches(iter([picture(4)] * 5), fail, batch_size=2, held=16))

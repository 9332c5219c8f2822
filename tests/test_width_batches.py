"""Batches of one width: order, bounds, and how full they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from crnn.errors import ImageError
from crnn.recognizer import FittedImage, NetworkOutput, Recognizer, WidthBatcher


def fitted(width: int) -> FittedImage:
    return FittedImage(np.zeros((1, 32, width), np.uint8), (width, 32))


def in_batches(widths: Sequence[int], batch_size: int, held: int) -> list[list[int]]:
    """The places of each batch; what every sequence must have is checked on the way."""
    batcher, waiting, found = WidthBatcher(batch_size, held), set[int](), []

    def take(batches: list[list[tuple[int, FittedImage]]]) -> None:
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            assert len({widths[place] for place, _ in batch}) == 1
            assert all(image.pixels.shape[2] == widths[place] for place, image in batch)
            found.append([place for place, _ in batch])
            waiting.difference_update(found[-1])

    for place, width in enumerate(widths):
        waiting.add(place)
        take(batcher.add(fitted(width)))
        assert place + 1 - min(waiting, default=place + 1) < held
    take(batcher.flush())
    assert not waiting
    assert batcher.flush() == []
    return found


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


def test_errors_count_as_held() -> None:
    batcher, bad = WidthBatcher(8, 16), ImageError("bad", reason="empty")
    assert batcher.add(fitted(4)) == []
    assert [len(batcher.add(bad)) for _ in range(15)] == [0] * 14 + [1]


# -- results of a reader ----------------------------------------------------------------------------------------------


def places_of(output: NetworkOutput) -> list[tuple[int, int]]:
    return [(place, output.width) for place in output.places]


def test_errors_stand_in_their_place(barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]) -> None:
    images = [b"", barcode("ab"), b"", barcode("abc"), barcode("ba"), b""]
    found = list(barcode_reader(batch_size=2).run(images, places_of))
    assert [isinstance(one, ImageError) for one in found] == [True, False, True, False, False, True]
    assert [one for one in found if not isinstance(one, ImageError)] == [(1, 48), (3, 64), (4, 48)]


def test_an_exception_of_the_images_comes_after_what_was_before_it(
    barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]
) -> None:
    def images() -> Iterator[bytes]:
        yield from [barcode("ab"), barcode("abc"), barcode("ba")]
        raise OSError("the list is cut short")

    results = barcode_reader(batch_size=8).run(images(), places_of)
    assert [next(results) for _ in range(3)] == [(0, 48), (1, 64), (2, 48)]
    with pytest.raises(OSError, match="cut short"):
        next(results)


def test_an_exception_of_the_function_comes_at_once(
    barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]
) -> None:
    def fail(output: NetworkOutput) -> list[int]:
        raise ArithmeticError(f"{len(output.places)} images")

    with pytest.raises(ArithmeticError, match="2 images"):
        next(barcode_reader(batch_size=2).run([barcode("ab")] * 5, fail))

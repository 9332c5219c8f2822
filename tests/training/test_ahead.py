"""Batches made ahead are the same ones in the same order, whoever makes them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch

from crnn.data.dataset import Batch
from crnn.errors import DataError
from crnn.training.batches import DEPTH, batches_ahead

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    one = torch.tensor([number])
    return Batch(torch.full((1, 1, 32, 16), number % 256, dtype=torch.uint8), one, one[:, None], one, (str(number),))


class Feed:
    """Counts batches up and notes who makes them."""

    def __init__(self, last: int, fails_at: int | None = None) -> None:
        self.last, self.fails_at = last, fails_at
        self.makers: list[int] = []
        self.closed = 0

    def __call__(self) -> Generator[Batch]:
        try:
            for number in range(self.last):
                if number == self.fails_at:
                    raise DataError("an image is broken")
                self.makers.append(threading.get_ident())
                yield batch(number)
        finally:
            self.closed += 1


class Lane:
    """What a stream does, with nothing to wait for; checks that batches are taken in order by another thread."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        made = next(batches, None)
        return None if made is None else (made, threading.get_ident())

    def take(self, batch: Batch, done: Any) -> None:
        assert done != threading.get_ident()
        self.taken.append(int(batch.widths))


def test_on_the_cpu_nothing_is_made_ahead() -> None:
    feed = Feed(4)
    batches = batches_ahead(feed(), CPU)
    assert [int(one.widths) for one in batches] == [0, 1, 2, 3]
    assert set(feed.makers) == {threading.get_ident()}
    feed = Feed(4)
    batches = batches_ahead(feed(), CPU)
    next(batches)
    assert len(feed.makers) == 1
    batches.close()
    assert feed.closed == 1


@pytest.mark.parametrize("last", [0, 1, 2, 3, 20])
def test_all_batches_come_in_order_from_one_thread(last: int) -> None:
    feed, lane = Feed(last), Lane()
    assert [int(one.widths) for one in batches_ahead(feed(), CPU, lane)] == list(range(last))
    assert lane.taken == list(range(1, last))  # the first one is made here, with the worker processes
    assert feed.makers[:1] == [threading.get_ident()][:last]
    assert len(set(feed.makers[1:])) <= 1
    assert threading.get_ident() not in feed.makers[1:]
    assert feed.closed == 1


def test_no_more_are_made_than_asked_for() -> None:
    feed, lane = Feed(1000), Lane()
    batches = batches_ahead(feed(), CPU, lane)
    with contextlib.closing(batches):
        for _ in range(5):
            next(batches)
    assert 5 <= len(feed.makers) <= 5 + DEPTH
    assert feed.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("place", [0, 1, 5])
def test_an_error_comes_where_its_batch_would(place: int) -> None:
    feed = Feed(10, fails_at=place)
    batches = batches_ahead(feed(), CPU, Lane())
    assert [int(next(batches).widths) for _ in range(place)] == list(range(place))
    with pytest.raises(DataError, match="an image is broken"):
        next(batches)
    assert feed.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]

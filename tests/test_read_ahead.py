"""Results made ahead in threads: order, bounds, exceptions in their place, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from crnn.parallel import available_threads, ordered_map

OFTEN = 20
"""Rounds of what depends on how threads take turns."""


def pool_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ordered-map")]


class Counted:
    """Numbers from 0; how many were drawn and by which threads."""

    def __init__(self, last: int | None = None, fails_at: int | None = None) -> None:
        self.last, self.fails_at = last, fails_at
        self.drawn = 0
        self.drawers: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        while self.drawn != self.last:
            if self.drawn == self.fails_at:
                raise OSError("the list ends in the middle of a line")
            self.drawers.add(threading.get_ident())
            self.drawn += 1
            yield self.drawn - 1


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("last", [0, 1, 2, 3, 100])
def test_results_come_in_the_order_of_the_items(threads: int, ahead: int, last: int) -> None:
    items = Counted(last)
    assert list(ordered_map(lambda n: 3 * n, items, workers=threads, ahead=ahead)) == [3 * n for n in range(last)]
    assert items.drawers <= {threading.get_ident()}
    assert not pool_threads()


def test_slow_items_keep_their_place() -> None:
    later = threading.Event()

    def slow(number: int) -> int:
        if number == 0:
            assert later.wait(10)  # until an item behind it is done
        if number == 20:
            later.set()
        return number

    assert list(ordered_map(slow, range(40), workers=3, ahead=32)) == list(range(40))


def test_several_are_made_at_once() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks where fewer than three threads come
    wait_at = {2, 3, 4}

    def meet(number: int) -> bool:
        if number in wait_at:
            together.wait()
        return True

    # Tasks of one item each, so that no thread gets two of the three.
    assert all(ordered_map(meet, range(6), workers=3, ahead=6))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2, 5, 16, 100])
def test_no_more_is_drawn_than_allowed(threads: int, ahead: int) -> None:
    items = Counted()
    results = ordered_map(lambda n: n, items, workers=threads, ahead=ahead)
    assert items.drawn == 0
    for taken in range(1, 200):
        assert next(results) == taken - 1
        assert items.drawn <= taken - 1 + ahead
    results.close()
    assert not pool_threads()


def test_the_next_are_made_while_one_is_looked_at() -> None:
    made = threading.Semaphore(0)

    def make(number: int) -> int:
        made.release()
        return number

    results = ordered_map(make, Counted(), workers=2, ahead=16)
    next(results)
    for _ in range(12):  # with nobody asking for more
        assert made.acquire(timeout=10)
    results.close()


@pytest.mark.parametrize(("threads", "ahead", "last"), [(1, 64, 9), (4, 1, 9)])
def test_where_nothing_is_gained_no_thread_is_started(threads: int, ahead: int, last: int) -> None:
    makers = list(ordered_map(lambda _: threading.get_ident(), range(last), workers=threads, ahead=ahead))
    assert makers == [threading.get_ident()] * last


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2, 9, 30])
def test_an_exception_of_the_items_comes_after_what_was_before_it(threads: int, place: int) -> None:
    for _ in range(OFTEN):
        results = ordered_map(lambda n: n, Counted(fails_at=place), workers=threads, ahead=16)
        assert [next(results) for _ in range(place)] == list(range(place))
        with pytest.raises(OSError, match="in the middle of a line"):
            next(results)
        assert list(results) == []
        assert not pool_threads()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2, 9, 30])
def test_an_exception_of_the_function_comes_in_its_place(threads: int, place: int) -> None:
    def fail(number: int) -> int:
        if number >= place:
            raise ZeroDivisionError(str(number))
        return number

    for _ in range(OFTEN):
        results = ordered_map(fail, Counted(), workers=threads, ahead=16)
        assert [next(results) for _ in range(place)] == list(range(place))
        with pytest.raises(ZeroDivisionError, match=f"^{place}$"):  # the first of those that fail
            next(results)
        assert not pool_threads()


def test_closing_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def make(number: int) -> int:
        begun.append(number)
        if number > 7:
            assert go_on.wait(10)
        return number

    results = ordered_map(make, Counted(), workers=2, ahead=1000)
    next(results)
    go_on_soon = threading.Timer(0.05, go_on.set)
    go_on_soon.start()
    results.close()
    go_on_soon.join()
    assert not pool_threads()
    assert len(begun) <= 8 + 2 * 8  # the first task, and one of at most eight items in each thread


def test_threads_are_as_many_as_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert available_threads() == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(100)), raising=False)
    assert available_threads() == 8
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert available_threads() == 1

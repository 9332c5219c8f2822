"""Functions mapped in threads and processes: order, bounds, exceptions in their place, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crnn.errors import DataError
from crnn.parallel import available_threads, ordered_map, usable_cores

OFTEN = 20  # rounds of what depends on how threads take turns


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ordered-map")]
    assert multiprocessing.active_children() == []


class Counted:
    """Numbers from 0; how many were drawn and by which threads."""

    def __init__(self, last=None, fails_at=None):
        self.last, self.fails_at = last, fails_at
        self.drawn = 0
        self.drawers: set[int] = set()

    def __iter__(self):
        while self.drawn != self.last:
            if self.drawn == self.fails_at:
                raise OSError("the list ends in the middle of a line")
            self.drawers.add(threading.get_ident())
            self.drawn += 1
            yield self.drawn - 1


def same(number):
    return number


# ---- threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 2, 7, 64])
@pytest.mark.parametrize("last", [0, 1, 2, 3, 100])
def test_results_come_in_the_order_of_the_items(threads, ahead, last):
    items = Counted(last)
    assert list(ordered_map(lambda n: 3 * n, items, workers=threads, ahead=ahead)) == [3 * n for n in range(last)]
    assert items.drawers <= {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2, 5, 16, 100])
def test_no_more_is_drawn_than_allowed(threads, ahead):
    items = Counted()
    results = ordered_map(same, items, workers=threads, ahead=ahead)
    assert items.drawn == 0
    for taken in range(1, 200):
        assert next(results) == taken - 1
        assert items.drawn <= taken - 1 + ahead
    results.close()


def test_the_next_are_made_while_one_is_looked_at():
    made = threading.Semaphore(0)
    results = ordered_map(lambda _: made.release(), Counted(), workers=2, ahead=16)
    next(results)
    for _ in range(12):  # with nobody asking for more
        assert made.acquire(timeout=10)
    results.close()


def fail_from(place):
    def fail(number):
        if number >= place:
            raise OSError(f"in the middle of a line {number}")
        return number

    return fail


@pytest.mark.parametrize("of_items", [True, False], ids=["items", "function"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2, 9, 30])
def test_an_exception_comes_after_what_was_before_it(of_items, threads, place):
    for _ in range(OFTEN):
        items = Counted(fails_at=place if of_items else None)
        results = ordered_map(same if of_items else fail_from(place), items, workers=threads, ahead=16)
        assert [next(results) for _ in range(place)] == list(range(place))
        with pytest.raises(OSError, match="in the middle of a line$" if of_items else f" {place}$"):  # the first one
            next(results)
        assert list(results) == []


def test_closing_drops_what_has_not_begun():
    begun = []
    go_on = threading.Event()

    def make(number):
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
    assert len(begun) <= 8 + 2 * 8  # the first task, and one of at most eight items in each thread


def test_threads_are_as_many_as_processors(monkeypatch):
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    for cores, threads in ({3, 5, 7}, 3), (set(range(100)), 8):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        assert available_threads() == threads
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert available_threads() == 1


# ---- processes


def work(number):
    """The function of the worker processes."""
    if number % 40 == 0:
        time.sleep(0.1)
    if number == -7:
        raise DataError("7: is damaged")
    if number == -8:
        raise ZeroDivisionError("a bug")
    if number == -9:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_of_processes_come_in_order(workers):
    items = Counted(100)
    results = ordered_map(work, items, workers=workers, ahead=8, kind="processes")
    for received, result in enumerate(results):
        assert result == received
        assert items.drawn <= received + 8
    assert received == 99


def test_what_a_worker_raises_arrives():
    with pytest.raises(DataError) as caught:
        list(ordered_map(work, [1, -7], workers=1, ahead=8, kind="processes"))
    assert str(caught.value) == "7: is damaged"
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(ordered_map(work, [-8], workers=1, ahead=8, kind="processes"))


def test_a_dead_worker_is_one_clear_line():
    with pytest.raises(DataError, match=r"a worker process died.*goes on where it ended"):
        list(ordered_map(work, [1, 2, 3, -9, 4, 5], workers=2, ahead=8, kind="processes"))


def test_a_caller_who_stops_leaves_no_workers():
    results = ordered_map(work, Counted(), workers=2, ahead=8, kind="processes")
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_workers_do_not_outlive_the_main_process(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import itertools, multiprocessing, os, signal\n"
        "from crnn.parallel import ordered_map\n"
        "if __name__ == '__main__':\n"
        "    results = ordered_map(abs, itertools.count(), workers=2, ahead=8, kind='processes')\n"
        "    next(results)\n"
        "    print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr  # Python may tell of semaphores that it removes
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

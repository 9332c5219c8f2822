"""Worker processes: results in order, memory bounded, and one clear line when a worker dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crnn.parallel as workers_module
from crnn.data.crops import Prepared, Request
from crnn.errors import DataError
from crnn.parallel import prepare_in_order, usable_cores

# Imported by the workers too, so it cannot stand in this file.
PREPARING = """
import os, signal, time
from crnn.data.crops import Prepared
from crnn.errors import DataError

def uneven(requests):
    for request in requests:
        number = int(request.path)
        if number % 40 == 0:
            time.sleep(0.1)
        yield Prepared(request.path.encode() * 1000, number, 1)

def failing(requests):
    for request in requests:
        if request.path == "7":
            raise DataError("7: is damaged")
        if request.path == "8":
            raise ZeroDivisionError("a bug")
        yield Prepared(b"x")

def dying(requests):
    for request in requests:
        if request.path == "7":
            os.kill(os.getpid(), signal.SIGKILL)
        yield Prepared(b"x")
"""


@pytest.fixture
def preparing(tmp_path, monkeypatch):
    (tmp_path / "preparing_for_tests.py").write_text(PREPARING)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("preparing_for_tests")
    sys.modules.pop("preparing_for_tests")


def jobs_of(sizes):
    number = 0
    for size in sizes:
        yield [Request(0, str(number + i)) for i in range(size)]
        number += size


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_order(preparing, num_workers):
    sizes = [1, 5, 0, 0, 30, 2, 7, 0, 50, 5]
    parts = list(prepare_in_order(preparing.uneven, jobs_of(sizes), num_workers))
    assert [result.width for part in parts for result in part] == list(range(100))
    assert parts.count([]) == len(sizes)
    assert multiprocessing.active_children() == []


def test_little_is_in_memory_when_one_worker_is_slow(preparing, monkeypatch):
    monkeypatch.setattr(workers_module, "_MAX_BUFFERED_BYTES", 20_000)
    taken = most_ahead = most_buffered = 0
    kept = []
    take = workers_module._Pool._take
    monkeypatch.setattr(workers_module._Pool, "_take", lambda pool, worker: (kept.append(pool), take(pool, worker)))

    def jobs():
        nonlocal taken
        for job in jobs_of([10] * 60):
            taken += 1
            yield job

    received = 0
    for part in prepare_in_order(preparing.uneven, jobs(), 2):
        received += len(part)
        most_ahead = max(most_ahead, taken - received // 10)
        most_buffered = max(most_buffered, kept[-1]._buffered)
    assert received == 600
    assert most_ahead <= 4 * 2 + 1
    assert (
        most_buffered < 20_000 + 2 * 31_000
    )  # the limit, and what two workers send at once: a job of 10 x 3,000 bytes


def test_what_a_worker_raises_arrives(preparing):
    with pytest.raises(DataError) as caught:
        list(prepare_in_order(preparing.failing, jobs_of([10]), 1))
    assert str(caught.value) == "7: is damaged"
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        list(prepare_in_order(preparing.failing, [[Request(0, "8")]], 1))
    assert multiprocessing.active_children() == []


def test_a_dead_worker_is_one_clear_line(preparing):
    with pytest.raises(DataError, match=r"a worker process died \(killed by signal 9\).*goes on where it ended"):
        list(prepare_in_order(preparing.dying, jobs_of([2] * 20), 2))
    assert multiprocessing.active_children() == []


def test_a_caller_who_stops_leaves_no_workers(preparing):
    results = prepare_in_order(preparing.uneven, jobs_of([2] * 2000), 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []

    def wake():
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError):
        list(prepare_in_order(preparing.uneven, jobs_of([2] * 2000), 1, wake=wake))
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_workers_do_not_outlive_the_main_process(preparing, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from preparing_for_tests import uneven\n"
        "from crnn.data.crops import Request\n"
        "from crnn.parallel import prepare_in_order\n"
        "if __name__ == '__main__':\n"
        "    jobs = ([Request(0, str(n))] for n in range(10**6))\n"
        "    results = prepare_in_order(uneven, jobs, 2)\n"
        "    next(results)\n"
        "    print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_an_empty_result_is_no_result():
    assert list(prepare_in_order(lambda requests: [Prepared(b"x")] * len(requests), [], 0)) == []

"""Worker processes: results in order, memory bounded, and one clear line when a worker dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crnn.data.crops import Request
from crnn.errors import DataError
from crnn.parallel import ordered_map, usable_cores

# Imported by the workers too, so it cannot stand in this file.
PREPARING = """
import os, signal, time
from crnn.data.crops import Prepared
from crnn.errors import DataError

def uneven(requests):
    results = []
    for request in requests:
        number = int(request.path)
        if number % 40 == 0:
            time.sleep(0.1)
        results.append(Prepared(request.path.encode() * 1000, number, 1))
    return results

def failing(requests):
    results = []
    for request in requests:
        if request.path == "7":
            raise DataError("7: is damaged")
        if request.path == "8":
            raise ZeroDivisionError("a bug")
        results.append(Prepared(b"x"))
    return results

def dying(requests):
    results = []
    for request in requests:
        if request.path == "7":
            os.kill(os.getpid(), signal.SIGKILL)
        results.append(Prepared(b"x"))
    return results
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


def prepared(function, jobs, workers, ahead=8):
    return ordered_map(function, jobs, workers=workers, ahead=ahead, kind="processes")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(preparing, workers):
    sizes = [1, 5, 0, 0, 30, 2, 7, 0, 50, 5]
    parts = list(prepared(preparing.uneven, jobs_of(sizes), workers))
    assert [len(part) for part in parts] == sizes
    assert [result.width for part in parts for result in part] == list(range(100))
    assert multiprocessing.active_children() == []


def test_no_more_jobs_are_drawn_than_allowed(preparing):
    drawn = 0

    def jobs():
        nonlocal drawn
        for job in jobs_of([10] * 60):
            drawn += 1
            yield job

    for received, part in enumerate(prepared(preparing.uneven, jobs(), 2), start=1):
        assert len(part) == 10
        assert drawn <= received - 1 + 8
    assert received == 60


def test_what_a_worker_raises_arrives(preparing):
    with pytest.raises(DataError) as caught:
        list(prepared(preparing.failing, jobs_of([10]), 1))
    assert str(caught.value) == "7: is damaged"
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(prepared(preparing.failing, [[Request(0, "8")]], 1))
    assert multiprocessing.active_children() == []


def test_a_dead_worker_is_one_clear_line(preparing):
    with pytest.raises(DataError, match=r"a worker process died.*goes on where it ended"):
        list(prepared(preparing.dying, jobs_of([2] * 20), 2))
    assert multiprocessing.active_children() == []


def test_a_caller_who_stops_leaves_no_workers(preparing):
    results = prepared(preparing.uneven, jobs_of([2] * 2000), 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_workers_do_not_outlive_the_main_process(preparing, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from preparing_for_tests import uneven\n"
        "from crnn.data.crops import Request\n"
        "from crnn.parallel import ordered_map\n"
        "if __name__ == '__main__':\n"
        "    jobs = ([Request(0, str(n))] for n in range(10**6))\n"
        "    results = ordered_map(uneven, jobs, workers=2, ahead=8, kind='processes')\n"
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

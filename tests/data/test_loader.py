"""Batches from worker processes: the same ones, in order, from any number on; and what happens when a worker fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from crnn.config.training import DataConfig
from crnn.data.dataset import StoredBatches, collate
from crnn.data.loader import iterate_batches
from crnn.errors import ImageError, MissingExtraError, TrainingError

pytestmark = [
    # torch thinks that a machine of one core should not be asked for two workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]


class Numbered:
    """A source whose batches say their number, and which does what it is told at some of them."""

    epoch_batches = 10

    def __init__(self, **at):
        self._at = {int(name.removeprefix("at_")): action for name, action in at.items()}

    def __getitem__(self, number):
        if number in self._at:
            self._at[number]()
        return collate([np.zeros((1, 32, 32), np.uint8)], [[1]], [str(number)])


@pytest.fixture(autouse=True)
def no_worker_is_left():
    """Whatever happened: a worker that is left keeps the program from ending."""
    yield
    assert multiprocessing.active_children() == []


def numbers(source, first=0, last=6, **settings):
    return [int(batch.keys[0]) for batch in iterate_batches(source, first, last, DataConfig(**settings))]


def raising(error):
    def action():
        raise error

    return action


# ---- the same batches


@pytest.fixture
def source(word_list, small_config):
    path = word_list(30)
    (path.parent / "images" / "3.png").unlink()
    config = small_config(path, augment={"probability": 1.0}, image={"resize": "keep_ratio", "max_width": 64})
    return StoredBatches(config)


@pytest.mark.parametrize(("workers", "start"), [(0, "fork"), (2, "fork"), (1, "spawn")])
def test_batches_do_not_depend_on_workers(source, workers, start):
    settings = DataConfig(workers=workers, worker_start=start)
    found = list(iterate_batches(source, 2, 9, settings))
    assert len(found) == 7
    for number, batch in enumerate(found, start=2):
        expected = source[number]
        assert all(map(torch.equal, batch.tensors(), expected.tensors()))
        assert (batch.keys, batch.skipped) == (expected.keys, expected.skipped)


def test_workers_end_when_the_batches_are_closed():
    batches = iterate_batches(Numbered(), 0, 1000, DataConfig(workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_a_program_ends_though_batches_are_left():
    program = """
        import numpy as np
        from crnn.config.training import DataConfig
        from crnn.data.dataset import collate
        from crnn.data.loader import iterate_batches

        class Source:
            def __getitem__(self, number):
                return collate([np.zeros((1, 32, 32), np.uint8)], [[1]], [str(number)])

        batches = iterate_batches(Source(), 0, 1000, DataConfig(workers=1))
        print(next(batches).keys)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "('0',)\n", "")


# ---- failures


def test_a_worker_killed_while_it_looks_whether_to_end_holds_up_nothing():
    """The lock of a multiprocessing.Event stays with a killed process, and torch's loader would wait for it."""
    program = """
        import contextlib, os, sys
        from crnn.config.training import DataConfig
        from crnn.data.loader import iterate_batches
        from crnn.errors import TrainingError

        class Source:
            def __getitem__(self, number):
                frame = sys._getframe()
                while "done_event" not in frame.f_locals:
                    frame = frame.f_back
                with getattr(frame.f_locals["done_event"], "_cond", contextlib.nullcontext()):
                    os._exit(1)

        try:
            next(iterate_batches(Source(), 0, 9, DataConfig(workers=1)))
        except TrainingError as error:
            print(str(error)[:18])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a data worker died\n", "")


def test_a_dead_worker_ends_the_run_where_its_batch_is_waited_for():
    """Not in the middle of a step or of a checkpoint, which is where torch would raise."""

    def die():
        time.sleep(0.5)  # until the batches before have been taken
        os._exit(1)

    batches = iterate_batches(Numbered(at_2=die), 0, 6, DataConfig(workers=1))
    next(batches)
    worker = multiprocessing.active_children()[0]
    deadline = time.monotonic() + 20
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.exitcode == 1
    with pytest.raises(
        TrainingError, match=r"^a data worker died \(DataLoader worker \(pid.*\); the machine may"
    ) as caught:
        list(batches)
    assert "Continue with --resume, with fewer data.workers" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_that_hangs_is_ended(monkeypatch):
    taken = multiprocessing.Event()  # a worker that is stopped too early has not sent the batches before

    def stop():
        taken.wait()
        os.kill(os.getpid(), signal.SIGSTOP)

    batches = iterate_batches(Numbered(at_2=stop), 0, 6, DataConfig(workers=1))
    assert [next(batches).keys, next(batches).keys] == [("0",), ("1",)]
    taken.set()
    monkeypatch.setattr("crnn.data.loader.WAIT_SECONDS", 2.0)
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"^no data worker gave the next batch for 2 s, so they were ended; is"):
        next(batches)
    assert time.monotonic() - began < 60.0


def test_a_batch_that_cannot_be_sent_ends_the_run(capfd):
    """Python says so and drops it, and it would be waited for without an end."""

    class Unsendable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    class Source:
        def __getitem__(self, number):
            return Unsendable() if number == 1 else number

    batches = iterate_batches(Source(), 0, 3, DataConfig(workers=1))
    assert next(batches) == 0
    with pytest.raises(TrainingError, match=r"^a data worker died .*it could not hand over a batch, as it said above"):
        next(batches)
    assert capfd.readouterr().err == "data worker: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [ImageError("a.png: cut short", reason="truncated"), MissingExtraError("lmdb", "data", "reading LMDB stores")],
)
def test_our_errors_come_out_of_workers_as_they_were_raised(workers, error):
    batches = iterate_batches(Numbered(at_2=raising(error)), 0, 6, DataConfig(workers=workers))
    assert [next(batches).keys, next(batches).keys] == [("0",), ("1",)]  # those before a failure are still given
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert str(caught.value) == str(error)
    assert type(caught.value) is type(error)
    assert getattr(caught.value, "reason", None) == getattr(error, "reason", None)
    # Where it came from is told by the traceback, or where that stayed behind in the worker, by a note.
    frames = [entry.name for entry in caught.traceback]
    assert ("action" in frames) if workers == 0 else ("in action" in caught.value.__notes__[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_another_error_is_not_taken_for_a_dead_worker(workers):
    with pytest.raises(RuntimeError, match="a bug of ours") as caught:
        numbers(Numbered(at_1=raising(RuntimeError("a bug of ours"))), workers=workers)
    assert not isinstance(caught.value, TrainingError)

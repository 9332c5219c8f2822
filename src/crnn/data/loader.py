"""Batches in order, made by worker processes ahead of the training step."""

import atexit
import copy
import ctypes
import functools
import multiprocessing
import multiprocessing.queues
import multiprocessing.sharedctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset, get_worker_info

from crnn.config.training import DataConfig
from crnn.errors import CrnnError, TrainingError

WAIT_SECONDS = 600.0  # for one batch, after which the workers are taken to hang, on a dead disk, say
_CANNOT_SEND = 74  # exit status (EX_IOERR) of a worker whose batch cannot be sent
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when the one that started it ends

_Item_co = TypeVar("_Item_co", covariant=True)
_Item = TypeVar("_Item")


class Numbered(Protocol[_Item_co]):
    """Source of batches, or of parts of them, by number."""

    def __getitem__(self, number: int) -> _Item_co: ...


class _Numbers(Dataset[_Item | CrnnError]):
    """Items ``i``, for torch's loader, are batches ``first + i`` of a source, or their errors.

    An error raised in a worker would lose its arguments and carry a traceback in its message.
    """

    def __init__(self, source: Numbered[_Item], first: int, count: int) -> None:
        self._source, self._first, self._count = source, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> _Item | CrnnError:
        try:
            return self._source[self._first + item]
        except CrnnError as error:
            if get_worker_info() is None:
                raise
            error.add_note(traceback.format_exc())
            return error


def iterate_batches(
    source: Numbered[_Item], first: int, last: int, config: DataConfig, pin_memory: bool = False
) -> Generator[_Item]:
    """Yield batches ``first`` to ``last - 1`` in order, the same for any number of workers.

    The source is pickled to workers that are not forked; its errors are raised here. ``pin_memory`` puts batches into
    page-locked memory, for accelerators. A worker process that died, or gave no batch for ``WAIT_SECONDS``, is a
    ``TrainingError``.
    """
    count = 1 if config.workers is None else config.workers
    loader = DataLoader(
        _Numbers(source, first, last - first),
        batch_size=None,  # items are batches already
        collate_fn=_as_it_is,  # torch's own makes tensors of arrays, and lists of tuples
        shuffle=False,
        num_workers=count,
        multiprocessing_context=_context(config.worker_start) if count else None,
        prefetch_factor=4 if count else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
    )
    others = multiprocessing.active_children()
    batches = _started(loader)
    workers = [process for process in multiprocessing.active_children() if process not in others]
    end = functools.partial(_end, workers)
    atexit.register(end)  # for a program that ends while batches are left
    hangs = threading.Event()
    try:
        while True:
            # The loader's own time limit would notice a dead worker only at its end.
            watch = threading.Timer(WAIT_SECONDS, _kill, (workers, hangs))
            watch.daemon = True
            if workers:
                watch.start()
            try:
                batch = next(batches, None)
            finally:
                watch.cancel()
            if batch is None:
                return
            if isinstance(batch, CrnnError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # a worker's own exception is "Caught ... in" one
            raise
        raise TrainingError(_why_dead(error, workers, hangs.is_set())) from error
    finally:
        # This asks the workers to end; but not yet, if the traceback of an exception still holds the iterator.
        del batches
        end()
        atexit.unregister(end)


class _Event:
    """An event without a lock: a worker that is killed while it looks at one with a lock leaves it locked for ever."""

    def __init__(self) -> None:
        self._value = multiprocessing.sharedctypes.RawValue(ctypes.c_bool, False)

    def is_set(self) -> bool:
        return self._value.value

    def set(self) -> None:
        self._value.value = True


def _context(start: str) -> BaseContext:
    """Return the context whose events, by which torch's loader ends its workers, survive killed ones."""
    context = copy.copy(multiprocessing.get_context(start))
    context.Event = _Event  # type: ignore[assignment, method-assign]
    return context


def _started(loader: DataLoader[_Item | CrnnError]) -> Iterator[_Item | CrnnError]:
    """Return the loader's iterator, workers started, without torch's handler of SIGCHLD.

    The handler raises wherever the training process is when a worker dies, even within a checkpoint. Without it the
    iterator notices when it waits for a batch, within five seconds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)  # torch sets none there
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None:  # else it was not set by Python, and cannot be by it
        signal.signal(signal.SIGCHLD, before)
    return batches


def _kill(workers: Sequence[BaseProcess], hangs: threading.Event) -> None:
    """End workers that give no batch, so that the waiting process finds them dead."""
    hangs.set()
    for worker in workers:
        worker.kill()


def _why_dead(error: RuntimeError, workers: Sequence[BaseProcess], hang: bool) -> str:
    if hang:
        return (
            f"no data worker gave the next batch for {WAIT_SECONDS:g} s, so they were ended; is the disk that the data "
            "are on still there? Continue with --resume"
        )
    why = "the machine may have run out of memory"
    if any(worker.exitcode == _CANNOT_SEND for worker in workers):
        why = "it could not hand over a batch, as it said above: the machine's shared memory (/dev/shm) may be full"
    elif any(worker.exitcode == -signal.SIGBUS for worker in workers):
        why = "a store was cut short while it was read, or the machine's shared memory (/dev/shm) is full"
    return (
        f"a data worker died ({str(error).splitlines()[0]}); {why}. "
        "Continue with --resume, with fewer data.workers if it happens again"
    )


def _end(workers: Sequence[BaseProcess]) -> None:
    """Kill the remaining workers: Python would send SIGTERM, which they ignore, and wait forever."""
    for worker in workers:
        worker.kill()
        worker.join()


def _as_it_is(item: _Item) -> _Item:
    return item


def _end_unsent(error: BaseException, _: object) -> None:
    """Exit where a batch cannot be sent: Python would drop it, and the training process would wait forever."""
    print(f"data worker: {str(error).splitlines()[0] if str(error) else repr(error)}", file=sys.stderr, flush=True)
    os._exit(_CANNOT_SEND)


def _start_worker(_: int) -> None:
    # A worker that outlives a killed rank by seconds holds its copies of the rank's sockets, and the other ranks wait
    # as long to find that it is gone. Only Linux has this; elsewhere torch's own watch ends the worker in 5 s.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]
    # Ctrl-C, and what a scheduler sends, go to all processes: the training process saves, then ends its workers.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

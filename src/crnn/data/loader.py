"""Batches one after the other, made by worker processes ahead of the training step that needs them."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset, get_worker_info

from crnn.config import DataConfig
from crnn.errors import CrnnError, TrainingError

__all__ = ["Numbered", "iterate_batches"]

_Item_co = TypeVar("_Item_co", covariant=True)
_Item = TypeVar("_Item")


class Numbered(Protocol[_Item_co]):
    """Anything that makes batches, or parts of them, by number."""

    def __getitem__(self, number: int) -> _Item_co: ...


class _Numbers(Dataset[_Item | CrnnError]):
    """A view of a source for torch's loader: item ``i`` is batch ``first + i``, or why there is none.

    An error that leaves a worker by itself would lose its arguments and come with a traceback in its message.
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
    """Batches ``first`` to ``last`` (not included) in order, whatever the number of workers.

    Args:
        source: Where batches come from; pickled to workers that do not start by forking.
        first: Number of the first batch: where a resumed run goes on.
        last: Number behind the last batch.
        config: Number of workers and how they start.
        pin_memory: Put batches into page-locked memory, for accelerators.

    Raises:
        TrainingError: A worker process died.
        CrnnError: What the source raised, in whichever process.
    """
    loader = DataLoader(
        _Numbers(source, first, last - first),
        batch_size=None,  # items are batches already
        collate_fn=_as_it_is,  # torch's own makes tensors of arrays, and lists of tuples
        shuffle=False,
        num_workers=config.workers,
        multiprocessing_context=config.worker_start if config.workers else None,
        prefetch_factor=4 if config.workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
    )
    others = multiprocessing.active_children()
    batches = _started(loader)
    workers = [process for process in multiprocessing.active_children() if process not in others]
    end = functools.partial(_end, workers)
    atexit.register(end)  # for a program that ends while batches are left
    try:
        for batch in batches:
            if isinstance(batch, CrnnError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # a worker's own exception is "Caught ... in" one
            raise
        raise TrainingError(
            f"a data worker died ({str(error).splitlines()[0]}); the machine may have run out of memory. "
            "Continue with --resume, with fewer data.workers if it happens again"
        ) from error
    finally:
        # This asks the workers to end; but not yet, if the traceback of an exception still holds the iterator.
        del batches
        end()
        atexit.unregister(end)


def _started(loader: DataLoader[_Item | CrnnError]) -> Iterator[_Item | CrnnError]:
    """The loader's iterator with its workers started, and without torch's handler of SIGCHLD.

    The handler raises wherever the training process is when a worker dies: in the middle of a step, of a checkpoint.
    Without it the iterator finds out when it waits for a batch, within five seconds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)  # torch sets none there
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None:  # else it was not set by Python, and cannot be by it
        signal.signal(signal.SIGCHLD, before)
    return batches


def _end(workers: Sequence[BaseProcess]) -> None:
    """End workers that are still there, in the one way that they do not ignore; they have nothing to lose.

    Without it Python would send them SIGTERM at its exit, and wait for ever.
    """
    for worker in workers:
        worker.kill()
        worker.join()


def _as_it_is(item: _Item) -> _Item:
    return item


def _start_worker(_: int) -> None:
    # Ctrl-C, and what a scheduler sends, go to all processes: the training process saves, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

"""Map a function over an iterable in threads or processes: results in order, bounded look-ahead."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import Any, Literal, TypeVar

from crnn.errors import DataError

_T = TypeVar("_T")
_R = TypeVar("_R")

_MAX_THREADS = 8  # beyond that they wait for Python's lock, which a good part of the work on a small image holds
_MAX_CHUNK = 8  # items of one thread's task: with one each, handing them over would cost a tenth of decoding them

# Ctrl-C, the end of a terminal, and what a scheduler sends, go to all processes: the main one ends the workers.
_IGNORED_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_function: Callable[..., Any]  # of a worker process


def usable_cores() -> int:
    """Return the number of cores this process may use: fewer than exist in a container or under ``taskset``."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_threads() -> int:
    """Return the number of threads worth starting: one per usable core, up to a limit."""
    return min(usable_cores(), _MAX_THREADS)


def ordered_map(
    function: Callable[[_T], _R],
    items: Iterable[_T],
    *,
    workers: int,
    ahead: int,
    kind: Literal["threads", "processes"] = "threads",
) -> Generator[_R, None, None]:
    """Map a function over an iterable in a pool of threads or processes; yield results in the order of the items.

    Items are drawn in the caller's thread, at most ``ahead`` (1 or more) before results are taken. An exception of
    the iterable or of the function is raised in the place of its result, ``DataError`` if a process died. With 0
    workers, and where one thread or one item ahead gains nothing, results are computed on demand. Closing the generator
    drops pending items. Processes are spawned: in a script, call this under ``if __name__ == "__main__"``.
    """
    if workers == 0 or (kind == "threads" and min(workers, ahead) == 1):
        yield from map(function, items)
        return
    size = 1 if kind == "processes" else max(1, min(_MAX_CHUNK, ahead // (2 * workers)))
    failure: list[Exception] = []
    source = until_failure(items, failure)
    first = list(islice(source, size))
    if kind == "threads" and len(first) == 1 < size:  # a single item needs no thread
        yield function(first[0])
        first = []
    source = chain(first, source)
    call: Callable[[_T], _R] = _call_in_worker if kind == "processes" else function
    pool: Executor
    if kind == "processes":
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (function,))
    else:
        pool = ThreadPoolExecutor(workers, "ordered-map")
    pending: deque[Future[tuple[list[_R], Exception | None]]] = deque()
    try:
        while True:
            while (len(pending) + 1) * size <= ahead and (chunk := list(islice(source, size))):
                with signals_blocked() if kind == "processes" else contextlib.nullcontext():
                    pending.append(pool.submit(_results, call, chunk))
            if not pending:
                break
            results, error = pending.popleft().result()
            yield from results
            if error is not None:
                raise error
        if failure:
            raise failure[0]
    except BrokenExecutor:
        raise DataError(
            "a worker process died, perhaps out of memory; the same command goes on where it ended (fewer workers?)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def until_failure(items: Iterable[_T], failure: list[Exception]) -> Iterator[_T]:
    """Yield the items; an exception ends them and is kept, to be raised behind their results."""
    try:
        yield from items
    except Exception as error:
        failure.append(error)


def _results(function: Callable[[_T], _R], items: list[_T]) -> tuple[list[_R], Exception | None]:
    """Return the results up to the first exception, and that exception."""
    results: list[_R] = []
    try:
        results.extend(map(function, items))
    except Exception as error:
        if not results:
            raise  # from a process it brings its traceback only so
        return results, error
    return results, None


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and the like in processes that are started meanwhile, until they unblock or ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Otherwise starting the first process would start the tracker, and that unblocks the signals (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """End ``signals_blocked`` in a new process."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED_SIGNALS)


def _start_worker(function: Callable[..., Any]) -> None:
    global _function
    _function = function
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()  # workers hold both ends of their queues: a killed parent would be waited for without an end


def exit_with_parent() -> None:
    """End this process as soon as the one that started it by ``multiprocessing`` has ended; nothing in others."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _call_in_worker(item: Any) -> Any:
    return _function(item)

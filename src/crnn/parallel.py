"""What comes next, made ready in threads while the caller is busy with what came before.

Opening and decoding a picture costs about as much as a small network does with it, and Pillow lets other threads run
meanwhile. ``read_ahead`` keeps a bounded number of items on their way through a pool. Items are drawn in the caller's
thread alone: an iterable need not be safe for threads, and one that waits for its next item cannot keep a thread alive.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, NoReturn, TypeVar

from crnn.errors import CrnnError, DataError

__all__ = ["available_threads", "prepare_in_order", "read_ahead", "usable_cores"]


def usable_cores() -> int:
    """How many this process may use: a container or ``taskset`` may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ----------------------------------------------------------------------------------------------------
# read ahead

_T = TypeVar("_T")
_R = TypeVar("_R")

_MAX_THREADS = 8
"""Beyond that they wait for Python's lock, which a good part of the work on a small picture holds."""

_MAX_CHUNK = 8
"""Items of one task: with one each, handing them over would cost a tenth of decoding small pictures."""


def available_threads() -> int:
    """Threads that are worth starting: as many as processors that this process may use, up to a limit."""
    return min(usable_cores(), _MAX_THREADS)


def read_ahead(
    function: Callable[[_T], _R], items: Iterable[_T], *, threads: int, ahead: int
) -> Generator[_R, None, None]:
    """What a function makes of each item, in order, made ahead in threads.

    With one thread, and for a single item, no pool is started and each result is made when it is asked for.

    Args:
        function: Called in threads; several calls at once.
        items: Any number; drawn in the caller's thread, as results are taken.
        threads: Of the pool, at least 1.
        ahead: How many items may be drawn whose results have not been taken, at least 1.

    Yields:
        Results in the order of the items. An exception of the iterable or of the function comes where the result of
        that item would have come. When the generator is closed, what has not begun is dropped, and no thread is left.
    """
    if threads == 1 or ahead == 1:
        yield from map(function, items)
        return
    source = _Source(items)
    first = source.take(2)
    if len(first) < 2:
        yield from map(function, first)
    else:
        yield from _through_pool(function, first, source, threads, ahead)
    if source.failure is not None:
        raise source.failure


class _Source(Generic[_T]):
    """Items by the handful. An exception of the iterable is kept, so that what came before it can be given first."""

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = iter(items)
        self.ended = False
        self.failure: Exception | None = None

    def take(self, count: int) -> list[_T]:
        """The next items; fewer at the end."""
        taken: list[_T] = []
        try:
            while len(taken) < count:
                taken.append(next(self._items))
        except StopIteration:
            self.ended = True
        except Exception as error:
            self.ended, self.failure = True, error
        return taken


def _through_pool(
    function: Callable[[_T], _R], first: list[_T], source: _Source[_T], threads: int, ahead: int
) -> Generator[_R, None, None]:
    chunk = max(1, min(_MAX_CHUNK, ahead // (2 * threads)))  # so that every thread has its next task waiting
    tasks: deque[Future[tuple[list[_R], Exception | None]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        tasks.append(pool.submit(_made, function, first))
        on_way = len(first)
        while True:
            while on_way + chunk <= ahead and not source.ended and (items := source.take(chunk)):
                tasks.append(pool.submit(_made, function, items))
                on_way += len(items)
            if not tasks:
                return
            results, error = tasks.popleft().result()
            for result in results:
                on_way -= 1
                yield result
            if error is not None:
                raise error
    finally:
        pool.shutdown(cancel_futures=True)


def _made(function: Callable[[_T], _R], items: list[_T]) -> tuple[list[_R], Exception | None]:
    """Results up to the first exception, and that."""
    results: list[_R] = []
    try:
        results.extend(map(function, items))
    except Exception as error:
        return results, error
    return results, None


# ----------------------------------------------------------------------------------------------------
# prepare workers

_MAX_BUFFERED_BYTES = 64 << 20
_PART_BYTES = 1 << 20
_JOBS_AT_A_WORKER = 2  # one to work at, one so as not to wait for the next
_JOBS_AHEAD = 4  # per worker, finished or not
_WAKE_SECONDS = 0.5  # in which the caller notices that it was asked to stop

# Ctrl-C, the end of a terminal, and what a scheduler sends, go to all processes: the main one ends the workers.
_NOT_FOR_WORKERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")
_Prepare = Callable[[Any], Iterable[Any]]  # inside, jobs and results are whatever the caller has


def prepare_in_order(
    prepare: Callable[[_Asked], Iterable[_Result]],
    jobs: Iterable[_Asked],
    num_workers: int,
    *,
    wake: Callable[[], None] = lambda: None,
) -> Generator[list[_Result]]:
    """The results of all jobs, in order, whatever the number of workers.

    In a program of one's own, this must not run while the main module is imported (``if __name__ == "__main__"``), as
    workers import that too.

    Args:
        prepare: What to do with a job; pickled to the workers, as are jobs and results.
        jobs: Taken as needed, not long before their results are asked for.
        num_workers: Processes; 0: everything happens in this one.
        wake: Called now and then while waiting; it may raise.

    Yields:
        Some results, in order; nothing (an empty list) at the end of each job.

    Raises:
        DataError: A worker process died.
        CrnnError: What ``prepare`` raised, in whichever process.
    """
    if num_workers == 0:
        for job in jobs:
            wake()
            for part, _ in _parts(prepare(job)):
                yield part
            yield []
        return
    pool = _Pool(prepare, iter(jobs), num_workers, wake)
    try:
        yield from pool.results()
    finally:
        pool.close()


@dataclass(eq=False, slots=True)
class _Worker:
    process: SpawnProcess
    jobs: Connection
    results: Connection
    numbers: deque[int] = field(default_factory=deque)
    """Of the jobs that it has, the one it works at first."""


@dataclass(slots=True)
class _Job:
    worker: _Worker
    parts: deque[tuple[list[Any], int]] = field(default_factory=deque)
    """Results that are here, and how many bytes of pictures are in them."""
    finished: bool = False


class _Pool:
    def __init__(self, prepare: _Prepare, jobs: Iterator[Any], num_workers: int, wake: Callable[[], None]) -> None:
        self._jobs: Iterator[Any] | None = jobs
        self._wake = wake
        self._given: deque[_Job] = deque()  # in order; the first one's results are next
        self._num_given = 0
        self._buffered = 0
        self._by_number: dict[int, _Job] = {}
        self._workers: list[_Worker] = []
        try:
            self._workers.extend(_start(prepare) for _ in range(num_workers))
        except BaseException:
            self.close()
            raise

    def results(self) -> Iterator[list[Any]]:
        while True:
            self._give()
            if not self._given:
                return
            first = self._given[0]
            while first.parts:
                part, size = first.parts.popleft()
                self._buffered -= size
                yield part
            if first.finished:
                self._given.popleft()
                yield []
            else:
                self._listen(first.worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # it holds nothing that could be left half done
            worker.jobs.close()
            worker.results.close()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers.clear()

    def _give(self) -> None:
        """Hand out jobs as far as there are idle hands and room for results."""
        while self._jobs is not None and len(self._given) < _JOBS_AHEAD * len(self._workers):
            worker = min(self._workers, key=lambda worker: len(worker.numbers))
            if len(worker.numbers) >= _JOBS_AT_A_WORKER:
                return
            job = next(self._jobs, None)
            if job is None:
                self._jobs = None
                return
            number, self._num_given = self._num_given, self._num_given + 1
            self._given.append(_Job(worker))
            self._by_number[number] = self._given[-1]
            worker.numbers.append(number)
            try:
                worker.jobs.send_bytes(_packed(job))
            except OSError:
                self._mourn(worker)

    def _listen(self, first: _Worker) -> None:
        heard = [first] if self._buffered > _MAX_BUFFERED_BYTES else self._workers
        ready = set(wait([worker.results for worker in heard], _WAKE_SECONDS))
        self._wake()
        for worker in heard:
            if worker.results in ready:
                self._take(worker)

    def _take(self, worker: _Worker) -> None:
        try:
            message, size = _unpacked(worker.results.recv_bytes())
        except (EOFError, OSError):
            self._mourn(worker)
        if isinstance(message, BaseException):
            raise message
        job = self._by_number[worker.numbers[0]]
        if message is not None:
            job.parts.append((message, size))
            self._buffered += size
        else:
            job.finished = True
            del self._by_number[worker.numbers.popleft()]

    def _mourn(self, worker: _Worker) -> NoReturn:
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        raise DataError(
            f"a worker process died ({how}); the machine may have run out of memory. The same command goes on where it "
            "ended, with fewer workers if it happens again"
        )


def _start(prepare: _Prepare) -> _Worker:
    context = multiprocessing.get_context("spawn")
    jobs_out, jobs_in = context.Pipe(duplex=False)
    results_out, results_in = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(prepare, jobs_out, results_in), name="prepare", daemon=True)
    with _signals_held_back():
        process.start()
    # Only the worker holds these ends now, so that the other ends tell of its death.
    jobs_out.close()
    results_in.close()
    return _Worker(process, jobs_in, results_out)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Started in here, a process does not get Ctrl-C and the like: it would show where it was in its own beginning."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Otherwise starting the first process would start the tracker, and that lets the signals in again (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(prepare: _Prepare, jobs: Connection, results: Connection) -> None:
    """The life of a worker process."""
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Jobs are taken off the pipe while results wait to be taken off theirs: else both ends could wait for each other.
    threading.Thread(target=_receive, args=(jobs, waiting), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the main process ended
        while True:
            job, _ = _unpacked(waiting.get())
            try:
                for part, size in _parts(prepare(job)):
                    results.send_bytes(_packed(part, size))
                results.send_bytes(_packed(None))  # the job is done
            except BrokenPipeError:
                raise
            except Exception as error:
                error.add_note(traceback.format_exc())
                sent = error if isinstance(error, CrnnError) else RuntimeError(traceback.format_exc())
                results.send_bytes(_packed(sent))


def _receive(jobs: Connection, waiting: queue.SimpleQueue[bytes]) -> None:
    while True:
        try:
            waiting.put(jobs.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # the main process ended, however: nobody wants the results


def _parts(results: Iterable[_Result]) -> Iterator[tuple[list[_Result], int]]:
    """Some results, and the bytes of the pictures in them; what is no picture is small and does not count."""
    part: list[_Result] = []
    size = 0
    for result in results:
        part.append(result)
        size += len(getattr(result, "image", b""))
        if size >= _PART_BYTES:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size


def _packed(message: Any, size: int = 0) -> bytes:
    """A message to another process; named tuples go as plain ones, for which pickle needs a fifth of the time."""
    kind = type(message[0]) if isinstance(message, list) and message else None
    if hasattr(kind, "_make"):
        return pickle.dumps((kind, list(map(tuple, message)), size), pickle.HIGHEST_PROTOCOL)
    return pickle.dumps((None, message, size), pickle.HIGHEST_PROTOCOL)


def _unpacked(data: bytes) -> tuple[Any, int]:
    kind, message, size = pickle.loads(data)  # noqa: S301 - our own process wrote it
    return message if kind is None else list(map(kind._make, message)), size

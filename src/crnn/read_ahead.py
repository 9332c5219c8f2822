"""What comes next, made ready in threads while the caller is busy with what came before.

Opening and decoding a picture costs about as much as a small network does with it, and Pillow lets other threads run
meanwhile. ``read_ahead`` keeps a bounded number of items on their way through a pool. Items are drawn in the caller's
thread alone: an iterable need not be safe for threads, and one that waits for its next item cannot keep a thread alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from crnn.cores import usable_cores

__all__ = ["available_threads", "read_ahead"]

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

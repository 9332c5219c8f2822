"""Ctrl-C, and what a scheduler sends, as a wish to come to an end instead of an end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["signals_collected"]

_ANSWER = b"stopping, and saving what is done; Ctrl-C again ends at once\n"


@contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of ending at once; a second Ctrl-C ends at once after all.

    SIGHUP, which says that the terminal was closed, is left alone where it is ignored, as under ``nohup``. Outside of
    the main thread, where Python allows no handlers, nothing is collected. The first Ctrl-C is answered on stderr: what
    is to be done before the end may take a while.

    Yields:
        The numbers of the signals that came, filled as they come; true as soon as there is one.

    Raises:
        KeyboardInterrupt: Inside, at the second Ctrl-C.
    """
    caught: list[int] = []
    owner = os.getpid()  # forked workers get the same signal, and have nothing to say
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handler(number: int, _: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and os.getpid() == owner and os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):  # nobody listens
                # Not by sys.stderr, in the midst of whose work the signal may have come.
                os.write(2, b"\n" * os.isatty(2) + _ANSWER)
        caught.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)

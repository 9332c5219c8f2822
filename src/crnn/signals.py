"""Ctrl-C, and what a scheduler sends, as a wish to come to an end instead of an end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["signals_collected"]


@contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending at once; a second Ctrl-C ends at once after all.

    Outside of the main thread, where Python allows no handlers, nothing is collected.

    Yields:
        The numbers of the signals that came, filled as they come; true as soon as there is one.

    Raises:
        KeyboardInterrupt: Inside, at the second Ctrl-C.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handler(number: int, _: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)

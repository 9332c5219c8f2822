"""Common parts of commands: JSON results, checks, progress (training's own: ``training.monitor``), signals."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from crnn.errors import ConfigError, MissingExtraError


def say(command: str, line: str) -> None:
    """Print a line on stderr, behind the command that it is of."""
    print(f"crnn {command}: {line}", file=sys.stderr)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object as one line on stdout, in characters that the terminal has."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name with odd bytes, or a terminal that is not UTF-8: then as \u escapes
        text = json.dumps(values, allow_nan=False)
    print(text, flush=True)


def require_torch(purpose: str, extra: str) -> None:
    """Raise ``MissingExtraError`` if torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", extra, purpose)


def check_writable(flag: str, path: str, example: str) -> None:
    """Raise ``ConfigError`` if a file cannot be written, before the work is done; an empty path is fine."""
    if path and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        why = "is a folder" if Path(path).is_dir() else "there is no such folder to write it in"
        raise ConfigError(f"{flag} {path}: {why}; expected a file in a folder that exists, such as {example}")


def check_image_writable(flag: str, path: str) -> None:
    """Raise ``ConfigError`` if a file cannot be written, or its suffix is that of no image."""
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"{path}: expected an image file to write, such as preview.png")
    check_writable(flag, path, "preview.png")


def save_image(path: str, image: Image.Image) -> None:
    """Write an image, or raise ``ConfigError``."""
    try:
        image.save(path)
    except (OSError, ValueError) as error:  # the disk, or a format that has no images as large
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be written: {why}. Choose another file, or fewer samples") from error


@contextmanager
def counting_bar(title: str, total: int | None = None, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, if that is a terminal; yield a function that adds to the number done."""
    console = Console(file=sys.stderr)
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeRemainingColumn())
    disable = not (enabled and console.is_terminal)
    # What is printed to stdout meanwhile is a result and belongs there, not on the console of the bar.
    with Progress(*columns, console=console, transient=True, disable=disable, redirect_stdout=False) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


_ANSWER = b"stopping, and saving what is done; Ctrl-C again ends at once\n"


@contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of ending at once; a second Ctrl-C raises ``KeyboardInterrupt``.

    Yields a list that is filled with their numbers. An ignored SIGHUP (``nohup``) stays ignored. Outside the main
    thread, where Python allows no handlers, nothing is collected. The first Ctrl-C is answered on stderr.
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

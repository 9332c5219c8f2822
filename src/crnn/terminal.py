"""Common parts of commands: JSON results, checks, progress (training's own: ``training.monitor``), signals."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from crnn.errors import UNPRINTABLE, ConfigError, MissingExtraError, printable

if TYPE_CHECKING:
    from PIL import Image


def say(command: str, line: str) -> None:
    """Print a line on stderr, behind the command that it is of."""
    complain(f"crnn {command}: {line}")


def complain(line: str) -> None:
    """Print a line on stderr, or nothing where nobody takes it."""
    with contextlib.suppress(OSError):
        try:
            print(printable(line), file=sys.stderr, flush=True)
        except OSError:
            drop_output(sys.stderr)


def drop_output(stream: IO[str]) -> None:
    """Let the interpreter end in silence: what a stream still holds would fail once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show(*lines: str) -> None:
    """Print results for people on stdout; a name in them has no line ends, nor what a terminal would obey."""
    print(*map(printable, lines), sep="\n", flush=True)


def escaped(text: str) -> str:
    r"""Return JSON or TOML with ``\u`` escapes for what a terminal would obey, but line ends; it means the same."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object as one line on stdout, in characters that the terminal has."""
    text = escaped(json.dumps(values, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        text = json.dumps(values, allow_nan=False)
    print(text, flush=True)


def require_torch(purpose: str, extra: str) -> None:
    """Raise ``MissingExtraError`` if torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", extra, purpose)


IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pdf")
"""Suffixes of images that commands write."""


def check_writable(
    flag: str, path: str, example: str, suffixes: Sequence[str] = (), inputs: Sequence[str] = ()
) -> None:
    """Raise ``ConfigError`` if a file cannot be written, before the work is done; an empty path is fine.

    With ``suffixes``, the path must end in one of them. It may be none of the ``inputs``.
    """
    if path and os.path.isfile(path) and any(os.path.isfile(i) and os.path.samefile(i, path) for i in inputs):  # noqa: PTH113, PTH121
        raise ConfigError(f"{flag} {path}: is read by this command; expected another file to write")
    folder = Path(path).resolve().parent
    if path and (Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        why = "its folder may not be written" if folder.is_dir() else "there is no such folder to write it in"
        why = "is a folder" if Path(path).is_dir() else why
        raise ConfigError(f"{flag} {path}: {why}; expected a file in a folder that exists, such as {example}")
    if path and suffixes and Path(path).suffix.lower() not in suffixes:
        raise ConfigError(f"{flag} {path}: expected a name that ends in {' or '.join(suffixes)}, such as {example}")


def save_image(path: str, image: "Image.Image") -> None:
    """Write an image, or raise ``ConfigError``."""
    try:
        image.save(path)
    except (OSError, ValueError) as error:  # the disk, or a format that has no images as large
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be written: {why}. Choose another file, or fewer samples") from error


@contextmanager
def counting_bar(title: str, total: int | None = None, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, if that is a terminal; yield a function that adds to the number done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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

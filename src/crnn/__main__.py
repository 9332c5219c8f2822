"""The program ``crnn``, and ``python -m crnn``: what ``torchrun -m crnn train ...`` starts."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line, so that Ctrl-C shows no traceback, be it before the first line of it or after the last."""
    handles = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a job in the background ignores it
    if handles:
        signal.signal(signal.SIGINT, _interrupt)
    from crnn.cli import main as run

    status = run()
    if handles:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return status


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, or exit amid an import, where compiled modules abort by an exception."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + signal.SIGINT)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

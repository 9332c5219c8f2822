"""Interface of engines, from pixels to log-probabilities, and their common helpers.

Shape letters: N batch, C image channels, W width, T time steps, V classes with the blank.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from crnn.errors import ConfigError, DataError

EngineName = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
Mode = Literal["throughput", "latency"]
"""``throughput``: each thread has its own images. ``latency``: all threads share each operation."""

_HEIGHT, _MIN_WIDTH = 32, 8  # pixels; the width of the first time step

Pixels = npt.NDArray[np.uint8]
LogProbs = npt.NDArray[np.float32]


@runtime_checkable
class Engine(Protocol):
    """Engine that computes log-probabilities."""

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return natural log-probabilities ``(N, T, V)`` float32, normalised over V.

        Images are ``(N, C, 32, W)`` uint8, not normalised, as of ``crnn.image.load_resized``.
        """
        ...


_PROCESS = os.getpid()


def is_forked() -> bool:
    """Return whether this is a fork of the process that imported this module; it lacks the threads of libraries."""
    return os.getpid() != _PROCESS


class ForkSafeEngine:
    """Engine that is opened anew in a forked process, which lacks its threads, and where it is unpickled."""

    def __init__(self, opener: Callable[[], Engine]) -> None:
        self._opener = opener
        self._engine: Engine | None = opener()
        _fork_safe.add(self)

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities; see ``Engine``."""
        engine = self._engine = self._engine or self._opener()
        return engine.log_probs(images)

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkSafeEngine, (self._opener,)


_fork_safe: WeakSet[ForkSafeEngine] = WeakSet()


def _leave_engines() -> None:
    for safe in _fork_safe:
        # Never released: its end would wait for threads that are not there.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(safe._engine))
        safe._engine = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_engines)


def check_pixels(images: Pixels, channels: int) -> None:
    """Raise ``DataError`` for an array that is not a batch of images; engines would treat it differently."""
    fits = images.ndim == 4 and images.shape[1:3] == (channels, _HEIGHT) and images.shape[3] >= _MIN_WIDTH
    if not fits or images.dtype != np.uint8 or not len(images):
        raise DataError(
            f"images have shape {images.shape} and type {images.dtype}; "
            f"expected (N >= 1, {channels}, {_HEIGHT}, W >= {_MIN_WIDTH}) of uint8"
        )


def cpu_threads(threads: int | None) -> int | None:
    """Return the given number of threads, else ``OMP_NUM_THREADS`` (``torchrun`` and clusters set it), or ``None``."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected 1 or more, or none for the engine's own choice")
    variable = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(variable) if variable.isdecimal() and int(variable) > 0 else None)

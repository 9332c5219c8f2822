"""What an engine is: pixels in, log-probabilities out; and what all of them have in common.

Shape letters: N batch, C image channels, W width, T time steps, V classes with the blank.
"""

from __future__ import annotations

import os
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from crnn.config.model import ImageConfig
from crnn.errors import ConfigError, DataError

EngineName = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
Mode = Literal["throughput", "latency"]
"""``throughput``: each thread has images of its own. ``latency``: all threads share each operation."""

_MIN_WIDTH = 8
"""Pixels; a network of ours has its first time step from here on."""

Pixels = npt.NDArray[np.uint8]
LogProbs = npt.NDArray[np.float32]


class Engine(Protocol):
    """What computes log-probabilities."""

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return the log-probabilities of every class at every time step.

        Args:
            images: ``(N, C, 32, W)`` uint8, as ``crnn.image.load_resized`` gives each of them: not normalised.

        Returns:
            ``(N, T, V)`` float32, natural logarithms, normalised over V.
        """
        ...


def check_pixels(images: Pixels, channels: int) -> None:
    """Refuse an array that is none of pictures: engines differ in what they would make of it.

    Args:
        images: What was given.
        channels: Channels C of the network.

    Raises:
        DataError: The array has another shape or type, or is too narrow for one time step.
    """
    height = ImageConfig().image_height
    fits = images.ndim == 4 and images.shape[1:3] == (channels, height) and images.shape[3] >= _MIN_WIDTH
    if not fits or images.dtype != np.uint8 or not len(images):
        raise DataError(
            f"images have shape {images.shape} and type {images.dtype}; "
            f"expected (N >= 1, {channels}, {height}, W >= {_MIN_WIDTH}) of uint8"
        )


def cpu_threads(threads: int | None) -> int | None:
    """Return the number of threads given, else that of ``OMP_NUM_THREADS``, else ``None``.

    Engines without OpenMP keep to the variable, too: ``torchrun`` and many a cluster set it for several processes on
    one machine.

    Raises:
        ConfigError: The number is below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected 1 or more, or none for the engine's own choice")
    variable = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(variable) if variable.isdecimal() and int(variable) > 0 else None)


def in_parts(images: Pixels, count: int) -> list[Pixels]:
    """Return the images in at most ``count`` parts of nearly equal size, in order; views where memory allows it."""
    return np.array_split(images, min(count, len(images)))

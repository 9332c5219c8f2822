"""Detectors of text lines that other projects ship; a detector is any function from pixels to boxes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from crnn.engines.engine import cpu_threads
from crnn.engines.onnx_engine import import_onnxruntime
from crnn.errors import ConfigError, MissingExtraError
from crnn.parallel import usable_cores

Detector: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""From pixels ``(H, W, 3)``, RGB, to corners ``(N, 4, 2)`` of text lines: x and y of the top left, top right, bottom
right and bottom left as the image has them, also of a line that is turned."""

_MAX_RATIO = 16  # of the sides of an image

MAX_LINES = 1000
"""Largest number of boxes of an image."""


def load_detector(name: str, threads: int | None = None) -> Detector:
    """Load a detector by its name; ``threads`` are those on the CPU (default: as for ``crnn.load``).

    Raises:
        ConfigError: There is none of this name, or the installed package lacks its network.
        MissingExtraError: Its package is not installed.
    """
    if name != "rapidocr":
        raise ConfigError(f"detect is {name!r}; expected rapidocr, or a function")
    return RapidOcrDetector(threads)


class RapidOcrDetector:
    """Detector of RapidOCR (PP-OCR's DB network), whose weights are in its wheel; nothing is fetched.

    Reference: Liao et al. 2020, arXiv:1911.08947 (differentiable binarization).
    """

    def __init__(self, threads: int | None = None) -> None:
        found = importlib.util.find_spec("rapidocr")
        if found is None or found.origin is None:
            raise MissingExtraError("rapidocr", "detect", "finding the lines of a photo")
        folder = Path(found.origin).parent / "models"
        # By its path: a network that is only named would be downloaded where the wheel has another one.
        network = next(iter(sorted(folder.glob("*_det_*.onnx"))), None)
        if network is None:
            raise ConfigError(f"{folder}: has no *_det_*.onnx; expected rapidocr 3.10 or newer: install it anew")
        import_onnxruntime()  # without its telemetry
        from rapidocr import RapidOCR

        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Det.model_path": str(network),
                "Det.limit_side_len": 480,
                "Det.max_candidates": MAX_LINES + 1,
                "EngineConfig.onnxruntime.intra_op_num_threads": cpu_threads(threads) or usable_cores(),
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return the corners of lines, ``(N, 4, 2)``."""
        bgr = np.ascontiguousarray(pixels[:, :, ::-1])
        height, width = bgr.shape[:2]
        # RapidOCR fails on images that are much longer than wide: they get more of their last rows or columns.
        least = max(32, max(height, width) // _MAX_RATIO)
        if min(height, width) < least:
            more = ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0))
            bgr = np.pad(bgr, more, mode="edge")
        boxes = self._engine(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        if boxes is None:
            return np.zeros((0, 4, 2))
        return np.clip(np.asarray(boxes, dtype=np.float64), 0.0, (width, height))

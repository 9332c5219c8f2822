"""Random samples of a set on one sheet, to look at with one's own eyes: picture, label, size, fault, end of the key."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.contact_sheet import contact_sheet
from crnn.data.inspection import Inspection
from crnn.data.source import SampleStore
from crnn.errors import DataError
from crnn.image import load_image

__all__ = ["sample_sheet"]

_COLUMNS = 8
_CELL = (184, 118)


def sample_sheet(
    store: SampleStore,
    inspection: Inspection,
    count: int = 96,
    *,
    seed: int = 0,
    font_path: str | os.PathLike[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """A contact sheet of samples drawn by chance, in their order in the set; faulty ones are framed in red.

    Args:
        store: The set that was inspected.
        inspection: What was found in it.
        count: Samples to show; all, where the set has fewer.
        seed: The same seed draws the same samples.
        font_path: As for ``crnn.contact_sheet.contact_sheet``.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ConfigError: ``font_path`` is no face that can be read.
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1 sample")
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(store), min(count, len(store)), replace=False, shuffle=False))
    pictures: list[npt.NDArray[np.uint8] | None] = []
    captions = []
    marked = []
    for place, index in enumerate(map(int, drawn)):
        pixels = _pixels(store, index)
        size = "" if pixels is None else f"{pixels.shape[1]} x {pixels.shape[0]}"
        fault = inspection.fault(index)
        if fault:
            marked.append(place)
        lines = (_label(store, index), "  ".join(filter(None, (size, fault))), store.key(index).rpartition("/")[2])
        # A line break in a label is no line of the caption.
        captions.append("\n".join(line.replace("\n", "\\n") for line in lines))
        pictures.append(None if pixels is None else _reduced(pixels))
    return contact_sheet(pictures, captions, columns=_COLUMNS, cell=_CELL, marked=marked, font_path=font_path)


def _pixels(store: SampleStore, index: int) -> npt.NDArray[np.uint8] | None:
    try:
        return load_image(store.image_bytes(index), 3)
    except DataError:
        return None


def _label(store: SampleStore, index: int) -> str:
    try:
        return store.label(index)
    except DataError:
        return ""


def _reduced(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture, not much larger than it will be drawn: a hundred photographs must not be in memory at once."""
    height, width, _ = pixels.shape
    factor = min(width, height, max(width // (2 * _CELL[0]), height // (2 * _CELL[1])))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels

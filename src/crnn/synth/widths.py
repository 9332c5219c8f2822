"""Widths of rendered batches: classes of crops by width, and the class and width of each batch.

Under ``image.resize = "keep_ratio"`` all images of a batch have one width, and a batch of wide images has fewer. Both
are functions of the settings and the number of the batch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.config.model import ImageConfig

CLASS_BITS = 44  # A sample or word with the number ``n`` of width class ``c`` has the number ``(c << CLASS_BITS) + n``
_GROWTH = 1.22  # Width of one class over that of the class before
_TOLERANCE = 1.1  # Largest stretch of a crop to the width of its batch; beyond it crops get more margin
_CYCLE = 128  # Batches after which the numbers of batches of each class repeat
_ORDER = 5  # First word of the seeds of the order of batches, distinct from those of words and data


@dataclass(frozen=True, slots=True)
class WidthClass:
    """Crops of about one width."""

    low: int  # Narrowest image in pixels
    high: int  # Widest image in pixels
    # Least and largest width in pixels of its crops at the network's height
    crops: tuple[float, float]
    # Least and largest width over height of a crop as a share of its image's; see ``Geometry.draw``. ``None``: all
    # crops are stretched to the image
    fit: tuple[float, float] | None

    @property
    def middle(self) -> int:
        """Width in pixels of samples without a batch."""
        return max((self.low + self.high) // 8 * 4, self.low)


def width_classes(image: ImageConfig, width: int | None = None) -> tuple[WidthClass, ...]:
    """Return the classes of the settings: one under ``squash``, of ``width`` or ``image.image_width`` pixels."""
    if image.resize == "squash":
        width = width or image.image_width
        return (WidthClass(width, width, (0.0, np.inf), None),)
    # Readers stretch images narrower than min_width to it, so the first class takes all of them.
    edges = [image.min_width * 1.06]
    while edges[-1] * _GROWTH < image.max_width * 0.95:
        edges.append(edges[-1] * _GROWTH)
    classes = [WidthClass(image.min_width, image.min_width, (0.0, edges[0]), (0.0, _TOLERANCE))]
    for low, high in itertools.pairwise([*edges, max(image.max_width, edges[-1])]):
        last = high >= image.max_width
        pixels = (int(np.ceil(low / 4)) * 4, int(high / 4) * 4)
        if pixels[0] > pixels[1]:
            continue
        crops = (low, image.max_width * 1.15 if last else high)
        classes.append(WidthClass(*pixels, crops, (1.0 / _TOLERANCE, np.inf if last else _TOLERANCE)))
    return tuple(classes)


class BatchWidths:
    """Class, width and size of each batch.

    Args:
        classes: Classes of widths.
        shares: ``(classes,)`` share of each class among the crops.
        batch_size: Samples of the narrowest batches over all ranks; wider ones have about as many pixels.
        world_size: Ranks; every size is a multiple of it. Where it divides a small power of two, sizes are the same.
        seed: Of the order.

    Attributes:
        sizes: Samples of a batch of each class over all ranks.
        samples: Share of each class among all samples.
        mean_size: Samples per batch on average.
    """

    def __init__(
        self,
        classes: Sequence[WidthClass],
        shares: npt.NDArray[np.float64],
        batch_size: int,
        world_size: int,
        seed: int,
    ) -> None:
        self._classes, self._seed = classes, seed
        exact = [batch_size * classes[0].low / kind.high for kind in classes]
        # Sizes divisible among several numbers of ranks, so that all have the same batches.
        shared = math.gcd(batch_size, 1 << int(math.log2(max(exact[-1] / 2.0, 1.0))))
        unit = math.lcm(shared, world_size)
        self.sizes = [max(round(size / unit), 1) * unit for size in exact]
        weights = np.asarray(shares, dtype=np.float64) / np.array(self.sizes)
        wanted = weights / weights.sum() * _CYCLE
        counts = np.floor(wanted).astype(np.int64)
        # A class that has crops has batches, too.
        counts[(counts == 0) & (wanted > 0.0)] = 1
        while counts.sum() != _CYCLE:
            step = 1 if counts.sum() < _CYCLE else -1
            allowed = np.where(counts + step > 0, step * (wanted - counts), -np.inf)
            counts[int(allowed.argmax())] += step
        self._counts = counts
        self._members = np.repeat(np.arange(len(counts)), counts)
        self.mean_size = float((counts * np.array(self.sizes)).sum() / _CYCLE)
        self.samples = counts * np.array(self.sizes) / (counts * np.array(self.sizes)).sum()

    def of_batch(self, number: int) -> tuple[int, int, int]:
        """Return the class of a batch, its number among the batches of that class, and its width in pixels."""
        if len(self._classes) == 1:
            return 0, number, self._classes[0].low
        cycle, place = divmod(number, _CYCLE)
        order, widths = self._cycle(cycle)
        kind = int(order[place])
        before = cycle * int(self._counts[kind]) + int((order[:place] == kind).sum())
        found = self._classes[kind]
        return kind, before, found.low + 4 * int(widths[place] * ((found.high - found.low) // 4 + 1))

    @functools.lru_cache(maxsize=4)  # noqa: B019  - one per source, which lives as long as the process
    def _cycle(self, cycle: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        rng = np.random.default_rng([self._seed, _ORDER, cycle])
        return rng.permutation(self._members), rng.random(_CYCLE)

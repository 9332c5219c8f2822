"""Pictures brought to fewer pixels and back, batched, each to a size of its own.

Both go along one axis and then along the other, as sums of rows taken at each sample's places, each product and sum on
its own: so a picture comes out the same in any batch, bit by bit.

Shape letters: N pictures, C channels, H height, W width, K places.

Reference:
    Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing" (a = -0.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.upload import on_device

__all__ = ["enlarge", "shrink", "take_rows"]

Integers = npt.NDArray[np.int64]


def take_rows(pictures: Tensor, places: Tensor) -> Tensor:
    """Rows of pictures, each picture's at places of its own.

    Args:
        pictures: ``(N, C, H, W)``.
        places: ``(N, K)`` int64; below 0 is the first row, above H - 1 the last.

    Returns:
        ``(N, C, K, W)``, contiguous.
    """
    count, channels, height, width = pictures.shape
    starts = torch.arange(count * channels, device=pictures.device).mul_(height).view(count, channels, 1)
    index = starts + places.clamp(0, height - 1)[:, None]
    return pictures.reshape(-1, width).index_select(0, index.flatten()).view(count, channels, -1, width)


def shrink(pictures: Tensor, sizes: Integers) -> Tensor:
    """Pictures sampled at fewer places, as a sensor with that many pixels does.

    No filter is applied: detail finer than the new pixels becomes false detail unless it was blurred before.

    Args:
        pictures: ``(N, C, H, W)`` float32.
        sizes: ``(N, 2)`` rows and columns to sample, 1 to H and 1 to W.

    Returns:
        ``(N, C, H, W)`` float32: the upper left ``sizes`` are the samples, what follows repeats the last of them.
    """
    for axis in (0, 1):
        size = on_device(sizes[:, axis], pictures.device)[:, None]  # (N, 1)
        length = pictures.shape[2]
        steps = length / size.float()
        index = torch.arange(length, device=pictures.device).minimum(size - 1)  # (N, H)
        positions = (index.float().add_(0.5).mul_(steps)).sub_(0.5)
        low = positions.floor()
        after = positions.sub_(low)
        pictures = _sum_of_rows(pictures, low.long(), [1.0 - after, after])
    return pictures


def enlarge(pictures: Tensor, sizes: Integers, kind: Integers) -> Tensor:
    """The reverse of ``shrink``: the upper left part of each picture, enlarged to the whole of it.

    Args:
        pictures: ``(N, C, H, W)`` float32.
        sizes: ``(N, 2)`` rows and columns of the part, 1 to H and 1 to W.
        kind: ``(N,)`` 0 for bicubic, 1 for bilinear, 2 for nearest.

    Returns:
        ``(N, C, H, W)`` float32; bicubic overshoots at edges.
    """
    cubic = on_device(kind == 0, pictures.device)[:, None]
    nearest = on_device(kind == 2, pictures.device)[:, None]
    for axis in (0, 1):
        size = on_device(sizes[:, axis], pictures.device)[:, None]  # (N, 1)
        length = pictures.shape[2]
        steps = size.float() / length
        index = torch.arange(length, device=pictures.device)
        positions = (index.float().add_(0.5).mul(steps)).sub_(0.5)  # (N, H)
        low = positions.floor()
        t = positions.sub_(low)
        t = torch.where(nearest, t.round(), t)
        outer, inner = _cubic_weights(t)
        other_inner, other_outer = _cubic_weights(1.0 - t)[::-1]
        zero = torch.zeros_like(t)
        weights = (
            torch.where(cubic, outer, zero),
            torch.where(cubic, inner, 1.0 - t),
            torch.where(cubic, other_inner, t),
            torch.where(cubic, other_outer, zero),
        )
        pictures = _sum_of_rows(pictures, low.long().sub_(1), weights, size - 1)
    return pictures


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the pixels ``1 + t`` and ``t`` away."""
    rest = 1.0 - t
    return rest * rest * t * -0.5, 1.0 + t * t * (1.5 * t - 2.5)


def _sum_of_rows(pictures: Tensor, first: Tensor, weights: Sequence[Tensor], last: Tensor | None = None) -> Tensor:
    """Weighted sums of neighbouring rows, turned over: ``(N, C, W, K)``.

    Row k is the sum of the rows ``first[k]``, ``first[k] + 1``, ..., each with its weight; ``last`` is repeated.
    """
    count, channels, _, width = pictures.shape
    places = first[:, None] + torch.arange(len(weights), device=first.device)[:, None]  # (N, taps, K)
    if last is not None:
        places = places.minimum(last[:, None])
    # Products and sums one by one: a fused step rounds differently in the odd pixels at the end of a tensor.
    parts = take_rows(pictures, places.flatten(1)).view(count, channels, len(weights), -1, width)
    parts *= torch.stack(tuple(weights), dim=1)[:, None, :, :, None]
    total = parts[:, :, 0]
    for tap in range(1, len(weights)):
        total += parts[:, :, tap]
    return total.transpose(2, 3)

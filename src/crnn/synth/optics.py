"""What a lens does to a picture, batched: out of focus, or moved while it was taken.

Every sample has its own blur. Kernels are whole numbers that add up to a power of 2, and pixels are rounded to whole
levels before, so that the sums are exact in float32: a picture comes out the same in any batch, whatever kernel of a
library does the convolution, also in TF32.

Shape letters: N pictures, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crnn.upload import on_device

__all__ = ["MAX_SIGMA", "blur"]

Floats = npt.NDArray[np.float64]

RADII = (3, 7)
"""Of the kernels. A blur takes the smallest that holds it."""

REACH = 2.5
"""Standard deviations up to which a kernel holds a Gaussian: all but 1 % of it along an axis."""

MAX_SIGMA = RADII[-1] / REACH
"""Pixels."""

LEVELS = 1023.0
"""Steps between black and white in a convolution. Up to 2 either way, levels are exact in TF32."""

UNIT = 4096.0
"""What a kernel's whole numbers add up to: 2046 times that is below 2**24."""

LANES = 16
"""Groups that a convolution of the CPU does at a time."""

POINTS = 7
"""On the path of a motion."""

JOIN = 0.5
"""Spread of each point on a path, in steps between two of them: enough that they join to a line."""


def blur(pictures: Tensor, sigma: Floats, motion: Floats) -> Tensor:
    """Pictures blurred by Gaussians along both axes, smeared along a straight path, or both.

    Args:
        pictures: ``(N, C, H, W)`` float32 in about [0, 1]; more than [-2, 2] is cut off. Beyond the edge they go on as
            at the edge.
        sigma: ``(N, 2)`` standard deviations in pixels, down and across, 0 to ``MAX_SIGMA``; larger ones are cut off.
        motion: ``(N, 2)`` the path in pixels, down and across; what a kernel does not hold is cut off.

    Returns:
        ``(N, C, H, W)`` float32, multiples of 1/4096 of a level.
    """
    channels, height, width = pictures.shape[1:]
    levels = pictures.mul(LEVELS).round_().clamp_(-2.0 * LEVELS, 2.0 * LEVELS)
    blurred = torch.empty_like(levels)
    reach = (REACH * np.minimum(sigma, MAX_SIGMA) + np.abs(motion) / 2.0).max(axis=1, initial=0.0)
    sizes = np.minimum(np.searchsorted(RADII, reach - 0.25), len(RADII) - 1)
    for size, radius in enumerate(RADII):
        chosen = np.flatnonzero(sizes == size)
        if not len(chosen):
            continue
        # Full lanes, filled up with the first sample: oneDNN compiles a kernel for every number of groups that it
        # meets, in the time of some hundred pictures.
        filled = np.append(chosen, np.repeat(chosen[:1], -len(chosen) % LANES))
        kernels = on_device(_kernels(sigma[filled], motion[filled], radius), pictures.device)
        rows = on_device(filled, pictures.device)
        padded = nn.functional.pad(levels.index_select(0, rows), (radius,) * 4, mode="replicate")
        # One group per channel of a sample: each has its own kernel.
        kernels = kernels[:, None].expand(-1, channels, -1, -1).reshape(-1, 1, *kernels.shape[1:])
        found = nn.functional.conv2d(padded.view(1, -1, *padded.shape[2:]), kernels, groups=len(filled) * channels)
        found = found.view(-1, channels, height, width)[: len(chosen)]
        blurred.index_copy_(0, rows[: len(chosen)], found)
    return blurred.div_(UNIT).div_(LEVELS)


def _kernels(sigma: Floats, motion: Floats, radius: int) -> npt.NDArray[np.float32]:
    """``(n, 2 radius + 1, 2 radius + 1)`` whole numbers that add up to ``UNIT``."""
    places = np.arange(-radius, radius + 1, dtype=np.float64)
    # Up to 0.2 a Gaussian at whole pixels is a single one.
    spread = np.clip(sigma, 0.2, MAX_SIGMA)
    moves = motion.any(axis=1)
    kernels = _gaussians(places, np.zeros_like(sigma), spread)
    if moves.any():
        step = np.abs(motion[moves]) / (POINTS - 1)
        joined = np.sqrt(spread[moves] ** 2 + (JOIN * step) ** 2)
        path = [_gaussians(places, motion[moves] * at, joined) for at in np.linspace(-0.5, 0.5, POINTS)]
        kernels[moves] = np.sum(path, axis=0)
    kernels *= UNIT / kernels.sum(axis=(1, 2), keepdims=True)
    kernels = np.rint(kernels)
    kernels[:, radius, radius] += UNIT - kernels.sum(axis=(1, 2))
    return kernels.astype(np.float32)


def _gaussians(places: Floats, centre: Floats, sigma: Floats) -> Floats:
    down, across = (np.exp(-0.5 * ((places - centre[:, i : i + 1]) / sigma[:, i : i + 1]) ** 2) for i in (0, 1))
    return np.asarray(down[:, :, None] * across[:, None, :])

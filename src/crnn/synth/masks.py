"""Coverage masks of words on the device: lookup, dilation, averaging, shifts.

Shape letters: n words, Hc and Wc the size of a mask, H and W that of an image.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from crnn.distributed import on_device
from crnn.synth.filters import Floats, Integers
from crnn.synth.rasterizer import MASK_MARGIN


def lookup(masks: Tensor, u: Tensor, v: Tensor, ratios: Floats, heights: Floats, widths: Floats) -> Tensor:
    """Return the coverage in [0, 1] by words, ``(n, H, W)``, at (u, v), across and down in heights of the words.

    ``masks`` (n, Hc, Wc) are uint8, ``ratios`` (n,) their width over height, ``heights`` and ``widths`` (n,) their size
    in pixels of the image.
    """
    rows, columns = masks.shape[-2:]
    x = u * _ends(columns, ratios, u.device)[:, None, None]
    y = v * (2.0 * (1.0 - 2.0 * MASK_MARGIN / rows))
    masks = masks.to(torch.float32).mul_(1.0 / 255.0)[:, None]
    # A lookup reads four neighboring pixels of a cell. Where a step is longer, the cell is smoothed first.
    for shrinking, axis in ((rows / heights, 2), (columns / widths, 3)):
        for step in (1.8, 3.0):
            at = on_device(np.flatnonzero(shrinking > step), u.device)
            if len(at):
                masks.index_copy_(0, at, averaged(masks.index_select(0, at), axis))
    return grid_sample(masks, torch.stack([x, y], dim=-1), padding_mode="zeros", align_corners=False)[:, 0]


def letter_gap(masks: Tensor, ratios: Floats, places: Floats) -> Tensor:
    """Return u of the column with least ink, ``(n, 1, 1)``, within an eighth of the mask around ``places``."""
    columns = masks.shape[-1]
    middles = (torch.arange(columns, device=masks.device) + 0.5) / columns
    near = on_device(places.astype(np.float32), masks.device)[:, None]
    # Whole numbers: sums of ink do not depend on their order, so that an image is the same in any batch.
    ink = masks.sum(dim=1, dtype=torch.int64)
    column = torch.where((middles - near).abs() <= 0.125, ink, torch.iinfo(torch.int64).max).argmin(dim=1)
    return ((middles[column] * 2.0 - 1.0) / _ends(columns, ratios, masks.device))[:, None, None]


def dilated(coverage: Tensor, widths: Tensor, most: float) -> Tensor:
    """Grow coverage by ``widths`` (n, 1, 1) pixels, at most ``most``: by octagons, with steps in between."""
    grown = coverage
    for done in range(math.ceil(most)):
        across, down = _largest(grown, 2), _largest(grown, 1)
        larger = _largest(across, 1) if done % 2 else torch.maximum(across, down)
        grown = grown + (widths - done).clamp(0.0, 1.0) * (larger - grown)
    return grown


def _largest(fields: Tensor, axis: int) -> Tensor:
    """Return the largest of three neighbors along an axis."""
    before, after = (fields.narrow(axis, start, fields.shape[axis] - 1) for start in (0, 1))
    pairs = torch.maximum(before, after)
    result = fields.clone()
    result.narrow(axis, 0, pairs.shape[axis]).copy_(pairs)
    ahead = result.narrow(axis, 1, pairs.shape[axis])
    torch.maximum(ahead, pairs, out=ahead)
    return result


def averaged(fields: Tensor, axis: int) -> Tensor:
    """Return averages of three neighbors along an axis, with 0 beyond the ends."""
    size = fields.shape[axis] - 1
    result = fields * (1.0 / 3.0)
    thirds = result.clone()
    result.narrow(axis, 1, size).add_(thirds.narrow(axis, 0, size))
    result.narrow(axis, 0, size).add_(thirds.narrow(axis, 1, size))
    return result


def shifted(coverage: Tensor, right: Integers, down: Integers) -> Tensor:
    """Move each image by whole pixels; vacated ones become empty."""
    count, height, width = coverage.shape
    y = torch.arange(height, device=coverage.device)[None, :, None] - on_device(down, coverage.device)[:, None, None]
    x = torch.arange(width, device=coverage.device)[None, None, :] - on_device(right, coverage.device)[:, None, None]
    inside = ((y >= 0) & (y < height)) & ((x >= 0) & (x < width))
    places = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    return coverage.flatten(1).gather(1, places).view(count, height, width) * inside


def _ends(columns: int, ratios: Floats, device: torch.device) -> Tensor:
    """Return the factor ``(n,)`` that takes u to -1 and 1 at the ends of a mask with its margins."""
    ends = np.asarray((1.0 - 2.0 * MASK_MARGIN / columns) / (ratios / 2), dtype=np.float32)
    return on_device(ends, device)

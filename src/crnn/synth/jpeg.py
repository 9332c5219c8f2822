"""Effect of JPEG compression on pixels, batched, at any quality and block size.

DCT coefficients are rounded, in integers with sums exact in float32 and TF32. Blocks of crops stored in finer pixels
are 4 or 2 pixels, with the low part of the table. Reference: ITU-T T.81 (1992), A.3.3 (DCT), Annex K (tables);
libjpeg: jcparam.c (quality), scaled decoding; JFIF 1.02 (YCbCr).
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.distributed import on_device
from crnn.synth.filters import Floats, Integers, take_rows

BLOCK = 8
SCALE = 8192.0  # Makes the transform whole numbers below 2048, exact in TF32, with sums below 2**24

LUMINANCE = (  # T.81, table K.1
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (  # T.81, table K.2
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def jpeg(images: Tensor, quality: Integers, shift: Integers, finer: Integers) -> Tensor:
    """Return images ``(N, C, H, W)`` in [0, 1], grey or RGB, after baseline JPEG without chroma subsampling.

    ``quality`` (N,) is libjpeg's, 1 (worst) to 100; ``shift`` (N, 2) are rows and columns in [0, 8) by which the grid
    of blocks begins before the image; ``finer`` (N, 2) halves the block per axis, 0 to 2 times: 8, 4 or 2 pixels.
    """
    # Images of one block shape lie together, so that one product transforms them.
    order = np.lexsort((finer[:, 1], finer[:, 0]))
    quality, shift, finer = quality[order], shift[order], finer[order]
    device = images.device
    rows = on_device(order, device)
    levels = images.index_select(0, rows).clamp_(0.0, 1.0).mul_(255.0).round_()
    if levels.shape[1] == 3:
        levels = _luminance_first(levels)
    levels -= 128.0
    tops, lefts = (on_device(shift[:, axis], device)[:, None] for axis in (0, 1))
    blocks = _blocks(levels, tops, lefts)
    flat = blocks.view(*levels.shape[:2], -1, BLOCK * BLOCK)
    steps = on_device(_steps(quality, finer, levels.shape[1]), device)[:, :, None]
    shapes, starts = np.unique(finer, axis=0, return_index=True)
    for (high, wide), start, end in zip(shapes.tolist(), starts, [*starts[1:], len(finer)], strict=True):
        transform, step = _transform(high, wide, device), steps[start:end]
        coefficients = flat[start:end].matmul(transform).div_(step * SCALE).round_().mul_(step / SCALE)
        flat[start:end] = coefficients.matmul(transform.T)
    levels = _image(blocks, tops, lefts, *images.shape[2:])
    levels += 128.0
    levels = _red_first(levels) if levels.shape[1] == 3 else levels.round_()
    return torch.empty_like(levels).index_copy_(0, rows, levels.clamp_(0.0, 255.0).div_(255.0))


def _blocks(levels: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Cut into blocks, ``(N, C, across, down, 8, 8)``, columns before rows; edges are replicated."""
    count, channels, height, width = levels.shape
    high, wide = ((size + 2 * BLOCK - 2) // BLOCK for size in (height, width))
    inside = torch.arange(max(high, wide) * BLOCK, device=levels.device)
    levels = take_rows(levels, inside[: high * BLOCK] - tops).transpose(2, 3)
    levels = take_rows(levels, inside[: wide * BLOCK] - lefts)
    return levels.view(count, channels, wide, BLOCK, high, BLOCK).transpose(3, 4).contiguous()


def _image(blocks: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """Invert ``_blocks``."""
    count, channels, wide, high = blocks.shape[:4]
    levels = blocks.transpose(3, 4).reshape(count, channels, wide * BLOCK, high * BLOCK)
    inside = torch.arange(max(height, width), device=blocks.device)
    levels = take_rows(levels, inside[:width] + lefts).transpose(2, 3)
    return take_rows(levels, inside[:height] + tops)


def _steps(quality: Integers, finer: Integers, channels: int) -> npt.NDArray[np.float32]:
    """Return the rounding steps of the coefficients, ``(N, C, 64)``, columns before rows."""
    percent = np.where(quality < 50, 5000 // np.maximum(quality, 1), 200 - 2 * quality)[:, None, None]
    inside = np.arange(BLOCK)
    rows = (inside % (BLOCK >> finer[:, :1]))[:, None, :]
    columns = (inside % (BLOCK >> finer[:, 1:]))[:, :, None]
    # An orthonormal transform of half as many pixels has coefficients smaller by the root of 2.
    smaller = 2.0 ** (finer.sum(axis=1) / 2.0)[:, None, None]
    tables = []
    for table in (LUMINANCE, CHROMINANCE, CHROMINANCE)[:channels]:
        steps = np.clip((np.array(table)[rows, columns] * percent + 50) // 100, 1, 255)
        tables.append(np.maximum(np.rint(steps / smaller), 1.0).reshape(-1, BLOCK * BLOCK))
    return np.stack(tables, axis=1).astype(np.float32)


@cache
def _transform(finer_rows: int, finer_columns: int, device: torch.device) -> Tensor:
    """Return the transform ``(64, 64)`` from 8 by 8 pixels to coefficients, times ``SCALE``, in whole numbers."""
    down, across = _cosines(BLOCK >> finer_rows), _cosines(BLOCK >> finer_columns)
    return torch.from_numpy(np.rint(SCALE * np.kron(across, down)).T.astype(np.float32).copy()).to(device)


def _cosines(size: int) -> Floats:
    """Return the orthonormal DCT of ``size`` points, repeated along the diagonal: ``(8, 8)``, a row per frequency."""
    k = np.arange(size)
    matrix = np.cos(np.pi * np.outer(k, 2 * k + 1) / (2 * size)) * np.sqrt(2.0 / size)
    matrix[0] /= np.sqrt(2.0)
    return np.kron(np.eye(BLOCK // size), matrix)


def _luminance_first(levels: Tensor) -> Tensor:
    red, green, blue = levels.unbind(1)
    luminance = red * 0.299 + green * 0.587 + blue * 0.114
    channels = (luminance, (blue - luminance) * (0.5 / 0.886) + 128.0, (red - luminance) * (0.5 / 0.701) + 128.0)
    return torch.stack(channels, dim=1).round_()


def _red_first(levels: Tensor) -> Tensor:
    luminance, blueness, redness = levels.round_().clamp_(0.0, 255.0).unbind(1)
    blueness, redness = blueness - 128.0, redness - 128.0
    green = luminance - blueness * (0.114 * 1.772 / 0.587) - redness * (0.299 * 1.402 / 0.587)
    return torch.stack((luminance + redness * 1.402, green, luminance + blueness * 1.772), dim=1).round_()

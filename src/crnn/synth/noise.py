"""Noise that is a function of a seed and a position: pixel noise, and smooth fields of low frequency.

Counter-based: number k of seed s is an integer hash of (s, k). Nothing is consumed in order, so a sample has the same
noise alone and in any batch, and all is integers up to one exact conversion, so that it has the same noise on every
device. Float arithmetic here is single multiplications and additions only, which round alike everywhere; fused ones
(``lerp``, ``addcmul``) do not, and on the CPU not even in the vectorised part and the rest of one tensor.

The three functions draw from different counters: for one seed they are independent of each other.

Shape letters: N samples, H height, W width.

Reference:
    Wellons 2018, "Prospecting for Hash Functions" (the 32-bit function "lowbias32", public domain); Salmon et al. 2011,
    "Parallel Random Numbers: As Easy as 1, 2, 3" (numbers from counters); Perlin 1985, "An Image Synthesizer" (noise
    from a lattice, with the cubic 3t^2 - 2t^3 between its points).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import Tensor

from crnn.synth.blocks import row_blocks

__all__ = ["hash_normal", "hash_uniform", "smooth_noise"]

_MASK = 0xFFFFFFFF
_FACTORS = (0x7FEB352D, 0x846CA68B)
_SIGNED_FACTORS = (0x7FEB352D, 0x846CA68B - (1 << 32))

_UNIFORM, _NORMAL, _SMOOTH = 0, 1 << 30, 1 << 31  # where each function's counter begins

_BYTES_PER_WORD = 4


def _normal_quantiles() -> Tensor:
    normal = NormalDist()
    steps = torch.tensor([normal.inv_cdf((step + 0.5) / 256) for step in range(256)], dtype=torch.float64)
    # The middles of the steps spread a little less than the distribution they stand for.
    return (steps / steps.square().mean().sqrt()).float()


_QUANTILES = _normal_quantiles()


@functools.cache
def _quantiles(device: torch.device) -> Tensor:
    return _QUANTILES.to(device)  # once: copying waits for the device


def hash_uniform(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers, one per seed and position.

    Args:
        seeds: ``(N,)`` int64: one per sample, e.g. ``Draws.seeds``; its device is that of the result.
        shape: Of each sample; at most 2**30 numbers.

    Returns:
        ``(N, *shape)`` float32 in [0, 1), multiples of 2**-24.
    """
    return _uniform(seeds, math.prod(shape), _UNIFORM).view(len(seeds), *shape)


def hash_normal(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers of mean 0 and variance 1, one per seed and position.

    Each byte of a hash picks one of 256 quantiles, so the values are discrete and end at 2.90 deviations; the
    distribution function is never further than 0.002 from the normal one, the kurtosis is 2.92 instead of 3.

    Args:
        seeds: ``(N,)`` int64: one per sample; its device is that of the result.
        shape: Of each sample; at most 2**32 numbers.

    Returns:
        ``(N, *shape)`` float32.
    """
    count = math.prod(shape)
    quantiles = _quantiles(seeds.device)
    result = torch.empty((len(seeds), count), device=seeds.device)
    for rows, words in _words(seeds, -(-count // _BYTES_PER_WORD), _NORMAL):
        places = words.view(torch.uint8)[:, :count].reshape(-1).int()
        torch.index_select(quantiles, 0, places, out=result[rows].view(-1))
    return result.view(len(seeds), *shape)


def smooth_noise(seeds: Tensor, cells: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Smooth fields: random numbers at the corners of a grid, blended between them.

    Args:
        seeds: ``(N,)`` int64: one per sample; its device is that of the result.
        cells: Rows and columns of the grid that covers the field, each at least 1; 1 is one slope from end to end.
        shape: Height and width of the field in pixels.

    Returns:
        ``(N, H, W)`` float32 in [-1, 1]. The deviation is about 0.4, as blending draws towards the middle.
    """
    rows, columns = cells
    corners = _uniform(seeds, (rows + 1) * (columns + 1), _SMOOTH).mul_(2.0).sub_(1.0)
    field = corners.view(len(seeds), rows + 1, columns + 1)
    field = _blend(field, columns, shape[1], 2)  # columns first, while there are few rows
    result = torch.empty((len(seeds), *shape), device=seeds.device)
    for block in row_blocks(len(seeds), math.prod(shape), seeds.device):
        result[block] = _blend(field[block], rows, shape[0], 1)
    return result


def _blend(field: Tensor, cells: int, size: int, axis: int) -> Tensor:
    """``field`` stretched along an axis from ``cells + 1`` corners to ``size`` pixels."""
    position = torch.arange(size, device=field.device).float().add_(0.5).mul_(cells / size)
    before = position.floor().clamp_(max=cells - 1)  # the last position may round up to the end of its cell
    fraction = position.sub_(before)
    weight = fraction * fraction * (3.0 - 2.0 * fraction)
    place = before.long()
    start = field.index_select(axis, place)
    change = field.diff(dim=axis).index_select(axis, place)
    return change.mul_(weight if axis == 2 else weight[:, None]).add_(start)


def _uniform(seeds: Tensor, count: int, start: int) -> Tensor:
    """``(N, count)`` float32 in [0, 1): the highest 24 bits of the words, which float32 holds exactly."""
    result = torch.empty((len(seeds), count), device=seeds.device)
    for rows, words in _words(seeds, count, start):
        torch.mul(words.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF), 2.0**-24, out=result[rows])
    return result


def _words(seeds: Tensor, count: int, start: int) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time of ``(N, count)`` int32, all bits random: hashes of each seed and the numbers from ``start``.

    The words may be overwritten, and are when the next rows come.
    """
    keys = _mixed(_mixed(seeds & _MASK) ^ ((seeds >> 32) & _MASK)).int()[:, None]
    counters = _mixed(torch.arange(start, start + count, device=seeds.device)).int()
    blocks = row_blocks(len(seeds), count, seeds.device)
    memory = torch.empty((2, blocks[0].stop, count), dtype=torch.int32, device=seeds.device)
    for rows in blocks:
        words, shifted = memory[:, : rows.stop - rows.start]
        torch.add(keys[rows], counters, out=words)
        # As `_mixed`, in int32, for speed: products wrap around, and shifts, which copy the sign, are masked.
        torch.bitwise_right_shift(words, 16, out=shifted)
        words.bitwise_xor_(shifted.bitwise_and_(0xFFFF)).mul_(_SIGNED_FACTORS[0])
        torch.bitwise_right_shift(words, 15, out=shifted)
        words.bitwise_xor_(shifted.bitwise_and_(0x1FFFF)).mul_(_SIGNED_FACTORS[1])
        torch.bitwise_right_shift(words, 16, out=shifted)
        yield rows, words.bitwise_xor_(shifted.bitwise_and_(0xFFFF))


def _mixed(words: Tensor) -> Tensor:
    """lowbias32 of int64 words in [0, 2**32), plus the golden ratio, so that 0 does not stay 0."""
    words = (words + 0x9E3779B9) & _MASK
    words = ((words ^ (words >> 16)) * _FACTORS[0]) & _MASK
    words = ((words ^ (words >> 15)) * _FACTORS[1]) & _MASK
    return words ^ (words >> 16)

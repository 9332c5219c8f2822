"""Effects on batches of images with parameters per sample: chosen samples, blur, growth, resampling, hashed noise.

Results are the same in any batch and on any device: blur kernels are whole numbers that add up to a power of 2, and
pixels are rounded to whole levels first, so that sums are exact in float32 and TF32.
"""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from crnn.distributed import on_device
from crnn.synth.rng import SampleRandom

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Part:
    """Samples of a batch that have an effect, ``chosen`` (N,), and their draws; there may be none.

    Numbers of samples get as many ``axes`` as the images have, the batch among them, to be multiplied with pixels.
    """

    def __init__(self, random: SampleRandom, chosen: Flags, device: torch.device, axes: int = 3) -> None:
        self.rows, self._axes = np.flatnonzero(chosen), axes
        self.random, self.index = random.rows(self.rows), on_device(self.rows, device)

    def take(self, values: Tensor) -> Tensor:
        """Return the rows of these samples."""
        return values.index_select(0, self.index)

    def tensor(self, values: npt.NDArray[Any]) -> Tensor:
        """Return values ``(n, ...)`` as ``(n, ..., 1, 1)``, numbers as float32."""
        values = values.reshape(values.shape + (1,) * (self._axes - values.ndim))
        return on_device(values if values.dtype == np.bool_ else values.astype(np.float32), self.index.device)

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw ``SampleRandom.uniform`` as a tensor."""
        return self.tensor(self.random.uniform(name, low, high))

    def chance(self, name: str, share: float) -> Tensor:
        """Draw ``SampleRandom.chance`` as a tensor."""
        return self.tensor(self.random.chance(name, share))

    def seeds(self, name: str) -> Tensor:
        """Draw ``SampleRandom.seeds`` as a tensor."""
        return on_device(self.random.seeds(name), self.index.device)


RADII = (3, 7)  # Of the kernels; a blur takes the smallest sufficient one
REACH = 2.5  # Standard deviations up to which a kernel holds a Gaussian: all but 1 % of it along an axis
MAX_SIGMA = RADII[-1] / REACH  # Pixels
LEVELS = 1023.0  # Steps between black and white in a convolution. Up to 2 either way, levels are exact in TF32
UNIT = 4096.0  # Sum of a kernel's whole numbers: 2046 times that is below 2**24
LANES = 16  # Groups that a convolution of the CPU does at a time
POINTS = 7  # On the path of a motion
JOIN = 0.5  # Spread of each point on a path, in steps between two of them: enough that they join to a line


def blur(images: Tensor, sigma: Floats, motion: Floats) -> Tensor:
    """Blur images ``(N, C, H, W)`` with Gaussians along both axes, along a straight path, or both.

    ``sigma`` (N, 2) are standard deviations and ``motion`` (N, 2) the path, in pixels down and across, clipped to
    ``MAX_SIGMA`` and to the kernel. Images are clipped to [-2, 2]; edges are replicated.
    """
    channels = images.shape[1]
    levels = images.mul(LEVELS).round_().clamp_(-2.0 * LEVELS, 2.0 * LEVELS)
    blurred = torch.empty_like(levels)
    reach = (REACH * np.minimum(sigma, MAX_SIGMA) + np.abs(motion) / 2.0).max(axis=1, initial=0.0)
    sizes = np.minimum(np.searchsorted(RADII, reach - 0.25), len(RADII) - 1)
    for size, radius in enumerate(RADII):
        chosen = np.flatnonzero(sizes == size)
        if not len(chosen):
            continue
        # Full lanes, filled up with the first sample: oneDNN compiles a kernel for every new number of groups, in the
        # time of some hundred images.
        filled = np.append(chosen, np.repeat(chosen[:1], -len(chosen) % LANES))
        kernels = on_device(_kernels(sigma[filled], motion[filled], radius), images.device)
        rows = on_device(filled, images.device)
        padded = pad(levels.index_select(0, rows), (radius,) * 4, mode="replicate")
        # One group, and so one kernel, per channel of a sample.
        kernels = kernels[:, None].expand(-1, channels, -1, -1).reshape(-1, 1, *kernels.shape[1:])
        found = conv2d(padded.view(1, -1, *padded.shape[2:]), kernels, groups=len(filled) * channels)
        blurred.index_copy_(0, rows[: len(chosen)], found.view(-1, *images.shape[1:])[: len(chosen)])
    return blurred.div_(UNIT).div_(LEVELS)


def _kernels(sigma: Floats, motion: Floats, radius: int) -> npt.NDArray[np.float32]:
    """Return ``(n, 2 radius + 1, 2 radius + 1)`` whole numbers that add up to ``UNIT``."""
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


def dilated(coverage: Tensor, widths: Tensor, most: float) -> Tensor:
    """Grow coverage ``(n, H, W)`` by ``widths`` (n, 1, 1) pixels, at most ``most``: octagons, with steps in between."""
    grown, widths = coverage[:, None], widths[:, None]
    for done in range(math.ceil(most)):
        if done % 2:
            larger = max_pool2d(grown, 3, stride=1, padding=1)
        else:
            across, down = max_pool2d(grown, (1, 3), 1, (0, 1)), max_pool2d(grown, (3, 1), 1, (1, 0))
            larger = torch.maximum(across, down)
        grown = grown + (widths - done).clamp(0.0, 1.0) * (larger - grown)
    return grown[:, 0]


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


def take_rows(images: Tensor, places: Tensor) -> Tensor:
    """Gather rows ``places`` (N, K) of each image, clamped to its edges: ``(N, C, K, W)``, contiguous."""
    count, channels, height, width = images.shape
    starts = torch.arange(count * channels, device=images.device).mul_(height).view(count, channels, 1)
    index = starts + places.clamp(0, height - 1)[:, None]
    return images.reshape(-1, width).index_select(0, index.flatten()).view(count, channels, places.shape[1], width)


def shrink(images: Tensor, sizes: Integers) -> Tensor:
    """Sample ``sizes`` (N, 2) rows and columns of images (N, C, H, W), bilinear and unfiltered, as a sensor does.

    The result keeps its shape, with the samples in its upper left; behind them the last one is repeated.
    """
    for axis in (0, 1):
        size = on_device(sizes[:, axis], images.device)[:, None]  # (N, 1)
        length = images.shape[2]
        index = torch.arange(length, device=images.device).minimum(size - 1)  # (N, H)
        low, after = _split(index, length / size.float())
        images = _sum_of_rows(images, low, [1.0 - after, after])
    return images


def enlarge(images: Tensor, sizes: Integers, kind: Integers) -> Tensor:
    """Invert ``shrink``: enlarge the upper left ``sizes`` (N, 2) of each image to the whole.

    ``kind`` (N,) is 0 for bicubic, which overshoots at edges, 1 for bilinear, 2 for nearest.
    """
    cubic = on_device(kind == 0, images.device)[:, None]
    nearest = on_device(kind == 2, images.device)[:, None]
    for axis in (0, 1):
        size = on_device(sizes[:, axis], images.device)[:, None]  # (N, 1)
        length = images.shape[2]
        low, t = _split(torch.arange(length, device=images.device), size.float() / length)
        t = torch.where(nearest, t.round(), t)
        outer, inner = _cubic_weights(t)
        other_outer, other_inner = _cubic_weights(1.0 - t)
        of_cubic, of_linear = (outer, inner, other_inner, other_outer), (torch.zeros_like(t), 1.0 - t, t)
        weights = [torch.where(cubic, *pair) for pair in zip(of_cubic, (*of_linear, of_linear[0]), strict=True)]
        images = _sum_of_rows(images, low - 1, weights, size - 1)
    return images


def _split(index: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whole and the fractional part of where pixels ``index`` of another size lie."""
    positions = index.float().add(0.5).mul(step).sub_(0.5)  # (N, H)
    low = positions.floor()
    return low.long(), positions.sub_(low)


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of pixels at distances ``1 + t`` and ``t``."""
    rest = 1.0 - t
    return rest * rest * t * -0.5, 1.0 + t * t * (1.5 * t - 2.5)


def _sum_of_rows(images: Tensor, first: Tensor, weights: Sequence[Tensor], last: Tensor | None = None) -> Tensor:
    """Return weighted sums of rows from ``first[k]``, transposed: ``(N, C, W, K)``; ``last`` is repeated."""
    count, channels, _, width = images.shape
    places = first[:, None] + torch.arange(len(weights), device=first.device)[:, None]  # (N, taps, K)
    if last is not None:
        places = places.minimum(last[:, None])
    # Products and sums one by one: a fused step rounds differently in the odd pixels at the end of a tensor.
    parts = take_rows(images, places.flatten(1)).view(count, channels, *places.shape[1:], width)
    parts *= torch.stack(tuple(weights), dim=1)[:, None, :, :, None]
    total = parts[:, :, 0]
    for tap in range(1, len(weights)):
        total += parts[:, :, tap]
    return total.transpose(2, 3)


_UNIFORM, _NORMAL, _SMOOTH = 0, 1 << 30, 1 << 31  # where each function's counter begins
_GOLDEN = 0x9E3779B9 - (1 << 32)  # Golden ratio, added so that 0 does not stay 0


@functools.cache  # per device, as copying waits for it
def _quantiles(device: torch.device) -> Tensor:
    normal = NormalDist()
    steps = torch.tensor([normal.inv_cdf((step + 0.5) / 256) for step in range(256)], dtype=torch.float64)
    # The middles of the steps spread a little less than the distribution they stand for.
    return (steps / steps.square().mean().sqrt()).float().to(device)


def hash_uniform(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform ``(N, *shape)`` float32 in [0, 1), multiples of 2**-24, from int64 ``seeds`` (N,)."""
    return _uniform(seeds, math.prod(shape), _UNIFORM).view(len(seeds), *shape)


def hash_normal(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return normal ``(N, *shape)`` float32 from int64 ``seeds`` (N,): 256 quantiles up to 2.90 deviations."""
    count = math.prod(shape)
    places = _words(seeds, -(-count // 4), _NORMAL).view(torch.uint8)[:, :count].int()
    return _quantiles(seeds.device)[places].view(len(seeds), *shape)


def smooth_noise(seeds: Tensor, cells: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Return value noise ``(N, H, W)`` float32 in [-1, 1]: random corners of a grid of ``cells``, blended."""
    rows, columns = cells
    corners = _uniform(seeds, (rows + 1) * (columns + 1), _SMOOTH).mul_(2.0).sub_(1.0)
    field = corners.view(len(seeds), rows + 1, columns + 1)
    return _blend(_blend(field, columns, shape[1], 2), rows, shape[0], 1)  # columns first, while there are few rows


def _blend(field: Tensor, cells: int, size: int, axis: int) -> Tensor:
    """Stretch ``field`` along an axis from ``cells + 1`` corners to ``size`` pixels."""
    position = torch.arange(size, device=field.device).float().add_(0.5).mul_(cells / size)
    before = position.floor().clamp_(max=cells - 1)  # the last position may round up to the end of its cell
    fraction = position.sub_(before)
    weight = fraction * fraction * (3.0 - 2.0 * fraction)
    place = before.long()
    start = field.index_select(axis, place)
    change = field.diff(dim=axis).index_select(axis, place)
    return change.mul_(weight if axis == 2 else weight[:, None]).add_(start)


def _uniform(seeds: Tensor, count: int, start: int) -> Tensor:
    """Return ``(N, count)`` float32 in [0, 1): the highest 24 bits of the words, exact in float32."""
    return _words(seeds, count, start).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).mul(2.0**-24)


def _words(seeds: Tensor, count: int, start: int) -> Tensor:
    """Return ``(N, count)`` int32, hashes of seeds and numbers from ``start``."""
    keys = _hashed((_hashed(seeds.int() + _GOLDEN) ^ (seeds >> 32).int()) + _GOLDEN)
    counters = _hashed(torch.arange(start, start + count, device=seeds.device).int() + _GOLDEN)
    return _hashed(keys[:, None] + counters)


def _hashed(words: Tensor) -> Tensor:
    """Hash int32 words by lowbias32, in place: products wrap around, and shifts, which copy the sign, are masked."""
    words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    words.bitwise_xor_((words >> 15).bitwise_and_(0x1FFFF)).mul_(0x846CA68B - (1 << 32))
    return words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF))

"""Camera effects on finished images, batched: exposure, light, blur, sensor noise, sharpening, tones, JPEG, resizing.

A crop with fewer pixels than the network's input goes through sensor, software and JPEG at that size, in the upper left
of its image. Effects run on chosen samples only, chosen on the CPU: nothing waits for the device. Samples are the same
in any batch, bit by bit: sums are exact (``filters``, ``jpeg``), all else is single operations on single pixels, as
fused ones (``lerp``, ``addcmul``) round differently. Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crnn.config.synth import CameraConfig
from crnn.distributed import on_device
from crnn.synth.filters import blur, enlarge, hash_normal, hash_uniform, shrink
from crnn.synth.jpeg import jpeg
from crnn.synth.rng import SampleRandom

Floats = npt.NDArray[np.float64]

BLOCK_NUMBERS = 420_000  # Pixels, times channels, that a CPU works on at a time
REFERENCE_HEIGHT = 32.0  # Pixels; image height to which lengths in settings refer
LEAST_SIGMA = 0.3  # Pixels; a sampled Gaussian of less changes nothing
LEAST_SHRUNK_HEIGHT = 10.0  # Pixels; the settings may not shrink a crop below that. Text of less is hardly readable
LEAST_SIZE = 4  # Pixels on either axis
APERTURE = (0.2, 0.42)  # Sigma of the area averaged by a pixel, in its size; 0.29 is a square as large as the pixel

ENLARGEMENTS = (0.7, 0.25, 0.05)  # Weights of bicubic (as in ``crnn.image`` and most programs), bilinear and nearest

CONTRAST_FACTORS = (0.1, 3.0)  # Least and largest factor on an image's contrast

NOISE_LIMIT = 0.35  # Largest deviation of noise over the image's, so that faint text stays visible

LOST = 0.15  # Share of the range between the darkest and the brightest pixel that a change of brightness may cut off


@torch.no_grad()
def apply_camera(images: Tensor, random: SampleRandom, config: CameraConfig, native: Floats) -> Tensor:
    """Return images as a camera stores them, ``(N, C, H, W)`` float32 in [0, 1].

    Args:
        images: ``(N, C, H, W)`` float32 in about [0, 1], C 1 (grey) or 3 (red, green, blue); not changed.
        random: Of these N samples.
        config: Shares and strengths. With every share at 0 the result is the input, clipped.
        native: ``(N, 2)`` height and width in pixels of each crop's file.
    """
    # On the CPU so many at a time that they stay in the cache; fresh memory costs more than most effects.
    parts = -(-images.numel() // BLOCK_NUMBERS) if images.device.type == "cpu" else 1
    if parts <= 1:
        return _taken(images, random, config, native)
    blocks = [rows for rows in np.array_split(np.arange(len(random)), parts) if len(rows)]
    return torch.cat([_taken(images[rows], random.rows(rows), config, native[rows]) for rows in blocks])


def _taken(images: Tensor, random: SampleRandom, config: CameraConfig, native: Floats) -> Tensor:
    image = images.clone(memory_format=torch.contiguous_format)
    if not len(image):
        return image
    deviation = _expose(image, random, config)
    _shade(image, random, config)
    _glare(image, random, config)

    shape = np.array(image.shape[2:], dtype=np.float64)
    size = _file_sizes(random, config, native, shape)
    pixels = np.clip(np.rint(size), np.minimum(LEAST_SIZE, shape), shape).astype(np.int64)
    coarse = (pixels < shape).any(axis=1)
    _focus(image, random, config, size, pixels)
    if (part := _chosen(image, random, coarse)) is not None:
        part.put_back(shrink(part.pixels, pixels[coarse]))
    _sense(image, random, config, size, deviation)
    image.clamp_(0.0, 1.0)

    _sharpen(image, random, config)
    _change_tones(image, random, config)
    if (part := _chosen(image, random, random.chance("camera/jpeg", config.jpeg_share))) is not None:
        span = np.full(len(part.random), config.jpeg_best - config.jpeg_worst + 1)
        quality = config.jpeg_worst + part.random.integers("camera/jpeg/quality", span)
        shift = np.stack([part.random.integers(f"camera/jpeg/{axis}", 8) for axis in ("rows", "columns")], axis=1)
        finer = np.clip(np.rint(np.log2(size[part.rows] / shape)), 0, 2).astype(np.int64)
        part.put_back(jpeg(part.pixels, quality, shift, finer))
    if (part := _chosen(image, random, coarse)) is not None:
        kind = part.random.choice("camera/enlargement", ENLARGEMENTS)
        part.put_back(enlarge(part.pixels, pixels[coarse], kind))
    return image.clamp_(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Part:
    """Copy of some samples: ``pixels`` ``(n, C, H, W)``, at ``rows`` among all."""

    image: Tensor
    rows: npt.NDArray[np.int64]
    index: Tensor
    random: SampleRandom
    pixels: Tensor

    def put_back(self, pixels: Tensor) -> None:
        self.image.index_copy_(0, self.index, pixels)

    def tensor(self, values: npt.NDArray[np.floating]) -> Tensor:
        """Return values ``(n, ...)`` as ``(n, ..., 1, 1, 1)`` float32, four axes in all."""
        values = values.astype(np.float32)
        return on_device(values.reshape(values.shape + (1,) * (4 - values.ndim)), self.image.device)

    def uniform(self, name: str, low: float, high: float) -> Tensor:
        """Return ``(n, 1, 1, 1)`` float32."""
        return self.tensor(self.random.uniform(name, low, high))

    def seeds(self, name: str) -> Tensor:
        return on_device(self.random.seeds(name), self.image.device)


def _chosen(image: Tensor, random: SampleRandom, which: npt.NDArray[np.bool_] | np.bool_) -> _Part | None:
    rows = np.flatnonzero(which)
    if not len(rows):
        return None
    index = on_device(rows, image.device)
    return _Part(image, rows, index, random.rows(rows), image.index_select(0, index))


def _shade(image: Tensor, random: SampleRandom, config: CameraConfig) -> None:
    part = _chosen(image, random, random.chance("camera/shade", config.shade_share))
    if part is None:
        return
    strength = part.random.uniform("camera/shade/strength", 0.0, config.shade) / 2.0
    curves = []
    for axis in (2, 3):
        # A slope and a bend along each axis, both within 1: light falls off to a side, a corner, or all around.
        at = np.linspace(-1.0, 1.0, image.shape[axis])
        turn = part.random.uniform(f"camera/shade/axis-{axis}", 0.0, 2.0 * np.pi)[:, None]
        curves.append(strength[:, None] * (np.cos(turn) * at + np.sin(turn) * (at**2 - 0.5)) / np.sqrt(1.25))
    down, across = part.tensor(1.0 + curves[0][:, None, :, None]), part.tensor(curves[1][:, None, None, :])
    part.put_back(part.pixels.mul_(down + across))


def _glare(image: Tensor, random: SampleRandom, config: CameraConfig) -> None:
    part = _chosen(image, random, random.chance("camera/glare", config.glare_share))
    if part is None:
        return
    height, width = image.shape[2:]
    rows = torch.arange(height, device=image.device)[:, None] - part.uniform("camera/glare/row", 0.0, height)
    columns = torch.arange(width, device=image.device) - part.uniform("camera/glare/column", 0.0, width)
    rows /= part.uniform("camera/glare/height", 0.2 * height, 1.2 * height)
    columns /= part.uniform("camera/glare/width", 0.3 * height, 2.0 * height)
    spot = (1.0 - (rows * rows + columns * columns)).clamp_min_(0.0)
    spot *= spot
    part.put_back(part.pixels.add_(spot.mul_(part.uniform("camera/glare/strength", 0.0, config.glare))))


def _expose(image: Tensor, random: SampleRandom, config: CameraConfig) -> Tensor:
    """Set contrast and brightness; return the pixels' new standard deviation, ``(N,)``, in grey levels."""
    # A quarter of the pixels, as whole numbers: their sums are exact, so they do not depend on their order.
    levels = image[:, :, ::2, ::2].mul(255.0).round_().flatten(1).int()
    darkest, brightest = (extreme.float() for extreme in levels.aminmax(dim=1))
    mean = levels.sum(dim=1).float().div_(levels.shape[1])
    deviation = levels.mul_(levels).sum(dim=1).float().div_(levels.shape[1]).sub_(mean * mean).clamp_min_(1.0).sqrt_()
    part = _chosen(image, random, random.chance("camera/contrast", config.contrast_share))
    if part is None:
        return deviation
    before, darkest, brightest = (one.index_select(0, part.index) for one in (deviation, darkest, brightest))
    aim = config.contrast_middle * np.exp(part.random.normal("camera/contrast/aim", 0.0, config.contrast_spread))
    factor = part.tensor(np.maximum(aim, config.contrast_least)).flatten().div_(before).clamp_(*CONTRAST_FACTORS)
    middle = (darkest + brightest).div_(2.0)
    room = (brightest - darkest).mul_(factor).mul_(0.5 - LOST).clamp_max_(127.5)
    shift = part.uniform("camera/contrast/shift", -255.0 * config.brightness, 255.0 * config.brightness).flatten()
    offset = shift.add_(middle).maximum(room).minimum(255.0 - room).sub_(middle * factor).div_(255.0)
    part.put_back(part.pixels.mul_(factor.view(-1, 1, 1, 1)).add_(offset.view(-1, 1, 1, 1)))
    return deviation.index_copy_(0, part.index, before * factor)


def _file_sizes(random: SampleRandom, config: CameraConfig, native: Floats, shape: Floats) -> Floats:
    """Return the stored height and width of each image, ``(N, 2)``, not rounded."""
    assert native.shape == (len(random), 2), f"native has shape {native.shape} for {len(random)} samples"
    factor = random.uniform("camera/shrink/factor", 1.0, config.shrink)
    factor = np.minimum(factor, np.maximum(native[:, 0] / LEAST_SHRUNK_HEIGHT, 1.0))
    factor = np.where(random.chance("camera/shrink", config.shrink_share), factor, 1.0)
    small = random.chance("camera/low_resolution", config.low_resolution)[:, None]
    return np.asarray(np.where(small, native / factor[:, None], np.maximum(native, shape)))


def _focus(
    image: Tensor, random: SampleRandom, config: CameraConfig, size: Floats, pixels: npt.NDArray[np.int64]
) -> None:
    """Blur by lens and motion, and average within coarse pixels."""
    shape = np.array(image.shape[2:], dtype=np.float64)
    scale = shape / size  # the network's pixels per pixel of the file
    unit = shape[0] / REFERENCE_HEIGHT * np.stack([np.ones(len(size)), scale[:, 1] / scale[:, 0]], axis=1)

    def some(name: str, share: float, low: float, high: float) -> Floats:
        drawn = random.uniform(f"camera/{name}/strength", min(low, high), high)
        return np.where(random.chance(f"camera/{name}", share), drawn, 0.0)[:, None]

    lens = some("blur", config.blur_share, 0.0, config.blur) * scale
    defocus = some("defocus", config.defocus_share, LEAST_SIGMA, config.defocus) * unit
    aperture = (
        np.sqrt(np.maximum((shape / pixels) ** 2 - 1.0, 0.0)) * random.uniform("camera/aperture", *APERTURE)[:, None]
    )
    aperture[random.chance("camera/aliasing", config.aliasing_share)] = 0.0
    sigma = np.sqrt(lens**2 + defocus**2 + aperture**2)
    angle = random.uniform("camera/motion/angle", 0.0, np.pi)
    path = np.stack([np.sin(angle), np.cos(angle)], axis=1) * some("motion", config.motion_share, 1.0, config.motion)
    path *= unit
    part = _chosen(image, random, (sigma > LEAST_SIGMA).any(axis=1) | path.any(axis=1))
    if part is not None:
        part.put_back(blur(part.pixels, sigma[part.rows], path[part.rows]))


def _sense(image: Tensor, random: SampleRandom, config: CameraConfig, size: Floats, deviation: Tensor) -> None:
    """Add sensor noise and dead pixels."""
    part = _chosen(image, random, random.chance("camera/noise", config.noise_share))
    if part is not None:
        # Shrinking a larger file to the network's size averages pixels.
        finer = np.sqrt(np.maximum(size[part.rows] / np.array(image.shape[2:]), 1.0).prod(axis=1))
        read = config.noise / 255.0 * part.random.uniform("camera/noise/read") ** 2 / finer
        shot = config.shot_noise / 255.0 * part.random.uniform("camera/noise/shot") ** 2 / finer
        amount = part.pixels.clamp(0.0, 1.0).mul_(part.tensor(shot**2)).add_(part.tensor(read**2)).sqrt_()
        amount = amount.minimum(deviation.index_select(0, part.index).mul_(NOISE_LIMIT / 255.0).view(-1, 1, 1, 1))
        noise = hash_normal(part.seeds("camera/noise/pixels"), tuple(image.shape[1:]))
        part.put_back(part.pixels.add_(amount.mul_(noise)))
    part = _chosen(image, random, random.chance("camera/salt", config.salt_share))
    if part is not None:
        chance = hash_uniform(part.seeds("camera/salt/pixels"), (1, *image.shape[2:]))
        half = part.uniform("camera/salt/density", 0.0, config.salt) / 2.0
        part.put_back(part.pixels.masked_fill_(chance < half, 0.0).masked_fill_(chance >= 1.0 - half, 1.0))


def _sharpen(image: Tensor, random: SampleRandom, config: CameraConfig) -> None:
    part = _chosen(image, random, random.chance("camera/sharpen", config.sharpen_share))
    if part is None:
        return
    soft = nn.functional.pad(part.pixels, (1, 1, 1, 1), mode="replicate")
    soft = soft[:, :, 1:-1].mul(2.0).add_(soft[:, :, :-2]).add_(soft[:, :, 2:])
    soft = soft[..., 1:-1].mul(2.0).add_(soft[..., :-2]).add_(soft[..., 2:]).div_(16.0)
    edges = part.pixels.sub(soft).mul_(part.uniform("camera/sharpen/strength", 0.0, config.sharpen))
    part.put_back(part.pixels.add_(edges))


def _change_tones(image: Tensor, random: SampleRandom, config: CameraConfig) -> None:
    part = _chosen(image, random, random.chance("camera/gamma", config.gamma_share))
    if part is not None:
        # x + k x (1 - x): as a power, but cheap, monotonous for k in [-1, 1], with black and white in their places.
        tones = part.pixels.clamp_(0.0, 1.0)
        change = (1.0 - tones).mul_(tones).mul_(part.uniform("camera/gamma/strength", -config.gamma, config.gamma))
        part.put_back(tones.add_(change))
    if image.shape[1] == 3:
        part = _chosen(image, random, random.chance("camera/cast", config.cast_share))
        if part is not None:
            gains = [
                1.0 + part.random.signed(f"camera/cast/{colour}", config.cast) for colour in ("red", "green", "blue")
            ]
            part.put_back(part.pixels.mul_(part.tensor(np.stack(gains, axis=1))))
    part = _chosen(image, random, random.chance("camera/invert", config.invert_share))
    if part is not None:
        part.put_back(1.0 - part.pixels)
    part = _chosen(image, random, random.chance("camera/posterise", config.posterize_share))
    if part is not None:
        steps = part.tensor(3.0 + part.random.integers("camera/posterise/levels", 21))
        part.put_back(part.pixels.clamp_(0.0, 1.0).mul_(steps).round_().div_(steps))

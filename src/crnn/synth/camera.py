"""Camera effects on finished images, batched: exposure, light, blur, sensor noise, sharpening, tones, JPEG, resizing.

A crop with fewer pixels than the network's input goes through sensor, software and JPEG at that size, in the upper left
of its image. Samples are the same in any batch, bit by bit: sums are exact (``filters``, ``jpeg``), all else is single
operations on single pixels, as fused ones (``lerp``, ``addcmul``) round differently.

A new effect is a share (0: golden images stay) and a strength in ``CameraConfig``, a line in ``_Camera.take``, and a
method that draws from ``camera/NAME/...``. These names seed the random numbers: they are not renamed with settings.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from crnn.config.synth import CameraConfig
from crnn.synth.filters import Flags, Floats, Integers, Part, blur, enlarge, hash_normal, hash_uniform, shrink
from crnn.synth.jpeg import jpeg
from crnn.synth.rng import SampleRandom

REFERENCE_HEIGHT = 32.0  # Pixels; image height to which lengths in settings refer
LEAST_SIGMA = 0.3  # Pixels; a sampled Gaussian of less changes nothing
LEAST_SHRUNK_HEIGHT = 10.0  # Pixels; the settings may not shrink a crop below that. Text of less is hardly readable
LEAST_SIZE = 4  # Pixels on either axis
APERTURE = (0.2, 0.42)  # Sigma of the area averaged by a pixel, in its size; 0.29 is a square as large as the pixel
ENLARGEMENTS = (0.7, 0.25, 0.05)  # Weights of bicubic (as in ``crnn.image`` and most programs), bilinear and nearest
CONTRAST_FACTORS = (0.1, 3.0)  # Least and largest factor on an image's contrast
NOISE_LIMIT = 0.35  # Largest deviation of noise over the image's, so that faint text stays visible
NOT_IN_SCANNERS = frozenset(  # which printed samples are taken with (``style.print_share``)
    f"camera/{name}" for name in ("shade", "glare", "contrast", "defocus", "motion", "cast", "salt", "invert")
)
LOST = 0.15  # Share of the range between the darkest and the brightest pixel that a change of brightness may cut off


@torch.no_grad()
def apply_camera(images: Tensor, random: SampleRandom, config: CameraConfig, native: Floats) -> Tensor:
    """Return images ``(N, C, H, W)`` float32, about in [0, 1], grey or RGB, as a camera stores them, in [0, 1].

    ``native`` (N, 2) is the height and width in pixels of each crop's file.
    """
    return _Camera(images, random, config).take(native)


class _Camera:
    """A batch of images on its way through a camera."""

    def __init__(self, images: Tensor, random: SampleRandom, config: CameraConfig) -> None:
        self.images = images.clone(memory_format=torch.contiguous_format)
        self.random, self.config = random, config
        self.shape = np.array(images.shape[2:], dtype=np.float64)

    def take(self, native: Floats) -> Tensor:
        config = self.config
        self._expose()
        self._apply("shade", config.shade_share, self._shade)
        self._apply("glare", config.glare_share, self._glare)

        self.size = self._file_sizes(native)
        pixels = np.clip(np.rint(self.size), np.minimum(LEAST_SIZE, self.shape), self.shape).astype(np.int64)
        coarse = np.any(pixels < self.shape, axis=1)
        self._focus(pixels)
        self._change(coarse, lambda part, images: shrink(images, pixels[part.rows]))
        self._apply("noise", config.noise_share, self._noise)
        self._apply("salt", config.salt_share, self._salt)
        self.images.clamp_(0.0, 1.0)

        self._apply("sharpen", config.sharpen_share, self._sharpen)
        self._apply("gamma", config.gamma_share, self._gamma)
        self._apply("cast", config.cast_share if self.images.shape[1] == 3 else 0.0, self._cast)
        self._apply("invert", config.invert_share, lambda _, images: 1.0 - images)
        self._apply("posterise", config.posterize_share, self._posterize)
        self._apply("jpeg", config.jpeg_share, self._compress)
        self._change(coarse, lambda part, images: self._enlarge(part, images, pixels[part.rows]))
        return self.images.clamp_(0.0, 1.0)

    def _apply(self, effect: str, share: float, change: Callable[[Part, Tensor], Tensor]) -> None:
        self._change(self.random.chance(f"camera/{effect}", share), change)

    def _change(self, chosen: Flags, change: Callable[[Part, Tensor], Tensor]) -> None:
        """Replace the pixels of chosen samples; ``change`` gets a copy of them."""
        if chosen.any():
            part = Part(self.random, chosen, self.images.device, axes=4)
            self.images.index_copy_(0, part.index, change(part, part.take(self.images)))

    def _expose(self) -> None:
        """Set contrast and brightness; note the pixels' standard deviation in grey levels, ``(N, 1, 1, 1)``."""
        # A quarter of the pixels, as whole numbers: their sums are exact, so they do not depend on their order.
        levels = self.images[:, :, ::2, ::2].mul(255.0).round_().flatten(1).int()
        darkest, brightest = (extreme.float().view(-1, 1, 1, 1) for extreme in levels.aminmax(dim=1))
        mean = levels.sum(dim=1).float().div_(levels.shape[1])
        square = levels.mul_(levels).sum(dim=1).float().div_(levels.shape[1])
        self.deviation = square.sub_(mean * mean).clamp_min_(1.0).sqrt_().view(-1, 1, 1, 1)
        config = self.config

        def change(part: Part, pixels: Tensor) -> Tensor:
            before, low, high = (part.take(values) for values in (self.deviation, darkest, brightest))
            spread = part.random.normal("camera/contrast/aim", 0.0, config.contrast_spread)
            aim = np.maximum(config.contrast_middle * np.exp(spread), config.contrast_least)
            factor = part.tensor(aim).div_(before).clamp_(*CONTRAST_FACTORS)
            middle = (low + high).div_(2.0)
            room = (high - low).mul_(factor).mul_(0.5 - LOST).clamp_max_(127.5)
            shift = part.uniform("camera/contrast/shift", -255.0 * config.brightness, 255.0 * config.brightness)
            offset = shift.add_(middle).maximum(room).minimum(255.0 - room).sub_(middle * factor).div_(255.0)
            self.deviation.index_copy_(0, part.index, before * factor)
            return pixels.mul_(factor).add_(offset)

        self._apply("contrast", config.contrast_share, change)

    def _shade(self, part: Part, pixels: Tensor) -> Tensor:
        strength = part.random.uniform("camera/shade/strength", 0.0, self.config.shade)[:, None] / 2.0
        curves = []
        for axis in (2, 3):
            # A slope and a bend along each axis, both within 1: light falls off to a side, a corner, or all around.
            at = np.linspace(-1.0, 1.0, pixels.shape[axis])
            turn = part.random.uniform(f"camera/shade/axis-{axis}", 0.0, 2.0 * np.pi)[:, None]
            curves.append(strength * (np.cos(turn) * at + np.sin(turn) * (at**2 - 0.5)) / np.sqrt(1.25))
        down, across = part.tensor(1.0 + curves[0][:, None, :, None]), part.tensor(curves[1][:, None, None, :])
        return pixels.mul_(down + across)

    def _glare(self, part: Part, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        rows = torch.arange(height, device=pixels.device)[:, None] - part.uniform("camera/glare/row", 0.0, height)
        columns = torch.arange(width, device=pixels.device) - part.uniform("camera/glare/column", 0.0, width)
        rows /= part.uniform("camera/glare/height", 0.2 * height, 1.2 * height)
        columns /= part.uniform("camera/glare/width", 0.3 * height, 2.0 * height)
        spot = (1.0 - (rows * rows + columns * columns)).clamp_min_(0.0)
        spot *= spot
        return pixels.add_(spot.mul_(part.uniform("camera/glare/strength", 0.0, self.config.glare)))

    def _file_sizes(self, native: Floats) -> Floats:
        """Return the stored height and width of each image, ``(N, 2)``, not rounded."""
        random, config = self.random, self.config
        factor = random.uniform("camera/shrink/factor", 1.0, config.shrink)
        factor = np.minimum(factor, np.maximum(native[:, 0] / LEAST_SHRUNK_HEIGHT, 1.0))
        factor = np.where(random.chance("camera/shrink", config.shrink_share), factor, 1.0)
        small = random.chance("camera/low_resolution", config.low_resolution)[:, None]
        return np.asarray(np.where(small, native / factor[:, None], np.maximum(native, self.shape)))

    def _focus(self, pixels: Integers) -> None:
        """Blur by lens and motion, and average within coarse pixels."""
        random, config = self.random, self.config
        scale = self.shape / self.size  # the network's pixels per pixel of the file
        unit = self.shape[0] / REFERENCE_HEIGHT * np.stack([np.ones(len(scale)), scale[:, 1] / scale[:, 0]], axis=1)

        def some(name: str, share: float, low: float, high: float) -> Floats:
            drawn = random.uniform(f"camera/{name}/strength", min(low, high), high)
            return np.where(random.chance(f"camera/{name}", share), drawn, 0.0)[:, None]

        lens = some("blur", config.blur_share, 0.0, config.blur) * scale
        defocus = some("defocus", config.defocus_share, LEAST_SIGMA, config.defocus) * unit
        aperture = np.sqrt(np.maximum((self.shape / pixels) ** 2 - 1.0, 0.0))
        aperture *= random.uniform("camera/aperture", *APERTURE)[:, None]
        aperture[random.chance("camera/aliasing", config.aliasing_share)] = 0.0
        sigma = np.sqrt(lens**2 + defocus**2 + aperture**2)
        angle = random.uniform("camera/motion/angle", 0.0, np.pi)
        path = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        path *= some("motion", config.motion_share, 1.0, config.motion) * unit
        chosen = (sigma > LEAST_SIGMA).any(axis=1) | path.any(axis=1)
        self._change(chosen, lambda part, images: blur(images, sigma[part.rows], path[part.rows]))

    def _noise(self, part: Part, pixels: Tensor) -> Tensor:
        # Shrinking a larger file to the network's size averages pixels.
        finer = np.sqrt(np.maximum(self.size[part.rows] / self.shape, 1.0).prod(axis=1))
        read = self.config.noise / 255.0 * part.random.uniform("camera/noise/read") ** 2 / finer
        shot = self.config.shot_noise / 255.0 * part.random.uniform("camera/noise/shot") ** 2 / finer
        amount = pixels.clamp(0.0, 1.0).mul_(part.tensor(shot**2)).add_(part.tensor(read**2)).sqrt_()
        amount = amount.minimum(part.take(self.deviation).mul_(NOISE_LIMIT / 255.0))
        noise = hash_normal(part.seeds("camera/noise/pixels"), tuple(pixels.shape[1:]))
        return pixels.add_(amount.mul_(noise))

    def _salt(self, part: Part, pixels: Tensor) -> Tensor:
        """Set dead pixels to black or white."""
        chance = hash_uniform(part.seeds("camera/salt/pixels"), (1, *pixels.shape[2:]))
        half = part.uniform("camera/salt/density", 0.0, self.config.salt) / 2.0
        return pixels.masked_fill_(chance < half, 0.0).masked_fill_(chance >= 1.0 - half, 1.0)

    def _sharpen(self, part: Part, pixels: Tensor) -> Tensor:
        soft = nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
        soft = soft[:, :, 1:-1].mul(2.0).add_(soft[:, :, :-2]).add_(soft[:, :, 2:])
        soft = soft[..., 1:-1].mul(2.0).add_(soft[..., :-2]).add_(soft[..., 2:]).div_(16.0)
        edges = pixels.sub(soft).mul_(part.uniform("camera/sharpen/strength", 0.0, self.config.sharpen))
        return pixels.add_(edges)

    def _gamma(self, part: Part, pixels: Tensor) -> Tensor:
        # x + k x (1 - x): as a power, but cheap, monotonous for k in [-1, 1], with black and white in their places.
        pixels = pixels.clamp_(0.0, 1.0)
        strength = part.uniform("camera/gamma/strength", -self.config.gamma, self.config.gamma)
        return pixels.add_((1.0 - pixels).mul_(pixels).mul_(strength))

    def _cast(self, part: Part, pixels: Tensor) -> Tensor:
        gains = [part.random.signed(f"camera/cast/{color}", self.config.cast) for color in ("red", "green", "blue")]
        return pixels.mul_(part.tensor(1.0 + np.stack(gains, axis=1)))

    def _posterize(self, part: Part, pixels: Tensor) -> Tensor:
        steps = part.tensor(3.0 + part.random.integers("camera/posterise/levels", 21))
        return pixels.clamp_(0.0, 1.0).mul_(steps).round_().div_(steps)

    def _compress(self, part: Part, pixels: Tensor) -> Tensor:
        worst, best = self.config.jpeg_worst, self.config.jpeg_best
        quality = worst + part.random.integers("camera/jpeg/quality", best - worst + 1)
        shift = np.stack([part.random.integers(f"camera/jpeg/{axis}", 8) for axis in ("rows", "columns")], axis=1)
        finer = np.clip(np.rint(np.log2(self.size[part.rows] / self.shape)), 0, 2).astype(np.int64)
        return jpeg(pixels, quality, shift, finer)

    def _enlarge(self, part: Part, pixels: Tensor, sizes: Integers) -> Tensor:
        return enlarge(pixels, sizes, part.random.choice("camera/enlargement", ENLARGEMENTS))

"""Geometry of words: bends, slants, turns, perspective, the crop around them, and lookup of masks through it.

In the coordinates (u, v) of a word its height is 1, v grows downwards, the middle of its ink is (0, 0). It is bent
(circle, wave) and moved by an affine map and a perspective; the image shows its bounding box with margins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from crnn.config.synth import StyleConfig
from crnn.distributed import on_device
from crnn.synth.filters import Flags, Floats, Integers, averaged, smooth_noise
from crnn.synth.rasterizer import MASK_MARGIN
from crnn.synth.rng import SampleRandom

SIDES = 4  # Left, right, above, below, in this order everywhere

_ALONG = np.linspace(-0.5, 0.5, 13)
# Points around the ink, (26, 2), in units of its width and height; moved with it, their hull bounds it
_OUTLINE = np.array([(u, v) for v in (-0.5, 0.5) for u in _ALONG])

_MAX_RISE = 0.7  # Largest rise from end to end of a line in its proportions, by turn or arc, in text heights

# Of arcs, turns, perspective and loose crops of lines. At full strength, letters of long lines are a few pixels high:
# a twentieth of all images, most of which nobody could read, made three fifths of the loss (2026-11-30).
_STRENGTH_OF_LINES = 0.5

_LEAST_SCALE = 0.05  # A surface ends below this scale; the middle of the word has 1, all words are above 0.5


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shapes of N words and their crops: how pixels map to (u, v)."""

    ratio: Floats  # ``(N,)`` width over height of the ink
    inverse: Floats  # ``(N, 3, 3)`` from pixel (column, row, 1) to the bent word, homogeneous
    radius: Floats  # ``(N,)`` of words on a circle, in text heights, below 0 for a valley; infinite where straight
    wave: Floats  # ``(N, 3)`` height, 0 for words on no wave, length in text heights, phase
    elastic: Floats  # ``(N,)`` largest move of an uneven surface; 0 where it is even
    elastic_seeds: Integers  # ``(N,)``
    crop: Floats  # ``(N, 2)`` height and width of the crop in text heights
    shape: tuple[int, int]  # Rows and columns of the images

    @property
    def text_height(self) -> Floats:
        """Approximate height of the text in pixels of the image, ``(N,)``."""
        return np.asarray(self.shape[0] / self.crop[:, 0])

    @property
    def text_width(self) -> Floats:
        """Approximate width of the text in pixels of the image, ``(N,)``."""
        return np.asarray(self.ratio * self.shape[1] / self.crop[:, 1])

    @classmethod
    def draw(
        cls,
        random: SampleRandom,
        ratios: Floats,
        style: StyleConfig,
        shape: tuple[int, int],
        room: Floats,
        fit: tuple[float, float] | None = None,
        lines: Flags | None = None,
    ) -> Geometry:
        """Draw shapes for ink of ``ratios`` (N,), with ``room`` (N, 4) at each side for other things, in text heights.

        ``fit`` are the least and largest width over height of a crop as a share of the image's, reached by more margin.
        Default: crops are stretched to the image. ``lines`` (N,) are texts with spaces; default: none.
        """
        strength = 1.0 if lines is None else np.where(lines, _STRENGTH_OF_LINES, 1.0)
        ratio = ratios * np.exp(random.normal("stretch", 0.0, style.stretch)).clip(0.6, 1.7)
        height, width = shape
        arc = random.chance("arc", style.arc_share)
        # The inner edge of a circle must stay a circle: its radius is above half the text's height.
        degrees = np.minimum(8.0 + style.arc_degrees * random.uniform("arc angle") ** 2, style.arc_degrees)
        angle = np.minimum(np.radians(np.maximum(degrees, 0.1)), ratio / 0.75)
        keeps_ratio = fit is not None and fit[0] > 0.0
        if keeps_ratio:
            angle = np.minimum(angle, 8.0 * strength * _MAX_RISE / ratio)
        radius = np.where(arc, np.where(random.uniform("arc side") < 0.65, 1.0, -1.0) * ratio / angle, np.inf)
        waved = random.chance("wave", style.wave_share) & ~arc
        wave = np.stack(
            [
                random.uniform("wave height", 0.3, 1.0) * style.wave * waved,
                ratio * random.log_uniform("wave length", 0.5, 2.0),
                random.uniform("wave phase", 0.0, 2.0 * np.pi),
            ],
            axis=1,
        )
        outline = _OUTLINE * np.stack([ratio, np.ones_like(ratio)], axis=1)[:, None, :]
        bent = _bend(outline, radius, wave)
        least, most = np.zeros_like(ratio), np.full_like(ratio, np.inf)
        if keeps_ratio:
            most = np.arctan(strength * _MAX_RISE / ratio)
        elif fit is not None:
            # A word too long for its image leans as far as makes it fit.
            wanted = width / height * 1.05
            long = (ratio > 1.25 * wanted) & ~arc
            leaning = np.arctan((ratio - wanted) / np.maximum(ratio * wanted - 1.0, 0.1))
            least = random.uniform("lean", leaning, np.maximum(leaning, 0.9)) * long
        forward = _projective(random, style, bent, least, most, strength)
        scene = _apply(forward, bent)
        low, high = scene.min(axis=1), scene.max(axis=1)
        # More margin on the side of another word would show all of it: it could not be told from the text.
        margins = _margins(random, style, strength)
        margins = np.where(room > 0.0, np.minimum(margins, 0.0), margins) + room
        # Lengths in the scene are about text heights; a word seen from afar gets its margins smaller.
        scale = np.minimum(1.0, (high - low)[:, 1])[:, None]
        low = low - margins[:, [0, 2]] * scale
        high = high + margins[:, [1, 3]] * scale
        size = np.maximum(high - low, 0.05)
        if fit is not None:
            found = size[:, 0] / size[:, 1] * (height / width)
            more = np.stack([np.maximum(fit[0] / found, 1.0), np.maximum(found / fit[1], 1.0)], axis=1)
            before = np.stack([random.uniform("fit across"), random.uniform("fit down")], axis=1)
            # What is left goes to the side where no other word is.
            first, last = room[:, [0, 2]] > 0.0, room[:, [1, 3]] > 0.0
            before = np.where(first, 0.0, np.where(last, 1.0, before))
            more = np.where(first & last, 1.0, more)
            low = low - before * (more - 1.0) * size
            size = more * size
        # From pixel edges 0..W, 0..H to the scene; a pixel's middle is at the half.
        to_scene = np.zeros((len(ratio), 3, 3))
        to_scene[:, 0, 0], to_scene[:, 1, 1] = size[:, 0] / width, size[:, 1] / height
        to_scene[:, 0, 2] = low[:, 0] + 0.5 * to_scene[:, 0, 0]
        to_scene[:, 1, 2] = low[:, 1] + 0.5 * to_scene[:, 1, 1]
        to_scene[:, 2, 2] = 1.0
        inverse = np.einsum("nij,njk->nik", _inverse(forward), to_scene)
        elastic = random.uniform("elastic strength", 0.3, 1.0) * style.elastic
        elastic *= random.chance("elastic", style.elastic_share)
        return cls(ratio, inverse, radius, wave, elastic, random.seeds("elastic field"), size[:, ::-1], shape)


def text_coordinates(geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return u and v of each pixel, ``(N, H, W)`` float32 each."""
    height, width = geometry.shape
    m = on_device(geometry.inverse.astype(np.float32), device)[..., None, None]
    column = torch.arange(width, dtype=torch.float32, device=device)
    row = torch.arange(height, dtype=torch.float32, device=device)[:, None]
    # Behind the horizon of a strong perspective everything would come again, mirrored.
    depth = ((m[:, 2, 0] * column + m[:, 2, 2]) + m[:, 2, 1] * row).clamp_min_(_LEAST_SCALE)
    x = ((m[:, 0, 0] * column + m[:, 0, 2]) + m[:, 0, 1] * row) / depth
    y = ((m[:, 1, 0] * column + m[:, 1, 2]) + m[:, 1, 1] * row) / depth

    def per_word(values: Floats) -> Tensor:
        return on_device(values.astype(np.float32), device)[:, None, None]

    if len(some := np.flatnonzero(geometry.elastic)):
        rows, strength = on_device(some, device), per_word(geometry.elastic[some])
        seeds = on_device(geometry.elastic_seeds[some], device)
        x.index_add_(0, rows, strength * smooth_noise(seeds, (3, 7), geometry.shape))
        y.index_add_(0, rows, strength * smooth_noise(seeds + 1, (2, 6), geometry.shape))
    if len(some := np.flatnonzero(np.isfinite(geometry.radius))):
        rows, radius = on_device(some, device), per_word(geometry.radius[some])
        side = torch.sign(radius)
        across, down = x.index_select(0, rows) * side, (radius - y.index_select(0, rows)) * side
        away = (across * across + down * down).sqrt_()
        # atan2 itself rounds differently at the end of a thread's part, and so from batch to batch.
        angle = 2.0 * torch.atan(across / (away + down).clamp_min_(1e-6))
        x.index_copy_(0, rows, radius * angle)
        y.index_copy_(0, rows, radius - side * away)
    if len(some := np.flatnonzero(geometry.wave[:, 0])):
        rows, (size, length, phase) = on_device(some, device), map(per_word, geometry.wave[some].T)
        y.index_add_(0, rows, -size * torch.sin(x.index_select(0, rows) * (2.0 * torch.pi / length) + phase))
    return x, y


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


def _ends(columns: int, ratios: Floats, device: torch.device) -> Tensor:
    """Return the factor ``(n,)`` that takes u to -1 and 1 at the ends of a mask with its margins."""
    ends = np.asarray((1.0 - 2.0 * MASK_MARGIN / columns) / (ratios / 2), dtype=np.float32)
    return on_device(ends, device)


def _bend(points: Floats, radius: Floats, wave: Floats) -> Floats:
    """Bend points (N, P, 2) to circle and wave; an infinite radius is straight."""
    u, v = points[..., 0], points[..., 1]
    size, length, phase = (wave[:, i, None] for i in range(3))
    v = v + size * np.sin(u * (2.0 * np.pi / length) + phase)
    curved = np.isfinite(radius)[:, None]
    r = np.where(curved, radius[:, None], 1.0)
    x = np.where(curved, (r - v) * np.sin(u / r), u)
    y = np.where(curved, r - (r - v) * np.cos(u / r), v)
    return np.stack([x, y], axis=-1)


def _projective(
    random: SampleRandom, style: StyleConfig, bent: Floats, least: Floats, most: Floats, strength: Floats | float
) -> Floats:
    """Draw slant, rotation by ``least`` to ``most`` and perspective, times ``strength``: ``(N, 3, 3)``."""
    slant = np.where(random.chance("slant", style.slant_share), random.signed("slant strength", style.slant), 0.0)
    # Letters lean to the right far more often than to the left.
    slant = np.where(random.chance("slant side", 0.8), np.abs(slant), slant)
    turn = random.normal("rotate", 0.0, style.rotate_degrees).clip(-3 * style.rotate_degrees, 3 * style.rotate_degrees)
    turn = np.radians(
        np.where(random.chance("tilt", style.tilt_share), random.signed("tilt strength", style.tilt_degrees), turn)
    )
    turn = np.where(least > 0.0, np.where(random.chance("lean up", 0.6), -least, least), turn).clip(-most, most)
    seen = random.chance("perspective", style.perspective_share)
    half = np.abs(bent).max(axis=1)  # (N, 2)
    across = np.where(seen, strength * random.signed("perspective across", style.perspective), 0.0) / half[:, 0]
    down = np.where(seen, strength * random.signed("perspective down", style.perspective), 0.0) / half[:, 1]
    matrix = np.zeros((len(slant), 3, 3))
    cos, sin = np.cos(turn), np.sin(turn)
    # x' = cos (x - slant y) - sin y; y' = sin (x - slant y) + cos y
    matrix[:, 0, 0], matrix[:, 0, 1] = cos, -slant * cos - sin
    matrix[:, 1, 0], matrix[:, 1, 1] = sin, -slant * sin + cos
    matrix[:, 2, 0], matrix[:, 2, 1], matrix[:, 2, 2] = across, down, 1.0
    return matrix


def _apply(matrix: Floats, points: Floats) -> Floats:
    x, y = points[..., 0], points[..., 1]
    rows = [matrix[:, i, 0, None] * x + matrix[:, i, 1, None] * y + matrix[:, i, 2, None] for i in range(3)]
    return np.stack([rows[0] / rows[2], rows[1] / rows[2]], axis=-1)


def _inverse(matrix: Floats) -> Floats:
    """Return adjugates of 3x3 matrices: inverses but for a factor, irrelevant in homogeneous coordinates."""
    a, b, c = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-1)


def _margins(random: SampleRandom, style: StyleConfig, strength: Floats | float) -> Floats:
    """Draw margins ``(N, 4)``: left, right, above, below, in text heights; ``strength`` is that of loose ones."""
    common = random.uniform("margin", 0.0, style.margin)
    loose = random.chance("loose", style.loose_share)
    sides = []
    for side in ("left", "right", "above", "below"):
        own = common + random.normal(f"margin {side}", 0.0, 0.3 * style.margin)
        more = np.where(random.chance(f"loose {side}", 0.6), random.uniform(f"loose by {side}", 0.1, 1.0), 0.0)
        sides.append(
            np.maximum(own, -style.cut)
            + np.where(loose, more * (style.loose if side in ("left", "right") else strength * style.loose), 0.0)
        )
    return np.stack(sides, axis=1)

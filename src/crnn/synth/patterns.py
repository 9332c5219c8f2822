"""Procedural patterns: walls, wood, cloth, foliage, signs, streets out of focus, as square grey tiles.

Each is a pure function of a numpy generator. None is a copy of anything; they are what a word is read in front of, so
what counts is that their edges, scales and directions vary as those of real surfaces do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "normalised", "pattern"]

Tile = npt.NDArray[np.float32]
_Maker = Callable[[np.random.Generator, int], Tile]


def pattern(rng: np.random.Generator, size: int) -> Tile:
    """A tile of some kind, often two kinds over each other, ``(size, size)`` float32 in [-1, 1]."""
    tile = normalised(_one(rng, size))
    if rng.random() < 0.6:
        other = normalised(_one(rng, size))
        share = rng.uniform(0.15, 0.5)
        if rng.random() < 0.3:  # one inside the shapes of the other
            mask = _soft_steps(normalised(_cloud(rng, size)), rng.uniform(0.02, 0.3))
            return normalised(tile * (1 - mask) + other * mask)
        tile = normalised((1 - share) * tile + share * other)
    return tile


def normalised(tile: npt.NDArray[np.floating]) -> Tile:
    """The tile with mean 0, cut at 2.5 standard deviations, which become -1 and 1."""
    centred = tile - tile.mean()
    deviation = max(float(centred.std()), 1e-6)
    return np.clip(centred / (2.5 * deviation), -1.0, 1.0).astype(np.float32)


def _one(rng: np.random.Generator, size: int) -> Tile:
    return PATTERNS[int(rng.choice(len(PATTERNS), p=_WEIGHTS))][0](rng, size)


def _axes(rng: np.random.Generator, size: int) -> tuple[Tile, Tile]:
    """Coordinates in [-0.5, 0.5], turned: often upright, as walls are."""
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0.0, np.pi)], p=[0.4, 0.3, 0.3]) + rng.normal(0.0, 0.03)
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    return (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32), (np.cos(angle) * y - np.sin(angle) * x).astype(
        np.float32
    )


def _spectral(rng: np.random.Generator, size: int, slope: float, stretch: float = 1.0, lowest: float = 0.0) -> Tile:
    """Noise whose amplitude falls with frequency: ``f ** -slope``; ``stretch`` makes it longer in one direction."""
    down = np.fft.fftfreq(size)[:, None] * size * stretch
    across = np.fft.rfftfreq(size)[None, :] * size / stretch
    angle = rng.uniform(0.0, np.pi) if stretch == 1.0 else rng.choice([0.0, np.pi / 2])
    fy, fx = np.cos(angle) * down + np.sin(angle) * across, np.cos(angle) * across - np.sin(angle) * down
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = 1.0
    amplitude = np.maximum(frequency, 0.5) ** -slope * (frequency >= lowest)
    amplitude[0, 0] = 0.0
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    return np.fft.irfft2(amplitude * phase, s=(size, size)).astype(np.float32)


def _soft_steps(field: Tile, softness: float) -> Tile:
    return np.clip(field / max(softness, 1e-3) + 0.5, 0.0, 1.0).astype(np.float32)


def _cloud(rng: np.random.Generator, size: int) -> Tile:
    """Plaster, stone, stains, sky."""
    return _spectral(rng, size, rng.uniform(0.9, 2.2), rng.choice([1.0, 1.0, rng.uniform(1.0, 3.0)]))


def _grain(rng: np.random.Generator, size: int) -> Tile:
    """Fine structure: sand, concrete, coarse cloth."""
    return _spectral(rng, size, rng.uniform(0.3, 0.9), 1.0, rng.uniform(4.0, 16.0))


def _brushed(rng: np.random.Generator, size: int) -> Tile:
    """Wood, brushed metal, rain on glass: long in one direction."""
    return _spectral(rng, size, rng.uniform(0.7, 1.5), rng.uniform(4.0, 12.0))


def _rings(rng: np.random.Generator, size: int) -> Tile:
    """Wood: lines that bend together."""
    x, y = _axes(rng, size)
    bend = normalised(_spectral(rng, size, 2.2)) * rng.uniform(0.03, 0.15)
    rings = np.sin((y + 0.15 * x + bend) * 2 * np.pi * rng.uniform(5.0, 25.0))
    return (rings + 0.5 * normalised(_brushed(rng, size))).astype(np.float32)


def _slope(rng: np.random.Generator, size: int) -> Tile:
    """Light that falls off: to a side, or from a middle."""
    x, y = _axes(rng, size)
    if rng.random() < 0.5:
        return (x + 0.3 * rng.normal() * x * np.abs(x)).astype(np.float32)
    cx, cy = rng.uniform(-0.5, 0.5, 2)
    return np.hypot(x - cx, y - cy).astype(np.float32)


def _stripes(rng: np.random.Generator, size: int) -> Tile:
    """Planks, corrugated sheets, blinds, books on a shelf."""
    x, _ = _axes(rng, size)
    count = int(rng.integers(3, 24))
    edges = np.sort(rng.uniform(-0.8, 0.8, count)) if rng.random() < 0.5 else np.linspace(-0.8, 0.8, count)
    place = np.searchsorted(edges, x.ravel()).reshape(x.shape)
    tile = rng.normal(size=count + 1)[place]
    if rng.random() < 0.4:
        tile = np.where(place % 2, 1.0, -1.0) + 0.2 * tile
    if rng.random() < 0.5:  # a dark joint between two
        gap = np.abs(x[..., None] - edges).min(axis=-1)
        tile = tile - 2.0 * (gap < rng.uniform(0.003, 0.015))
    return tile.astype(np.float32)


def _bricks(rng: np.random.Generator, size: int) -> Tile:
    """Bricks, tiles, paving, windows: rows of boxes with joints."""
    x, y = _axes(rng, size)
    rows, columns = rng.uniform(3, 14), rng.uniform(2, 9)
    row = np.floor(y * rows)
    shifted = x * columns + (row % 2) * rng.choice([0.0, 0.5])
    column = np.floor(shifted)
    levels = rng.normal(size=(64, 64))
    tile = rng.uniform(0.2, 1.0) * levels[row.astype(int) % 64, column.astype(int) % 64]
    joint = rng.uniform(0.02, 0.12)
    inside = (y * rows - row > joint) & (shifted - column > joint * columns / rows)
    return (np.where(inside, tile, rng.choice([-2.5, 2.5]))).astype(np.float32)


def _checks(rng: np.random.Generator, size: int) -> Tile:
    """Checks, cloth, dots of print."""
    x, y = _axes(rng, size)
    count = rng.uniform(4, 28)
    if rng.random() < 0.5:
        return (np.sin(x * count * np.pi * 2) * np.sin(y * count * np.pi * 2)).astype(np.float32)
    fx, fy = (x * count) % 1.0 - 0.5, (y * count) % 1.0 - 0.5
    return _soft_steps((rng.uniform(0.15, 0.45) - np.hypot(fx, fy)).astype(np.float32), 0.1)


def _leaves(rng: np.random.Generator, size: int) -> Tile:
    """Foliage, gravel, people out of focus: blobs of a few levels."""
    tile = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(2, 5))):
        blobs = normalised(_spectral(rng, size, rng.uniform(1.2, 2.4), 1.0, rng.uniform(0.0, 6.0)))
        tile += rng.normal() * _soft_steps(blobs - rng.uniform(-0.4, 0.4), rng.uniform(0.02, 0.3))
    return tile


def _edges(rng: np.random.Generator, size: int) -> Tile:
    """Fronts of shops, frames, poles, shadows of things: large areas with straight edges."""
    tile = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(3, 9))):
        x, y = _axes(rng, size)
        area = _soft_steps(x - rng.uniform(-0.45, 0.45), rng.uniform(0.003, 0.03))
        if rng.random() < 0.6:
            area = area * _soft_steps(y - rng.uniform(-0.45, 0.45), rng.uniform(0.003, 0.03))
        if rng.random() < 0.4:  # a bar instead of an area
            area = area * _soft_steps(rng.uniform(0.02, 0.2) - np.abs(x - rng.uniform(-0.3, 0.3)), 0.01)
        tile += rng.normal() * area
    return tile


def _scratches(rng: np.random.Generator, size: int) -> Tile:
    """Scratches, wires, cracks, folds."""
    tile = 0.4 * normalised(_cloud(rng, size))
    for _ in range(int(rng.integers(3, 14))):
        x, y = _axes(rng, size)
        bend = rng.uniform(-0.3, 0.3) * y * y + rng.uniform(-0.4, 0.4)
        width = rng.uniform(0.002, 0.01)
        tile = tile + rng.normal() * 1.5 * _soft_steps((width - np.abs(x - bend)).astype(np.float32), width)
    return tile.astype(np.float32)


def _folds(rng: np.random.Generator, size: int) -> Tile:
    """Cloth, paper, a flag in the wind."""
    x, y = _axes(rng, size)
    bend = normalised(_spectral(rng, size, 2.5)) * rng.uniform(0.1, 0.4)
    waves = np.sin((x + bend) * 2 * np.pi * rng.uniform(1.0, 6.0)) + 0.5 * np.sin((x - 0.4 * y) * 2 * np.pi * 3.0)
    return waves.astype(np.float32)


PATTERNS: tuple[tuple[_Maker, float], ...] = (
    (_cloud, 3.0), (_grain, 1.5), (_brushed, 1.5), (_rings, 0.7), (_slope, 1.2), (_stripes, 1.2), (_bricks, 1.2),
    (_checks, 0.6), (_leaves, 1.8), (_edges, 2.5), (_scratches, 0.8), (_folds, 1.0),
)  # fmt: skip
"""Makers of patterns, and how often each is taken."""

_WEIGHTS = np.array([weight for _, weight in PATTERNS]) / sum(weight for _, weight in PATTERNS)

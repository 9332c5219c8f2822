"""Procedural patterns as square grey tiles: walls, wood, cloth, foliage, signs, streets out of focus."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Tile = npt.NDArray[np.float32]
_Maker = Callable[[np.random.Generator, int], Tile]


def pattern(rng: np.random.Generator, size: int) -> Tile:
    """Draw a tile of some kind, often two over each other, ``(size, size)`` float32 in [-1, 1]."""
    tile = normalize(_one(rng, size))
    if rng.random() < 0.5:
        other = normalize(_one(rng, size))
        share = rng.uniform(0.15, 0.5)
        if rng.random() < 0.3:  # one inside the shapes of the other
            mask = _soft_steps(normalize(_cloud(rng, size)), rng.uniform(0.02, 0.3))
            tile = tile * (1 - mask) + other * mask
        else:
            tile = (1 - share) * tile + share * other
    if rng.random() < 0.25:  # in half light, or with a shadow over it
        light = normalize(_slope(rng, size) if rng.random() < 0.5 else _blurred(_edges(rng, size), 2.0))
        tile = normalize(tile) * (1.0 + 0.6 * light) + rng.uniform(0.2, 1.0) * light
    if rng.random() < 0.2:  # out of focus
        tile = _blurred(tile, float(np.exp(rng.uniform(np.log(0.004), np.log(0.03)))) * size)
    return normalize(tile)


def normalize(tile: npt.NDArray[np.floating]) -> Tile:
    """Return the tile with mean 0, cut at 2.5 standard deviations, which become -1 and 1."""
    for _ in range(2):  # cutting a few bright spots moves mean and deviation by much
        centred = tile - tile.mean()
        tile = np.clip(centred / (2.5 * max(float(centred.std()), 1e-6)), -1.0, 1.0)
    return _single(tile)


def _single(values: npt.ArrayLike) -> Tile:
    return np.asarray(values, dtype=np.float32)


def _one(rng: np.random.Generator, size: int) -> Tile:
    weights = np.array([weight for _, weight in PATTERNS])
    return PATTERNS[int(rng.choice(len(PATTERNS), p=weights / weights.sum()))][0](rng, size)


def _axes(rng: np.random.Generator, size: int) -> tuple[Tile, Tile]:
    """Return coordinates in [-0.5, 0.5], turned: often upright, like walls."""
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0.0, np.pi)], p=[0.4, 0.3, 0.3]) + rng.normal(0.0, 0.03)
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    return _single(np.cos(angle) * x + np.sin(angle) * y), _single(np.cos(angle) * y - np.sin(angle) * x)


def _spectral(rng: np.random.Generator, size: int, slope: float, stretch: float = 1.0, lowest: float = 0.0) -> Tile:
    """Draw noise of amplitude ``f ** -slope``, longer by ``stretch`` in one direction."""
    down = np.fft.fftfreq(size)[:, None] * size * stretch
    across = np.fft.rfftfreq(size)[None, :] * size / stretch
    angle = rng.uniform(0.0, np.pi) if stretch == 1.0 else rng.choice([0.0, np.pi / 2])
    fy, fx = np.cos(angle) * down + np.sin(angle) * across, np.cos(angle) * across - np.sin(angle) * down
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = 1.0
    amplitude = np.maximum(frequency, 0.5) ** -slope * (frequency >= lowest)
    amplitude[0, 0] = 0.0
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    return _single(np.fft.irfft2(amplitude * phase, s=(size, size)))


def _soft_steps(field: Tile, softness: float) -> Tile:
    return _single(np.clip(field / max(softness, 1e-3) + 0.5, 0.0, 1.0))


def _cloud(rng: np.random.Generator, size: int) -> Tile:
    """Draw plaster, stone, stains or sky."""
    return _spectral(rng, size, rng.uniform(0.9, 2.2), rng.choice([1.0, 1.0, rng.uniform(1.0, 3.0)]))


def _grain(rng: np.random.Generator, size: int) -> Tile:
    """Draw fine structure: sand, concrete, coarse cloth."""
    return _spectral(rng, size, rng.uniform(0.3, 0.9), 1.0, rng.uniform(4.0, 16.0))


def _brushed(rng: np.random.Generator, size: int) -> Tile:
    """Draw wood, brushed metal or rain on glass: long in one direction."""
    return _spectral(rng, size, rng.uniform(0.7, 1.5), rng.uniform(4.0, 12.0))


def _rings(rng: np.random.Generator, size: int) -> Tile:
    """Draw wood: lines that bend together."""
    x, y = _axes(rng, size)
    bend = normalize(_spectral(rng, size, 2.2)) * rng.uniform(0.03, 0.15)
    rings = np.sin((y + 0.15 * x + bend) * 2 * np.pi * rng.uniform(5.0, 25.0))
    return _single(rings + 0.5 * normalize(_brushed(rng, size)))


def _slope(rng: np.random.Generator, size: int) -> Tile:
    """Draw light that falls off to a side or from a middle."""
    x, y = _axes(rng, size)
    if rng.random() < 0.5:
        return (x + 0.3 * rng.normal() * x * np.abs(x)).astype(np.float32)
    cx, cy = rng.uniform(-0.5, 0.5, 2)
    return _single(np.hypot(x - cx, y - cy))


def _stripes(rng: np.random.Generator, size: int) -> Tile:
    """Draw planks, corrugated sheets, blinds or books on a shelf."""
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
    return _single(tile)


def _bricks(rng: np.random.Generator, size: int) -> Tile:
    """Draw bricks, tiles, paving or windows: rows of boxes with joints."""
    x, y = _axes(rng, size)
    rows, columns = rng.uniform(3, 14), rng.uniform(2, 9)
    row = np.floor(y * rows)
    shifted = x * columns + (row % 2) * rng.choice([0.0, 0.5])
    column = np.floor(shifted)
    levels = rng.normal(size=(64, 64))
    tile = rng.uniform(0.2, 1.0) * levels[row.astype(int) % 64, column.astype(int) % 64]
    joint = rng.uniform(0.02, 0.12)
    inside = (y * rows - row > joint) & (shifted - column > joint * columns / rows)
    return _single(np.where(inside, tile, rng.choice([-2.5, 2.5])))


def _checks(rng: np.random.Generator, size: int) -> Tile:
    """Draw checks, cloth or dots of print."""
    x, y = _axes(rng, size)
    count = rng.uniform(4, 28)
    if rng.random() < 0.5:
        return _single(np.sin(x * count * np.pi * 2) * np.sin(y * count * np.pi * 2))
    fx, fy = (x * count) % 1.0 - 0.5, (y * count) % 1.0 - 0.5
    return _soft_steps((rng.uniform(0.15, 0.45) - np.hypot(fx, fy)).astype(np.float32), 0.1)


def _leaves(rng: np.random.Generator, size: int) -> Tile:
    """Draw foliage, gravel or people out of focus: blobs of a few levels."""
    tile = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(2, 5))):
        blobs = normalize(_spectral(rng, size, rng.uniform(1.2, 2.4), 1.0, rng.uniform(0.0, 6.0)))
        tile += rng.normal() * _soft_steps(blobs - rng.uniform(-0.4, 0.4), rng.uniform(0.02, 0.3))
    return tile


def _edges(rng: np.random.Generator, size: int) -> Tile:
    """Draw shop fronts, frames, poles or shadows: large areas with straight edges."""
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
    """Draw scratches, wires, cracks or folds."""
    tile = 0.4 * normalize(_cloud(rng, size))
    for _ in range(int(rng.integers(3, 14))):
        x, y = _axes(rng, size)
        bend = rng.uniform(-0.3, 0.3) * y * y + rng.uniform(-0.4, 0.4)
        width = rng.uniform(0.002, 0.01)
        tile = tile + rng.normal() * 1.5 * _soft_steps((width - np.abs(x - bend)).astype(np.float32), width)
    return _single(tile)


def _folds(rng: np.random.Generator, size: int) -> Tile:
    """Draw cloth, paper or a flag in the wind."""
    x, y = _axes(rng, size)
    bend = normalize(_spectral(rng, size, 2.5)) * rng.uniform(0.1, 0.4)
    waves = np.sin((x + bend) * 2 * np.pi * rng.uniform(1.0, 6.0)) + 0.5 * np.sin((x - 0.4 * y) * 2 * np.pi * 3.0)
    return _single(waves)


def _planks(rng: np.random.Generator, size: int) -> Tile:
    """Draw boards, each cut from another place of the tree, with joints."""
    fibres = _enlarged(rng.normal(size=(size, max(2, size // int(rng.integers(12, 40))))), size)
    grain = normalize(fibres) + rng.uniform(0.0, 1.0) * normalize(_enlarged(rng.normal(size=(size // 8, 3)), size))
    edges = np.sort(rng.uniform(0, size, int(rng.integers(2, 9))))
    rows = np.arange(size)
    board = np.searchsorted(edges, rows)
    moved = rng.integers(0, size, len(edges) + 1)[board]
    columns = (rows[None, :] + moved[:, None]) % size
    tile = rng.uniform(0.2, 0.6) * grain[rows[:, None], columns]
    tile = tile + rng.uniform(0.3, 1.2) * rng.normal(size=len(edges) + 1)[board][:, None]
    joint = np.abs(rows[:, None] - edges).min(axis=1) < size * rng.uniform(0.003, 0.012)
    tile = np.where(joint[:, None], tile.min(), tile)
    return _single(tile.T if rng.random() < 0.5 else tile)


def _foliage(rng: np.random.Generator, size: int) -> Tile:
    """Draw leaves over leaves, lighter in front."""
    image = Image.new("F", (size, size), -1.0)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(60, 300))
    length = size * rng.uniform(0.9, 1.8) / np.sqrt(count)
    hang, spread, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 3.0), rng.uniform(0.15, 0.5)
    outline = np.array([[-1, 0], [-0.5, 0.7], [0.1, 1], [0.6, 0.6], [1, 0], [0.6, -0.6], [0.1, -1], [-0.5, -0.7]])
    for number in range(count):
        angle = hang + spread * rng.normal()
        points = outline * length * rng.uniform(0.6, 1.6) * [1.0, width]
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = points @ turn + rng.uniform(-0.1, 1.1, 2) * size
        draw.polygon(corners.ravel().tolist(), fill=float(2.0 * number / count - 1.0 + 0.5 * rng.normal()))
    return _blurred(np.asarray(image), size * 0.003)


def _lights(rng: np.random.Generator, size: int) -> Tile:
    """Draw a street out of focus: fronts, people, lamps."""
    image = Image.fromarray(2.0 * normalize(_spectral(rng, size, 2.0)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 16))):
        left, top = rng.uniform(-0.1, 1.0, 2) * size
        width, height = np.exp(rng.uniform(np.log(0.05), np.log(0.5), 2)) * size
        draw.rectangle((left, top, left + width, top + height), fill=float(2.0 * rng.normal()))
    radius = size * rng.uniform(0.01, 0.05)
    tile = _blurred(np.asarray(image), radius)
    if rng.random() < 0.5:  # an open lens makes discs of lamps
        image = Image.fromarray(tile)
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(3, 14))):
            x, y = rng.uniform(0.0, 1.0, 2) * size
            reach = 1.5 * radius * rng.uniform(0.8, 1.2)
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=float(rng.uniform(1.0, 4.0)))
        tile = 0.5 * tile + 0.5 * _blurred(np.asarray(image), 0.1 * radius)
    return tile


def _cells(rng: np.random.Generator, size: int) -> Tile:
    """Draw pebbles, paving, cracked paint or leather: cells of points nearest to a centre (Worley 1996)."""
    cells, half = int(rng.integers(4, 16)), size // 2
    centres = rng.uniform(0.0, 1.0, (cells + 2, cells + 2, 2)).astype(np.float32)
    line = (np.arange(half, dtype=np.float32) + 0.5) / half * cells
    own = line.astype(int)
    nearest = second = np.full((half, half), np.inf, dtype=np.float32)
    tone = np.zeros((half, half), dtype=np.float32)
    tones = rng.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    for down in (0, 1, 2):
        for across in (0, 1, 2):
            place = np.ix_(own + down, own + across)
            y = (own + down - 1 - line)[:, None] + centres[..., 0][place]
            x = (own + across - 1 - line)[None, :] + centres[..., 1][place]
            distance = np.sqrt(y * y + x * x)
            tone = np.where(distance < nearest, tones[place], tone)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    joint = np.minimum((second - nearest) / rng.uniform(0.05, 0.4), 1.0)
    tile = rng.uniform(0.5, 2.0) * joint - rng.uniform(0.0, 1.5) * nearest + rng.uniform(0.0, 0.6) * tone
    return _enlarged(tile, size)


def _panes(rng: np.random.Generator, size: int) -> Tile:
    """Draw windows, doors, shop fronts or sign panels: boxes in boxes, each in another light."""
    tile = np.zeros((size, size), dtype=np.float32)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    frame, level = int(size * rng.uniform(0.004, 0.03)) + 1, rng.choice([-2.0, 2.0]) * rng.uniform(0.6, 1.2)
    boxes = [(0, 0, size, size)]
    for _ in range(int(rng.integers(2, 16))):
        # Usually the largest is divided, so that their sizes differ by a few times, not by a hundred.
        boxes.sort(key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        top, left, bottom, right = boxes.pop(-1 if rng.random() < 0.6 else int(rng.integers(len(boxes))))
        share = rng.uniform(0.2, 0.8)
        if (bottom - top) * rng.uniform(0.5, 2.0) > right - left:
            cut = top + int((bottom - top) * share)
            boxes += [(top, left, cut, right), (cut, left, bottom, right)]
        else:
            cut = left + int((right - left) * share)
            boxes += [(top, left, bottom, cut), (top, cut, bottom, right)]
    for top, left, bottom, right in boxes:
        height, width = bottom - top, right - left
        slopes = rng.normal(size=2) * 0.8 * (rng.random() < 0.7)
        light = rng.normal() + slopes[0] * line[:height, None] + slopes[1] * line[None, :width]
        tile[top:bottom, left:right] = level
        tile[top + frame : bottom, left + frame : right] = light[frame:, frame:]
    return tile


def _print(rng: np.random.Generator, size: int) -> Tile:
    """Draw printed grey: a raster of dots of different sizes."""
    x, y = _axes(rng, size)
    count = rng.uniform(12, 50)
    raster = np.cos(x * count * np.pi * 2) + np.cos(y * count * np.pi * 2)
    return _soft_steps((raster - 2.0 * normalize(_spectral(rng, size, 2.2))).astype(np.float32), 0.8)


def _blurred(tile: Tile, radius: float) -> Tile:
    """Blur by Pillow, on bytes, with three boxes for a Gaussian; the range of values becomes [-1, 1]."""
    low, high = float(tile.min()), float(tile.max())
    grey = np.uint8((tile - low) * (255.0 / max(high - low, 1e-6)))
    return np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 127.5 - 1.0


def _enlarged(values: npt.NDArray[np.floating], size: int) -> Tile:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


PATTERNS: tuple[tuple[_Maker, float], ...] = (
    (_cloud, 2.5), (_grain, 1.2), (_brushed, 1.2), (_rings, 0.6), (_slope, 1.2), (_stripes, 1.0), (_bricks, 1.0),
    (_checks, 0.5), (_leaves, 1.0), (_edges, 2.0), (_scratches, 0.8), (_folds, 0.8), (_planks, 1.0), (_foliage, 1.2),
    (_lights, 2.0), (_cells, 1.0), (_panes, 1.5), (_print, 0.4),
)  # fmt: skip
"""Makers of patterns and their weights."""

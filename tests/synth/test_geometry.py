"""Shapes of words: pixels look at where the word's own bends and turns put them, and the crop holds the ink."""

from typing import Any

import numpy as np
import pytest
import torch

from crnn.config.synth import StyleConfig
from crnn.synth.geometry import Geometry, text_coordinates
from crnn.synth.rng import SampleRandom

pytestmark = pytest.mark.usefixtures("one_thread")

STILL: dict[str, Any] = {
    "stretch": 0.0, "slant_share": 0.0, "rotate_degrees": 0.0, "tilt_share": 0.0, "perspective_share": 0.0,
    "arc_share": 0.0, "wave_share": 0.0, "elastic_share": 0.0, "margin": 0.0, "loose_share": 0.0, "cut": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "straight": {},
    "stretched": {"stretch": 0.3},
    "slanted": {"slant_share": 1.0, "slant": 0.6},
    "turned": {"rotate_degrees": 10.0},
    "tilted": {"tilt_share": 1.0, "tilt_degrees": 90.0},
    "in perspective": {"perspective_share": 1.0, "perspective": 0.3},
    "arc": {"arc_share": 1.0, "arc_degrees": 150.0},
    "wave": {"wave_share": 1.0, "wave": 0.3},
    "all": {
        "stretch": 0.2, "slant_share": 0.5, "rotate_degrees": 5.0, "tilt_share": 0.2, "tilt_degrees": 40.0,
        "perspective_share": 0.6, "perspective": 0.2, "arc_share": 0.4, "wave_share": 0.5, "wave": 0.2,
    },
}  # fmt: skip
BENT = ("arc", "wave", "all")
SHAPE = (48, 150)


def style(kind: str = "straight", **changes: Any) -> StyleConfig:
    return StyleConfig(**{**STILL, **KINDS[kind], **changes})


def random(count: int) -> SampleRandom:
    return SampleRandom(5, np.arange(count))


def ratios(count: int) -> np.ndarray:
    """From a single letter to a long line."""
    return SampleRandom(6, np.arange(count)).log_uniform("ratio", 0.4, 12.0)


def drawn(some: StyleConfig, count: int = 30, room: float | np.ndarray = 0.0) -> Geometry:
    return Geometry.draw(random(count), ratios(count), some, SHAPE, np.broadcast_to(room, (count, 4)))


def coordinates(geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    return text_coordinates(geometry, torch.device("cpu"))


def fields(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    u, v = coordinates(geometry)
    assert u.shape == v.shape == (len(geometry.ratio), *geometry.shape)
    return u.numpy().astype(float), v.numpy().astype(float)


def pixels_of(geometry: Geometry, row: int, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map places in a word to columns and rows of the image: the way there, from its definition."""
    height, length, phase = geometry.wave[row]
    v = v + height * np.sin(2.0 * np.pi * u / length + phase)
    x, y, radius = u, v, geometry.radius[row]
    if np.isfinite(radius):
        # The baseline is a circle about (0, radius), which the middle of the word touches.
        turned = (radius - v) * np.exp(1j * (u / radius))
        x, y = turned.imag, radius - turned.real
    forward = np.linalg.inv(geometry.inverse[row])
    found = np.einsum("ij,j...->i...", forward, np.stack([x, y, np.ones_like(x)]))
    return found[0] / found[2], found[1] / found[2]


def edges(geometry: Geometry, row: int) -> np.ndarray:
    """Return how far the ink reaches in the image: left, top, right, bottom in pixels."""
    along = np.linspace(-0.5, 0.5, 201)
    sides = [(along, -0.5), (along, 0.5), (-0.5, along), (0.5, along)]
    u, v = (np.concatenate([np.broadcast_to(side[i], 201) for side in sides]) for i in (0, 1))
    x, y = pixels_of(geometry, row, u * geometry.ratio[row], v)
    return np.array([x.min(), y.min(), x.max(), y.max()])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pixel_looks_at_is_drawn_at_that_pixel(kind: str) -> None:
    geometry = drawn(style(kind))
    u, v = fields(geometry)
    rows, columns = np.indices(SHAPE)
    assert (np.isfinite(geometry.radius) | (geometry.wave[:, 0] > 0.0)).any() == (kind in BENT)
    for n, ratio in enumerate(geometry.ratio):
        ink = (np.abs(u[n]) <= ratio / 2 + 0.1) & (np.abs(v[n]) <= 0.5)
        assert ink.sum() > 50
        x, y = pixels_of(geometry, n, u[n][ink], v[n][ink])
        assert np.abs(x - columns[ink]).max() < 0.02, n
        assert np.abs(y - rows[ink]).max() < 0.02, n
        # Without margins the crop is the box of the ink. Bends are followed at 13 points on either side of the word.
        slack = np.tile(0.025 * np.array(SHAPE[::-1]), 2) if kind in BENT else 0.01
        assert (np.abs(edges(geometry, n) - [-0.5, -0.5, SHAPE[1] - 0.5, SHAPE[0] - 0.5]) <= slack).all(), n


def test_straight_text_fills_the_image() -> None:
    geometry = drawn(style())
    assert (geometry.ratio == ratios(30)).all()
    assert geometry.crop == pytest.approx(np.stack([np.ones(30), geometry.ratio], axis=1))
    assert geometry.text_height == pytest.approx(SHAPE[0])
    assert geometry.text_width == pytest.approx(SHAPE[1])
    u, v = fields(geometry)
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in SHAPE)
    assert u / geometry.ratio[:, None, None] == pytest.approx(np.broadcast_to(across, u.shape), abs=1e-5)
    assert v == pytest.approx(np.broadcast_to(down[:, None], v.shape), abs=1e-5)


def test_a_stretch_changes_the_width_alone() -> None:
    geometry = drawn(style("stretched"), 400)
    change = np.log(geometry.ratio / ratios(400))
    assert change.std() == pytest.approx(0.3, abs=0.04)
    assert change.mean() == pytest.approx(0.0, abs=0.05)
    assert geometry.crop[:, 0] == pytest.approx(1.0)


def test_slants_and_turns_are_as_strong_as_set() -> None:
    def change(kind: str) -> np.ndarray:
        """(N, 2, 2): d(u, v) / d(x, y) in text heights; maps without perspective are the same everywhere."""
        geometry = drawn(style(kind), 200)
        pixel = geometry.crop[:, ::-1] / np.array(SHAPE[::-1])
        return geometry.inverse[:, :2, :2] / geometry.inverse[:, 2:, 2:] / pixel[:, None, :]

    slanted = change("slanted")
    assert slanted[:, 0, 0] == pytest.approx(1.0)
    assert slanted[:, 1] == pytest.approx(np.broadcast_to([0.0, 1.0], (200, 2)))
    lean = slanted[:, 0, 1]  # what is higher up (smaller y) is further to the right: u grows with y
    assert 0.5 < np.abs(lean).max() <= 0.6
    assert 0.8 < (lean > 0.0).mean() < 0.98
    for kind, most in (("turned", 30.0), ("tilted", 90.0)):
        turned = change(kind)
        assert turned @ turned.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(2), turned.shape), abs=1e-9)
        degrees = np.degrees(np.arctan2(turned[:, 0, 1], turned[:, 0, 0]))
        assert 0.6 * most < np.abs(degrees).max() <= most + 1e-6
        assert 0.35 < (degrees > 0.0).mean() < 0.65


def test_perspective_makes_one_end_smaller_by_what_is_set() -> None:
    geometry = drawn(style("in perspective"), 200)
    heights, widths = [], []
    for n, ratio in enumerate(geometry.ratio):
        corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * (ratio, 1.0)
        x, y = pixels_of(geometry, n, *corners.T)
        heights.append((y[3] - y[0]) / (y[2] - y[1]))
        widths.append((x[1] - x[0]) / (x[2] - x[3]))
    for quotients in (np.array(heights), np.array(widths)):
        assert (quotients > 0.0).all()
        assert 0.35 < (quotients > 1.0).mean() < 0.65
        assert quotients.max() > 1.5


def test_circles_and_waves_are_as_strong_as_set() -> None:
    geometry = drawn(style(arc_share=0.6, wave_share=1.0, arc_degrees=150.0, wave=0.3), 300)
    arcs = np.isfinite(geometry.radius)
    assert ((geometry.wave[:, 0] > 0.0) == ~arcs).all()  # no word has both
    assert geometry.wave[:, 0].max() <= 0.3
    radius = geometry.radius[arcs]
    assert np.abs(radius).min() > 0.5  # or the inner edge of the letters would turn inside out
    degrees = np.degrees(geometry.ratio[arcs] / np.abs(radius))
    assert 0.8 * 150.0 < degrees.max() <= 150.0 + 1e-9
    assert 0.5 < (radius > 0.0).mean() < 0.8
    u, v = fields(geometry)
    # On a hill the ends are low, so that the same row shows there what is further up.
    middle, end = v[arcs, SHAPE[0] // 2, SHAPE[1] // 2], v[arcs, SHAPE[0] // 2, 0]
    assert ((middle > end) == (radius > 0.0)).all()
    swing = np.abs(v[~arcs] - v[~arcs].mean(axis=2, keepdims=True)).max(axis=(1, 2))
    assert 0.05 < swing.min() < swing.max() <= 0.6
    assert np.gradient(u[~arcs], axis=1) == pytest.approx(0.0, abs=1e-4)  # letters stay upright


def test_an_uneven_surface_moves_points_by_what_is_set() -> None:
    uneven = fields(drawn(style("all", elastic_share=0.5, elastic=0.1, arc_share=0.0, wave_share=0.0)))
    even = fields(drawn(style("all", arc_share=0.0, wave_share=0.0)))
    moved = [np.abs(b - a).max(axis=(1, 2)) for a, b in zip(even, uneven, strict=True)]
    rows = moved[0] > 0.0
    assert 8 < rows.sum() < 22
    for some in moved:
        assert (some > 0.0).tolist() == rows.tolist()
        assert some.max() <= 0.1
        assert some[rows].min() > 0.01


def sides(geometry: Geometry) -> np.ndarray:
    """(N, 4) space left, right, above, below the ink, in text heights."""
    ink = np.array([edges(geometry, row) for row in range(len(geometry.ratio))])
    space = np.stack([ink[:, 0] + 0.5, SHAPE[1] - 0.5 - ink[:, 2], ink[:, 1] + 0.5, SHAPE[0] - 0.5 - ink[:, 3]], axis=1)
    height, width = (geometry.crop / np.array(SHAPE)).T  # of a pixel
    return space * np.stack([width, width, height, height], axis=1)


def test_margins_are_what_is_set() -> None:
    found = sides(drawn(style(margin=0.2, cut=0.03), 400))
    assert found.min() == pytest.approx(-0.03, abs=1e-6)
    assert np.median(found) == pytest.approx(0.1, abs=0.02)
    assert np.quantile(found, 0.99) < 0.4
    common = found.mean(axis=1)
    assert np.corrcoef(found[:, 0], found[:, 3])[0, 1] > 0.3  # sides differ a little from what they have in common
    assert common.std() > 0.04
    assert sides(drawn(style(margin=0.2), 400)).min() >= -1e-9


def test_loose_crops_have_space_at_some_sides() -> None:
    found = sides(drawn(style(loose_share=0.5, loose=0.8), 400))
    loose = found > 1e-6
    assert 0.35 < loose.any(axis=1).mean() < 0.6
    assert loose.mean() / loose.any(axis=1).mean() == pytest.approx(0.6, abs=0.06)
    assert found.max() <= 0.8
    assert found[loose].min() >= 0.08 - 1e-6


def test_room_is_left_in_the_place_of_a_margin() -> None:
    """With a margin besides, all of another word there would be seen."""
    room = np.zeros((30, 4))
    room[np.arange(30), np.arange(30) % 4] = 0.1 + np.arange(30) / 30
    some = style("slanted", margin=0.1, loose_share=0.5, loose=0.8)
    plain, found = sides(drawn(some)), sides(drawn(some, room=room))
    assert found == pytest.approx(np.where(room > 0.0, room, plain), abs=1e-6)


def test_lines_keep_letters_that_can_be_read() -> None:
    count = 400
    some = style("all", loose_share=0.5, loose=1.0, arc_degrees=90.0)
    long, room = np.full(count, 25.0), np.zeros((count, 4))
    words = Geometry.draw(random(count), long, some, SHAPE, room, (0.1, 10.0))
    lines = Geometry.draw(random(count), long, some, SHAPE, room, (0.1, 10.0), np.arange(count) % 2 == 0)
    assert np.array_equal(lines.inverse[1::2], words.inverse[1::2])
    assert (lines.crop[::2, 0] <= words.crop[::2, 0]).all()
    assert np.quantile(words.crop[:, 0], 0.9) > 2.7  # letters are 12 of 32 pixels high
    assert np.quantile(lines.crop[::2, 0], 0.9) < 2.1


def test_behind_a_horizon_nothing_comes_again() -> None:
    """Without care the other half of the plane would be seen in a wide crop in strong perspective, mirrored."""
    geometry = drawn(style(perspective_share=1.0, perspective=0.45), 200, room=3.0)
    u, v = fields(geometry)
    rows, columns = np.indices(SHAPE)
    pixels = np.stack([columns, rows, np.ones_like(rows)])
    horizons = 0
    for n in range(200):
        horizons += (np.einsum("j,jhw->hw", geometry.inverse[n][2], pixels) < 0.0).any()
        forward = np.linalg.inv(geometry.inverse[n])
        assert (forward[2, 0] * u[n] + forward[2, 1] * v[n] + forward[2, 2]).min() > 0.0
    assert horizons > 20
    assert np.isfinite(u).all()
    assert np.isfinite(v).all()

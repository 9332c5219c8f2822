"""Shapes of words: what a pixel looks at is where the word's own bends and turns put it, and the crop holds the ink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from crnn.config.synth import StyleConfig
from crnn.synth.geometry import Geometry, text_coordinates
from crnn.synth.rng import SampleRandom

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
    "arc": {"arc_share": 1.0, "arc_degrees": 90.0},
    "strong arc": {"arc_share": 1.0, "arc_degrees": 150.0},
    "wave": {"wave_share": 1.0, "wave": 0.3},
    "all": {
        "stretch": 0.2, "slant_share": 0.5, "rotate_degrees": 5.0, "tilt_share": 0.2, "tilt_degrees": 40.0,
        "perspective_share": 0.6, "perspective": 0.2, "arc_share": 0.4, "wave_share": 0.5, "wave": 0.2,
    },
}  # fmt: skip
CPU = torch.device("cpu")
SHAPE = (48, 150)


def style(kind: str = "straight", **changes: Any) -> StyleConfig:
    return StyleConfig(**{**STILL, **KINDS[kind], **changes})


def drawn(some: StyleConfig, count: int = 30, shape: tuple[int, int] = SHAPE, **options: Any) -> Geometry:
    """Words from a single letter to a long line."""
    return Geometry.draw(random(count), ratios(count), some, shape, **options)


def random(count: int) -> SampleRandom:
    return SampleRandom(5, np.arange(count))


def ratios(count: int) -> np.ndarray:
    return SampleRandom(6, np.arange(count)).log_uniform("ratio", 0.4, 12.0)


def fields(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    u, v = text_coordinates(geometry, CPU)
    assert (u.dtype, v.dtype) == (torch.float32, torch.float32)
    assert u.shape == v.shape == (len(geometry.ratio), *geometry.shape)
    return u.numpy().astype(float), v.numpy().astype(float)


def pixels_of(geometry: Geometry, row: int, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way there, written from its definition: places in a word -> column and row of the image."""
    if row in geometry.wave_rows:
        height, length, phase = geometry.wave[list(geometry.wave_rows).index(row)]
        v = v + height * np.sin(2.0 * np.pi * u / length + phase)
    x, y = u, v
    if row in geometry.arc_rows:
        # The baseline is a circle about (0, radius), which the middle of the word touches.
        radius = geometry.radius[list(geometry.arc_rows).index(row)]
        turned = (radius - v) * np.exp(1j * (u / radius))
        x, y = turned.imag, radius - turned.real
    forward = np.linalg.inv(geometry.inverse[row])
    found = np.einsum("ij,j...->i...", forward, np.stack([x, y, np.ones_like(x)]))
    return found[0] / found[2], found[1] / found[2]


def outline(ratio: float, points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    along = np.linspace(-0.5, 0.5, points)
    edges = [(along, -0.5), (along, 0.5), (-0.5, along), (0.5, along)]
    u, v = (np.concatenate([np.broadcast_to(e[i], points) for e in edges]) for i in (0, 1))
    return u * ratio, v


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- there and back


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pixel_looks_at_is_drawn_at_that_pixel(kind: str) -> None:
    geometry = drawn(style(kind))
    u, v = fields(geometry)
    rows, columns = np.indices(SHAPE)
    bent = set(geometry.arc_rows) | set(geometry.wave_rows)
    assert bool(bent) == (kind in ("arc", "strong arc", "wave", "all"))
    for n, ratio in enumerate(geometry.ratio):
        ink = (np.abs(u[n]) <= ratio / 2 + 0.1) & (np.abs(v[n]) <= 0.5)
        assert ink.sum() > 50
        x, y = pixels_of(geometry, n, u[n][ink], v[n][ink])
        assert np.abs(x - columns[ink]).max() < 0.02, n
        assert np.abs(y - rows[ink]).max() < 0.02, n


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_never_mirrored(kind: str) -> None:
    geometry = drawn(style(kind, margin=0.4))
    u, v = fields(geometry)
    for n, ratio in enumerate(geometry.ratio):
        (ux, uy), (vx, vy) = ((np.gradient(f[n], axis=1), np.gradient(f[n], axis=0)) for f in (u, v))
        ink = (np.abs(u[n]) <= ratio / 2) & (np.abs(v[n]) <= 0.5)
        assert (ux * vy - uy * vx)[ink].min() > 0.0, n


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_without_margins_is_the_box_of_the_ink(kind: str) -> None:
    geometry = drawn(style(kind))
    for n, ratio in enumerate(geometry.ratio):
        x, y = pixels_of(geometry, n, *outline(ratio))
        # Ends of pixels; bends are followed at 13 points on either side of the word.
        slack = 0.025 * np.array(SHAPE[::-1]) if kind in ("arc", "strong arc", "wave", "all") else np.full(2, 0.01)
        found = np.array([x.min(), y.min(), x.max(), y.max()])
        expected = np.array([-0.5, -0.5, SHAPE[1] - 0.5, SHAPE[0] - 0.5])
        assert (np.abs(found - expected) <= np.tile(slack, 2)).all(), (n, found)


# ---- each kind


def scale(geometry: Geometry) -> np.ndarray:
    """(N, 2) width and height of a pixel in text heights."""
    return geometry.crop[:, ::-1] / np.array(geometry.shape[::-1])


def jacobians(geometry: Geometry) -> np.ndarray:
    """(N, 2, 2) how (u, v) change with x and y in text heights, in the middle of each image."""
    middle = (geometry.shape[0] // 2, geometry.shape[1] // 2)
    both = fields(geometry)
    changes = [
        [(np.gradient(f[n], axis=1)[middle], np.gradient(f[n], axis=0)[middle]) for f in both]
        for n in range(len(geometry.ratio))
    ]
    return np.array(changes) / scale(geometry)[:, None, :]


def test_straight_text_fills_the_image() -> None:
    geometry = drawn(style())
    assert (geometry.ratio == ratios(30)).all()
    assert geometry.crop[:, 0] == pytest.approx(1.0)
    assert geometry.crop[:, 1] == pytest.approx(geometry.ratio)
    assert geometry.text_height == pytest.approx(SHAPE[0])
    assert geometry.text_width == pytest.approx(SHAPE[1])
    u, v = fields(geometry)
    expected = (np.arange(SHAPE[1]) + 0.5) / SHAPE[1] - 0.5
    assert u / geometry.ratio[:, None, None] == pytest.approx(np.broadcast_to(expected, u.shape), abs=1e-5)
    assert v == pytest.approx(
        np.broadcast_to(((np.arange(SHAPE[0]) + 0.5) / SHAPE[0] - 0.5)[:, None], v.shape), abs=1e-5
    )


def test_a_stretch_changes_the_width_alone() -> None:
    geometry = drawn(style("stretched"), 400)
    change = np.log(geometry.ratio / ratios(400))
    assert change.std() == pytest.approx(0.3, abs=0.04)
    assert change.mean() == pytest.approx(0.0, abs=0.05)
    assert geometry.crop[:, 0] == pytest.approx(1.0)


def test_slanted_text_leans_and_stays_upright() -> None:
    found = jacobians(drawn(style("slanted"), 200, (32, 64)))
    assert found[:, 0, 0] == pytest.approx(1.0, abs=1e-3)
    assert found[:, 1] == pytest.approx(np.broadcast_to([0.0, 1.0], (200, 2)), abs=1e-3)
    lean = found[:, 0, 1]  # what is higher up (smaller y) is further to the right: u grows with y
    assert np.abs(lean).max() <= 0.6
    assert np.abs(lean).max() > 0.5
    assert 0.8 < (lean > 0.0).mean() < 0.98


@pytest.mark.parametrize(("kind", "most"), [("turned", 30.0), ("tilted", 90.0)])
def test_turned_text_keeps_its_shape(kind: str, most: float) -> None:
    found = jacobians(drawn(style(kind), 200, (32, 64)))
    assert found @ found.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(2), found.shape), abs=2e-3)
    degrees = np.degrees(np.arctan2(found[:, 0, 1], found[:, 0, 0]))
    assert np.abs(degrees).max() <= most + 0.1
    assert np.abs(degrees).max() > 0.6 * most
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


@pytest.mark.parametrize(("kind", "most"), [("arc", 90.0), ("strong arc", 150.0)])
def test_words_lie_on_circles_of_both_kinds(kind: str, most: float) -> None:
    geometry = drawn(style(kind), 200)
    assert len(geometry.arc_rows) == 200
    assert np.abs(geometry.radius).min() > 0.5  # or the inner edge of the letters would turn inside out
    degrees = np.degrees(geometry.ratio / np.abs(geometry.radius))
    assert degrees.max() <= most + 1e-9
    assert degrees.max() > 0.8 * most
    assert 0.5 < (geometry.radius > 0.0).mean() < 0.8
    _, v = fields(geometry)
    middle, end = v[:, SHAPE[0] // 2, SHAPE[1] // 2], v[:, SHAPE[0] // 2, 0]
    # On a hill the ends are low, so that the same row shows there what is further up.
    assert ((middle > end) == (geometry.radius > 0.0)).all()


def test_a_wave_is_no_higher_than_what_is_set() -> None:
    geometry = drawn(style("wave"), 100)
    u, v = fields(geometry)
    assert len(geometry.wave_rows) == 100
    assert geometry.wave[:, 0].max() <= 0.3
    straight = v.mean(axis=2, keepdims=True)
    swing = np.abs(v - straight).max(axis=(1, 2))
    assert swing.max() <= 0.6
    assert swing.min() > 0.05
    assert np.gradient(u, axis=1) == pytest.approx(0.0, abs=1e-4)  # letters stay upright


def test_no_word_is_on_a_circle_and_a_wave() -> None:
    geometry = drawn(style(arc_share=0.6, wave_share=1.0), 300)
    assert sorted([*geometry.arc_rows, *geometry.wave_rows]) == list(range(300))


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


# ---- crops


def sides(geometry: Geometry) -> np.ndarray:
    """(N, 4) space left, right, above, below the ink, in text heights."""
    found = []
    for n, ratio in enumerate(geometry.ratio):
        x, y = pixels_of(geometry, n, *outline(ratio))
        width, height = scale(geometry)[n]
        left, top = (x.min() + 0.5) * width, (y.min() + 0.5) * height
        right, bottom = (SHAPE[1] - 0.5 - x.max()) * width, (SHAPE[0] - 0.5 - y.max()) * height
        found.append((left, right, top, bottom))
    return np.array(found)


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


def test_room_is_left_where_it_is_asked_for() -> None:
    room = np.zeros((30, 4))
    room[np.arange(30), np.arange(30) % 4] = 0.1 + np.arange(30) / 30
    plain, found = drawn(style("slanted", margin=0.1)), drawn(style("slanted", margin=0.1), room=room)
    assert sides(found) - sides(plain) == pytest.approx(room, abs=1e-6)


def test_behind_a_horizon_nothing_comes_again() -> None:
    """A strong perspective and a wide crop: without care the other half of the plane would be seen there, mirrored."""
    strong = style(perspective_share=1.0, perspective=0.45)
    geometry = drawn(strong, 200, (32, 100), room=np.full((200, 4), 3.0))
    u, v = fields(geometry)
    rows, columns = np.indices((32, 100))
    horizons = 0
    for n in range(200):
        depth = np.einsum("j,jhw->hw", geometry.inverse[n][2], np.stack([columns, rows, np.ones_like(rows)]))
        horizons += (depth < 0.0).any()
        forward = np.linalg.inv(geometry.inverse[n])
        assert (forward[2, 0] * u[n] + forward[2, 1] * v[n] + forward[2, 2]).min() > 0.0
    assert horizons > 20
    assert np.isfinite(u).all()
    assert np.isfinite(v).all()


# ---- alone and together


def test_a_shape_does_not_depend_on_the_others() -> None:
    some = style("all", elastic_share=0.3, margin=0.2, loose_share=0.2, cut=0.03)
    count, shape = 64, (32, 100)
    every = ratios(count)
    whole = Geometry.draw(random(count), every, some, shape)
    u, v = text_coordinates(whole, CPU)
    for n in range(count):
        row = np.array([n])
        alone = Geometry.draw(random(count).rows(row), every[row], some, shape)
        assert (alone.inverse == whole.inverse[row]).all()
        assert (alone.crop == whole.crop[row]).all()
        for one, together in zip(text_coordinates(alone, CPU), (u, v), strict=True):
            assert torch.equal(one[0], together[n]), n


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_shape_does_not_depend_on_the_number_of_threads(threads: int) -> None:
    """Threads end in the middle of an image, and what is computed last in each must not round differently."""
    geometry = drawn(style("all", arc_share=1.0, elastic_share=0.3), 61, (32, 100))
    torch.set_num_threads(1)
    alone = text_coordinates(geometry, CPU)
    torch.set_num_threads(threads)
    for one, together in zip(text_coordinates(geometry, CPU), alone, strict=True):
        assert torch.equal(one, together)


@pytest.mark.parametrize("kind", KINDS)
def test_no_words_have_no_shapes(kind: str) -> None:
    u, v = fields(drawn(style(kind, elastic_share=0.5), 0))
    assert u.shape == v.shape == (0, *SHAPE)

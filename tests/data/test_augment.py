"""Augmentation: what each strength does, what none of them may do, and that a seed decides all of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from crnn.config.training import AugmentConfig
from crnn.data.augment import MAX_GROWTH, MAX_HEIGHT, augment

STRONGEST = {
    "rotate_degrees": 45.0, "shear": 1.0, "perspective": 0.5, "crop": 0.3, "stretch": 0.9, "contrast": 1.0,
    "invert": 1.0, "blur": 5.0, "noise": 64.0, "low_resolution": 8.0,
}  # fmt: skip
OFF = {name: float(name == "low_resolution") for name in STRONGEST}
GEOMETRY = ("rotate_degrees", "shear", "perspective", "crop", "stretch")


def only(**strengths: float) -> AugmentConfig:
    return AugmentConfig(probability=1.0, **{**OFF, **strengths})


def run(pixels: np.ndarray, config: AugmentConfig, seed: int = 0) -> np.ndarray:
    return augment(pixels, config, np.random.default_rng(seed))


def word(text: str = "Recogniser", height: int = 32, ground: int = 60, ink: int = 200) -> np.ndarray:
    font = ImageFont.load_default(size=0.62 * height)
    width = round(font.getlength(text) + 0.4 * height)
    image = Image.new("L", (width, height), ground)
    ImageDraw.Draw(image).text((width / 2, height / 2), text, fill=ink, font=font, anchor="mm")
    return np.array(image)[:, :, np.newaxis]


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two grey images, the second brought to the size of the first."""
    image = Image.fromarray(second[:, :, 0]).resize((first.shape[1], first.shape[0]), Image.Resampling.BICUBIC)
    return float(np.corrcoef(first.ravel(), np.asarray(image).ravel())[0, 1])


def roughness(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels.astype(float), axis=1)).mean())


sizes = st.tuples(st.integers(1, 120), st.integers(1, 160)) | st.sampled_from(
    [(1, 1), (1, 400), (400, 1), (2, 3), (41, 1)]
)
seeds = st.integers(0, 2**32 - 1)


# --- what decides the result -----------------------------------------------------------------------------------------


def test_a_seed_decides_the_result() -> None:
    pixels, config = word(), AugmentConfig(probability=1.0, stretch=0.2)
    before = pixels.copy()
    results = [run(pixels, config, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(pixels, before)
    assert results[0].shape == results[1].shape
    assert results[0].tobytes() == results[1].tobytes()
    assert results[0].tobytes() != results[2].tobytes()


def test_probability_zero_returns_the_image_and_draws_nothing() -> None:
    pixels, rng = word(), np.random.default_rng(0)
    state = rng.bit_generator.state
    assert augment(pixels, AugmentConfig(), rng) is pixels
    assert rng.bit_generator.state == state


def test_a_change_keeps_its_draws_when_another_is_switched_on() -> None:
    pixels = word()
    plain = only(rotate_degrees=10.0, shear=0.2, perspective=0.08, crop=0.06, stretch=0.2, low_resolution=2.0, blur=0.5)
    inverted = plain.model_copy(update={"invert": 1.0})
    for seed in range(10):
        first, second = run(pixels, plain, seed), run(pixels, inverted, seed)
        np.testing.assert_allclose(first.astype(int), 255 - second.astype(int), atol=2)


# --- every strength --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("height", [32, 100])
def test_each_strength_alone_changes_the_image(name: str, height: int) -> None:
    pixels = word(height=height)
    result = run(pixels, only(**{name: min(STRONGEST[name], 3 * (OFF[name] + 1.0))}))
    assert result.shape != pixels.shape or (result != pixels).any()


@pytest.mark.parametrize("shape", [(32, 100, 1), (300, 200, 3), (1, 1, 1)])
def test_all_strengths_off_leave_the_image_equal(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(run(pixels, only()), pixels)


def test_rotation_turns_without_stretching() -> None:
    # Images of their own coordinates: what the warp does to them is the map itself.
    along_x = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (40, 1))[:, :, np.newaxis]
    along_y = np.repeat(np.arange(0, 200, 5, dtype=np.uint8), 100).reshape(40, 100, 1)
    angles = []
    for seed in range(40):
        warped_x, warped_y = (
            run(p, only(rotate_degrees=20.0), seed)[:, :, 0].astype(float) for p in (along_x, along_y)
        )
        inside = (warped_x > 12) & (warped_x < 186) & (warped_y > 12) & (warped_y < 183)
        rows, columns = np.nonzero(inside)
        design = np.stack([columns, rows, np.ones(len(rows))], axis=1)
        (x_by_x, x_by_y, _), *_ = np.linalg.lstsq(design, warped_x[inside] / 2, rcond=None)
        (y_by_x, y_by_y, _), *_ = np.linalg.lstsq(design, warped_y[inside] / 5, rcond=None)
        turn = np.array([[x_by_x, x_by_y], [y_by_x, y_by_y]])
        np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=0.04)
        assert np.linalg.det(turn) > 0
        angles.append(np.degrees(np.arctan2(turn[0, 1], turn[0, 0])))
    assert -20.5 < min(angles) < -14
    assert 14 < max(angles) < 20.5


def test_the_canvas_holds_all_of_a_turned_image() -> None:
    pixels = np.zeros((40, 90, 1), dtype=np.uint8)
    pixels[2:6, 2:6] = pixels[2:6, -6:-2] = pixels[-6:-2, 2:6] = pixels[-6:-2, -6:-2] = 250
    for seed in range(30):
        result = run(pixels, only(rotate_degrees=45.0, shear=0.5), seed)
        assert int(result.sum()) == pytest.approx(int(pixels.sum()), rel=0.03)


def test_a_long_line_is_not_turned_until_it_is_unreadable() -> None:
    line = np.full((32, 1600, 1), 90, dtype=np.uint8)
    heights = [run(line, only(rotate_degrees=45.0), seed).shape[0] for seed in range(50)]
    assert 60 < max(heights) <= 32 * (1 + MAX_GROWTH) + 1


def test_crop_cuts_and_adds_margins_of_the_stated_size() -> None:
    # The brightness is the place, so that the image shows which rows of it are left.
    pixels = np.repeat(np.arange(0, 160, 4, dtype=np.uint8), 100).reshape(40, 100, 1)
    results = [run(pixels, only(crop=0.1), seed) for seed in range(200)]
    heights = [result.shape[0] for result in results]
    widths = [result.shape[1] for result in results]
    # Four pixels on either side at most, and more than one side alone could give.
    assert 32 <= min(heights) < 35
    assert 45 < max(heights) <= 48
    assert 92 <= min(widths) < 95
    assert 105 < max(widths) <= 108
    tops = [int(result[0, 50, 0]) for result in results]
    assert min(tops) == 0
    assert 8 <= max(tops) <= 16
    # A margin above is the first row again, not black and not a reflection.
    added = results[int(np.argmax(heights))]
    assert (np.diff(added[:, 50, 0].astype(int)) >= 0).all()


def test_invert_exchanges_light_and_dark() -> None:
    pixels = word()
    np.testing.assert_array_equal(run(pixels, only(invert=1.0)), 255 - pixels)
    inverted = sum((run(pixels, only(invert=0.25), seed) != pixels).any() for seed in range(400))
    assert 70 < inverted < 130


def test_contrast_changes_spread_and_level_within_the_stated_ranges() -> None:
    pixels = word(ground=110, ink=150)
    results = [run(pixels, only(contrast=0.4), seed).astype(float) for seed in range(200)]
    gains = np.array([result.std() for result in results]) / pixels.std()
    shifts = np.array([(result.min() + result.max()) / 2 for result in results]) - 130
    assert 0.58 < gains.min() < 0.7
    assert 1.3 < gains.max() < 1.42
    assert -52 < shifts.min() < -40
    assert 40 < shifts.max() < 52


@pytest.mark.parametrize(("ground", "ink"), [(225, 250), (30, 5), (128, 255)])
def test_text_stays_apart_from_its_ground_near_the_ends_of_the_range(ground: int, ink: int) -> None:
    pixels = word(ground=ground, ink=ink)
    for seed in range(100):
        result = run(pixels, only(contrast=0.5), seed)
        assert result.std() > 0.5 * 0.7 * pixels.std()
        assert correlation(pixels, result) > 0.9


def test_blur_follows_the_height_of_the_image() -> None:
    for height in (16, 32):
        stripes = np.tile(np.repeat(np.array([0, 255], dtype=np.uint8), height // 8), (height, 12))[:, :, np.newaxis]
        left = [np.ptp(run(stripes, only(blur=2.0), seed)[:, 10:-10]) / 255 for seed in range(40)]
        # Half a period of an eighth of the height: four pixels at 32, against a sigma of at most 2.
        assert 0.3 < min(left) < 0.7
        assert max(left) > 0.99


def test_noise_is_normal_with_a_deviation_up_to_the_strength() -> None:
    pixels = np.full((32, 150, 1), 128, dtype=np.uint8)
    noise = [run(pixels, only(noise=20.0), seed).astype(float) - 128 for seed in range(100)]
    deviations = np.array([values.std() for values in noise])
    assert deviations.max() < 20.8
    assert deviations.max() > 19
    assert deviations.mean() == pytest.approx(10, abs=1.5)
    strong = noise[int(deviations.argmax())]
    assert abs(strong.mean()) < 1
    assert (np.abs(strong) < strong.std()).mean() == pytest.approx(0.683, abs=0.02)
    assert np.corrcoef(strong[:, 1:, 0].ravel(), strong[:, :-1, 0].ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_low_resolution_takes_detail_and_keeps_the_size() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (32, 100, 1), dtype=np.uint8)
    results = [run(pixels, only(low_resolution=4.0), seed) for seed in range(30)]
    assert {result.shape for result in results} == {pixels.shape}
    left = [roughness(result) / roughness(pixels) for result in results]
    assert min(left) < 0.15
    assert max(left) <= 1.0
    assert np.mean(left) < 0.5


# --- what must never happen ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(size=sizes, channels=st.sampled_from([1, 3]), seed=seeds, share=st.floats(0.0, 1.0))
def test_any_size_gives_an_image(size: tuple[int, int], channels: int, seed: int, share: float) -> None:
    strengths = {name: OFF[name] + share * (STRONGEST[name] - OFF[name]) for name in OFF}
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    result = run(pixels, AugmentConfig(probability=1.0, **strengths), seed)
    assert result.dtype == np.uint8
    assert result.ndim == 3
    assert result.shape[2] == channels
    assert min(result.shape) >= 1
    assert result.flags.c_contiguous
    assert result.flags.writeable
    # The canvas stays in proportion: nothing blows up near a horizon.
    long = max(size) * 2 + MAX_HEIGHT
    assert max(result.shape[:2]) <= 4 * long


@settings(deadline=None, max_examples=40)
@given(
    size=sizes,
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    seed=seeds,
    names=st.sets(st.sampled_from([*GEOMETRY, "blur", "low_resolution"]), min_size=1),
)
def test_a_plain_image_stays_plain_to_its_edges(
    size: tuple[int, int], colour: tuple[int, int, int], seed: int, names: set[str]
) -> None:
    pixels = np.broadcast_to(np.array(colour, dtype=np.uint8), (*size, 3)).copy()
    result = run(pixels, only(**{name: STRONGEST[name] for name in names}), seed)
    assert (result == np.array(colour, dtype=np.uint8)).all()
    grey = run(np.ascontiguousarray(pixels[:, :, :1]), only(**{name: STRONGEST[name] for name in names}), seed)
    assert (grey == colour[0]).all()


def test_channels_share_the_geometry_and_the_tones() -> None:
    grey = word()
    config = AugmentConfig(probability=1.0, noise=0.0, stretch=0.2)
    for seed in range(20):
        one, three = run(grey, config, seed), run(np.repeat(grey, 3, axis=2), config, seed)
        assert three.shape == (*one.shape[:2], 3)
        np.testing.assert_allclose(three.astype(int), np.broadcast_to(one, three.shape).astype(int), atol=1)

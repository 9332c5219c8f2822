"""Camera effects: as strong as set, each on its own, and a sample is the same in any batch."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from crnn.config.synth import CameraConfig
from crnn.synth.camera import apply_camera
from crnn.synth.filters import blur
from crnn.synth.rng import SampleRandom

pytestmark = pytest.mark.usefixtures("one_thread")

SHARES = [name for name in CameraConfig.model_fields if name.endswith("_share")]
OFF = dict.fromkeys([*SHARES, "low_resolution"], 0.0)
WORDS = ["Reading", "STREET", "Hotel", "1984", "coffee", "Market", "OPEN", "Bridge"]
OWN, LARGE = (32.0, 100.0), (64.0, 200.0)


def drawn(count, channels=1, height=32, width=100):
    """Words in grey on grey, ``(count, channels, height, width)``."""
    images = []
    for number in range(count):
        canvas = Image.new("L", (width, height), 200 - 5 * (number % 7))
        font = ImageFont.load_default(24)
        ImageDraw.Draw(canvas).text((4 + number % 5, 1), WORDS[number % len(WORDS)], 40 + 7 * (number % 9), font=font)
        grey = np.asarray(canvas, np.float32) / 255
        images.append(np.stack([grey * (1 - 0.2 * channel) for channel in range(channels)]))
    return torch.from_numpy(np.stack(images))


def take(images, native=LARGE, start=0, seed=3, **settings):
    count = len(images)
    config = CameraConfig(**(OFF | settings))
    size = np.broadcast_to(np.array(native, dtype=np.float64), (count, 2))
    return apply_camera(images, SampleRandom(seed, np.arange(start, start + count)), config, size)


def mixed_sizes(count):
    rng = np.random.default_rng(5)
    height = rng.uniform(10, 120, count)
    return np.stack([height, height * rng.uniform(0.6, 6, count)], axis=1)


def detail(images):
    return images.diff(dim=-1).square().mean((1, 2, 3)) + images.diff(dim=-2).square().mean((1, 2, 3))


# ---- the whole ----


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_off_returns_the_input_cut_off_to_black_and_white(channels):
    images = drawn(4, channels) * 1.6 - 0.3
    before = images.clone()
    assert torch.equal(take(images, native=(12.0, 30.0)), images.clamp(0, 1))
    assert torch.equal(images, before)
    flat = torch.full((32, channels, 32, 100), 0.5)  # without any contrast
    assert apply_camera(flat, SampleRandom(1, np.arange(32)), CameraConfig(), mixed_sizes(32)).isfinite().all()


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 32, 100), (3, 31, 37)])
def test_a_sample_looks_the_same_alone_in_any_batch_and_with_any_threads(channels, height, width):
    count = 64
    images, native = drawn(count, channels, height, width), mixed_sizes(count)
    everything = CameraConfig(**dict.fromkeys(SHARES, 0.5))
    together = apply_camera(images, SampleRandom(7, np.arange(count)), everything, native)
    assert together.is_contiguous()
    assert (together.shape, together.dtype) == (images.shape, torch.float32)
    assert 0 <= together.min() < together.max() <= 1
    torch.set_num_threads(3)
    for rows in (*np.arange(count)[:60:9, None], np.arange(5, 22), np.array([60, 2, 33])):
        some = apply_camera(images[rows], SampleRandom(7, rows), everything, native[rows])
        assert torch.equal(some, together[rows])


def test_one_effect_does_not_change_what_is_drawn_for_another():
    images = drawn(200)
    invert = (take(images, invert_share=0.3) != images).flatten(1).any(dim=1)
    noisy = take(images, invert_share=0.3, noise_share=1.0)
    dark = noisy.mean((1, 2, 3)) < 0.5  # all the words are dark on light
    assert torch.equal(dark, invert)
    assert 0.2 < invert.float().mean() < 0.4


def test_qualities_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="jpeg_worst 90 is above jpeg_best 60"):
        CameraConfig(jpeg_worst=90, jpeg_best=60)


# ---- light and exposure ----


def test_light_falls_off_smoothly_by_as_much_as_is_stated():
    images = torch.full((200, 1, 32, 100), 0.5)
    field = take(images, shade_share=1.0, shade=0.4) / 0.5 - 1
    assert 0.25 < field.abs().max() <= 0.4 + 1e-6
    assert field.diff(dim=-1).abs().max() < 0.05
    assert field.amax((1, 2, 3)).sub(field.amin((1, 2, 3))).median() > 0.05
    down, across = field.mean(3).std(dim=2).mean(), field.mean(2).std(dim=2).mean()
    assert 0.5 < down / across < 2


def test_glare_is_a_bright_spot():
    images = torch.full((50, 1, 32, 100), 0.2)
    added = take(images, glare_share=1.0, glare=0.5) - 0.2
    assert added.min() >= -1e-6
    assert added.max() <= 0.5 + 1e-6
    lit = (added > 0.05).float().mean((1, 2, 3))
    assert 0.02 < lit.median() < 0.6


@pytest.mark.parametrize("aim", [15.0, 25.0, 40.0])
def test_contrast_is_what_is_aimed_at(aim):
    result = take(drawn(60), contrast_share=1.0, contrast_middle=aim, contrast_spread=0.0, brightness=0.2) * 255
    deviation = result.flatten(1).std(dim=1)
    assert (deviation - aim).abs().max() < 0.08 * aim
    assert result.mean((1, 2, 3)).std() > 10


def test_extreme_contrast_and_brightness_do_not_wipe_text_out():
    settings = {"contrast_share": 1.0, "contrast_middle": 40.0, "contrast_spread": 0.0}
    result = take(drawn(60), **settings, brightness=1.0) * 255
    assert result.flatten(1).std(dim=1).min() > 0.75 * 40
    assert result.mean((1, 2, 3)).min() < 100
    assert result.mean((1, 2, 3)).max() > 195
    result = take(drawn(60), contrast_share=1.0, contrast_middle=15.0, contrast_spread=1.5, contrast_least=12.0) * 255
    assert result.flatten(1).std(dim=1).min() > 10.5


# ---- sharpness ----


@pytest.mark.parametrize("effect", ["blur", "defocus", "motion"])
def test_what_blurs_takes_detail_away_more_the_stronger_it_is(effect):
    images = drawn(64)
    before = detail(images)
    shares = [
        (detail(take(images, OWN, **{f"{effect}_share": 1.0, effect: strength})) / before).mean()
        for strength in (2.0, 3.0, 5.0)
    ]
    assert 0.9 > shares[0] > shares[1] > shares[2] > 0.02


def test_blur_in_pixels_of_the_file_is_finer_in_larger_files():
    images = drawn(64)
    found = [
        detail(take(images, size, blur_share=1.0, blur=1.5, low_resolution=1.0)).mean()
        for size in [OWN, (64, 200), (128, 400)]
    ]
    assert found[0] < 0.9 * found[1]
    assert found[1] < 0.98 * found[2]


# ---- pixels ----


def test_fewer_pixels_leave_less_detail_and_aliasing_leaves_more_of_it():
    images = drawn(64)
    before = detail(images)
    sizes = [(24.0, 75.0), (16.0, 50.0), (11.0, 34.0)]
    soft = [(detail(take(images, size, low_resolution=1.0)) / before).mean() for size in sizes]
    hard = [(detail(take(images, size, low_resolution=1.0, aliasing_share=1.0)) / before).mean() for size in sizes]
    assert 0.9 > soft[0] > soft[1] > soft[2] > 0.02
    assert all(one < 0.85 * other for one, other in zip(soft[1:], hard[1:], strict=True))


def test_a_crop_may_have_few_pixels_along_one_axis_only():
    stripes = (torch.arange(32) // 2 % 2).float()[:, None].expand(4, 1, 32, 100)
    narrow = take(stripes, (32.0, 20.0), low_resolution=1.0)
    assert (narrow - stripes).abs().max() < 2e-3
    low = take(stripes, (9.0, 100.0), low_resolution=1.0)
    assert detail(low).max() < 0.3 * detail(stripes).max()


def test_shrinking_in_the_file_stops_before_text_is_lost():
    images = drawn(32)
    assert torch.equal(
        take(images, (10.0, 31.0), low_resolution=1.0, shrink_share=1.0, shrink=4.0),
        take(images, (10.0, 31.0), low_resolution=1.0),
    )
    once = detail(take(images, (40.0, 125.0), low_resolution=1.0)).mean()
    assert detail(take(images, (40.0, 125.0), low_resolution=1.0, shrink_share=1.0, shrink=4.0)).mean() < 0.8 * once


def test_noise_has_the_deviation_that_is_stated():
    # Half black, half white, so that there is contrast enough for every strength.
    images = halves(400, 0.25, 0.75)
    deviation = (take(images, OWN, noise_share=1.0, noise=20.0, shot_noise=0.0) - images).flatten(1).std(dim=1) * 255
    # The strength is 20 u^2 with u uniform: 20 at most, 20 / 3 on average.
    assert 18.5 < deviation.max() < 20.6
    assert abs(deviation.mean() - 20 / 3) < 0.9


def test_shot_noise_grows_with_the_root_of_brightness():
    images = halves(300, 0.2, 0.8)
    change = take(images, OWN, noise_share=1.0, noise=0.0, shot_noise=12.0) - images
    dark, light = change[..., :50].std(), change[..., 50:].std()
    assert abs(light / dark - 2.0) < 0.1


def halves(count, dark=0.3, light=0.7, channels=1):
    images = torch.full((count, channels, 32, 100), dark)
    images[..., 50:] = light
    return images


@pytest.mark.parametrize("kind", ["noise", "shot_noise"])
def test_noise_is_coarse_in_small_files_and_weak_in_large_ones(kind):
    settings = {"noise_share": 1.0, "noise": 0.0, "shot_noise": 0.0, "low_resolution": 1.0, kind: 20.0}
    own, small, large = (take(halves(200), size, **settings)[..., 60:90] - 0.7 for size in [OWN, (14, 44), LARGE])
    assert abs(large.std() / own.std() - 0.5) < 0.03
    alike = [(change[..., 1:] * change[..., :-1]).mean() / change.square().mean() for change in (own, small)]
    assert abs(alike[0]) < 0.05
    assert alike[1] > 0.5


@pytest.mark.parametrize("lost", [False, True])
def test_noise_does_not_drown_text_that_is_faint_or_has_lost_its_contrast(lost):
    contrast = {"contrast_share": 1.0, "contrast_middle": 6.0, "contrast_spread": 0.0, "contrast_least": 1.0}
    settings = {**contrast, "brightness": 0.0} if lost else {}
    images = halves(100) if lost else drawn(100) * 0.05 + 0.5
    plain = take(images, OWN, **settings)
    change = take(images, OWN, **settings, noise_share=1.0, noise=60.0, shot_noise=0.0) - plain
    assert change.flatten(1).std(dim=1).max() < 0.4 * plain.flatten(1).std(dim=1).max()


def test_coloured_noise_is_not_the_same_in_all_colours():
    images = halves(50, channels=3)
    change = (take(images, OWN, noise_share=1.0, noise=20.0) - images).flatten(2)
    assert abs((change[:, 0] * change[:, 1]).mean() / change.square().mean()) < 0.05


def test_salt_is_as_dense_as_is_stated_and_black_and_white():
    grey = torch.full((300, 1, 32, 100), 0.5)
    result = take(grey, salt_share=1.0, salt=0.1)
    changed = result != 0.5
    assert 0.085 < changed.float().mean((1, 2, 3)).max() < 0.115
    assert abs(result[changed].mean() - 0.5) < 0.02
    assert set(result.unique().tolist()) == {0.0, 0.5, 1.0}


# ---- the camera's software ----


def test_sharpening_makes_edges_steeper_and_overshoots():
    step = blur(halves(50, 0.35, 0.65), np.full((50, 2), 1.0), np.zeros((50, 2)))
    result = take(step, sharpen_share=1.0, sharpen=8.0)
    assert (detail(result) >= detail(step)).all()
    assert detail(result).mean() > 1.2 * detail(step).mean()
    assert result.max() > 0.68
    assert torch.allclose(result[..., :40], step[..., :40])


def test_gamma_bends_the_middle_and_keeps_black_and_white():
    levels = torch.linspace(0, 1, 101).expand(100, 1, 4, 101)
    result = take(levels, gamma_share=1.0, gamma=0.5)
    assert (result[..., 0] == 0).all()
    assert torch.allclose(result[..., 100], torch.ones(()))
    middle = result[:, 0, 0, 50]
    assert 0.375 <= middle.min() < 0.4
    assert 0.6 < middle.max() <= 0.625
    assert (result.diff(dim=-1) > 0).all()


def test_inverting_exchanges_light_and_dark_exactly():
    images = drawn(5, channels=3)
    assert torch.equal(take(images, invert_share=1.0), 1.0 - images)


def test_a_tint_changes_colours_and_leaves_grey_images_alone():
    assert torch.equal(take(drawn(5), cast_share=1.0), drawn(5))
    images = torch.full((100, 3, 32, 100), 0.5)
    gains = take(images, cast_share=1.0, cast=0.2)[:, :, 0, 0] / 0.5
    assert 0.8 <= gains.min() < 0.82
    assert 1.18 < gains.max() <= 1.2
    assert gains.std(dim=1).mean() > 0.05


def test_posterising_leaves_few_levels():
    levels = torch.linspace(0, 1, 3200).view(1, 1, 32, 100).expand(60, -1, -1, -1)
    counts = {len(one.unique()) for one in take(levels, posterize_share=1.0)}
    assert min(counts) >= 4
    assert max(counts) <= 24
    assert len(counts) > 10


def test_the_qualities_of_jpeg_go_from_the_worst_to_the_best(monkeypatch):
    found = set()
    monkeypatch.setattr("crnn.synth.camera.jpeg", lambda pixels, quality, *_: found.update(quality.tolist()) or pixels)
    take(torch.full((200, 1, 32, 100), 0.5), jpeg_share=1.0, jpeg_worst=40, jpeg_best=43)
    assert found == {40, 41, 42, 43}

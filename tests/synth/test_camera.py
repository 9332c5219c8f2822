import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from crnn.config.synth import CameraConfig
from crnn.synth.camera import apply_camera
from crnn.synth.filters import MAX_SIGMA, blur, enlarge, shrink
from crnn.synth.jpeg import jpeg
from crnn.synth.rng import SampleRandom

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


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(1, 32, 100), (3, 32, 100), (1, 32, 128), (1, 32, 101), (3, 31, 37)]
)
def test_a_sample_looks_the_same_alone_and_in_any_batch(channels, height, width):
    count = 64
    images, native = drawn(count, channels, height, width), mixed_sizes(count)
    everything = CameraConfig(**dict.fromkeys(SHARES, 0.5))
    together = apply_camera(images, SampleRandom(7, np.arange(count)), everything, native)
    assert together.shape == images.shape
    assert together.dtype == torch.float32
    assert together.is_contiguous()
    assert together.min() >= 0
    assert together.max() <= 1
    for rows in (*np.arange(count)[:, None][::9], np.arange(5, 22), np.array([60, 2, 33])):
        some = apply_camera(images[rows], SampleRandom(7, rows), everything, native[rows])
        assert torch.equal(some, together[rows])


def test_large_batches_and_the_number_of_threads_change_nothing():
    count = 300  # several blocks of the CPU
    images, native = drawn(count), mixed_sizes(count)
    everything = CameraConfig(**dict.fromkeys(SHARES, 0.5))
    together = apply_camera(images, SampleRandom(1, np.arange(count)), everything, native)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        parts = [
            apply_camera(images[rows], SampleRandom(1, rows), everything, native[rows])
            for rows in np.array_split(np.arange(count), 7)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts), together)


def test_seed_and_number_decide_and_the_defaults_change_every_image():
    images = drawn(1).expand(40, -1, -1, -1)
    native = mixed_sizes(40)
    one = apply_camera(images, SampleRandom(1, np.arange(40)), CameraConfig(), native)
    again = apply_camera(images, SampleRandom(1, np.arange(40)), CameraConfig(), native)
    other = apply_camera(images, SampleRandom(2, np.arange(40)), CameraConfig(), native)
    assert torch.equal(one, again)
    assert (one != other).flatten(1).any(dim=1).all()
    assert len(one.flatten(1).unique(dim=0)) == 40


def test_one_effect_does_not_change_what_is_drawn_for_another():
    images = drawn(200)
    invert = (take(images, invert_share=0.3) != images).flatten(1).any(dim=1)
    noisy = take(images, invert_share=0.3, noise_share=1.0)
    dark = noisy.mean((1, 2, 3)) < 0.5  # all the words are dark on light
    assert torch.equal(dark, invert)
    assert 0.2 < invert.float().mean() < 0.4


@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_batch_gives_an_empty_batch(channels):
    images = torch.zeros(0, channels, 32, 100)
    everything = CameraConfig(**dict.fromkeys(SHARES, 1.0))
    assert apply_camera(images, SampleRandom(1, np.arange(0)), everything, np.zeros((0, 2))).shape == images.shape


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_images_without_any_contrast_pass(level):
    images = torch.full((32, 1, 32, 100), level)
    result = apply_camera(images, SampleRandom(1, np.arange(32)), CameraConfig(), mixed_sizes(32))
    assert result.isfinite().all()


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


def test_no_change_of_brightness_wipes_text_out():
    settings = {"contrast_share": 1.0, "contrast_middle": 40.0, "contrast_spread": 0.0}
    result = take(drawn(60), **settings, brightness=1.0) * 255
    assert result.flatten(1).std(dim=1).min() > 0.75 * 40
    assert result.mean((1, 2, 3)).min() < 100
    assert result.mean((1, 2, 3)).max() > 195


def test_no_contrast_is_below_the_least():
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


@pytest.mark.parametrize("sigma", [(0.8, 0.8), (1.5, 1.5), (0.7, 2.4), (2.8, 0.6)])
def test_a_gaussian_blur_has_the_sigma_that_is_stated(sigma):
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blur(point, np.array([sigma]), np.zeros((1, 2)))[0, 0].double()
    assert spread.sum() == 1
    places = torch.arange(41.0).double() - 20
    for axis in (0, 1):
        found = (spread.sum(dim=1 - axis) * places**2).sum().sqrt()
        assert abs(found - sigma[axis]) < 0.1 * sigma[axis]


def test_too_large_a_sigma_is_cut_off_and_blur_keeps_flat_images():
    images = drawn(2)
    huge, most = (blur(images, np.full((2, 2), sigma), np.zeros((2, 2))) for sigma in (50.0, MAX_SIGMA))
    assert torch.equal(huge, most)
    flat = torch.full((2, 3, 8, 9), 512 / 1023)
    assert torch.equal(blur(flat, np.full((2, 2), 1.3), np.full((2, 2), 2.0)), flat)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_motion_goes_in_its_direction_as_far_as_is_stated(degrees):
    angle, length = np.radians(degrees), 8.0
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    path = length * np.array([[np.sin(angle), np.cos(angle)]])
    smear = blur(point, np.zeros((1, 2)), path)[0, 0].double()
    down, across = (places.double() - 20 for places in torch.meshgrid(*[torch.arange(41)] * 2, indexing="ij"))
    along = down * np.sin(angle) + across * np.cos(angle)
    neighbors = across * np.sin(angle) - down * np.cos(angle)
    assert abs((smear * along**2).sum().sqrt() - length / np.sqrt(12)) < 0.6
    assert (smear * neighbors**2).sum().sqrt() < 0.8
    # One line, not a row of dots: seen from its side, no place on it is empty.
    step = 1.0 if degrees % 90 == 0 else np.sqrt(2)
    profile = [(smear * ((along / step).round() == place)).sum() for place in range(-2, 3)]
    assert min(profile) > 0.5 * max(profile)


def test_blur_in_pixels_of_the_file_is_finer_in_larger_files():
    images = drawn(64)
    found = [
        detail(take(images, size, blur_share=1.0, blur=1.5, low_resolution=1.0)).mean()
        for size in [OWN, (64, 200), (128, 400)]
    ]
    assert found[0] < 0.9 * found[1]
    assert found[1] < 0.98 * found[2]


# ---- pixels ----


def test_shrinking_and_enlarging_to_the_same_size_changes_nothing():
    images = drawn(3, channels=3, width=37)
    size = np.tile([32, 37], (3, 1))
    assert torch.equal(shrink(images, size), images)
    assert torch.equal(enlarge(images, size, np.array([0, 1, 2])), images)


def test_shrinking_samples_a_slope_at_the_middles_of_the_new_pixels_and_enlarging_restores_it():
    slope = torch.linspace(0, 1, 101)[:-1].add(0.005).expand(3, 1, 32, 100)
    size = np.array([[16, 50], [11, 23], [32, 71]])
    small = shrink(slope, size)
    for row, (height, width) in enumerate(size):
        expected = (torch.arange(width) + 0.5) / width
        assert torch.allclose(small[row, 0, :height, :width], expected.expand(height, -1), atol=1e-5)
        assert torch.equal(small[row, 0, height:], small[row, 0, height - 1 : height].expand(32 - height, -1))
    large = enlarge(small, size, np.array([0, 1, 1]))
    inner = slice(8, -8)
    assert torch.allclose(large[..., inner], slope[..., inner], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "resample"), [(0, Image.Resampling.BICUBIC), (1, Image.Resampling.BILINEAR), (2, Image.Resampling.NEAREST)]
)
def test_enlarging_is_what_pillow_does(kind, resample):
    rng = np.random.default_rng(1)
    small = rng.random((13, 41)).astype(np.float32)
    part = torch.zeros(1, 1, 32, 100)
    part[0, 0, :13, :41] = torch.from_numpy(small)
    found = enlarge(part, np.array([[13, 41]]), np.array([kind]))[0, 0].numpy()
    expected = np.asarray(Image.fromarray(small).resize((100, 32), resample))
    # Pillow shortens the kernel at the edge, we repeat the edge's pixels.
    edge = (slice(4, -4), slice(4, -4))
    assert np.abs(found - expected)[edge].max() < 1e-5


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_enlarging_looks_at_the_part_only(kind):
    images = torch.zeros(1, 3, 32, 100)
    images[..., 13:, :] = images[..., 41:] = float("nan")
    assert torch.equal(enlarge(images, np.array([[13, 41]]), np.array([kind])), torch.zeros(1, 3, 32, 100))


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
    halves = torch.full((400, 1, 32, 100), 0.25)
    halves[..., 50:] = 0.75
    deviation = (take(halves, OWN, noise_share=1.0, noise=20.0, shot_noise=0.0) - halves).flatten(1).std(dim=1) * 255
    # The strength is 20 u^2 with u uniform: 20 at most, 20 / 3 on average.
    assert 18.5 < deviation.max() < 20.6
    assert abs(deviation.mean() - 20 / 3) < 0.9


def test_shot_noise_grows_with_the_root_of_brightness():
    halves = torch.full((300, 1, 32, 100), 0.2)
    halves[..., 50:] = 0.8
    change = take(halves, OWN, noise_share=1.0, noise=0.0, shot_noise=12.0) - halves
    dark, light = change[..., :50].std(), change[..., 50:].std()
    assert abs(light / dark - 2.0) < 0.1


def test_noise_is_coarse_in_small_files_and_weak_in_large_ones():
    halves = torch.full((200, 1, 32, 100), 0.3)
    halves[..., 50:] = 0.7
    settings = {"noise_share": 1.0, "noise": 20.0, "shot_noise": 0.0, "low_resolution": 1.0}
    own, small, large = (take(halves, size, **settings)[..., 60:90] - 0.7 for size in [OWN, (14, 44), LARGE])
    assert abs(large.std() / own.std() - 0.5) < 0.03
    alike = [(change[..., 1:] * change[..., :-1]).mean() / change.square().mean() for change in (own, small)]
    assert abs(alike[0]) < 0.05
    assert alike[1] > 0.5


def test_noise_does_not_drown_faint_text():
    faint = drawn(100) * 0.05 + 0.5
    change = take(faint, OWN, noise_share=1.0, noise=60.0, shot_noise=0.0) - faint
    assert change.flatten(1).std(dim=1).max() < 0.4 * faint.flatten(1).std(dim=1).max()


def test_coloured_noise_is_not_the_same_in_all_colours():
    halves = torch.full((50, 3, 32, 100), 0.3)
    halves[..., 50:] = 0.7
    change = (take(halves, OWN, noise_share=1.0, noise=20.0) - halves).flatten(2)
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
    step = torch.full((50, 1, 32, 100), 0.35)
    step[..., 50:] = 0.65
    step = blur(step, np.full((50, 2), 1.0), np.zeros((50, 2)))
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


# ---- JPEG ----


def stored_by_pillow(image, quality):
    """``(C, H, W)`` in [0, 1], through a file."""
    levels = (image.numpy() * 255).round().astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    stored = np.asarray(Image.open(file), np.float32) / 255
    return torch.from_numpy(stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
def test_jpeg_is_what_pillow_writes_and_reads(channels, quality):
    rng = np.random.default_rng(quality)
    images = drawn(8, channels, width=96)
    images = (images + torch.from_numpy(rng.normal(0, 4 / 255, images.shape).astype(np.float32))).clamp(0, 1)
    images = images.mul(255).round().div(255)
    unmoved = np.zeros((8, 2), dtype=np.int64)
    ours = jpeg(images, np.full(8, quality), unmoved, unmoved)
    theirs = torch.stack([stored_by_pillow(image, quality) for image in images])
    # Now and then a coefficient lies so near the middle between two steps that libjpeg's integers round it elsewhere.
    change, difference = (images - theirs).abs().mean(), (ours - theirs).abs()
    assert difference.mean() * 255 < 1
    assert difference.mean() < 0.3 * change
    assert (difference * 255 < 2.5).float().mean() > 0.93


def test_jpeg_at_the_best_quality_only_rounds():
    images = drawn(4)
    unmoved = np.zeros((4, 2), dtype=np.int64)
    assert (jpeg(images, np.full(4, 100), unmoved, unmoved) - images).abs().max() * 255 < 1.6


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("cut", [3, 8, 13])
def test_the_grid_of_jpeg_moves_with_the_crop(axis, cut):
    whole = drawn(1, height=48, width=48)
    unmoved = np.zeros((1, 2), dtype=np.int64)
    shift = unmoved.copy()
    shift[0, axis - 2] = cut % 8
    found = jpeg(whole.narrow(axis, cut, 32), np.array([20]), shift, unmoved)
    expected = jpeg(whole, np.array([20]), unmoved, unmoved).narrow(axis, cut, 32)
    # Blocks that lie in the crop as a whole are the same.
    assert torch.equal(found.narrow(axis, -cut % 8, 24), expected.narrow(axis, -cut % 8, 24))


@pytest.mark.parametrize(("finer", "block"), [((0, 0), (8, 8)), ((1, 0), (4, 8)), ((1, 2), (4, 2)), ((2, 2), (2, 2))])
def test_blocks_of_larger_files_are_smaller(finer, block):
    image = torch.full((1, 1, 32, 96), 0.5)
    image[..., 9, 21] = 1.0
    # Rounding smears the point over its block and no further.
    changed = jpeg(image, np.array([70]), np.zeros((1, 2), dtype=np.int64), np.array([finer])) != 128 / 255
    rows, columns = changed[0, 0].any(dim=1).nonzero().flatten(), changed[0, 0].any(dim=0).nonzero().flatten()
    top, left = 9 // block[0] * block[0], 21 // block[1] * block[1]
    assert len(rows)
    assert rows.min() >= top
    assert rows.max() < top + block[0]
    assert columns.min() >= left
    assert columns.max() < left + block[1]


def cosines(size):
    k = np.arange(size)
    matrix = np.cos(np.pi * np.outer(k, 2 * k + 1) / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def test_jpeg_of_a_file_twice_as_large_keeps_the_same_coefficients():
    # Blocks of 4 enlarged to blocks of 8 that have the same coefficients and no more, so nothing but rounding differs.
    image = blur(drawn(1, width=96), np.full((1, 2), 0.8), np.zeros((1, 2))) * 0.5 + 0.25
    blocks = image[0, 0].double().numpy().reshape(8, 4, 24, 4).transpose(0, 2, 1, 3)
    enlarging = 2**0.5 * cosines(8)[:4].T @ cosines(4)  # (8, 4)
    large = (enlarging @ blocks @ enlarging.T).transpose(0, 2, 1, 3).reshape(1, 1, 64, 192)
    unmoved = np.zeros((1, 2), dtype=np.int64)
    # At quality 25 all steps are even, so that half of each is a whole number.
    stored = jpeg(torch.from_numpy(large.astype(np.float32)), np.array([25]), unmoved, unmoved)
    stored = stored[0, 0].double().numpy().reshape(8, 8, 24, 8).transpose(0, 2, 1, 3)
    expected = (enlarging.T @ stored @ enlarging / 4).transpose(0, 2, 1, 3).reshape(32, 96)
    found = jpeg(image, np.array([25]), unmoved, unmoved + 1)[0, 0].double().numpy()
    own, other = (one - image[0, 0].numpy() for one in (found, expected))
    assert np.abs(own).mean() * 255 > 1
    assert np.abs(own - other).mean() < 0.4 * np.abs(own).mean()
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.75


def test_worse_qualities_change_more():
    images = drawn(64)
    change = [
        (take(images, jpeg_share=1.0, jpeg_worst=quality, jpeg_best=quality) - images).abs().mean()
        for quality in (95, 60, 25)
    ]
    assert 0 < change[0] < change[1] < change[2]


def test_noise_does_not_drown_text_that_has_lost_its_contrast():
    halves = torch.full((100, 1, 32, 100), 0.3)
    halves[..., 50:] = 0.7
    faint = {
        "contrast_share": 1.0, "contrast_middle": 6.0, "contrast_spread": 0.0, "contrast_least": 1.0, "brightness": 0.0
    }  # fmt: skip
    plain = take(halves, OWN, **faint)
    change = take(halves, OWN, **faint, noise_share=1.0, noise=60.0, shot_noise=0.0) - plain
    assert change.flatten(1).std(dim=1).max() < 0.4 * plain.flatten(1).std(dim=1).max()


@pytest.mark.parametrize("kind", ["noise", "shot_noise"])
def test_noise_is_weak_in_large_files(kind):
    halves = torch.full((200, 1, 32, 100), 0.3)
    halves[..., 50:] = 0.7
    settings = {"noise_share": 1.0, "noise": 0.0, "shot_noise": 0.0, "low_resolution": 1.0, kind: 20.0}
    own, large = (take(halves, size, **settings)[..., 60:90] - 0.7 for size in (OWN, LARGE))
    assert abs(large.std() / own.std() - 0.5) < 0.03


def test_the_qualities_of_jpeg_go_from_the_worst_to_the_best(monkeypatch):
    found = set()
    monkeypatch.setattr("crnn.synth.camera.jpeg", lambda pixels, quality, *_: found.update(quality.tolist()) or pixels)
    take(torch.full((200, 1, 32, 100), 0.5), jpeg_share=1.0, jpeg_worst=40, jpeg_best=43)
    assert found == {40, 41, 42, 43}

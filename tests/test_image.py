"""One image from every kind of source, its size known beforehand, and the array that the network gets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crnn.config.model import ImageConfig
from crnn.errors import ConfigError, ImageError
from crnn.image import MAX_PIXELS, image_size, load_fitted, load_image, load_resized, normalize, resize, target_width

LOSSLESS = ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000"]


# ---- sources


def test_golden_pixels(encode_image):
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], dtype=np.uint8)
    data = encode_image(Image.fromarray(colours))
    assert load_image(data, 3).tolist() == colours.tolist()
    # ITU-R 601: 0.299, 0.587, 0.114
    assert load_image(data, 1).tolist() == [[[76], [150]], [[29], [18]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_path_bytes_pillow_and_array_agree(tmp_path, mode, form, channels, encode_image, smooth_image):
    path = tmp_path / "image.without-a-telling-suffix"
    path.write_bytes(encode_image(smooth_image().convert(mode), form))
    pixels = load_image(path, channels)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (24, 40, channels)
    assert pixels.flags.c_contiguous
    data = path.read_bytes()
    with Image.open(path) as opened:
        decoded = np.asarray(opened.convert("RGB"))
        same = [str(path), data, bytearray(data), memoryview(data), opened]
        for source in [*same, decoded, load_image(data, 3)]:
            assert np.array_equal(load_image(source, channels), pixels)
        expected = np.asarray(opened.convert("RGB").convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(pixels.reshape(expected.shape), expected)


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_the_pixels(form, encode_image, noise):
    grey = np.repeat(noise(9, 14, 1)[..., None], 3, axis=2)
    options = {"lossless": True} if form == "WEBP" else {}
    image = Image.fromarray(grey[..., 0]) if form == "GIF" else Image.fromarray(grey)
    assert np.array_equal(load_image(encode_image(image, form, **options), 3), grey)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path, compression, noise):
    colours = noise(7, 13)
    path = tmp_path / "a.tif"
    Image.fromarray(colours).save(path, compression=compression)
    assert np.array_equal(load_image(path, 3), colours)
    assert np.array_equal(load_image(path.read_bytes(), 3), colours)


def test_avif(encode_image, smooth_image):
    pytest.importorskip("PIL.AvifImagePlugin")
    try:
        data = encode_image(smooth_image(), "AVIF", quality=95)
    except OSError:
        pytest.skip("this Pillow has no AVIF encoder")
    assert image_size(data) == (40, 24)
    assert np.abs(load_image(data, 3).astype(int) - np.asarray(smooth_image())).mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_belongs_to_the_caller(channels, noise):
    grey, colour = noise(4, 5, 1), noise(4, 5, 3)
    for array in [grey, colour]:
        before = array.copy()
        for source in [array, Image.fromarray(array)]:
            pixels = load_image(source, channels)
            pixels[:] = 7
        assert np.array_equal(array, before)


def test_pillow_image_is_left_as_it_was():
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = 0
    image.getexif()[0x0112] = 6
    load_image(image, 3)
    assert (image.mode, image.size, image.info["transparency"], image.getexif()[0x0112]) == ("P", (3, 2), 0, 6)


def test_first_frame_of_animations(encode_image):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode_image(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(load_image(data, 3).astype(int) - [255, 0, 0]).max() <= 1, form


def test_no_file_stays_open(tmp_path, encode_image):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime")]
    for form in ("GIF", "TIFF", "WEBP", "PNG", "BMP"):
        data = encode_image(frames[0], form, **({} if form == "BMP" else {"save_all": True, "append_images": frames}))
        (tmp_path / form).write_bytes(data)
        (tmp_path / f"{form}-cut").write_bytes(data[:-40])
    folder = Path("/proc/self/fd")  # elsewhere only the ResourceWarning of a collected file can tell
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    for path in sorted(tmp_path.iterdir()):
        try:
            load_image(path, 3)
        except ImageError:
            assert path.name.endswith("-cut")
    assert (len(list(folder.iterdir())) if folder.is_dir() else 0) == before


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_plain_images_cost_no_conversion(form, monkeypatch, encode_image, smooth_image):
    wholes = {channels: encode_image(smooth_image().convert(mode), form) for channels, mode in ((1, "L"), (3, "RGB"))}
    for step in ("convert", "copy", "transpose", "paste", "split"):
        monkeypatch.setattr(Image.Image, step, None)
    for channels, data in wholes.items():
        assert load_image(data, channels).shape == (24, 40, channels)


# ---- what is no image


@pytest.mark.parametrize("source", [np.zeros((0, 5), np.uint8), np.zeros((5, 0, 3), np.uint8), Image.new("L", (0, 5))])
def test_no_pixels(source, reason_of):
    assert reason_of(source) == "empty"


@pytest.mark.parametrize(
    "source",
    [
        np.zeros(5, np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), np.complex64),
        np.full((2, 2), "a"),
        np.full((2, 2), None),
        np.full((2, 2), 1.5),
        np.full((2, 2), -0.1, np.float32),
        np.array([[0.5, np.nan]]),
        np.array([[0.5, np.inf]]),
        None,
        7,
        [[1, 2], [3, 4]],
    ],
)
def test_not_an_image(source):
    with pytest.raises(ImageError, match="expected") as caught:
        load_image(source, 3)
    assert caught.value.reason == "not_an_image"


def test_bombs_as_array_and_as_pillow_image(reason_of):
    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 5_000, 5_001))
    assert reason_of(huge) == "too_large"
    assert reason_of(Image.new("1", (10_000, 5_001))) == "too_large"


def test_channels_are_checked(noise):
    with pytest.raises(ConfigError, match="channels is 2; expected 1"):
        load_image(noise(2, 2), 2)


# ---- size and width


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_image_size(form, encode_image, smooth_image):
    assert image_size(encode_image(smooth_image(), form)) == (40, 24)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "PPM"])
def test_image_size_needs_the_header_only(form, encode_image, noise, reason_of):
    data = encode_image(Image.fromarray(noise(60, 80)), form)
    header = data[: 1000 if form in ("JPEG", "GIF") else 80]
    assert len(header) < len(data)
    assert image_size(header) == (80, 60)
    assert reason_of(header) == "truncated"


KEEP = ImageConfig(resize="keep_ratio", width_step=16, min_width=32, max_width=512)


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ((100, 32), 96),
        ((104, 32), 112),  # half-way goes up
        ((103, 32), 96),
        ((200, 64), 96),
        ((320, 32), 320),
        ((1, 1), 32),
        ((1, 5000), 32),
        ((20_000, 1), 512),
        ((20_000, 32), 512),
        ((16, 1), 512),
    ],
)
def test_target_width_keeps_the_ratio(size, width):
    assert target_width(size, KEEP) == width
    assert target_width(size, ImageConfig(image_width=100)) == 100


def test_bounds_need_not_be_multiples():
    config = ImageConfig(resize="keep_ratio", width_step=16, min_width=37, max_width=90)
    assert target_width((10, 32), config) == 37
    assert target_width((999, 32), config) == 90
    assert target_width((50, 32), config) == 48


@given(
    size=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    step=st.integers(1, 64).map(lambda n: 4 * n),
    bounds=st.tuples(st.integers(16, 4096), st.integers(16, 4096)).map(sorted),
)
def test_target_width_is_the_nearest_step_within_bounds(size, step, bounds):
    low, high = bounds
    config = ImageConfig(resize="keep_ratio", width_step=step, min_width=low, max_width=high)
    width = target_width(size, config)
    exact = size[0] * 32 / size[1]
    assert low <= width <= high
    if width == low:
        assert exact <= low + step / 2 * (1 + 1e-9) or low == high
    elif width < high:
        assert width % step == 0
        assert abs(width - exact) <= step / 2 * (1 + 1e-9)
    else:
        assert exact >= high - step / 2 * (1 + 1e-9)


def test_target_width_of_nothing():
    with pytest.raises(ImageError) as caught:
        target_width((5, 0), KEEP)
    assert caught.value.reason == "empty"


# ---- resize and normalize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (300, 1), (1, 20_000), (32, 100), (24, 77), (1000, 3)])
def test_resize_shapes(shape, channels, noise):
    pixels = noise(*shape, 3)[..., :channels]
    for config in (ImageConfig(), KEEP):
        resized = resize(pixels, config)
        assert resized.shape == (channels, 32, target_width(shape[::-1], config))
        assert resized.dtype == np.uint8
        assert resized.flags.c_contiguous
        assert resized.flags.writeable
        assert resize(pixels, config, 64).shape == (channels, 32, 64)


def test_resize_keeps_what_fits(noise):
    pixels = noise(32, 100)
    assert np.array_equal(resize(pixels, ImageConfig()), pixels.transpose(2, 0, 1))


def test_resize_of_one_colour_is_that_colour():
    pixels = np.full((7, 300, 3), (10, 20, 30), np.uint8)
    assert np.array_equal(resize(pixels, KEEP)[:, 5, 5], [10, 20, 30])
    assert len(np.unique(resize(pixels, KEEP).reshape(3, -1), axis=1).T) == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resized", ["squash", "keep_ratio"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_resized_at_once_is_the_same(mode, form, resized, channels, encode_image, noise, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(40, 77)).convert("L").convert(mode)
    try:
        data = encode_image(image, form, **({"exif": exif} if form in ("PNG", "JPEG", "TIFF") else {}))
    except (OSError, ValueError):
        pytest.skip(f"{form} holds no {mode}")
    (tmp_path / "x").write_bytes(data)
    config = ImageConfig(image_channels=channels, resize=resized)
    with Image.open(tmp_path / "x") as opened:
        opened.load()
    for source in (data, tmp_path / "x", opened, noise(50, 30)):
        for width in (None, 64):
            expected = resize(load_image(source, channels), config, width)
            found = load_resized(source, config, width)
            np.testing.assert_array_equal(found, expected)
            assert found.flags.c_contiguous
            assert found.flags.writeable
            assert found.dtype == np.uint8


def test_what_cannot_be_read_cannot_be_resized(encode_image, noise):
    data = encode_image(Image.fromarray(noise(60, 80)))
    for bad, reason in ((data[:2000], "truncated"), (b"", "empty"), (b"text", "not_an_image")):
        with pytest.raises(ImageError) as caught:
            load_resized(bad, ImageConfig())
        assert caught.value.reason == reason


def test_interpolation_is_antialiased_and_follows_the_setting(noise):
    # Columns of black and white alternate; without antialiasing every second one would be lost.
    stripes = np.tile(np.array([0, 255], np.uint8), 800)[None, :, None].repeat(32, axis=0)
    for interpolation in ("bilinear", "bicubic"):
        grey = resize(stripes, ImageConfig(image_width=100, interpolation=interpolation))
        assert np.abs(grey.astype(int) - 127).max() <= 12, interpolation
    pixels = noise(20, 60, 3)
    bilinear, bicubic = (resize(pixels, ImageConfig(interpolation=kind)) for kind in ("bilinear", "bicubic"))
    assert not np.array_equal(bilinear, bicubic)
    doubled = resize(
        np.array([[0, 100]], np.uint8)[..., None], ImageConfig(image_width=16, interpolation="bilinear"), 4
    )
    assert doubled[0, 0].tolist() == [0, 25, 75, 100]


def test_bands_do_not_mix(noise):
    pixels = noise(13, 41)
    together = resize(pixels, KEEP)
    for band in range(3):
        assert np.array_equal(resize(pixels[..., band : band + 1], KEEP)[0], together[band])


def test_normalise():
    values = np.arange(256, dtype=np.uint8).reshape(2, 2, 64)
    result = normalize(values)
    assert result.dtype == np.float32
    assert result.shape == values.shape
    assert (result.min(), result.max()) == (-1.0, 1.0)
    exact = (values.astype(np.float64) - 127.5) / 127.5
    assert np.array_equal(result, exact.astype(np.float32))  # rounded once
    parseq = (values.astype(np.float32) / 255 - 0.5) / 0.5
    assert np.abs(result - parseq).max() <= 2**-23
    assert np.array_equal(result, -result[::-1, ::-1, ::-1])
    assert values[1, 1, 63] == 255


def test_fitted_is_resized_with_the_size_as_it_is_seen(encode_image, smooth_image):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 40 x 24, seen as 24 x 40
    for config in (ImageConfig(), ImageConfig(resize="keep_ratio", image_channels=3)):
        upright, turned = encode_image(smooth_image()), encode_image(smooth_image(), exif=exif)
        for source, size in [(upright, (40, 24)), (turned, (24, 40))]:
            pixels, original_size = load_fitted(source, config)
            assert original_size == size
            assert np.array_equal(pixels, load_resized(source, config))

"""Images from every kind of source, whole and damaged, of every mode, as the array that the network gets."""

import contextlib
import io
import os
import random
import struct
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from crnn import image as image_module
from crnn.config.model import ImageConfig
from crnn.errors import ConfigError, ImageError
from crnn.image import (
    MAX_PIXELS,
    image_size,
    load_fitted,
    load_image,
    load_resized,
    open_image,
    resize,
    target_width,
)

FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"]
RED = [255, 0, 0]
KEEP = ImageConfig(resize="keep_ratio", width_step=16, min_width=32, max_width=512)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# ---- sources


def test_golden_pixels(encode_image):
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], dtype=np.uint8)
    data = encode_image(Image.fromarray(colors))
    assert load_image(data, 3).tolist() == colors.tolist()
    # ITU-R 601: 0.299, 0.587, 0.114
    assert load_image(data, 1).tolist() == [[[76], [150]], [[29], [18]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMATS)
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
    grey, color = noise(4, 5, 1), noise(4, 5, 3)
    for array in [grey, color]:
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


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_animations(form, encode_image):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    data = encode_image(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(load_image(data, 3).astype(int) - RED).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_further_frames_are_told(form, encode_image):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    assert not load_fitted(encode_image(frames[0], form), KEEP).several
    data = encode_image(frames[0], form, save_all=True, append_images=frames[1:])
    assert load_fitted(data, KEEP).several
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)  # the caller chose
    assert not load_fitted(opened, KEEP).several
    assert opened.tell() == 1


def test_damage_behind_the_first_frame_and_previews_are_no_further_frames(encode_image, smooth_image):
    image = smooth_image()
    data = encode_image(image, "GIF", save_all=True, append_images=[image.rotate(90)])
    assert load_fitted(data[: encode_image(image, "GIF").__len__() + 9], KEEP).pixels.shape == (1, 32, 48)
    phone = encode_image(image, "MPO", save_all=True, append_images=[image.resize((10, 6))])
    assert not load_fitted(phone, KEEP).several


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_no_file_stays_open(tmp_path, encode_image):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime")]
    for form in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encode_image(frames[0], form, save_all=True, append_images=frames)
        (tmp_path / form).write_bytes(data)
        (tmp_path / f"{form}-cut").write_bytes(data[:-40])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in sorted(tmp_path.iterdir()):
        with contextlib.suppress(ImageError):
            load_image(path, 3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- modes


def test_arrays(noise):
    grey, color = noise(3, 5, 1), noise(3, 5, 3)
    assert np.array_equal(load_image(grey, 1), grey[..., None])
    assert np.array_equal(load_image(grey[..., None], 3), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(load_image(color[:, ::-1], 3), color[:, ::-1])  # not contiguous
    assert np.array_equal(load_image(np.asfortranarray(color), 3), color)
    assert np.array_equal(load_image(grey > 99, 1)[..., 0], np.where(grey > 99, 255, 0))
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        assert np.array_equal(load_image((color / 255).astype(kind), 3), color)
    for kind in (np.uint16, ">u2"):
        assert np.array_equal(load_image((color.astype(np.uint16) * 257).astype(kind), 3), color)
    deep = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    assert load_image(deep, 1).ravel().tolist() == [0, 0, 1, 254, 255, 255]


def test_alpha_is_laid_over_white(encode_image):
    for mode, clear, half, full in [
        ("RGBA", (9, 9, 9, 0), (0, 0, 0, 128), (10, 20, 30, 255)),
        ("LA", (9, 0), (0, 128), (20, 255)),
    ]:
        image = Image.new(mode, (3, 1))
        for x, value in enumerate((clear, half, full)):
            image.putpixel((x, 0), value)
        solid = [10, 20, 30] if mode == "RGBA" else [20, 20, 20]
        for source in [encode_image(image), image, *([np.asarray(image)] if mode == "RGBA" else [])]:
            assert load_image(source, 3).tolist() == [[[255] * 3, [127] * 3, solid]]
            assert load_image(source, 1)[0, :2].tolist() == [[255], [127]]


@pytest.mark.parametrize("ink", [0, 90, 160, 200, 255])
def test_transparent_images_lie_on_a_ground_on_which_they_show(ink, encode_image, png_by_hand, png_chunk):
    alpha = np.zeros((8, 12), np.uint8)
    alpha[2:6, 3:9] = 255
    alpha[1, 3:9] = 100  # a soft edge
    shown = Image.fromarray(np.full_like(alpha, ink)).convert("RGB")
    shown.putalpha(Image.fromarray(alpha))
    one_clear = Image.fromarray(np.where(alpha > 200, ink, 7).astype(np.uint8))
    sixteen = b"".join(b"\0" + row.tobytes() for row in np.where(alpha > 200, ink * 257, 7).astype(">u2"))
    deep = png_by_hand(12, 8, depth=16, body=sixteen, extra=png_chunk(b"tRNS", struct.pack(">H", 7)))
    ground = 0 if ink >= 200 else 255
    forms = [shown, shown.convert("LA"), shown.convert("RGBa"), shown.convert("PA"), shown.quantize(8)]
    encoded = [encode_image(image) for image in (shown, shown.convert("LA"), shown.quantize(8))]
    encoded += [encode_image(shown, "WEBP", lossless=True), encode_image(one_clear, transparency=7), deep]
    arrays = [np.asarray(shown), np.asarray(shown) / 255, np.asarray(shown).astype(np.uint16) * 257]
    for source in [*forms, *encoded, *arrays]:
        for channels in (1, 3):
            pixels = load_image(source, channels)
            assert (pixels[0, 0] == ground).all()
            assert np.abs(pixels[4, 5].astype(int) - ink).max() <= 1


def test_dark_text_on_a_light_panel_keeps_white_around_it():
    panel = np.full((20, 60, 4), 255, np.uint8)
    panel[6:14, 10:50:4, :3] = 0
    panel[0, 0, 3] = panel[0, -1, 3] = panel[-1, 0, 3] = panel[-1, -1, 3] = 0  # round corners
    assert load_image(panel, 1)[0, 0, 0] == 255


def test_premultiplied_and_palette_with_alpha():
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (200, 100, 0, 255))
    # quantize puts alpha into the palette, without info["transparency"].
    for image in [rgba, rgba.convert("RGBa"), rgba.convert("PA"), rgba.quantize(4)]:
        assert load_image(image, 3).tolist() == [[[255] * 3, [200, 100, 0]]], image.mode
    la = Image.new("LA", (2, 1), (0, 0))
    la.putpixel((1, 0), (77, 255))
    assert load_image(la.convert("La"), 1).ravel().tolist() == [255, 77]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency(form, transparency, encode_image):
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    for x in range(3):
        image.putpixel((x, 0), x)
    data = encode_image(image, form, transparency=transparency if form == "PNG" else 1)
    assert load_image(data, 3).tolist() == [[[0, 0, 0], [255] * 3, [200, 100, 50]]]
    assert load_image(data, 1).ravel().tolist() == [0, 255, 124]
    assert load_image(encode_image(image, form), 3).tolist() == [[[0, 0, 0], [10, 20, 30], [200, 100, 50]]]


def test_png_with_one_transparent_color(encode_image, png_by_hand, png_chunk):
    grey = encode_image(Image.fromarray(np.array([[0, 5, 9]], np.uint8)), transparency=5)
    assert load_image(grey, 1).ravel().tolist() == [0, 255, 9]
    color = encode_image(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), transparency=(1, 2, 3))
    assert load_image(color, 3).tolist() == [[[255] * 3, [4, 5, 6]]]
    bits = encode_image(Image.fromarray(np.array([[False, True]])), transparency=0)
    assert load_image(bits, 1).ravel().tolist() == [0, 255]  # white on transparency
    body, clear = b"\0" + struct.pack(">3H", 0, 1000, 65535), png_chunk(b"tRNS", struct.pack(">H", 1000))
    deep = png_by_hand(3, 1, depth=16, body=body, extra=clear)
    assert load_image(deep, 1).ravel().tolist() == [0, 255, 255]


def test_one_bit(encode_image):
    bits = np.array([[True, False, True], [False, False, True]])
    for form in ("PNG", "TIFF", "BMP", "PPM"):
        assert np.array_equal(load_image(encode_image(Image.fromarray(bits), form), 1)[..., 0], bits * 255), form


DEEP = np.array([[0, 257, 32768, 65535], [128, 129, 300, 65000]], np.uint16)
DEEP_IN_8_BITS = [[0, 1, 128, 255], [0, 1, 1, 253]]


def test_sixteen_bit_grey(encode_image):
    sources = [encode_image(Image.fromarray(DEEP), form) for form in ("PNG", "TIFF")]
    sources.append(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())
    sources.append(DEEP)
    sources.append(Image.fromarray(DEEP))
    sources.append(Image.fromarray(DEEP.astype(np.int32)))
    sources.append(Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes()))
    for source in sources:
        assert load_image(source, 1)[..., 0].tolist() == DEEP_IN_8_BITS
        assert load_image(source, 3)[..., 2].tolist() == DEEP_IN_8_BITS


def test_float_images(encode_image):
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    for source in [Image.fromarray(values), encode_image(Image.fromarray(values), "TIFF"), values]:
        assert load_image(source, 1).ravel().tolist() == [0, 64, 128, 255]


def test_color_spaces(encode_image):
    red = Image.new("RGB", (8, 8), "red")
    inverted = encode_image(red.convert("CMYK"), "JPEG", quality=100)
    for source in (inverted, *map(red.convert, ("YCbCr", "HSV", "RGBX", "CMYK"))):
        assert np.abs(load_image(source, 3)[0, 0].astype(int) - RED).max() < 4
        assert abs(int(load_image(source, 1)[0, 0, 0]) - 76) < 4
    assert load_image(encode_image(red.convert("CMYK"), "TIFF"), 3)[0, 0].tolist() == RED


# ---- orientation


TURNED = {  # how a reader of the stored image gets the upright one
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, form, encode_image, smooth_image):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "tiff_lzw": {"compression": form}}.get(form, {})
    data = encode_image(smooth_image(), "TIFF" if form == "tiff_lzw" else form, exif=exif_of(orientation), **options)
    expected = TURNED[orientation](np.asarray(smooth_image()))
    pixels = load_image(data, 3)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3
    assert image_size(data) == (pixels.shape[1], pixels.shape[0])
    (tmp_path / "a").write_bytes(data)
    assert np.array_equal(load_image(tmp_path / "a", 3), pixels)
    with Image.open(tmp_path / "a") as opened:
        assert np.array_equal(load_image(opened, 3), pixels)
    grey = load_image(data, 1)
    assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert grey.flags.c_contiguous


def test_png_with_exif_after_the_pixels(encode_image, smooth_image, png_chunk):
    chunk, plain = png_chunk(b"eXIf", exif_of(6).tobytes().removeprefix(b"Exif\0\0")), encode_image(smooth_image())
    data = plain[:-12] + chunk + plain[-12:]
    assert load_image(data, 3).shape == (40, 24, 3)
    assert image_size(data) == (24, 40)


@pytest.mark.parametrize("exif", [exif_of(0), exif_of(9), exif_of(65535), b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_meaningless_and_damaged_exif_is_upright(exif, encode_image, smooth_image):
    data = encode_image(smooth_image(), "PNG", exif=exif)
    assert load_image(data, 3).shape == (24, 40, 3)
    assert image_size(data) == (40, 24)


# ---- images that are none


def test_missing(tmp_path, monkeypatch, reason_of):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=r"^crops/Wörd 1\.png: No such file or directory; expected the path") as caught:
        load_image("crops/Wörd 1.png", 1)
    assert caught.value.reason == "missing"
    (tmp_path / "file").write_bytes(b"x")
    for path in [tmp_path, "a\0b.png", "\ud800.png", "x" * 5000, str(tmp_path / "file" / "below"), ""]:
        assert reason_of(path) == "missing"


@pytest.mark.parametrize(
    "data",
    [
        b"not an image at all",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",  # would start Ghostscript
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"P6 is a processor",
        b"\xff\xd8\xff\xe0 no JPEG",
        b"GIF89a",
        b"RIFF\x20\0\0\0WEBPVP8 " + b"\0" * 200,
        b"II*\0\x08\0\0\0" + b"\0" * 100,
        b"\0\0\0\x20ftypavif" + b"\0" * 100,
    ],
)
def test_not_an_image(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"^\./a\.png: .*; expected a JPEG, PNG") as caught:
        load_image("./a.png", 3)
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_truncated(form, share, encode_image, noise, reason_of):
    data = encode_image(Image.fromarray(noise(60, 80)), form)
    # libwebp needs the whole file for the header, as a TIFF does whose directory is at its end.
    expected = "not_an_image" if form == "WEBP" else "truncated"
    assert reason_of(data[: int(len(data) * share)]) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (np.zeros((5, 0, 3), np.uint8), "empty"),
        (Image.new("L", (0, 5)), "empty"),
        (np.zeros(5, np.uint8), "not_an_image"),
        (np.zeros((2, 2, 5), np.uint8), "not_an_image"),
        (np.zeros((1, 2, 2, 3), np.uint8), "not_an_image"),
        (np.zeros((2, 2), np.int64), "not_an_image"),
        (np.full((2, 2), "a"), "not_an_image"),
        (np.full((2, 2), None), "not_an_image"),
        (np.full((2, 2), 1.5), "not_an_image"),
        (np.full((2, 2), -0.1, np.float32), "not_an_image"),
        (np.array([[0.5, np.nan]]), "not_an_image"),
        (Image.fromarray(np.array([[70000]], np.int32)), "not_an_image"),
        (Image.fromarray(np.array([[-1]], np.int32)), "not_an_image"),
        (Image.fromarray(np.array([[255]], np.float32)), "not_an_image"),
        (None, "not_an_image"),
        ([[1, 2], [3, 4]], "not_an_image"),
        (np.broadcast_to(np.uint8(0), (MAX_PIXELS // 5_000, 5_001)), "too_large"),
        (Image.new("1", (10_000, 5_001)), "too_large"),
    ],
)
def test_sources_that_are_no_image(source, reason, reason_of):
    assert reason_of(source) == reason


def test_channels_are_checked(noise):
    with pytest.raises(ConfigError, match="channels is 2; expected 1"):
        load_image(noise(2, 2), 2)


def test_huge_file_is_not_read(tmp_path, monkeypatch, encode_image, smooth_image, reason_of):
    monkeypatch.setattr(image_module, "_MAX_BYTES", 100)
    (tmp_path / "a.png").write_bytes(encode_image(smooth_image()))
    assert reason_of(tmp_path / "a.png") == "too_large"
    with open(tmp_path / "a.png", "rb") as file:  # noqa: PTH123
        assert reason_of(file) == "too_large"
    if os.path.exists("/dev/zero"):  # noqa: PTH110 - has no end
        assert reason_of("/dev/zero") == "too_large"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_to_its_end(tmp_path, encode_image, smooth_image):
    data, pipe = encode_image(smooth_image()), tmp_path / "pipe.png"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert np.array_equal(load_image(pipe, 3), load_image(data, 3))
    writer.join()


# Pillow itself warns above 89 million pixels and refuses above 179 million.
BOMB_SIZES = [(10_000, 5_001), (10_000, 9_500), (20_000, 20_000), (2**31 - 1, 1)]


@pytest.mark.parametrize("size", BOMB_SIZES)
def test_bomb_is_refused_before_decoding(size, png_by_hand):
    data = png_by_hand(*size)  # a header and no pixels: decoding would say "truncated"
    for read in (lambda: load_image(data, 1), lambda: image_size(data)):
        with pytest.raises(ImageError, match="expected") as caught:
            read()
        assert caught.value.reason == "too_large"


def test_limit_is_inclusive(png_by_hand):
    assert image_size(png_by_hand(10_000, 5_000)) == (10_000, 5_000)
    assert MAX_PIXELS == 10_000 * 5_000


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_sides_are_bounded_as_rows_take_memory_too(size, png_by_hand):
    wanted = f"^a.png: is {size[0]} x {size[1]} pixels; expected at most 50,000,000, and 65,535 on a side. Crop it or"
    with pytest.raises(ImageError, match=wanted) as caught:
        open_image(png_by_hand(*size), "a.png")
    assert caught.value.reason == "too_large"
    assert open_image(png_by_hand(1, 65_535), "a.png").size == (1, 65_535)


@pytest.mark.parametrize(("side", "refused"), [(7_072, True), (7_056, False)])
def test_tiles_are_bounded_however_small_the_image(side, refused):
    tags = [(256, 100), (257, 32), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 8), (325, 9)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4)
    if not refused:
        assert open_image(data, "a.tif").size == (100, 32)
        return
    with pytest.raises(
        ImageError, match=r"^a\.tif, its first tile: is 7072 x 7072 pixels; expected at most 50,000,000"
    ):
        open_image(data, "a.tif")
    opened = Image.open(io.BytesIO(data))
    with pytest.raises(ImageError, match="first tile"):
        load_image(opened, 1)


def test_scans_of_a_jpeg_are_bounded(encode_image, smooth_image):
    data = encode_image(smooth_image(), "JPEG", progressive=True)
    start, own = data.index(b"\xff\xda"), data.count(b"\xff\xda")
    end = data.index(b"\xff\xc4", start)  # the first scan may come again and again
    most = data[:start] + data[start:end] * (101 - own) + data[end:]
    assert most.count(b"\xff\xda") == 100
    assert np.array_equal(load_image(data, 3), load_image(most, 3))
    with pytest.raises(
        ImageError, match=r"^a\.jpg: has more than 100 scans; expected at most that many\. Save"
    ) as caught:
        open_image(most[:end] + most[start:], "a.jpg")
    assert caught.value.reason == "too_large"
    # What looks like scans in a thumbnail, in zeros behind 0xFF, or behind the end is none.
    thumbnail = b"\xff\xe1" + struct.pack(">H", 402) + b"\xff\xda" * 200
    assert np.array_equal(load_image(data[:2] + thumbnail + data[2:] + b"\xff\xda" * 200, 3), load_image(data, 3))


@pytest.mark.parametrize("kind", [b"P1", b"P2", b"P3"])
def test_images_as_text_are_bounded_as_they_are_slow(kind, monkeypatch):
    monkeypatch.setattr(image_module, "_MAX_PLAIN_BYTES", 30)
    data = kind + (b" 4 3 " if kind == b"P1" else b" 2 1 255 ") + b"1 " * 12
    with pytest.raises(ImageError, match=r"^a: is PPM as text of \d+ bytes; expected at most 30\. Save it as PNG$"):
        open_image(data + b"\n" * 20, "a")
    monkeypatch.setattr(image_module, "_MAX_PLAIN_BYTES", 40)
    assert load_image(data, 1).size in (2, 12)
    assert load_image(b"P5 10 10 255\n" + bytes(100), 1).shape == (10, 10, 1)


def test_floats_and_deep_images_are_scaled_without_large_copies():
    # Peaks of numpy's own allocations; copies in float64 took eight bytes a pixel and more.
    for image in (np.full((2_000, 1_000), 0.5, np.float32), np.full((2_000, 1_000), 40_000, np.uint16)):
        tracemalloc.start()
        try:
            load_image(image, 1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * image.size


def test_images_in_flight_together_are_bounded(monkeypatch):
    room, entered, go, free = image_module._Room(), threading.Semaphore(0), threading.Semaphore(0), []
    room.free = 2_000

    def decode(image, *_):
        free.append(room.free)
        entered.release()
        go.acquire()
        return image

    monkeypatch.setattr(image_module, "_room", room)
    monkeypatch.setattr(image_module, "_upright", decode)
    workers = [threading.Thread(target=load_resized, args=(Image.new("L", (30, 30)), KEEP)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert all(entered.acquire(timeout=60) for _ in range(2))
    assert not entered.acquire(timeout=0.1)  # the third waits
    go.release(3)
    for worker in workers:
        worker.join()
    assert len(free) == 3
    assert min(free) == 200
    assert room.free == 2_000


def test_room_is_given_back_after_errors(encode_image, noise):
    before = image_module._room.free
    cut = encode_image(Image.fromarray(noise(60, 80)))[:1000]
    with pytest.raises(ImageError):
        load_resized(cut, KEEP)
    assert image_module._room.free == before


def gif(canvas, frame):
    head = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6)
    control = b"!\xf9\x04\x00\x00\x00\x00\x00"
    comment = b"!\xfe\x03,,,\x02,,\x00"
    return head + comment + control + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"


TAGS = [(256, 10_000), (257, 9_500), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 9_500), (279, 10)]
IFD = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in TAGS)
BOMBS = {
    "pgm": b"P5 10000 9500 255\n",
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 10_000, 9_500, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": gif((10_000, 9_500), (10, 10)),
    "gif whose first frame reaches over the canvas": gif((10, 10), (10_000, 9_500)),
    "tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", len(TAGS)) + IFD + bytes(4),
}


@pytest.fixture(params=["png", *BOMBS])
def bomb(request, png_by_hand):
    return png_by_hand(10_000, 9_500) if request.param == "png" else BOMBS[request.param]


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_bombs_are_refused_whatever_becomes_of_warnings(bomb, action, reason_of):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert reason_of(bomb) == "too_large"


def test_text_bomb_is_no_other_error(encode_image, smooth_image, reason_of):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    assert reason_of(encode_image(smooth_image(), pnginfo=info))


# ---- damaged files


def damaged(form, rounds, image, encode_image):
    rng = random.Random(f"{form}")
    options = {"exif": exif_of(6)} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    wholes = [encode_image(image, form, **options), encode_image(image.convert("L"), form)]
    if form in ("GIF", "PNG", "TIFF"):
        wholes.append(encode_image(image.quantize(16), form))
    if form == "TIFF":
        wholes += [encode_image(image, form, compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    if form == "JPEG":
        wholes.append(encode_image(image, form, progressive=True))
    for _ in range(rounds):
        data = bytearray(rng.choice(wholes))
        kind = rng.randrange(4)
        head = min(len(data), 120)
        if kind == 0:
            del data[rng.randrange(len(data)) :]
        elif kind == 1:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(head)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(30)] = rng.randbytes(rng.randrange(30))
        yield bytes(data)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("as_errors", [True, False])
def test_damaged_files_give_an_image_error_or_pixels(form, as_errors, monkeypatch, encode_image, noise):
    # A damaged header may claim any size; the limit only keeps this test fast.
    monkeypatch.setattr(image_module, "MAX_PIXELS", 1_000_000)
    image = Image.fromarray(noise(16, 20) // 4 * 4)
    outcomes = set()
    for data in damaged(form, 700, image, encode_image):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if as_errors else "ignore")
            try:
                pixels = load_image(data, 3)
            except ImageError as error:
                outcomes.add(error.reason)
            else:
                assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
                assert image_size(data) == (pixels.shape[1], pixels.shape[0])
                outcomes.add("read")
    assert outcomes >= {"read", "not_an_image"}
    assert outcomes <= {"read", "empty", "not_an_image", "truncated", "too_large"}


# ---- size and width


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "PPM"])
def test_image_size_needs_the_header_only(form, encode_image, noise, reason_of):
    data = encode_image(Image.fromarray(noise(60, 80)), form)
    header = data[: 1000 if form in ("JPEG", "GIF") else 80]
    assert len(header) < len(data)
    assert image_size(header) == (80, 60)
    assert reason_of(header) == "truncated"


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
    with pytest.raises(ImageError, match="expected at least 1 x 1"):
        target_width((5, 0), KEEP)


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resized", ["squash", "keep_ratio"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_resized_at_once_is_the_same(mode, form, resized, channels, encode_image, noise, tmp_path):
    image = Image.fromarray(noise(40, 77)).convert("L").convert(mode)
    try:
        data = encode_image(image, form, **({"exif": exif_of(6)} if form in ("PNG", "JPEG", "TIFF") else {}))
    except (OSError, ValueError):
        pytest.skip(f"{form} holds no {mode}")
    (tmp_path / "x").write_bytes(data)
    config = ImageConfig(image_channels=channels, resize=resized)
    with Image.open(tmp_path / "x") as opened:
        opened.load()
    for source in (data, tmp_path / "x", opened, noise(50, 30)):
        for width in (None, 64):
            found = load_resized(source, config, width)
            np.testing.assert_array_equal(found, resize(load_image(source, channels), config, width))
            assert found.flags.c_contiguous
            assert found.flags.writeable


def test_interpolation_is_antialiased_and_follows_the_setting(noise):
    # Columns of black and white alternate; without antialiasing every second one would be lost.
    stripes = np.tile(np.array([0, 255], np.uint8), 800)[None, :, None].repeat(32, axis=0)
    for interpolation in ("bilinear", "bicubic"):
        grey = resize(stripes, ImageConfig(image_width=100, interpolation=interpolation))
        assert np.abs(grey.astype(int) - 127).max() <= 12, interpolation
    pixels = noise(20, 60, 3)
    bilinear, bicubic = (resize(pixels, ImageConfig(interpolation=kind)) for kind in ("bilinear", "bicubic"))
    assert not np.array_equal(bilinear, bicubic)


@pytest.mark.parametrize("config", [ImageConfig(), ImageConfig(resize="keep_ratio", image_channels=3)])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 24)), (6, (24, 40))])
def test_fitted_is_resized_with_the_size_as_it_is_seen(orientation, size, config, encode_image, smooth_image):
    data = encode_image(smooth_image(), exif=exif_of(orientation))
    fitted = load_fitted(data, config)
    assert fitted.original_size == size
    assert np.array_equal(fitted.pixels, load_resized(data, config))


def test_chroma_by_hand():
    config = ImageConfig(resize="squash", image_width=100, chroma_retry=True)
    pixels = np.full((32, 100, 3), (120, 100, 110), np.uint8)  # chroma 20
    pixels[:, 40:60] = (200, 60, 90)  # 140
    pixels[:, 60:70] = (10, 60, 90)  # 80
    pixels[0, :16] = (255, 0, 0)  # 255, half of the last percentile
    fitted = load_fitted(pixels, config)
    assert np.array_equal(fitted.pixels, load_resized(pixels, config))
    chroma = fitted.chroma()
    assert (chroma.shape, chroma.dtype) == ((1, 32, 100), np.uint8)
    assert chroma[0, 0].tolist() == [255] * 16 + [0] * 24 + [255] * 20 + [128] * 10 + [0] * 30
    assert (chroma[0, 1:] == np.concatenate([[0] * 16, chroma[0, 0, 16:]])).all()


@pytest.mark.parametrize("image", [
    np.full((32, 100), 7, np.uint8), np.full((32, 100, 3), (200, 40, 90), np.uint8),
    np.random.default_rng(0).integers(100, 130, (32, 100, 3), np.uint8),
], ids=["grey", "one-color", "noise"])  # fmt: skip
def test_images_without_different_colors_have_no_chroma(image):
    assert load_fitted(image, ImageConfig(chroma_retry=True)).chroma() is None


def test_colors_are_kept_only_for_chroma(encode_image, smooth_image):
    data = encode_image(smooth_image())
    assert load_fitted(data, ImageConfig()).colors is None
    colors = load_fitted(data, ImageConfig(chroma_retry=True)).colors
    assert np.array_equal(colors, load_resized(data, ImageConfig(image_channels=3)))
    assert load_fitted(data, ImageConfig(chroma_retry=True, image_channels=3)).colors is None
    assert load_fitted(Image.open(io.BytesIO(data)).convert("LA"), ImageConfig(chroma_retry=True)).colors is None
    palette = Image.open(io.BytesIO(data)).quantize()
    colors = load_fitted(palette, ImageConfig(chroma_retry=True)).colors
    assert np.array_equal(colors, load_resized(palette, ImageConfig(image_channels=3)))

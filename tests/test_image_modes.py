"""Images of every mode and depth, transparent and turned, as the pixels that a viewer would show."""

import struct

import numpy as np
import pytest
from PIL import Image

from crnn.errors import ImageError
from crnn.image import image_size, load_image

# ---- modes


def test_arrays(noise):
    grey, colour = noise(3, 5, 1), noise(3, 5, 3)
    assert np.array_equal(load_image(grey, 1), grey[..., None])
    assert np.array_equal(load_image(grey[..., None], 3), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(load_image(colour[:, ::-1], 3), colour[:, ::-1])  # not contiguous
    assert np.array_equal(load_image(np.asfortranarray(colour), 3), colour)
    assert np.array_equal(load_image(grey > 99, 1)[..., 0], np.where(grey > 99, 255, 0))
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        assert np.array_equal(load_image((colour / 255).astype(kind), 3), colour)
    for kind in (np.uint16, ">u2"):
        assert np.array_equal(load_image((colour.astype(np.uint16) * 257).astype(kind), 3), colour)
    assert load_image(np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16), 1).ravel().tolist() == [
        0,
        0,
        1,
        254,
        255,
        255,
    ]


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


def test_png_with_one_transparent_colour(encode_image, png_by_hand, png_chunk):
    grey = encode_image(Image.fromarray(np.array([[0, 5, 9]], np.uint8)), transparency=5)
    assert load_image(grey, 1).ravel().tolist() == [0, 255, 9]
    colour = encode_image(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), transparency=(1, 2, 3))
    assert load_image(colour, 3).tolist() == [[[255] * 3, [4, 5, 6]]]
    bits = encode_image(Image.fromarray(np.array([[False, True]])), transparency=0)
    assert load_image(bits, 1).ravel().tolist() == [255, 255]
    deep = png_by_hand(
        3,
        1,
        depth=16,
        body=b"\0" + struct.pack(">3H", 0, 1000, 65535),
        extra=png_chunk(b"tRNS", struct.pack(">H", 1000)),
    )
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


def test_sixteen_bit_colour_png(png_by_hand):
    body = b"\0" + struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0x00FF, 0x7F00)
    assert load_image(png_by_hand(2, 1, depth=16, color=2, body=body), 3).tolist() == [[[0, 128, 255], [0x12, 0, 127]]]


def test_float_images(encode_image, reason_of):
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    for source in [Image.fromarray(values), encode_image(Image.fromarray(values), "TIFF"), values]:
        assert load_image(source, 1).ravel().tolist() == [0, 64, 128, 255]
    assert reason_of(Image.fromarray(values * 255)) == "not_an_image"
    assert reason_of(Image.fromarray(np.array([[70000, -1]], np.int32))) == "not_an_image"


def test_colour_spaces(encode_image):
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert load_image(encode_image(red.convert("CMYK"), "TIFF"), 3)[0, 0].tolist() == [255, 0, 0]
    assert (
        np.abs(
            load_image(encode_image(red.convert("CMYK"), "JPEG", quality=100), 3)[0, 0].astype(int) - [255, 0, 0]
        ).max()
        < 4
    )
    for mode in ("YCbCr", "HSV", "RGBX", "CMYK"):
        assert np.abs(load_image(red.convert(mode), 3)[0, 0].astype(int) - [255, 0, 0]).max() < 4, mode
        assert abs(int(load_image(red.convert(mode), 1)[0, 0, 0]) - 76) < 4, mode


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
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "tiff_lzw": {"compression": form}}.get(form, {})
    data = encode_image(smooth_image(), "TIFF" if form == "tiff_lzw" else form, exif=exif, **options)
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
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    plain = encode_image(smooth_image())
    data = plain[:-12] + chunk + plain[-12:]
    assert load_image(data, 3).shape == (40, 24, 3)
    assert image_size(data) == (24, 40)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_is_upright(orientation, encode_image, smooth_image):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_image(smooth_image(), "JPEG", exif=exif)
    assert load_image(data, 3).shape == (24, 40, 3)
    assert image_size(data) == (40, 24)


def test_damaged_exif_is_upright(encode_image, smooth_image):
    data = encode_image(smooth_image(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(data, 3).shape == (24, 40, 3)
    assert image_size(data) == (40, 24)


@pytest.mark.parametrize("value", [-1, 65536])
def test_deep_grey_outside_of_sixteen_bits_is_refused(value):
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        load_image(Image.fromarray(np.array([[0, value]], np.int32)), 1)

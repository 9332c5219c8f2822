"""Files that are missing, foreign, too large, cut short or damaged: each is an ``ImageError`` with its reason."""

import contextlib
import os
import random
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crnn import image as image_file
from crnn.errors import ImageError
from crnn.image import MAX_PIXELS, image_size, load_image, open_image, read_image_file

# ---- opening


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_an_image_is_told_by_how_it_begins(form, encode_image, smooth_image, tmp_path):
    path = tmp_path / "image.txt"
    path.write_bytes(encode_image(smooth_image(), form))
    data = read_image_file(str(path))
    assert data == path.read_bytes()
    image = open_image(data, "it")
    assert (image.format, image.size) == (form, (40, 24))


def test_opening_decodes_nothing(png_by_hand):
    image = open_image(png_by_hand(400, 300), "it")  # a header and no pixels
    assert image.size == (400, 300)
    with pytest.raises(OSError, match="truncated"):
        image.load()


# ---- missing, empty, foreign


def test_missing(tmp_path, monkeypatch, reason_of):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=r"^crops/Wörd 1\.png: no such file; expected the path of an image$") as caught:
        load_image("crops/Wörd 1.png", 1)
    assert caught.value.reason == "missing"
    with pytest.raises(ImageError, match="is a folder; expected") as caught:
        load_image(tmp_path, 1)
    assert caught.value.reason == "missing"
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "file").write_bytes(b"x")
    for path in ["a\0b.png", "\ud800.png", "x" * 5000, str(tmp_path / "file" / "below"), ""]:
        assert reason_of(path) == "missing"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path, encode_image, smooth_image, reason_of):
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(smooth_image()))
    path.chmod(0)
    assert reason_of(path) == "missing"


def test_empty(tmp_path, reason_of):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(ImageError, match=r"empty\.png: empty \(0 bytes\); expected a JPEG, PNG") as caught:
        load_image(path, 1)
    assert caught.value.reason == "empty"
    assert reason_of(b"") == "empty"
    with pytest.raises(ImageError) as caught:
        image_size(b"")
    assert caught.value.reason == "empty"


@pytest.mark.parametrize(
    "data",
    [
        b"not an image at all",
        b"\0" * 500,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",  # would start Ghostscript
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"BMW is a car",
        b"P6 is a processor",
        b"\xff\xd8\xff\xe0 no JPEG",
        b"GIF89a",
        b"RIFF\x20\0\0\0WEBPVP8 " + b"\0" * 200,
        b"II*\0\x08\0\0\0" + b"\0" * 100,
        b"\0\0\0\x20ftypavif" + b"\0" * 100,
    ],
)
def test_not_an_image(data):
    with pytest.raises(ImageError, match="expected") as caught:
        load_image(data, 3)
    assert caught.value.reason == "not_an_image"


def test_error_names_the_path_as_typed(tmp_path, monkeypatch, encode_image, noise):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        ImageError, match=r"^\./notes\.txt: not an image that can be read, or cut short; expected a JPEG"
    ):
        load_image("./notes.txt", 1)
    (tmp_path / "cut.png").write_bytes(encode_image(Image.fromarray(noise(30, 30)))[:900])
    with pytest.raises(ImageError, match=r"^cut\.png: cut short or damaged \(.+\); expected a whole image$"):
        load_image("cut.png", 1)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_truncated(form, share, encode_image, noise, reason_of):
    data = encode_image(Image.fromarray(noise(60, 80)), form)
    # libwebp needs the whole file for the header, as a TIFF does whose directory is at its end.
    expected = "not_an_image" if form == "WEBP" else "truncated"
    assert reason_of(data[: int(len(data) * share)]) == expected


def test_a_device_is_not_read_to_its_end(reason_of):
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    assert reason_of("/dev/zero") == "missing"


def test_huge_file_is_not_read(tmp_path, monkeypatch, encode_image, smooth_image):
    monkeypatch.setattr(image_file, "_MAX_BYTES", 100)
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(smooth_image()))
    with pytest.raises(ImageError, match=r"a\.png: above 100 bytes") as caught:
        load_image(path, 1)
    assert caught.value.reason == "too_large"


def test_a_pipe_is_read_to_its_end_but_not_further_than_an_image_goes(tmp_path, monkeypatch, encode_image, noise):
    data = encode_image(Image.fromarray(noise(40, 120)))
    os.mkfifo(tmp_path / "pipe.png")

    def read_while(written: bytes) -> bytes:
        def write() -> None:
            with contextlib.suppress(BrokenPipeError), open(tmp_path / "pipe.png", "wb") as pipe:  # noqa: PTH123
                pipe.write(written)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return read_image_file(str(tmp_path / "pipe.png"))
        finally:
            writer.join()

    assert read_while(data) == data
    monkeypatch.setattr(image_file, "_MAX_BYTES", 3000)
    with pytest.raises(ImageError, match=r"pipe\.png: above 3,000 bytes"):
        read_while(data + bytes(1 << 20))


# ---- bombs


# Pillow itself warns above 89 million pixels and refuses above 179 million.
BOMB_SIZES = [(10_000, 5_001), (10_000, 9_500), (20_000, 20_000), (2**31 - 1, 1)]


@pytest.mark.parametrize("size", BOMB_SIZES)
def test_bomb_is_refused_before_decoding(size, png_by_hand):
    data = png_by_hand(*size)  # a header and no pixels: decoding would say "truncated"
    for read in (lambda: load_image(data, 1), lambda: image_size(data)):
        with pytest.raises(ImageError, match="expected") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert caught.value.reason == "too_large"


def test_limit_is_inclusive(png_by_hand):
    assert image_size(png_by_hand(10_000, 5_000)) == (10_000, 5_000)
    assert MAX_PIXELS == 10_000 * 5_000


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


def test_text_bomb_is_no_other_error(encode_image, smooth_image):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    data = encode_image(smooth_image(), pnginfo=info)
    with pytest.raises(ImageError):
        load_image(data, 1)


# ---- damaged files


def damaged(form, rounds, image, encode_image):
    rng = random.Random(f"{form}")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
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


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("as_errors", [True, False])
def test_damaged_files_give_an_image_error_or_pixels(form, as_errors, monkeypatch, encode_image, noise):
    # A damaged header may claim any size; the limit only keeps this test fast.
    monkeypatch.setattr(image_file, "MAX_PIXELS", 1_000_000)
    image = Image.fromarray(noise(16, 20) // 4 * 4)
    outcomes = set()
    for data in damaged(form, 1500, image, encode_image):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if as_errors else "ignore")
            try:
                pixels = load_image(data, 3)
            except ImageError as error:
                outcomes.add(error.reason)
            else:
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                assert pixels.size
                assert image_size(data) == (pixels.shape[1], pixels.shape[0])
                outcomes.add("read")
    assert outcomes >= {"read", "not_an_image"}
    assert outcomes <= {"read", "empty", "not_an_image", "truncated", "too_large"}

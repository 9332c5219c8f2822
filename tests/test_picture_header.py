"""Sizes from headers: Pillow's answer or none, for all encodings and all damage."""

import io
import random
import struct
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from crnn.errors import ImageError
from crnn.picture_file import open_picture
from crnn.picture_header import header_size


def asked_of_pillow(data: bytes) -> tuple[int, int] | None:
    """The size as it is seen, by Pillow alone; ``None`` where it refuses the header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_picture(data, "it")
        except ImageError:
            return None
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception:  # EXIF data that nobody can read, or pixels, for which a PNG's are looked for behind them
            turned = False
    return image.size[::-1] if turned else image.size


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@st.composite
def ordinary_pictures(draw: st.DrawFn) -> tuple[bytes, tuple[int, int]]:
    """A picture as programs write it, in any of the ways that need no Pillow."""
    size = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    if draw(st.booleans()):
        image = Image.new(draw(st.sampled_from(["L", "RGB", "CMYK"])), size, draw(st.integers(0, 255)))
        options = {
            "quality": draw(st.integers(1, 100)),
            "progressive": draw(st.booleans()),
            "optimize": draw(st.booleans()),
            "restart_marker_blocks": draw(st.integers(0, 3)),
            "subsampling": draw(st.integers(0, 2)),
            "comment": draw(st.binary(max_size=50)),
            "dpi": (draw(st.integers(1, 600)),) * 2,
        }
        return encoded(image, "JPEG", **options), size
    image = Image.new("RGB", size).convert(draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])))
    options = {"dpi": (draw(st.integers(1, 600)),) * 2} if draw(st.booleans()) else {}
    return encoded(image, "PNG", optimize=draw(st.booleans()), **options), size


@given(ordinary_pictures())
@settings(max_examples=150, deadline=None)
def test_ordinary_pictures_need_no_pillow(made: tuple[bytes, tuple[int, int]]) -> None:
    data, size = made
    assert header_size(data) == size == asked_of_pillow(data)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def xmp_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    return encoded(Image.new("L", (5, 7)), "PNG", pnginfo=info)


def late_exif_png() -> bytes:
    """A PNG with its orientation behind the pixels."""
    whole = encoded(Image.new("L", (5, 7)), "PNG")
    body = b"eXIf" + exif(6).tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return whole[:-12] + chunk + whole[-12:]


UNUSUAL = {
    "jpeg exif": encoded(Image.new("L", (5, 7)), "JPEG", exif=exif(6)),
    "jpeg icc": encoded(Image.new("L", (5, 7)), "JPEG", icc_profile=b"profile"),
    "jpeg xmp": encoded(Image.new("L", (5, 7)), "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
    "png exif": encoded(Image.new("L", (5, 7)), "PNG", exif=exif(6)),
    "png exif behind the pixels": late_exif_png(),
    "png xmp": xmp_png(),
    "apng": encoded(Image.new("L", (5, 7)), "PNG", save_all=True, append_images=[Image.new("L", (5, 7), 9)]),
    "gif": encoded(Image.new("L", (5, 7)), "GIF"),
    "tiff": encoded(Image.new("L", (5, 7)), "TIFF"),
    "nothing": b"",
    "jpeg, its beginning": b"\xff\xd8\xff",
    "png, its beginning": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_pillow(name: str) -> None:
    assert header_size(UNUSUAL[name]) is None


def wholes() -> list[bytes]:
    image = Image.effect_noise((24, 16), 60)
    colour = Image.merge("RGB", [image] * 3)
    made = [encoded(colour, "JPEG"), encoded(image, "JPEG", progressive=True, comment=b"words", dpi=(72, 72))]
    made.append(encoded(colour.convert("CMYK"), "JPEG", restart_marker_blocks=2))
    made += [encoded(colour, "PNG", dpi=(72, 72)), encoded(image.quantize(16), "PNG"), encoded(image, "PNG")]
    return made + [data for name, data in UNUSUAL.items() if name.startswith(("jpeg", "png", "apng"))]


def test_of_damaged_pictures_the_answer_is_pillow_s_or_none() -> None:
    rng = random.Random(1)
    pictures = wholes()
    answers = {"the same": 0, "left to Pillow": 0, "refused": 0}
    for _ in range(6000):
        data = bytearray(rng.choice(pictures))
        kind = rng.randrange(3)
        if kind == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(min(len(data), 700 if kind == 1 else 60))
                data[place] = rng.choice((0, 1, 8, 0x7F, 0xC0, 0xC4, 0xDA, 0xE1, 0xFF, rng.randrange(256)))
        found, expected = header_size(bytes(data)), asked_of_pillow(bytes(data))
        assert found in (None, expected), bytes(data)
        answers["the same" if found else "left to Pillow" if expected else "refused"] += 1
    assert min(answers.values()) > 200, answers


def test_each_cut_of_a_header_is_left_to_pillow_until_it_is_whole() -> None:
    for data in wholes()[:6]:
        known = [header_size(data[:end]) is not None for end in range(len(data) + 1)]
        assert known == sorted(known)  # from some byte on it is known
        first = known.index(True)
        assert asked_of_pillow(data[: first - 1]) is None or data.startswith(b"\x89PNG")
        assert asked_of_pillow(data[:first]) == header_size(data)

"""Words cut out of scenes: the right pixels, upright, or a reason; images prepared for a store."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import crnn.data.crops as crops_module
from crnn.data.crops import CropOptions, Prepared, crop, decode_scene, prepare
from crnn.data.formats.records import Box, Quad, Record
from crnn.errors import ImageError
from crnn.files import ImageFolder


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def quad_of(left: float, top: float, right: float, bottom: float) -> Quad:
    return Quad(((left, top), (right, top), (right, bottom), (left, bottom)))


def reason_of(image: Image.Image, region: Box | Quad) -> str:
    with pytest.raises(ImageError) as caught:
        crop(image, region)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_box_is_cut_to_the_pixels_that_it_touches(scene):
    pixels = np.asarray(scene)
    np.testing.assert_array_equal(crop(scene, Box(10, 20, 30, 15)), pixels[20:35, 10:40])
    np.testing.assert_array_equal(crop(scene, Box(10.4, 20.9, 2.2, 1.0)), pixels[20:22, 10:13])


def test_a_box_ends_where_the_image_ends(scene):
    pixels = np.asarray(scene)
    np.testing.assert_array_equal(crop(scene, Box(-5, -7, 20, 20)), pixels[:13, :15])
    np.testing.assert_array_equal(crop(scene, Box(80, 50, 1e9, 1e9)), pixels[50:, 80:])
    assert crop(scene, Box(89.5, 59.5, 5, 5)).size == (1, 1)


@pytest.mark.parametrize(
    "box",
    [
        Box(90, 0, 10, 10), Box(-10, 0, 10, 10), Box(0, 60, 10, 10), Box(0, -10, 10, 10), Box(5, 5, 0, 10),
        Box(5, 5, -3, 10), Box(math.nan, 5, 5, 5), Box(5, 5, math.inf, 5), Box(-math.inf, 5, 5, 5), Box(1e300, 0, 1, 1),
    ],
)  # fmt: skip
def test_a_box_without_pixels_is_outside_of_the_image(scene, box):
    assert reason_of(scene, box) == "outside_image"


def test_an_upright_quadrilateral_is_the_box(scene):
    box, quad = crop(scene, Box(10, 20, 30, 15)), crop(scene, quad_of(10, 20, 40, 35))
    np.testing.assert_array_equal(box, quad)
    np.testing.assert_array_equal(crop(scene, quad_of(0, 0, 90, 60)), scene)


def test_a_quadrilateral_is_turned_upright(scene):
    pixels = np.asarray(scene)[20:35, 10:40]
    # The text's top left is where it begins: reading downwards, upwards, and upside down.
    down = crop(scene, Quad(((40, 20), (40, 35), (10, 35), (10, 20))))
    np.testing.assert_array_equal(down, np.rot90(pixels, 1))
    up = crop(scene, Quad(((10, 35), (10, 20), (40, 20), (40, 35))))
    np.testing.assert_array_equal(up, np.rot90(pixels, -1))
    over = crop(scene, Quad(((40, 35), (10, 35), (10, 20), (40, 20))))
    np.testing.assert_array_equal(over, np.rot90(pixels, 2))


def test_the_size_is_the_mean_of_opposite_sides():
    scene = Image.new("L", (200, 200))
    assert crop(scene, Quad(((50, 50), (150, 50), (130, 90), (70, 90)))).size == (80, 45)  # 100 and 60, twice 44.7
    assert crop(scene, Quad(((50, 50), (50.4, 50), (50.4, 80), (50, 80)))).size == (1, 30)


def test_perspective_is_undone():
    # A chessboard seen at a slant: the fields of the straight view are equally large again.
    board = Image.fromarray(np.kron(np.indices((4, 8)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8) * 255)
    corners = ((20.0, 30.0), (140.0, 10.0), (150.0, 90.0), (30.0, 70.0))
    scene = Image.new("L", (180, 120), 128)
    inverse = np.array([[*row] for row in _homography(corners, board.size)])
    scene.paste(
        board.transform(scene.size, Image.Transform.PERSPECTIVE, inverse.ravel()[:8], Image.Resampling.BILINEAR)
    )
    found = np.asarray(crop(scene, Quad(corners)).resize(board.size, Image.Resampling.BILINEAR), float)
    centres = found.reshape(4, 16, 8, 16)[:, 5:11, :, 5:11].mean((1, 3))
    assert ((centres > 128) == (np.indices((4, 8)).sum(0) % 2 == 1)).all()


def _homography(corners, size):
    """From the scene to the board, by solving the eight equations."""
    width, height = size
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), np.array(right, float)), 1).reshape(3, 3)


def test_a_side_that_is_made_smaller_is_averaged():
    # Columns of one pixel, black and white in turn: where they are crowded together they must become grey.
    stripes = np.zeros((100, 240), np.uint8)
    stripes[:, ::2] = 255
    found = np.asarray(crop(Image.fromarray(stripes), Quad(((10, 10), (210, 10), (130, 60), (90, 60)))), float)
    assert found.shape == (94, 120)
    top = found[1:4, 10:-10]
    assert top.std() < 45  # point by point it is above 100
    assert abs(top.mean() - 127.5) < 10


def test_where_a_quadrilateral_leaves_the_image_its_edge_goes_on():
    scene = Image.fromarray(np.tile(np.arange(40, 140, 2, dtype=np.uint8), (50, 1)))
    found = np.asarray(crop(scene, quad_of(-10, -5, 30, 20)))
    assert found.shape == (25, 40)
    assert (found[:, :10] == 40).all()
    np.testing.assert_array_equal(found[5:, 10:], np.asarray(scene)[:20, :30])
    np.testing.assert_array_equal(found[0], found[5])
    corner = np.asarray(crop(scene, quad_of(30, 35, 55, 55)))
    assert (corner[:, 20:] == 138).all()


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (((10, 10), (50, 10), (30, 10), (20, 10)), "no_area"),
        (((10, 10), (10, 10), (10, 10), (10, 10)), "no_area"),
        (((50, 10), (10, 10), (10, 30), (50, 30)), "mirrored"),
        (((10, 10), (50, 10), (10, 30), (50, 30)), "self_crossing"),
        (((10, 10), (50, 10), (20, 15), (10, 30)), "not_convex"),
        (((10, 10), (50, 10), (90, 10), (10, 30)), "not_convex"),  # a triangle has no corner to warp to
        (((100, 10), (150, 10), (150, 30), (100, 30)), "outside_image"),
        (((-30, 10), (9, 10), (9, 30), (-30, 30)), "outside_image"),  # a quarter of it is inside
        (((math.nan, 10), (50, 10), (50, 30), (10, 30)), "outside_image"),
        (((10, 10), (math.inf, 10), (50, 30), (10, 30)), "outside_image"),
        (((0, 0), (70_000, 0), (70_000, 1), (0, 1)), "too_large"),
        (((-5000, -5000), (5000, -5000), (5000, 5000), (-5000, 5000)), "too_large"),
    ],
)
def test_quadrilaterals_without_an_upright_view_are_counted(scene, points, reason):
    assert reason_of(scene, Quad(points)) == reason


@given(st.lists(st.tuples(*[st.floats(-50, 150)] * 2), min_size=4, max_size=4))
def test_any_quadrilateral_is_cut_out_or_counted(points):
    image = Image.fromarray(np.full((60, 90), 77, np.uint8))
    try:
        found = crop(image, Quad(tuple(points)))
    except ImageError as error:
        assert error.reason in ("no_area", "mirrored", "not_convex", "self_crossing", "outside_image")  # noqa: PT017
    else:
        assert min(found.size) >= 1
        assert (np.asarray(found) == 77).all()  # nothing but the image and its edge


def test_scenes_are_decoded_as_they_are_stored(encode_image, smooth_image):
    upright = smooth_image(40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    data = encode_image(upright, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_scene(data, "scene"), upright)
    grey = upright.convert("L")
    palette = encode_image(upright.quantize(16), "PNG", exif=exif)
    assert (decode_scene(encode_image(grey), "grey").mode, decode_scene(palette, "palette").mode) == ("L", "RGB")
    assert decode_scene(palette, "palette").size == (40, 24)
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode_scene(encode_image(clear), "clear").getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert decode_scene(encode_image(deep), "deep").getpixel((0, 0)) == 255
    with pytest.raises(ImageError, match="cut: cut short") as caught:
        decode_scene(encode_image(upright)[:200], "cut")
    assert caught.value.reason == "truncated"


# ---- preparing whole images and crops for a store


def prepared(folder, *records: Record, **settings) -> list[Prepared]:
    requests = [(0, record.path, record.region) for record in records]
    results = prepare([ImageFolder(folder).read], CropOptions(**settings), requests)
    assert len(results) == len(records)
    assert all("\n" not in result.message for result in results)
    return results


def whole(path: str) -> Record:
    return Record(path, "label", path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("check", ["header", "full"])
def test_whole_images_are_kept_byte_by_byte(tmp_path, encode_image, smooth_image, form, check):
    data = encode_image(smooth_image(40, 24), form)
    (tmp_path / "x").write_bytes(data)
    assert prepared(tmp_path, whole("x"), check=check) == [Prepared(data, 40, 24)]


def test_sizes_are_those_that_training_sees(tmp_path, encode_image, smooth_image):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_image(smooth_image(40, 24), "JPEG", exif=exif)
    (tmp_path / "x").write_bytes(data)
    assert prepared(tmp_path, whole("x")) == [Prepared(data, 24, 40)]
    (small,) = prepared(tmp_path, whole("x"), max_height=20)
    assert (small.width, small.height) == (12, 20)
    image = Image.open(io.BytesIO(small.image))
    assert image.size == (12, 20)
    assert not image.getexif()


def test_only_higher_images_are_made_smaller(tmp_path, encode_image, smooth_image):
    data = encode_image(smooth_image(40, 24))
    (tmp_path / "x").write_bytes(data)
    assert prepared(tmp_path, whole("x"), max_height=24)[0].image == data
    png = prepared(tmp_path, whole("x"), max_height=12)[0]
    jpeg = prepared(tmp_path, whole("x"), max_height=12, encoding="jpeg", quality=30)[0]
    assert (png.width, png.height, png.image[1:4]) == (20, 12, b"PNG")
    assert (jpeg.width, jpeg.height, jpeg.image[:2]) == (20, 12, b"\xff\xd8")
    grey = encode_image(smooth_image(40, 24).convert("L"))
    (tmp_path / "grey").write_bytes(grey)
    assert Image.open(io.BytesIO(prepared(tmp_path, whole("grey"), max_height=12)[0].image)).mode == "L"


def test_what_is_cut_short_is_found_without_decoding_the_rest(tmp_path, encode_image, smooth_image, monkeypatch):
    for form in ("JPEG", "PNG"):
        data = encode_image(smooth_image(200, 100), form)
        (tmp_path / f"{form} good").write_bytes(data)
        (tmp_path / f"{form} padded").write_bytes(data + bytes(20))
        (tmp_path / f"{form} cut").write_bytes(data[: len(data) // 2])
    names = [f"{form} {kind}" for form in ("JPEG", "PNG") for kind in ("good", "padded", "cut")]
    decoded = []
    load = crops_module.load_image
    monkeypatch.setattr(crops_module, "load_image", lambda data, channels: decoded.append(1) or load(data, channels))
    results = prepared(tmp_path, *map(whole, names))
    assert [result.reason for result in results] == ["", "", "truncated"] * 2
    assert len(decoded) == 2
    # Damage in the middle is found by a full check only.
    data = bytearray(encode_image(smooth_image(200, 100)))
    data[len(data) // 2] ^= 255
    (tmp_path / "damaged").write_bytes(data)
    assert prepared(tmp_path, whole("damaged"))[0].reason == ""
    assert prepared(tmp_path, whole("damaged"), check="full")[0].reason == "truncated"


def test_a_scene_is_decoded_once_for_the_words_that_follow_each_other(tmp_path, encode_image, noise, monkeypatch):
    pixels = noise(40, 60)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_image(Image.fromarray(pixels)))
    decoded = []
    decode = crops_module.decode_scene
    monkeypatch.setattr(crops_module, "decode_scene", lambda data, name: decoded.append(name) or decode(data, name))
    boxes = [Box(10 * n, 5, 10, 20) for n in range(3)]
    records = [Record(f"{name}#{n}", "x", name, box) for name in ("a.png", "b.png") for n, box in enumerate(boxes)]
    records += [Record("c", "x", "gone.png", boxes[0])] * 3 + records[:1]
    results = prepared(tmp_path, *records)
    assert decoded == ["a.png", "b.png", "a.png"]
    assert [result.reason for result in results] == [""] * 6 + ["missing"] * 3 + [""]
    for result, box in zip(results[:3], boxes, strict=True):
        left = int(box.left)
        np.testing.assert_array_equal(Image.open(io.BytesIO(result.image)), pixels[5:25, left : left + 10])

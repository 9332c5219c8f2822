"""What a worker makes of a record: bytes that are kept, crops, and one word for everything that is wrong."""

import io
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

import crnn.data.crops as prepare_module
from crnn.data.crops import CropOptions, Prepare, Prepared, Request
from crnn.data.formats.records import Box, Record
from crnn.errors import ImageError
from crnn.files import ImageFolder


def prepared(folder, *records: Record, **settings) -> list[Prepared]:
    prepare = Prepare([ImageFolder(folder).read], CropOptions(**settings))
    results = list(prepare([Request(0, record.path, record.region) for record in records]))
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
    load = prepare_module.load_image
    monkeypatch.setattr(prepare_module, "load_image", lambda data, channels: decoded.append(1) or load(data, channels))
    results = prepared(tmp_path, *map(whole, names))
    assert [result.reason for result in results] == ["", "", "truncated"] * 2
    assert len(decoded) == 2
    # Damage in the middle is found by a full check only.
    data = bytearray(encode_image(smooth_image(200, 100)))
    data[len(data) // 2] ^= 255
    (tmp_path / "damaged").write_bytes(data)
    assert prepared(tmp_path, whole("damaged"))[0].reason == ""
    assert prepared(tmp_path, whole("damaged"), check="full")[0].reason == "truncated"


def test_everything_that_is_wrong_has_a_word(tmp_path, image_of):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "good.png").write_bytes(image_of("good"))
    names = ["empty.png", "text.png", "folder.png", "none.png", "good.png/x", "n" * 5000, "\ud800", "good.png", "."]
    reasons = [result.reason for result in prepared(tmp_path, *map(whole, names))]
    assert reasons == ["empty", "not_an_image", *["missing"] * 5, "", "missing"]
    boxes = [Record(name, "label", name, Box(0, 0, 5, 5)) for name in ("empty.png", "text.png", "none.png", "good.png")]
    assert [result.reason for result in prepared(tmp_path, *boxes)] == ["empty", "not_an_image", "missing", ""]


def test_a_scene_is_decoded_once_for_the_words_that_follow_each_other(tmp_path, encode_image, noise, monkeypatch):
    pixels = noise(40, 60)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_image(Image.fromarray(pixels)))
    decoded = []
    decode = prepare_module.decode_scene
    monkeypatch.setattr(prepare_module, "decode_scene", lambda data, name: decoded.append(name) or decode(data, name))
    boxes = [Box(10 * n, 5, 10, 20) for n in range(3)]
    records = [Record(f"{name}#{n}", "x", name, box) for name in ("a.png", "b.png") for n, box in enumerate(boxes)]
    records += [Record("c", "x", "gone.png", boxes[0])] * 3 + records[:1]
    results = prepared(tmp_path, *records)
    assert decoded == ["a.png", "b.png", "a.png"]
    assert [result.reason for result in results] == [""] * 6 + ["missing"] * 3 + [""]
    for result, box in zip(results[:3], boxes, strict=True):
        left = int(box.left)
        np.testing.assert_array_equal(Image.open(io.BytesIO(result.image)), pixels[5:25, left : left + 10])


def test_sources_are_told_apart(tmp_path, encode_image, noise):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.png").write_bytes(encode_image(Image.fromarray(noise(20, 20, seed=number))))
    prepare = Prepare([ImageFolder(tmp_path / str(n)).read for n in range(2)], CropOptions())
    first, second, again = prepare([Request(number, "x.png", Box(0, 0, 20, 20)) for number in (0, 1, 0)])
    assert first == again != second


def test_files_are_read_from_inside_the_folder_only(tmp_path, image_of):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "rooted").mkdir()  # begins like the root's name
    data = image_of("x")
    for place in (root / "a.png", root / "sub" / "b.png", tmp_path / "out.png", tmp_path / "rooted" / "out.png"):
        place.write_bytes(data)
    (root / "in").symlink_to(root / "sub")
    (root / "in.png").symlink_to(root / "sub" / "b.png")
    (root / "out").symlink_to(tmp_path / "rooted")
    (root / "out.png").symlink_to(tmp_path / "out.png")
    (root / "round.png").symlink_to(root / "round.png")
    (tmp_path / "link").symlink_to(root)
    folder = pickle.loads(pickle.dumps(ImageFolder(tmp_path / "link")))
    for path in ("a.png", "sub/b.png", "./a.png", "sub/../a.png", "in/b.png", "in.png"):
        assert folder.read(path) == data
    for path, reason in (
        ("../out.png", "outside_root"), ("../rooted/out.png", "outside_root"), ("out/out.png", "outside_root"),
        ("out.png", "outside_root"), (str(tmp_path / "out.png"), "outside_root"), ("/a.png", "outside_root"),
        ("sub/../../out.png", "outside_root"), ("round.png", "missing"), ("a.png/..", "missing"), ("sub/", "missing"),
    ):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            folder.read(path)
        assert caught.value.reason == reason, path


def test_many_folders_are_not_all_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("crnn.files._MAX_FOLDERS", 3)
    folder = ImageFolder(tmp_path)
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x").write_bytes(b"%d" % number)
    assert [folder.read(f"{n % 10}/x") for n in range(20)] == [b"%d" % (n % 10) for n in range(20)]
    assert len(folder._folders) <= 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a file"):
        ImageFolder(tmp_path).read("pipe.png")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)  # takes no room on the disk
    with pytest.raises(ImageError) as caught:
        ImageFolder(tmp_path).read("huge.png")
    assert caught.value.reason == "too_large"


def test_nothing_heavy_is_imported():
    import subprocess

    code = "import sys, crnn.data.convert; print(sorted({'torch', 'lmdb', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF", "PPM"])
def test_formats_without_a_known_end_are_decoded(form):
    file = io.BytesIO()
    Image.effect_noise((60, 32), 50).save(file, form)
    data = file.getvalue()
    whole, cut = (
        Prepare([lambda _, d=d: d], CropOptions())([Request(0, "a")])[0] for d in (data, data[: len(data) * 3 // 4])
    )
    assert (whole.reason, cut.reason) == ("", "truncated")


def test_an_image_of_the_height_that_is_asked_for_keeps_its_bytes():
    file = io.BytesIO()
    Image.new("L", (60, 32), 90).save(file, "JPEG")
    (found,) = Prepare([lambda _: file.getvalue()], CropOptions(max_height=32))([Request(0, "a.jpg")])
    assert found.image == file.getvalue()

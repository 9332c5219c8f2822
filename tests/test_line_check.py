"""Images that are likely no upright line of text, told from their size and what was read."""

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import crnn
from crnn.cli import main
from crnn.config.model import ImageConfig
from crnn.image import advice, line_warning

SURE, UNSURE = math.log(0.9), math.log(0.1)


@pytest.mark.parametrize(
    ("size", "text", "score", "expected"),
    [
        ((40, 200), "e", SURE, "turned"),
        ((40, 200), "", SURE, "turned"),
        ((40, 200), "i", UNSURE, "turned"),
        ((40, 70), "8", UNSURE, "turned"),
        ((456, 2836), "ha", UNSURE, "turned"),  # as large as a page, but no page is so narrow
        ((1600, 1200), "s", UNSURE, "page"),
        ((40, 200), "i", SURE, None),  # a stroke
        ((40, 70), "8", SURE, None),
        ((491, 602), "2", SURE, None),  # a digit from near
        ((2544, 656), "observe", UNSURE, None),
        ((400, 300), "shop", UNSURE, None),
        ((519, 32), "a long line", UNSURE, None),
        ((520, 32), "a long line", SURE, "too_wide"),
    ],
)
def test_an_image_is_warned_of_by_shape_and_reading(size, text, score, expected):
    assert line_warning(size, text, score, ImageConfig(resize="keep_ratio")) == expected
    squashed = line_warning(size, text, score, ImageConfig(resize="squash"))
    assert squashed == (None if expected == "too_wide" else expected)


@pytest.fixture(scope="module")
def word():
    image = Image.new("L", (350, 56), 240)
    ImageDraw.Draw(image).text((10, 4), "Fresh bread daily", font=ImageFont.load_default(40), fill=20)
    return image


def test_the_command_says_it_on_stderr_and_in_json(word, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("up.png", "turned.png")]
    word.save(paths[0])
    word.transpose(Image.Transpose.ROTATE_90).save(paths[1])
    expected = f"crnn read: {paths[1]}: {advice('turned', 270)}\n"
    assert main(["read", *paths, "--threads", "1"]) == 0
    assert capsys.readouterr().err == expected
    assert main(["read", *paths, "--threads", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == expected
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [(line["warning"], line.get("turned")) for line in found] == [(None, None), ("turned", 270)]


@pytest.mark.parametrize(
    ("turn", "degrees"),
    [
        (Image.Transpose.ROTATE_90, 270),  # Pillow turns counterclockwise
        (Image.Transpose.ROTATE_180, 180),
        (Image.Transpose.ROTATE_270, 90),
    ],
)
def test_the_turn_of_a_line_is_told_and_its_text_is_of_the_image_as_given(turn, degrees, word):
    reader = crnn.load(threads=1)
    upright, turned = reader.read([word, word.transpose(turn)])
    assert (upright.text, upright.warning, upright.turned) == ("Fresh bread daily", None, None)
    assert (turned.warning, turned.turned) == ("turned", degrees)
    assert turned.text != "Fresh bread daily"
    assert reader.read(word.transpose(turn)).turned == degrees


def test_noise_is_not_called_turned():
    noise = np.random.default_rng(3).integers(0, 256, (24, 32, 96), dtype=np.uint8)
    readings = crnn.load(threads=1).read(list(noise))
    assert any(reading.confidence < 0.5 for reading in readings)
    assert [reading.turned for reading in readings] == [None] * len(readings)


def test_a_turn_that_cannot_be_told_is_none(tmp_path, capsys):
    flat = Image.new("L", (20, 100), 200)
    flat.save(tmp_path / "a.png")
    assert main(["read", str(tmp_path / "a.png"), "--threads", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "turned by 90 or 270 degrees clockwise" in captured.err
    assert "turned" not in json.loads(captured.out)


def test_a_sure_upright_line_is_read_once(word):
    reader = crnn.load(threads=1)
    shapes, log_probs = [], reader._engine.log_probs

    class Counted:
        def log_probs(self, images):
            shapes.append(images.shape)
            return log_probs(images)

    reader._engine = Counted()
    assert reader.read(word).confidence > 0.5
    assert len(shapes) == 1
    reader.read(word.transpose(Image.Transpose.ROTATE_180))
    assert len(shapes) == 3
    # Without a calibration a confidence says too little.
    reader._calibration = None
    assert reader.read(word.transpose(Image.Transpose.ROTATE_180)).turned is None
    assert len(shapes) == 4


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_further_frames_are_said_on_stderr_and_in_json(suffix, word, tmp_path, capsys):
    path = str(tmp_path / f"pages.{suffix}")
    word.save(path, save_all=True, append_images=[Image.new("L", word.size, 255)])
    assert main(["read", path, "--threads", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"crnn read: {path}: {advice('frames')}\n"
    line = json.loads(captured.out)
    assert (line["text"], line["warning"]) == ("Fresh bread daily", "frames")


@pytest.mark.parametrize("ink", [20, 255])
def test_text_on_transparency_is_read(ink, tmp_path):
    image = Image.new("LA", (170, 56), (ink, 0))
    ImageDraw.Draw(image).text((10, 4), "market", font=ImageFont.load_default(40), fill=(ink, 255))
    image.save(tmp_path / "a.png")
    assert crnn.load(threads=1).read(tmp_path / "a.png").text == "market"

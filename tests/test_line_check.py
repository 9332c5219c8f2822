"""Images that are likely no upright line of text, told from their size and what was read."""

import json
import math

import pytest
from PIL import Image, ImageDraw, ImageFont

from crnn.cli import main
from crnn.config.model import ImageConfig
from crnn.image import ADVICE, line_warning

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
    image = Image.new("L", (170, 56), 240)
    ImageDraw.Draw(image).text((10, 4), "market", font=ImageFont.load_default(40), fill=20)
    return image


def test_the_command_says_it_on_stderr_and_in_json(word, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("up.png", "turned.png")]
    word.save(paths[0])
    word.transpose(Image.Transpose.ROTATE_90).save(paths[1])
    expected = f"crnn read: {paths[1]}: {ADVICE['turned']}\n"
    assert main(["read", *paths, "--threads", "1"]) == 0
    assert capsys.readouterr().err == expected
    assert main(["read", *paths, "--threads", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == expected
    assert [json.loads(line)["warning"] for line in captured.out.splitlines()] == [None, "turned"]

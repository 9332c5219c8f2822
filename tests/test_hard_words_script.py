"""tools/hard_words.py: the same images for a seed, labels beside them, every kind readable as a list."""

import runpy
from pathlib import Path

import pytest
from PIL import Image

from crnn.data.source import open_source

script = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "hard_words.py"))
FONTS = sorted((Path(__file__).parents[1] / "src" / "crnn" / "synth" / "faces").rglob("*.ttf"))[:3]


def test_a_seed_draws_the_same_images_of_every_kind(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        script["write"](tmp_path / folder, 3, FONTS, seed)
    for kind in script["KINDS"]:
        first, again, other = (open_source(str(tmp_path / folder / f"{kind}.tsv")) for folder in "abc")
        assert len(first) == 3
        for number in range(3):
            assert first.image_bytes(number) == again.image_bytes(number)
            assert first.image_bytes(number) != other.image_bytes(number)
            with Image.open(tmp_path / "a" / kind / f"{number:04}.png") as image:
                assert image.convert("L").getextrema()[1] - image.convert("L").getextrema()[0] > 30


def test_arguments_are_checked_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "cut.ttf").write_bytes(FONTS[0].read_bytes()[:3000])
    for arguments in (["--count", "0"], ["--fonts", str(tmp_path / "fonts")], ["--fonts", str(tmp_path)[:-1]]):
        monkeypatch.setattr("sys.argv", ["hard_words.py", str(tmp_path / "hard"), *arguments])
        with pytest.raises(SystemExit, match="2"):
            script["main"]()
    assert not (tmp_path / "hard").exists()


def test_an_arc_bends_and_keeps_the_ink(tmp_path):
    bar = Image.new("L", (120, 20), 255)
    up, down = script["bent"](bar, 90.0), script["bent"](bar, -90.0)
    ink = sum(bar.histogram()[v] * v for v in range(256))
    for image in (up, down):
        assert abs(sum(image.histogram()[v] * v for v in range(256)) / ink - 1.0) < 0.1
        assert image.height > 35
    assert up.getpixel((up.width // 2, 2)) > 200  # the middle is at the top, and at the bottom
    assert down.getpixel((down.width // 2, down.height - 3)) > 200

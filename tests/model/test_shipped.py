"""Weights that come with the package: there, whole, loadable by name, and readers of words."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

import crnn
from crnn.decoding.confidence import Calibration
from crnn.engines.exported_file import read_engine_file
from crnn.errors import CheckpointError
from crnn.image import target_width
from crnn.model.checkpoint import load_weights
from crnn.model.weights import DEFAULT_MODEL, save_calibration, shipped_engine_file, shipped_names, shipped_weights


def test_the_checksums_are_those_of_the_files_and_all_is_small() -> None:
    path = shipped_weights(DEFAULT_MODEL)
    assert path is not None
    sums = dict(line.split("  ")[::-1] for line in (path.parent / "SHA256SUMS").read_text().splitlines())
    files = [file for file in path.parent.iterdir() if file.name != "SHA256SUMS"]
    assert sums == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert sum(file.stat().st_size for file in files) < 32_000_000
    assert {f"{other}.safetensors" for other in shipped_names()} <= set(sums)


@pytest.mark.parametrize("name", shipped_names())
def test_the_int8_file_was_made_from_the_weights_beside_it(name: str) -> None:
    path, engine_file = shipped_weights(name), shipped_engine_file(name, "int8")
    assert path is not None
    assert engine_file is not None
    sums = dict(line.split("  ")[::-1] for line in (path.parent / "SHA256SUMS").read_text().splitlines())
    file = read_engine_file(engine_file)
    assert file.precision == "int8"
    assert file.config == load_weights(name).config
    assert file.calibration == load_weights(name).calibration
    assert file.info["source_sha256"] == sums[path.name]
    assert any(str(value).endswith("rendered words") for value in file.info.values())  # it has seen no crops of anybody


@pytest.mark.parametrize("name", shipped_names())
def test_what_a_file_says_of_itself_means_something_elsewhere(name: str) -> None:
    weights = load_weights(name)
    settings = weights.info["run"]
    assert settings["data"]["train"] == ["synth"]
    assert all("/" not in folder for folder in settings.get("fonts", settings.get("faces"))["folders"])
    assert weights.info["samples"] >= 100_000  # of all stretches, not of the last one alone
    text = str(weights.info)
    assert not [word for word in text.replace("'", " ").split() if word.startswith("/")]


@pytest.mark.parametrize("options", [{}, *({"engine": e, "precision": "int8"} for e in ("onnx", "openvino"))], ids=str)
@pytest.mark.parametrize("name", shipped_names())
def test_drawn_words_are_read(name: str, options: dict[str, Any]) -> None:
    """By a face that Pillow brings along, dark on light and light on dark, in sizes that crops have."""
    reader = crnn.load(name, **options)
    words = ["market", "HOTEL", "Platform", "exit", "2024", "coffee"]
    images = []
    for number, word in enumerate(words):
        font = ImageFont.load_default(20 + 8 * number)
        left, top, right, bottom = (int(v) for v in font.getbbox(word))
        paper, ink = ((245, 245, 240), (20, 30, 60)) if number % 2 == 0 else ((30, 60, 40), (250, 240, 200))
        image = Image.new("RGB", (right - left + 16, bottom - top + 10), paper)
        ImageDraw.Draw(image).text((8 - left, 5 - top), word, font=font, fill=ink)
        images.append(image)
    readings = reader.read(images)
    folds = "A" not in reader.charset
    assert [reading.text for reading in readings] == [word.lower() if folds else word for word in words]
    assert all(math.exp(reading.score) > 0.5 for reading in readings)


@pytest.mark.parametrize("name", shipped_names())
def test_long_lines_are_wider_and_read(name: str) -> None:
    """Words have the width that the networks learnt with; lines would have two columns for a character in it."""
    reader = crnn.load(name, threads=1)
    widths = [target_width((width, 100), reader.config.image) for width in (50, 300, 1000, 9000)]
    assert widths == [reader.config.image.min_width, 96, 320, 800]
    assert 64 < widths[0] <= 80
    image = Image.new("L", (530, 50), 240)
    ImageDraw.Draw(image).text((8, 0), "www.recognition.example.com", font=ImageFont.load_default(36), fill=30)
    text = "www.recognition.example.com"
    assert reader.read(image).text == (text if "." in reader.charset else text.replace(".", ""))


def test_a_file_of_the_package_is_not_written_to(tmp_path: Path) -> None:
    path = shipped_weights(DEFAULT_MODEL)
    assert path is not None
    before = path.read_bytes()
    values = {
        "temperature": 1.5, "samples": 9, "accuracy": 0.9, "error_before": 0.1, "error_after": 0.05, "data": ["a"],
    }  # fmt: skip
    calibration = Calibration.from_dict(values)
    with pytest.raises(CheckpointError, match="ships with the package and stays as it is; expected another file"):
        save_calibration(DEFAULT_MODEL, calibration)
    assert save_calibration(DEFAULT_MODEL, calibration, tmp_path / "own.safetensors").is_file()
    assert path.read_bytes() == before


def test_a_name_wins_over_a_folder_that_a_path_still_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert load_weights(DEFAULT_MODEL).path == shipped_weights(DEFAULT_MODEL)
    with pytest.raises(CheckpointError, match="a folder without best"):
        load_weights(f"./{DEFAULT_MODEL}")

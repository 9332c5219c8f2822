"""RapidOCR's own detector, where it is installed: lines are found and read, in silence and without a network."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import crnn
from crnn.interop.detection import load_detector
from crnn.synth.fonts import shipped_folder

pytest.importorskip("rapidocr", reason="rapidocr is not installed: pip install 'crnn[detect]'")

ROOT = Path(__file__).parents[2]
LINES = ("Harbour Street 12", "Open every day", "Coffee and cake 4.50")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    image = Image.new("RGB", (700, 500), "#dde")
    font = ImageFont.truetype(str(next((shipped_folder() / "open-sans").glob("*.ttf"))), 36)
    for number, text in enumerate(LINES):
        ImageDraw.Draw(image).text((60, 80 + 120 * number), text, "#223", font)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    image.save(path)
    return path


@pytest.fixture(scope="module")
def detector():
    return load_detector("rapidocr", 1)


def test_lines_are_found_where_they_are(detector, photo):
    boxes = detector(np.asarray(Image.open(photo)))
    assert boxes.shape == (3, 4, 2)
    middles = boxes.mean(1)[np.argsort(boxes.mean(1)[:, 1])]
    assert middles[:, 1] == pytest.approx([106, 226, 346], abs=15)


def test_no_lines_where_there_are_none(detector):
    assert detector(np.full((300, 400, 3), 200, dtype=np.uint8)).shape == (0, 4, 2)
    for height, width in ((1, 1), (3000, 1), (1, 3000), (9000, 40), (40, 9000)):
        assert detector(np.full((height, width, 3), 200, dtype=np.uint8)).shape == (0, 4, 2)


def test_a_photo_is_read_without_a_network(photo, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    page = crnn.read_page(photo, threads=1)
    assert page.text == "\n".join(LINES)
    turned = Image.open(photo).transpose(Image.Transpose.ROTATE_180)
    assert crnn.read_page(turned, threads=1).text == page.text


def test_the_command_says_nothing_else(photo, tmp_path):
    white = tmp_path / "white.png"
    Image.new("RGB", (300, 300), "white").save(white)
    command = [sys.executable, "-m", "crnn", "read", str(photo), str(white), "--detect", "rapidocr", "--json"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = map(json.loads, done.stdout.splitlines())
    assert [line["text"] for line in first["lines"]] == list(LINES)
    assert second["lines"] == []


def test_the_benchmark_of_pages(photo, tmp_path):
    Image.open(photo).save(tmp_path / "a.jpg", quality=95)
    rows = [
        f"60,{80 + 120 * k},500,{80 + 120 * k},500,{130 + 120 * k},60,{130 + 120 * k},{t}" for k, t in enumerate(LINES)
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks/pages.py"), "--data", str(tmp_path), "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert found["rapidocr's lines, crnn-small"]["CER"] == "0.0 %"
    assert "rapidocr alone" in found

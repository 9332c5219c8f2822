"""Whole photos: lines whose boxes are known are read in order, however they are turned, tilted or long."""

import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import crnn
from crnn.errors import ConfigError, DataError, ImageError, MissingExtraError
from crnn.model.checkpoint import read_tensors, write_tensors
from crnn.model.weights import shipped_weights
from crnn.page import _parts
from crnn.synth.fonts import shipped_folder

FACE = str(next((shipped_folder() / "open-sans").glob("*.ttf")))


class Scene:
    """A page to draw lines on; as a detector it gives their boxes, in the order in which they were drawn."""

    def __init__(self, size=(700, 500)):
        self.image, self.boxes = Image.new("RGB", size, "white"), []

    def write(self, text, middle, size=28, angle=0.0):
        """Draw a line around its middle, turned clockwise by degrees."""
        font = ImageFont.truetype(FACE, size)
        width, height = math.ceil(font.getlength(text)) + 12, round(1.35 * size)
        tile = Image.new("L", (width, height))
        ImageDraw.Draw(tile).text((6, height / 2), text, 255, font, "lm")
        turned = tile.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        self.image.paste("#222", (round(middle[0] - turned.width / 2), round(middle[1] - turned.height / 2)), turned)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        corners = [(-width, -height), (width, -height), (width, height), (-width, height)]
        moved = [(middle[0] + (x * cos - y * sin) / 2, middle[1] + (x * sin + y * cos) / 2) for x, y in corners]
        # A detector knows the corners of the image, not those of the text.
        quarters = round(angle / 90) % 4
        self.boxes.append(moved[4 - quarters :] + moved[: 4 - quarters])

    def __call__(self, pixels):
        assert (pixels.shape[1::-1], pixels.dtype) == (self.image.size, np.uint8)
        return np.array(self.boxes).reshape(-1, 4, 2)


@pytest.fixture(scope="module")
def reader():
    return crnn.load(threads=1)


def texts(page):
    return [line.text for line in page.lines]


def page_of(reader, scene, **options):
    return crnn.PageReader(reader, scene).read(scene.image, **options)


# ---- Order


@pytest.mark.parametrize("tilt", [0.0, 5.0, -5.0])
def test_lines_are_read_row_by_row(reader, tilt):
    scene = Scene()
    rows = [("Coffee", 150, 100), ("4.50", 560, 108), ("Sandwich", 160, 160), ("7.20", 560, 152), ("Total", 150, 220)]
    for text, x, y in (rows[n] for n in (3, 0, 4, 2, 1)):
        dx, dy, angle = x - 350, y - 250, math.radians(tilt)
        at = (350 + dx * math.cos(angle) - dy * math.sin(angle), 250 + dx * math.sin(angle) + dy * math.cos(angle))
        scene.write(text, at, angle=tilt)
    page = page_of(reader, scene)
    assert texts(page) == ["Coffee", "4.50", "Sandwich", "7.20", "Total"]
    assert page.text == "Coffee\t4.50\nSandwich\t7.20\nTotal"
    assert page.size == (700, 500)
    assert all(0.5 < line.confidence <= 1 for line in page.lines)


def test_a_line_beside_two_smaller_ones_does_not_join_them(reader):
    scene = Scene()
    scene.write("Below", (500, 140), size=20)
    scene.write("Above", (500, 100), size=20)
    scene.write("BIG", (150, 118), size=70)
    found = texts(page_of(reader, scene))
    assert found.index("Above") < found.index("Below")
    assert sorted(found) == ["Above", "BIG", "Below"]


def test_colored_lines_are_read_by_their_chroma(reader):
    scene = Scene()
    scene.write("Harbour", (150, 60))
    scene.write("Station", (450, 60))
    letters = np.asarray(scene.image.convert("L"))[..., None] < 128
    patches = np.random.default_rng(0).integers(-40, 40, (63, 88, 1)).repeat(8, axis=0)[:500].repeat(8, axis=1)[:, :700]
    colors = np.where(letters, (200, 60, 40), (60, 128, 60)) + patches  # letters as bright as their ground
    scene.image = Image.fromarray(colors.clip(0, 255).astype(np.uint8))
    assert texts(page_of(reader, scene)) == ["Harbour", "Station"]
    scene.image = scene.image.convert("L").convert("RGB")
    assert texts(page_of(reader, scene)) != ["Harbour", "Station"]


# ---- Turned lines


@pytest.mark.parametrize(("angle", "first"), [(90, 1), (270, 3)])
def test_a_line_on_its_side_is_read_from_its_own_top_left(reader, angle, first):
    scene = Scene()
    scene.write("Harbour Street", (300, 250), angle=angle)
    (line,) = page_of(reader, scene).lines
    assert line.text == "Harbour Street"
    assert line.box[0] == pytest.approx(tuple(scene.boxes[0][first]))
    starts = [c.start for c in line.characters]
    assert starts == sorted(starts)
    assert line.characters[-1].end <= math.dist(line.box[0], line.box[1]) + 1


@pytest.mark.parametrize("angle", [90, 270])
def test_most_of_a_page_says_how_its_short_lines_are_turned(reader, angle):
    scene = Scene()
    lines = ["Harbour Street", "Open every day", "91", "Nr"]  # upright, or on its head, 91 is read as well as turned
    for number, text in enumerate(lines):
        scene.write(text, (200 + 80 * (3 - number if angle == 90 else number), 250), angle=angle)
    assert texts(page_of(reader, scene)) == lines


@pytest.mark.parametrize("letter", ["I", "J", "f"])
def test_one_tall_letter_is_read_upright(letter, reader):
    scene = Scene()
    scene.write(letter, (300, 250), size=60)
    box = np.array(scene.boxes[0])
    assert np.ptp(box[:, 1]) > 1.5 * np.ptp(box[:, 0])
    (line,) = page_of(reader, scene).lines
    assert line.box[0] == pytest.approx(tuple(box[0]))


def test_a_page_on_its_head_is_read_from_its_end(reader):
    scene = Scene()
    lines = ["Harbour Street", "Open every day", "Fresh bread", "Thank you"]
    for number, text in enumerate(lines):
        scene.write(text, (350, 400 - 80 * number), angle=180)
    page = page_of(reader, scene)
    assert texts(page) == lines
    assert page.lines[0].box[0] == pytest.approx(tuple(scene.boxes[0][2]))


# ---- Long lines and words


LONG = "the quick brown fox jumps over the lazy dog while seven wizards boil twelve large pots of warm water"


def test_a_long_line_is_cut_at_gaps_and_joined(reader):
    scene = Scene((2000, 100))
    scene.write(LONG, (1000, 50), size=36)
    (line,) = page_of(reader, scene).lines
    assert line.text == LONG
    width, height = math.dist(*line.box[:2]), math.dist(*line.box[1:3])
    assert width > 25 * height  # more than the network's largest width
    assert "".join(c.text for c in line.characters) == LONG
    places = [edge for c in line.characters for edge in (c.start, c.end)]
    assert places == sorted(places)
    assert places[-1] == pytest.approx(width, abs=20)
    assert line.score < 0 < line.confidence <= 1


def test_a_network_without_spaces_reads_word_by_word(tmp_path):
    tensors, metadata = read_tensors(shipped_weights("crnn-small"))
    metadata["characters"] = metadata["characters"][:94]  # the last is the space
    metadata["config"]["charset"]["characters"] = metadata["characters"]
    for name in ("head.weight", "head.bias"):
        tensors[name] = torch.cat([tensors[name][:94], tensors[name][95:]])
    write_tensors(tmp_path / "words.safetensors", tensors, metadata)
    scene = Scene()
    scene.write("open every day", (350, 250), size=40)
    (line,) = page_of(crnn.load(tmp_path / "words.safetensors", threads=1), scene).lines
    assert line.text == "open every day"


def test_cuts_are_in_gaps_and_nothing_is_lost():
    grey = np.full((20, 400), 255, dtype=np.uint8)
    ink = [(5, 90), (110, 190), (193, 290), (310, 395)]  # one gap is no space
    for start, end in ink:
        grey[5:15, start:end] = 0
    assert _parts(grey, 20.0, words=False) == [(0, 400, False)]
    for words, longest in ((True, 20.0), (False, 6.0), (True, 3.0)):
        parts = _parts(grey, longest, words=words)
        assert [0, *(end for _, end, _ in parts)] == [*(start for start, _, _ in parts), 400]
        assert all(0 < end - start <= longest * 20 for start, end, _ in parts)
    assert [spaced for *_, spaced in _parts(grey, 20.0, words=True)] == [False, True, True]
    at = [start for start, *_ in _parts(grey, 6.0, words=False)][1:]
    assert all(any(end <= x <= start for (_, end), (start, _) in itertools.pairwise(ink)) for x in at)


# ---- Nothing there, and what is refused


def test_a_page_without_text_has_no_lines(reader):
    scene = Scene()
    assert page_of(reader, scene).lines == ()
    assert page_of(reader, scene).as_dict() == {"width": 700, "height": 500, "lines": []}
    scene.boxes = [[(10, 10), (90, 10), (90, 40), (10, 40)], [(5, 5), (5, 5), (5, 5), (5, 5)]]
    assert page_of(reader, scene).lines == ()  # nothing written there, and a box without area
    assert page_of(reader, scene).draw(scene.image).size == (1400, 500)


def test_what_a_detector_may_not_give(reader):
    image = Image.new("RGB", (50, 50))
    with pytest.raises(DataError, match=r"boxes of shape \(3, 4\); expected \(N, 4, 2\)"):
        crnn.PageReader(reader, lambda _: np.zeros((3, 4))).read(image)
    with pytest.raises(ImageError, match="more than 1,000 lines"):
        crnn.PageReader(reader, lambda _: np.zeros((1001, 4, 2))).read(image)


def test_a_bad_image_does_not_stop_the_others(reader):
    scene = Scene()
    scene.write("Bread", (350, 250))
    first, second = crnn.PageReader(reader, scene).stream([b"no image", scene.image])
    assert isinstance(first, ImageError)
    assert texts(second) == ["Bread"]


def test_the_detector_has_a_name_that_exists_and_its_package(reader, monkeypatch):
    with pytest.raises(ConfigError, match="detect is 'magic'; expected rapidocr, or a function"):
        crnn.PageReader(reader, "magic")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crnn\[detect\]'"):
        crnn.read_page("photo.jpg", reader=reader)


@pytest.mark.parametrize("nothing", [[], np.zeros(0), np.zeros((0, 4, 2))])
def test_a_detector_may_find_nothing(reader, nothing):
    page = crnn.PageReader(reader, lambda _: nothing).read(Image.new("RGB", (64, 64)))
    assert (page.lines, page.text, page.size) == ((), "", (64, 64))


@pytest.mark.parametrize("boxes", [[[1, 2], [3]], "boxes", [[[0, 0], [1, 1]]]])
def test_a_detector_that_gives_no_boxes_is_named(reader, boxes):
    with pytest.raises(DataError, match=r"the detector gives .*expected \(N, 4, 2\)"):
        crnn.PageReader(reader, lambda _: boxes).read(Image.new("RGB", (64, 64)))


# ---- Options, and what is shown


def test_options_are_those_of_reading(reader):
    scene = Scene()
    scene.write("0O1I", (350, 250))
    page = crnn.read_page(scene.image, reader=reader, detect=scene, allow="01")
    assert set(page.text) <= {"0", "1"}


def test_a_sheet_has_the_texts_beside_the_photo(reader):
    scene = Scene()
    scene.write("Harbour", (350, 200), size=20)
    page = page_of(reader, scene)
    sheet = np.asarray(page.draw(scene.image).convert("L"))
    height, width = sheet.shape
    left, right = sheet[:, : width // 2], sheet[:, width // 2 :]
    scale = height / 500
    box = np.array(page.lines[0].box) * scale
    (x0, y0), (x1, y1) = box.min(0).astype(int), np.ceil(box.max(0)).astype(int)
    inked = np.argwhere(right < 128)
    assert len(inked) > 50  # the text, inside of its box
    assert (inked.min(0) >= (y0, x0)).all()
    assert (inked.max(0) <= (y1, x1)).all()
    photo = np.asarray(scene.image.resize((width // 2, height)).convert("L"))
    assert (left[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4] == photo[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4]).all()  # nothing over it


def test_a_line_as_json(reader):
    scene = Scene()
    scene.write("Bread", (350, 250))
    (line,) = page_of(reader, scene).as_dict()["lines"]
    assert sorted(line) == ["box", "characters", "confidence", "row", "score", "text"]
    assert line["box"] == [[round(x, 1), round(y, 1)] for x, y in scene.boxes[0]]
    assert [c["text"] for c in line["characters"]] == list("Bread")

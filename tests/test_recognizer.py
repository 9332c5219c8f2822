"""Images in, readings out: kinds, order, errors in place, laziness, scores and places. No network is needed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crnn.config.model import CharsetConfig, ImageConfig, ReaderConfig
from crnn.decoding.ctc import sequence_log_probs
from crnn.errors import CheckpointError, ConfigError, ImageError
from crnn.recognizer import Reading, Recognizer, _borders

Draw = Callable[..., bytes]
MakeReader = Callable[..., Recognizer]

MIXED = ["a", "horizon", "", "be4", "zz9", "internationally", "b", "0", "wide"]
"""Words of eight widths under keep_ratio; two share one, and one is empty."""


def texts(readings: list[Reading]) -> list[str]:
    return [reading.text for reading in readings]


# ---------------------------------------------------------------------------------------------------------------------
# What goes in


def test_open_files_are_images(tmp_path: Path, barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    (tmp_path / "a.png").write_bytes(barcode("a"))
    with (tmp_path / "a.png").open("rb") as file:
        assert reader.read(file).text == "a"
    assert [reading.text for reading in reader.read([io.BytesIO(barcode("b")), io.BytesIO(barcode("c"))])] == ["b", "c"]
    with (tmp_path / "a.png").open(encoding="latin-1") as text, pytest.raises(ImageError, match=r"gives str; .*'rb'"):
        reader.read(text)  # type: ignore[arg-type, call-overload]
    with pytest.raises(ImageError, match="closed file"):
        reader.read(file)


def test_every_kind_of_image_gives_the_same_reading(barcode: Draw, barcode_reader: MakeReader, tmp_path: Path) -> None:
    data = barcode("kind5")
    path = tmp_path / "kind5.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    reader = barcode_reader()
    kinds: list[Any] = [
        str(path), path, data, bytearray(data), memoryview(data), image, np.asarray(image),
        np.asarray(image)[..., None], image.convert("RGB"), np.asarray(image.convert("RGBA")),
    ]  # fmt: skip
    readings = [reader.read(kind) for kind in kinds]
    assert readings[0].text == "kind5"
    assert all(reading == readings[0] for reading in readings)
    assert reader.read(kinds) == readings


def test_many_images_may_come_as_anything_that_can_be_iterated(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    images = [barcode(word) for word in MIXED]
    expected = reader.read(images)
    assert texts(expected) == MIXED
    assert reader.read(tuple(images)) == expected
    assert reader.read(iter(images)) == expected
    assert reader.read(image for image in images) == expected
    assert reader.read(dict.fromkeys(images).keys()) == expected
    assert list(reader.stream(images)) == expected


def test_one_image_gives_a_reading_and_a_list_of_one_gives_a_list(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    alone = reader.read(barcode("one"))
    assert isinstance(alone, Reading)
    assert reader.read([barcode("one")]) == [alone]
    assert reader.read([]) == []
    assert reader.read(iter([])) == []


def test_colour_networks_get_three_channels(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader(image={"image_channels": 3})
    assert reader.read(barcode("rgb")).text == "rgb"
    assert [shape[1] for shape in reader._engine.shapes] == [3]


def test_other_characters(barcode: Draw, barcode_reader: MakeReader) -> None:
    characters = "абвгдежзий ÅØ中文"
    reader = barcode_reader(characters)
    assert reader.read(barcode("где 中Å", characters)).text == "где 中Å"


# ---------------------------------------------------------------------------------------------------------------------
# Order and batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_order_is_kept_with_mixed_widths(batch_size: int, barcode: Draw, barcode_reader: MakeReader) -> None:
    words = [MIXED[i % len(MIXED)] + "xyz"[i % 3] for i in range(40)]
    reader = barcode_reader(batch_size=batch_size)
    assert texts(reader.read([barcode(word) for word in words])) == words
    shapes = reader._engine.shapes
    assert max(shape[0] for shape in shapes) <= batch_size
    assert sum(shape[0] for shape in shapes) == len(words)  # no image is read twice, none stands in for another
    assert {shape[3] for shape in shapes} == {16 * len(word) + 16 for word in words}  # no padding


def test_images_of_one_width_share_batches(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader(batch_size=4)
    reader.read([barcode(word) for word in ["aa", "bbb"] * 8])
    assert sorted(reader._engine.shapes) == [(4, 1, 32, 48)] * 2 + [(4, 1, 32, 64)] * 2


def test_squashed_images_all_have_one_width(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader(image={"resize": "squash", "image_width": 128})
    assert texts(reader.read([barcode("sevenal", scale=2), barcode("sevenal")])) == ["sevenal", "sevenal"]
    assert reader._engine.shapes == [(2, 1, 32, 128)]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_sizes_below_one_are_refused(batch_size: int, barcode_reader: MakeReader) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size is {batch_size}; expected 1 or more"):
        barcode_reader(batch_size=batch_size)
    with pytest.raises(ConfigError, match=rf"beam_width is {batch_size}; expected 1 or more"):
        barcode_reader(decode="beam", beam_width=batch_size)
    with pytest.raises(ConfigError, match=rf"threads is {batch_size}; expected 1 or more"):
        barcode_reader(threads=batch_size)


# ---------------------------------------------------------------------------------------------------------------------
# Images that cannot be read


def bad_images(png_by_hand: Callable[..., bytes], barcode: Draw) -> dict[str, tuple[Any, str]]:
    """By name: something that cannot be read, and its reason."""
    return {
        "nothing": (b"", "empty"),
        "text": (b"not an image at all", "not_an_image"),
        "cut": (barcode("trunc")[:-40], "truncated"),
        "bomb": (png_by_hand(60_000, 60_000), "too_large"),
        "no file": ("no/such/file.png", "missing"),
        "no pixels": (np.zeros((0, 5), np.uint8), "empty"),
        "floats above 1": (np.full((32, 32), 255.0), "not_an_image"),
        "number": (7, "not_an_image"),
    }


def test_errors_stand_in_their_place_and_the_rest_is_read(
    barcode: Draw, barcode_reader: MakeReader, png_by_hand: Callable[..., bytes]
) -> None:
    bad = bad_images(png_by_hand, barcode)
    images: list[Any] = []
    for number, (image, _) in enumerate(bad.values()):
        images += [barcode(f"ok{number}"), image]
    results = list(barcode_reader(batch_size=2).stream(images))
    assert len(results) == len(images)
    assert [result.text for result in results[::2] if isinstance(result, Reading)] == [
        f"ok{n}" for n in range(len(bad))
    ]
    errors = results[1::2]
    assert [type(error) for error in errors] == [ImageError] * len(bad)
    assert [error.reason for error in errors if isinstance(error, ImageError)] == [reason for _, reason in bad.values()]
    for error in errors:
        assert "\n" not in str(error)
        assert "expected" in str(error)


def test_read_raises_what_stream_gives(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    with pytest.raises(ImageError, match=r"^nowhere\.png: no such file"):
        reader.read("nowhere.png")
    with pytest.raises(ImageError, match=r"^nowhere\.png: no such file"):
        reader.read([barcode("ab"), "nowhere.png", barcode("cd")])
    assert reader.read(barcode("ab")).text == "ab"  # and goes on working


@pytest.mark.parametrize(
    ("nothing", "said"), [(None, "image is None; .*OpenCV"), (7, "image is a int; expected a path")]
)
def test_what_is_no_image_is_refused_as_one(nothing: Any, said: str, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    with pytest.raises(ImageError, match=said):
        reader.read(nothing)
    (given,) = reader.stream(nothing)
    assert isinstance(given, ImageError)


@pytest.mark.parametrize(
    ("size", "width"), [((400, 1), 512), ((1, 400), 32), ((1, 1), 32), ((20_000, 32), 512), ((20_000, 1), 512)]
)
def test_images_of_odd_shapes_are_read_and_bounded(
    size: tuple[int, int], width: int, barcode_reader: MakeReader
) -> None:
    reader = barcode_reader()
    reading = reader.read(Image.new("L", size, 255))
    assert reading.text == ""
    assert reader._engine.shapes == [(1, 1, 32, width)]


def test_a_network_that_gives_no_numbers_is_an_error(barcode: Draw, barcode_reader: MakeReader) -> None:
    class Diverged:
        def log_probs(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 7, 37), np.nan, dtype=np.float32)

    reader = Recognizer(Diverged(), barcode_reader().config)
    with pytest.raises(CheckpointError, match="no numbers"):
        reader.read(barcode("a"))


# ---------------------------------------------------------------------------------------------------------------------
# Scores and places


def test_the_score_is_the_probability_of_the_text(barcode: Draw, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    pixels = np.asarray(Image.open(io.BytesIO(barcode("to"))))
    log_probs = reader._engine.log_probs(pixels[None, None])
    expected = sequence_log_probs(log_probs, [reader.charset.encode("to")])[0]
    reading = reader.read(barcode("to"))
    assert reading.score == pytest.approx(expected, abs=1e-6)
    # At least the best path: eleven steps of 0.9.
    assert 11 * math.log(0.9) < reading.score < 0
    assert [c.score for c in reading.characters] == pytest.approx([math.log(0.9)] * 2, abs=1e-6)


def test_no_text_has_a_score_and_no_characters(barcode: Draw, barcode_reader: MakeReader) -> None:
    reading = barcode_reader().read(barcode(""))
    assert (reading.text, reading.characters) == ("", ())
    assert reading.score == pytest.approx(7 * math.log(0.9), abs=1e-5)  # 32 pixels: seven steps, all of them blank


def test_borders_by_hand() -> None:
    # Steps [2, 3) and [5, 7) are the pixels [10, 14) and [22, 30). The gap of 8 is shared: 18. Outside half a gap: 4.
    assert np.allclose(_borders([(2, 3), (5, 7)], 100), [(6, 18), (18, 34)])
    # One character: two pixels on either side.
    assert np.allclose(_borders([(2, 3)], 100), [(8, 16)])
    # No gap, no margin.
    assert np.allclose(_borders([(2, 3), (3, 4)], 100), [(10, 14), (14, 18)])
    # The image ends: 2 - 4 and 34 + 4 are outside of 32 pixels.
    assert np.allclose(_borders([(0, 2), (4, 8)], 32), [(0, 14), (14, 32)])
    # Gaps of 8 and 24 pixels; their mean is 16, so the outermost reach 8 further.
    assert np.allclose(_borders([(3, 4), (6, 7), (13, 14)], 100), [(6, 22), (22, 42), (42, 66)])
    assert _borders([], 100) == []


def test_borders_are_in_order_and_inside(barcode: Draw, barcode_reader: MakeReader) -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        steps = np.sort(rng.choice(25, size=2 * int(rng.integers(1, 12)), replace=False))
        spans = [(int(a), int(b)) for a, b in steps.reshape(-1, 2)]
        borders = np.array(_borders(spans, 100))
        assert borders.min() >= 0
        assert borders.max() <= 100
        assert (borders[:, 1] > borders[:, 0]).all()
        assert np.array_equal(borders[1:, 0], borders[:-1, 1])  # neighbours share the border between them


@pytest.mark.parametrize("scale", [1, 3])
def test_places_are_in_pixels_of_the_image_as_it_was_given(
    scale: int, barcode: Draw, barcode_reader: MakeReader
) -> None:
    # Bars at [6, 14), [22, 30), [38, 46): gaps of 8, so the borders lie at 2, 18, 34, 50, times the scale.
    reader = barcode_reader(image={"interpolation": "bilinear"})  # bicubic would ring at the edges of the bars
    reading = reader.read(barcode("abc", scale=scale))
    assert [c.text for c in reading.characters] == ["a", "b", "c"]
    places = [(c.start, c.end) for c in reading.characters]
    assert np.allclose(places, np.array([(2, 18), (18, 34), (34, 50)]) * scale)
    assert reader._engine.shapes == [(1, 1, 32, 64)]


def test_places_follow_an_image_that_is_squashed(barcode: Draw, barcode_reader: MakeReader) -> None:
    # 64 pixels are read as 192, where a step is a pixel and a third of the image: the same places as above.
    reader = barcode_reader(image={"resize": "squash", "image_width": 192, "interpolation": "bilinear"})
    reading = reader.read(barcode("abc"))
    assert reader._engine.shapes == [(1, 1, 32, 192)]
    assert [c.text for c in reading.characters] == ["a", "b", "c"]
    assert np.allclose([(c.start, c.end) for c in reading.characters], [(2, 18), (18, 34), (34, 50)])


def test_beam_search_finds_what_greedy_misses() -> None:
    # Two steps, 0.4 for "a" and 0.6 for the blank: nothing has 0.36, "a" has 0.64, the best path is two blanks.
    class TwoSteps:
        def log_probs(self, images: np.ndarray) -> np.ndarray:
            return np.log(np.tile([0.4, 0.6], (len(images), 2, 1))).astype(np.float32)

    config = ReaderConfig(charset=CharsetConfig(characters="a"), image=ImageConfig())
    image = np.zeros((32, 100), np.uint8)
    greedy = Recognizer(TwoSteps(), config).read(image)
    beam = Recognizer(TwoSteps(), config, decode="beam").read(image)
    assert (greedy.text, beam.text) == ("", "a")
    assert math.exp(greedy.score) == pytest.approx(0.36, abs=1e-6)
    assert math.exp(beam.score) == pytest.approx(0.64, abs=1e-6)
    assert len(beam.characters) == 1


def test_beam_search_keeps_order_and_places(barcode: Draw, barcode_reader: MakeReader) -> None:
    images = [barcode(word) for word in MIXED]
    beam = barcode_reader(decode="beam", batch_size=2).read(images)
    greedy = barcode_reader(batch_size=2).read(images)
    assert texts(beam) == MIXED
    for one, other in zip(beam, greedy, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert [(c.start, c.end) for c in one.characters] == [(c.start, c.end) for c in other.characters]

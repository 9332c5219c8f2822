"""Streams of images: drawn as far as a bound, opened ahead in threads, and the same readings in any company."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crnn.recognizer import Reading, Recognizer, load

Draw = Callable[..., bytes]
MakeReader = Callable[..., Recognizer]

WORDS = ["a", "horizon", "", "be4", "zz9", "internationally", "b", "0", "wide"]


def texts(readings: list[Reading]) -> list[str]:
    return [reading.text for reading in readings]


@pytest.mark.parametrize(("resize", "most"), [("squash", 2 * 8), ("keep_ratio", 9 * 8)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_is_drawn_as_its_readings_are_taken(
    resize: str, most: int, threads: int, barcode: Draw, barcode_reader: MakeReader
) -> None:
    drawn = 0

    def endless() -> Iterator[bytes]:
        nonlocal drawn
        for word in itertools.cycle(["ab", "cd", "rarely" if resize == "keep_ratio" else "ef", "gh"]):
            drawn += 1
            yield barcode(word)

    reader = barcode_reader(batch_size=8, threads=threads, image={"resize": resize, "image_width": 48})
    stream = reader.stream(endless())
    assert drawn == 0
    for taken in range(1, 200):
        next(stream)
        assert drawn <= taken - 1 + most
    before = {thread.name for thread in threading.enumerate()}
    stream.close()
    assert ("ordered-map_0" in before) == (threads > 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ordered-map")]


def test_with_batches_of_one_a_reading_does_not_wait_for_the_next_image(
    barcode: Draw, barcode_reader: MakeReader
) -> None:
    drawn = 0

    def typed() -> Iterator[bytes]:
        nonlocal drawn
        for word in WORDS:
            drawn += 1
            yield barcode(word)

    for number, reading in enumerate(barcode_reader(batch_size=1).stream(typed()), start=1):
        assert (drawn, reading.text) == (number, WORDS[number - 1])


def test_one_image_starts_no_thread(barcode: Draw, barcode_reader: MakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread is started")

    monkeypatch.setattr("threading.Thread.start", refuse)
    reader = barcode_reader(threads=4)
    assert reader.read(barcode("one")).text == "one"
    assert texts(barcode_reader(threads=1).read([barcode("a"), barcode("b")])) == ["a", "b"]
    with pytest.raises(AssertionError, match="a thread is started"):
        reader.read([barcode("a"), barcode("b")])


def test_an_exception_of_the_images_arrives_after_the_readings_before_it(
    barcode: Draw, barcode_reader: MakeReader
) -> None:
    def images() -> Iterator[bytes]:
        yield from map(barcode, WORDS)
        raise OSError("the list is cut short")

    for batch_size in (1, 2, 64):
        stream = barcode_reader(batch_size=batch_size).stream(images())
        assert texts([next(stream) for _ in WORDS]) == WORDS
        with pytest.raises(OSError, match="the list is cut short"):
            next(stream)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ordered-map")]


def test_one_pillow_image_many_times(barcode_reader: MakeReader, barcode: Draw) -> None:
    reader = barcode_reader(threads=4)
    expected = reader.read(barcode("again"))
    for _ in range(5):
        # Not loaded yet: the first to look at it loads it, and Pillow does not expect two at once.
        image = Image.open(io.BytesIO(barcode("again")))
        assert reader.read([image] * 40) == [expected] * 40


@pytest.mark.parametrize("resize", ["squash", "keep_ratio"])
def test_an_image_alone_and_in_any_batch_has_one_reading(
    resize: str, trained_run: Any, barcode: Draw, one_thread: None
) -> None:
    trained = load(trained_run.folder, engine="torch", device="cpu")
    engine, settings = trained._engine, trained.config
    config = settings.model_copy(update={"image": settings.image.model_copy(update={"resize": resize})})
    images = sorted((trained_run.words.parent / "images").iterdir())
    alone = [Recognizer(engine, config).read(path) for path in images]
    if resize == "squash":
        assert sorted(texts(alone)) == sorted(trained_run.labels)
    order = np.random.default_rng(7).integers(0, len(images), 40).tolist()
    for batch_size, threads in [(1, 1), (3, 1), (3, 4), (64, 2)]:
        reader = Recognizer(engine, config, batch_size=batch_size, threads=threads)
        for place, reading in zip(order, reader.read([images[n] for n in order]), strict=True):
            assert reading.text == alone[place].text
            assert reading.score == pytest.approx(alone[place].score, abs=1e-4)
            assert [(c.start, c.end) for c in reading.characters] == [(c.start, c.end) for c in alone[place].characters]

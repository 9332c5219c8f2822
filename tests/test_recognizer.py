"""Images in, readings out: order, batches, errors in place, laziness, scores and places, options, loading."""

import io
import itertools
import math
import re
import threading

import numpy as np
import pytest
from PIL import Image

import crnn
from crnn.config.model import CharsetConfig, ImageConfig, ReaderConfig
from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.decoding.ctc import sequence_log_probs
from crnn.decoding.language import train_language
from crnn.errors import CharsetError, CheckpointError, ConfigError, DataError, ImageError
from crnn.recognizer import FittedImage, Recognizer, _borders, batches_by_width, load

MIXED = ["a", "horizon", "", "be4", "zz9", "internationally", "b", "0", "wide"]
"""Words of eight widths under keep_ratio; two share one, and one is empty."""

CALIBRATION = Calibration(ConfidenceCurve(0.8, 0.1), ConfidenceCurve(1.3, -0.2))


def texts(readings):
    return [reading.text for reading in readings]


def pool_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ordered-map")]


def then_fail(images):
    yield from images
    raise OSError("the list is cut short")


@pytest.fixture(scope="module")
def language():
    return train_language([("bad", 1.0), ("cab", 1.0), ("ace", 1.0), ("dab", 1.0)], "abc", 4)


@pytest.fixture
def language_reader(barcode_reader):
    """A function that makes a reader of barcodes whose weights name a language."""

    def make(name="en", **options):
        config = ReaderConfig(image=ImageConfig(resize="keep_ratio"), charset=CharsetConfig(language=name))
        return Recognizer(barcode_reader()._engine, config, **options)

    return make


# ---- what goes in


def test_open_files_are_images(tmp_path, barcode, barcode_reader):
    reader = barcode_reader()
    (tmp_path / "a.png").write_bytes(barcode("a"))
    with (tmp_path / "a.png").open("rb") as file:
        assert reader.read(file).text == "a"
    assert [reading.text for reading in reader.read([io.BytesIO(barcode("b")), io.BytesIO(barcode("c"))])] == ["b", "c"]
    with (tmp_path / "a.png").open(encoding="latin-1") as text, pytest.raises(ImageError, match=r"gives str; .*'rb'"):
        reader.read(text)
    with pytest.raises(ImageError, match="closed file"):
        reader.read(file)


def test_every_kind_of_image_gives_the_same_reading(barcode, barcode_reader, tmp_path):
    data = barcode("kind5")
    path = tmp_path / "kind5.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    reader = barcode_reader()
    kinds = [
        str(path), path, data, bytearray(data), memoryview(data), image, np.asarray(image),
        np.asarray(image)[..., None], image.convert("RGB"), np.asarray(image.convert("RGBA")),
    ]  # fmt: skip
    readings = [reader.read(kind) for kind in kinds]
    assert readings[0].text == "kind5"
    assert all(reading == readings[0] for reading in readings)
    assert reader.read(kinds) == readings


def test_many_images_may_come_as_anything_that_can_be_iterated(barcode, barcode_reader):
    reader, images = barcode_reader(), [barcode(word) for word in MIXED]
    expected = reader.read(images)
    assert texts(expected) == MIXED
    for given in (tuple(images), iter(images), dict.fromkeys(images).keys()):
        assert reader.read(given) == expected
    assert list(reader.stream(images)) == expected
    assert reader.read(images[:1]) == [reader.read(images[0])]
    assert reader.read([]) == []


def test_color_networks_get_three_channels(barcode, barcode_reader):
    reader = barcode_reader(image={"image_channels": 3})
    assert reader.read(barcode("rgb")).text == "rgb"
    assert [shape[1] for shape in reader._engine.shapes] == [3]


def colored_barcode(text):
    """A barcode of letters in the chroma of an image whose grey levels are all those of "z"."""
    pixels = np.full((32, 16 * len(text) + 16), 255.0)
    for i, character in enumerate(text):
        pixels[:, 16 * i + 6 : 16 * i + 14] = 6 * (ord(character) - ord("a"))
    others = np.rint(150 - 0.587 * pixels)
    return np.stack([others, others + pixels, others], axis=2).astype(np.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_unsure_colored_images_are_read_again_by_their_chroma(batch_size, barcode, barcode_reader):
    images = [colored_barcode("acid"), barcode("za"), colored_barcode("dart"), barcode("az")]
    options = {"doubt": "zy", "batch_size": batch_size}
    with_chroma = barcode_reader(image={"chroma_retry": True}, **options)
    assert texts(with_chroma.read(images)) == ["acid", "za", "dart", "az"]
    assert sum(shape[0] for shape in with_chroma._engine.shapes) == 6  # the two grey ones once
    assert texts(barcode_reader(**options).read(images)) == ["z", "za", "z", "az"]
    palette = Image.fromarray(images[0]).convert("P", palette=Image.Palette.ADAPTIVE)
    assert with_chroma.read(palette).text == crnn.explain(with_chroma, palette).reading.text == "acid"
    explained = crnn.explain(with_chroma, images[0])
    assert (explained.reading.text, explained.pixels.shape) == ("acid", images[0].shape)


def test_sure_images_and_chroma_that_shows_nothing_or_less_are_left(barcode_reader):
    options = {"image": {"chroma_retry": True}}
    sure = barcode_reader(**options)
    sure._engine.log_probs = lambda images: np.log(
        np.eye(37)[[[3] + [36] * (images.shape[3] // 4 - 2)] * len(images)] + 1e-9
    )
    assert sure.read(colored_barcode("acid")).text == "d"
    # Nothing but the blank in the chroma: sure, and no text.
    grey = barcode_reader(doubt="zy", **options)
    pixels = np.full((32, 80, 3), (62, 212, 62), np.uint8)
    pixels[:, 78:] = 150  # for the range of the chroma, right of the last step
    assert grey.read(pixels).text == "z"
    # As sure as the grey levels, to which the reading is left.
    same = barcode_reader(**options)
    assert same.read(colored_barcode("acid")).text == "z"


# ---- order and batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_order_is_kept_with_mixed_widths(batch_size, barcode, barcode_reader):
    words = [MIXED[i % len(MIXED)] + "xyz"[i % 3] for i in range(40)]
    reader = barcode_reader(batch_size=batch_size)
    assert texts(reader.read([barcode(word) for word in words])) == words
    shapes = reader._engine.shapes
    assert max(shape[0] for shape in shapes) <= batch_size
    assert sum(shape[0] for shape in shapes) == len(words)  # no image is read twice, none stands in for another
    assert {shape[3] for shape in shapes} == {16 * len(word) + 16 for word in words}  # no padding


def test_images_of_one_width_share_batches(barcode, barcode_reader):
    reader = barcode_reader(batch_size=4)
    reader.read([barcode(word) for word in ["aa", "bbb"] * 8])
    assert sorted(reader._engine.shapes) == [(4, 1, 32, 48)] * 2 + [(4, 1, 32, 64)] * 2


def places_of_batches(widths, batch_size, held):
    images = [FittedImage(np.zeros((1, 32, width), np.uint8), (width, 32)) for width in widths]
    batches = list(batches_by_width(images, batch_size, held))
    assert all(len({widths[place] for place, _ in batch}) == 1 for batch in batches)
    assert all(image is images[place] for batch in batches for place, image in batch)
    return [[place for place, _ in batch] for batch in batches]


@pytest.mark.parametrize(
    ("widths", "batch_size", "held", "places"),
    [
        ([64] * 7, 3, 24, [[0, 1, 2], [3, 4, 5], [6]]),
        ([1, 2, 1, 2, 2, 1, 1, 2], 4, 32, [[0, 2, 5, 6], [1, 3, 4, 7]]),
        # The 9 waits while three others come, and then goes alone; the 5s behind it are not disturbed.
        ([9, 5, 5, 5, 5, 5, 5, 5], 4, 4, [[0], [1, 2, 3, 4], [5, 6, 7]]),
        ([9, 5, 9, 6, 5, 6], 4, 4, [[0, 2], [1, 4], [3, 5]]),
        ([8, 7, 9, 7], 4, 32, [[0], [1, 3], [2]]),
    ],
)
def test_images_of_one_width_wait_for_each_other_up_to_a_bound(widths, batch_size, held, places):
    assert places_of_batches(widths, batch_size, held) == places


def test_errors_count_as_held():
    def items():
        yield FittedImage(np.zeros((1, 32, 4), np.uint8), (4, 32))
        yield from [ImageError("bad", reason="empty")] * 20

    kinds = [type(found) for found in batches_by_width(items(), 8, 16)]
    assert kinds == [tuple] * 15 + [list] + [tuple] * 5


@pytest.mark.parametrize("option", ["batch_size", "beam_width", "threads"])
def test_sizes_below_one_are_refused(option, barcode_reader):
    with pytest.raises(ConfigError, match=f"{option} is 0; expected .*1 or more"):
        barcode_reader(decode="beam", **{option: 0})


# ---- images that cannot be read


def test_errors_stand_in_their_place_and_the_rest_is_read(barcode, barcode_reader, png_by_hand):
    bad = {
        "empty": b"",
        "not_an_image": 7,
        "truncated": barcode("trunc")[:-40],
        "too_large": png_by_hand(60_000, 60_000),
        "missing": "no/such/file.png",
    }
    images = [image for n, one in enumerate(bad.values()) for image in (barcode(f"ok{n}"), one)]
    results = list(barcode_reader(batch_size=2).stream(images))
    assert texts(results[::2]) == [f"ok{n}" for n in range(len(bad))]
    assert [error.reason for error in results[1::2]] == list(bad)
    assert all("expected" in str(error) and "\n" not in str(error) for error in results[1::2])


def test_read_raises_what_stream_gives(barcode, barcode_reader):
    reader = barcode_reader()
    for images in ("nowhere.png", [barcode("ab"), "nowhere.png", barcode("cd")]):
        with pytest.raises(ImageError, match=r"^nowhere\.png: No such file"):
            reader.read(images)
    assert reader.read(barcode("ab")).text == "ab"  # and goes on working
    with pytest.raises(ImageError, match=r"image is None; .*OpenCV"):
        reader.read(None)


@pytest.mark.parametrize(
    ("size", "width"), [((400, 1), 512), ((1, 400), 32), ((1, 1), 32), ((20_000, 32), 512), ((20_000, 1), 512)]
)
def test_images_of_odd_shapes_are_read_and_bounded(size, width, barcode_reader):
    reader = barcode_reader()
    reading = reader.read(Image.new("L", size, 255))
    assert reading.text == ""
    assert reader._engine.shapes == [(1, 1, 32, width)]


def test_a_network_that_gives_no_numbers_is_an_error(barcode, barcode_reader):
    class Diverged:
        def log_probs(self, images):
            return np.full((len(images), 7, 37), np.nan, dtype=np.float32)

    reader = Recognizer(Diverged(), barcode_reader().config)
    with pytest.raises(CheckpointError, match="no numbers"):
        reader.read(barcode("a"))


# ---- scores and places


def test_the_score_is_the_probability_of_the_text(barcode, barcode_reader):
    reader = barcode_reader()
    pixels = np.asarray(Image.open(io.BytesIO(barcode("to"))))
    log_probs = reader._engine.log_probs(pixels[None, None])
    expected = sequence_log_probs(log_probs, [reader.charset.encode("to")])[0]
    reading = reader.read(barcode("to"))
    assert reading.score == pytest.approx(expected, abs=1e-6)
    # At least the best path: eleven steps of 0.9.
    assert 11 * math.log(0.9) < reading.score < 0
    assert [c.score for c in reading.characters] == pytest.approx([math.log(0.9)] * 2, abs=1e-6)


def test_no_text_has_a_score_and_no_characters(barcode, barcode_reader):
    reading = barcode_reader().read(barcode(""))
    assert (reading.text, reading.characters) == ("", ())
    assert reading.score == pytest.approx(7 * math.log(0.9), abs=1e-5)  # 32 pixels: seven steps, all of them blank


def test_borders_by_hand():
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
    # With the paper's pooling step t is around 4 t, not 4 (t + 1), and there are two more.
    assert np.allclose(_borders([(3, 4), (6, 8)], 100, "paper"), _borders([(2, 3), (5, 7)], 100))
    assert np.allclose(_borders([(0, 1), (25, 26)], 100, "paper"), [(0, 50), (50, 100)])
    # Moved, and still inside.
    assert np.allclose(_borders([(2, 3), (5, 7)], 100, shift=2.5), [(8.5, 20.5), (20.5, 36.5)])
    assert np.allclose(_borders([(0, 2), (4, 8)], 32, shift=-3.0), [(0, 11), (11, 32)])


@pytest.mark.parametrize("scale", [1, 3])
def test_places_are_in_pixels_of_the_image_as_it_was_given(scale, barcode, barcode_reader):
    # Bars at [6, 14), [22, 30), [38, 46): gaps of 8, so the borders lie at 2, 18, 34, 50, times the scale.
    reader = barcode_reader(image={"interpolation": "bilinear"})  # bicubic would ring at the edges of the bars
    reading = reader.read(barcode("abc", scale=scale))
    assert [c.text for c in reading.characters] == ["a", "b", "c"]
    places = [(c.start, c.end) for c in reading.characters]
    assert np.allclose(places, np.array([(2, 18), (18, 34), (34, 50)]) * scale)
    assert reader._engine.shapes == [(1, 1, 32, 64)]


def test_places_follow_an_image_that_is_squashed(barcode, barcode_reader):
    # 64 pixels are read as 192, where a step is a pixel and a third of the image: the same places as above.
    reader = barcode_reader(image={"resize": "squash", "image_width": 192, "interpolation": "bilinear"})
    reading = reader.read(barcode("abc"))
    assert reader._engine.shapes == [(1, 1, 32, 192)]
    assert [c.text for c in reading.characters] == ["a", "b", "c"]
    assert np.allclose([(c.start, c.end) for c in reading.characters], [(2, 18), (18, 34), (34, 50)])


# ---- streams


@pytest.mark.parametrize(("resize", "most"), [("squash", 2 * 8), ("keep_ratio", 9 * 8)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_is_drawn_as_its_readings_are_taken(resize, most, threads, barcode, barcode_reader):
    drawn = 0

    def endless():
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
    assert bool(pool_threads()) == (threads > 1)
    stream.close()
    assert not pool_threads()


def test_with_batches_of_one_a_reading_does_not_wait_for_the_next_image(barcode, barcode_reader):
    drawn = 0

    def typed():
        nonlocal drawn
        for word in MIXED:
            drawn += 1
            yield barcode(word)

    for number, reading in enumerate(barcode_reader(batch_size=1).stream(typed()), start=1):
        assert (drawn, reading.text) == (number, MIXED[number - 1])


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("lm", ["none", "en"])
def test_an_exception_of_the_images_arrives_after_the_readings_before_it(batch_size, lm, barcode, language_reader):
    words = ["hotel", "exit", "a", "street", "the"]
    stream = language_reader(lm=lm, batch_size=batch_size).stream(then_fail(map(barcode, words)))
    assert texts([next(stream) for _ in words]) == words
    with pytest.raises(OSError, match="the list is cut short"):
        next(stream)
    assert not pool_threads()


def test_one_pillow_image_many_times(barcode_reader, barcode):
    reader = barcode_reader(threads=4)
    expected = reader.read(barcode("again"))
    for _ in range(5):
        # Not loaded yet: the first to look at it loads it, and Pillow does not expect two at once.
        image = Image.open(io.BytesIO(barcode("again")))
        assert reader.read([image] * 40) == [expected] * 40


@pytest.mark.parametrize("resize", ["squash", "keep_ratio"])
def test_an_image_alone_and_in_any_batch_has_one_reading(resize, trained_run, barcode, one_thread):
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


def test_an_image_alone_and_in_any_batch_has_one_reading_with_a_language(language_reader, barcode):
    words = ["hotel", "exit", "qzx", "a", "", "street", "b4", "platform", "the", "of"] * 5
    images = [barcode(word) for word in words]
    alone = language_reader(batch_size=1).read(images)
    assert [reading.text for reading in alone] == words
    for batch_size, threads in ((3, 1), (4, 2), (64, 2)):
        for found, expected in zip(
            language_reader(batch_size=batch_size, threads=threads).stream(images), alone, strict=True
        ):
            assert (found.text, found.characters) == (expected.text, expected.characters)
            assert found.score == pytest.approx(expected.score, abs=1e-5)
            assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)


# ---- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lexicon": ["bird", "cat"]}, "bird"),
        ({"lexicon": ["zoo"], "lexicon_margin": 1.0}, "bard"),
        ({"pattern": "[A-Z]ird"}, "bird"),
        ({"pattern": "[0-9]{2}"}, None),
        ({"allow": "BDR"}, None),
        ({"block": "b"}, None),
        ({"n_best": 3}, "bard"),
        ({"pattern": "[a-z]{4}", "block": "zx", "lm": "en", "n_best": 2}, "bard"),
        ({"decode": "beam", "beam_width": 3}, "bard"),
    ],
    ids=str,
)
def test_options_of_a_call_are_those_of_a_reader_that_has_them(options, text, barcode_reader, barcode):
    reader, image = barcode_reader(calibration=CALIBRATION), barcode("bard")
    free = reader.read(image)
    expected = barcode_reader(calibration=CALIBRATION, **options).read(image)
    assert reader.read(image, **options) == expected
    assert reader.read([image, image], **options) == [expected] * 2
    assert list(reader.stream([image], **options)) == [expected]
    if text is not None:
        assert expected.text == text
    if "allow" in options:
        assert set(expected.text) <= set("bdr")
    assert not set(expected.text) & set(options.get("block", ""))
    assert len(expected.alternatives) == options.get("n_best", 1) - 1
    assert reader.read(image) == free  # and for that call alone
    assert free.text == "bard"


def test_a_language_for_one_call(barcode_reader, barcode, language, tmp_path):
    language.save(tmp_path / "abc.lm")
    reader, image = barcode_reader(calibration=CALIBRATION, doubt="ca"), barcode("bcd")
    for lm in (language, tmp_path / "abc.lm", str(tmp_path / "abc.lm")):
        assert reader.read(image, lm=lm, lm_weight=2.0).text == "bad"
    assert reader.read(image).text == "bcd"
    own = barcode_reader(doubt="ca", lm=language, lm_weight=2.0)
    assert own.read(image).text == "bad"
    assert own.read(image, lm="none", lm_weight=None).text == "bcd"
    assert own.read(image, lm=None, lm_weight=None).text == "bcd"  # auto: that of the weights, which have none
    assert own.read(image, lm_weight=0.0).text == "bcd"
    with pytest.raises(ConfigError, match="lm_weight is given, and there is no language to weigh"):
        own.read(image, lm="none")


def test_a_reading_in_the_wrong_characters_has_hardly_any_confidence(barcode_reader, barcode, language):
    reader, image = barcode_reader(lm=language, doubt="ca"), barcode("bad")
    free = reader.read(image)
    assert reader.read(image, allow="e").confidence < 1e-3
    assert reader.read(image, block="a").confidence < 0.01
    assert reader.read(image, allow="abd").confidence > 0.9 * free.confidence
    # Where the free text may not be, the likeliest of the others stands against a fiftieth of it.
    assert 0.5 < reader.read(barcode("bcd"), lm_weight=0.0, block="c").confidence < 1.0


def test_none_takes_an_option_away(barcode_reader, barcode):
    image = barcode("bard")
    words = barcode_reader(lexicon=["bird", "cat"], n_best=2)
    assert words.read(image, lexicon=None, n_best=None) == barcode_reader().read(image)
    assert words.read(image, lexicon=None, n_best=None, pattern="b[^a]rd").text not in ("bard", "bird")
    with pytest.raises(ConfigError, match="lexicon and pattern do not go together"):
        words.read(image, pattern="b.*")
    assert words.read(image, lexicon=["bart", "cat"]).text == "bart"  # another takes its place
    patterned = barcode_reader(pattern="c.*", allow="abcd")
    assert patterned.read(image, pattern=None, allow=None).text == "bard"
    assert set(patterned.read(image, pattern=None).text) <= set("abcd")
    greedy = barcode_reader(decode="greedy")
    assert greedy.read(image, decode=None, lexicon=["bird"]).text == "bird"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decode": "best"}, ConfigError, "decode is 'best'; expected one of: auto, greedy"),
        ({"lexicon": ["ж"]}, DataError, "the lexicon has no word in the characters"),
        ({"lexicon": "nowhere.txt"}, DataError, r"lexicon nowhere\.txt"),
        ({"pattern": "ж+"}, CharsetError, "no text of the characters '.*' matches it"),
        ({"pattern": "a("}, ConfigError, r"pattern 'a\('"),
        ({"pattern": "((.{1000}){1000}){1000}"}, ConfigError, "repeats of repeats"),
        ({"lexicon": ["a"], "pattern": "a"}, ConfigError, "lexicon and pattern do not go together"),
        ({"allow": "ж"}, CharsetError, "'ж', which is not in the charset"),
        ({"patern": "a"}, ConfigError, "patern: no such option; did you mean 'pattern'?"),
        ({"gpu": False}, ConfigError, "gpu: no such option; expected one of: decode, beam_width, lexicon, "),
        ({"n_best": 2.5}, ConfigError, r"n_best is 2\.5; expected a whole number"),
        ({"lexicon": 3}, ConfigError, "lexicon is 3; expected a file with one word a line, or a list of words"),
        ({"lexicon": b"abc"}, ConfigError, "lexicon is b'abc'; expected a file with one word a line, or a list"),
        ({"n_best": True}, ConfigError, "n_best is True; expected a whole number"),
        ({"lexicon": ["a", 3]}, DataError, "the lexicon has 3; expected words, each a text"),
        ({"lm": 3}, ConfigError, "lm is 3; expected the name of a language, or a file"),
        ({"pattern": 3}, ConfigError, "pattern is 3; expected a text, or what re.compile makes of one"),
        ({"pattern": re.compile(b"a")}, ConfigError, "pattern is re.compile.*; expected an expression for texts"),
        ({"pattern": re.compile("a", re.DEBUG)}, ConfigError, "with no flags but A, I, M, S and X"),
        ({"allow": ["a"]}, ConfigError, r"allow is \['a'\]; expected a text"),
        ({"n_best": 0}, ConfigError, "n_best is 0; expected a whole number, 1 to 1000"),
        ({"n_best": "3"}, ConfigError, "n_best is '3'; expected a whole number"),
        ({"lm": "en", "lm_weight": 1e9}, ConfigError, "expected a number, 0 to 10"),
        ({"lm": "xx"}, DataError, "language xx: there is no such file"),
        ({"lm_weight": 1.0}, ConfigError, "there is no language to weigh"),
    ],
    ids=str,
)
def test_errors_of_options_come_before_an_image_is_looked_at(options, error, message, barcode_reader):
    reader = barcode_reader()
    for call in (
        lambda: reader.stream(then_fail([]), **options),  # when it is called, not at the first reading
        lambda: reader.read("nowhere.png", **options),
        lambda: barcode_reader(**options),
    ):
        with pytest.raises(error, match=message):
            call()
    assert reader._engine.shapes == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": "2"}, "threads is '2'; expected a valid integer"),
        ({"threads": True}, "threads is True; expected a valid integer"),
        ({"batch_size": 2.0}, r"batch_size is 2\.0; expected a valid integer"),
        ({"model": None}, "model is None; expected a valid string or an instance of Path"),
        ({"device": 0}, "device is 0; expected a valid string"),
        ({"engine": "onxx"}, "engine is 'onxx'; expected one of: auto, torch, onnx, openvino"),
        ({"thread": 2}, r"thread: no such option; did you mean 'threads'\?"),
        ({"gpu": False}, "gpu: no such option; expected one of: .*lexicon, .*device, [a-z_, ]*mode, batch_size$"),
    ],
    ids=str,
)
def test_arguments_of_load_of_other_types_and_names(arguments, message, trained_run):
    with pytest.raises(ConfigError, match=message) as caught:
        crnn.load(**{"model": trained_run.folder, **arguments})
    assert "\n" not in str(caught.value)


def test_a_reader_is_not_made_of_anything(barcode_reader):
    with pytest.raises(ConfigError, match="engine is 'torch'; expected an instance of Engine"):
        crnn.Recognizer("torch", ReaderConfig())
    with pytest.raises(ConfigError, match="font_path is 3; expected"):
        crnn.explain(barcode_reader(), np.zeros((32, 64), dtype=np.uint8)).draw(3)
    with pytest.raises(ConfigError, match=r"runnersup: no such option; did you mean 'runners_up'\?"):
        crnn.explain(barcode_reader(), np.zeros((32, 64), dtype=np.uint8), runnersup=3)
    with pytest.raises(ConfigError, match="source is 3; expected a valid string or an instance of Path"):
        crnn.load_config(3)
    with pytest.raises(CharsetError, match=r"characters are \['a', 'b'\]; expected a text"):
        crnn.Charset(["a", "b"])


def test_numbers_of_numpy_and_compiled_patterns_are_taken(barcode_reader, barcode):
    reader = barcode_reader(threads=np.int64(1), batch_size=np.int32(2), n_best=np.int64(1))
    assert reader.decoder.method == "greedy"
    image = barcode("hotel")
    for pattern in (re.compile("[A-Z]+"), re.compile("hotel # or not", re.X)):
        assert reader.read(image, pattern=pattern).text == "hotel"


def test_a_reader_has_the_language_that_its_weights_name(language_reader, barcode):
    reader = language_reader(calibration=CALIBRATION)
    assert (reader.decoder.method, reader.decoder.curve) == ("beam", CALIBRATION.language)
    assert reader.decoder.prior is not None
    assert reader.decoder.prior.language.name == "en"
    plain = language_reader(lm="none", calibration=CALIBRATION)
    assert (plain.decoder.method, plain.decoder.prior, plain.decoder.curve) == ("greedy", None, CALIBRATION.greedy)
    image = barcode("hotel")
    assert reader.read(image).text == plain.read(image).text == "hotel"
    assert reader.read(image).confidence != plain.read(image).confidence
    assert reader.read(image, lm="none") == plain.read(image)
    assert reader.read(image, decode="greedy") == plain.read(image)
    assert plain.read(image, lm=None) == reader.read(image) == plain.read(image, lm="en")
    # Lexicons and patterns have words of their own.
    assert reader.read(image, lexicon=["motel", "exit"]).text == "motel"
    assert reader.read(image, pattern="[A-Z]+[0-9]").text[-1].isdigit()
    with pytest.raises(DataError, match=r"language xx: there is no such file; expected one of crnn lm, or en"):
        language_reader("xx")


def test_the_confidence_of_a_lexicon_knows_that_none_may_be_shown(barcode_reader, barcode):
    reader, image = barcode_reader(), barcode("street")
    none = reader.read(image, lexicon=["zzz"])
    assert (none.text, none.confidence) == ("zzz", pytest.approx(0.0, abs=1e-6))
    right = reader.read(image, lexicon=["zzz", "street"])
    assert (right.text, right.confidence) == ("street", pytest.approx(1.0, abs=1e-6))
    several = reader.read(image, lexicon=["street", "strebt", "zzz"], n_best=3)
    assert several.text == "street"
    assert 0.99 < several.confidence + sum(a.confidence for a in several.alternatives) <= 1.0 + 1e-9
    strange = reader.read(image, lexicon=["zzz", "zz", "quiz"], n_best=3)
    assert len(strange.alternatives) == 2
    assert strange.confidence + sum(a.confidence for a in strange.alternatives) == pytest.approx(0.0, abs=1e-6)
    # Confidences of words need no calibration.
    assert barcode_reader(calibration=CALIBRATION).read(image, lexicon=["zzz"]) == none


# ---- loading


def test_load_takes_a_run_folder_or_a_weights_file(trained_run, one_thread):
    image = trained_run.words.parent / "images" / "1.png"
    folder = load(trained_run.folder, device="cpu").read(image)
    assert folder.text == trained_run.labels[0]
    assert load(str(trained_run.folder / "best.safetensors"), device="cpu").read(image) == folder
    beam = load(trained_run.folder, device="cpu", decode="beam", beam_width=4, engine="torch").read(image)
    assert beam.text == folder.text


def test_half_precision_reads_the_same_words(trained_run, one_thread):
    images = [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]
    exact = load(trained_run.folder, device="cpu").read(images)
    rounded = load(trained_run.folder, device="cpu", precision="bf16").read(images)
    # bf16 has 8 bits: scores differ, words that are read with some certainty do not.
    sure = [i for i, reading in enumerate(exact) if reading.score > -0.5]
    assert len(sure) >= len(exact) // 2
    assert [rounded[i].text for i in sure] == [exact[i].text for i in sure]
    assert [r.score for r in rounded] != [r.score for r in exact]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nothing/here"}, "model 'nothing/here' is no weights file, run folder or shipped name"),
        ({"model": "."}, "a folder without best.safetensors or last.safetensors; expected a run folder"),
        ({"engine": "tensorrt"}, "engine is 'tensorrt'; expected one of: auto, torch, onnx, openvino"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected one of: fp32, bf16, int8"),
    ],
    ids=str,
)
def test_load_says_what_is_wrong(options, message, trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        load(**{"model": trained_run.folder, **options})

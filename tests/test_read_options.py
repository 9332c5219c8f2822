"""Options of decoding for one call of ``read`` or ``stream``, and the language that a reader uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn.config.model import CharsetConfig, ImageConfig, ReaderConfig
from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.decoding.language import Language, train_language
from crnn.errors import CharsetError, ConfigError, CrnnError, DataError
from crnn.recognizer import Reading, Recognizer

MakeReader = Callable[..., Recognizer]
Barcode = Callable[..., bytes]

CALIBRATION = Calibration(ConfidenceCurve(0.8, 0.1), ConfidenceCurve(1.3, -0.2))


@pytest.fixture(scope="module")
def language() -> Language:
    return train_language([("bad", 1.0), ("cab", 1.0), ("ace", 1.0), ("dab", 1.0)], "abc", 4)


@pytest.fixture
def spoken_reader(barcode_reader: MakeReader) -> MakeReader:
    """A function that makes a reader of barcodes whose weights name a language."""

    def make(name: str = "en", **options: Any) -> Recognizer:
        config = ReaderConfig(image=ImageConfig(resize="keep_ratio"), charset=CharsetConfig(language=name))
        return Recognizer(barcode_reader()._engine, config, **options)

    return make


# -- for one call -----------------------------------------------------------------------------------------------------


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
def test_options_of_a_call_are_those_of_a_reader_that_has_them(
    options: dict[str, Any], text: str | None, barcode_reader: MakeReader, barcode: Barcode
) -> None:
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


def test_a_language_for_one_call(
    barcode_reader: MakeReader, barcode: Barcode, language: Language, tmp_path: Path
) -> None:
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


def test_a_reading_in_the_wrong_characters_has_hardly_any_confidence(
    barcode_reader: MakeReader, barcode: Barcode, language: Language
) -> None:
    reader, image = barcode_reader(lm=language, doubt="ca"), barcode("bad")
    free = reader.read(image)
    assert reader.read(image, allow="e").confidence < 1e-3
    assert reader.read(image, block="a").confidence < 0.01
    assert reader.read(image, allow="abd").confidence > 0.9 * free.confidence
    # Where the free text may not be, the likeliest of the others stands against a fiftieth of it.
    assert 0.5 < reader.read(barcode("bcd"), lm_weight=0.0, block="c").confidence < 1.0


def test_none_takes_an_option_away(barcode_reader: MakeReader, barcode: Barcode) -> None:
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
        ({"lexicon": ["ж"]}, DataError, "the lexicon has no word that can be read"),
        ({"lexicon": "nowhere.txt"}, DataError, r"lexicon nowhere\.txt"),
        ({"pattern": "ж+"}, CharsetError, "no text of the characters '.*' matches it"),
        ({"pattern": "a("}, ConfigError, r"pattern 'a\('"),
        ({"lexicon": ["a"], "pattern": "a"}, ConfigError, "lexicon and pattern do not go together"),
        ({"allow": "ж"}, CharsetError, "'ж', which is not in the charset"),
        ({"patern": "a"}, ConfigError, "patern: no such option; expected some of: decode, beam_width, lexicon, "),
        ({"pattern": "((.{1000}){1000}){1000}"}, ConfigError, "repeats of repeats"),
        ({"pattern": "(?:(a{2}b){99}+){99}"}, ConfigError, "repeats of repeats"),
        ({"pattern": 5}, ConfigError, "pattern is 5; expected a text"),
        ({"n_best": 0}, ConfigError, "n_best is 0; expected a whole number"),
        ({"n_best": "3"}, ConfigError, "n_best is '3'; expected a whole number"),
        ({"lm": "en", "lm_weight": "3"}, ConfigError, "lm_weight is '3'; expected a number, 0 to 10"),
        ({"lm": "en", "lm_weight": 1e9}, ConfigError, "expected a number, 0 to 10"),
        ({"lm": "xx"}, DataError, "language xx: there is no such file"),
        ({"lm_weight": 1.0}, ConfigError, "there is no language to weigh"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_an_image_is_looked_at(
    options: dict[str, Any], error: type[CrnnError], message: str, barcode_reader: MakeReader, barcode: Barcode
) -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("an image is drawn")
        yield b""

    reader = barcode_reader()
    for call in (
        lambda: reader.stream(never(), **options),  # when it is called, not at the first reading
        lambda: reader.read(never(), **options),
        lambda: reader.read("nowhere.png", **options),
        lambda: barcode_reader(**options),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert reader._engine.shapes == []
    assert reader.read(barcode("bard")).text == "bard"


# -- the language of weights ------------------------------------------------------------------------------------------


def test_a_reader_has_the_language_that_its_weights_name(spoken_reader: MakeReader, barcode: Barcode) -> None:
    reader = spoken_reader(calibration=CALIBRATION)
    assert (reader.decoder.method, reader.decoder.curve) == ("beam", CALIBRATION.language)
    assert reader.decoder.prior is not None
    assert reader.decoder.prior.language.name == "en"
    plain = spoken_reader(lm="none", calibration=CALIBRATION)
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
    with pytest.raises(DataError, match=r"language xx: there is no such file; .* the name of one that ships: en"):
        spoken_reader("xx")


def test_an_image_alone_and_in_any_batch_has_one_reading_with_a_language(
    spoken_reader: MakeReader, barcode: Barcode
) -> None:
    words = ["hotel", "exit", "qzx", "a", "", "street", "b4", "platform", "the", "of"] * 5
    images = [barcode(word) for word in words]
    alone = spoken_reader(batch_size=1).read(images)
    assert [reading.text for reading in alone] == words
    for batch_size, threads in ((3, 1), (4, 2), (64, 2)):
        for found, expected in zip(
            spoken_reader(batch_size=batch_size, threads=threads).stream(images), alone, strict=True
        ):
            assert isinstance(found, Reading)
            assert (found.text, found.characters) == (expected.text, expected.characters)
            assert found.score == pytest.approx(expected.score, abs=1e-5)
            assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_readings_with_a_language_arrive_before_an_exception_of_the_images(
    spoken_reader: MakeReader, barcode: Barcode
) -> None:
    def images() -> Iterator[bytes]:
        yield from map(barcode, ["hotel", "exit", "the"])
        raise OSError("the list is cut short")

    for batch_size in (1, 2, 64):
        stream = spoken_reader(batch_size=batch_size).stream(images())
        assert [reading.text for reading in [next(stream) for _ in range(3)] if isinstance(reading, Reading)] == [
            "hotel", "exit", "the",
        ]  # fmt: skip
        with pytest.raises(OSError, match="the list is cut short"):
            next(stream)


# -- none of these ----------------------------------------------------------------------------------------------------


def test_the_confidence_of_a_lexicon_knows_that_none_may_be_shown(barcode_reader: MakeReader, barcode: Barcode) -> None:
    reader, image = barcode_reader(), barcode("street")
    none = reader.read(image, lexicon=["zzz"])
    assert (none.text, none.confidence) == ("zzz", pytest.approx(0.0, abs=1e-6))
    right = reader.read(image, lexicon=["zzz", "street"])
    assert (right.text, right.confidence) == ("street", pytest.approx(1.0, abs=1e-6))
    several = reader.read(image, lexicon=["street", "strebt", "zzz"], n_best=3)
    assert several.text == "street"
    assert 0.99 < several.confidence + sum(a.confidence for a in several.alternatives) <= 1.0 + 1e-9
    # Confidences of words need no calibration.
    assert barcode_reader(calibration=CALIBRATION).read(image, lexicon=["zzz"]) == none

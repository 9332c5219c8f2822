"""Explanations: the numbers are those of the reading, and the image shows them where they belong."""

import numpy as np
import pytest

import crnn
from crnn.config.model import ModelConfig
from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.decoding.ctc import decode_greedy, sequence_log_probs
from crnn.decoding.language import train_language
from crnn.errors import ConfigError, ImageError
from crnn.explanation import explain, find_font
from crnn.recognizer import Recognizer

OWN, OTHER = (24, 92, 196), (206, 110, 20)


def test_the_numbers_are_those_of_the_reading(barcode, barcode_reader):
    reader = barcode_reader(calibration=Calibration(ConfidenceCurve(0.7, 0.1)))
    found = crnn.explain(reader, barcode("tree", scale=2), runners_up=4)
    reading = reader.read(barcode("tree", scale=2))
    assert found.reading.text == "tree"
    assert (found.reading.score, found.reading.confidence) == (reading.score, reading.confidence)
    assert found.reading.characters == reading.characters
    assert found.pixels.shape == (64, 160, 3)
    assert (found.log_probs.shape, found.width, found.method) == ((19, 37), 80, "greedy")
    assert found.spans == ((1, 3), (5, 7), (9, 11), (13, 15))  # where the bars are
    others = found.reading.alternatives
    assert len(others) == 4
    assert len({a.text for a in others} | {"tree"}) == 5
    assert [a.score for a in others] == sorted((a.score for a in others), reverse=True)
    ids = [reader.charset.encode(a.text) for a in others]
    scores = sequence_log_probs(found.log_probs[None], ids, np.zeros(4, dtype=int))
    assert [a.score for a in others] == pytest.approx(scores.tolist())
    assert all(0 < a.confidence < reading.confidence for a in others)


def test_it_explains_what_the_reader_reads_in_its_way(barcode, barcode_reader):
    image = barcode("bard")
    word = explain(barcode_reader(lexicon=["bird", "cat"]), image)
    assert (word.reading.text, word.method) == ("bird", "lexicon")
    assert word.reading.alternatives[0].text == "bard"  # of free texts the likeliest
    assert len(word.spans) == 4
    own = explain(barcode_reader(lexicon=["bird", "cat", "bart"], n_best=3), image)
    assert [a.text for a in own.reading.alternatives] == ["bird", "cat"]
    assert own.reading.text == "bart"


# where all is alike, nothing is near
@pytest.mark.parametrize(("doubt", "weight", "text"), [("ca", 2.0, "bad"), ("", 1.0, "bcd")])
def test_runners_up_of_a_reading_with_a_language_are_no_likelier_than_it(doubt, weight, text, barcode, barcode_reader):
    language = train_language([(word, 1.0) for word in ("bad", "cab", "ace", "dab")], "abc", 4)
    calibration = Calibration(ConfidenceCurve(0.7, 0.1), ConfidenceCurve(1.2, -0.1))
    reader = barcode_reader(doubt=doubt, lm=language, lm_weight=weight, calibration=calibration)
    found = explain(reader, barcode("bcd"), runners_up=3)
    assert (found.reading.text, found.method) == (text, "beam")
    free = barcode_reader(doubt=doubt).read(barcode("bcd"))
    assert free.score >= found.reading.score
    others = found.reading.alternatives
    assert len(others) == 3
    values = [found.reading.confidence, *(a.confidence for a in others)]
    assert values == sorted(values, reverse=True)
    assert found.reading.confidence == reader.read(barcode("bcd")).confidence


def test_rows_are_the_classes_that_play_a_part(barcode, barcode_reader):
    found = explain(barcode_reader(), barcode("dad"))
    rows = found.rows()
    assert [row.character for row in rows if row.spans] == ["d", "a"]
    assert rows[-1].character == ""
    assert rows[0].spans == [(1, 3), (9, 11)]
    assert rows[1].spans == [(5, 7)]
    probabilities = np.exp(found.log_probs)
    np.testing.assert_allclose(rows[0].probabilities, probabilities[:, 3], rtol=1e-6)
    np.testing.assert_allclose(rows[-1].probabilities, probabilities[:, -1], rtol=1e-6)
    assert decode_greedy(found.log_probs[None])[0].ids == (3, 0, 3)


def near(pixels, colour):
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < 20).sum())


def test_the_image_shows_the_bars_under_the_letters(barcode, barcode_reader):
    found = explain(barcode_reader(), barcode("t5"))  # a bar of grey 114, and one of 186
    sheet = found.draw()
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    assert near(pixels, OTHER) > 50  # the names of the runners-up
    first, cell = 80, 44  # where the axis begins, and the width of a step on it; its pixels are those around 4 (t + 1)
    for step, grey in ((1, 114), (2, 114), (3, 255), (5, 186), (6, 186), (7, 255)):
        column = pixels[:, first + cell * (step + 1) + 8]  # beside the numbers
        crop = column[60:100]
        assert np.abs(crop.astype(int) - grey).max() < 12
        assert (near(column[:, None], OWN) > 15) == (grey < 255)
    assert explain(barcode_reader(), barcode("t5")).draw().tobytes() == sheet.tobytes()


class WithThePapersSteps:
    """An engine with a step of the margin before the first step of another, and one behind the last."""

    def __init__(self, engine):
        self.engine = engine

    def log_probs(self, images):
        found = self.engine.log_probs(images)
        return np.concatenate([found[:, :1], found, found[:, -1:]], axis=1)


def test_with_the_papers_pooling_characters_stand_where_they_stood(barcode, barcode_reader):
    reader = barcode_reader()
    config = reader.config.model_copy(update={"model": ModelConfig(pooling="paper")})
    other = Recognizer(WithThePapersSteps(reader._engine), config)
    plain, padded = (explain(one, barcode("t5")) for one in (reader, other))
    assert len(padded.log_probs) == len(plain.log_probs) + 2
    assert [(c.start, c.end) for c in padded.reading.characters] == [(c.start, c.end) for c in plain.reading.characters]
    sheets = [np.asarray(one.draw()) for one in (plain, padded)]
    for step in (2, 3, 5, 6):  # the drawing of the crop and of the steps below it, but for their numbers
        column = 80 + 44 * step + 8
        assert (sheets[0][60:250, column] == sheets[1][60:250, column]).all()


@pytest.mark.parametrize("shape", [(5, 400, 3), (300, 20, 3)], ids=["flat", "tall"])
def test_color_images_of_any_shape_that_show_nothing(shape, barcode_reader):
    image = np.full(shape, (250, 254, 240), dtype=np.uint8)
    found = explain(barcode_reader(image={"image_channels": 3}), image)
    assert (found.reading.text, found.spans, found.pixels.shape) == ("", (), shape)
    sheet = found.draw()
    assert sheet.width < 2600
    assert sheet.height < 1500
    assert near(np.asarray(sheet), (250, 254, 240)) > 1000


def test_other_scripts_are_written_in_a_face_that_has_them(barcode, barcode_reader):
    characters = "кругаё "
    word = "круг а"
    found = explain(barcode_reader(characters), barcode(word, characters))
    assert found.reading.text == word
    face = find_font(set(word))
    assert face is not None  # a face that ships has Cyrillic
    assert found.draw().tobytes() == found.draw(face[0]).tobytes()
    assert find_font("abc 12!") is None
    with pytest.raises(ConfigError, match=r"font nowhere\.ttf: cannot be read"):
        found.draw("nowhere.ttf")


def test_an_image_that_cannot_be_read_is_the_error_of_reading(barcode_reader, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        explain(barcode_reader(), tmp_path / "gone.png")

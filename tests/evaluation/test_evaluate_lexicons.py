"""Evaluation with lexicons beside the free reading, and the calibration of a recogniser on sets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crnn.charset import NAMED_CHARSETS
from crnn.data.store import LmdbWriter
from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.decoding.confidence import confidences as curve_confidences
from crnn.decoding.language import train_language
from crnn.errors import ConfigError, DataError
from crnn.evaluation.evaluate import calibrate, evaluate
from crnn.recognizer import Recognizer

MakeReader = Callable[..., Recognizer]
Barcode = Callable[..., bytes]

# Label, what the image shows, its 50 words, its 1,000 words.
SAMPLES: list[tuple[str, str, list[str] | None, list[str] | None]] = [
    ("Bird", "bard", ["BIRD", "cat", "fox"], ["bird", "fox"]),
    ("cat", "cat", ["dog", "cat"], ["cat", "dog"]),
    ("dog", "dgg", ["cow", "dog"], ["dgg", "dog"]),  # "dgg" itself is among the larger one's words
    ("it's", "its", ["It's", "is"], None),
    ("fox", "fox", None, None),
]


@pytest.fixture
def store(tmp_path: Path, barcode: Barcode) -> str:
    with LmdbWriter(tmp_path / "words") as writer:
        for label, shown, small, large in SAMPLES:
            writer.add(barcode(shown), label, lexicon=small, large_lexicon=large)
    return str(tmp_path / "words")


@pytest.fixture
def list_set(tmp_path: Path, barcode: Barcode) -> str:
    folder = tmp_path / "listed"
    folder.mkdir()
    for number, (_, shown, _, _) in enumerate(SAMPLES):
        (folder / f"{number}.png").write_bytes(barcode(shown))
    (folder / "labels.tsv").write_text("".join(f"{n}.png\t{label}\n" for n, (label, *_) in enumerate(SAMPLES)))
    return str(folder)


def test_lexicons_beside_the_free_reading(store: str, barcode_reader: MakeReader, tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("bird\ncat\nfox\n")
    lexicons = ["50", "1k", "full", str(tmp_path / "animals.txt")]
    reader = barcode_reader()
    result = evaluate(reader, [store], lexicons=lexicons)
    (dataset,) = result.datasets
    assert dataset.sums.correct == 3  # cat, its, fox
    found = {r.name: (r.words, r.sums.correct, r.sums.samples, r.without) for r in dataset.lexicons}
    assert found == {
        "50": (None, 4, 4, 1),
        "1k": (None, 2, 3, 2),
        "full": (5, 5, 5, 0),
        "animals.txt": (3, 3, 5, 0),
    }
    assert result.lexicon_names == ("50", "1k", "full", "animals.txt")
    assert len(reader._engine.shapes) == len({shape[3] for shape in reader._engine.shapes})  # each image once
    assert dataset.warnings == [
        "words: 1 of 5 samples have no lexicon '50'; they are not in its accuracy",
        "words: 2 of 5 samples have no lexicon '1k'; they are not in its accuracy",
    ]
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))["datasets"][0]["lexicons"]
    assert [(v["name"], v["words"], v["samples"], v["accuracy"]) for v in values] == [
        ("50", None, 4, 1.0), ("1k", None, 3, pytest.approx(2 / 3)), ("full", 5, 5, 1.0), ("animals.txt", 3, 5, 0.6),
    ]  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_change_nothing(batch_size: int, store: str, barcode_reader: MakeReader) -> None:
    lexicons = ["50", "1k", "full"]
    expected = evaluate(barcode_reader(), [store], lexicons=lexicons)
    assert evaluate(barcode_reader(batch_size=batch_size), [store], lexicons=lexicons) == expected


def test_the_lexicon_alone_makes_its_readings_the_readings(store: str, barcode_reader: MakeReader) -> None:
    result = evaluate(barcode_reader(), [store], lexicons=["50"], lexicon_only=True)
    (dataset,) = result.datasets
    assert [(s.label, s.prediction) for s in dataset.samples] == [
        ("bird", "bird"), ("cat", "cat"), ("dog", "dog"), ("its", "its"),
    ]  # fmt: skip
    assert dataset.skipped == {"no_lexicon": 1}
    assert dataset.lexicons == ()
    confidences = {s.label: s.confidence or math.nan for s in dataset.samples}
    assert min(confidences["cat"], confidences["its"]) > 0.99
    # One letter is another one: that it is none of the words is likelier than that the network is so wrong.
    assert max(confidences["bird"], confidences["dog"]) < 0.01
    assert result.as_dict()["datasets"][0]["accuracy"] == 1.0


def test_the_free_reading_by_a_margin(list_set: str, barcode_reader: MakeReader, tmp_path: Path) -> None:
    (tmp_path / "far.txt").write_text("elephants\nbirds\n")
    only = {"lexicons": [str(tmp_path / "far.txt")], "lexicon_only": True}

    def readings(**options: Any) -> list[str]:
        return [s.prediction for s in evaluate(barcode_reader(), [list_set], **only, **options).datasets[0].samples]

    assert readings() == ["birds"] * 5
    assert readings(lexicon_margin=0.0) == ["bard", "cat", "dgg", "its", "fox"]


def test_sets_without_the_lexicon_are_said(list_set: str, store: str, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    with pytest.raises(
        DataError, match=r"lexicon '50': .*listed.*: no sample has such a lexicon; expected LMDB stores"
    ):
        evaluate(reader, [list_set], lexicons=["50"])
    with pytest.raises(DataError, match="no sample has such a lexicon"):
        evaluate(reader, [list_set], lexicons=["1k"], lexicon_only=True)
    both = evaluate(reader, [list_set, store], lexicons=["50"])  # where another set has it
    assert [r.lexicons[0].sums.samples for r in both.datasets] == [0, 4]
    assert both.as_dict()["datasets"][0]["lexicons"][0]["accuracy"] is None


def test_what_is_no_lexicon_is_said_before_anything_is_read(store: str, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    with pytest.raises(ConfigError, match="lexicon '100' is neither 50, 1k or full nor a file"):
        evaluate(reader, [store], lexicons=["50", "100"])
    with pytest.raises(ConfigError, match="2 lexicons are called '50'"):
        evaluate(reader, [store], lexicons=["50", "50"])
    with pytest.raises(ConfigError, match="2 lexicons are given to read with and nothing else; expected one"):
        evaluate(reader, [store], lexicons=["50", "1k"], lexicon_only=True)
    assert reader._engine.shapes == []


# -- calibration ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lucky_set(tmp_path: Path, barcode: Barcode) -> str:
    """Words of one to four bars; every third label is another one."""
    folder = tmp_path / "lucky"
    folder.mkdir()
    lines = []
    for number in range(90):
        word = "abcd"[: 1 + number % 4]
        (folder / f"{number}.png").write_bytes(barcode(word))
        lines.append(f"{number}.png\t{word if number % 3 else word + 'x'}\n")
    (folder / "labels.tsv").write_text("".join(lines))
    return str(folder)


def test_a_recogniser_is_calibrated_on_sets(lucky_set: str, barcode_reader: MakeReader) -> None:
    done: list[int] = []
    found = calibrate(barcode_reader(), [f"mine={lucky_set}"], progress=done.append)
    assert (found.greedy.samples, found.greedy.accuracy) == (90, pytest.approx(2 / 3))
    assert (found.language, found.data) == (None, ("mine",))  # it has no language
    assert sum(done) == 90
    # Each bar is 90 % sure of itself, so that texts are 40 to 80 % sure, and in truth all are right in two of three.
    reader = barcode_reader(calibration=found)
    result = evaluate(reader, [lucky_set])
    measured = result.reliability
    assert measured.error_before == pytest.approx(found.greedy.error_before, abs=1e-6)
    assert measured.error_after is not None
    assert measured.error_after < min(
        measured.error_before, found.greedy.error_after + 1e-9
    )  # fitted on these very readings
    assert evaluate(barcode_reader(), [lucky_set]).reliability.error_after is None
    plain = [(s.prediction, s.score) for s in evaluate(barcode_reader(), [lucky_set]).datasets[0].samples]
    assert [(s.prediction, s.score) for s in result.datasets[0].samples] == plain


def test_reading_with_and_without_the_language_are_calibrated_apart(
    lucky_set: str, barcode_reader: MakeReader, tmp_path: Path
) -> None:
    language = train_language([("abcd", 1.0), ("ab", 1.0)], "bars", 3)
    reader = barcode_reader(lm=language, lm_weight=2.0)
    found = calibrate(reader, [lucky_set])
    assert found.greedy == calibrate(barcode_reader(), [lucky_set]).greedy
    assert found.language is not None
    assert found.language.samples == 90
    assert found.language.accuracy == evaluate(reader, [lucky_set]).combined_accuracy
    assert (found.language.slope, found.language.offset) != (found.greedy.slope, found.greedy.offset)
    # Each way of reading has its own curve.
    fitted = barcode_reader(calibration=found, lm=language, lm_weight=2.0)
    assert fitted.decoder.curve == found.language
    assert barcode_reader(calibration=found).decoder.curve == found.greedy
    measured = evaluate(fitted, [lucky_set]).reliability
    assert measured.error_after is not None
    assert measured.error_after < found.language.error_before


def test_a_confidence_is_on_the_curve(barcode_reader: MakeReader, barcode: Barcode) -> None:
    curve = ConfidenceCurve(0.5, 0.4)
    image = barcode("tree")
    reading, plain = barcode_reader(calibration=Calibration(curve)).read(image), barcode_reader().read(image)
    assert plain.confidence == pytest.approx(math.exp(plain.score))
    assert reading.confidence == pytest.approx(float(curve_confidences(math.exp(plain.score), curve)))
    assert (reading.text, reading.score) == (plain.text, plain.score)


def test_samples_that_are_all_left_out_calibrate_nothing(
    tmp_path: Path, barcode_reader: MakeReader, barcode: Barcode
) -> None:
    with LmdbWriter(tmp_path / "marks") as writer:
        writer.add(barcode("cat"), "?!")
    language = train_language([("cat", 1.0)], "cats", 3)
    said: list[str] = []
    for reader in (barcode_reader(), barcode_reader(lm=language)):
        with pytest.raises(
            DataError, match="0 readings, 0 of them right; confidences are fitted on at least 20 readings"
        ):
            calibrate(reader, [str(tmp_path / "marks")], say=said.append)
    assert said == ["marks: 1 samples left out: empty_label"] * 2


def test_each_reading_has_its_own_lexicon_where_others_have_none(
    tmp_path: Path, barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]
) -> None:
    pair = ["cat", "dog"]
    with LmdbWriter(tmp_path / "words") as writer:
        for label, shown, words in [("fox", "fox", None), ("cat", "cbt", pair), ("dog", "dgg", pair)]:
            writer.add(barcode(shown), label, lexicon=words)
    (found,) = evaluate(barcode_reader(), [str(tmp_path / "words")], lexicons=["50"]).datasets[0].lexicons
    assert (found.sums.correct, found.sums.samples, found.without) == (2, 2, 1)


def test_a_sample_whose_words_are_all_too_long_counts_as_wrong(
    tmp_path: Path, barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]
) -> None:
    with LmdbWriter(tmp_path / "words") as writer:
        writer.add(barcode("cat"), "cat", lexicon=["cat", "dog"])
        writer.add(barcode("fox"), "fox", lexicon=["f" * 40])
    (found,) = evaluate(barcode_reader(), [str(tmp_path / "words")], lexicons=["50"]).datasets[0].lexicons
    assert (found.sums.correct, found.sums.samples, found.without) == (1, 2, 0)


def test_words_and_readings_of_a_sensitive_model_are_compared_as_the_protocol_says(
    tmp_path: Path, barcode: Callable[..., bytes], barcode_reader: Callable[..., Recognizer]
) -> None:
    characters = NAMED_CHARSETS["94"]
    with LmdbWriter(tmp_path / "words") as writer:
        for number in range(24):
            shown = ["It's", "Cat", "DOG"][number % 3]
            writer.add(barcode(shown, characters), shown if number % 4 else "other", lexicon=[shown, "Cow"])
    reader = barcode_reader(characters)
    (dataset,) = evaluate(reader, [str(tmp_path / "words")], lexicons=["50"]).datasets
    assert (dataset.sums.correct, dataset.lexicons[0].sums.correct) == (18, 18)
    assert calibrate(reader, [str(tmp_path / "words")]).greedy.accuracy == 18 / 24

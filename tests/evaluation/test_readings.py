"""Readings in files: both forms, bad lines, which sample each is of, and figures that are those of a model."""

import json
import math
from pathlib import Path

import pytest

from crnn.config.model import CharsetConfig
from crnn.data.source import open_source
from crnn.data.store import LmdbWriter
from crnn.errors import ConfigError, DataError
from crnn.evaluation.evaluate import evaluate
from crnn.evaluation.readings import FileReading, load_readings, match_readings, score_readings, write_readings
from crnn.reading_order import as_read


@pytest.fixture
def file(tmp_path):
    """A function that writes lines, or objects as lines of JSON, into a file."""

    def make(*lines, name="readings", end="\n"):
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (tmp_path / name).write_bytes("".join(text + end for text in texts).encode())
        return str(tmp_path / name)

    return make


@pytest.fixture
def words(word_list):
    """A set of four words: ``images/1.png`` to ``images/4.png``."""
    return word_list(labels=["cat", "Dog", "it's", "tree"])


def test_names_may_begin_with_a_brace(file):
    assert [r.text for r in load_readings(file("{1}.png\tcat\t0.9", "{2}.png\tdog"))] == ["cat", "dog"]


def figures(result):
    """What must be the same for a model and for its readings in a file."""
    return [(d.name, d.title, d.sums, d.forms, d.skipped, d.unreadable, d.expected) for d in result.datasets]


# ---- files


def test_both_forms_with_windows_line_ends_and_a_byte_order_mark(file):
    columns = file("\ufeffa.png\tÄrger \t0.5", "", "b c.png\t", "c.png\t12\t1", end="\r\n")
    assert load_readings(columns) == [
        FileReading(1, "a.png", "Ärger ", 0.5, math.log(0.5)),
        FileReading(3, "b c.png", ""),
        FileReading(4, "c.png", "12", 1.0, 0.0),
    ]
    objects = [
        {"image": "a.png", "text": "Ärger", "score": -0.25, "confidence": 0, "characters": []},
        {"image": "b.png", "error": "it is no image"},
        {"image": "c.png", "text": "", "confidence": None},
    ]
    assert load_readings(file("\ufeff", *objects, end="\r\n")) == [
        FileReading(2, "a.png", "Ärger", 0.0, -0.25),
        FileReading(3, "b.png", None),
        FileReading(4, "c.png", ""),
    ]
    assert load_readings(file({"image": "a.png", "text": "a", "confidence": 0}))[0].score == -math.inf


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.png\ta", "no tab"], r"readings:2: 'no tab' is no reading; expected path<TAB>text"),
        (["\ta"], r"readings:1: '\\ta' is no reading"),
        (["a.png\ta\t0.5\tb"], r"readings:1: .* is no reading"),
        (["a.png\ta\tsure"], r"readings:1: .* has the confidence 'sure'; expected a number from 0 to 1"),
        (["a.png\ta\t1.5"], r"confidence 1\.5; expected"),
        (['{"image": "a", "text": "a"}', "", "a.png\ta"], r'readings:3: .* expected a JSON object with "image"'),
        ([{"image": "a"}], r'readings:1: .* is no reading; expected a JSON object with "image" and "text" or "error"'),
        ([{"image": 3, "text": "a"}], "is no reading"),
        ([{"image": "a", "text": 12}], "is no reading"),
        ([{"image": "a", "text": "a", "confidence": "high"}], "confidence 'high'"),
        (['{"image": "a", "text": "a", "confidence": NaN}'], "confidence nan"),
        (['{"image": ' + "[" * 5000], "is no reading"),
        (["", " "], "has no reading"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_reading_is_named(lines, message, file):
    with pytest.raises(DataError, match=message):
        load_readings(file(*lines))


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "latin").write_bytes("a.png\tä\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin:1: .* is not UTF-8"):
        load_readings(tmp_path / "latin")
    (tmp_path / "model").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="model: is not text in UTF-8"):
        load_readings(tmp_path / "model")
    with pytest.raises(DataError, match="gone: cannot be read: No such file"):
        load_readings(tmp_path / "gone")


# ---- which sample a reading is of


def matched(images, *sets):
    """The indices of samples for each set, in the order of the readings; of the others, the number."""
    readings = [FileReading(n, str(image), "x") for n, image in enumerate(images, start=1)]
    named = [(f"set{k}", open_source(str(path))) for k, path in enumerate(sets)]
    found, unknown = match_readings("f", readings, named)
    return [{index: reading.line for index, reading in matches.items()} for matches in found], len(unknown)


def test_images_of_a_list_by_path(words, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(words.parent)
    monkeypatch.chdir(tmp_path)
    images = ["images/1.png", "words/images/2.png", words.parent / "images" / "3.png", tmp_path / "link/images/4.png"]
    assert matched([*images, "elsewhere/1.png"], words) == ([{0: 1, 1: 2, 2: 3, 3: 4}], 1)
    assert matched(["./images//1.png", "images\\2.png", "set0=images/3.png", "other=images/4.png"], words) == (
        [{0: 1, 1: 2, 2: 3}],
        1,
    )


def test_images_of_a_list_by_base_name_only_where_no_path_fits(words, tmp_path):
    assert matched(["4.png", "C:\\crops\\1.png", "elsewhere/9.png"], words) == ([{3: 1, 0: 2}], 1)
    # The image of another set has the same name: it is not taken for the one of this set.
    assert matched(["images/1.png", "other/2.png"], words) == ([{0: 1}], 1)
    (words.parent / "two.tsv").write_text("images/1.png\ta\nother/1.png\tb\nimages/2.png\tc\nimages/2.png\tc\n")
    assert matched(["1.png", "2.png"], words.parent / "two.tsv") == ([{2: 2, 3: 2}], 1)


def test_images_of_a_store_by_number(tmp_path, image_of):
    with LmdbWriter(tmp_path / "store") as writer:
        for word in ("ab", "cd", "ef", "gh"):
            writer.add(image_of(word), word)
    images = ["image-000000001", "2", "crops/000000003.jpg", "image-4.png", "5", "0", "word7.png"]
    assert matched(images, tmp_path / "store") == ([{0: 1, 1: 2, 2: 3, 3: 4}], 3)


def test_readings_that_could_be_of_several_samples_are_refused(words, word_list):
    other = word_list(labels=["a", "b"], name="other")
    with pytest.raises(
        DataError, match=r"f:2: '.*/images/1\.png' is read in line 1 already, as 'images/1\.png'; expected one"
    ):
        matched(["images/1.png", words.parent / "images" / "1.png"], words)
    with pytest.raises(DataError, match=r"f:2: 'b/1\.png' is read in line 1 already, as 'a/1\.png'"):
        matched(["a/1.png", "b/1.png"], words)
    with pytest.raises(
        DataError, match=r"f:1: 'images/1.png' is an image of set0 and of set1; expected set0=IMAGE, or one set"
    ):
        matched(["images/1.png"], words, other)
    with pytest.raises(DataError, match=r"f: has no reading of .*other.*first image is 'images/1.png'.*of 'set0="):
        matched(["set0=images/1.png"], words, other)
    assert matched(["set1=images/1.png", words.parent / "images/2.png"], words, other) == ([{1: 2}, {0: 1}], 0)


# ---- figures


def test_figures_by_hand(words, file):
    path = file("images/1.png\tCAT\t0.5", "images/2.png\tdo\t0.25", "images/3.png\tits", "new.png\tx")
    result = score_readings(path, words)
    (dataset,) = result.datasets
    assert (result.model, result.unknown, dataset.without_reading) == (path, ("new.png",), ("images/4.png",))
    assert (dataset.title, dataset.sums.samples, dataset.sums.correct) == ("parseq, 36 characters", 4, 2)
    assert dataset.sums.edits == 1 + 4
    assert [s.raw_prediction for s in dataset.samples] == ["CAT", "do", "its", ""]
    assert result.warnings == [
        'words: 1 of 4 labels have characters that are not compared: "\'"',
        "words: 1 of 4 samples have no text in the file, and count as wrong: images/4.png",
        "1 readings are of no image of the data: new.png",
    ]
    values = result.as_dict()
    assert (values["unknown_readings"], values["datasets"][0]["without_reading"]) == (1, 1)
    json.dumps(values, allow_nan=False)
    assert score_readings(path, [f"x={words}"], protocol="lines").datasets[0].sums.correct == 1
    exact = score_readings(path, words, charset="62")
    assert [(s.label, s.prediction) for s in exact.samples][:2] == [("cat", "CAT"), ("Dog", "do")]
    like = score_readings(path, words, like=CharsetConfig(characters="Dcatogi'srxe"))
    assert [s.label for s in like.samples] == ["cat", "Dog", "it's", "tree"]


def test_the_label_itself_is_right_whatever_its_direction(word_list, file):
    labels = ["abc (שלום)", "שלום 12-34", "1-aב"]
    assert [as_read(label) == label for label in labels] == [True, True, False]
    words = word_list(labels=labels)
    path = file(*(f"images/{n}.png\t{label}" for n, label in enumerate(labels, start=1)))
    assert score_readings(path, words, protocol="lines").datasets[0].sums.correct == 3


def test_without_confidences_there_is_no_calibration(words, file):
    some = score_readings(file("images/1.png\tcat", "images/2.png\tdog"), words).reliability
    assert (some.samples, some.error_before, some.coverage) == (0, None, [])
    lines = [f"images/{n}.png\t{text}\t0.75" for n, text in enumerate(("cat", "dog", "no"), start=1)]
    sure = score_readings(file(*lines), words).reliability  # the fourth counts as wrong, with a confidence of 0
    assert [(b.samples, b.confidence, b.accuracy) for b in sure.after] == [(1, 0, 0), (3, 0.75, pytest.approx(2 / 3))]


def test_a_missing_reading_of_a_label_with_nothing_left_is_wrong(word_list, file):
    words = word_list(labels=["!!!", "???"])
    dataset = score_readings(file("images/1.png\t"), words, protocol="modelzoo").datasets[0]
    assert (dataset.sums.samples, dataset.sums.correct, dataset.sums.edits) == (2, 1, 1)


def test_samples_that_nobody_can_read_are_left_out_as_for_a_model(words, file):
    (words.parent / "images" / "2.png").write_bytes(b"no image")
    (words.parent / "images" / "3.png").unlink()
    lines = [{"image": f"images/{n}.png", "error": "failed"} for n in (1, 2, 3)]
    dataset = score_readings(file(*lines, {"image": "images/4.png", "text": "tree"}), words).datasets[0]
    assert dataset.skipped == {"missing": 1, "not_an_image": 1}
    assert dataset.without_reading == ("images/1.png",)  # the others read that image
    assert (dataset.sums.samples, dataset.sums.correct) == (2, 1)
    # An image that another program could read counts.
    lines = [{"image": "images/2.png", "error": "failed"}, {"image": "images/3.png", "text": "its"}]
    dataset = score_readings(file(*lines), words).datasets[0]
    assert (dataset.skipped, dataset.sums.samples, dataset.sums.correct) == ({"not_an_image": 1}, 3, 1)


@pytest.mark.parametrize("protocol", ["parseq", "clovaai", "modelzoo", "lines"])
def test_what_is_written_gives_the_same_counts(protocol, tmp_path, barcode, barcode_reader):
    samples = [
        ("cat", "cat"),
        ("bird", "bard"),
        ("It's", "its"),
        ("!!!", ""),
        ("x" * 30, "x"),
        ("dog", None),
        ("é", "e"),
    ]
    sets = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for n, (_, shown) in enumerate(samples):
            if shown is not None:
                (tmp_path / name / f"{n}.png").write_bytes(barcode(shown))
        lines = [f"{n}.png\t{label}\n" for n, (label, _) in enumerate(samples)] + ["0.png\tcat\n"]
        (tmp_path / name / "labels.tsv").write_text("".join(lines), encoding="utf-8")
        sets.append(str(tmp_path / name))
    with LmdbWriter(tmp_path / "store") as writer:
        for label, shown in samples:
            writer.add(barcode(shown or "dog"), label)
    for data in (sets[:1], [str(tmp_path / "store")], [*sets, f"more={tmp_path}/store", f"IC15_2077={sets[0]}"]):
        expected = evaluate(barcode_reader(), data, protocol=protocol)
        path = tmp_path / f"{len(data)}-{Path(data[0]).name}.tsv"
        write_readings(path, expected)
        again = score_readings(path, data, protocol=protocol)
        assert figures(again) == figures(expected)
        assert again.unknown == ()
        assert again.reliability.error_before == pytest.approx(expected.reliability.error_before, abs=1e-5)


def test_a_lexicon_gives_the_nearest_word(words, file, tmp_path, image_of):
    path = file("images/1.png\tcot", "images/2.png\tDog!", "images/4.png\tbee")
    (tmp_path / "animals.txt").write_text("Bee\t3\nCat\nbird\n")
    (dataset,) = score_readings(path, words, lexicons=["full", str(tmp_path / "animals.txt")]).datasets
    assert [s.words for s in dataset.samples] == [("cat", "cat"), ("dog", "bee"), ("", ""), ("tree", "bee")]
    assert [(x.name, x.words, x.sums.correct, x.without) for x in dataset.lexicons] == [
        ("full", 4, 3, 0),
        ("animals.txt", 3, 1, 0),
    ]
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(image_of("cat"), "cat", lexicon=["CAT", "bird"], large_lexicon=["cot", "cat"])
        writer.add(image_of("dog"), "dog")
    (dataset,) = score_readings(
        file("1\tcot", "2\tdog", name="numbers"), tmp_path / "store", lexicons=["50", "1k"]
    ).datasets
    assert [s.words for s in dataset.samples] == [("cat", "cot"), (None, None)]
    assert [(x.sums.samples, x.sums.correct, x.without) for x in dataset.lexicons] == [(1, 1, 1), (1, 0, 1)]
    with pytest.raises(DataError, match=r"lexicon '50': none in .* has one"):
        score_readings(path, words, lexicons=["50"])
    with pytest.raises(ConfigError, match="lexicon 'full' is given for readings under protocol lines"):
        score_readings(path, words, lexicons=["full"], protocol="lines")

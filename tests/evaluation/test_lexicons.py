"""Lexicons of an evaluation beside the free reading; full lexicons: which words, in which form, and their file."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import CharsetError, ConfigError, DataError
from crnn.evaluation.evaluate import evaluate
from crnn.evaluation.lexicons import full_lexicon, write_lexicon
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
        'words: 1 of 5 labels have characters that are not compared: "\'"',
        "words: 1 of 5 samples have no lexicon '50'; they are not in its accuracy",
        "words: 2 of 5 samples have no lexicon '1k'; they are not in its accuracy",
    ]
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))["datasets"][0]["lexicons"]
    assert [(v["name"], v["words"], v["samples"], v["accuracy"]) for v in values] == [
        ("50", None, 4, 1.0), ("1k", None, 3, pytest.approx(2 / 3)), ("full", 5, 5, 1.0), ("animals.txt", 3, 5, 0.6),
    ]  # fmt: skip


def test_batches_change_nothing(store: str, barcode_reader: MakeReader) -> None:
    lexicons = ["50", "1k", "full"]
    expected = evaluate(barcode_reader(), [store], lexicons=lexicons)
    assert evaluate(barcode_reader(batch_size=2), [store], lexicons=lexicons) == expected


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
    with pytest.raises(DataError, match=r"lexicon '50': none in .*listed.* has one"):
        evaluate(reader, [list_set], lexicons=["50"])
    with pytest.raises(DataError, match=r"none in .* has one"):
        evaluate(reader, [list_set], lexicons=["1k"], lexicon_only=True)
    both = evaluate(reader, [list_set, store], lexicons=["50"])  # where another set has it
    assert [r.lexicons[0].sums.samples for r in both.datasets] == [0, 4]
    assert both.as_dict()["datasets"][0]["lexicons"][0]["accuracy"] is None


def test_what_is_no_lexicon_is_said_before_anything_is_read(store: str, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    with pytest.raises(ConfigError, match="lexicon '100' is neither 50, 1k or full nor a file"):
        evaluate(reader, [store], lexicons=["50", "100"])
    with pytest.raises(ConfigError, match="lexicons are called 50, 50"):
        evaluate(reader, [store], lexicons=["50", "50"])
    with pytest.raises(ConfigError, match="2 lexicons are given to read with and nothing else; expected one"):
        evaluate(reader, [store], lexicons=["50", "1k"], lexicon_only=True)
    assert reader._engine.shapes == []


def test_samples_have_lexicons_of_their_own(tmp_path: Path, barcode: Barcode, barcode_reader: MakeReader) -> None:
    pair = ["cat", "dog"]
    with LmdbWriter(tmp_path / "words") as writer:
        for label, shown, words in [("fox", "fox", None), ("cat", "cbt", pair), ("dog", "dgg", pair)]:
            writer.add(barcode(shown), label, lexicon=words)
        writer.add(barcode("fox"), "fox", lexicon=["f" * 40])  # too long for the image: wrong
    (found,) = evaluate(barcode_reader(), [str(tmp_path / "words")], lexicons=["50"]).datasets[0].lexicons
    assert (found.sums.correct, found.sums.samples, found.without) == (2, 3, 1)


CHARSET, RULES = Charset("36"), CharsetConfig().rules()


@pytest.fixture
def stores(tmp_path: Path, image_of: Callable[..., bytes]) -> list[LmdbStore | ListFile]:
    """A store with both lexicons, and a list without."""
    image = image_of("x")
    with LmdbWriter(tmp_path / "set") as writer:
        writer.add(image, "Door", lexicon=("door", "DOOM", "floor"), large_lexicon=("room", "&", "door"))
        writer.add(image, "doom!", lexicon=("doom", "door"))
        writer.add(image, "?", lexicon=("floor",))
        writer.add(image, "Zoo")
    (tmp_path / "labels.tsv").write_text("1.png\tnew york\n2.png\tDOOR\n3.png\t" + "a" * 26 + "\n")
    return [LmdbStore(tmp_path / "set"), ListFile(tmp_path / "labels.tsv")]


def test_words_of_labels(stores: list[LmdbStore | ListFile]) -> None:
    done: list[int] = []
    found = full_lexicon(stores, CHARSET, RULES, words_from="labels", progress=done.append)
    assert found.words == ("doom", "door", "newyork", "zoo")
    assert (found.labels, found.kept, sum(done)) == (7, 0, 7)
    assert found.left_out == {"empty_label": 1, "too_long": 1}


def test_words_of_kept_lexicons_and_of_both(stores: list[LmdbStore | ListFile]) -> None:
    found = full_lexicon(stores, CHARSET, RULES, words_from="kept")
    assert found.words == ("doom", "door", "floor", "room")
    assert (found.labels, found.kept, found.left_out) == (0, 9, {"empty_label": 1})
    found = full_lexicon(stores, CHARSET, RULES)
    assert found.words == ("doom", "door", "floor", "newyork", "room", "zoo")
    assert (found.labels, found.kept) == (7, 9)


def test_the_rules_decide_which_words_are_one(stores: list[LmdbStore | ListFile]) -> None:
    found = full_lexicon(stores[:1], Charset("94"), LabelRules(unknown="drop_sample"))
    assert found.words == ("&", "?", "DOOM", "Door", "Zoo", "doom", "doom!", "door", "floor", "room")
    with pytest.raises(CharsetError, match="'&'"):
        full_lexicon(stores[:1], Charset("62"), LabelRules(), words_from="kept")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), min_size=1, max_size=8)
)
def test_every_label_is_in_its_full_lexicon(tmp_path: Path, labels: list[str]) -> None:
    path = tmp_path / "every.tsv"
    path.write_text("".join(f"{n}.png\t{label}\n" for n, label in enumerate(labels)), encoding="utf-8")
    rules = LabelRules(whitespace="collapse", unicode="NFC", case="lower", unknown="drop_character")
    charset = Charset("".join(dict.fromkeys(c for c in "abcé字ß &" + labels[0].lower() if c.isprintable())))
    formed = {" ".join("".join(c for c in rules.form(label) if c in charset).split()) for label in labels} - {""}
    if formed:
        assert full_lexicon([ListFile(path)], charset, rules).words == tuple(sorted(formed))
    else:
        with pytest.raises(DataError, match="has no word for a lexicon"):
            full_lexicon([ListFile(path)], charset, rules)


def test_a_set_that_has_no_word(stores: list[LmdbStore | ListFile]) -> None:
    with pytest.raises(DataError, match=r"has no word for a lexicon \(nothing there\).*--from labels"):
        full_lexicon(stores[1:], CHARSET, RULES, words_from="kept")
    with pytest.raises(DataError, match=r"has no word.*empty_label: 4.*in the characters 'жз'.*--charset"):
        full_lexicon(stores[:1], Charset("жз"), CharsetConfig(characters="жз").rules(), words_from="labels")


def test_records_that_cannot_be_read_are_counted(tmp_path: Path, stores: list[LmdbStore | ListFile]) -> None:
    stores[0].close()
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 24) as environment, environment.begin(write=True) as records:
        records.put(b"label-000000001", b"\xff")
    found = full_lexicon([LmdbStore(tmp_path / "set")], CHARSET, RULES, words_from="labels")
    assert (found.words, found.left_out) == (("doom", "zoo"), {"unreadable_record": 1, "empty_label": 1})


def test_the_file_has_a_word_a_line_and_appears_whole(tmp_path: Path) -> None:
    write_lexicon(tmp_path / "words.txt", ("a", "new york", "字"))
    assert (tmp_path / "words.txt").read_bytes() == "a\nnew york\n字\n".encode()
    with pytest.raises(DataError, match="exists already; expected a new file"):
        write_lexicon(tmp_path / "words.txt", ("b",))
    with pytest.raises(DataError, match=r"cannot write .*: No such file"):
        write_lexicon(tmp_path / "none" / "words.txt", ("b",))
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]

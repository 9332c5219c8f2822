"""A recogniser over sets: each protocol by hand, what is skipped and named, ranks and batches that change nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import pytest

from crnn.charset import NAMED_CHARSETS
from crnn.data.store import LmdbWriter
from crnn.errors import CharsetError, ConfigError, DataError
from crnn.evaluation.evaluate import count_samples, evaluate
from crnn.evaluation.results import Evaluation
from crnn.recognizer import Recognizer

MakeReader = Callable[..., Recognizer]
MakeSet = Callable[..., str]


@pytest.fixture
def barcode_set(tmp_path: Path, barcode: Callable[..., bytes]) -> MakeSet:
    """A function that writes a list file: pairs of label and text shown, or of label and the bytes of the file."""

    def make(samples: list[tuple[str, str | bytes | None]], name: str = "words", characters: str = "36") -> str:
        folder = tmp_path / name
        folder.mkdir()
        lines = []
        for number, (label, shown) in enumerate(samples):
            if shown is not None:
                image = barcode(shown, NAMED_CHARSETS.get(characters, characters)) if isinstance(shown, str) else shown
                (folder / f"{number}.png").write_bytes(image)
            lines.append(f"{number}.png\t{label}\n")
        (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")
        return str(folder)

    return make


def same(words: list[str]) -> list[tuple[str, str | bytes | None]]:
    return [(word, word) for word in words]


# ---------------------------------------------------------------------------------------------------------------------
# Figures and protocols


def test_sets_may_come_as_one_or_many_texts_or_paths(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    path, reader = barcode_set(same(["cat", "dog"])), barcode_reader()
    for data in (path, Path(path), [path], [Path(path)]):
        assert [(d.name, d.sums.samples) for d in evaluate(reader, data).datasets] == [("words", 2)]
        assert count_samples(data) == 2
    with pytest.raises(DataError, match="no data is given; expected LMDB folders or list files"):
        evaluate(reader, [])


def test_figures_by_hand(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    # Edits: 0, 1 of 4, 2 of 3 (two letters lost), 3 of 3 (nothing read), 0. Characters of the labels: 17.
    path = barcode_set([("cat", "cat"), ("bird", "bard"), ("dog", "d"), ("fox", ""), ("Wolf", "wolf")])
    result = evaluate(barcode_reader(), [path], model="bars")
    assert (result.model, result.protocol, len(result.datasets)) == ("bars", "parseq", 1)
    dataset = result.datasets[0]
    assert (dataset.name, dataset.path, dataset.title) == ("words", f"{path}/labels.tsv", "parseq, 36 characters")
    sums = dataset.sums
    assert (sums.samples, sums.correct, sums.characters, sums.edits) == (5, 2, 17, 6)
    assert result.combined_accuracy == result.mean_accuracy == 0.4
    assert sums.cer == pytest.approx(6 / 17)
    assert result.one_minus_ned == pytest.approx((1 + 3 / 4 + 1 / 3 + 0 + 1) / 5)
    assert [(s.index, s.key, s.raw_label, s.label, s.prediction) for s in dataset.samples] == [
        (0, "0.png", "cat", "cat", "cat"),
        (1, "1.png", "bird", "bird", "bard"),
        (2, "2.png", "dog", "dog", "d"),
        (3, "3.png", "fox", "fox", ""),
        (4, "4.png", "Wolf", "wolf", "wolf"),
    ]
    assert all(s.score < 0 for s in dataset.samples)
    assert (dataset.skipped, dataset.expected, dataset.unreadable, dataset.warnings) == ({}, None, (), [])
    json.dumps(result.as_dict(), allow_nan=False)


LABELS = ["cat", "Do", "it's", "Café", "!!!", "abcdefghijklmnopqrstuvwxyz", "24/7"]
SHOWN = ["cat", "do", "its", "cafe", "", "abcdefghijklmnopqrstuvwxyz", "247"]
WHOLE = {"cat": "cat", "Do": "do"}


@pytest.mark.parametrize(
    ("protocol", "name", "compared", "skipped"),
    [
        (
            "parseq",
            "words",
            {**WHOLE, "it's": "its", "Café": "cafe", "24/7": "247"},
            {"empty_label": 1, "too_long": 1},
        ),
        ("clovaai", "words", WHOLE, {"too_long": 1, "unknown_character": 4}),
        (
            "clovaai",
            "CUTE80",  # for which that project turns its filter off
            {**WHOLE, "it's": "its", "Café": "caf", "!!!": "", LABELS[5]: LABELS[5], "24/7": "247"},
            {},
        ),
        (
            "modelzoo",
            "svt",
            {**WHOLE, "it's": "its", "Café": "caf", "!!!": "", LABELS[5]: LABELS[5], "24/7": "247"},
            {},
        ),
        ("modelzoo", "IC13_857", {"cat": "cat", LABELS[5]: LABELS[5]}, {"not_alphanumeric": 4, "too_short": 1}),
    ],
)
def test_each_protocol_keeps_its_samples(
    protocol: Any,
    name: str,
    compared: dict[str, str],
    skipped: dict[str, int],
    barcode_set: MakeSet,
    barcode_reader: MakeReader,
) -> None:
    path = barcode_set(list(zip(LABELS, SHOWN, strict=True)))
    dataset = evaluate(barcode_reader(), [f"{name}={path}"], protocol=protocol).datasets[0]
    assert {s.raw_label: s.label for s in dataset.samples} == compared
    assert dataset.skipped == skipped
    assert dataset.sums.samples + sum(dataset.skipped.values()) == len(LABELS)
    # "Café" is shown as "cafe": right where accents are folded, wrong where they are dropped.
    assert dataset.sums.correct == len(compared) - (compared.get("Café") == "caf")


def test_skipped_samples_cost_no_reading(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    reader = barcode_reader()
    evaluate(reader, [barcode_set(list(zip(LABELS, SHOWN, strict=True)))], protocol="clovaai")
    assert sum(shape[0] for shape in reader._engine.shapes) == 2


def test_a_case_sensitive_model_is_compared_on_36_unless_asked(
    barcode_set: MakeSet, barcode_reader: MakeReader
) -> None:
    path = barcode_set([("Cat", "cAT"), ("It's", "It's"), ("dog", "dog!")], characters="94")
    reader = barcode_reader(NAMED_CHARSETS["94"])
    folded = evaluate(reader, [path]).datasets[0]
    assert folded.title == "parseq, 36 characters"
    assert [(s.label, s.prediction) for s in folded.samples] == [("cat", "cat"), ("its", "its"), ("dog", "dog")]
    exact = evaluate(reader, [path], charset="94").datasets[0]
    assert exact.title == "parseq, 94 characters"
    assert [(s.label, s.prediction) for s in exact.samples] == [("Cat", "cAT"), ("It's", "It's"), ("dog", "dog!")]
    assert exact.sums.correct == 1
    letters = evaluate(reader, [path], charset="62").datasets[0]
    assert [(s.label, s.prediction) for s in letters.samples] == [("Cat", "cAT"), ("Its", "Its"), ("dog", "dog")]


def test_a_model_of_its_own_characters_is_compared_on_these(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    characters = "0123456789 -ÄB"
    path = barcode_set([("12 - 3", "12 - 3"), ("ab 1", "B 1"), ("ä0", "Ä0"), ("x", "0")], characters=characters)
    reader = barcode_reader(characters)
    dataset = evaluate(reader, [path]).datasets[0]
    assert dataset.title == "parseq over the model's own 14 characters"
    assert [(s.label, s.prediction) for s in dataset.samples] == [("12 - 3", "12 - 3"), ("B 1", "B 1"), ("Ä0", "Ä0")]
    assert dataset.skipped == {"empty_label": 1}
    # Asked for 36, it is held to 36.
    asked = evaluate(reader, [path], charset="36").datasets[0]
    assert [s.label for s in asked.samples] == ["123", "ab1", "a0", "x"]


def test_an_unknown_character_that_the_model_calls_an_error_names_the_sample(
    barcode_set: MakeSet, barcode_reader: MakeReader
) -> None:
    reader = barcode_reader("0123456789")
    strict = reader.config.charset.model_copy(update={"unknown": "error"})
    reader.config = reader.config.model_copy(update={"charset": strict})
    with pytest.raises(CharsetError, match=r"labels\.tsv, 1\.png: label '1x' has characters .* 'x'"):
        evaluate(reader, [barcode_set([("1", "1"), ("1x", "1")])])


# ---------------------------------------------------------------------------------------------------------------------
# What is not compared is counted and said


def test_unreadable_images_are_counted_and_the_first_are_named(
    barcode_set: MakeSet, barcode_reader: MakeReader, barcode: Callable[..., bytes]
) -> None:
    cut = barcode("cut")[:-30]
    path = barcode_set(
        [("a", "a"), ("cut", cut), ("gone", None), ("!", "a"), ("b", "b"), ("text", b"text"), ("zero", b""), ("c", "c")]
    )
    result = evaluate(barcode_reader(batch_size=1), [path])
    dataset = result.datasets[0]
    assert dataset.skipped == {"empty": 1, "empty_label": 1, "missing": 1, "not_an_image": 1, "truncated": 1}
    assert list(dataset.skipped) == sorted(dataset.skipped)
    assert [s.prediction for s in dataset.samples] == ["a", "b", "c"]
    assert result.combined_accuracy == 1.0
    # In the order of the set, however they were met: the missing file shows before the cut one is decoded.
    assert [line.split(":")[0] for line in dataset.unreadable] == ["1.png", "2.png", "5.png"]
    assert len(dataset.warnings) == 3
    assert dataset.warnings[0].startswith("words: unreadable image 1.png: ")
    for batch_size in (2, 64):
        assert evaluate(barcode_reader(batch_size=batch_size), [path]) == result


def test_another_count_than_published_is_said(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    path = barcode_set([*same(["one", "two"]), ("...", "")])
    dataset = evaluate(barcode_reader(), [f"SVT={path}"]).datasets[0]
    assert dataset.expected == 647
    assert dataset.warnings == [
        "SVT: 2 samples compared, 647 published (skipped: empty_label: 1); figures are not comparable with published "
        "ones"
    ]
    complete = evaluate(barcode_reader(), [f"CUTE80={barcode_set(same(['ab'] * 288), name='cute')}"]).datasets[0]
    assert (complete.expected, complete.warnings) == (288, [])


def test_a_set_of_which_nothing_remains(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    nothing, something = barcode_set([("?", ""), ("!", "")], name="marks"), barcode_set(same(["ab"]))
    result = evaluate(barcode_reader(), [nothing, something])
    values = result.as_dict()
    assert values["datasets"][0] | {"accuracy": None, "cer": None, "one_minus_ned": None} == values["datasets"][0]
    assert (values["datasets"][0]["samples"], values["datasets"][0]["skipped"]) == (0, {"empty_label": 2})
    assert values["mean_accuracy"] == values["combined_accuracy"] == 1.0


def test_records_without_a_usable_label_are_counted(
    tmp_path: Path, barcode: Callable[..., bytes], barcode_reader: MakeReader
) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        for word in ("ab", "cd", "ef"):
            writer.add(barcode(word), word)
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 20) as environment, environment.begin(write=True) as change:
        change.put(b"label-000000002", b"\xff\xfe")
    dataset = evaluate(barcode_reader(), [str(tmp_path / "store")]).datasets[0]
    assert dataset.skipped == {"unreadable_record": 1}
    assert [s.prediction for s in dataset.samples] == ["ab", "ef"]
    assert "label-000000002" in dataset.unreadable[0]


# ---------------------------------------------------------------------------------------------------------------------
# Sets and their names


def test_sets_have_the_names_they_are_given(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    first, second = barcode_set(same(["a", "b", "c"]), name="first"), barcode_set([("d", "x")], name="second")
    result = evaluate(barcode_reader(), [f"mine={second}", first, f"again={first}/labels.tsv"])
    assert [dataset.name for dataset in result.datasets] == ["mine", "first", "again"]
    assert [dataset.sums.accuracy for dataset in result.datasets] == [0.0, 1.0, 1.0]
    assert result.mean_accuracy == pytest.approx(2 / 3)
    assert result.combined_accuracy == pytest.approx(6 / 7)
    assert count_samples([f"mine={second}", first]) == 4


def test_two_sets_of_one_name_are_refused(barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    path, other = barcode_set(same(["a"])), barcode_set(same(["b"]), name="other")
    reader = barcode_reader()
    with pytest.raises(DataError, match="2 sets are called 'words'; give each a name of its own with NAME=DATA"):
        evaluate(reader, [path, f"words={other}"])
    assert reader._engine.shapes == []  # before anything is read


def test_what_cannot_be_evaluated_is_said_before_anything_is_read(
    barcode_set: MakeSet, barcode_reader: MakeReader, tmp_path: Path
) -> None:
    path = barcode_set(same(["a"]))
    reader = barcode_reader()
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        evaluate(reader, [path, "nowhere"])
    with pytest.raises(ConfigError, match="protocol modelzoo compares 36 characters, charset is 94"):
        evaluate(reader, [path], protocol="modelzoo", charset="94")
    with pytest.raises(ConfigError, match="protocol clovaai compares 36 or 94 characters, charset is 62"):
        evaluate(reader, [path], protocol="clovaai", charset="62")
    with lmdb.open(str(tmp_path / "none")) as environment, environment.begin(write=True) as change:
        change.put(b"num-samples", b"0")
    with pytest.raises(DataError, match="none: record 'num-samples' is '0'; expected at least 1 sample"):
        evaluate(reader, [path, str(tmp_path / "none")])
    assert reader._engine.shapes == []


# ---------------------------------------------------------------------------------------------------------------------
# Ranks and batches


@dataclass
class SharedGather:
    """What ranks in threads of one process exchange their parts through."""

    world_size: int
    parts: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world_size, timeout=30)


@dataclass
class ThreadRanks:
    """One of several ranks, with the interface of ``Ranks`` as far as an evaluation needs it."""

    rank: int
    shared: SharedGather

    @property
    def world_size(self) -> int:
        return self.shared.world_size

    def gather(self, value: Any) -> list[Any]:
        self.shared.parts[self.rank] = value
        self.shared.barrier.wait()
        parts = [self.shared.parts[rank] for rank in range(self.world_size)]
        self.shared.barrier.wait()
        return parts


def evaluate_on_ranks(world_size: int, make: MakeReader, data: list[str]) -> tuple[list[Evaluation], list[int]]:
    shared = SharedGather(world_size)
    results: dict[int, Evaluation] = {}
    done = [0] * world_size

    def work(rank: int) -> None:
        def progress(count: int) -> None:
            done[rank] += count

        ranks: Any = ThreadRanks(rank, shared)
        results[rank] = evaluate(make(batch_size=2), data, model="m", ranks=ranks, progress=progress)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(world_size)], done


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_find_what_one_finds(world_size: int, barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    words = [("word" + "abcdefghij"[i] * (i % 4), "word" + "abcdefghij"[i] * (i % 3)) for i in range(10)]
    bad: list[tuple[str, str | bytes | None]] = [("cut", b"?"), ("gone", None), ("none", b""), ("text", b"text")]
    data = [barcode_set([*words[:5], *bad, *words[5:], ("!", "a")]), barcode_set(same(["few"]), name="single")]
    alone = evaluate(barcode_reader(), data, model="m")
    results, done = evaluate_on_ranks(world_size, barcode_reader, data)
    assert results == [alone] * world_size  # each rank has the whole, samples and scores included
    assert sum(done) == count_samples(data) == 16
    assert max(done) - min(done) <= 2  # shared out evenly
    assert alone.datasets[0].skipped == {"empty": 1, "empty_label": 1, "missing": 1, "not_an_image": 2}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_batch_size_changes_nothing(batch_size: int, barcode_set: MakeSet, barcode_reader: MakeReader) -> None:
    data = [barcode_set([("w" * (i % 5 + 1), "w" * (i % 3 + 1)) for i in range(23)])]
    assert evaluate(barcode_reader(batch_size=batch_size), data) == evaluate(barcode_reader(batch_size=7), data)


def test_a_trained_network_reads_what_it_learned(trained_run: Any, one_thread: None) -> None:
    from crnn.recognizer import load

    result = evaluate(load(trained_run.folder, device="cpu"), [str(trained_run.words)])
    assert result.combined_accuracy == 1.0
    assert result.datasets[0].sums.samples == len(trained_run.labels)

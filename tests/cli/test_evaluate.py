"""Evaluation: each protocol by hand, what is skipped and named, ranks and batches that change nothing; the command."""

import json
import re
import threading
from types import SimpleNamespace

import lmdb
import pytest

from crnn.charset import NAMED_CHARSETS
from crnn.data.store import LmdbWriter
from crnn.decoding.language import train_language
from crnn.errors import CharsetError, ConfigError, DataError
from crnn.evaluation.evaluate import calibrate, count_samples, evaluate


@pytest.fixture
def barcode_set(tmp_path, barcode):
    """A function that writes a list file: labels, or pairs of label and text shown or the bytes of the file."""

    def make(samples, name="words", characters="36"):
        folder = tmp_path / name
        folder.mkdir()
        lines = []
        for number, sample in enumerate(samples):
            label, shown = (sample, sample) if isinstance(sample, str) else sample
            if shown is not None:
                image = barcode(shown, NAMED_CHARSETS.get(characters, characters)) if isinstance(shown, str) else shown
                (folder / f"{number}.png").write_bytes(image)
            lines.append(f"{number}.png\t{label}\n")
        (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")
        return str(folder)

    return make


# ---- figures and protocols


def test_figures_by_hand(barcode_set, barcode_reader):
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
UNFILTERED = {**WHOLE, "it's": "its", "Café": "caf", "!!!": "", LABELS[5]: LABELS[5], "24/7": "247"}


@pytest.mark.parametrize(
    ("protocol", "name", "compared", "skipped"),
    [
        ("parseq", "words", WHOLE | {"it's": "its", "Café": "cafe", "24/7": "247"}, {"empty_label": 1, "too_long": 1}),
        ("clovaai", "words", WHOLE, {"too_long": 1, "unknown_character": 4}),
        ("clovaai", "CUTE80", UNFILTERED, {}),  # for which that project turns its filter off
        ("modelzoo", "svt", UNFILTERED, {}),
        ("modelzoo", "IC13_857", {"cat": "cat", LABELS[5]: LABELS[5]}, {"not_alphanumeric": 4, "too_short": 1}),
    ],
)
def test_each_protocol_keeps_its_samples(protocol, name, compared, skipped, barcode_set, barcode_reader):
    path, reader = barcode_set(list(zip(LABELS, SHOWN, strict=True))), barcode_reader()
    dataset = evaluate(reader, [f"{name}={path}"], protocol=protocol).datasets[0]
    assert {s.raw_label: s.label for s in dataset.samples} == compared
    assert dataset.skipped == skipped
    assert dataset.sums.samples + sum(dataset.skipped.values()) == len(LABELS)
    # "Café" is shown as "cafe": right where accents are folded, wrong where they are dropped.
    assert dataset.sums.correct == len(compared) - (compared.get("Café") == "caf")
    assert sum(shape[0] for shape in reader._engine.shapes) == len(compared)  # what is skipped costs no reading


def test_a_case_sensitive_model_is_compared_on_36_unless_asked(barcode_set, barcode_reader):
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


def test_a_model_of_its_own_characters_is_compared_on_these(barcode_set, barcode_reader):
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


def test_an_unknown_character_that_the_model_calls_an_error_names_the_sample(barcode_set, barcode_reader):
    reader = barcode_reader("0123456789")
    strict = reader.config.charset.model_copy(update={"unknown": "error"})
    reader.config = reader.config.model_copy(update={"charset": strict})
    with pytest.raises(CharsetError, match=r"labels\.tsv, 1\.png: label '1x' has 'x', which charset.characters lacks"):
        evaluate(reader, [barcode_set([("1", "1"), ("1x", "1")])])


# ---- what is not compared


@pytest.mark.parametrize(
    ("protocol", "charset", "characters", "lost", "unwritable"),
    [
        ("parseq", "auto", "36", {"straße": "ß", "it's": "'"}, {}),
        ("parseq", "94", "36", {"straße": "ß"}, {"it's": "'", "Café": "C"}),
        ("clovaai", "auto", "36", {}, {}),  # such samples are left out, and counted by that reason
        ("modelzoo", "auto", "36", {"straße": "ß", "Café": "é", "e\u0301t": "\u0301", "it's": "'", "a b": " "}, {}),
        ("lines", "auto", "36", {}, {"it's": "'", "a b": " ", "Café": "\u0301", "e\u0301t": "\u0301"}),
        ("lines", "auto", "abcdefit é", {}, {"it's": "'s", "straße": "srss"}),
        ("parseq", "auto", "abcdefit é", {"straße": "srß", "it's": "'s"}, {}),
    ],
)
def test_labels_that_lose_characters_or_cannot_be_read_right_are_counted(
    protocol, charset, characters, lost, unwritable, barcode_set, barcode_reader
):
    labels = ["cat", "straße", "it's", "Café", "e\u0301t", "a b"]
    path, reader = barcode_set([(label, "cat") for label in labels], characters=characters), barcode_reader(characters)
    result = evaluate(reader, [path], protocol=protocol, charset=charset)
    (dataset,) = result.datasets
    assert {s.raw_label: s.lost for s in dataset.samples if s.lost} == lost
    assert {s.raw_label: s.unwritable for s in dataset.samples if s.unwritable} == unwritable
    assert len(dataset.warnings) == bool(lost) + bool(unwritable)
    (entry,) = result.as_dict()["datasets"]
    assert [entry[kind]["labels"] for kind in ("lost", "unwritable")] == [len(lost), len(unwritable)]
    assert sum(entry["lost"]["characters"].values()) == len("".join(lost.values()))


def test_unreadable_images_are_counted_and_the_first_are_named(barcode_set, barcode_reader, barcode):
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


def test_a_set_most_of_which_cannot_be_read_is_an_error(barcode_set, barcode_reader):
    reader, gone = barcode_reader(), [(f"gone{n}", None) for n in range(10)]
    path = barcode_set([("a", "a")] * 20 + gone)
    with pytest.raises(DataError, match=r"10 of 30 images cannot be read, the first 20\.png.*a share of 0\.1\."):
        evaluate(reader, [path])
    with pytest.raises(DataError, match="10 of 30 images"):
        calibrate(reader, [path])
    assert evaluate(reader, [path], max_bad_share=0.34).datasets[0].skipped == {"missing": 10}
    assert evaluate(reader, [barcode_set([("a", "a")] * 2 + gone[:9], "few")]).datasets[0].skipped == {"missing": 9}
    assert evaluate(reader, [barcode_set([("a", "a")] * 90 + gone, "many")]).datasets[0].skipped == {"missing": 10}


def test_records_without_a_usable_label_are_counted(tmp_path, barcode, barcode_reader):
    with LmdbWriter(tmp_path / "store") as writer:
        for word in ("ab", "cd", "ef"):
            writer.add(barcode(word), word)
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 20) as environment, environment.begin(write=True) as change:
        change.put(b"label-000000002", b"\xff\xfe")
    dataset = evaluate(barcode_reader(), [str(tmp_path / "store")]).datasets[0]
    assert dataset.skipped == {"unreadable_record": 1}
    assert [s.prediction for s in dataset.samples] == ["ab", "ef"]
    assert "label-000000002" in dataset.unreadable[0]


# ---- sets and their names


def test_sets_have_the_names_they_are_given(barcode_set, barcode_reader):
    first, second = barcode_set(["a", "b", "c"], name="first"), barcode_set([("d", "x")], name="second")
    result = evaluate(barcode_reader(), [f"mine={second}", first, f"again={first}/labels.tsv"])
    assert [dataset.name for dataset in result.datasets] == ["mine", "first", "again"]
    assert [dataset.sums.accuracy for dataset in result.datasets] == [0.0, 1.0, 1.0]
    assert result.mean_accuracy == pytest.approx(2 / 3)
    assert result.combined_accuracy == pytest.approx(6 / 7)
    assert count_samples([f"mine={second}", first]) == 4


def test_what_cannot_be_evaluated_is_said_before_anything_is_read(barcode_set, barcode_reader, tmp_path):
    path, other, reader = barcode_set(["a"]), barcode_set(["b"], name="other"), barcode_reader()
    with lmdb.open(str(tmp_path / "none")) as environment, environment.begin(write=True) as change:
        change.put(b"num-samples", b"0")
    for data, message in [
        ([path, f"words={other}"], "2 sets are called 'words'; give each a name of its own with NAME=DATA"),
        ([path, "nowhere"], "nowhere: there is no such file or folder"),
        ([path, str(tmp_path / "none")], "none: record 'num-samples' is '0'; expected at least 1 sample"),
    ]:
        with pytest.raises(DataError, match=message):
            evaluate(reader, data)
    with pytest.raises(ConfigError, match="protocol clovaai compares 36 or 94 characters, charset is 62"):
        evaluate(reader, [path], protocol="clovaai", charset="62")
    assert reader._engine.shapes == []


# ---- ranks and batches


def evaluate_on_ranks(world_size, make, data):
    """Evaluate in as many threads, with the interface of ``Ranks`` as far as an evaluation needs it."""
    barrier, parts = threading.Barrier(world_size, timeout=30), {}
    results, done = [None] * world_size, [0] * world_size

    def work(rank):
        def gather(value):
            parts[rank] = value
            barrier.wait()
            everything = [parts[other] for other in range(world_size)]
            barrier.wait()
            return everything

        def progress(count):
            done[rank] += count

        ranks = SimpleNamespace(rank=rank, world_size=world_size, gather=gather)
        results[rank] = evaluate(make(batch_size=2), data, model="m", ranks=ranks, progress=progress)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, done


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_find_what_one_finds(world_size, barcode_set, barcode_reader):
    words = [("word" + "abcdefghij"[i] * (i % 4), "word" + "abcdefghij"[i] * (i % 3)) for i in range(10)]
    bad = [("cut", b"?"), ("gone", None), ("none", b""), ("text", b"text")]
    data = [barcode_set([*words[:5], *bad, *words[5:], ("!", "a")]), barcode_set(["few"], name="single")]
    alone = evaluate(barcode_reader(), data, model="m")
    results, done = evaluate_on_ranks(world_size, barcode_reader, data)
    assert results == [alone] * world_size  # each rank has the whole, samples and scores included
    assert sum(done) == count_samples(data) == 16
    assert max(done) - min(done) <= 2  # shared out evenly
    assert alone.datasets[0].skipped == {"empty": 1, "empty_label": 1, "missing": 1, "not_an_image": 2}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_batch_size_changes_nothing(batch_size, barcode_set, barcode_reader):
    data = [barcode_set([("w" * (i % 5 + 1), "w" * (i % 3 + 1)) for i in range(23)])]
    assert evaluate(barcode_reader(batch_size=batch_size), data) == evaluate(barcode_reader(batch_size=7), data)


# ---- the command


@pytest.fixture
def animals(tmp_path):
    """A lexicon with three of the words of ``trained_run``."""
    (tmp_path / "animals.txt").write_text("cat\ndog\nbird\n")
    return tmp_path / "animals.txt"


@pytest.fixture
def run_words(run, trained_run):
    """``run`` of ``crnn evaluate`` on the words that the network has learned."""
    return lambda *options: run("evaluate", trained_run.folder, trained_run.words, *options)


def cells(line):
    return re.split(r"\s*[│┃]\s*", line)[1:-1]


def test_evaluate_prints_a_table(run_words, trained_run):
    status, out, err = run_words(f"x[v2]:smile:={trained_run.words}")
    assert (status, err) == (0, "")
    assert f"{trained_run.folder}, parseq, 36 characters" in " ".join(out.split())
    assert [cells(line) for line in out.splitlines() if line.startswith("│")] == [
        ["words", "100.00", "75.75 - 100.00", "100.00", "0.00", "12", "-"],
        ["x[v2]:smile:", "100.00", "75.75 - 100.00", "100.00", "0.00", "12", "-"],
        ["mean", "100.00", "", "", "", "", ""],
        ["combined", "100.00", "", "", "", "24", ""],
    ]


def test_evaluate_json_has_the_keys_that_programs_rely_on(run, trained_run):
    data = f"SVT={trained_run.words}"
    status, out, err = run("evaluate", trained_run.folder, data, "--json", "--protocol", "clovaai")
    assert (status, out.count("\n")) == (0, 1)
    result = json.loads(out)
    assert list(result) == ["model", "protocol", "datasets", "mean_accuracy", "combined_accuracy", "calibration"]
    assert (result["model"], result["protocol"]) == (str(trained_run.folder), "clovaai")
    (dataset,) = result["datasets"]
    assert set(dataset) == {
        "name", "samples", "skipped", "accuracy", "accuracy_low", "accuracy_high", "one_minus_ned", "cer", "expected",
        "warnings", "lexicons", "greedy", "forms", "lost", "unwritable",
    }  # fmt: skip
    assert (dataset["name"], dataset["samples"], dataset["skipped"], dataset["accuracy"]) == ("SVT", 12, {}, 1.0)
    assert (dataset["greedy"], dataset["forms"]) == (None, {})
    assert result["mean_accuracy"] == result["combined_accuracy"] == 1.0
    assert err.startswith("crnn evaluate: SVT: 12 samples compared, 647 published (skipped: none); figures are not ")


def test_evaluate_ends_with_1_where_an_image_cannot_be_read(run, trained_run, word_list, tmp_path):
    words = word_list(labels=["cat", "dog", "ten"])
    (words.parent / "images" / "2.png").write_bytes(b"not an image")
    status, out, err = run("evaluate", trained_run.folder, words, "--json", "--report", tmp_path / "report.html")
    assert status == 1
    assert json.loads(out)["datasets"][0]["skipped"] == {"not_an_image": 1}
    lines = err.splitlines()
    assert lines[0].startswith("crnn evaluate: words: unreadable image images/2.png: ")
    assert lines[1:] == [f"crnn evaluate: report written to {tmp_path}/report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "1 not an image" in page


def test_evaluate_of_nothing_has_no_figures(run, trained_run, word_list):
    words = word_list(labels=["cat", "dog"])
    for image in (words.parent / "images").iterdir():
        image.unlink()
    status, out, err = run("evaluate", trained_run.folder, words)
    assert status == 1
    assert "nan" not in out
    assert re.search(r"words +│ +- │ +- │ +- │ +- │ +0 │ missing: 2", out)
    assert err.splitlines()[-1].startswith("crnn evaluate: words: no sample was compared (missing: 2); expected")


@pytest.mark.slow
def test_evaluate_on_two_ranks_prints_once_what_one_prints(trained_run, in_process):
    command = ["evaluate", str(trained_run.folder), str(trained_run.words), "--json", "--device", "cpu"]
    alone = in_process("-m", "crnn", *command)
    together = in_process(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "crnn", *command
    )
    assert (alone.returncode, together.returncode) == (0, 0)
    assert json.loads(together.stdout) == json.loads(alone.stdout)


def test_evaluate_says_what_the_model_cannot_write(run_words):
    assert "of the 94 characters that are compared (" in run_words("--charset", "94")[2]
    assert "cannot write" not in run_words()[2]


def test_evaluate_shows_lost_characters_in_the_table(run, trained_run, word_list):
    words = word_list(labels=["cat", "dög!", "straße", "ßß-s"])
    _, out, err = run("evaluate", trained_run.folder, words)
    assert next(row for row in map(cells, out.splitlines()) if row[:1] == ["words"])[-2:] == ["-", "3: ß!-"]
    assert "labels: lost" in out
    assert "labels: unwritable" not in out
    assert err == "crnn evaluate: words: 3 of 4 labels have characters that are not compared: 'ß!-'\n"


def test_evaluate_shows_lexicons_side_by_side(run_words, animals, tmp_path):
    lexicons = ["--lexicon", "full", "--lexicon", animals]
    status, out, _ = run_words(*lexicons)
    assert status == 0
    head, row = (cells(next(line for line in out.splitlines() if word in line)) for word in ("dataset", "words "))
    assert head[:4] == ["dataset", "full", "animals.txt", "accuracy"]
    assert row[:4] == ["words", "100.00", "25.00", "100.00"]
    report = tmp_path / "r.html"
    values = json.loads(run_words(*lexicons, "--json", "--report", report)[1])
    found = [(v["name"], v["accuracy"]) for v in values["datasets"][0]["lexicons"]]
    assert found == [("full", 1.0), ("animals.txt", 0.25)]
    assert values["calibration"]["samples"] == 12
    text = report.read_text(encoding="utf-8")
    assert "With lexicons" in text
    assert "Reliability diagram" in text


def test_evaluate_with_nothing_but_a_lexicon(run_words, animals):
    _, out, _ = run_words("--decode", "lexicon", "--lexicon", animals, "--json")
    (dataset,) = json.loads(out)["datasets"]
    assert (dataset["lexicons"], dataset["accuracy"]) == ([], 0.25)


def test_evaluate_shows_readings_with_and_without_the_language(run_words, tmp_path):
    """A language that has "cot" for "cat" as its only word, and counts far too much."""
    lm = tmp_path / "cot.lm"
    train_language([("cot", 1.0)], "cot", 4).save(lm)
    status, out, _ = run_words("--lm", lm, "--lm-weight", 10)
    assert status == 0
    head, row = (cells(next(line for line in out.splitlines() if word in line)) for word in ("dataset", "words "))
    assert head[:3] == ["dataset", "greedy", "with language"]
    assert row[:2] == ["words", "100.00"]
    assert float(row[2]) < 100.0
    assert out.endswith("greedy: the network alone, which is what papers report; with language: what readers get\n")
    (dataset,) = json.loads(run_words("--lm", lm, "--lm-weight", 10, "--json")[1])["datasets"]
    assert dataset["greedy"] == {"accuracy": 1.0, "one_minus_ned": 1.0, "cer": 0.0}
    assert 100 * dataset["accuracy"] == pytest.approx(float(row[2]), abs=0.01)


def test_evaluate_shows_lines_in_three_forms(run_words):
    status, out, _ = run_words("--protocol", "lines")
    assert status == 0
    for heading in ("lines, case folded", "as annotated", "letters and digits"):
        assert heading in out
    assert next(line for line in out.splitlines() if "words " in line).count("100.00 / 0.00") == 2


def test_evaluate_writes_readings_that_are_scored_to_the_same_counts(run, run_words, trained_run, tmp_path):
    path = tmp_path / "readings.tsv"
    status, out, err = run_words(f"more={trained_run.words}", "--readings", path, "--json")
    assert (status, err) == (0, f"crnn evaluate: readings written to {path}\n")
    assert path.read_text(encoding="utf-8").startswith(f"words=images/1.png\t{trained_run.labels[0]}\t0.")
    data = [trained_run.words, f"more={trained_run.words}"]
    report = tmp_path / "r.html"
    status, scored, err = run("evaluate", "--readings", path, *data, "--json", "--report", report)
    assert (status, err) == (0, f"crnn evaluate: report written to {report}\n")
    expected, found = json.loads(out), json.loads(scored)
    assert (found["model"], found.pop("unknown_readings")) == (str(path), 0)
    for dataset in found["datasets"]:
        assert dataset.pop("without_reading") == 0
    assert found["datasets"] == expected["datasets"]
    assert run("evaluate", "--readings", path, *data)[1].count("100.00") > 4
    # Nothing is written over: neither by a second evaluation, nor by a model given where there is none to give.
    before = path.read_bytes()
    assert run_words("--readings", path)[0] == 2
    assert path.read_bytes() == before


def test_evaluate_scores_what_read_prints(run, trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(trained_run.words.parent.parent)
    _, printed, _ = run("read", "words/images", "--model", trained_run.folder)
    _, objects, _ = run("read", "words/images", "--model", trained_run.folder, "--json")
    for number, text in enumerate((printed, objects, printed[: printed.index("\n") + 1] + "new.png\tx\n")):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    for number in (0, 1):
        status, out, err = run("evaluate", "--readings", tmp_path / f"{number}.txt", "words", "--json")
        (dataset,) = json.loads(out)["datasets"]
        assert (status, err, dataset["samples"], dataset["accuracy"]) == (0, "", 12, 1.0)
    status, out, err = run("evaluate", "words", "--readings", tmp_path / "2.txt", "--like", trained_run.folder)
    assert (status, err.splitlines()) == (
        0,
        [
            "crnn evaluate: words: 11 of 12 samples have no text in the file, and count as wrong: images/2.png, "
            "images/3.png, images/4.png, ...",
            "crnn evaluate: 1 readings are of no image of the data: new.png",
        ],
    )


def test_evaluate_scores_by_the_characters_of_a_model(run, word_list, tmp_path):
    words = word_list(labels=["a b", "C-d"])
    (tmp_path / "r.tsv").write_text("images/1.png\ta b\nimages/2.png\tc-d\n")
    for options, right in (((), 2), (("--like", "crnn-small"), 1)):
        (dataset,) = json.loads(run("evaluate", words, "--readings", tmp_path / "r.tsv", *options, "--json")[1])[
            "datasets"
        ]
        assert dataset["accuracy"] * 2 == right

"""``crnn calibrate``, and what ``crnn read`` and ``crnn evaluate`` do with lexicons, patterns and explanations."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crnn.cli import main
from crnn.decoding.confidence import Calibration, ConfidenceCurve, confidences
from crnn.decoding.language import train_language
from crnn.errors import CheckpointError
from crnn.model.checkpoint import load_weights, read_tensors, save_calibration, save_weights, write_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

CALIBRATION = Calibration(
    ConfidenceCurve(0.5, 0.1, 30, 0.5, 0.2, 0.1), ConfidenceCurve(0.7, -0.1, 30, 0.6, 0.2, 0.1), ("words",)
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command line and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def weights(trained_run: Any, tmp_path: Path) -> Path:
    """A copy of trained weights."""
    return Path(shutil.copy(trained_run.folder / "best.safetensors", tmp_path / "model.safetensors"))


@pytest.fixture
def doubtful(trained_run: Any, tmp_path: Path) -> Path:
    """A list of 36 crops, a third of whose labels are others than what they show."""
    shutil.copytree(trained_run.words.parent / "images", tmp_path / "images")
    lines = [f"images/{1 + n % 12}.png\t{trained_run.labels[n % 12] if n % 3 else 'zzz'}\n" for n in range(36)]
    lines.append("images/gone.png\tgone\n")
    (tmp_path / "doubtful.tsv").write_text("".join(lines))
    return tmp_path / "doubtful.tsv"


# -- weights ----------------------------------------------------------------------------------------------------------


def test_a_calibration_is_kept_with_the_weights_and_nothing_else_changes(weights: Path, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(weights)
    before = weights.read_bytes()
    assert load_weights(weights).calibration is None
    other = save_calibration(weights, CALIBRATION, tmp_path / "other.safetensors")
    assert weights.read_bytes() == before
    assert load_weights(other).calibration == CALIBRATION
    assert save_calibration(weights, CALIBRATION) == weights
    again, more = read_tensors(weights)
    assert all((tensors[name] == again[name]).all() for name in tensors)
    assert {key: value for key, value in more.items() if key != "calibration"} == metadata
    assert read_tensors(other)[1] == more
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "other.safetensors"]


def test_a_calibration_that_cannot_be_one_is_refused(weights: Path) -> None:
    tensors, metadata = read_tensors(weights)
    wrong = CALIBRATION.as_dict()
    wrong["language"]["slope"] = -1
    for given, message in [
        (wrong, r"slope is -1\.0, offset -0\.1; expected a slope above 0"),
        ({"data": []}, "calibration .* cannot be used"),
        ({"temperature": 0}, "calibration .* cannot be used"),
    ]:
        write_tensors(weights, tensors, {**metadata, "calibration": given})
        with pytest.raises(
            CheckpointError, match=rf"model\.safetensors: {message}.*Make it anew with crnn calibrate"
        ) as caught:
            load_weights(weights)
        assert "\n" not in str(caught.value)


# -- crnn calibrate ---------------------------------------------------------------------------------------------------


def test_calibrate_writes_the_curve_and_confidences_are_on_it(
    run: Run, weights: Path, doubtful: Path, trained_run: Any
) -> None:
    image = trained_run.words.parent / "images" / "1.png"
    plain = json.loads(run("read", image, "--model", weights, "--json")[1])
    assert plain["confidence"] == pytest.approx(math.exp(plain["score"]), abs=1e-6)
    status, out, _ = run("calibrate", weights, f"mine={doubtful}", "--json")
    assert status == 0
    values = json.loads(out)
    assert (values["model"], values["data"], values["language"]) == (str(weights), ["mine"], None)
    assert values["greedy"]["samples"] == 36
    assert values["greedy"]["accuracy"] == pytest.approx(2 / 3)
    found = load_weights(weights).calibration
    assert found is not None
    assert found.as_dict() == {name: values[name] for name in ("greedy", "language", "data")}
    sure = json.loads(run("read", image, "--model", weights, "--json")[1])
    assert sure["confidence"] == pytest.approx(float(confidences(plain["confidence"], found.greedy)), abs=1e-6)
    assert sure["confidence"] != pytest.approx(plain["confidence"], abs=1e-3)
    assert {**sure, "confidence": plain["confidence"]} == plain  # text, score and places stay


def test_weights_with_a_language_get_two_curves(run: Run, weights: Path, doubtful: Path, tmp_path: Path) -> None:
    held = load_weights(weights)
    charset = held.config.charset.model_copy(update={"language": "en"})
    save_weights(weights, held.tensors, held.config.model_copy(update={"charset": charset}), held.info)
    status, out, err = run("calibrate", weights, doubtful)
    assert status == 0
    first, second = out.splitlines()
    for line, way in ((first, "greedy"), (second, "with language")):
        assert re.fullmatch(
            rf"{re.escape(str(weights))}, {way}: slope \d\.\d{{3}}, offset [+-]\d+\.\d{{3}} from 36 readings, "
            r"\d\d\.\d\d % right; expected calibration error .* % before, .* % after \(on readings that it was not .*",
            line,
        ), line
    assert "samples left out: missing" in err
    found = load_weights(weights).calibration
    assert found is not None
    assert found.language is not None
    assert found.greedy.samples == found.language.samples == 36
    assert json.loads(run("calibrate", weights, doubtful, "--json")[1])["language"]["samples"] == 36
    assert load_weights(weights).config.charset.language == "en"  # and stays


def test_calibrate_into_another_file_and_in_words(run: Run, weights: Path, doubtful: Path, tmp_path: Path) -> None:
    before = weights.read_bytes()
    status, out, err = run("calibrate", weights, doubtful, "--out", tmp_path / "new.safetensors")
    assert status == 0
    assert "crnn calibrate: doubtful: 1 samples left out: missing\n" in err
    assert "crnn calibrate: doubtful: unreadable image images/gone.png: " in err
    assert out.startswith(f"{tmp_path / 'new.safetensors'}, greedy: slope ")
    assert "from 36 readings, 66.67 % right; expected calibration error " in out
    assert weights.read_bytes() == before
    assert load_weights(tmp_path / "new.safetensors").calibration is not None


def test_a_run_folder_means_its_best_weights(run: Run, trained_run: Any, doubtful: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run.folder, tmp_path / "run")
    assert run("calibrate", tmp_path / "run", doubtful)[0] == 0
    assert load_weights(tmp_path / "run" / "best.safetensors").calibration is not None
    assert load_weights(tmp_path / "run" / "last.safetensors").calibration is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL"),
        (["MODEL"], "DATA"),
        (["MODEL", "WORDS"], "12 readings, 12 of them right; confidences are fitted on at least 20 readings"),
        (["MODEL", "WORDS", "--out", "no/where"], "--out no/where: there is no such folder to write it in"),
        (
            ["crnn-small", "WORDS"],
            "crnn-small ships with the package and stays as it is; expected another file to write",
        ),
        (
            ["MODEL", "WORDS", "--out", "x.onnx"],
            "--out x.onnx: what is written is a weights file; expected a",
        ),
        (["gone", "WORDS"], "model 'gone' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)"),
        (["MODEL", "gone"], "gone: there is no such file or folder"),
    ],
)
def test_calibrate_says_what_is_wrong(
    arguments: list[str], message: str, run: Run, weights: Path, trained_run: Any
) -> None:
    before = weights.read_bytes()
    names = {"MODEL": weights, "WORDS": trained_run.words}
    status, out, err = run("calibrate", *(names.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert weights.read_bytes() == before


# -- crnn read --------------------------------------------------------------------------------------------------------


def read_json(run: Run, image: Path, model: Path, *options: object) -> dict[str, Any]:
    status, out, err = run("read", image, "--model", model, "--json", *options)
    assert (status, err) == (0, "")
    values: dict[str, Any] = json.loads(out)
    return values


def test_read_with_each_option(run: Run, trained_run: Any, tmp_path: Path) -> None:
    cat = trained_run.words.parent / "images" / "1.png"
    (tmp_path / "words.txt").write_text("cut\ncot\n")

    def read(*options: object) -> dict[str, Any]:
        return read_json(run, cat, trained_run.folder, *options)

    free = read()
    assert (free["text"], set(free)) == ("cat", {"image", "text", "score", "confidence", "warning", "characters"})
    word = read("--lexicon", tmp_path / "words.txt")
    assert word["text"] in ("cut", "cot")
    assert word["score"] < free["score"]
    assert 0.0 <= word["confidence"] < 0.01  # the image shows neither
    (tmp_path / "animals.txt").write_text("cut\ncat\n")
    assert read("--lexicon", tmp_path / "animals.txt")["confidence"] > 0.99
    assert read("--lexicon", tmp_path / "words.txt", "--lexicon-margin", 0.5)["text"] == "cat"
    assert read("--pattern", "c[^a]t")["text"] != "cat"
    assert read("--pattern", "[A-Z]{3}")["text"] == "cat"
    assert "a" not in read("--block", "a")["text"]
    assert set(read("--allow", "CT")["text"]) <= set("ct")
    assert read("--pattern", "[A-Z]+", "--allow", "abct", "--lm", "en")["text"] == "cat"
    some = read("--n-best", 3)
    assert (some["text"], len(some["alternatives"])) == ("cat", 2)
    assert [sorted(a) for a in some["alternatives"]] == [["confidence", "score", "text"]] * 2
    assert some["score"] >= some["alternatives"][0]["score"] >= some["alternatives"][1]["score"]
    nothing = read("--pattern", "[0-9]{40}")
    assert (nothing["text"], nothing["score"], nothing["characters"]) == ("", None, [])


def test_words_that_are_left_out_are_said(run: Run, trained_run: Any, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\nдом\nCAT\n")
    image = trained_run.words.parent / "images" / "1.png"
    status, out, err = run("read", image, "--model", trained_run.folder, "--lexicon", tmp_path / "words.txt")
    assert (status, out.split("\t")[1]) == (0, "cat")
    assert err == f"crnn read: lexicon {tmp_path / 'words.txt'}: 1 words; left out empty_label: 1 ('дом')\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decode", "lexicon"], "decode is 'lexicon', and no lexicon is given"),
        (["--decode", "greedy", "--n-best", "2"], "decode 'greedy' and n_best do not go together"),
        (["--lexicon", "gone.txt"], "gone.txt"),
        (["--pattern", "a["], "pattern 'a['"),
        (["--allow", "д"], "is not in the charset"),
        (["--lm", "gone.lm"], "gone.lm"),
        (["--explain", "no/where.png"], "--explain no/where.png: there is no such folder to write it in"),
        (
            ["--explain", "why.nothing"],
            "--explain why.nothing: its suffix is that of no image; expected",
        ),
    ],
    ids=" ".join,
)
def test_read_says_what_does_not_go_together(
    options: list[str], message: str, run: Run, trained_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = trained_run.words.parent / "images" / "1.png"
    status, _, err = run("read", image, "--model", trained_run.folder, *options)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_read_explains_what_it_read(run: Run, trained_run: Any, tmp_path: Path) -> None:
    images = trained_run.words.parent / "images"
    (tmp_path / "bad.png").write_text("nothing")
    given = [images / "1.png", tmp_path / "bad.png", images / "2.png"]
    one = tmp_path / "one.png"
    status, out, err = run("read", images / "1.png", "--model", trained_run.folder, "--explain", one)
    assert (status, out.count("\n"), err) == (0, 1, f"crnn read: explained in {one}\n")
    both = tmp_path / "both.png"
    status, out, _ = run("read", *given, "--model", trained_run.folder, "--explain", both)
    assert (status, out.count("\n")) == (1, 2)
    with Image.open(one) as alone, Image.open(both) as stacked:
        assert stacked.height > 1.7 * alone.height
        assert stacked.crop((0, 0, *alone.size)).tobytes() == alone.convert(stacked.mode).tobytes()
    status, _, err = run("read", tmp_path / "bad.png", "--model", trained_run.folder, "--explain", tmp_path / "no.png")
    assert status == 1
    assert "no.png is not written: no image could be read" in err
    assert not (tmp_path / "no.png").exists()


# -- crnn evaluate ----------------------------------------------------------------------------------------------------


def test_evaluate_shows_lexicons_side_by_side(run: Run, trained_run: Any, tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("cat\ndog\nbird\n")
    lexicons = ["--lexicon", "full", "--lexicon", tmp_path / "animals.txt"]
    status, out, _ = run("evaluate", trained_run.folder, trained_run.words, *lexicons)
    assert status == 0
    head, row = (next(line for line in out.splitlines() if word in line) for word in ("dataset", "words "))
    assert head.replace("┃", " ").split()[:4] == ["dataset", "full", "animals.txt", "accuracy"]
    assert row.replace("│", " ").split()[:4] == ["words", "100.00", "25.00", "100.00"]
    report = tmp_path / "r.html"
    status, out, _ = run("evaluate", trained_run.folder, trained_run.words, *lexicons, "--json", "--report", report)
    values = json.loads(out)
    assert [(v["name"], v["accuracy"]) for v in values["datasets"][0]["lexicons"]] == [
        ("full", 1.0), ("animals.txt", 0.25),
    ]  # fmt: skip
    assert values["calibration"]["samples"] == 12
    assert 0.0 <= values["calibration"]["error_before"] <= 1.0
    assert values["calibration"]["error_after"] is None
    text = report.read_text(encoding="utf-8")
    assert "With lexicons" in text
    assert "Reliability diagram" in text


def test_evaluate_with_nothing_but_a_lexicon(run: Run, trained_run: Any, tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("cat\ndog\nbird\n")
    _, out, _ = run(
        "evaluate", trained_run.folder, trained_run.words, "--decode", "lexicon", "--lexicon",
        tmp_path / "animals.txt", "--json",
    )  # fmt: skip
    (dataset,) = json.loads(out)["datasets"]
    assert (dataset["lexicons"], dataset["accuracy"]) == ([], 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lexicon", "50"], "no sample has such a lexicon; expected LMDB stores of sets that are published with"),
        (["--lexicon", "51"], "lexicon '51' is neither 50, 1k or full nor a file"),
        (["--decode", "lexicon"], "--decode lexicon reads with one --lexicon, 0 are given"),
        (["--decode", "lexicon", "--lexicon", "50", "--lexicon", "1k"], "reads with one --lexicon, 2 are given"),
        (["--lexicon-margin", "1"], "--lexicon-margin is given without --lexicon"),
        (["--lexicon", "full", "--lexicon-margin", "-1"], "--lexicon-margin is -1.0; expected a number, 0 or more"),
        (["--decode", "greedy", "--pattern", "a"], "decode 'greedy' and pattern do not go together"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_evaluate_says_what_does_not_go_together(options: list[str], message: str, run: Run, trained_run: Any) -> None:
    status, out, err = run("evaluate", trained_run.folder, trained_run.words, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_evaluate_shows_readings_with_and_without_the_language(run: Run, trained_run: Any, tmp_path: Path) -> None:
    """A language that has "cot" for "cat" as its only word, and counts far too much."""
    lm = tmp_path / "cot.lm"
    train_language([("cot", 1.0)], "cot", 4).save(lm)
    options = ["--lm", lm, "--lm-weight", 10]
    status, out, _ = run("evaluate", trained_run.folder, trained_run.words, *options)
    assert status == 0
    head, row = (next(line for line in out.splitlines() if word in line) for word in ("dataset", "words "))
    columns = [part.strip() for part in re.split("[│┃]", head) if part.strip()]
    assert columns[:3] == ["dataset", "greedy", "with language"]
    cells = [part.strip() for part in re.split("[│┃]", row) if part.strip()]
    assert cells[:2] == ["words", "100.00"]
    assert float(cells[2]) < 100.0
    assert out.endswith("greedy: the network alone, which is what papers report; with language: what readers get\n")
    _, out, _ = run("evaluate", trained_run.folder, trained_run.words, *options, "--json")
    (dataset,) = json.loads(out)["datasets"]
    assert dataset["greedy"] == {"accuracy": 1.0, "one_minus_ned": 1.0, "cer": 0.0}
    assert 100 * dataset["accuracy"] == pytest.approx(float(cells[2]), abs=0.01)
    _, out, _ = run("evaluate", trained_run.folder, trained_run.words, "--json")
    (dataset,) = json.loads(out)["datasets"]
    assert (dataset["greedy"], dataset["forms"], dataset["accuracy"]) == (None, {}, 1.0)


def test_evaluate_shows_lines_in_three_forms(run: Run, trained_run: Any) -> None:
    status, out, _ = run("evaluate", trained_run.folder, trained_run.words, "--protocol", "lines")
    assert status == 0
    assert "lines, case folded" in out
    head = next(line for line in out.splitlines() if "as annotated" in line)
    assert "letters and digits" in head
    row = next(line for line in out.splitlines() if "words " in line)
    assert row.count("100.00 / 0.00") == 2


def test_scores_of_readings_are_finite_or_null() -> None:
    from crnn.cli.read import _values
    from crnn.recognizer import Alternative, Reading

    values = _values(Reading("", -math.inf, (), 0.0, (Alternative("a", -1.0, 0.5),)), with_alternatives=True)
    assert values["score"] is None
    assert values["alternatives"] == [{"text": "a", "score": -1.0, "confidence": 0.5}]

"""``crnn lm`` as it is typed: what it learns from, what it writes, and wrong arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from crnn.decoding.language_model import CharacterModel
from crnn.decoding.language_model_file import load_language_model

from crnn.charset import Charset
from crnn.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs ``crnn lm ...`` and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["lm", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def score(path: Path, text: str, characters: str = "36") -> float:
    charset = Charset(characters)
    return float(load_language_model(path, charset).log_probs([charset.encode(text)])[0])


def test_a_model_of_word_lists(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("House\nmouse\n\n?!\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("horse\t30\nhouse\t10\n", encoding="utf-8")
    out = tmp_path / "words.lm"
    status, stdout, stderr = run(out, tmp_path / "one.txt", tmp_path / "two.txt", "--numbers", 0, "--order", 3)
    assert (status, stderr) == (0, "")
    model = load_language_model(out, Charset("36"))
    size = out.stat().st_size / 1e6
    assert stdout == (
        f"{out}: order 3, 5 words, {model.counts.symbols.size} sequences, {model.num_states} states, {size:.1f} MB\n"
        "  left out 1: empty_label\n"
    )
    # In each list the mean of the weights is 1.
    words = [("house", 1.0), ("mouse", 1.0), ("horse", 1.5), ("house", 0.5)]
    expected = CharacterModel.train(words, Charset("36"), 3)
    for text in ("house", "mouse", "horse", "hours", "7"):
        assert score(out, text) == pytest.approx(expected.log_probs([Charset("36").encode(text)])[0], abs=1e-5)
    run(out, tmp_path / "two.txt", "--no-frequencies", "--numbers", 0)
    assert score(out, "horse") == pytest.approx(score(out, "house"))


def test_labels_of_sets(run: Run, tmp_path: Path, word_list: Callable[..., Path]) -> None:
    labels = word_list(labels=["Hello", "HELLO", "world"])
    out = tmp_path / "labels.lm"
    assert run(out, "--labels", labels, "--charset", "94", "--numbers", 0)[0] == 0
    assert score(out, "Hello", "94") > score(out, "hello", "94") + 2.0
    assert "3 words" in run(out, "--labels", labels)[1]


@pytest.mark.slow
def test_the_shipped_words(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "words.lm"
    status, stdout, _ = run(out, "shipped", "--order", 3)
    assert status == 0
    assert re.search(r"order 3, 16\d{4} words", stdout)
    assert score(out, "house") > score(out, "hxuse") + 4.0


def test_numbers_are_found_likely(run: Run, tmp_path: Path) -> None:
    words, out = tmp_path / "words.txt", tmp_path / "words.lm"
    words.write_text("".join(f"word{letter}\n" for letter in "abcdefghij" * 50), encoding="utf-8")
    run(out, words, "--order", 3)
    likely = score(out, "4711")
    run(out, words, "--order", 3, "--numbers", 0)
    assert likely > score(out, "4711") + 5.0


def test_charsets_without_digits_have_no_numbers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("ab\n", encoding="utf-8")
    assert run(tmp_path / "x.lm", tmp_path / "one.txt", "--charset", "abc1")[0] == 0
    assert load_language_model(tmp_path / "x.lm").num_words == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no path is given; expected OUT, the file to write, and word lists behind it"),
        (["out.lm"], "out.lm: nothing to learn from is given; expected word lists behind it"),
        (["shipped", "shipped"], "OUT shipped: is a word list as well"),
        (["words.txt", "words.txt"], "OUT words.txt: is a word list as well"),
        (["none/out.lm", "words.txt"], "OUT none/out.lm: there is no such folder to write it in"),
        ([".", "words.txt"], r"OUT \.: is a folder"),
        (["out.lm", "nothing.txt"], "word list nothing.txt: No such file"),
        (["out.lm", "--labels", "nowhere"], "nowhere: there is no such file or folder"),
        (["out.lm", "words.txt", "--order", "0"], "order is 0; expected 1 to 12"),
        (["out.lm", "words.txt", "--numbers", "1"], "--numbers is 1.0; expected a share from 0 to less than 1"),
        (["out.lm", "words.txt", "--charset", "aa"], "charset has 'a' twice"),
        (["out.lm", "words.txt", "--charset", "жш"], r"no word to learn from \(empty_label: 1\)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_clear_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("word\n", encoding="utf-8")
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["words.txt"]
    assert (tmp_path / "words.txt").read_text() == "word\n"


def test_help(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "--numbers" in out

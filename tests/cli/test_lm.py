"""``crnn lm`` as it is typed: what it learns from, what it writes, and wrong arguments."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crnn.cli import main
from crnn.data.store import LmdbWriter
from crnn.decoding.language import DEFAULT_ORDER, load_language, train_language
from crnn.errors import DataError, MissingExtraError
from crnn.synth.word_list import read_word_list

Run = Callable[..., tuple[int, str, str]]

needs_wordfreq = pytest.mark.skipif(
    importlib.util.find_spec("wordfreq") is None, reason="the optional package wordfreq (crnn[words]) is not installed"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs ``crnn lm ...`` and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["lm", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def score(path: Path, word: str) -> float:
    return load_language(path).word_log_prob(word)


def test_a_language_of_word_lists(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("House\nmouse\n\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("horse\t30\nhouse\t10\n", encoding="utf-8")
    out = tmp_path / "words.lm"
    status, stdout, stderr = run(out, tmp_path / "one.txt", tmp_path / "two.txt", "--order", 3, "--power", 1)
    assert (status, stderr) == (0, "")
    language = load_language(out)
    size = out.stat().st_size / 1e6
    assert (language.name, language.order, language.num_words) == ("words", 3, 3)
    assert stdout == (
        f"{out}: order 3, 3 words, {language.arrays['symbols'].size} sequences of 7 characters, {size:.1f} MB\n"
    )
    # In each list the mean of the weights is 1.
    words = [("house", 1.0), ("mouse", 1.0), ("horse", 1.5), ("house", 0.5)]
    expected = train_language(words, "words", 3)
    for text in ("house", "mouse", "horse", "hours"):
        assert language.word_log_prob(text) == expected.word_log_prob(text)


def test_frequencies_count_to_a_power(run: Run, tmp_path: Path) -> None:
    words, out = tmp_path / "words.txt", tmp_path / "words.lm"
    words.write_text("horse\t81\nhouse\t1\n", encoding="utf-8")
    gaps = []
    for options in (["--power", 0], ["--power", 0.5], [], ["--power", 1]):
        assert run(out, words, *options)[0] == 0
        gaps.append(score(out, "horse") - score(out, "house"))
    assert gaps[0] == 0.0  # all alike
    assert gaps == sorted(gaps)
    assert len(set(gaps)) == 4
    assert load_language(out).order == DEFAULT_ORDER


def test_labels_of_sets(run: Run, tmp_path: Path, word_list: Callable[..., Path]) -> None:
    labels = word_list(labels=["Hello world", "HELLO", "there"])
    out = tmp_path / "labels.lm"
    assert run(out, "--labels", labels)[0] == 0
    assert load_language(out).num_words == 3
    assert score(out, "hello") > score(out, "there") > score(out, "helloworld")
    (tmp_path / "more.txt").write_text("bonjour\n", encoding="utf-8")
    assert "4 words" in run(out, tmp_path / "more.txt", "--labels", labels)[1]


def test_labels_that_cannot_be_read_are_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_of: Callable[..., bytes]
) -> None:
    with LmdbWriter(tmp_path / "words") as writer:
        for label in ("hello", "world", "there"):
            writer.add(image_of(label), label)
    from crnn.data.store import LmdbStore

    known = LmdbStore.label

    def label(self: LmdbStore, index: int) -> str:
        if index == 1:
            raise DataError("no text")
        return known(self, index)

    monkeypatch.setattr(LmdbStore, "label", label)
    status, stdout, _ = run(tmp_path / "x.lm", "--labels", tmp_path / "words")
    assert status == 0
    assert stdout.endswith(" MB\n  left out 1: unreadable_record\n")
    assert load_language(tmp_path / "x.lm").num_words == 2


@pytest.mark.slow
def test_the_shipped_words(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "words.lm"
    status, stdout, _ = run(out, "shipped", "--order", 3)
    assert status == 0
    assert re.search(r"order 3, 1\d{5} words", stdout)
    assert score(out, "house") > score(out, "hxuse") + 4.0


# -- wordfreq ---------------------------------------------------------------------------------------------------------


@needs_wordfreq
def test_words_of_the_package_wordfreq(run: Run, tmp_path: Path) -> None:
    found = read_word_list("wordfreq:is")
    words = found.words
    assert (found.name, len(words)) == ("wordfreq:is", found.frequencies.size)
    assert len(words) == len(set(words)) > 5_000
    assert not any(any(map(str.isspace, word)) for word in words)
    assert words[int(np.argmax(found.frequencies))] in {"að", "og", "í"}
    out = tmp_path / "is.lm"
    status, stdout, _ = run(out, "wordfreq:is", "--order", 4)
    assert (status, "order 4" in stdout) == (0, True)
    assert score(out, "landið") > score(out, "lxndið") + 4.0


@needs_wordfreq
def test_a_language_that_wordfreq_has_not(run: Run, tmp_path: Path) -> None:
    status, stdout, err = run(tmp_path / "x.lm", "wordfreq:xx")
    assert (status, stdout, err.count("\n")) == (2, "", 1)
    assert "word list wordfreq:xx: wordfreq has no language 'xx'; expected one of ar, bg, bn, ca, cs, da, de" in err
    assert not (tmp_path / "x.lm").exists()


def test_without_the_package_wordfreq(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    status, stdout, err = run(tmp_path / "x.lm", "wordfreq:de")
    assert (status, stdout, err.count("\n")) == (2, "", 1)
    expected = "the word list wordfreq:de needs the package 'wordfreq'. Install it with: pip install 'crnn[words]'"
    assert expected in err
    with pytest.raises(MissingExtraError, match="needs the package 'wordfreq'"):
        read_word_list("wordfreq:de")


# -- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "OUT"),
        (["out.lm"], "out.lm: nothing to learn from is given; expected word lists behind it"),
        (["shipped", "shipped"], "OUT shipped: is a word list as well"),
        (["wordfreq:de", "words.txt"], "OUT wordfreq:de: is a word list as well"),
        (["words.txt", "words.txt"], "OUT words.txt: is a word list as well"),
        (["none/out.lm", "words.txt"], "OUT none/out.lm: there is no such folder to write it in"),
        ([".", "words.txt"], r"OUT \.: is a folder"),
        (["out.lm", "nothing.txt"], "word list nothing.txt: No such file"),
        (["out.lm", "--labels", "nowhere"], "nowhere: there is no such file or folder"),
        (["out.lm", "words.txt", "--order", "0"], "order is 0; expected 1 to"),
        (["out.lm", "words.txt", "--power", "-1"], "--power is -1.0; expected a number from 0 to 2"),
        (["out.lm", "words.txt", "--power", "nan"], "--power is nan; expected a number from 0 to 2"),
        (["out.lm", "words.txt", "--charset", "36"], "--charset"),
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

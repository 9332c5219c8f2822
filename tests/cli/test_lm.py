"""``crnn lm``: what it learns from, what it writes, and wrong arguments."""

import importlib.util
import re
import sys

import numpy as np
import pytest

from crnn.data.store import LmdbStore, LmdbWriter
from crnn.decoding.language import DEFAULT_ORDER, load_language, train_language
from crnn.errors import DataError
from crnn.synth.word_list import read_word_list

needs_wordfreq = pytest.mark.skipif(
    importlib.util.find_spec("wordfreq") is None, reason="the optional package wordfreq (crnn[words]) is not installed"
)


@pytest.fixture
def run_lm(run):
    return lambda *arguments: run("lm", *arguments)


def score(path, word):
    return load_language(path).word_log_prob(word)


def test_a_language_of_word_lists(run_lm, tmp_path):
    (tmp_path / "one.txt").write_text("House\nmouse\n\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("horse\t30\nhouse\t10\n", encoding="utf-8")
    out = tmp_path / "words.lm"
    status, stdout, stderr = run_lm(out, tmp_path / "one.txt", tmp_path / "two.txt", "--order", 3, "--power", 1)
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


def test_frequencies_count_to_a_power(run_lm, tmp_path):
    words, out = tmp_path / "words.txt", tmp_path / "words.lm"
    words.write_text("horse\t81\nhouse\t1\n", encoding="utf-8")
    gaps = []
    for options in (["--power", 0], ["--power", 0.5], [], ["--power", 1]):
        assert run_lm(out, words, *options)[0] == 0
        gaps.append(score(out, "horse") - score(out, "house"))
    assert gaps[0] == 0.0  # all alike
    assert gaps == sorted(gaps)
    assert len(set(gaps)) == 4
    assert load_language(out).order == DEFAULT_ORDER


def test_labels_of_sets(run_lm, tmp_path, word_list):
    labels = word_list(labels=["Hello world", "HELLO", "there"])
    out = tmp_path / "labels.lm"
    assert run_lm(out, "--labels", labels)[0] == 0
    assert load_language(out).num_words == 3
    assert score(out, "hello") > score(out, "there") > score(out, "helloworld")
    (tmp_path / "more.txt").write_text("bonjour\n", encoding="utf-8")
    assert "4 words" in run_lm(out, tmp_path / "more.txt", "--labels", labels)[1]


def test_labels_that_cannot_be_read_are_counted(run_lm, tmp_path, monkeypatch, image_of):
    with LmdbWriter(tmp_path / "words") as writer:
        for label in ("hello", "world", "there"):
            writer.add(image_of(label), label)
    known = LmdbStore.label

    def label(self, index):
        if index == 1:
            raise DataError("no text")
        return known(self, index)

    monkeypatch.setattr(LmdbStore, "label", label)
    status, out, _ = run_lm(tmp_path / "x.lm", "--labels", tmp_path / "words")
    assert status == 0
    assert out.endswith(" MB\n  left out 1: unreadable_record\n")
    assert load_language(tmp_path / "x.lm").num_words == 2


def test_a_bar_counts_lists_and_lengths(tmp_path):
    steps = []
    train_language([("house", 1.0), ("mouse", 1.0)], "words", 4, progress=steps.append)
    assert sum(steps) == 1 + 4


@pytest.mark.slow
def test_the_shipped_words(run_lm, tmp_path):
    out = tmp_path / "words.lm"
    status, stdout, _ = run_lm(out, "shipped", "--order", 3)
    assert status == 0
    assert re.search(r"order 3, 1\d{5} words", stdout)
    assert score(out, "house") > score(out, "hxuse") + 4.0


@needs_wordfreq
def test_words_of_the_package_wordfreq(run_lm, tmp_path):
    found = read_word_list("wordfreq:is")
    words = found.words
    assert (found.name, len(words)) == ("wordfreq:is", found.frequencies.size)
    assert len(words) == len(set(words)) > 5_000
    assert not any(any(map(str.isspace, word)) for word in words)
    assert words[int(np.argmax(found.frequencies))] in {"að", "og", "í"}
    out = tmp_path / "is.lm"
    status, stdout, _ = run_lm(out, "wordfreq:is", "--order", 4)
    assert (status, "order 4" in stdout) == (0, True)
    assert score(out, "landið") > score(out, "lxndið") + 4.0


@needs_wordfreq
def test_a_language_that_wordfreq_has_not(run_lm, tmp_path):
    status, stdout, err = run_lm(tmp_path / "x.lm", "wordfreq:xx")
    assert (status, stdout, err.count("\n")) == (2, "", 1)
    assert "word list wordfreq:xx: wordfreq has no language 'xx'; expected one of ar, bg, bn, ca, cs, da, de" in err
    assert not (tmp_path / "x.lm").exists()


def test_without_the_package_wordfreq(run_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    status, out, err = run_lm(tmp_path / "x.lm", "wordfreq:de")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "needs the package 'wordfreq'. Install it with: pip install 'crnn[words]'" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("out.lm", "out.lm: nothing to learn from is given; expected word lists behind it"),
        ("wordfreq:de words.txt", "OUT wordfreq:de: is a word list as well"),
        ("words.txt words.txt", "OUT words.txt: is a word list as well"),
        ("none/out.lm words.txt", "OUT none/out.lm: there is no such folder to write it in"),
        ("out.lm nothing.txt", "word list nothing.txt: cannot be read: No such file"),
        ("out.lm --labels nowhere", "nowhere: there is no such file or folder"),
        ("out.lm words.txt --order 0", "order is 0; expected 1 to"),
        ("out.lm words.txt --power nan", "--power is nan; expected a number from 0 to 2"),
    ],
)
def test_errors_are_one_line(line, message, run_lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("word\n", encoding="utf-8")
    status, out, err = run_lm(*line.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["word\n"]

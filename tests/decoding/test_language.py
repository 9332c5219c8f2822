"""Languages: what n-grams say of words, their files, and what a file that is none says."""

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crnn.decoding.language import (
    MAX_ORDER,
    load_language,
    load_numbers,
    shipped_languages,
    train_language,
    train_numbers,
)
from crnn.errors import ConfigError, DataError

WORDS = [("house", 3.0), ("mouse", 1.0), ("horse", 2.0), ("hot", 1.0)]


def plain_log_prob(weights: dict[str, float], order: int, word: str, letters: str) -> float:
    """Witten and Bell's interpolation, word for word as it is written down."""
    counts: Counter[tuple[str, ...]] = Counter()
    for known, weight in weights.items():
        symbols = ["<", *known, ">"]
        for first, length in itertools.product(range(len(symbols)), range(1, order + 1)):
            gram = tuple(symbols[first : first + length])
            if len(gram) == length and gram != ("<",):
                counts[gram] += weight

    def probability(symbol: str, context: tuple[str, ...]) -> float:
        shorter = probability(symbol, context[1:]) if context else 1.0 / (len(letters) + 1)
        following = [gram for gram in counts if gram[:-1] == context and gram[-1] != "<"]
        seen, kinds = sum(counts[gram] for gram in following), len(following)
        if not kinds:
            return shorter
        return (counts[(*context, symbol)] + kinds * shorter) / (seen + kinds)

    symbols = ["<", *word, ">"]
    return sum(
        math.log(probability(symbols[place], tuple(symbols[max(0, place - order + 1) : place])))
        for place in range(1, len(symbols))
    )


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_words_have_the_probability_of_the_published_formula(order: int) -> None:
    language = train_language(WORDS, "test", order)
    assert language.characters == "ehmorstu"
    for word in ("house", "mouse", "hot", "horsemouse", "tth", "e", "uuuuuuuu"):
        expected = plain_log_prob(dict(WORDS), order, word, language.characters)
        # Logarithms are stored in steps of 1/16 and 1/32.
        assert language.word_log_prob(word) == pytest.approx(expected, abs=0.06 * (len(word) + 1)), word


def test_what_follows_adds_up_to_one_in_every_context() -> None:
    language = train_language(WORDS, "test", 4)
    row = np.zeros(1, dtype=np.int32)
    for letter in "housexhoh":
        total = np.exp(language.log_prob(np.repeat(row, language.end + 1), np.arange(language.end + 1))).sum()
        assert total == pytest.approx(1.0, abs=0.08)
        if language.symbol(letter) >= 0:
            row = language.following(row, np.array([language.symbol(letter)]))


def test_case_accents_and_apostrophes_are_folded() -> None:
    language = train_language([("Müller", 1.0), ("don't", 1.0), ("ÉTÉ", 1.0)], "test", 4)
    assert [language.symbol(c) == language.symbol("u") for c in "uUüÜ"] == [True, True, False, False]
    assert language.symbol("ü") == language.symbol("Ü") >= 0
    # A charset without accents or apostrophes writes the word without them.
    assert language.word_log_prob("muller") == pytest.approx(language.word_log_prob("müller"), abs=1.0)
    assert language.word_log_prob("dont") > language.word_log_prob("dnot") + 3.0
    english = train_language(WORDS, "test")
    assert english.symbol("É") == english.symbol("e")
    assert english.symbol("7") == english.symbol("ж") == -1


def test_a_file_gives_the_same_language(tmp_path: Path) -> None:
    language = train_language(WORDS, "test", 5)
    size = language.save(tmp_path / "words.lm")
    assert size == (tmp_path / "words.lm").stat().st_size < 3000
    again = load_language(tmp_path / "words.lm")
    assert (again.name, again.characters, again.order, again.num_words) == ("test", "ehmorstu", 5, 4)
    assert again.word_log_prob("horse") == language.word_log_prob("horse")
    assert again.best == language.best


def test_a_language_that_could_not_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn.decoding.language._MAX_BYTES", 100)
    with pytest.raises(
        DataError, match=r"large\.lm: takes [\d,]+ bytes; expected at most 100\. Make it of fewer words"
    ):
        train_language(WORDS, "test", 5).save(tmp_path / "large.lm")
    assert not list(tmp_path.iterdir())


def test_a_pickle_gives_the_same_language_without_what_was_expanded() -> None:
    language = train_language(WORDS, "few")
    fresh = pickle.dumps(language)
    expected = [language.word_log_prob(word) for word in ("house", "hot", "those")]
    assert len(pickle.dumps(language)) == len(fresh)
    found = pickle.loads(fresh)
    assert (found.name, [found.word_log_prob(word) for word in ("house", "hot", "those")]) == ("few", expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_expands_while_a_thread_of_the_parent_did() -> None:
    script = (
        "import os, signal, threading\n"
        "from crnn.decoding import language\n"
        "held = language.train_language([('house', 1.0)], 'few')\n"
        "inside, out = threading.Event(), threading.Event()\n"
        "class Slow(type(held)):\n"
        "    def _rows(self, contexts):\n"
        "        inside.set()\n"
        "        out.wait(0.5)\n"
        "        return super()._rows(contexts)\n"
        "held.__class__ = Slow\n"
        "thread = threading.Thread(target=held.word_log_prob, args=('house',))\n"
        "thread.start()\n"
        "inside.wait()\n"
        "if (child := os.fork()) == 0:\n"
        "    signal.alarm(30)\n"
        "    out.set()\n"
        "    held.word_log_prob('house')\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_english_ships() -> None:
    assert shipped_languages() == ["en"]
    language = load_language("en")
    assert language.num_words > 80_000
    assert language.word_log_prob("the") > language.word_log_prob("hotel") > language.word_log_prob("qzxvk") + 15.0
    assert language.word_log_prob("customer's") > language.word_log_prob("customet's") + 5.0
    assert language.word_log_prob("these") > language.word_log_prob("thes") + 4.0


def test_numbers_are_learned_by_their_form() -> None:
    numbers = train_numbers(["21.00", "97.50", "33.10", "9PM"])
    assert (numbers.num_words, numbers.characters) == (2, ".0mp")
    assert train_numbers(["21.00", "97.50", "33.10", "9PM"], least=2).num_words == 1
    assert numbers.word_log_prob("00.00") > numbers.word_log_prob("0pm") > numbers.word_log_prob("0.00") + 0.5
    shipped = load_numbers()
    assert shipped.word_log_prob("00:00pm") > shipped.word_log_prob("00:00mp") + 5.0
    assert shipped.word_log_prob("00/00/0000") > shipped.word_log_prob("00/0/00000") + 5.0


def test_files_that_are_no_languages_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "words.lm"
    with pytest.raises(DataError, match="there is no such file; expected one of crnn lm, or"):
        load_language(path)
    for content, message in (
        (b"words", "not a safetensors file, or cut short"),
        (b"PK\x03\x04 a zip file", "is a pickle or zip archive"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "language .*words.lm: is a Git LFS pointer; expected a file of",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_language(path)
    for format_, version in (("crnn-language-model", "1"), ("crnn-language", "3")):
        save_file({"x": np.zeros(3)}, path, metadata={"format": format_, "format_version": version})
        with pytest.raises(DataError, match=f"has format '{format_}', version {version}; upgrade crnn or remake it"):
            load_language(path)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "words.lm"
    train_language(WORDS, "test", 4).save(path)
    arrays = load_file(path)
    metadata = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    arrays["symbols"] = arrays["symbols"].copy()
    arrays["symbols"][-1] += 1
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(DataError, match="checksum does not fit, the file is damaged"):
        load_language(path)


@pytest.mark.parametrize("children", [2**40, 2**63, 1000])
def test_numbers_that_lie_spend_no_memory(children: int, tmp_path: Path) -> None:
    path = tmp_path / "words.lm"
    language = train_language(WORDS, "test", 4)
    language.arrays["children"] = language.arrays["children"].astype(np.uint64)
    language.arrays["children"][1] = children  # 8 bytes each would be 8 TB
    language.save(path)
    with pytest.raises(DataError, match="the n-grams contradict themselves"):
        load_language(path)


def test_sizes_of_a_language_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.lm"
    language = train_language(WORDS, "test", 4)
    size = language.save(path)
    monkeypatch.setattr("crnn.decoding.language._MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=rf"language .*words\.lm: has more than {size - 1:,} bytes; expected fewer"):
        load_language(path)
    monkeypatch.undo()
    language.info["characters"] = "".join(map(chr, range(0x20000, 0x20000 + 65_537)))
    language.save(path)
    with pytest.raises(DataError, match="has 65,537 characters, expected at most 65,536"):
        load_language(path)


def test_what_cannot_be_learned_from_is_refused() -> None:
    for order in (0, MAX_ORDER + 1):
        with pytest.raises(ConfigError, match=f"order is {order}; expected 1 to {MAX_ORDER}"):
            train_language(WORDS, "test", order)
    with pytest.raises(DataError, match="there is no word to learn from"):
        train_language([(" ", 1.0)], "test")
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="expected a number above 0"):
            train_language([("word", weight)], "test")


def test_many_characters_have_shorter_n_grams() -> None:
    letters = [chr(0x4E00 + i) for i in range(600)]
    language = train_language([(a + b, 1.0) for a, b in itertools.pairwise(letters)], "test", 10, max_characters=400)
    assert len(language.characters) <= 400
    assert (len(language.characters) + 2) ** language.order < 2**63

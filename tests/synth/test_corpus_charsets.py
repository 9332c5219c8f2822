"""What is written for charsets that the shipped list is not for, and what is said about bad lists and settings."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from crnn.charset import LabelRules
from crnn.config.model import CharsetConfig
from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.corpus import Corpus, Text

CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"
DEVANAGARI = "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्ं०१२३४५६७८९"
KINDS = [name.removesuffix("_weight") for name in CorpusConfig.model_fields if name.endswith("_weight")]


def only(*kinds: str, **values: Any) -> CorpusConfig:
    """Settings with no other kinds."""
    weights = {f"{kind}_weight": float(kind in kinds) for kind in KINDS}
    return CorpusConfig.model_validate({**weights, **values})


def corpus(config: CorpusConfig | None = None, characters: str = "36", steps: int = 24, **charset: Any) -> Corpus:
    section = CharsetConfig.model_validate({"characters": characters, **charset})
    return Corpus(config or CorpusConfig(), section.charset(), section.rules(), steps)


def draws(source: Corpus, count: int, seed: int = 1) -> list[Text]:
    return [source.draw(np.random.default_rng([seed, number])) for number in range(count)]


@pytest.fixture(scope="module")
def shipped() -> Corpus:
    return corpus()


def word_file(folder: Path, *words: str, name: str = "words.txt") -> str:
    path = folder / name
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return str(path)


# ---- charsets that no list is for ----


@pytest.mark.parametrize("characters", [CYRILLIC, GREEK, ARABIC, DEVANAGARI])
def test_scripts_without_a_list_get_strings_of_their_letters(characters: str) -> None:
    source = corpus(characters=characters)
    assert "no list has a word" in " ".join(source.notes)
    seen: Counter[str] = Counter()
    for text in draws(source, 1500):
        seen.update(text.label)
        assert not any(c.isascii() and c.isalnum() for c in text.drawn)
    assert set(seen) == set(characters)


def test_combining_marks_stay_behind_letters_that_carry_them() -> None:
    vowels = set("अआइईउऊएऐओऔ")
    for text in draws(corpus(only("word", "joined", punctuation=0.0), characters=DEVANAGARI), 800):
        for before, sign in zip(" " + text.drawn, text.drawn, strict=False):
            if unicodedata.category(sign)[0] == "M":
                assert unicodedata.category(before) == "Lo", text.drawn
                assert before not in vowels, text.drawn


def test_scripts_are_not_mixed_in_a_word() -> None:
    source = corpus(characters=string.ascii_lowercase + CYRILLIC)
    assert "no list has a word with абв" in source.notes[-1]
    mixed = 0
    cyrillic = 0
    for text in draws(source, 1500):
        scripts = {unicodedata.name(c).split()[0] for c in text.label}
        mixed += len(scripts) > 1
        cyrillic += "CYRILLIC" in scripts
    assert mixed == 0
    assert 0.3 < cyrillic / 1500 < 0.75


def test_letters_that_no_list_has_are_drawn_too() -> None:
    source = corpus(characters=string.ascii_lowercase + "þ")
    assert source.notes[-1] == "no list has a word with þ: codes and single characters alone have them"
    assert Counter("".join(text.label for text in draws(source, 1500)))["þ"] >= 5


def test_words_of_another_script_come_from_the_users_list(tmp_path: Path) -> None:
    path = word_file(tmp_path, "привет", "молоко", "хлеб", "Москва", "hello")
    source = corpus(
        only("word", words=("shipped", path), punctuation=0.0), characters="".join(sorted("приветмолкхбсa"))
    )
    words = {text.label for text in draws(source, 300)}
    assert words & {"привет", "молоко", "хлеб"}
    assert "hello" not in words


def test_digits_alone_are_enough() -> None:
    source = corpus(characters=string.digits)
    found = draws(source, 800)
    assert {"number", "price", "date", "telephone"} <= {text.kind for text in found}
    assert all(text.label.isdigit() for text in found)
    assert not any(c.isalpha() for text in found for c in text.drawn)
    some = draws(corpus(characters="01"), 100)
    assert all(set(text.label) <= set("01") for text in some)


def test_other_digits_take_the_place_of_ascii_ones() -> None:
    found = draws(corpus(only("price", "date"), characters=DEVANAGARI), 100)
    assert all(set(text.label) <= set("०१२३४५६७८९") for text in found)


def test_marks_alone_are_enough() -> None:
    assert all(set(text.label) <= set("+-*/") for text in draws(corpus(characters="+-*/"), 100))


# ---- bad input ----


def test_nothing_writable_is_one_error_with_counts(shipped: Corpus) -> None:
    with pytest.raises(DataError, match=r"^200 texts in a row were refused: not_writable 200\. Check that the fonts"):
        shipped.draw(np.random.default_rng(1), frozenset())


def test_left_out_words_are_counted(tmp_path: Path) -> None:
    path = word_file(tmp_path, "the", "quick", "naïve", "þorn", "слово", "x" * 40, "it's")
    source = corpus(CorpusConfig(words=(path,)))
    note = "4 of 7 words are used; 2 have characters that labels would lose, 1 are longer than 24"
    assert source.notes[0] == f"word list {path}: {note}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no words; expected one word per line"),
        (b"\n \n\t\n", "has no words; expected one word per line"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not UTF-8 text: byte 0 is none"),
        (b"word\0list\n", "is not UTF-8 text: it has zero bytes"),
        ("wörter\n".encode("latin-1"), "is not UTF-8 text: byte 1 is none"),
        (b"one\t5\ntwo\tmany\n", "line 2: frequency 'many'; expected a number above 0"),
        (b"one\t-1\n", "line 1: frequency '-1'; expected a number above 0"),
        (b"one\tnan\n", "line 1: frequency 'nan'; expected a number above 0"),
        ("слово\nдело\n".encode(), "none of its 2 words can be a label: 2 have characters that labels would lose"),
    ],
)
def test_bad_list_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        corpus(CorpusConfig(words=("shipped", str(path))))
    assert str(error.value).startswith(f"word list {path}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_list_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match=f"word list {path}: .*Expected a text file with one word per line"):
            corpus(CorpusConfig(words=(str(path),)))


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffstation\t2\r\nkitchen\r\n".encode())
    found = {text.label for text in draws(corpus(only("word", words=(str(path),), punctuation=0.0)), 50)}
    assert found == {"station", "kitchen"}


def test_settings_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="word_ratios has 1 numbers for 2 lists in words"):
        CorpusConfig(words=("shipped", "mine.txt"), word_ratios=(1.0,))
    with pytest.raises(ValidationError, match=r"word_weight, joined_weight.* are all 0"):
        only()
    with pytest.raises(ValidationError, match=r"case_lower, case_upper.* are all 0"):
        CorpusConfig(case_lower=0.0, case_upper=0.0, case_capitalised=0.0, case_mixed=0.0)
    with pytest.raises(ValidationError, match="length_weights has no weight above 0"):
        CorpusConfig(length_weights=(0.0, 0.0))


def test_settings_against_the_charset_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing can be drawn with the charset .* corpus\.date_weight above 0"):
        corpus(only("date"), characters=string.ascii_lowercase[3:])
    with pytest.raises(ConfigError, match="no weight up to 4, the longest label that fits"):
        corpus(CorpusConfig(length_weights=(0.0, 0.0, 0.0, 0.0, 1.0)), steps=4)


def test_rules_without_a_limit_are_limited_by_the_steps() -> None:
    charset = CharsetConfig().charset()
    source = Corpus(CorpusConfig(), charset, LabelRules(case="lower", unicode="ascii", unknown="drop_character"), 6)
    assert max(len(text.label) for text in draws(source, 300)) <= 6


@pytest.mark.parametrize("characters", ["0123456789,", "0123456789,m"])
def test_a_list_of_figures_is_drawn_where_the_charset_has_no_letters_or_others(tmp_path: Path, characters: str) -> None:
    words = ("15249,119", "00021,5", "123,45")
    config = CorpusConfig(words=(word_file(tmp_path, *words),), punctuation=0.0)
    texts = [text.label for text in draws(corpus(config, characters), 300)]
    share = sum(text in words for text in texts) / len(texts)
    assert 0.4 < share < 0.8, share  # corpus.word_weight is 0.56 of what is possible
    alone = draws(corpus(only("word", words=config.words, punctuation=0.0), characters), 100)
    assert sum(text.label in words for text in alone) > 80

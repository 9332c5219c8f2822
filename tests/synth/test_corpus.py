"""Texts: shares, lengths, labels that always fit, any charset, patterns, lists alone, bad input."""

import functools
import pickle
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crnn.charset import LabelRules, min_time_steps
from crnn.config.model import CharsetConfig
from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.corpus import Corpus, Text
from crnn.synth.templates import TEMPLATES

CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"
DEVANAGARI = "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्ं०१२३४५६७८९"
KINDS = [name.removesuffix("_weight") for name in CorpusConfig.model_fields if name.endswith("_weight")]


def only(*kinds: str, **values: Any) -> CorpusConfig:
    """Settings with no other kinds, and without marks."""
    weights = {f"{kind}_weight": float(kind in kinds) for kind in KINDS}
    return CorpusConfig.model_validate({**weights, "punctuation": 0.0, **values})


@functools.lru_cache(maxsize=8)
def corpus(
    config: CorpusConfig | None = None, characters: str = "36", steps: int = 24, lines: bool = False, **charset: Any
) -> Corpus:
    section = CharsetConfig.model_validate({"characters": characters, **charset})
    return Corpus(config or CorpusConfig(), section.charset(), section.rules(), steps, lines)


def draws(source: Corpus, count: int, seed: int = 1) -> list[Text]:
    return [source.draw(np.random.default_rng([seed, number])) for number in range(count)]


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    return draws(corpus(), 6000)


def word_file(folder: Path, *words: str, name: str = "words.txt") -> str:
    path = folder / name
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return str(path)


# --- kinds and shares -------------------------------------------------------------------------------------------------


def test_kinds_have_their_shares(texts: list[Text]) -> None:
    counts = Counter(text.kind for text in texts)
    weights = {kind: getattr(CorpusConfig(), f"{kind}_weight") for kind in KINDS}
    del weights["phrase"], weights["line"]  # the 36 characters have no space
    assert set(counts) == set(weights)
    for kind, weight in weights.items():
        expected = weight / sum(weights.values())
        error = (expected * (1 - expected) / len(texts)) ** 0.5
        assert abs(counts[kind] / len(texts) - expected) < 4 * error, kind


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_every_kind_of_figure_can_be_drawn_alone(kind: str) -> None:
    found = draws(corpus(only(kind)), 60)
    assert {text.kind for text in found} == {kind}
    assert len({text.drawn for text in found}) > 15


def test_figures_are_plausible() -> None:
    for text in draws(corpus(only("time"), characters="94"), 300):
        hours, _, minutes = text.drawn.partition(":")
        if minutes[:2].isdigit():
            assert int(hours) < 24
            assert int(minutes[:2]) < 60
    assert any(any(c.isalpha() for c in text.label) for text in draws(corpus(only("code")), 50))


def test_single_characters_can_be_told() -> None:
    found = {text.drawn for text in draws(corpus(only("single")), 1000)}
    assert set(string.digits) <= found
    assert not found & set("OolI")
    assert len(found) > 50


def test_lengths_of_words_follow_the_settings() -> None:
    weights = CorpusConfig().length_weights
    found = Counter(len(text.label) for text in draws(corpus(only("word")), 4000))
    expected = np.array(weights) / sum(weights) * 4000
    measured = np.array([found[length] for length in range(1, len(weights) + 1)])
    assert measured.sum() == 4000
    kept = expected >= 5
    chi_square = ((measured - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 33  # 99.9 % of samples from these weights, for 12 degrees of freedom


def test_lengths_without_weights_are_those_of_the_lists(tmp_path: Path) -> None:
    words = word_file(tmp_path, "ab", "ac", "ad", "lengthy")
    for weights, share in (((), 0.25), ((0, 1.0, 0, 0, 0, 0, 1.0), 0.5)):
        found = Counter(len(t.label) for t in draws(corpus(only("word", words=(words,), length_weights=weights)), 800))
        assert set(found) == {2, 7}
        assert found[7] / 800 == pytest.approx(share, abs=0.07)


def test_words_beyond_the_table_of_lengths_keep_their_share(tmp_path: Path) -> None:
    codes = [f"AB{n:02}1357913579135" for n in range(100)]
    long = word_file(tmp_path, *codes)
    assert {text.drawn.upper() for text in draws(corpus(only("word", words=(long,))), 200)} <= set(codes)
    half = draws(corpus(only("word", words=("shipped", long))), 1000)
    assert sum(len(text.label) == 17 for text in half) / 1000 == pytest.approx(0.5, abs=0.06)


def test_joined_words_are_uniform_in_length() -> None:
    found = Counter(len(text.label) for text in draws(corpus(only("joined")), 3000))
    assert set(found) <= set(range(1, 20))  # apostrophes are left out, which makes some a little shorter
    assert all(found[length] > 100 for length in range(1, 18))


def test_cases_have_their_shares(tmp_path: Path) -> None:
    words = word_file(tmp_path, "station", "library", "kitchen")
    drawn = [text.drawn for text in draws(corpus(only("word", words=(words,))), 2000)]
    shapes = (str.islower, str.isupper, lambda word: word == word.capitalize())
    measured = [sum(map(shape, drawn)) / 2000 for shape in shapes]
    assert measured == pytest.approx([0.25, 0.40, 0.30], abs=0.045)


def test_punctuation_is_drawn_and_left_out_of_labels(texts: list[Text]) -> None:
    words = [text for text in texts if text.kind == "word"]
    marked = [text for text in words if any(unicodedata.category(c)[0] in "PS" for c in text.drawn)]
    assert 0.15 < len(marked) / len(words) < 0.24  # the marks of the words themselves come on top
    assert all(set(text.label) <= set(string.ascii_lowercase + string.digits) for text in texts)
    assert set(".,-'&$%!?/:()@#\"") <= set("".join(text.drawn for text in texts))


def test_charset_with_marks_keeps_them_and_draws_all_of_them() -> None:
    found = draws(corpus(characters="94"), 8_000)
    assert not set("".join(text.drawn for text in found)) & set("“”‘’«»"), "like the straight ones that labels keep"
    shown = set("".join(text.label for text in found))
    assert shown == set(string.digits + string.ascii_letters + string.punctuation)


def test_balance_favours_rare_letters() -> None:
    def share(balance: float) -> float:
        counts = Counter("".join(text.label for text in draws(corpus(only("word", balance=balance)), 1000)))
        return sum(counts[letter] for letter in "jqxz") / counts.total()

    assert share(1.0) > 1.8 * share(0.0)


def test_frequency_decides_within_a_length(tmp_path: Path) -> None:
    path = word_file(tmp_path, "often\t81", "other\t1")
    for power, expected in ((1.0, 0.988), (0.5, 0.9), (0.0, 0.5)):
        found = draws(corpus(only("word", words=(path,), frequency_power=power, balance=0.0)), 1000)
        assert sum(text.label == "often" for text in found) / 1000 == pytest.approx(expected, abs=0.06)


def test_lists_share_equally_or_by_their_ratios(tmp_path: Path) -> None:
    mine = word_file(tmp_path, "zzyzx")
    for ratios, expected in (((), 0.5), ((4.0, 1.0), 0.2)):
        found = draws(corpus(only("word", words=("shipped", mine), word_ratios=ratios, balance=0.0)), 3000)
        fives = [text.label for text in found if len(text.label) == 5]
        assert 0.14 < len(fives) / len(found) < 0.20, "the length is drawn first, whatever the lists are"
        assert fives.count("zzyzx") / len(fives) == pytest.approx(expected, abs=0.09)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "characters", ["36", "62", "94", string.ascii_lowercase + " ", "0123456789 ", CYRILLIC, GREEK, ARABIC, DEVANAGARI]
)
@pytest.mark.parametrize("steps", [24, 9])
def test_labels_are_the_rules_and_fit(characters: str, steps: int) -> None:
    section = CharsetConfig(characters=characters, max_text_length=20)
    charset, rules = section.charset(), section.rules()
    for text in draws(corpus(None, characters, steps, " " in characters, max_text_length=20), 300):
        assert text.label == rules.apply(text.drawn, charset)
        assert 1 <= len(text.label) <= min(20, steps)
        assert min_time_steps(charset.encode(text.label)) <= steps


@pytest.mark.parametrize("characters", ["36", "62", string.ascii_lowercase + "é", CYRILLIC + "abc"])
def test_labels_lose_no_letter_and_no_digit(characters: str) -> None:
    for text in draws(corpus(characters=characters), 800):
        painted = sum(c.isalnum() for c in unicodedata.normalize("NFC", text.drawn))
        assert painted == sum(c.isalnum() for c in text.label), text


def test_truncating_rules_do_not_cut_labels() -> None:
    for text in draws(corpus(max_text_length=5, truncate=True), 300):
        assert len([c for c in text.drawn if c.isalnum()]) == len(text.label) <= 5
    charset = CharsetConfig().charset()
    source = Corpus(CorpusConfig(), charset, LabelRules(case="lower", unicode="ascii", unknown="drop_character"), 6)
    assert max(len(text.label) for text in draws(source, 300)) <= 6, "the steps limit what the rules do not"


@pytest.mark.parametrize("unknown", ["drop_sample", "error"])
def test_charset_that_drops_nothing_gets_texts_of_its_own_characters(unknown: str) -> None:
    rules = CharsetConfig.model_validate({"unknown": unknown}).rules()
    source = corpus(unknown=unknown)
    assert all(rules.form(text.drawn) == text.label for text in draws(source, 500))
    assert "!" not in source.characters


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_case_of_the_charset_is_respected(change: Callable[[str], str]) -> None:
    source = corpus(characters=change(string.ascii_letters[:26]), case="keep")
    assert all(text.drawn == change(text.drawn) for text in draws(source, 300))


def test_space_makes_phrases_and_lines() -> None:
    found = draws(corpus(characters=string.ascii_lowercase + string.digits + " "), 1000)
    phrases = [text.label for text in found if text.kind == "phrase"]
    assert 0.15 < len(phrases) / 1000 < 0.25
    assert {len(label.split(" ")) for label in phrases} >= {2, 3}
    found = draws(corpus(only("line"), "95", 200, lines=True, max_text_length=80), 600)
    assert {text.kind for text in found} == {"line"}
    assert 0.05 < sum("  " in text.drawn for text in found) / 600 < 0.3
    for text in found:
        assert text.label == " ".join(text.label.split()) != "", "images may have wide spaces, labels have single ones"
        if text.drawn.isascii():
            assert text.label == " ".join(text.drawn.split())
    assert len(set("".join(text.label for text in found))) > 85


def test_text_is_a_function_of_the_generator() -> None:
    source = corpus(None, "95", 96, lines=True)
    again, other = pickle.loads(pickle.dumps(source)), corpus.__wrapped__(None, "95", 96, lines=True)
    for number in range(200):
        one, two, three = (each.draw(np.random.default_rng([7, number])) for each in (source, again, other))
        assert one == two == three
    assert {text.drawn for text in draws(corpus(), 200, seed=2)} != {t.drawn for t in draws(corpus(), 200, seed=3)}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1), letters=st.sets(st.sampled_from(string.ascii_letters + string.digits), min_size=1)
)
def test_only_writable_characters_are_drawn(seed: int, letters: set[str]) -> None:
    writable = frozenset(letters) | frozenset("eEaAtT0123456789")
    text = corpus().draw(np.random.default_rng(seed), writable)
    assert writable.issuperset(text.drawn)
    assert text == corpus().draw(np.random.default_rng(seed), writable)


@pytest.mark.parametrize("characters", ["36", ARABIC + " ", "94"])
def test_all_that_is_drawn_is_announced(characters: str) -> None:
    source = corpus(characters=characters)
    assert len(set(source.characters)) == len(source.characters)
    assert set("".join(text.drawn for text in draws(source, 800))) <= set(source.characters)


# --- charsets that no list is for -------------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", [CYRILLIC, GREEK, ARABIC, DEVANAGARI])
def test_scripts_without_a_list_get_strings_of_their_letters(characters: str) -> None:
    source = corpus(characters=characters)
    assert "no list has a word" in " ".join(source.notes)
    found = draws(source, 1000)
    assert not any(c.isascii() and c.isalnum() for text in found for c in text.drawn)
    assert set("".join(text.label for text in found)) == set(characters)


def test_combining_marks_stay_behind_letters_that_carry_them() -> None:
    for text in draws(corpus(only("word", "joined"), characters=DEVANAGARI), 800):
        for before, sign in zip(" " + text.drawn, text.drawn, strict=False):
            if unicodedata.category(sign)[0] == "M":
                assert unicodedata.category(before) == "Lo", text.drawn
                assert before not in "अआइईउऊएऐओऔ", text.drawn  # vowels


def test_scripts_are_not_mixed_in_a_word() -> None:
    source = corpus(characters=string.ascii_lowercase + CYRILLIC)
    scripts = [{unicodedata.name(c).split()[0] for c in text.label} for text in draws(source, 1000)]
    assert max(map(len, scripts)) == 1
    assert 0.3 < sum("CYRILLIC" in found for found in scripts) / 1000 < 0.75


def test_letters_that_no_list_has_are_drawn_too() -> None:
    source = corpus(characters=string.ascii_lowercase + "þ")
    assert source.notes[-1] == "no list has a word with þ: codes and single characters alone have them"
    assert Counter("".join(text.label for text in draws(source, 1500)))["þ"] >= 5


def test_words_of_another_script_come_from_the_users_list(tmp_path: Path) -> None:
    path = word_file(tmp_path, "привет", "молоко", "хлеб", "Москва", "hello")
    words = {text.label for text in draws(corpus(only("word", words=("shipped", path)), "приветмолкхбсa"), 300)}
    assert words & {"привет", "молоко", "хлеб"}
    assert "hello" not in words


def test_digits_or_marks_alone_are_enough() -> None:
    found = draws(corpus(characters=string.digits), 800)
    assert {"number", "price", "date", "telephone"} <= {text.kind for text in found}
    assert not any(c.isalpha() for text in found for c in text.drawn)
    for characters in ("01", "+-*/"):
        assert all(set(text.label) <= set(characters) for text in draws(corpus(characters=characters), 100))
    found = draws(corpus(only("price", "date"), characters=DEVANAGARI), 100)
    assert all(set(text.label) <= set("०१२३४५६७८९") for text in found)


@pytest.mark.parametrize("characters", ["0123456789,", "0123456789,m"])
def test_a_list_of_figures_is_drawn_where_the_charset_has_no_letters_or_others(tmp_path: Path, characters: str) -> None:
    words = ("15249,119", "00021,5", "123,45")
    path = word_file(tmp_path, *words)
    texts = draws(corpus(CorpusConfig(words=(path,), punctuation=0.0), characters), 300)
    assert 0.4 < sum(text.label in words for text in texts) / 300 < 0.8  # corpus.word_weight is 0.56 of the possible
    alone = draws(corpus(only("word", words=(path,)), characters), 100)
    assert sum(text.label in words for text in alone) > 80


# --- corpus.pattern ---------------------------------------------------------------------------------------------------


def pattern(expression: str, characters: str = "95") -> Corpus:
    return corpus(CorpusConfig(pattern=expression), characters, 200, max_text_length=60)


@pytest.mark.parametrize(
    "expression",
    [
        r"\d{2}\.\d{2}\.\d{4}", "[A-Z]{2}-[0-9]{4}(-[xyz])?", "(Mon|Tues|Wednes)day", r"\w+@\w+\.(com|org)",
        r"a*b\sc{2,}[^a-zA-Z0-9 ]", "^[^0-9]x?(?:1|22|333)+?$", ".{3,5}x",
    ],
)  # fmt: skip
def test_texts_match_their_pattern(expression: str) -> None:
    source = pattern(expression)
    texts = draws(source, 200)
    for text in texts:
        assert re.fullmatch(expression, text.drawn), text
        assert text.kind == "pattern"
        assert text.label == " ".join(text.drawn.split())
        assert set(text.drawn) <= set(source.characters)
    assert len({text.drawn for text in texts}) >= 3


def test_choices_and_repeats_are_all_drawn_about_as_often() -> None:
    found = Counter(text.drawn for text in draws(pattern("(a|b|c)d{0,2}"), 1800))
    assert len(found) == 9
    assert all(140 < count < 260 for count in found.values())
    lengths = {len(text.drawn) for text in draws(pattern("a*"), 300)}
    assert lengths == set(range(1, 9)), "up to 8 more than the least; nothing at all cannot be drawn"


def test_a_pattern_is_about_what_is_drawn() -> None:
    source = pattern("[A-Z]{3}-[0-9]{2}", "36")  # whose labels have no capitals and no hyphen
    for text in draws(source, 50):
        assert re.fullmatch("[A-Z]{3}-[0-9]{2}", text.drawn)
        assert text.label == text.drawn.lower().replace("-", "")
    assert set(source.characters) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789")
    # A dot is what labels can have.
    assert all(text.drawn == text.label for text in draws(pattern(".{9}", "36"), 200))


@pytest.mark.parametrize(
    ("characters", "expression", "said"),
    [
        ("95", "[0-9", "no regular expression: unterminated character set"),
        ("95", "(?=a)b", r"cannot draw assert"),
        ("95", r"a\b", r"cannot draw at;"),
        ("95", "a{1001}", "1001 times; expected at most 1000"),
        ("0123456789", "[0-9]k", "'k' is not in the charset '0123456789'"),
        ("95", "[а-я]", "one of its sets is not in the charset"),
    ],
)
def test_what_cannot_be_drawn_is_refused(characters: str, expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^corpus\.pattern .*{said}"):
        pattern(expression, characters)


def test_patterns_whose_texts_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="200 texts in a row were refused: too_long 200"):
        draws(pattern("[0-9]{70}"), 1)
    # Some fit: those are drawn.
    assert all(len(text.label) <= 60 for text in draws(pattern("[0-9]{50,70}"), 100))


# --- corpus.only_words ------------------------------------------------------------------------------------------------


def test_words_are_drawn_as_they_are_and_as_often_as_the_list_says(tmp_path: Path) -> None:
    words = {"Total": 16.0, "GST 6%": 4.0, "x": 1.0, "WVWZZZ1JZXW000001": 4.0}
    path = word_file(tmp_path, *(f"{word}\t{frequency}" for word, frequency in words.items()))
    for power in (0.5, 1.0, 0.0):
        source = corpus(CorpusConfig(only_words=True, words=(path,), frequency_power=power), "95", 200)
        found = Counter((text.drawn, text.label, text.kind) for text in draws(source, 2000))
        weights = {word: frequency**power for word, frequency in words.items()}
        assert {key: count / 2000 for key, count in found.items()} == pytest.approx(
            {(word, word, "listed"): weight / sum(weights.values()) for word, weight in weights.items()}, abs=0.045
        )
    assert set(source.characters) == set("".join(words)), "fonts need no other characters"


def test_lists_have_their_shares_whatever_their_lengths(tmp_path: Path) -> None:
    one = word_file(tmp_path, *(f"{n:03}" for n in range(50)), name="one.txt")
    two = word_file(tmp_path, "abcdefgh", "ab", name="two.txt")
    texts = draws(corpus(CorpusConfig(only_words=True, words=(one, two), word_ratios=(1.0, 3.0))), 2000)
    assert sum(text.drawn.isalpha() for text in texts) / 2000 == pytest.approx(0.75, abs=0.04)
    assert sum(text.drawn == "ab" for text in texts) / 2000 == pytest.approx(0.375, abs=0.04)


def test_words_that_labels_would_lose_are_left_out(tmp_path: Path) -> None:
    path = word_file(tmp_path, "Ab-1", "éa", "naïve 語")
    source = corpus(CorpusConfig(only_words=True, words=(path,)))
    assert {(text.drawn, text.label) for text in draws(source, 100)} == {("Ab-1", "ab1"), ("éa", "ea")}
    assert any("2 of 3 words are used" in note for note in source.notes)
    # In another case it would fit, but not as it is.
    with pytest.raises(DataError, match="none of its 1 words can be a label"):
        corpus(CorpusConfig(only_words=True, words=(word_file(tmp_path, "AB"),)), "ab", case="keep")
    with pytest.raises(ConfigError, match=r"corpus\.only_words: no list has a word for Charset"):
        corpus(CorpusConfig(only_words=True), "語漢")


# --- bad input --------------------------------------------------------------------------------------------------------


def test_nothing_writable_is_one_error_with_counts() -> None:
    with pytest.raises(DataError, match=r"^200 texts in a row were refused: not_writable 200\."):
        corpus().draw(np.random.default_rng(1), frozenset())


def test_left_out_words_are_counted(tmp_path: Path) -> None:
    path = word_file(tmp_path, "the", "quick", "naïve", "þorn", "слово", "x" * 40, "it's")
    note = "4 of 7 words are used; 2 have characters that labels would lose, 1 are longer than 24"
    assert corpus(CorpusConfig(words=(path,))).notes[0] == f"word list {path}: {note}"
    with pytest.raises(DataError, match=r"words\.txt: none of its 2 words can be a label: 2 have characters"):
        corpus(CorpusConfig(words=("shipped", word_file(tmp_path, "слово", "дело"))), "0123456789abc")


def test_settings_that_leave_nothing_are_refused() -> None:
    for values in (
        {"words": ("shipped", "mine.txt"), "word_ratios": (1.0,)},
        {f"{kind}_weight": 0.0 for kind in KINDS},
        {"case_lower": 0.0, "case_upper": 0.0, "case_capitalised": 0.0, "case_mixed": 0.0},
        {"only_words": True, "pattern": "a"},
    ):
        with pytest.raises(ValidationError, match=next(iter(values))):
            CorpusConfig.model_validate(values)
    with pytest.raises(ConfigError, match=r"nothing can be drawn with .* corpus\.date_weight above 0"):
        corpus(only("date"), characters=string.ascii_lowercase[3:])
    with pytest.raises(ConfigError, match="all 0 up to 4, the longest label that fits"):
        corpus(CorpusConfig(length_weights=(0.0, 0.0, 0.0, 0.0, 1.0)), steps=4)

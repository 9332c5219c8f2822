"""What is written: shares, lengths, labels that always fit, any charset, bad input."""

from __future__ import annotations

import pickle
import string
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import min_time_steps
from crnn.config.model import CharsetConfig
from crnn.config.synth import CorpusConfig
from crnn.synth.corpus import Corpus, Text
from crnn.synth.templates import TEMPLATES

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


@pytest.fixture(scope="module")
def texts(shipped: Corpus) -> list[Text]:
    return draws(shipped, 6000)


def word_file(folder: Path, *words: str, name: str = "words.txt") -> str:
    path = folder / name
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return str(path)


# ---- what is drawn ----


def test_kinds_have_their_shares(texts: list[Text]) -> None:
    counts = Counter(text.kind for text in texts)
    weights = {kind: getattr(CorpusConfig(), f"{kind}_weight") for kind in KINDS}
    del weights["phrase"], weights["line"]  # the 36 characters have no space
    assert set(counts) == set(weights)
    total = sum(weights.values())
    for kind, weight in weights.items():
        expected = weight / total
        error = (expected * (1 - expected) / len(texts)) ** 0.5
        assert abs(counts[kind] / len(texts) - expected) < 4 * error, kind


def test_lengths_of_words_follow_the_settings() -> None:
    weights = CorpusConfig().length_weights
    found = Counter(len(text.label) for text in draws(corpus(only("word", punctuation=0.0)), 4000))
    expected = np.array(weights) / sum(weights) * 4000
    measured = np.array([found[length] for length in range(1, len(weights) + 1)])
    assert measured.sum() == 4000
    kept = expected >= 5
    chi_square = ((measured - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 33  # 99.9 % of samples from these weights, for 12 degrees of freedom


def test_lengths_without_weights_are_the_dictionarys(tmp_path: Path) -> None:
    words = word_file(tmp_path, *[f"a{letter}" for letter in "bcd"], "lengthy")
    found = Counter(
        len(text.label) for text in draws(corpus(only("word", words=(words,), length_weights=(), punctuation=0.0)), 800)
    )
    assert set(found) == {2, 7}
    assert 0.19 < found[7] / 800 < 0.31
    by_length = only("word", words=(words,), length_weights=(0, 1.0, 0, 0, 0, 0, 1.0), punctuation=0.0)
    assert 0.43 < Counter(len(t.label) for t in draws(corpus(by_length), 800))[7] / 800 < 0.57


def test_joined_words_are_uniform_in_length() -> None:
    found = Counter(len(text.label) for text in draws(corpus(only("joined", words=("shipped",))), 3000))
    assert set(found) <= set(range(1, 20))  # apostrophes are left out, which makes some a little shorter
    assert all(found[length] > 100 for length in range(1, 18))


@pytest.mark.parametrize(("form", "share"), [("lower", 0.25), ("upper", 0.40), ("capitalised", 0.30), ("mixed", 0.05)])
def test_cases_have_their_shares(tmp_path: Path, form: str, share: float) -> None:
    words = word_file(tmp_path, "station", "library", "kitchen")
    drawn = [t.drawn for t in draws(corpus(only("word", words=(words,), punctuation=0.0)), 2000)]
    shapes = {"lower": str.islower, "upper": str.isupper, "capitalised": lambda word: word == word.capitalize()}
    if form in shapes:
        measured = sum(shapes[form](word) for word in drawn) / len(drawn)
    else:
        measured = sum(not any(shape(word) for shape in shapes.values()) for word in drawn) / len(drawn)
    assert abs(measured - share) < 0.045


def test_punctuation_is_drawn_and_left_out_of_labels(texts: list[Text]) -> None:
    words = [text for text in texts if text.kind == "word"]
    marked = [text for text in words if any(unicodedata.category(c)[0] in "PS" for c in text.drawn)]
    assert 0.15 < len(marked) / len(words) < 0.24  # the marks of the words themselves come on top
    assert all(set(text.label) <= set(string.ascii_lowercase + string.digits) for text in texts)
    seen = set("".join(text.drawn for text in texts))
    assert set(".,-'&$%!?/:()@#\"") <= seen


def test_charset_with_marks_keeps_them_and_draws_all_of_them() -> None:
    seen: Counter[str] = Counter()
    for text in draws(corpus(characters="94"), 12_000):
        seen.update(text.label)
        assert not set(text.drawn) & set("“”‘’«»"), "cannot be told from the straight ones that labels keep"
    assert set(seen) == set(string.digits + string.ascii_letters + string.punctuation)


def test_all_letters_and_digits_are_frequent(texts: list[Text]) -> None:
    counts = Counter("".join(text.label for text in texts))
    total = counts.total()
    rarest = min(string.ascii_lowercase + string.digits, key=counts.__getitem__)
    assert counts[rarest] / total > 0.002, rarest
    assert sum(counts[digit] for digit in string.digits) / total > 0.05


def test_balance_favours_rare_letters() -> None:
    def share(balance: float) -> float:
        config = only("word", balance=balance, punctuation=0.0)
        counts = Counter("".join(text.label for text in draws(corpus(config), 1500)))
        return sum(counts[letter] for letter in "jqxz") / counts.total()

    assert share(1.0) > 1.8 * share(0.0)


def test_frequency_decides_within_a_length(tmp_path: Path) -> None:
    path = word_file(tmp_path, "often\t81", "other\t1")
    for power, low, high in ((1.0, 0.97, 1.0), (0.5, 0.86, 0.94), (0.0, 0.44, 0.56)):
        config = only("word", words=(path,), frequency_power=power, punctuation=0.0, balance=0.0)
        share = sum(text.label == "often" for text in draws(corpus(config), 1000)) / 1000
        assert low <= share <= high


def test_lists_share_equally_or_by_their_ratios(tmp_path: Path) -> None:
    mine = word_file(tmp_path, "zzyzx")
    for ratios, expected in (((), 0.5), ((4.0, 1.0), 0.2)):
        config = only("word", words=("shipped", mine), word_ratios=ratios, punctuation=0.0, balance=0.0)
        found = [text.label for text in draws(corpus(config), 3000)]
        fives = [label for label in found if len(label) == 5]
        assert 0.14 < len(fives) / len(found) < 0.20, "the length is drawn first, whatever the lists are"
        assert abs(fives.count("zzyzx") / len(fives) - expected) < 0.09


def test_figures_are_plausible() -> None:
    for text in draws(corpus(only("time"), characters="94"), 300):
        hours, _, minutes = text.drawn.partition(":")
        if minutes[:2].isdigit():
            assert int(hours) < 24
            assert int(minutes[:2]) < 60
    assert all(len(text.label) <= 24 for text in draws(corpus(only("telephone")), 100))
    assert any(any(c.isalpha() for c in text.label) for text in draws(corpus(only("code")), 50))


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_every_kind_of_figure_can_be_drawn_alone(kind: str) -> None:
    found = draws(corpus(only(kind)), 60)
    assert {text.kind for text in found} == {kind}
    assert len({text.drawn for text in found}) > 15


def test_single_characters_can_be_told() -> None:
    found = {text.drawn for text in draws(corpus(only("single")), 1500)}
    assert set(string.digits) <= found
    assert not found & set("OolI")
    assert len(found) > 50


# ---- labels ----


@pytest.mark.parametrize(
    "characters", ["36", "62", "94", string.ascii_lowercase + " ", CYRILLIC, GREEK, ARABIC, DEVANAGARI]
)
@pytest.mark.parametrize("steps", [24, 9])
def test_labels_are_the_rules_and_fit(characters: str, steps: int) -> None:
    section = CharsetConfig(characters=characters, max_text_length=20)
    charset, rules = section.charset(), section.rules()
    for text in draws(Corpus(CorpusConfig(), charset, rules, steps), 400):
        assert text.label == rules.apply(text.drawn, charset)
        assert 1 <= len(text.label) <= min(20, steps)
        assert min_time_steps(charset.encode(text.label)) <= steps


@pytest.mark.parametrize(
    "characters", ["36", "62", string.ascii_uppercase, string.ascii_lowercase + "é", CYRILLIC + "abc"]
)
def test_labels_lose_no_letter_and_no_digit(characters: str) -> None:
    for text in draws(corpus(characters=characters), 1500):
        painted = sum(c.isalnum() for c in unicodedata.normalize("NFC", text.drawn))
        assert painted == sum(c.isalnum() for c in text.label), text


def test_truncating_rules_do_not_cut_labels() -> None:
    for text in draws(corpus(max_text_length=5, truncate=True), 300):
        assert len([c for c in text.drawn if c.isalnum()]) == len(text.label) <= 5


@pytest.mark.parametrize("unknown", ["drop_sample", "error"])
def test_charset_that_drops_nothing_gets_texts_of_its_own_characters(unknown: str) -> None:
    section = CharsetConfig.model_validate({"unknown": unknown})
    source = corpus(unknown=unknown)
    for text in draws(source, 500):
        assert section.rules().form(text.drawn) == text.label
    assert "!" not in source.characters


def test_space_makes_lines() -> None:
    source = corpus(characters=string.ascii_lowercase + string.digits + " ")
    lines = [text for text in draws(source, 1500) if text.kind == "phrase"]
    assert 0.15 < len(lines) / 1500 < 0.25
    assert {len(text.label.split(" ")) for text in lines} >= {2, 3}
    assert all(text.label == " ".join(text.label.split()) and len(text.label) <= 24 for text in lines)


def test_case_of_the_charset_is_respected() -> None:
    upper = corpus(characters=string.ascii_uppercase, case="keep")
    assert all(text.drawn == text.drawn.upper() for text in draws(upper, 300))
    lower = corpus(characters=string.ascii_lowercase, case="keep")
    assert all(text.drawn == text.drawn.lower() for text in draws(lower, 300))


# ---- the same again ----


def test_text_is_a_function_of_the_generator(shipped: Corpus) -> None:
    again = pickle.loads(pickle.dumps(shipped))
    other = corpus()
    for number in range(200):
        one, two, three = (source.draw(np.random.default_rng([7, number])) for source in (shipped, again, other))
        assert one == two == three
    assert (
        len({text.drawn for text in draws(shipped, 200, seed=2)} ^ {t.drawn for t in draws(shipped, 200, seed=3)}) > 200
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1), letters=st.sets(st.sampled_from(string.ascii_letters + string.digits), min_size=1)
)
def test_only_writable_characters_are_drawn(shipped: Corpus, seed: int, letters: set[str]) -> None:
    writable = frozenset(letters) | frozenset("eEaAtT0123456789")
    text = shipped.draw(np.random.default_rng(seed), writable)
    assert writable.issuperset(text.drawn)
    assert text == shipped.draw(np.random.default_rng(seed), writable)


def test_all_that_is_drawn_is_announced(shipped: Corpus, texts: list[Text]) -> None:
    for source, found in ((shipped, texts), (corpus(characters=ARABIC + " "), None), (corpus(characters="94"), None)):
        allowed = set(source.characters)
        assert len(allowed) == len(source.characters)
        for text in found or draws(source, 800):
            assert allowed.issuperset(text.drawn), text


def test_writable_may_be_a_question(shipped: Corpus) -> None:
    text = shipped.draw(np.random.default_rng(3), lambda drawn: drawn.isdigit())
    assert text.drawn.isdigit()
    assert shipped.refused["not_writable"] > 0

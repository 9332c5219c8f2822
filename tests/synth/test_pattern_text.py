"""``corpus.pattern`` and ``corpus.only_words``: texts of one's own and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from crnn.config.model import CharsetConfig
from crnn.config.run import Config
from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.batches import SynthBatches
from crnn.synth.corpus import Corpus, Text

Configs = Callable[..., Config]

CAPITALS = {"case_upper": 1.0, "case_lower": 0.0, "case_capitalised": 0.0, "case_mixed": 0.0}


def corpus(characters: str = "95", steps: int = 100, length: int = 60, **values: Any) -> Corpus:
    section = CharsetConfig(characters=characters, max_text_length=length)
    return Corpus(CorpusConfig.model_validate(values), section.charset(), section.rules(), steps)


def draws(source: Corpus, count: int) -> list[Text]:
    return [source.draw(np.random.default_rng([1, number])) for number in range(count)]


def word_file(folder: Path, *lines: str, name: str = "words.txt") -> str:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


# ---- pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "[0-9]{10}",
        r"\d{2}\.\d{2}\.\d{4}",
        "[A-Z]{2}-[0-9]{4}(-[xyz])?",
        "(Mon|Tues|Wednes)day",
        r"\w+@\w+\.(com|org)",
        r"a*b\sc{2,}[^a-zA-Z0-9 ]",
        "^[^0-9]x?(?:1|22|333)+?$",
        ".{3,5}x",
    ],
)
def test_texts_match_their_pattern(pattern: str) -> None:
    source = corpus(pattern=pattern)
    texts = draws(source, 300)
    for text in texts:
        assert re.fullmatch(pattern, text.drawn), text
        assert text.kind == "pattern"
        assert text.label == " ".join(text.drawn.split())
        assert set(text.drawn) <= set(source.characters)
    assert len({text.drawn for text in texts}) >= 3


def test_choices_and_repeats_are_all_drawn_about_as_often() -> None:
    found = Counter(text.drawn for text in draws(corpus(pattern="(a|b|c)d{0,2}"), 1800))
    assert len(found) == 9
    assert all(140 < count < 260 for count in found.values())
    lengths = {len(text.drawn) for text in draws(corpus(pattern="a*"), 300)}
    assert lengths == set(range(1, 9)), "up to 8 more than the least; nothing at all cannot be drawn"
    assert {len(text.drawn) for text in draws(corpus(pattern="a{3,}"), 300)} == set(range(3, 12))


def test_a_pattern_is_about_what_is_drawn() -> None:
    """Labels of 36 characters have no capitals and no hyphen; images do."""
    source = corpus("36", pattern="[A-Z]{3}-[0-9]{2}")
    for text in draws(source, 50):
        assert re.fullmatch("[A-Z]{3}-[0-9]{2}", text.drawn)
        assert text.label == text.drawn.lower().replace("-", "")
    assert set(source.characters) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789")
    # A dot is what labels can have.
    assert set("".join(text.drawn for text in draws(corpus("36", pattern=".{9}"), 200))) <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789"
    )


@pytest.mark.parametrize(
    ("characters", "pattern", "said"),
    [
        ("95", "[0-9", r"^corpus\.pattern '\[0-9' is no regular expression: unterminated character set at position 0"),
        ("95", "(?=a)b", r"^corpus\.pattern .* has what cannot be drawn \(assert\); expected characters, sets"),
        ("95", r"a\b", r"^corpus\.pattern .* has what cannot be drawn \(at\)"),
        ("95", "a{1001}", r"^corpus\.pattern .* repeats 1001 times; expected at most 1000"),
        ("0123456789", "[0-9]k", r"^corpus\.pattern .*: 'k' is not in the charset '0123456789'; expected .*"),
        ("95", "[а-я]", r"^corpus\.pattern .*: one of its sets is not in the charset"),
        ("36", "a語", r"^corpus\.pattern .*: '語' is not in the charset .*charset\.characters"),
    ],
)
def test_what_is_no_pattern_is_said_in_one_line(characters: str, pattern: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        corpus(characters, pattern=pattern)
    assert "\n" not in str(caught.value)


def test_patterns_whose_texts_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="200 texts in a row were refused: too_long 200"):
        corpus(pattern="[0-9]{70}").draw(np.random.default_rng(1))
    # Some fit: those are drawn.
    assert all(len(text.label) <= 60 for text in draws(corpus(pattern="[0-9]{50,70}"), 100))


# ---- only_words


def test_words_are_drawn_as_they_are_and_as_often_as_the_list_says(tmp_path: Path) -> None:
    words = {"Total": 16.0, "GST 6%": 4.0, "x": 1.0, "WVWZZZ1JZXW000001": 4.0}
    path = word_file(tmp_path, *(f"{word}\t{frequency}" for word, frequency in words.items()))
    for power in (0.5, 1.0, 0.0):
        source = corpus(only_words=True, words=(path,), frequency_power=power)
        found = Counter((text.drawn, text.label, text.kind) for text in draws(source, 2000))
        assert {drawn for drawn, _, _ in found} == set(words)
        weights = {word: frequency**power for word, frequency in words.items()}
        for (drawn, label, kind), count in found.items():
            assert (label, kind) == (drawn, "listed")
            assert count / 2000 == pytest.approx(weights[drawn] / sum(weights.values()), abs=0.045)
    assert set(source.characters) == set("".join(words)), "fonts need no other characters"


def test_lists_have_their_shares_whatever_their_lengths(tmp_path: Path) -> None:
    one = word_file(tmp_path, *(f"{n:03}" for n in range(50)), name="one.txt")
    two = word_file(tmp_path, "abcdefgh", "ab", name="two.txt")
    source = corpus(only_words=True, words=(one, two), word_ratios=(1.0, 3.0))
    texts = draws(source, 2000)
    assert sum(text.drawn.isalpha() for text in texts) / 2000 == pytest.approx(0.75, abs=0.04)
    assert sum(text.drawn == "ab" for text in texts) / 2000 == pytest.approx(0.375, abs=0.04)


def test_labels_follow_the_charset_and_words_that_they_would_lose_are_left_out(tmp_path: Path) -> None:
    path = word_file(tmp_path, "Ab-1", "éa", "naïve 語")
    source = corpus("36", only_words=True, words=(path,))
    assert {(text.drawn, text.label) for text in draws(source, 100)} == {("Ab-1", "ab1"), ("éa", "ea")}
    assert any("2 of 3 words are used" in note for note in source.notes)
    assert any("no image shows them" in note for note in source.notes)
    # In another case it would fit, but not as it is.
    section = CharsetConfig(characters="ab", case="keep")
    settings = CorpusConfig(only_words=True, words=(word_file(tmp_path, "AB"),))
    with pytest.raises(DataError, match="none of its 1 words can be a label"):
        Corpus(settings, section.charset(), section.rules(), 24)
    with pytest.raises(ConfigError, match=r"corpus\.only_words: no list has a word for the charset"):
        corpus("語漢", only_words=True)


def test_both_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="only_words is on and pattern is 'a'; expected one of them"):
        CorpusConfig(only_words=True, pattern="a")


# ---- words longer than the table of lengths


def test_words_beyond_the_table_of_lengths_keep_their_share(tmp_path: Path) -> None:
    weights = {name: 0.0 for name in CorpusConfig.model_fields if name.endswith("_weight")}
    plain: dict[str, Any] = {**weights, "word_weight": 1.0, "punctuation": 0.0, "case_mixed": 0.0}
    codes = [f"AB{n:02}1357913579135" for n in range(100)]
    long = word_file(tmp_path, *codes, name="codes.txt")
    assert {text.drawn.upper() for text in draws(corpus(words=(long,), **plain), 200)} <= set(codes)
    half = corpus(words=("shipped", long), **plain)
    assert sum(len(text.label) == 17 for text in draws(half, 1000)) / 1000 == pytest.approx(0.5, abs=0.06)
    # The shipped list alone is drawn by the table, which ends at 15.
    assert max(len(text.label) for text in draws(corpus(**plain), 3000)) <= 15


# ---- as batches


@pytest.mark.parametrize("resize", ["squash", "keep_ratio"])
@pytest.mark.parametrize("what", ["only_words", "pattern", "long"])
def test_batches_have_nothing_else(
    synth_config: Configs, tmp_path: Path, one_thread: None, resize: str, what: str
) -> None:
    codes = [f"AB{n:02}1357913579135" for n in range(20)]
    path = word_file(tmp_path, *codes, name="codes.txt")
    weights = {name: 0.0 for name in CorpusConfig.model_fields if name.endswith("_weight")}
    values: dict[str, Any] = {
        "only_words": {"only_words": True, "words": [path]},
        "pattern": {"pattern": "AB[0-9]{15}"},
        "long": {**weights, "word_weight": 1.0, "words": [path], "punctuation": 0.0, **CAPITALS},
    }  # fmt: skip
    config = synth_config(
        charset={"characters": "95", "max_text_length": 30},
        image={"resize": resize, "image_width": 100, "max_width": 400},
        corpus=values[what],
    )
    source = SynthBatches(config)
    charset = config.charset.charset()
    for number in range(6):
        batch = source[number]
        for target, length in zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True):
            label = charset.decode(target[:length])
            assert re.fullmatch("AB[0-9]{15}", label) if what == "pattern" else label in codes

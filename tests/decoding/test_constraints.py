"""Allowed characters and patterns: their meaning, and that every decoder finds the best text that they leave."""

import itertools
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.decoding.beam import beam_search
from crnn.decoding.constraints import Pattern, allowed_classes, restrict
from crnn.decoding.ctc import decode_greedy
from crnn.errors import CharsetError, ConfigError


def rules_of(characters):
    return CharsetConfig(characters=characters).rules()


def allowed_text(characters, rules=None, **lists):
    charset = Charset(characters)
    mask = allowed_classes(charset, rules or rules_of(characters), **lists)
    assert mask.shape == (charset.num_classes,)
    assert mask[charset.blank]
    return charset.decode(np.flatnonzero(mask[:-1]).tolist())


@pytest.mark.parametrize(
    ("characters", "lists", "expected"),
    [
        ("abc1", {}, "abc1"),
        ("abc1", {"allow": "1a"}, "a1"),
        ("abc1", {"block": "b1"}, "ac"),
        ("abc1", {"allow": "abc", "block": "c"}, "ab"),
        ("abc1", {"allow": "AB"}, "ab"),
        ("abc1", {"block": "AB"}, "c1"),
        ("abAB", {"allow": "A"}, "A"),
        ("ABC", {"allow": "a"}, "A"),
        ("abc1", {"block": "?-é"}, "abc1"),  # the network cannot write them anyhow
        ("ae", {"allow": "é"}, "e"),
        ("ASÄ", {"allow": "ß"}, "S"),
        ("a b", {"allow": "a\t"}, "a "),
        ("字a", {"block": "字"}, "a"),
    ],
)
def test_what_lists_leave(characters, lists, expected):
    assert allowed_text(characters, **lists) == expected


def test_rules_of_a_model_may_be_others():
    assert allowed_text("ab", rules=LabelRules(), block="A") == "ab"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"allow": "ab?"}, r"allowed is '\?', which is not in the charset 'ab'"),
        ({"allow": ""}, "leave no character"),
        ({"block": "ab"}, "leave no character of the charset 'ab'"),
        ({"allow": "a", "block": "A"}, "leave no character"),
    ],
)
def test_lists_that_leave_nothing(lists, message):
    with pytest.raises(CharsetError, match=message):
        allowed_text("ab", **lists)


@settings(max_examples=40)
@given(data=st.data())
def test_every_text_of_allowed_characters_and_no_other(small_log_probs, data, path_sums):
    log_probs = data.draw(small_log_probs)
    num_classes = log_probs.shape[2]
    allowed = np.array([*data.draw(st.lists(st.booleans(), min_size=num_classes - 1, max_size=num_classes - 1)), True])
    restricted = restrict(log_probs, allowed)
    for sample, ours, greedy in zip(log_probs, beam_search(restricted, 1000), decode_greedy(restricted), strict=True):
        sums = {t: p for t, (p, _) in path_sums(sample).items() if p > 0.0 and allowed[list(t)].all()}
        assert {h.ids for h in ours} == set(sums)
        for text, score, _ in ours:
            assert score == pytest.approx(math.log(sums[text]), abs=1e-12)  # of the network, not renormalised
        assert greedy.ids in sums or greedy.score == -math.inf


@pytest.mark.parametrize(
    ("characters", "expression", "matching"),
    [
        ("abc", "[A-B]", {"a", "b"}),
        ("ABC", "[^a]", {"B", "C"}),
        ("abAB", "[A-Z]", {"A", "B"}),
        ("aeo", "[éö]", {"e", "o"}),
        ("SAÄ", "ß?|a", {"", "SS", "A"}),
        ("a b", r"a\sb", {"a b"}),
        ("a-]", r"[]\-]\-", {"]-", "--"}),
        ("字母", "[一-龥]{2}", {"字母", "母字", "字字", "母母"}),
        ("ab", r"(a|b)\1", {"aa", "bb"}),
        ("ab", "^a$|", {"a", ""}),
    ],
)
def test_patterns_mean_by_letters_what_labels_mean(characters, expression, matching):
    pattern = Pattern(expression, Charset(characters), rules_of(characters))
    every = ["".join(t) for length in range(4) for t in itertools.product(characters, repeat=length)]
    assert {text for text in every if pattern.matches(text)} == matching
    assert {text for text in every if pattern.begins(text)} >= {t[:k] for t in matching for k in range(len(t) + 1)}


def test_a_pattern_does_not_hang(monkeypatch):
    monkeypatch.setattr("crnn.decoding.constraints._TIMEOUT_S", 0.05)
    pattern = Pattern("(?:(a|b|ab|ba|aa)*)*c\\1d|(a|aa|b)+(?<!a)", Charset("abc"), LabelRules(case="lower"))
    with pytest.raises(ConfigError, match=r"pattern '.*': takes too long: .*expected no repeats of repeats"):
        pattern.begins("a" * 5000 + "c")


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("a" * 10_001, "10,001 characters"),
        ("|".join(f"{n:04d}" for n in range(2001)), "10,004 characters"),
        ("((a{99}){99}b){99}", "970,398 parts"),
        ("(?:ab|[a-z]{3}){2001}", "14,007 parts"),
        ("((((.{9999999999999}){99999}){99999}){99999}){99999}", "1,000,000,000 parts"),
        ("a" * 1001, "1,001 in a row"),  # the package ``regex`` takes the cube of that as a time
        ("ab|" + "[a](?:a)" * 200 + "|b", "1,200 in a row"),
    ],
    ids=lambda value: value[:20],
)
def test_the_size_of_a_pattern_is_bounded(expression, parts):
    message = (
        rf"pattern '.{{1,100}}: has .*{parts}.*; expected at most 10,000, and 1,000 parts in a row\. Shorten it, or"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        Pattern(expression, Charset("ab0123456789"), LabelRules())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "expression",
    ["[a-z]{9}" * 100, "(ab){4999}", "(?:b|a){1,1000000}", "(?:a|b)+" * 50, "|".join(["ab"] * 3000), "a?" * 300],
)
def test_large_patterns_that_are_taken(expression):
    assert Pattern(expression, Charset("ab"), LabelRules()).begins("")


def test_the_time_of_all_texts_is_bounded(monkeypatch):
    clock = itertools.count(step=0.25)  # a quarter of a second for each
    pattern = Pattern("[ab]*", Charset("ab"), LabelRules())
    monkeypatch.setattr("crnn.decoding.constraints.time.thread_time", lambda: next(clock))
    assert pattern.begins("a")
    assert pattern.begins("ab")
    assert pattern.begins("a")  # known
    assert pattern.matches("a")
    assert pattern.matches("ab")
    message = r"takes too long: \d texts in 1\.3 s; expected no repeats of repeats"
    with pytest.raises(ConfigError, match=message):
        pattern.matches("abb")


def test_a_pattern_of_a_millisecond_a_text_is_used_for_as_long_as_one_likes(monkeypatch):
    clock = itertools.count(step=0.001)
    pattern = Pattern("[ab]*", Charset("ab"), LabelRules())
    monkeypatch.setattr("crnn.decoding.constraints.time.thread_time", lambda: next(clock))
    assert all(pattern.matches("abb") for _ in range(5000))


def test_a_pickled_pattern_is_the_same():
    pattern = pickle.loads(pickle.dumps(Pattern(re.compile("[A-Z]b", re.I), Charset("abc"), LabelRules(case="lower"))))
    assert pattern.matches("cb")
    assert pattern.begins("c")
    assert not pattern.begins("cc")


@pytest.mark.parametrize(
    ("compiled", "characters", "yes", "no"),
    [
        (re.compile("a.b", re.DOTALL | re.IGNORECASE), "abAB", ["aAb", "ABB"], ["ab"]),
        (re.compile("(?i)ab"), "abAB", ["aB"], ["aa"]),
        (re.compile(r"a \  b # end", re.VERBOSE), "ab ", ["a b"], ["ab"]),
        (re.compile(r"\w+", re.ASCII), "aж", ["a"], ["ж"]),
    ],
    ids=str,
)
def test_a_compiled_pattern_keeps_its_flags(compiled, characters, yes, no):
    pattern = Pattern(compiled, Charset(characters), LabelRules())
    assert all(map(pattern.matches, yes))
    assert not any(map(pattern.matches, no))


@pytest.mark.parametrize("compiled", [re.compile(b"a"), re.compile("a", re.DEBUG)])
def test_flags_that_cannot_be_kept(compiled):
    with pytest.raises(ConfigError, match="expected an expression for texts, with no flags but A, I, M, S and X"):
        Pattern(compiled, Charset("a"), LabelRules())

"""Patterns against Python's own regular expressions, the size of automata, and what is refused."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.decoding.pattern import Pattern, compile_pattern
from crnn.errors import CharsetError, ConfigError

SMALL = Charset("ab1-")
ALL_TEXTS = ["".join(text) for length in range(5) for text in itertools.product("ab1-", repeat=length)]

atoms = st.sampled_from(
    [
        "a",
        "b",
        "1",
        "-",
        r"\-",
        ".",
        "[ab]",
        "[^a]",
        "[a-b1]",
        "[-a]",
        "[^-1]",
        "[]a]",
        "[1a-]",
        r"[\d-]",
        r"[^\w]",
        r"\W",
    ]
)
counts = st.sampled_from(["?", "*", "+", "{2}", "{1,}", "{0,2}", "{,2}", "{0}", "{1}"])
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        inner.map(lambda part: f"(?:{part}|)"),
        st.tuples(inner, counts).map(lambda both: f"({both[0]}){both[1]}"),
        st.tuples(atoms, counts).map("".join),
    ),
    max_leaves=6,
)


def accepted(expression, charset=SMALL, texts=ALL_TEXTS):
    pattern = compile_pattern(expression, charset)
    return {text for text in texts if pattern.matches(charset.encode(text))}


# ---------------------------------------------------------------------------------------------------------------------
# What is accepted


@settings(max_examples=100)
@given(expression=expressions)
def test_a_pattern_accepts_what_python_accepts(expression):
    ours, theirs = accepted(expression), re.compile(expression)
    assert ours == {text for text in ALL_TEXTS if theirs.fullmatch(text)}


@settings(max_examples=60)
@given(expression=expressions)
def test_automata_are_as_small_as_can_be(expression):
    pattern = compile_pattern(expression, SMALL)
    num_states = len(pattern.accepting)
    assert pattern.following.shape == (num_states, 4)
    assert pattern.following.min() >= -1
    assert pattern.following.max() < num_states
    # Every state is reached from the first one, and reaches an accepting one.
    reached = np.eye(num_states, dtype=bool)
    for _ in range(num_states):
        for state in range(num_states):
            behind = pattern.following[state][pattern.following[state] >= 0]
            reached[state] |= reached[behind].any(axis=0)
    assert reached[0].all()
    assert reached[:, pattern.accepting].any(axis=1).all()
    # No two states are the same: some text tells them apart.
    told = np.not_equal.outer(pattern.accepting, pattern.accepting)
    extended = np.pad(pattern.following, ((0, 1), (0, 0)), constant_values=num_states)
    extended[extended < 0] = num_states
    told = np.pad(told, (0, 1), constant_values=True)
    told[-1, -1] = False
    for _ in range(num_states):
        for k in range(4):
            told |= told[np.ix_(extended[:, k], extended[:, k])]
    assert told[~np.eye(num_states + 1, dtype=bool)].all()


def test_a_number_plate():
    charset = Charset("36")
    pattern = compile_pattern("[A-Z]{2}[0-9]{4}", charset)
    assert (pattern.num_classes, len(pattern.accepting), pattern.expression) == (37, 7, "[A-Z]{2}[0-9]{4}")
    assert pattern.matches(charset.encode("ab1234"))
    assert not any(pattern.matches(charset.encode(text)) for text in ("ab123", "ab12345", "a11234", ""))


@pytest.mark.parametrize("expression", ["^ab", "ab$", "^ab$"])
def test_anchors_around_the_whole_change_nothing(expression):
    assert accepted(expression) == {"ab"}


@pytest.mark.parametrize(("expression", "texts"), [("", {""}), ("^$", {""}), ("a|", {"a", ""}), ("()", {""})])
def test_the_empty_text(expression, texts):
    assert accepted(expression) == texts


def test_signs_stand_for_themselves_behind_a_backslash():
    signs = r".*+?|()[]{}^$-\/ "
    charset = Charset(signs + "a")
    for sign in signs:
        for expression in (f"\\{sign}", f"[\\{sign}]", f"a?\\{sign}a*"):
            assert sign in accepted(expression, charset, [*signs, "a", ""])
            assert "a" not in accepted(expression, charset, [*signs, "a", ""])
    assert accepted("]}", charset, ["]}"]) == {"]}"}
    assert accepted(r"\$$", charset, ["$", ""]) == {"$"}
    assert accepted(r"\\$", charset, ["\\", "$"]) == {"\\"}


def test_everything():
    pattern = Pattern.everything(5)
    assert pattern.num_classes == 5
    assert all(pattern.matches(text) for text in ([], [0], [3, 3, 3, 1]))


# ---------------------------------------------------------------------------------------------------------------------
# Characters mean what labels mean by them


@pytest.mark.parametrize(
    ("characters", "expression", "texts"),
    [
        ("abc", "A", {"a"}),
        ("abc", "[A-B]", {"a", "b"}),
        ("abc", "[^A]", {"b", "c"}),
        ("ABC", "[a-b]", {"A", "B"}),
        ("abAB", "[A-Z]", {"A", "B"}),
        ("abAB", "a", {"a"}),
        ("aeo", "é", {"e"}),
        ("aeo", "[éö]", {"e", "o"}),
        ("SAÄ", "ß|a", {"SS", "A"}),
        ("SAÄ", "(ß)+", {"SS", "SSSS"}),
        ("aé", "e\u0301|é", {"é"}),
        ("a b", r"a\sb", {"a b"}),
        ("a b", "a b", {"a b"}),
        ("a b", r"\S\W\S", {"a b", "a a", "b a", "b b"}),
        ("字a", "字|[a-z]", {"字", "a"}),
        ("字母", "[一-龥]{2}", {"字母", "母字", "字字", "母母"}),
        ("ab_", r"\w", {"a", "b", "_"}),
    ],
)
def test_letters_that_the_charset_writes_otherwise(characters, expression, texts):
    charset = Charset(characters)
    every = {"".join(t) for length in range(5) for t in itertools.product(characters, repeat=length)}
    if expression.startswith("e\u0301"):  # the combining accent alone is no character of this charset
        with pytest.raises(CharsetError, match="position 0"):
            accepted(expression, charset, every)
        return
    assert accepted(expression, charset, every) == texts


def test_rules_of_a_model_may_be_others():
    charset = Charset("ab")
    assert compile_pattern("A", charset).matches([0])
    with pytest.raises(CharsetError, match="'A' is not in the charset 'ab'"):
        compile_pattern("A", charset, LabelRules())
    assert compile_pattern("[A-Za]", charset, LabelRules()).following.tolist() == [[1, -1], [-1, -1]]


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("expression", "place", "message"),
    [
        ("ab[", 2, r"this '\[' is not closed"),
        ("[]", 0, r"this '\[' is not closed"),
        ("[^]", 0, r"this '\[' is not closed"),
        ("b[b-a]", 2, "'b-a' is no range"),
        (r"[a-\d]", 1, "is no range"),
        ("a**", 2, r"'\*' follows another count"),
        ("a+?", 2, r"'\?' follows another count; expected one count only \(lazy and possessive"),
        ("a{2}{3}", 4, r"'\{' follows another count"),
        ("a|*", 2, r"nothing stands before '\*'"),
        ("(+)", 1, r"nothing stands before '\+'"),
        ("{2}", 0, r"nothing stands before '\{'"),
        ("a{2", 1, r"this '\{' begins no count"),
        ("a{,}", 1, r"this '\{' begins no count"),
        ("a{x}", 1, r"this '\{' begins no count"),
        ("a{²}", 1, r"this '\{' begins no count"),
        ("a{3,2}", 1, "from 3 to 2 is no range"),
        ("a{1001}", 1, "1001 times is too often; expected at most 1000"),
        ("(a", 0, r"this '\(' is not closed"),
        ("a)b", 1, r"this '\)' closes nothing"),
        ("a^b", 1, r"'\^' is an anchor"),
        ("a$|b", 1, r"'\$' is an anchor"),
        ("(?=a)", 0, r"groups with '\(\?' are not supported"),
        ("(?P<n>a)", 0, r"groups with '\(\?' are not supported"),
        (r"a\b", 1, r"'\\b' has no meaning here"),
        (r"(a)\1", 3, r"'\\1' has no meaning here"),
        ("a\\", 1, r"has no meaning here"),
        ("(" * 101, 100, "more than 100 groups"),
    ],
)
def test_wrong_expressions_are_told_with_their_place(expression, place, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compile_pattern(expression, SMALL)
    assert str(caught.value).startswith(f"pattern {expression!r}, position {place}: ")
    assert "; expected " in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "place", "message"),
    [
        ("a*é", 2, "'é' is not in the charset 'ab1-'"),
        ("a b", 1, "' ' is not in the charset"),
        ("[xyz]", 0, r"\[xyz\] is no character of the charset"),
        (r"[^\w\W]", 0, r"\[\^\\w\\W\] is no character of the charset"),
        (r"b\s", 1, r"\\s is no character of the charset"),
    ],
)
def test_characters_that_the_network_cannot_write(expression, place, message):
    with pytest.raises(CharsetError, match=f"position {place}: {message}"):
        compile_pattern(expression, SMALL)


@pytest.mark.parametrize("expression", ["(a|b)*a(a|b){20}", "(.{500}){500}", "((.{1000}){1000}){1000}"])
def test_automata_that_would_be_too_large(expression):
    with pytest.raises(ConfigError, match="needs more than 10000 states; expected a simpler one"):
        compile_pattern(expression, SMALL)

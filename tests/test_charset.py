"""Charsets: every character keeps its class id, the blank is the last class, and label rules do what they say."""

import itertools
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.charset import (
    NAMED_CHARSETS,
    Charset,
    LabelRules,
    LabelSkip,
    characters_outside,
    check_own_form,
    min_time_steps,
)
from crnn.config.model import CharsetConfig
from crnn.errors import CharsetError
from crnn.reading_order import has_right_to_left

# letters from right to left have class ids in another order: tests/test_reading_order.py
DRAWN = st.characters(exclude_categories=("Cc", "Cs")).filter(lambda c: not has_right_to_left(c))
CHARACTERS = st.lists(DRAWN, min_size=1, max_size=60, unique=True).map("".join)
CHARACTERS_AND_LABEL = CHARACTERS.flatmap(lambda cs: st.tuples(st.just(cs), st.text(st.sampled_from(cs), max_size=30)))
RULES = st.builds(
    LabelRules,
    whitespace=st.sampled_from(["keep", "collapse", "remove"]),
    unicode=st.sampled_from(["keep", "NFC", "NFD", "NFKC", "NFKD", "ascii"]),
    case=st.sampled_from(["keep", "lower", "upper"]),
    unknown=st.sampled_from(["drop_character", "drop_sample"]),
    max_length=st.none() | st.integers(1, 12),
    truncate=st.booleans(),
)


# ---- Charset


@given(CHARACTERS_AND_LABEL)
def test_ids_count_the_characters_and_decoding_gives_back_what_was_encoded(case):
    characters, label = case
    if characters in (*NAMED_CHARSETS, "95"):
        return
    charset = Charset(characters)
    assert charset.encode(characters) == list(range(len(characters)))
    assert charset.blank == len(characters) == charset.num_classes - 1
    assert charset.decode(charset.encode(label)) == label


def test_the_named_sets_are_those_of_the_field():
    assert Charset("36").characters == "abcdefghijklmnopqrstuvwxyz0123456789"
    assert Charset("62").characters == string.digits + string.ascii_letters
    assert Charset("94").characters[:62] == Charset("62").characters
    assert set(Charset("94").characters) == set(string.printable) - set(string.whitespace)
    assert len(Charset("94").characters) == 94


def test_95_is_94_and_the_space():
    """The space comes last, so that the class ids of 94 stay; it is no set that published figures are compared by."""
    assert Charset("95").characters == Charset("94").characters + " "
    assert "95" not in NAMED_CHARSETS
    rules = CharsetConfig(characters="95").rules()
    assert rules.apply("  Tel.:  012\t34 ", Charset("95")) == "Tel.: 012 34"


@given(CHARACTERS, st.data())
def test_a_character_may_not_come_twice(characters, data):
    twice = data.draw(st.integers(0, len(characters) - 1))
    again = data.draw(st.integers(twice + 1, len(characters)))
    with pytest.raises(CharsetError) as caught:
        Charset(characters[:again] + characters[twice] + characters[again:])
    assert f"{characters[twice]!r} twice, at positions {twice} and {again}" in str(caught.value)


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        ("", "the charset is empty; expected at least one character, or the name 36, 62, 94 or 95"),
        ("ab\nc", r"position 2 holds the control character '\\n'"),
        ("\0", r"position 0 holds the control character '\\x00'"),
        ("a\ud800", r"position 1 holds the control character '\\ud800'"),
    ],
)
def test_unusable_characters_are_named(characters, message):
    with pytest.raises(CharsetError, match=message):
        Charset(characters)


def test_unknown_characters_are_named_once_each_in_order():
    charset = Charset("36")
    assert charset.unknown("a-b!-C!") == "-!C"
    with pytest.raises(CharsetError, match=r"label 'a-b!-C!' has '-!C', which charset.characters lacks"):
        charset.encode("a-b!-C!")
    with pytest.raises(CharsetError, match=r"has 'B', which charset.characters lacks"):
        LabelRules().apply("aB", charset)


def test_charsets_compare_by_their_characters_and_survive_pickling():
    charset = Charset("36")
    assert charset == Charset(NAMED_CHARSETS["36"])
    assert hash(charset) == hash(Charset(NAMED_CHARSETS["36"]))
    assert charset not in (Charset("62"), NAMED_CHARSETS["36"])
    assert pickle.loads(pickle.dumps(charset)) == charset
    assert [c in charset for c in ("a", "A", "ab", 0)] == [True, False, False, False]


def test_combining_scripts_are_sequences_of_code_points():
    charset = Charset("e\u0301कि")
    assert charset.encode("e\u0301") == [0, 1]
    assert charset.decode(charset.encode("कि")) == "कि"


# ---- LabelRules


@pytest.mark.parametrize(
    ("rules", "label", "expected"),
    [
        ({}, " a b ", " a b "),
        ({"whitespace": "remove"}, " a\tb\u3000c\n", "abc"),
        ({"whitespace": "collapse"}, " a \t b\u00a0 c\n", "a b c"),
        ({"unicode": "NFC"}, "e\u0301", "é"),
        ({"unicode": "NFD"}, "é", "e\u0301"),
        ({"unicode": "NFKC"}, "ﬁ①", "fi1"),
        ({"unicode": "NFKD"}, "é²", "e\u03012"),
        ({"unicode": "ascii"}, "Café №5 日", "Cafe No5 "),
        ({"unicode": "keep"}, "ﬁe\u0301", "ﬁe\u0301"),
        ({"case": "lower"}, "StraßE", "straße"),
        ({"case": "upper"}, "Straße", "STRASSE"),
        ({"case": "keep"}, "aB", "aB"),
    ],
)
def test_the_form_of_a_label(rules, label, expected):
    assert LabelRules(**rules).form(label) == expected


def test_length_is_counted_after_normalizing_and_before_unknown_characters_go():
    # PARSeq's order: 'ab!!' has four characters though two of them will be dropped, 'a b' two when the space goes.
    rules = LabelRules(whitespace="remove", unicode="ascii", unknown="drop_character", max_length=3)
    assert rules.apply("a b c", Charset("36")) == "abc"
    assert rules.apply("日本ab", Charset("36")) == "ab"
    with pytest.raises(LabelSkip, match="too_long"):
        rules.apply("ab!!", Charset("36"))
    assert LabelRules(case="upper", max_length=2).apply("aß", Charset("ASB")) == "ASS"  # before the case changes it


def test_truncation_cuts_what_the_charset_can_write():
    rules = LabelRules(unknown="drop_character", max_length=3, truncate=True)
    assert rules.apply("a!b!cde", Charset("36")) == "abc"
    assert rules.form("abcde") == "abcde"


@pytest.mark.parametrize(
    ("rules", "label", "reason"),
    [
        ({"max_length": 2}, "abc", "too_long"),
        ({}, "", "empty_label"),
        ({"whitespace": "remove"}, " \t", "empty_label"),
        ({"unicode": "ascii"}, "日本", "empty_label"),
        ({"unknown": "drop_character"}, "!?", "empty_label"),
        ({"unknown": "drop_sample"}, "a!", "unknown_character"),
        ({"unknown": "drop_sample", "max_length": 1}, "a!", "too_long"),
    ],
)
def test_samples_are_left_out_for_a_named_reason(rules, label, reason):
    with pytest.raises(LabelSkip) as caught:
        LabelRules(**rules).apply(label, Charset("36"))
    assert caught.value.reason == reason == str(caught.value)


def test_collapsed_labels_have_single_spaces_whatever_is_dropped_or_cut():
    charset = Charset("abc ")
    rules = LabelRules(whitespace="collapse", unknown="drop_character", max_length=4, truncate=True)
    assert rules.apply("a & b", charset) == "a b"
    assert rules.apply("& a", charset) == "a"
    assert rules.apply("abc cab", charset) == "abc"
    # Under NFKD a spacing accent becomes a space and a combining accent, which ASCII has not.
    assert LabelRules(whitespace="collapse", unicode="ascii").apply("´a ´ b", charset) == "a b"


@given(st.text(max_size=20), RULES)
def test_a_label_is_skipped_or_can_be_written(label, rules):
    charset = Charset("abcdefgABC123 é\u0301")
    skipped, applied = "", ""
    try:
        applied = rules.apply(label, charset)
    except LabelSkip as skip:
        skipped = skip.reason
    assert skipped in (("",) if applied else ("too_long", "empty_label", "unknown_character"))
    assert charset.decode(charset.encode(applied)) == applied
    if rules.truncate and rules.max_length is not None:
        assert len(applied) <= rules.max_length
    if rules.whitespace == "collapse":
        assert applied == " ".join(applied.split())
    if rules.unicode == "ascii":
        assert applied.isascii()
    if rules.case == "lower":
        assert applied == applied.lower()


# ---- time steps


def collapse(path, blank):
    """Graves' map B: repeats merged, then blanks removed."""
    return [k for i, k in enumerate(path) if k != blank and (i == 0 or path[i - 1] != k)]


def test_the_number_of_steps_is_the_length_of_the_shortest_path():
    blank, shortest = 2, {}
    for length in range(8):
        for path in itertools.product(range(blank + 1), repeat=length):
            shortest.setdefault(tuple(collapse(path, blank)), length)
    targets = [target for size in range(5) for target in itertools.product(range(blank), repeat=size)]
    assert {target: shortest[target] for target in targets} == {target: min_time_steps(target) for target in targets}


@given(CHARACTERS)
def test_every_character_of_a_charset_that_is_taken_comes_through_the_rules(characters):
    charset, rules = Charset(characters), CharsetConfig(characters=characters).rules()
    try:
        check_own_form(charset, rules)
    except CharsetError:
        return
    for character in charset.characters:
        assert rules.form(f"0{character}0") == f"0{character}0"


def test_characters_outside_the_charset():
    charset = Charset("36")
    ascii_rules = CharsetConfig().rules()
    assert characters_outside("Café & Bar's", charset, ascii_rules) == ["&", "'"]
    assert characters_outside("e\u0301 字字", charset, ascii_rules) == ["字", "字"]
    assert characters_outside("&" * 30, charset, ascii_rules) == ["&"] * 30  # beyond the longest label, too
    nfc = CharsetConfig(characters="aé").rules()
    assert characters_outside("ae\u0301b", Charset("aé"), nfc) == ["b"]
    assert characters_outside("aB", Charset("aB"), LabelRules(case="lower")) == ["b"]

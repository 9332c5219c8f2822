"""The protocols against cases worked out by hand from the projects' code; each names the line of code it follows."""

from typing import Any

import pytest

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.config.model import CharsetConfig
from crnn.errors import CharsetError, ConfigError
from crnn.evaluation.protocol import PUBLISHED_COUNTS, Protocol, expected_count, own_protocol, protocol_for

CHARSETS: list[Any] = ["36", "62", "94"]


def outcome(protocol: Protocol, raw: str) -> str:
    """The label, or the reason for which the sample is left out, in brackets."""
    try:
        return protocol.label(raw)
    except LabelSkip as skip:
        return f"<{skip.reason}>"


# -- parseq: strhub/data/dataset.py _preprocess_labels, in this order: white space, NFKD to ASCII, length, charset ----


@pytest.mark.parametrize(
    ("raw", "in_36", "in_62", "in_94"),
    [
        ("Hello", "hello", "Hello", "Hello"),  # CharsetAdapter.lowercase_only holds for 36 only
        ("193 KM", "193km", "193KM", "193KM"),  # ''.join(label.split())
        ("\ta\u00a0b\u3000c\n", "abc", "abc", "abc"),  # str.split takes every Unicode white space
        ("Café", "cafe", "Cafe", "Cafe"),  # NFKD: e + combining accent; the accent is not ASCII
        ("ﬁne", "fine", "fine", "fine"),  # NFKD: the ligature is f + i
        ("x²", "x2", "x2", "x2"),  # NFKD: superscript two
        ("wait…", "wait", "wait", "wait..."),  # NFKD: three full stops, in 94 only
        ("Straße", "strae", "Strae", "Strae"),  # sharp s has no decomposition, and goes
        ("it's", "its", "its", "it's"),  # re.sub(unsupported, '', label)
        ("a\\b", "ab", "ab", "a\\b"),  # re.escape(charset): the backslash is one of the 94
        ("£10", "10", "10", "10"),  # the pound sign is not ASCII
        ("...", "<empty_label>", "<empty_label>", "..."),  # if not label: continue
        ("日本", "<empty_label>", "<empty_label>", "<empty_label>"),
        ("", "<empty_label>", "<empty_label>", "<empty_label>"),
    ],
)
def test_parseq_labels(raw: str, in_36: str, in_62: str, in_94: str) -> None:
    assert [outcome(protocol_for("parseq", charset), raw) for charset in CHARSETS] == [in_36, in_62, in_94]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("aishahaleyes.blogspot.com", "aishahaleyesblogspotcom"),  # models/base.py: 25 long, 23 in 36 characters
        ("a" * 25, "a" * 25),
        ("a" * 26, "<too_long>"),
        ("a" * 20 + "." * 6, "<too_long>"),  # 26 before the full stops go: "Filter by length before removing"
        ("a" * 13 + " " * 9 + "b" * 12, "a" * 13 + "b" * 12),  # 34 characters, 25 without white space
        ("a" * 24 + "é", "a" * 24 + "e"),  # 26 under NFKD, 25 when the accent has gone: ASCII comes before the length
        ("a" * 24 + "ﬁ", "<too_long>"),  # 25 raw, 26 under NFKD
        ("a" * 20 + "日" * 6, "a" * 20),  # not ASCII, gone before the length is taken
    ],
)
def test_parseq_takes_the_length_after_ascii_and_before_the_charset(raw: str, expected: str) -> None:
    assert outcome(protocol_for("parseq", "36"), raw) == expected


@pytest.mark.parametrize(
    ("reading", "in_36", "in_62", "in_94"),
    [
        ("HeLLo", "hello", "HeLLo", "HeLLo"),  # models/base.py: charset_adapter(pred)
        ("it's", "its", "its", "it's"),
        ("a b", "ab", "ab", "ab"),  # a space is in none of the three
        ("café", "caf", "caf", "caf"),  # the adapter alone: readings are not decomposed
        ("a" * 30, "a" * 30, "a" * 30, "a" * 30),  # no length limit at test time
        ("!", "", "", "!"),
        ("", "", "", ""),
    ],
)
def test_parseq_readings(reading: str, in_36: str, in_62: str, in_94: str) -> None:
    assert [protocol_for("parseq", charset).prediction(reading) for charset in CHARSETS] == [in_36, in_62, in_94]


# -- clovaai: dataset.py LmdbDataset, test.py validation --------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "filtered", "unfiltered"),
    [
        ("Hello", "hello", "hello"),  # label.lower() unless --sensitive
        ("it's", "<unknown_character>", "its"),  # re.search(out_of_char) drops; without filtering re.sub strips
        ("193 KM", "<unknown_character>", "193km"),  # white space is a character like any other
        ("Café", "<unknown_character>", "caf"),  # no Unicode normalisation
        ("a" * 25, "a" * 25, "a" * 25),
        ("a" * 26, "<too_long>", "a" * 26),  # len(label) > batch_max_length, in the filtering part only
        ("a" * 20 + "." * 6, "<too_long>", "a" * 20),  # raw length first: it is counted as too long
        ("...", "<unknown_character>", ""),  # nothing is left, and the sample stays in length_of_data
        ("", "", ""),
    ],
)
def test_clovaai_labels_of_36(raw: str, filtered: str, unfiltered: str) -> None:
    for dataset in ("SVT", "IC15_1811", "mine", ""):
        assert outcome(protocol_for("clovaai", "36", dataset), raw) == filtered, dataset
    # The comment above the filter in dataset.py: use --data_filtering_off for IC15-2077 and CUTE.
    for dataset in ("IC15_2077", "ic15-2077", "CUTE80", "cute"):
        assert outcome(protocol_for("clovaai", "36", dataset), raw) == unfiltered, dataset


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("It's", "It's"),  # --sensitive keeps the case, the charset is string.printable[:-6]
        ("193 KM", "<unknown_character>"),  # which has no space
        ("a\\b", "<unknown_character>"),  # f'[^{character}]' unescaped: the backslash only escapes ']'
        ("[a]", "[a]"),
    ],
)
def test_clovaai_labels_of_94(raw: str, expected: str) -> None:
    assert outcome(protocol_for("clovaai", "94"), raw) == expected


def test_clovaai_readings() -> None:
    # validation() in test.py folds both sides to 0-9a-z when --sensitive meets --data_filtering_off
    assert protocol_for("clovaai", "36", "CUTE80").prediction("It's-5") == "its5"
    assert protocol_for("clovaai", "94").prediction("It's \\ ok") == "It's \\ ok"


# -- modelzoo: official/cv/CRNN/src/{ic13,svt}_dataset.py -------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "ic13", "svt"),
    [
        ("Tiredness", "tiredness", "tiredness"),  # .lower()
        ("A3", "<too_short>", "a3"),  # len(label) < filter_length, which is 3
        ("a.b", "<not_alphanumeric>", "ab"),  # filter_by_dict; SVT's __getitem__ leaves the character out
        ("!?", "<too_short>", ""),  # the length is asked first; SVT keeps the sample with nothing in it
        ("!?!", "<not_alphanumeric>", ""),
        ("of 5", "<not_alphanumeric>", "of5"),  # a space is not in the dictionary
        ("a" * 40, "a" * 40, "a" * 40),  # max_text_length pads, it does not cut (that is training)
    ],
)
def test_modelzoo_labels(raw: str, ic13: str, svt: str) -> None:
    for dataset in ("IC13", "ic13_857", "IC13-1015", "icdar2013", "ic03", "IC03_867"):
        assert outcome(protocol_for("modelzoo", "36", dataset), raw) == ic13, dataset
    for dataset in ("SVT", "iiit5k", "IC15_1811", "mine", ""):
        assert outcome(protocol_for("modelzoo", "36", dataset), raw) == svt, dataset


def test_modelzoo_folds_readings_to_its_36_characters() -> None:
    assert protocol_for("modelzoo", "36", "svt").prediction("It's book7") == "itsbook7"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("modelzoo", "62"), "modelzoo compares 36"),
        (("clovaai", "62"), "36 or 94"),
        (("openocr", "36"), "'openocr'; expected parseq, clovaai, modelzoo or lines"),
        (("parseq", "abc"), "charset is 'abc'; expected 36, 62 or 94"),
    ],
)
def test_evaluations_that_no_project_has_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        protocol_for(*arguments)


def test_own_protocol_measures_every_label_in_full() -> None:
    rules = LabelRules(case="lower", unknown="drop_character", max_length=3, truncate=True)
    protocol = own_protocol(rules, Charset("36"))
    assert protocol.label("Hello!") == "hello"
    assert own_protocol(LabelRules(max_length=3), Charset("36")).label("hello") == "hello"


def test_own_protocol_of_a_cyrillic_model() -> None:
    config = CharsetConfig(characters="абвгдеёжзийклмнопрстуфхцчшщъыьэюя ")
    protocol = own_protocol(config.rules(), config.charset(), "улица")
    assert protocol.label("  Берёзовая\tРОЩА5") == "берёзовая роща"
    assert protocol.label("и\u0306") == "й"  # NFC: the two code points are the one of the charset
    assert protocol.prediction("и\u0306") == "й"  # and a reading that writes them so is not wrong
    assert protocol.prediction("а  б") == "а б"
    assert protocol.expected_count is None
    assert outcome(protocol, "Hello") == "<empty_label>"


def test_own_protocol_keeps_what_the_model_does_with_unknown_characters() -> None:
    charset = Charset("ab")
    assert outcome(own_protocol(LabelRules(unknown="drop_sample"), charset), "abc") == "<unknown_character>"
    strict = own_protocol(LabelRules(unknown="error"), charset)
    with pytest.raises(CharsetError, match="'c'"):
        strict.label("abc")
    assert strict.prediction("abc") == "ab"  # a reading is never an error


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("IIIT5k", 3000),
        ("IIIT5K-3000", 3000),
        ("svt_647", 647),
        ("SVT-P", 645),
        ("cute", 288),
        ("ic13-1015", 1015),
        ("svt_train", None),
        ("IC13", None),  # any of three
        ("", None),
    ],
)
def test_expected_count(name: str, count: int | None) -> None:
    assert expected_count(name) == count
    assert protocol_for("parseq", "36", name).expected_count == count


def test_published_counts_add_up_to_the_published_totals() -> None:
    def total(*names: str) -> int:
        return sum(PUBLISHED_COUNTS[name] for name in names)

    others = total("IIIT5k_3000", "SVT", "SVTP", "CUTE80")
    assert others + total("IC13_857", "IC15_1811") == 7248  # PARSeq's "Benchmark (Subset)"
    assert others + total("IC13_1015", "IC15_2077") == 7672  # PARSeq's "Benchmark"
    assert others + total("IC03_867", "IC13_1015", "IC15_2077") == 8539  # DTRB's paper
    assert others + total("IC03_860", "IC03_867", "IC13_857", "IC13_1015", "IC15_1811", "IC15_2077") == 12067  # DTRB


@pytest.mark.parametrize(
    ("dataset", "count"),
    [("IC13_1095", 857), ("ic13_1015", 857), ("IC13", 857), ("IC03_867", 867), ("SVT", 647), ("ic13_train", None)],
)
def test_modelzoo_rules_leave_857_of_any_ic13(dataset: str, count: int | None) -> None:
    assert protocol_for("modelzoo", "36", dataset).expected_count == count

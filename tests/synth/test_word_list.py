"""The shipped word list, the script that builds it, and the small parts that words are drawn with."""

from __future__ import annotations

import gzip
import importlib.util
import string
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.synth.label_check import LabelCheck
from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.word_list import LetterChain, LetterStrings, WordTable, read_word_list

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "src" / "crnn" / "synth" / "words.txt.gz"
RULES = LabelRules(case="lower", unicode="ascii", whitespace="remove", unknown="drop_character", max_length=25)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("word_list_script", ROOT / "tools" / "word_list.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_list_is_small_and_has_what_signs_say() -> None:
    assert SHIPPED.stat().st_size < 700_000
    assert SHIPPED.read_bytes()[4:8] == bytes(4), "a time inside would make every build another file"
    words = read_word_list("shipped").text.split("\n")[:-1]
    assert len(words) > 150_000
    assert words == sorted(set(words))
    assert {"open", "exit", "hotel", "London", "McDonald", "don't", "Mrs", "café", "I", "a", "Sunday"} <= set(words)


def test_shipped_list_carries_its_notice() -> None:
    notice = SHIPPED.with_name("words.LICENSE.txt").read_text(encoding="utf-8")
    for part in ("Kevin Atkinson", "modified version of SCOWL", "Princeton University", "Geoff Kuenning", "UKACD"):
        assert part in notice


def test_script_gives_common_words_more_weight(tmp_path: Path, script: ModuleType) -> None:
    for size, words in ((10, "open the"), (35, "hotel the"), (70, "gnu gnus gnus's")):
        (tmp_path / f"english-words.{size}").write_text("\n".join(words.split()), encoding="utf-8")
    (tmp_path / "english-words.50").write_text("open's\nzoë", encoding="utf-8")
    (tmp_path / "english-abbreviations.10").write_text("Mr", encoding="utf-8")
    found = script.frequencies(tmp_path)
    assert set(found) == {"open", "the", "hotel", "open's", "zoë", "gnu", "gnus", "Mr"}
    assert found["open"] == found["the"] > found["hotel"] > found["zoë"] > found["gnu"] == 1.0
    assert found["open's"] < 0.05 * found["zoë"]
    assert found["Mr"] == pytest.approx(0.1 * found["open"])


def test_script_writes_the_same_bytes_again(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "dict" / "scowl"
    folder.mkdir(parents=True)
    (folder / "english-words.10").write_text("open\nthe\n", encoding="utf-8")
    readme = tmp_path / "share" / "doc" / "scowl" / "README.gz"
    readme.parent.mkdir(parents=True)
    readme.write_bytes(gzip.compress(b"About.\nCOPYRIGHT, SOURCES, and CREDITS:\nFree.\n\nFUTURE PLANS:\nNone.\n"))
    monkeypatch.setattr(script, "PACKAGE", tmp_path)
    monkeypatch.setattr("sys.argv", ["word_list.py", str(tmp_path / "share")])
    assert script.main() == 0
    first = (tmp_path / "words.txt.gz").read_bytes()
    assert gzip.decompress(first) == b"open\t1\nthe\t1\n"
    assert (tmp_path / "words.LICENSE.txt").read_text(encoding="utf-8").endswith("CREDITS:\nFree.\n")
    assert script.main() == 0
    assert (tmp_path / "words.txt.gz").read_bytes() == first
    monkeypatch.setattr("sys.argv", ["word_list.py", str(tmp_path)])
    assert script.main() == 2


def test_table_draws_the_words_that_fit_by_length(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("hotel\nза\nbar's\nCafé\nit\nword" + "x" * 30 + "\nMOTEL\n", encoding="utf-8")
    check = LabelCheck(Charset("36"), RULES, 24)
    table = WordTable([read_word_list(str(path))], [1.0], 1.0, check)
    assert table.lengths == (2, 4, 5)
    choices = Choices(np.random.default_rng(1))
    drawn = {length: {table.draw(choices, length) for _ in range(60)} for length in table.lengths}
    assert drawn == {2: {"it"}, 4: {"bar's", "Café"}, 5: {"hotel", "MOTEL"}}
    assert (table.usable, table.outside, table.too_long) == ({str(path): 5}, {str(path): 1}, {str(path): 1})
    assert table.characters == set("hotelbar'sCaféitMOTEL")


def test_table_without_lists_is_empty() -> None:
    table = WordTable([], [], 1.0, LabelCheck(Charset("36"), RULES, 24))
    assert len(table) == 0
    assert table.lengths == ()


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ("Café!", "cafe"),
        ("ﬁsh & CHIPS", "fishchips"),
        ("слово", "lost_character"),
        ("a\tb", "lost_character"),
        ("!?", "empty_label"),
        ("x" * 26, "too_long"),
        ("aabbccddeeffgghhii", "too_many_steps"),
    ],
)
def test_label_or_reason(drawn: str, expected: str) -> None:
    check = LabelCheck(Charset("36"), RULES, 24)
    try:
        found = check.label(drawn)
    except LabelSkip as skip:
        found = skip.reason
    assert found == expected


def test_final_sigma_is_not_lost() -> None:
    check = LabelCheck(Charset("αδιοςσφ"), LabelRules(case="lower", unknown="drop_character"), 24)
    assert check.label("ΔΙΟΔΟΣ") == "διοδος"
    without = LabelCheck(Charset("αδιοσφ"), LabelRules(case="lower", unknown="drop_character"), 24)
    with pytest.raises(LabelSkip, match="lost_character"):
        without.label("ΔΙΟΔΟΣ")


def test_weights_are_shares_and_zero_is_never_drawn() -> None:
    choices = Choices(np.random.default_rng(5))
    counts = Counter(WeightedChoice({"a": 3.0, "b": 1.0, "c": 0.0}).draw(choices) for _ in range(4000))
    assert set(counts) == {"a", "b"}
    assert 0.71 < counts["a"] / 4000 < 0.79
    spread = Counter(choices.between(3, 5) for _ in range(3000))
    assert set(spread) == {3, 4, 5}
    assert min(spread.values()) > 850


def test_chain_makes_words_like_those_it_was_given() -> None:
    given = [word for word in read_word_list("shipped").text.split("\n")[60_000:90_000] if word.isalpha()]
    chain = LetterChain([*given, "it's", "USA"])
    choices = Choices(np.random.default_rng(2))
    words = [chain.draw(choices, length) for length in (4, 7, 10) for _ in range(200)]
    trigrams = {word.lower()[at : at + 3] for word in given for at in range(len(word) - 2)}
    assert all(word[at : at + 3] in trigrams for word in words for at in range(len(word) - 2))
    assert sum(len(word) in (4, 7, 10) for word in words) > 0.97 * len(words)
    assert sum(word in set(given) for word in words if len(word) > 6) < 80
    assert len(LetterChain(["it's", "USA", "ab"])) == 0


def test_strings_show_what_is_wanted_and_nothing_that_looks_like_a_digit() -> None:
    strings = LetterStrings(string.ascii_letters, wanted="qx")
    choices = Choices(np.random.default_rng(3))
    for length in (1, 2, 9):
        found = [strings.draw(choices, length) for _ in range(50)]
        assert all(set(word) & set("qx") and len(word) == length for word in found)
    assert not set("".join(LetterStrings(string.ascii_letters).draw(choices, 20) for _ in range(50))) & set("IOlo")
    assert set("".join(LetterStrings("OI").draw(choices, 9) for _ in range(9))) == {"O", "I"}

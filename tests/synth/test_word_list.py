"""Word lists as they are read, the script that builds the shipped one, and the parts that words are drawn with."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.errors import DataError
from crnn.synth.rng import Choices
from crnn.synth.word_list import LabelCheck, LetterChain, read_word_list

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "src" / "crnn" / "synth" / "words.txt.gz"
RULES = LabelRules(case="lower", unicode="ascii", whitespace="remove", unknown="drop_character", max_length=25)


def test_shipped_list_has_what_signs_say_and_its_notice() -> None:
    assert SHIPPED.stat().st_size < 700_000
    found = read_word_list("shipped")
    words = found.words
    frequencies = dict(zip(words, found.frequencies, strict=True))
    assert frequencies["open"] == frequencies["the"] > frequencies["gnu"] >= 1.0
    assert len(words) > 150_000
    assert words == sorted(set(words))
    assert {"open", "exit", "hotel", "London", "McDonald", "don't", "Mrs", "café", "I", "a", "Sunday"} <= set(words)
    notice = SHIPPED.with_name("words.LICENSE.txt").read_text(encoding="utf-8")
    for part in ("Kevin Atkinson", "modified version of SCOWL", "Princeton University", "Geoff Kuenning", "UKACD"):
        assert part in notice


def test_script_writes_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("word_list_script", ROOT / "tools" / "word_list.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
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
    assert first[4:8] == bytes(4), "a time inside would make every build another file"
    assert gzip.decompress(first) == b"open\t1\nthe\t1\n"
    assert (tmp_path / "words.LICENSE.txt").read_text(encoding="utf-8").endswith("CREDITS:\nFree.\n")
    assert script.main() == 0
    assert (tmp_path / "words.txt.gz").read_bytes() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n\t\n", "has no words"),
        (b"word\0list\n", "is not text in UTF-8"),
        ("wörter\n".encode("latin-1"), "line 1: is not text in UTF-8"),
        (b"one\t5\ntwo\tmany\n", "line 2: frequency 'many'; expected a number above 0"),
        (b"one\t-1\n", "line 1: frequency '-1'"),
        (b"one\tnan\n", "line 1: frequency 'nan'"),
        (None, "expected a text file"),
    ],
)
def test_bad_list_is_one_clear_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_word_list(str(path))
    assert str(error.value).startswith(f"word list {path}")
    assert message.lower() in str(error.value).lower()
    assert "\n" not in str(error.value)


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffstation\t2\r\n\r\nkitchen\r\n".encode())
    found = read_word_list(str(path))
    assert (found.words, found.frequencies.tolist()) == (["station", "kitchen"], [2.0, 1.0])


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
    try:
        found = LabelCheck(Charset("36"), RULES, 24).label(drawn)
    except LabelSkip as skip:
        found = skip.reason
    assert found == expected


def test_final_sigma_is_not_lost() -> None:
    rules = LabelRules(case="lower", unknown="drop_character")
    assert LabelCheck(Charset("αδιοςσφ"), rules, 24).label("ΔΙΟΔΟΣ") == "διοδος"
    with pytest.raises(LabelSkip, match="lost_character"):
        LabelCheck(Charset("αδιοσφ"), rules, 24).label("ΔΙΟΔΟΣ")


def test_chain_makes_words_like_those_it_was_given() -> None:
    given = [word for word in read_word_list("shipped").words[60_000:80_000] if word.isalpha()]
    listed = set(given)
    chain = LetterChain([*given, "it's", "USA"])
    choices = Choices(np.random.default_rng(2))
    words = [chain.draw(choices, length) for length in (4, 7, 10) for _ in range(200)]
    trigrams = {word.lower()[at : at + 3] for word in given for at in range(len(word) - 2)}
    assert all(word[at : at + 3] in trigrams for word in words for at in range(len(word) - 2))
    assert sum(len(word) in (4, 7, 10) for word in words) > 0.97 * len(words)
    assert sum(word in listed for word in words if len(word) > 6) < 80

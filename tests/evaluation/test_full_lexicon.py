"""Full lexicons: which words, in which form, from where; and their file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import CharsetError, DataError
from crnn.evaluation.lexicons import full_lexicon, write_lexicon

CHARSET, RULES = Charset("36"), CharsetConfig().rules()


@pytest.fixture
def stores(tmp_path: Path, image_of: Callable[..., bytes]) -> list[LmdbStore | ListFile]:
    """A store with both lexicons, and a list without."""
    image = image_of("x")
    with LmdbWriter(tmp_path / "set") as writer:
        writer.add(image, "Door", lexicon=("door", "DOOM", "floor"), large_lexicon=("room", "&", "door"))
        writer.add(image, "doom!", lexicon=("doom", "door"))
        writer.add(image, "?", lexicon=("floor",))
        writer.add(image, "Zoo")
    (tmp_path / "labels.tsv").write_text("1.png\tnew york\n2.png\tDOOR\n3.png\t" + "a" * 26 + "\n")
    return [LmdbStore(tmp_path / "set"), ListFile(tmp_path / "labels.tsv")]


def test_words_of_labels(stores: list[LmdbStore | ListFile]) -> None:
    done: list[int] = []
    found = full_lexicon(stores, CHARSET, RULES, words_from="labels", progress=done.append)
    assert found.words == ("doom", "door", "newyork", "zoo")
    assert (found.labels, found.kept, sum(done)) == (7, 0, 7)
    assert found.left_out == {"empty_label": 1, "too_long": 1}


def test_words_of_kept_lexicons(stores: list[LmdbStore | ListFile]) -> None:
    found = full_lexicon(stores, CHARSET, RULES, words_from="kept")
    assert found.words == ("doom", "door", "floor", "room")
    assert (found.labels, found.kept, found.left_out) == (0, 9, {"empty_label": 1})


def test_words_of_both(stores: list[LmdbStore | ListFile]) -> None:
    found = full_lexicon(stores, CHARSET, RULES)
    assert found.words == ("doom", "door", "floor", "newyork", "room", "zoo")
    assert (found.labels, found.kept) == (7, 9)


def test_the_rules_decide_which_words_are_one(stores: list[LmdbStore | ListFile]) -> None:
    found = full_lexicon(stores[:1], Charset("94"), LabelRules(unknown="drop_sample"))
    assert found.words == ("&", "?", "DOOM", "Door", "Zoo", "doom", "doom!", "door", "floor", "room")
    with pytest.raises(CharsetError, match="'&'"):
        full_lexicon(stores[:1], Charset("62"), LabelRules(), words_from="kept")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), min_size=1, max_size=8)
)
def test_every_label_is_in_its_full_lexicon(labels: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.tsv"
        path.write_text("".join(f"{n}.png\t{label}\n" for n, label in enumerate(labels)), encoding="utf-8")
        rules = LabelRules(whitespace="collapse", unicode="NFC", case="lower", unknown="drop_character")
        charset = Charset("".join(dict.fromkeys(c for c in "abcé字ß &" + labels[0].lower() if c.isprintable())))
        expected = set()
        for label in labels:
            formed = " ".join("".join(c for c in rules.form(label) if c in charset).split())
            if formed:
                expected.add(formed)
        if expected:
            assert full_lexicon([ListFile(path)], charset, rules).words == tuple(sorted(expected))
        else:
            with pytest.raises(DataError, match="has no word for a lexicon"):
                full_lexicon([ListFile(path)], charset, rules)


def test_a_set_that_has_no_word(stores: list[LmdbStore | ListFile]) -> None:
    with pytest.raises(DataError, match=r"no lexicons are kept with the samples.*--from labels"):
        full_lexicon(stores[1:], CHARSET, RULES, words_from="kept")
    with pytest.raises(DataError, match=r"has no word.*empty_label: 4.*in the characters 'жз'.*--charset"):
        full_lexicon(stores[:1], Charset("жз"), CharsetConfig(characters="жз").rules(), words_from="labels")


def test_records_that_cannot_be_read_are_counted(tmp_path: Path, stores: list[LmdbStore | ListFile]) -> None:
    import lmdb

    stores[0].close()
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 24) as environment, environment.begin(write=True) as records:
        records.put(b"label-000000001", b"\xff")
    found = full_lexicon([LmdbStore(tmp_path / "set")], CHARSET, RULES, words_from="labels")
    assert (found.words, found.left_out) == (("doom", "zoo"), {"unreadable_record": 1, "empty_label": 1})


def test_the_file_has_a_word_a_line_and_appears_whole(tmp_path: Path) -> None:
    write_lexicon(tmp_path / "words.txt", ("a", "new york", "字"))
    assert (tmp_path / "words.txt").read_bytes() == "a\nnew york\n字\n".encode()
    with pytest.raises(DataError, match="exists already; expected a new file"):
        write_lexicon(tmp_path / "words.txt", ("b",))
    with pytest.raises(DataError, match=r"cannot write .*: No such file"):
        write_lexicon(tmp_path / "none" / "words.txt", ("b",))
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]

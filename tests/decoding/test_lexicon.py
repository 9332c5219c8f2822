"""Lexicons: words one by one and many at once come to the same; files; what is left out is counted and named."""

import gzip
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.config.model import CharsetConfig
from crnn.decoding import lexicon as lexicon_module
from crnn.decoding import lexicon as word_lines
from crnn.decoding import lexicon as word_trie
from crnn.decoding.lexicon import Lexicon
from crnn.errors import CharsetError, DataError

CHARSET = Charset("36")


@pytest.fixture(params=["dictionary", "trie"])
def _either_way(request, monkeypatch):
    """Duplicates are found by a dictionary among few words, by the trie among many."""
    if request.param == "trie":
        monkeypatch.setattr(lexicon_module, "_FEW_WORDS", -1)


# ---------------------------------------------------------------------------------------------------------------------
# Words


@pytest.mark.usefixtures("_either_way")
def test_words_are_labels_each_once_in_their_order():
    words = ["Zebra", "book7", "", "a-b", "BOOK 7", "ZEBRA", "x" * 257, "é", "it's", "q?", "r!"]
    lexicon = Lexicon.from_words(words, CHARSET)
    assert lexicon.words == ["zebra", "book7", "e"]
    assert (len(lexicon), lexicon.text(1), lexicon.ids(2)) == (3, "book7", (4,))
    assert lexicon.lengths.tolist() == [5, 5, 1]
    assert {reason: tuple(skipped) for reason, skipped in lexicon.skipped.items()} == {
        "too_long": (1, ("x" * 257,)),
        "unknown_character": (4, ("a-b", "it's", "q?", "r!")),
        "empty_label": (1, ("",)),
        "duplicate": (2, ("book7", "zebra")),
    }


def test_compatibility_forms_follow_the_rules_of_labels():
    # NFKD writes the half as 1, fraction slash, 2; the slash is not ASCII and goes, as it does from labels.
    assert Lexicon.from_words(["½", "Ⅷ"], CHARSET).words == ["12", "viii"]


@pytest.mark.parametrize("index", [-1, 2])
def test_there_are_no_other_words(index):
    with pytest.raises(IndexError, match=f"word {index} of a lexicon of 2"):
        Lexicon.from_words(["a", "b"], CHARSET).ids(index)


def test_the_empty_text_is_a_word_where_that_is_said():
    lexicon = Lexicon.from_words(["a", "", " ", "b"], CHARSET, keep_empty=True)
    assert lexicon.words == ["a", "", "b"]
    assert lexicon.skipped["duplicate"] == (1, ("",))
    assert lexicon.trie.words[0] == 1
    assert Lexicon.from_words([""], CHARSET, keep_empty=True).words == [""]


def test_a_line_feed_in_a_word_is_white_space():
    assert Lexicon.from_words(["one\ntwo", "three"], CHARSET).words == ["onetwo", "three"]
    spaced = Lexicon.from_words(["one\ntwo", " three\n"], Charset("abcdefghijklmnopqrstuvwxyz "))
    assert spaced.words == ["one two", "three"]


def test_examples_are_the_first_few_of_all_blocks(monkeypatch):
    monkeypatch.setattr(word_lines, "_BLOCK_WORDS", 1)
    lexicon = Lexicon.from_words([*"?!-+/&%", "a", "b", "A"], CHARSET)
    assert lexicon.words == ["a", "b"]
    assert lexicon.skipped["unknown_character"] == (7, tuple("?!-+/"))


def test_all_white_space_is_known():
    spaces = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(lexicon_module._SPACES) | {"\n"} == spaces


pieces = st.sampled_from(
    [
        "a",
        "B",
        "z",
        "7",
        " ",
        "\t",
        "\x1e",
        "\u2003",
        "é",
        "e\u0301",
        "\u0301",
        "ß",
        "Σ",
        "σ",
        "İ",
        "ﬁ",
        "½",
        "\u00a8",
        "-",
        "字",
        "\U0001f600",
    ]
)
words = st.lists(st.lists(pieces, max_size=6).map("".join), min_size=1, max_size=8)
rules = st.builds(
    LabelRules,
    whitespace=st.sampled_from(["keep", "collapse", "remove"]),
    unicode=st.sampled_from(["keep", "NFC", "NFD", "NFKC", "NFKD", "ascii"]),
    case=st.sampled_from(["keep", "lower", "upper"]),
    unknown=st.sampled_from(["drop_character", "drop_sample"]),
    max_length=st.sampled_from([None, 1, 3]),
)


@settings(max_examples=300)
@given(words, rules, st.sampled_from(["abz7", "aBz7 éß-", "abzABZ7σςΣ\u0301i 字", "I"]))
def test_many_at_once_are_what_the_rules_make_of_each(words, rules, characters):
    charset = Charset(characters)
    kept, skipped = {}, {}
    for word in words:
        try:
            label = rules.apply(word, charset)
        except LabelSkip as skip:
            skipped[skip.reason] = skipped.get(skip.reason, 0) + 1
        else:
            if label in kept:
                skipped["duplicate"] = skipped.get("duplicate", 0) + 1
            kept[label] = None
    if not kept:
        with pytest.raises(DataError, match="no word that can be read"):
            Lexicon.from_words(words, charset, rules=rules)
        return
    lexicon = Lexicon.from_words(words, charset, rules=rules)
    assert lexicon.words == list(kept)
    assert {reason: found.number for reason, found in lexicon.skipped.items()} == skipped


def test_the_default_rules_are_those_of_the_charset():
    for characters, given_, expected in [
        ("36", "Ab É", "abe"), ("ABC", "ab c", "ABC"), ("abcé ", "a  bC\u0065\u0301", "a bcé"), ("94", "It's", "It's"),
    ]:  # fmt: skip
        lexicon = Lexicon.from_words([given_], Charset(characters))
        assert lexicon.words == [expected]
        config = CharsetConfig(characters=characters)
        assert config.rules().apply(given_, config.charset()) == expected


def test_words_are_never_cut():
    rules = LabelRules(case="lower", max_length=3, truncate=True)
    lexicon = Lexicon.from_words(["abcd", "abc"], CHARSET, rules=rules)
    assert (lexicon.words, lexicon.skipped["too_long"].number) == (["abc"], 1)


def test_unknown_characters_may_be_an_error():
    with pytest.raises(CharsetError, match=r"label 'a\?!' has characters that are not in the charset: '\?!'"):
        Lexicon.from_words(["ab", "a?!"], CHARSET, rules=LabelRules(unknown="error"))


def test_large_charsets():
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 7000)))
    lexicon = Lexicon.from_words([characters[6999] + characters[300], characters[:3]], Charset(characters))
    assert [lexicon.ids(index) for index in (0, 1)] == [(6999, 300), (0, 1, 2)]
    assert lexicon.trie.characters.tolist() == [0, 0, 6999, 1, 300, 2]


# ---------------------------------------------------------------------------------------------------------------------
# The trie


@settings(max_examples=200)
@given(st.integers(1, 4), st.lists(st.text("0123", max_size=25), min_size=1, max_size=20))
def test_the_trie_has_every_prefix_once(num_characters, texts):
    charset = Charset("0123"[:num_characters])
    texts = ["".join(str(int(c) % num_characters) for c in text) for text in texts]
    lexicon = Lexicon.from_words(texts, charset, keep_empty=True)
    trie, found = lexicon.trie, {}

    def walk(node, prefix):
        found[prefix] = int(trie.words[node])
        for child in range(trie.children[node], trie.children[node + 1]):
            walk(child, prefix + charset.characters[trie.characters[child]])

    walk(0, "")
    prefixes = {text[:length] for text in texts for length in range(len(text) + 1)}
    assert len(trie) == len(prefixes)
    assert found == {p: lexicon.words.index(p) if p in lexicon.words else -1 for p in prefixes}


def test_the_trie_says_which_words_repeat_earlier_ones():
    ids = np.array([1, 2, 1, 1, 2, 1], dtype=np.uint8)
    ends = np.array([0, 2, 3, 3, 5, 5, 6], dtype=np.int32)  # 12, 1, nothing, 12, nothing, 1
    trie, repeated = word_trie.build_trie(ids, ends, 3)
    assert repeated.tolist() == [False, False, False, True, True, True]
    assert trie.words.tolist() == [2, 1, 0]
    assert trie.children.tolist() == [1, 2, 3, 3]


def test_memory_is_what_is_said():
    rng = np.random.default_rng(0)
    lexicon = Lexicon.from_words(["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(20_000)], CHARSET)
    before = len(lexicon) * (6 + 4) + 4
    assert lexicon.num_bytes == before + len(lexicon.trie) * (1 + 4 + 4) + 4


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block", [3, 7, 1 << 22])
def test_a_file(tmp_path, monkeypatch, packed, block):
    monkeypatch.setattr(word_lines, "_BLOCK_BYTES", max(block, 12))
    data = "\ufeffÉcole\r\nZoo\t17\n\nzoo\r\nend".encode()
    path = tmp_path / "words.txt"  # it is the content that says whether it is compressed
    path.write_bytes(gzip.compress(data) if packed else data)
    lexicon = Lexicon.load(path, CHARSET)
    assert lexicon.words == ["ecole", "zoo", "end"]
    assert lexicon.skipped == {"empty_label": (1, ("",)), "duplicate": (1, ("zoo",))}
    assert repr(lexicon) == f"Lexicon of 3 words in {CHARSET!r}"


def test_what_is_no_word_list(tmp_path):
    cases = {
        "absent.txt": (None, "No such file or directory"),
        "latin.txt": ("é\n".encode("latin-1"), "is not UTF-8 text in lines"),
        "wide.txt": ("word\n".encode("utf-16-le"), "is not UTF-8 text in lines"),
        "cut.gz": (gzip.compress(bytes(range(256)) * 40)[:-20], "is damaged"),
        "cut.txt": ("zoo\né".encode()[:-1], "is not UTF-8 text in lines"),
        "empty.txt": (b"", r"has no word that can be read \(it is empty\)"),
        "other.txt": (b"???\n\n!", r"unknown_character: 2 \('\?\?\?', '!'\); empty_label: 1 \(''\)"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            Lexicon.load(tmp_path / name, CHARSET)
        assert f"lexicon {tmp_path / name}" in str(caught.value)


def test_limits(tmp_path, monkeypatch):
    path = tmp_path / "words.txt"
    path.write_text("abc\ndef\n" * 3, "utf-8")
    monkeypatch.setattr(lexicon_module, "_MOST_CHARACTERS", 17)
    with pytest.raises(DataError, match="has more than 17 characters; expected fewer"):
        Lexicon.load(path, CHARSET)
    monkeypatch.setattr(word_lines, "_BLOCK_BYTES", 1 << 10)
    path.write_text("a" * 5000, "utf-8")
    with pytest.raises(DataError, match="is not UTF-8 text in lines"):
        Lexicon.load(path, CHARSET)


@pytest.mark.parametrize("words", [[], ["", " "], ["é\u0301!"]])
def test_a_lexicon_without_words(words):
    with pytest.raises(DataError, match="the lexicon has no word that can be read"):
        Lexicon.from_words(words, CHARSET)


def test_one_text_is_not_a_list_of_words():
    with pytest.raises(DataError, match=r"words are the text 'words\.txt'; expected a list of words"):
        Lexicon.from_words("words.txt", CHARSET)


def test_decomposed_input_is_composed_for_charsets_that_are():
    assert Lexicon.from_words([unicodedata.normalize("NFD", "Zürich")], Charset("zürich")).words == ["zürich"]


def test_many_words_keep_their_numbers_when_repeated_ones_go(monkeypatch):
    words = ["ab", "cd", "ab", "ef", "cd", "b"]
    few = Lexicon.from_words(words, CHARSET)
    monkeypatch.setattr(lexicon_module, "_FEW_WORDS", -1)
    many = Lexicon.from_words(words, CHARSET)
    assert many.words == few.words == ["ab", "cd", "ef", "b"]
    assert many.trie.words.tolist() == few.trie.words.tolist()

"""Lexicons: words follow the label rules, the trie has every prefix, and what is skipped is counted."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.decoding import lexicon as lexicon_module
from crnn.decoding.lexicon import Lexicon
from crnn.errors import CharsetError, DataError

CHARSET = Charset("36")


def test_words_are_labels_each_once_in_their_order():
    # The half is 1, fraction slash, 2 in NFKD; the slash is not ASCII and goes, as it does from labels.
    words = ["Zebra", "book7", "", "a-b", "BOOK 7", "ZEBRA", "x" * 257, "é", "it's", "q?", "r!", "s.", "one\ntwo", "½"]
    lexicon = Lexicon.from_words(words, CHARSET)
    assert lexicon.words == ["zebra", "book7", "e", "onetwo", "12"]
    assert (len(lexicon), lexicon.ids(2)) == (5, (4,))
    assert lexicon.skipped == {
        "too_long": (1, ("x" * 257,)),
        "unknown_character": (5, ("a-b", "it's", "q?", "r!", "s.")),
        "empty_label": (1, ("",)),
        "duplicate": (2, ("book7", "zebra")),
    }
    assert Lexicon.from_words([*"?!-+/&%", "a"], CHARSET).skipped["unknown_character"] == (7, tuple("?!-+/"))


@pytest.mark.parametrize(
    ("characters", "word", "expected"),
    [
        ("36", "Ab É", "abe"), ("ABC", "ab c", "ABC"), ("abcé ", "a  bC\u0065\u0301", "a bcé"), ("94", "It's", "It's"),
    ],
)  # fmt: skip
def test_the_default_rules_are_those_of_the_charset(characters, word, expected):
    assert Lexicon.from_words([word], Charset(characters)).words == [expected]
    config = CharsetConfig(characters=characters)
    assert config.rules().apply(word, config.charset()) == expected


def test_words_are_never_cut_and_unknown_characters_may_be_an_error():
    rules = LabelRules(case="lower", max_length=3, truncate=True)
    lexicon = Lexicon.from_words(["abcd", "abc"], CHARSET, rules=rules)
    assert (lexicon.words, lexicon.skipped["too_long"][0]) == (["abc"], 1)
    with pytest.raises(CharsetError, match=r"label 'a\?!' has '\?!', which charset.characters lacks"):
        Lexicon.from_words(["ab", "a?!"], CHARSET, rules=LabelRules(unknown="error"))


@settings(max_examples=100)
@given(st.integers(1, 4), st.lists(st.text("0123", min_size=1, max_size=25), min_size=1, max_size=20))
def test_the_trie_has_every_prefix_once(num_characters, texts):
    charset = Charset("0123"[:num_characters])
    texts = ["".join(str(int(c) % num_characters) for c in text) for text in texts]
    lexicon = Lexicon.from_words(texts, charset)
    trie, found = lexicon.trie, {}

    def walk(node, prefix):
        found[prefix] = int(trie.words[node])
        for child in range(trie.children[node], trie.children[node + 1]):
            walk(child, prefix + charset.characters[trie.characters[child]])

    walk(0, "")
    prefixes = {text[:length] for text in texts for length in range(len(text) + 1)}
    assert len(trie) == len(prefixes)
    assert found == {p: lexicon.words.index(p) if p in lexicon.words else -1 for p in prefixes}


def test_large_charsets():
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 7000)))
    lexicon = Lexicon.from_words([characters[6999] + characters[300], characters[:3]], Charset(characters))
    assert [lexicon.ids(index) for index in (0, 1)] == [(6999, 300), (0, 1, 2)]
    assert lexicon.trie.characters.tolist() == [0, 0, 6999, 1, 300, 2]
    assert lexicon.trie.characters.dtype == np.uint16


@pytest.mark.parametrize("packed", [False, True])
def test_a_file(tmp_path, packed):
    data = "\ufeffÉcole\r\nZoo\t17\n\nzoo\r\nend".encode()
    path = tmp_path / "words.txt"  # it is the content that says whether it is compressed
    path.write_bytes(gzip.compress(data) if packed else data)
    lexicon = Lexicon.load(path, CHARSET)
    assert lexicon.words == ["ecole", "zoo", "end"]
    assert lexicon.skipped == {"empty_label": (1, ("",)), "duplicate": (1, ("zoo",))}
    path.write_bytes(path.read_bytes() + (b"" if packed else b"\n"))
    assert Lexicon.load(path, CHARSET).skipped["empty_label"][0] == 1  # the end of the last line is no word


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "No such file or directory"),
        ("é\n".encode("latin-1"), "is not text in UTF-8"),
        ("word\n".encode("utf-16-le"), "is not text in UTF-8"),
        (gzip.compress(b"word\n" * 4000)[:-20], "is damaged"),
        (b"", r"has no word in the characters .*\(it is empty\)"),
        (b"???\n\n!", r"unknown_character: 2 \('\?\?\?', '!'\); empty_label: 1 \(''\)"),
    ],
)
def test_files_that_are_no_word_lists(tmp_path, data, message):
    path = tmp_path / "words.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        Lexicon.load(path, CHARSET)
    assert f"lexicon {path}" in str(caught.value)


def test_words_that_make_no_lexicon(monkeypatch):
    for words in ([], ["", " "], ["é\u0301!"]):
        with pytest.raises(DataError, match="the lexicon has no word in the characters"):
            Lexicon.from_words(words, CHARSET)
    with pytest.raises(DataError, match=r"words are the text 'words\.txt'; expected a list of words"):
        Lexicon.from_words("words.txt", CHARSET)
    monkeypatch.setattr(lexicon_module, "_MOST_CHARACTERS", 5)
    assert len(Lexicon.from_words(["abc", "abc", "ab"], CHARSET)) == 2
    with pytest.raises(DataError, match=r"has 6 characters; expected at most 5\. Shorten it"):
        Lexicon.from_words(["abc", "def"], CHARSET)

"""Character models: counts and probabilities against sums by hand, states against strings, and the file."""

import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from crnn.charset import Charset, LabelRules
from crnn.decoding import language_model
from crnn.decoding.language_model import CharacterModel
from crnn.decoding.language_model_file import load_language_model, save_language_model
from crnn.decoding.ngram_counts import MAX_ORDER, count_ngrams
from crnn.errors import CharsetError, ConfigError, DataError

ABC = Charset("abc")
words_of_abc = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=8)


def plain_counts(weights, order):
    """For each context the weight of every symbol behind it; ``^`` and ``$`` are the marks."""
    counts = {}
    for word, weight in weights:
        marked = f"^{word}$"
        for end in range(1, len(marked)):
            for start in range(max(0, end - order + 1), end + 1):
                following = counts.setdefault(marked[start:end], {})
                following[marked[end]] = following.get(marked[end], 0.0) + weight
    return counts


def plain_probability(counts, context, symbol, num_symbols):
    """Witten and Bell's, from the longest context down."""
    following = counts.get(context, {})
    below = plain_probability(counts, context[1:], symbol, num_symbols) if context else 1.0 / num_symbols
    if not following:
        return below
    return (following.get(symbol, 0.0) + len(following) * below) / (sum(following.values()) + len(following))


# ---------------------------------------------------------------------------------------------------------------------
# Probabilities


@settings(max_examples=40)
@given(words=words_of_abc, order=st.integers(1, 5), data=st.data())
def test_probabilities_are_those_of_the_formula(words, order, data):
    weights = [(word, data.draw(st.sampled_from([0.25, 1.0, 3.0]))) for word in words]
    counts, model = plain_counts(weights, order), CharacterModel.train(weights, ABC, order)
    for text in data.draw(st.lists(st.text("abc", max_size=7), min_size=1, max_size=5)):
        marked = f"^{text}$"
        state, total = np.array([model.start]), 0.0
        for end in range(1, len(marked)):
            expected = [plain_probability(counts, marked[max(0, end - order + 1) : end], s, 4) for s in "abc$"]
            log_probs, following = model.next_log_probs(state)
            np.testing.assert_allclose(np.exp(log_probs[0]), expected, rtol=1e-5)
            total += math.log(expected["abc$".index(marked[end])])
            state = following[:, "abc$".index(marked[end])] if end < len(marked) - 1 else state
        assert model.log_probs([ABC.encode(text)])[0] == pytest.approx(total, abs=1e-5)


def test_the_probabilities_of_all_texts_sum_to_one():
    model = CharacterModel.train(["ab", "abc", "ca"], ABC, 3)
    texts = [text for length in range(11) for text in itertools.product(range(3), repeat=length)]
    total = np.exp(model.log_probs(texts)).sum()
    assert 0.97 < total < 1.0
    assert total > np.exp(model.log_probs(texts[: -(3**10)])).sum()


def test_a_batch_of_any_shape_and_of_texts_of_any_length():
    model = CharacterModel.train(["abba", "cab", "bcc"], ABC, 4)
    states = np.arange(12).reshape(3, 4) % model.num_states
    log_probs, following = model.next_log_probs(states)
    assert (log_probs.shape, following.shape) == ((3, 4, 4), (3, 4, 3))
    assert np.isfinite(log_probs).all()
    assert 0 <= following.min() <= following.max() < model.num_states
    texts = [[], [0], [0, 1, 1, 0], [2, 2, 2, 2, 2, 2, 2], [1]]
    together = model.log_probs(texts)
    assert together.tolist() == [model.log_probs([text])[0] for text in texts]
    assert model.log_probs([]).shape == (0,)


def test_rows_of_large_models_are_made_when_asked_for(monkeypatch):
    words = ["abba", "cabbage"[:3], "bcc", "a", "ccc"]
    dense = CharacterModel.train(words, ABC, 5)
    monkeypatch.setattr(language_model, "_DENSE_BYTES", 0)
    sparse = CharacterModel.train(words, ABC, 5)
    states = np.random.default_rng(0).integers(0, dense.num_states, (5, 30))
    for ours, theirs in zip(sparse.next_log_probs(states), dense.next_log_probs(states), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_words_look_like_is_likelier():
    words = ["house", "mouse", "louse", "horse", "morse", "hours", "mouth", "south", "north", "house"]
    model = CharacterModel.train(words, Charset("36"), 4)
    encode = Charset("36").encode
    likely, unlikely = model.log_probs([encode("housh"), encode("uhsoe")])
    assert likely > unlikely + 5.0


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def test_weights_are_occurrences_and_words_may_come_again():
    many = CharacterModel.train(["ab", "ab", "ab", "c"], ABC, 3)
    weighted = CharacterModel.train([("ab", 3.0), "c"], ABC, 3)
    assert many.num_words == 4
    texts = [[0, 1], [2], [], [1, 1]]
    assert many.log_probs(texts).tolist() == weighted.log_probs(texts).tolist()
    assert many.log_probs(texts)[0] > CharacterModel.train(["ab", "c"], ABC, 3).log_probs(texts)[0]


def test_words_become_what_labels_become():
    given, charset = ["O'Neil", "ÉTÉ", "?!"], Charset("36")
    counts, skipped = count_ngrams(given, charset, 3)
    assert skipped == {"empty_label": 1}
    assert counts.num_words == 2
    expected = count_ngrams(["oneil", "ete"], charset, 3)[0]
    assert np.array_equal(counts.symbols, expected.symbols)
    assert np.array_equal(counts.counts, expected.counts)
    with pytest.raises(CharsetError, match="not in the charset"):
        count_ngrams(["O'Neil"], charset, 3, LabelRules(unknown="error"))
    assert count_ngrams(["a" * 300], charset, 2)[0].num_words == 1  # longer than any label


def test_counts_are_small():
    counts = count_ngrams(["abc" * 5, "cab"], ABC, 4)[0]
    assert (counts.symbols.dtype, counts.children.dtype) == (np.uint8, np.uint8)
    assert counts.children.sum() == counts.symbols.size == counts.children.size - 1
    assert (
        count_ngrams([chr(0x4E00 + n) for n in range(300)], Charset("".join(map(chr, range(0x4E00, 0x4F2C)))), 2)[
            0
        ].symbols.dtype
        == np.uint16
    )


@pytest.mark.parametrize(
    ("words", "order", "error", "message"),
    [
        (["a"], 0, ConfigError, f"order is 0; expected 1 to {MAX_ORDER}"),
        (["a"], MAX_ORDER + 1, ConfigError, "order is 13"),
        ([], 3, DataError, r"no word to learn from \(none was given\)"),
        (["?", "!"], 3, DataError, r"no word to learn from \(empty_label: 2\)"),
        ([("a", 0.0)], 3, DataError, "word 'a' has the weight 0.0; expected a number above 0"),
        ([("a", math.nan)], 3, DataError, "the weight nan"),
        ([("a", math.inf)], 3, DataError, "the weight inf"),
    ],
)
def test_what_cannot_be_counted(words, order, error, message):
    with pytest.raises(error, match=message):
        count_ngrams(words, ABC, order)


def test_ids_that_are_no_characters():
    model = CharacterModel.train(["a"], ABC, 2)
    for wrong in ([3], [-1]):
        with pytest.raises(DataError, match="expected 0 to 2"):
            model.log_probs([[0], wrong])


@pytest.mark.parametrize("order", [1, 2, MAX_ORDER])
def test_the_shortest_and_the_longest_order(order):
    model = CharacterModel.train(["abcabcabcabcabc", "b"], ABC, order)
    assert model.num_states == 1 if order == 1 else model.num_states > 3
    row = np.exp(model.next_log_probs(np.arange(model.num_states))[0].astype(np.float64))
    np.testing.assert_allclose(row.sum(axis=1), 1.0, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The file


@pytest.fixture
def model():
    return CharacterModel.train([("house", 2.5), "mouse", "42"], Charset("36"), 4)


def test_a_file_gives_the_same_model(model, tmp_path):
    path = tmp_path / "words.lm"
    assert save_language_model(model, path) == path.stat().st_size < 2000
    again = load_language_model(path, Charset("36"))
    states = np.arange(model.num_states)
    for ours, theirs in zip(again.next_log_probs(states), model.next_log_probs(states), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.order, again.num_words, again.charset) == (4, 3, Charset("36"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["words.lm"]
    copy = pickle.loads(pickle.dumps(model))  # it goes to worker processes
    assert copy.log_probs([[7]]).tolist() == model.log_probs([[7]]).tolist()


def test_another_charset_is_refused(model, tmp_path):
    save_language_model(model, tmp_path / "words.lm")
    with pytest.raises(CharsetError, match=r"words\.lm: is for Charset\('abcd.*, the network writes Charset\('abc'\)"):
        load_language_model(tmp_path / "words.lm", ABC)
    assert load_language_model(tmp_path / "words.lm").charset == Charset("36")


def read_parts(path):
    with safe_open(path, framework="numpy") as file:
        return load_file(path), dict(file.metadata())


def test_files_that_are_no_model(model, tmp_path):
    path = tmp_path / "words.lm"
    with pytest.raises(DataError, match="there is no such file"):
        load_language_model(path)
    with pytest.raises(DataError, match="cannot be written"):
        save_language_model(model, tmp_path / "none" / "words.lm")
    save_language_model(model, path)
    data = path.read_bytes()
    for wrong in (b"", b"words\n", data[: len(data) // 2], data[:-1]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="not a safetensors file, or cut short"):
            load_language_model(path)
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(DataError, match="of another program; expected a language model"):
        load_language_model(path)
    save_file({"x": np.zeros(2)}, path, metadata={"format": "crnn-weights"})
    with pytest.raises(DataError, match="is a 'crnn-weights' file"):
        load_language_model(path)


def test_every_flipped_byte_is_noticed(model, tmp_path):
    path = tmp_path / "words.lm"
    save_language_model(model, path)
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data), 7):
        changed = data.copy()
        changed[place] ^= 16
        path.write_bytes(changed)
        with pytest.raises(DataError, match="checksum does not fit"):
            load_language_model(path)


def test_a_newer_version_is_refused(model, tmp_path):
    path = tmp_path / "words.lm"
    save_language_model(model, path)
    arrays, metadata = read_parts(path)
    save_file(arrays, path, metadata={**metadata, "format_version": "2"})
    with pytest.raises(DataError, match=r"has format version 2 of crnn .*; this version reads 1"):
        load_language_model(path)
    save_file(arrays, path, metadata={**metadata, "words": "7"})
    with pytest.raises(DataError, match="checksum does not fit"):
        load_language_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"symbols": lambda a: a[:-1]},
        {"symbols": lambda a: a + np.uint8(40)},
        {"symbols": lambda a: a[::-1].copy()},
        {"counts": lambda a: -a},
        {"counts": lambda a: a * np.float32(np.nan)},
        {"children": lambda a: a[::-1].copy()},
        {"children": lambda a: np.zeros_like(a)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_counts_that_contradict_themselves(model, change):
    ((name, how),) = change.items()
    with pytest.raises(DataError, match="the n-grams"):
        CharacterModel(dataclasses.replace(model.counts, **{name: how(getattr(model.counts, name))}))
    with pytest.raises(DataError, match="expected order 3"):
        CharacterModel(dataclasses.replace(model.counts, order=3))


def test_metadata_that_cannot_be_used(model, tmp_path, monkeypatch):
    wrong = [{"characters": json.dumps("aa")}, {"order": "0"}, {"order": "x"}, {"characters": "["}, {"characters": "7"}]
    path = tmp_path / "words.lm"
    save_language_model(model, path)
    arrays, metadata = read_parts(path)
    monkeypatch.setattr("crnn.decoding.language_model_file._digest", lambda *_: "fits")
    for change in wrong:
        save_file(arrays, path, metadata={**metadata, **change, "sha256": "fits"})
        with pytest.raises(DataError, match="The file was changed"):
            load_language_model(path)

"""Reading with a lexicon against enumeration of all paths, against the scores of all words, and against torch."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset
from crnn.decoding import lexicon_search
from crnn.decoding.ctc import decode_greedy, sequence_log_probs
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon
from crnn.errors import ConfigError, DataError

CHARSET = Charset("36")


@pytest.fixture(params=["one by one", "search"])
def either_way(request, monkeypatch):
    """Few words are scored one by one; here both ways meet the same words."""
    monkeypatch.setattr(lexicon_search, "_FEW_WORDS", 10**9 if request.param == "one by one" else 0)


@pytest.fixture
def searching(monkeypatch):
    monkeypatch.setattr(lexicon_search, "_FEW_WORDS", 0)


def random_words(seed, count, letters="abcdefgh", lengths=(1, 10)):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(letters), rng.integers(*lengths))) for _ in range(count)]


def ranked(sample, lexicon):
    """All possible words of one sample (T, V), the likeliest first, and log-probability of all together."""
    scores = sequence_log_probs(
        sample[None], [lexicon.ids(i) for i in range(len(lexicon))], np.zeros(len(lexicon), dtype=np.intp)
    )
    order = np.lexsort((np.arange(len(scores)), -scores))
    words = [(i, lexicon.ids(i), float(scores[i])) for i in order.tolist() if scores[i] > -np.inf]
    return words, np.logaddexp.reduce(scores)


def check_exact(log_probs, lexicon, n_best):
    """The matches are the first of all words, bit for bit, and posteriors are as close as is said."""
    found = decode_lexicon(log_probs, lexicon, n_best, posterior=True)
    assert len(found) == len(log_probs)
    for n, (sample, matches) in enumerate(zip(log_probs, found, strict=True)):
        words, total = ranked(sample, lexicon if isinstance(lexicon, Lexicon) else lexicon[n])
        assert [(m.index, m.ids, m.score) for m in matches] == words[:n_best]
        for match in matches:
            assert match.posterior <= math.exp(match.score - total) * (1.0 + 1e-9)
            assert match.posterior >= math.exp(match.score - total) / 1.011
    quicker = decode_lexicon(log_probs, lexicon, n_best)
    assert [[(m.index, m.score) for m in row] for row in quicker] == [
        [(m.index, m.score) for m in row] for row in found
    ]


@pytest.mark.usefixtures("either_way")
@settings(max_examples=30)
@given(data=st.data(), n_best=st.integers(1, 4))
def test_words_are_those_of_the_largest_sums_over_all_paths(small_log_probs, path_sums, data, n_best):
    log_probs = data.draw(small_log_probs)
    letters = "abc"[: log_probs.shape[2] - 1]
    texts = ["".join(text) for length in range(1, 7) for text in itertools.product(letters, repeat=length)]
    words = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=40, unique=True))
    lexicon = Lexicon.from_words(words, Charset(letters))
    found = decode_lexicon(log_probs, lexicon, n_best, posterior=True)
    for sample, matches in zip(log_probs, found, strict=True):
        sums = path_sums(sample)
        expected = [sums.get(lexicon.ids(i), (0.0,))[0] for i in range(len(lexicon))]
        possible = sorted((-p, i) for i, p in enumerate(expected) if p > 0.0)
        assert len(matches) == min(n_best, len(possible))
        for match, (probability, _) in zip(matches, possible, strict=False):
            # Rounding may exchange words that are equally likely; the test of ties below has exact ones.
            assert math.isclose(math.exp(match.score), -probability, rel_tol=1e-12)
            assert math.isclose(expected[match.index], -probability, rel_tol=1e-12)
            assert match.ids == lexicon.ids(match.index)
            assert match.posterior == pytest.approx(-probability / sum(expected), rel=0.0101)
    check_exact(log_probs, lexicon, n_best)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("n_best", [1, 3, 25])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_best_of_all_words_on_random_steps(random_log_probs, n_best, sharpness):
    log_probs = random_log_probs(1, 6, 12, 9, sharpness)
    check_exact(log_probs, Lexicon.from_words(random_words(2, 300), Charset("abcdefgh")), n_best)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_best_of_all_words_on_trained_steps(peaked_log_probs, dtype):
    log_probs = peaked_log_probs(3, 12, dtype=dtype)  # float16 sums to 1 within 0.004 a step only
    words = random_words(4, 1500, CHARSET.characters, (1, 14))
    words += [CHARSET.decode(text.ids) for text in decode_greedy(log_probs)[::2]] + [
        "aa",
        "aaa",
        "bookkeeper",
        "a" * 13,
    ]
    check_exact(log_probs, Lexicon.from_words(words, CHARSET), 3)


@pytest.mark.usefixtures("searching")
def test_likely_and_next_to_impossible_words_in_one_batch(random_log_probs):
    log_probs = random_log_probs(7, 6, 24, 9, 1.0)
    log_probs[[1, 4]] = random_log_probs(8, 2, 24, 9, 2000.0)
    log_probs[2, 5] = -np.inf
    log_probs[2, 5, 3] = 0.0  # many words are impossible
    check_exact(log_probs, Lexicon.from_words(random_words(6, 200), Charset("abcdefgh")), 2)


@pytest.mark.usefixtures("searching")
@pytest.mark.parametrize(("dive", "pairs"), [(1, 3), (2, 50), (100, 1000)])
def test_the_order_of_the_search_does_not_matter(monkeypatch, random_log_probs, dive, pairs):
    monkeypatch.setattr(lexicon_search, "_DIVE", dive)
    monkeypatch.setattr(lexicon_search, "_MOST_PAIRS", pairs)
    log_probs = random_log_probs(9, 5, 10, 9, 1.5)
    check_exact(log_probs, Lexicon.from_words(random_words(10, 150), Charset("abcdefgh")), 4)


@pytest.mark.usefixtures("either_way")
def test_of_equal_words_the_first_of_the_lexicon():
    uniform = np.full((2, 9, 9), -math.log(9))
    words = ["hag", "bed", "cab", "abc", "gaf", "aab"]
    lexicon = Lexicon.from_words(words, Charset("abcdefgh"))
    for matches in decode_lexicon(uniform, lexicon, 6):
        assert [match.index for match in matches] == [0, 1, 2, 3, 4, 5]
        assert len({match.score for match in matches[:5]}) == 1
    turned = Lexicon.from_words(words[::-1], Charset("abcdefgh"))
    assert [match.index for match in decode_lexicon(uniform, turned, 3)[0]] == [1, 2, 3]  # "aab" is rarer


@pytest.mark.usefixtures("either_way")
def test_a_lexicon_for_each_image(peaked_log_probs):
    log_probs = peaked_log_probs(15, 5)
    lexicons = [Lexicon.from_words(random_words(n, 30 + n, CHARSET.characters), CHARSET) for n in range(3)]
    check_exact(log_probs, [lexicons[0], lexicons[1], lexicons[0], lexicons[2], lexicons[1]], 2)


@pytest.mark.usefixtures("either_way")
def test_batches_do_not_matter(monkeypatch, peaked_log_probs):
    log_probs = peaked_log_probs(16, 33)
    lexicons = [Lexicon.from_words(random_words(n, 80, CHARSET.characters), CHARSET) for n in range(2)]
    given_ = [lexicons[n % 3 % 2] for n in range(33)]
    whole = decode_lexicon(log_probs, given_, 3)
    assert [decode_lexicon(log_probs[n : n + 1], given_[n], 3)[0] for n in range(33)] == whole
    monkeypatch.setattr(lexicon_search, "_BATCH", 4)
    assert decode_lexicon(log_probs, given_, 3) == whole


@pytest.mark.usefixtures("either_way")
def test_no_steps_and_no_samples():
    lexicon = Lexicon.from_words(["a", "bb"], CHARSET)
    assert decode_lexicon(np.zeros((0, 24, 37)), lexicon) == decode_lexicon(np.zeros((0, 24, 37)), []) == []
    assert decode_lexicon(np.zeros((1, 0, 37)), lexicon, posterior=True) == [[]]


@pytest.mark.usefixtures("either_way")
def test_the_free_reading_where_it_is_likelier_by_the_margin(peaked_log_probs):
    log_probs = peaked_log_probs(19, 12)
    free = [text.ids for text in decode_greedy(log_probs)]
    scores = sequence_log_probs(log_probs, free)
    words = [CHARSET.decode(text) for text in free[:4]] + random_words(20, 200, CHARSET.characters)
    lexicon = Lexicon.from_words(words, CHARSET)
    plain = decode_lexicon(log_probs, lexicon, 2)
    gaps = [score - matches[0].score for score, matches in zip(scores, plain, strict=True)]
    assert gaps[:4] == [0.0] * 4
    middle = float(np.median(gaps[4:]))
    for margin in (0.0, middle, math.inf):
        for n, matches in enumerate(decode_lexicon(log_probs, lexicon, 2, margin)):
            if gaps[n] > margin:
                assert matches == [LexiconMatch(None, free[n], scores[n], None), plain[n][0]]
            else:
                assert matches == plain[n]


def test_lexicons_that_do_not_fit(peaked_log_probs):
    lexicon = Lexicon.from_words(["a"], CHARSET)
    with pytest.raises(DataError, match="there are 2 lexicons for 8 samples of log_probs"):
        decode_lexicon(peaked_log_probs(26), [lexicon] * 2)
    with pytest.raises(DataError, match=r"37\); expected lexicons made with the"):
        decode_lexicon(peaked_log_probs(26), Lexicon.from_words(["a"], Charset("abc")))
    for margin in (-0.5, math.nan):
        with pytest.raises(ConfigError, match="margin is"):
            decode_lexicon(peaked_log_probs(27), lexicon, margin=margin)

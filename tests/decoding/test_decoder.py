"""The ways to find texts: what each option means, what goes together, and that scores and confidences are one thing."""

import itertools
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crnn.charset import Charset, LabelRules
from crnn.decoding.confidence import Calibration, ConfidenceCurve, confidences
from crnn.decoding.ctc import DecodedText, decode_greedy, sequence_log_probs
from crnn.decoding.decoder import Decoder, DecodingOptions, lexicon_rules
from crnn.decoding.language import Language, train_language
from crnn.decoding.language_prior import DEFAULT_WEIGHT, padded
from crnn.decoding.lexicon import Lexicon
from crnn.errors import CharsetError, ConfigError, DataError

Draw = Callable[..., np.ndarray]

ABC = Charset("abc")
LOWER = LabelRules(case="lower", unknown="drop_character")
WORDS = ["a", "ab", "abc", "cab", "b", "bb"]
FREE, SPOKEN = ConfidenceCurve(0.6, 0.3), ConfidenceCurve(1.5, -0.2)
CALIBRATION = Calibration(FREE, SPOKEN, ("words",))


def decoder(calibration: Calibration | None = None, language: str = "none", **options: Any) -> Decoder:
    return Decoder(ABC, LOWER, DecodingOptions(**options), calibration=calibration, language=language)


def texts(found: list[Any]) -> list[str]:
    return [ABC.decode(d.ids) for d in found]


def every_text(d: DecodedText) -> list[str]:
    """The text and the others."""
    return [ABC.decode(d.ids), *(other.text for other in d.others)]


def every_confidence(d: DecodedText) -> list[float]:
    return [d.confidence, *(other.confidence for other in d.others)]


@pytest.fixture(scope="module")
def language() -> Language:
    return train_language([("cab", 5.0), ("abba", 1.0)], "cabs", 4)


@pytest.fixture
def log_probs(random_log_probs: Draw) -> np.ndarray:
    return random_log_probs(0, 40, 6, 4, sharpness=2.0)


@pytest.mark.parametrize(
    ("options", "plain", "spoken"),
    [
        ({}, "greedy", "beam"),
        ({"allow": "ab", "block": "c"}, "greedy", "beam"),
        ({"n_best": 3}, "beam", "beam"),
        ({"pattern": "a.*", "n_best": 3, "block": "b"}, "beam", "beam"),
        ({"lexicon": WORDS, "lexicon_margin": 1.0, "n_best": 2}, "lexicon", "lexicon"),
        ({"decode": "beam"}, "beam", "beam"),
        ({"decode": "greedy"}, "greedy", "greedy"),
        ({"lm": "none"}, "greedy", "greedy"),
    ],
    ids=str,
)
def test_auto_is_what_options_and_weights_ask_for(options: dict[str, Any], plain: str, spoken: str) -> None:
    assert decoder(**options).method == plain
    found = decoder(language="en", **options)
    assert (found.method, found.prior is not None) == (spoken, spoken == "beam")
    if found.prior is not None:
        assert (found.prior.language.name, found.prior.weight) == ("en", DEFAULT_WEIGHT)


def test_a_language_comes_as_name_file_or_object(tmp_path: Path, language: Language, log_probs: np.ndarray) -> None:
    path = tmp_path / "cabs.lm"
    language.save(path)
    expected = decoder(lm=language).decode(log_probs)
    for lm in (path, str(path)):
        found = decoder(lm=lm)
        assert (found.method, found.prior is not None and found.prior.language.name) == ("beam", "cabs")
        assert found.decode(log_probs) == expected
    # It takes the place of that of the weights.
    assert decoder(lm=path, language="en").decode(log_probs) == expected
    english = decoder(lm="en")
    assert english.prior is not None
    assert english.prior.language.name == "en"
    assert english.decode(log_probs) == decoder(language="en").decode(log_probs) != expected
    plain = decoder()
    assert (plain.method, plain.prior) == ("greedy", None)
    assert plain.decode(log_probs) == decoder(lm="none").decode(log_probs)


def test_patterns_lists_and_lexicons_follow_the_rules_of_the_network() -> None:
    """A charset whose own rules would not take an accent apart, for a network that was trained with ones that do."""
    charset, rules = Charset("abe\u0301"), LabelRules(unicode="NFD")
    log_probs = np.full((1, 4, 5), math.log(0.1))
    log_probs[0, [0, 1, 2, 3], [2, 3, 2, 3]] = math.log(0.6)
    for option in ({"pattern": "(\u00e9)+"}, {"allow": "\u00e9"}, {"lexicon": ["\u00e9\u00e9", "ab"]}):
        (found,) = Decoder(charset, rules, DecodingOptions(**option)).decode(log_probs)
        assert charset.decode(found.ids) == "e\u0301e\u0301", option


def test_the_likeliest_word_of_a_lexicon(log_probs: np.ndarray) -> None:
    found = decoder(lexicon=WORDS, n_best=len(WORDS)).decode(log_probs)
    for n, d in enumerate(found):
        ids = [tuple(ABC.encode(word)) for word in WORDS]
        scores = sequence_log_probs(log_probs, ids, np.full(len(ids), n))
        order = np.argsort(-scores)
        assert every_text(d) == [WORDS[k] for k in order]
        assert d.score == pytest.approx(scores.max())
        # The share among all words, beside the chance that it is none of them.
        (free,) = decode_greedy(log_probs[n : n + 1])
        total = np.exp(scores).sum()
        others = 0.0 if free.ids in ids else 0.02 * math.exp(free.score)
        shares = np.exp(scores) / (total + others)
        assert every_confidence(d) == pytest.approx(shares[order].tolist())
        assert sum(every_confidence(d)) <= 1.0 + 1e-9


def test_a_lexicon_comes_as_words_file_or_object(tmp_path: Path, log_probs: np.ndarray) -> None:
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in WORDS))
    given = [WORDS, tmp_path / "words.txt", str(tmp_path / "words.txt"), Lexicon.from_words(WORDS, ABC)]
    results = [texts(decoder(lexicon=lexicon).decode(log_probs)) for lexicon in given]
    assert all(result == results[0] for result in results)
    assert set(results[0]) <= set(WORDS)


def test_words_of_a_lexicon_get_the_form_of_labels_and_lose_no_end() -> None:
    rules = LabelRules(case="lower", unknown="drop_character", max_length=3, truncate=True)
    found = Decoder(ABC, rules, DecodingOptions(lexicon=["A-B-C-A", "CAB"])).lexicon
    assert found is not None
    assert found.words == ["abca", "cab"]
    assert lexicon_rules(LabelRules(unknown="error")).unknown == "drop_sample"


def test_the_free_text_wins_by_more_than_the_margin(log_probs: np.ndarray) -> None:
    free = decode_greedy(log_probs)
    words = decoder(lexicon=WORDS).decode(log_probs)
    margins = [f.score - w.score for f, w in zip(free, words, strict=True)]
    margin = float(np.median([m for m in margins if m > 0]))
    found = decoder(lexicon=WORDS, lexicon_margin=margin, calibration=CALIBRATION).decode(log_probs)
    took = [m > margin for m in margins]
    assert 0 < sum(took) < len(took)
    for d, f, w, is_free in zip(found, free, words, took, strict=True):
        assert d.ids == (f if is_free else w).ids
        if not is_free:
            assert d.confidence == w.confidence
    rows = [n for n, is_free in enumerate(took) if is_free]
    expected = confidences([math.exp(free[n].score) for n in rows], FREE)
    assert [found[n].confidence for n in rows] == pytest.approx(expected.tolist())


def test_a_pattern_goes_with_lists_and_a_language(log_probs: np.ndarray, language: Language) -> None:
    """Against all texts, ranked as the beam ranks; a beam of 200 prefixes drops none of these."""
    pattern = re.compile("(ca?b|[a-b]+c?)")
    every = ["".join(t) for length in range(1, 7) for t in itertools.product("abc", repeat=length)]
    for options in ({}, {"allow": "ab"}, {"block": "c"}, {"lm": language, "lm_weight": 2.0}):
        options = {"beam_width": 200, "n_best": 2, **options}
        reader = decoder(pattern=pattern.pattern.upper(), **options)
        own = set("abc") if not {"allow", "block"} & set(options) else set("ab")
        fitting = [text for text in every if pattern.fullmatch(text) and set(text) <= own]
        ids = [tuple(ABC.encode(text)) for text in fitting]
        for n, d in enumerate(reader.decode(log_probs)):
            scores = sequence_log_probs(log_probs, ids, np.full(len(ids), n))
            ranks = scores if reader.prior is None else scores + reader.prior.score(*padded(ids))[0]
            best = np.argsort(-ranks)[:2]
            assert every_text(d) == [fitting[k] for k in best]
            assert d.score == pytest.approx(scores[best[0]])
            # What the network gives all of these, divided by rank.
            total = np.exp(scores).sum() / np.exp(ranks).sum()
            assert every_confidence(d) == pytest.approx((np.exp(ranks[best]) * total).tolist())


def test_a_pattern_finds_what_is_far_from_the_best_path() -> None:
    """Where the network is sure of letters, each of the ten likeliest prefixes is one of letters."""
    charset = Charset("0123456789abcdefghijklmnopqrstuvwxyz")
    log_probs = np.full((1, 10, 37), -30.0)
    log_probs[:, :, 36] = -20.0
    log_probs[:, :, 10:36] = -8.0
    for step, (letter, digit) in enumerate(zip("osbzioszbi", "0582105821", strict=True)):
        log_probs[0, step, charset.encode(letter)] = -0.01
        log_probs[0, step, charset.encode(digit)] = -15.0
    reader = Decoder(charset, LOWER, DecodingOptions(pattern="[0-9]{10}"))
    assert charset.decode(reader.decode(log_probs)[0].ids) == "0582105821"


def test_only_allowed_characters_and_no_blocked_ones(log_probs: np.ndarray) -> None:
    for method in ("greedy", "beam"):
        allowed = decoder(decode=method, allow="AB").decode(log_probs)
        assert set("".join(texts(allowed))) == {"a", "b"}
        assert texts(decoder(decode=method, block="cC").decode(log_probs)) == texts(allowed)
        scores = sequence_log_probs(log_probs, [d.ids for d in allowed])
        assert [d.score for d in allowed] == pytest.approx(scores.tolist())  # that of the network, unchanged
    assert set("".join(texts(decoder(allow="ab", block="b").decode(log_probs)))) == {"a"}


def test_a_language_changes_texts_and_no_score(log_probs: np.ndarray, language: Language) -> None:
    plain = decoder(decode="beam").decode(log_probs)
    spoken = decoder(lm=language, lm_weight=3.0).decode(log_probs)
    assert texts(spoken).count("cab") > texts(plain).count("cab")
    scores = sequence_log_probs(log_probs, [d.ids for d in spoken])
    assert [d.score for d in spoken] == pytest.approx(scores.tolist())
    weightless = decoder(lm=language, lm_weight=0.0, n_best=2).decode(log_probs)
    assert texts(weightless) == texts(plain)


def test_groups_together_are_what_they_are_apart(random_log_probs: Draw, language: Language) -> None:
    groups = [random_log_probs(seed, 5, steps, 4, sharpness=2.0) for seed, steps in enumerate((4, 9, 6))]
    for options in ({}, {"lm": language}, {"lexicon": WORDS}, {"lm": language, "allow": "ab", "n_best": 2}):
        found = decoder(**options)
        assert found.decode_groups(groups) == [found.decode(log_probs) for log_probs in groups]


@pytest.mark.parametrize("options", [{}, {"pattern": "[ab]*"}, {"n_best": 3}, {"allow": "ab"}], ids=str)
def test_confidences_of_free_texts_are_on_the_curve(options: dict[str, Any], log_probs: np.ndarray) -> None:
    plain, fitted = decoder(**options), decoder(calibration=CALIBRATION, **options)
    assert (plain.calibrated, fitted.calibrated) == (False, True)
    assert (plain.curve, fitted.curve) == (ConfidenceCurve(), FREE)
    for before, d in zip(plain.decode(log_probs), fitted.decode(log_probs), strict=True):
        assert every_text(before) == every_text(d)  # texts and scores never depend on it
        assert before.score == d.score
        probabilities = np.exp([d.score, *(c.score for c in d.others)])
        assert every_confidence(before) == pytest.approx(probabilities, abs=2e-7)
        expected = confidences(probabilities, FREE).tolist()
        assert every_confidence(d) == pytest.approx(expected)


def test_confidences_with_a_language_are_shares_on_its_own_curve(log_probs: np.ndarray, language: Language) -> None:
    plain = decoder(lm=language, n_best=4).decode(log_probs)
    fitted = decoder(lm=language, n_best=4, calibration=CALIBRATION)
    assert fitted.curve == SPOKEN
    assert decoder(lm=language, calibration=Calibration(FREE)).curve == FREE  # fitted without a language
    for before, d in zip(plain, fitted.decode(log_probs), strict=True):
        shares = every_confidence(before)
        assert shares == sorted(shares, reverse=True)
        assert 0.0 < sum(shares) <= 1.0 + 1e-6
        expected = confidences(shares, SPOKEN).tolist()
        assert every_confidence(d) == pytest.approx(expected)


def test_a_pickled_decoder_with_a_pattern_finds_the_same_texts(log_probs: np.ndarray) -> None:
    found = decoder(pattern=re.compile("[AB]+C?", re.IGNORECASE), block="c", n_best=3)
    assert pickle.loads(pickle.dumps(found)).decode(log_probs) == found.decode(log_probs)


@pytest.mark.parametrize("options", [{"lexicon": ["abcabcabc"]}, {"pattern": "aaaaaa"}], ids=str)
def test_where_nothing_can_be_what_is_asked_for(options: dict[str, Any], log_probs: np.ndarray) -> None:
    for d in decoder(n_best=2, calibration=CALIBRATION, **options).decode(log_probs):
        assert (d.ids, d.score, d.others, d.confidence) == ((), -math.inf, (), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "best"}, "decode is 'best'; expected one of: auto, greedy, beam, lexicon"),
        ({"decode": "greedy", "n_best": 2}, "decode 'greedy' and n_best do not go together"),
        ({"decode": "greedy", "beam_width": 4}, "decode 'greedy' and beam_width do not go together"),
        ({"beam_width": 4, "lexicon": WORDS}, "lexicon and beam_width do not go together"),
        ({"decode": "beam", "lexicon": WORDS}, "decode 'beam' and lexicon do not go together"),
        ({"lm": "en", "lexicon": WORDS}, "lexicon and lm do not go together"),
        ({"lexicon_margin": 1.0}, "lexicon_margin is given without a lexicon"),
        ({"lm_weight": 1.0, "lm": "none"}, "lm_weight is given, and there is no language to weigh"),
        ({"lm": "en", "lm_weight": -0.5}, "lm_weight is -0.5; expected a number, 0 to 10"),
        ({"lm": "en", "lm_weight": math.nan}, "lm_weight is nan; expected a number, 0 to 10"),
        ({"n_best": 5000}, "n_best is 5000; expected a whole number, 1 to 1000"),
        ({"n_best": 11}, "n_best is 11; expected no more than beam_width, 10"),
        ({"beam_width": 0}, "beam_width is 0; expected a whole number, 1 or more"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_or_are_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        decoder(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(a|b)ж"}, "no text of the characters 'abc' matches it"),
        ({"pattern": "ac?b", "block": "B"}, "no text of the characters 'ac' matches it"),
        ({"lexicon": ["ж", "дом"]}, "the lexicon has no word in the characters .*empty_label: 2 "),
        ({"lexicon": Lexicon.from_words(["x"], Charset("xyz"))}, r"the lexicon is in Charset.*xyz.*, the network"),
        ({"lm": "nowhere.lm"}, r"language nowhere\.lm: there is no such file; expected one of crnn lm, or en"),
    ],
    ids=str,
)
def test_what_the_network_cannot_write_is_refused_when_it_is_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises((CharsetError, ConfigError, DataError), match=message) as caught:
        decoder(**options)
    assert "\n" not in str(caught.value)

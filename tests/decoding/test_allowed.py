"""Allow-lists and block-lists: what they mean, and that every decoder finds the best text that they leave."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.decoding.beam import beam_search
from crnn.decoding.constraints import allowed_classes, restrict
from crnn.decoding.ctc import decode_greedy
from crnn.errors import CharsetError, DataError


def allowed_text(charset, **lists):
    mask = allowed_classes(charset, **lists)
    assert mask.shape == (charset.num_classes,)
    assert mask[charset.blank]
    return charset.decode(np.flatnonzero(mask[:-1]).tolist())


# ---------------------------------------------------------------------------------------------------------------------
# Lists


@pytest.mark.parametrize(
    ("characters", "lists", "expected"),
    [
        ("abc1", {}, "abc1"),
        ("abc1", {"allow": "1a"}, "a1"),
        ("abc1", {"block": "b1"}, "ac"),
        ("abc1", {"allow": "abc", "block": "c"}, "ab"),
        ("abc1", {"allow": "AB"}, "ab"),
        ("abc1", {"block": "AB"}, "c1"),
        ("abAB", {"allow": "A"}, "A"),
        ("ABC", {"allow": "a"}, "A"),
        ("abc1", {"block": "?-é"}, "abc1"),  # the network cannot write them anyhow
        ("ae", {"allow": "é"}, "e"),
        ("ASÄ", {"allow": "ß"}, "S"),
        ("a b", {"allow": "a\t"}, "a "),
        ("字a", {"block": "字"}, "a"),
    ],
)
def test_what_lists_leave(characters, lists, expected):
    assert allowed_text(Charset(characters), **lists) == expected


def test_rules_of_a_model_may_be_others():
    charset = Charset("ab")
    assert allowed_text(charset, block="A", rules=LabelRules()) == "ab"
    with pytest.raises(CharsetError, match="allowed is 'A', which is not in the charset"):
        allowed_classes(charset, allow="A", rules=LabelRules())


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"allow": "ab?"}, r"allowed is '\?', which is not in the charset 'ab'"),
        ({"allow": " "}, "allowed is ' '"),
        ({"allow": ""}, "allow '' and block '' leave no character"),
        ({"block": "ab"}, "allow None and block 'ab' leave no character of the charset 'ab'; expected at least one"),
        ({"allow": "a", "block": "A"}, "leave no character"),
    ],
)
def test_lists_that_leave_nothing(lists, message):
    with pytest.raises(CharsetError, match=message):
        allowed_classes(Charset("ab"), **lists)


# ---------------------------------------------------------------------------------------------------------------------
# Decoders


@settings(max_examples=60)
@given(data=st.data())
def test_every_text_of_allowed_characters_and_no_other(small_log_probs, data, path_sums):
    log_probs = data.draw(small_log_probs)
    num_classes = log_probs.shape[2]
    allowed = np.array([*data.draw(st.lists(st.booleans(), min_size=num_classes - 1, max_size=num_classes - 1)), True])
    restricted = restrict(log_probs, allowed)
    for sample, ours, greedy in zip(log_probs, beam_search(restricted, 1000), decode_greedy(restricted), strict=True):
        sums = {t: p for t, (p, _) in path_sums(sample).items() if p > 0.0 and allowed[list(t)].all()}
        assert {h.ids for h in ours} == set(sums)
        for text, score, _ in ours:
            assert score == pytest.approx(math.log(sums[text]), abs=1e-12)  # of the network, not renormalised
        assert greedy.ids in sums or greedy.score == -math.inf


def test_greedy_takes_the_best_path_of_what_is_allowed():
    log_probs = np.log(np.array([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]))
    assert decode_greedy(log_probs)[0].ids == (0,)
    restricted = restrict(log_probs, np.array([False, True, True]))
    assert decode_greedy(restricted)[0].ids == (1,)
    assert decode_greedy(restricted)[0].score == pytest.approx(math.log(0.3 * 0.9 + 0.2 * 0.2))
    assert np.isfinite(log_probs).all()  # the array itself is as it was


def test_types_stay_and_nothing_is_copied_where_all_is_allowed(peaked_log_probs):
    for dtype in (np.float16, np.float32, np.float64):
        log_probs = peaked_log_probs(1, dtype=dtype)
        assert restrict(log_probs, np.ones(37, dtype=bool)) is log_probs
        assert restrict(log_probs, allowed_classes(Charset("36"), block="x")).dtype == dtype


def test_masks_of_another_charset():
    with pytest.raises(DataError, match=r"shape \(1, 2, 3\), allowed classes \(4,\); expected \(V,\)"):
        restrict(np.zeros((1, 2, 3)), np.ones(4, dtype=bool))

"""Exact search against enumeration of all paths, with patterns and without; its limit; its numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset
from crnn.decoding import prefix_search
from crnn.decoding.beam import beam_search, describe_texts
from crnn.decoding.ctc import DecodedText, align, sequence_log_probs
from crnn.decoding.pattern import Pattern, compile_pattern
from crnn.decoding.prefix_search import decode_exact, search_exact
from crnn.errors import ConfigError, DataError


def best_of_beam(log_probs, beam_width):
    """What the beam finds, with its places."""
    return describe_texts(log_probs, [found[0][:2] for found in beam_search(log_probs, beam_width)])


EXPRESSIONS = [None, "a*", "aa", "a{3}", "[ab]{2}c", "(ab|c)+", "a?b?c?", "[^a]{1,2}", "...", "(a|bb)*c", ""]


def pattern_for(expression, num_classes):
    """With what is left of it for one or two characters."""
    if expression is None:
        return None
    characters = "abc"[: num_classes - 1]
    for lacking in "abc"[num_classes - 1 :]:
        expression = expression.replace(lacking, "a")
    return compile_pattern("." if expression == "[^a]{1,2}" and num_classes == 2 else expression, Charset(characters))


# ---------------------------------------------------------------------------------------------------------------------
# Every text


@settings(max_examples=120)
@given(data=st.data(), expression=st.sampled_from(EXPRESSIONS), n_best=st.sampled_from([1, 2, 5, 1000]))
def test_the_likeliest_texts_that_match(small_log_probs, data, path_sums, expression, n_best):
    log_probs = data.draw(small_log_probs)
    pattern = pattern_for(expression, log_probs.shape[2])
    for sample, found in zip(log_probs, search_exact(log_probs, pattern, n_best), strict=True):
        sums = {t: p for t, (p, _) in path_sums(sample).items() if p > 0.0 and (pattern is None or pattern.matches(t))}
        assert found.proven
        assert len(found.texts) == min(n_best, len(sums))
        assert [sums[text] for text, _ in found.texts] == pytest.approx(sorted(sums.values(), reverse=True)[:n_best])
        assert [score for _, score in found.texts] == pytest.approx([math.log(sums[t]) for t, _ in found.texts])
        assert list(found.texts) == sorted(found.texts, key=lambda pair: (-pair[1], pair[0]))
        assert len({text for text, _ in found.texts}) == len(found.texts)


def test_scores_are_minus_the_loss_of_torch(peaked_log_probs):
    log_probs = peaked_log_probs(1, num_samples=16)
    pattern = compile_pattern("[a-z]+[0-9]{2}", Charset("36"))
    for chosen in (None, pattern):
        found = [result.texts[0] for result in search_exact(log_probs, chosen)]
        loss = torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs.astype(np.float64)).transpose(0, 1),
            torch.tensor([k for text, _ in found for k in text]),
            torch.full((16,), 24),
            torch.tensor([len(text) for text, _ in found]),
            blank=36,
            reduction="none",
        )
        np.testing.assert_allclose([score for _, score in found], -loss.numpy(), rtol=1e-10)


def test_no_text_of_a_wide_beam_is_better(peaked_log_probs, random_log_probs):
    for log_probs in (peaked_log_probs(2, num_samples=24), random_log_probs(2, 24, 7, 5, 2.0)):
        exact = [result.texts[0][1] for result in search_exact(log_probs)]
        wide = [found[0][1] for found in beam_search(log_probs, 50)]
        assert exact == pytest.approx(wide, abs=1e-9)


def test_with_a_pattern_nothing_that_matches_is_better(random_log_probs, path_sums):
    log_probs = random_log_probs(3, 4, 6, 5, 3.0)
    pattern = compile_pattern("[ab]{1,3}[cd]{1,2}a?", Charset("abcd"))
    for sample, result in zip(log_probs, search_exact(log_probs, pattern, 3), strict=True):
        sums = {text: total for text, (total, _) in path_sums(sample).items() if pattern.matches(text)}
        assert [text for text, _ in result.texts] == sorted(sums, key=lambda text: -sums[text])[:3]


# ---------------------------------------------------------------------------------------------------------------------
# Cases by hand


def test_two_frames_where_best_path_and_best_text_differ():
    log_probs = np.log(np.array([[[0.4, 0.6], [0.4, 0.6]]]))
    (found,) = search_exact(log_probs, n_best=5)
    assert [text for text, _ in found.texts] == [(0,), ()]
    assert np.exp([score for _, score in found.texts]) == pytest.approx([0.64, 0.36])


def test_equal_texts_are_in_order():
    uniform = np.full((1, 3, 4), math.log(0.25))
    assert [text for text, _ in search_exact(uniform, n_best=3)[0].texts] == [(0,), (1,), (2,)]
    assert decode_exact(uniform)[0].ids == (0,)


def test_doubled_letters_need_a_blank_between_them():
    log_probs = np.log(np.full((1, 3, 3), 1 / 3))
    pattern = compile_pattern("aa", Charset("ab"))
    assert search_exact(log_probs, pattern)[0].texts == (((0, 0), pytest.approx(math.log(1 / 27))),)
    assert search_exact(log_probs[:, :2], pattern)[0].texts == ()


def test_patterns_that_no_text_of_these_steps_matches(peaked_log_probs):
    log_probs = peaked_log_probs(4, num_samples=3)
    pattern = compile_pattern("[a-z]{25}", Charset("36"))
    assert [(f.texts, f.proven) for f in search_exact(log_probs, pattern)] == [((), True)] * 3
    assert decode_exact(log_probs, pattern) == [DecodedText((), -math.inf, (), ())] * 3
    longest = search_exact(log_probs, compile_pattern("[a-z]{24}", Charset("36")))
    assert all(len(found.texts[0][0]) == 24 and found.proven for found in longest)


def test_no_steps_and_no_samples():
    assert [f.texts for f in search_exact(np.zeros((2, 0, 5)))] == [(((), 0.0),)] * 2
    assert decode_exact(np.zeros((2, 0, 5))) == [DecodedText((), 0.0, (), ())] * 2
    assert [f.texts for f in search_exact(np.zeros((2, 0, 3)), compile_pattern("a", Charset("ab")))] == [()] * 2
    assert search_exact(np.zeros((0, 7, 5))) == decode_exact(np.zeros((0, 7, 5))) == []


def test_certain_steps():
    log_probs = np.full((1, 4, 3), -np.inf)
    log_probs[0, range(4), [1, 1, 2, 1]] = 0.0
    assert search_exact(log_probs, n_best=5)[0].texts == (((1, 1), 0.0),)
    assert decode_exact(log_probs) == best_of_beam(log_probs, 5)


def test_a_sample_without_any_possible_text(random_log_probs):
    log_probs = random_log_probs(12, 3, 6, 4, sharpness=3.0)
    whole = decode_exact(log_probs)
    log_probs[1, 2] = -np.inf
    assert search_exact(log_probs)[1].texts == ()
    assert decode_exact(log_probs) == [whole[0], DecodedText((), -math.inf, (), ()), whole[2]]


def test_texts_that_are_next_to_impossible(random_log_probs):
    log_probs = random_log_probs(9, 4, 24, 37, 2000.0)  # below what a double can hold as a probability
    pattern = compile_pattern("[a-z]{3}[0-9]{3}", Charset("36"))
    for sample, found in zip(log_probs, search_exact(log_probs, pattern), strict=True):
        ((text, score),) = found.texts
        assert found.proven
        assert -math.inf < score < -1000.0
        # Nothing beside it is better: no other character in any place.
        classes = [range(26)] * 3 + [range(26, 36)] * 3
        others = [[*text[:i], k, *text[i + 1 :]] for i in range(6) for k in classes[i]]
        assert score >= sequence_log_probs(np.repeat(sample[None], len(others), axis=0), others).max()


# ---------------------------------------------------------------------------------------------------------------------
# The best text


def test_decode_exact_describes_the_best_text(peaked_log_probs):
    log_probs = peaked_log_probs(5, num_samples=16)
    pattern = compile_pattern("[a-z0-9]{3,8}", Charset("36"))
    for sample, found, text in zip(
        log_probs, search_exact(log_probs, pattern), decode_exact(log_probs, pattern), strict=True
    ):
        assert (text.ids, text.score) == found.texts[0]
        assert text.spans == tuple(align(sample, text.ids))
        assert text.character_scores == tuple(
            min(max(sample[t, k] for t in range(start, end)), 0.0)
            for (start, end), k in zip(text.spans, text.ids, strict=True)
        )
        assert pattern.matches(text.ids)


def test_it_is_the_beam_where_the_texts_are_the_same(peaked_log_probs):
    log_probs = peaked_log_probs(6, num_samples=32)
    pairs = list(zip(decode_exact(log_probs), best_of_beam(log_probs, 10), strict=True))
    assert sum(ours == theirs for ours, theirs in pairs) > 16
    assert all(ours.score > theirs.score for ours, theirs in pairs if ours.ids != theirs.ids)


# ---------------------------------------------------------------------------------------------------------------------
# The limit


def test_a_clear_picture_takes_few_steps(peaked_log_probs):
    charset = Charset("36")
    log_probs = np.full((1, 24, 37), math.log(0.01 / 36), dtype=np.float32)
    path = [charset.encode(c)[0] if c != "-" else 36 for c in "--h-oo--u-s--ee---------"]
    log_probs[0, range(24), path] = math.log(0.99)
    (found,) = search_exact(log_probs)
    assert charset.decode(found.texts[0][0]) == "house"
    assert found.expansions == 6  # each beginning of it, and nothing else


@pytest.mark.parametrize("expression", [None, "[a-f]{4}", "a*b[cd]{6}"])
def test_at_the_limit_the_best_that_was_met_is_given(random_log_probs, expression):
    log_probs = random_log_probs(8, 3, 40, 7, 0.1)  # nearly flat
    pattern = None if expression is None else compile_pattern(expression, Charset("abcdef"))
    for found in search_exact(log_probs, pattern, max_expansions=2):
        assert not found.proven
        assert 2 <= found.expansions <= 2 + 40
        ((text, score),) = found.texts
        assert score > -math.inf
        assert pattern is None or pattern.matches(text)


def test_a_higher_limit_never_gives_a_worse_text_than_proven(random_log_probs):
    log_probs = random_log_probs(8, 6, 8, 7, 1.0)
    best = [found.texts[0][1] for found in search_exact(log_probs, max_expansions=100_000)]
    for limit in (1, 3, 30, 300):
        for found, highest in zip(search_exact(log_probs, max_expansions=limit), best, strict=True):
            assert found.texts[0][1] <= highest + 1e-9
            if found.proven:
                assert found.texts[0][1] == pytest.approx(highest, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers whatever the batch, the layout and the type


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_batch_gives_exactly_what_its_samples_give(dtype, peaked_log_probs, random_log_probs, monkeypatch):
    log_probs = peaked_log_probs(9, num_samples=9, dtype=dtype)
    log_probs[7:9] = random_log_probs(9, 2, 24, 37, 2000.0).astype(dtype)
    pattern = compile_pattern("[a-z]{2,}[0-9]?", Charset("36"))
    found = search_exact(log_probs, pattern, 2)
    monkeypatch.setattr(prefix_search, "_MAX_NUMBERS", 1)  # of one sample at a time
    assert search_exact(log_probs, pattern, 2) == found
    for n in range(9):
        assert search_exact(log_probs[n : n + 1], pattern, 2) == found[n : n + 1]


def test_memory_layout_does_not_matter(peaked_log_probs):
    log_probs = peaked_log_probs(10)
    time_first = np.ascontiguousarray(log_probs.transpose(1, 0, 2)).transpose(1, 0, 2)
    log_probs.flags.writeable = False
    assert search_exact(time_first) == search_exact(log_probs)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("function", [search_exact, decode_exact])
def test_what_is_refused(function, random_log_probs):
    for shape in ((4, 5), (2, 3, 1)):
        with pytest.raises(DataError, match=r"expected \(N, T, V\)"):
            function(np.zeros(shape))
    log_probs = random_log_probs(0, 1, 2, 3)
    with pytest.raises(DataError, match="so 3 classes, the pattern is for 37"):
        function(log_probs, Pattern.everything(37))
    with pytest.raises(ConfigError, match="max_expansions is 0; expected at least 1"):
        function(log_probs, max_expansions=0)
    with pytest.raises(ConfigError, match="n_best is 0 and"):
        search_exact(log_probs, n_best=0)


def test_fewer_texts_than_asked_for_at_the_limit_are_not_proven(random_log_probs):
    log_probs = random_log_probs(8, 6, 8, 7, 3.0)
    for limit in range(1, 40):
        assert not any(found.proven for found in search_exact(log_probs, n_best=50, max_expansions=limit))


def test_of_texts_that_are_as_likely_the_first_by_ids():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]]))
    (found,) = search_exact(log_probs)  # (0, 1) and (1,) have one half each, and (1,) is met first
    assert found.texts == (((0, 1), pytest.approx(math.log(0.5))),)

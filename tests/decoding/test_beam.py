"""The beam against enumeration of all paths and against a plain search, and what its best text is decoded to."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.decoding.beam import Hypothesis, beam_search
from crnn.decoding.ctc import DecodedText, decode_greedy, describe_texts, sequence_log_probs


def best_texts(log_probs, beam_width):
    """The best text of each image with its places."""
    found = [row[0] if row else Hypothesis((), -math.inf, -math.inf) for row in beam_search(log_probs, beam_width)]
    return describe_texts(log_probs, [(h.ids, h.score) for h in found])


@settings(max_examples=60)
@given(data=st.data())
def test_a_wide_beam_finds_every_text(small_log_probs, data, path_sums):
    log_probs = data.draw(small_log_probs)
    for sample, found in zip(log_probs, beam_search(log_probs, beam_width=1000), strict=True):
        sums = {text: total for text, (total, _) in path_sums(sample).items() if total > 0.0}
        assert {text for text, *_ in found} == set(sums)
        assert len(found) == len(sums)
        for text, score, rank in found:
            assert rank == score  # without a language
            assert math.isclose(score, math.log(sums[text]), rel_tol=0, abs_tol=1e-12)
        assert math.isclose(sums[found[0][0]], max(sums.values()), rel_tol=1e-12)


def test_two_frames_where_best_path_and_best_text_differ():
    log_probs = np.log(np.array([[[0.4, 0.6], [0.4, 0.6]]]))
    assert decode_greedy(log_probs)[0].ids == ()
    assert decode_greedy(log_probs)[0].score == pytest.approx(math.log(0.36))
    (found,) = beam_search(log_probs, beam_width=2)
    assert [text for text, *_ in found] == [(0,), ()]
    assert np.exp([score for _, score, _ in found]) == pytest.approx([0.64, 0.36])


def test_equal_scores_are_in_the_order_of_the_ids():
    uniform = np.full((1, 3, 4), math.log(0.25))
    assert [text for text, *_ in beam_search(uniform, beam_width=100)[0][:3]] == [(0,), (1,), (2,)]
    log_probs = np.array([[[math.log(0.5), -math.inf, math.log(0.5)], [-math.inf, 0.0, -math.inf]]])
    assert beam_search(log_probs) == [[((0, 1), math.log(0.5), math.log(0.5)), ((1,), math.log(0.5), math.log(0.5))]]


def test_no_steps_and_no_samples():
    assert beam_search(np.zeros((2, 0, 5))) == [[((), 0.0, 0.0)]] * 2
    assert best_texts(np.zeros((2, 0, 5)), 3) == [DecodedText((), 0.0, (), ())] * 2
    assert beam_search(np.zeros((0, 7, 5))) == best_texts(np.zeros((0, 7, 5)), 3) == []


def plain_beam_search(log_probs, width):
    """The search for one sample (T, V) with a dictionary: what survives the last step."""
    blank = log_probs.shape[1] - 1
    beams = {(): (0.0, -math.inf)}
    for step in log_probs.tolist():
        following = {}
        for prefix, (ends_blank, ends_char) in beams.items():
            total = np.logaddexp(ends_blank, ends_char)
            for k, score in enumerate(step):
                if k == blank:
                    arrivals = [(prefix, 0, total + score)]
                elif prefix and prefix[-1] == k:
                    arrivals = [(prefix, 1, ends_char + score), ((*prefix, k), 1, ends_blank + score)]
                else:
                    arrivals = [((*prefix, k), 1, total + score)]
                for text, ending, arriving in arrivals:
                    both = following.setdefault(text, [-math.inf, -math.inf])
                    both[ending] = np.logaddexp(both[ending], arriving)
        ranked = sorted(following, key=lambda text: -np.logaddexp(*following[text]))
        beams = {text: tuple(following[text]) for text in ranked[:width]}
    return set(beams)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 10])
@pytest.mark.parametrize(("num_classes", "sharpness"), [(3, 0.5), (6, 1.0), (12, 3.0)])
def test_narrow_beam_keeps_what_the_plain_search_keeps(width, num_classes, sharpness, random_log_probs):
    # Few classes and flat steps: prefixes leave the beam, come back, and meet their own extensions.
    log_probs = random_log_probs(width, 12, 14, num_classes, sharpness)
    for sample, found in zip(log_probs, beam_search(log_probs, width), strict=True):
        assert {text for text, *_ in found} == plain_beam_search(sample, width)


@pytest.mark.parametrize("beam_width", [1, 4])
def test_a_sample_without_any_possible_text_reads_as_the_empty_one(random_log_probs, beam_width):
    log_probs = random_log_probs(12, 3, 6, 4, sharpness=3.0)
    whole = best_texts(log_probs, beam_width)
    log_probs[1, 2] = -np.inf  # a step that gives every class, and so every text, the probability 0
    assert beam_search(log_probs, beam_width)[1] == []
    assert best_texts(log_probs, beam_width) == [whole[0], DecodedText((), -math.inf, (), ()), whole[2]]
    assert sequence_log_probs(log_probs, [[], [], []])[1] == -math.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_batch_gives_exactly_what_its_samples_give(dtype, random_log_probs, peaked_log_probs):
    log_probs = peaked_log_probs(9, num_samples=33, dtype=dtype)
    log_probs[7:9] = random_log_probs(9, 2, 24, 37, 2000.0).astype(dtype)  # these are summed as logarithms
    found, texts = beam_search(log_probs, beam_width=5), best_texts(log_probs, 5)
    for n in range(33):
        assert beam_search(log_probs[n : n + 1], beam_width=5) == found[n : n + 1]
        assert best_texts(log_probs[n : n + 1], 5) == texts[n : n + 1]

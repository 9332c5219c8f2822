"""The decoders against enumeration of all paths, against torch's CTC loss, and against plain Python searches."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn import decode
from crnn.decode import (
    DecodedText,
    align,
    align_batch,
    beam_search,
    check_log_probs,
    decode_greedy,
    greedy,
    sequence_log_probs,
)
from crnn.errors import ConfigError, DataError

SETTINGS = settings(derandomize=True, max_examples=60, deadline=None, database=None)


def logarithm(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


@st.composite
def small_log_probs(draw):
    """(N, T, V) from small whole weights: zeros (-inf) and exact ties are frequent."""
    num_samples, num_steps, num_classes = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.integers(2, 4))
    step = st.lists(st.integers(0, 4), min_size=num_classes, max_size=num_classes).filter(any)
    steps = draw(st.lists(step, min_size=num_samples * num_steps, max_size=num_samples * num_steps))
    weights = np.array(steps, dtype=np.float64).reshape(num_samples, num_steps, num_classes)
    return logarithm(weights / weights.sum(axis=2, keepdims=True))


def random_log_probs(seed, num_samples, num_steps, num_classes, sharpness=1.0, dtype=np.float64):
    logits = sharpness * np.random.default_rng(seed).normal(size=(num_samples, num_steps, num_classes))
    logits -= logits.max(axis=2, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))).astype(dtype)


def peaked_log_probs(seed, num_samples=8, num_steps=24, num_classes=37, dtype=np.float32):
    """Like a trained network: mostly blanks, one class of each step far above the others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_samples, num_steps, num_classes))
    peaks = rng.integers(0, num_classes, (num_samples, num_steps, 1))
    peaks[rng.random(peaks.shape) < 0.5] = num_classes - 1
    np.put_along_axis(logits, peaks, rng.uniform(3.0, 9.0, peaks.shape), axis=2)
    return (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))).astype(dtype)


def collapse(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def enumerate_paths(log_probs):
    """For each text that (T, V) can show: its probability, and that of its best path."""
    num_steps, num_classes = log_probs.shape
    parts = {}
    for path in itertools.product(range(num_classes), repeat=num_steps):
        probability = math.prod(math.exp(log_probs[t, k]) for t, k in enumerate(path))
        parts.setdefault(collapse(path, num_classes - 1), []).append(probability)
    return {text: (math.fsum(found), max(found)) for text, found in parts.items()}


def all_texts(num_steps, num_classes):
    """Every text of up to T characters, those that do not fit because of repeats included."""
    return [
        text for length in range(num_steps + 1) for text in itertools.product(range(num_classes - 1), repeat=length)
    ]


def path_from_spans(spans, target, num_steps, blank):
    path = [blank] * num_steps
    for (start, end), k in zip(spans, target, strict=True):
        path[start:end] = [k] * (end - start)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Enumeration


@SETTINGS
@given(small_log_probs())
def test_greedy_is_the_collapsed_best_path(log_probs):
    blank = log_probs.shape[2] - 1
    expected = [list(collapse(path, blank)) for path in log_probs.argmax(axis=2).tolist()]
    assert greedy(log_probs) == expected


@SETTINGS
@given(small_log_probs())
def test_sequence_log_probs_are_the_sums_over_all_paths(log_probs):
    _, num_steps, num_classes = log_probs.shape
    texts = all_texts(num_steps, num_classes)
    for sample in log_probs:
        sums = enumerate_paths(sample)
        expected = logarithm(np.array([sums.get(text, (0.0, 0.0))[0] for text in texts]))
        scores = sequence_log_probs(np.repeat(sample[None], len(texts), axis=0), texts)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
        assert math.isclose(np.exp(scores).sum(), 1.0, rel_tol=1e-12)


@SETTINGS
@given(small_log_probs())
def test_a_wide_beam_finds_every_text(log_probs):
    for sample, found in zip(log_probs, beam_search(log_probs, beam_width=1000), strict=True):
        sums = {text: total for text, (total, _) in enumerate_paths(sample).items() if total > 0.0}
        assert {text for text, _ in found} == set(sums)
        assert len(found) == len(sums)
        for text, score in found:
            assert math.isclose(score, math.log(sums[text]), rel_tol=0, abs_tol=1e-12)
        assert math.isclose(sums[found[0][0]], max(sums.values()), rel_tol=1e-12)


@SETTINGS
@given(small_log_probs())
def test_alignments_are_best_paths(log_probs):
    _, num_steps, num_classes = log_probs.shape
    for sample in log_probs:
        best = enumerate_paths(sample)
        for text in all_texts(num_steps, num_classes):
            highest = best.get(text, (0.0, 0.0))[1]
            if text and highest == 0.0:
                with pytest.raises(DataError, match="target 0 "):
                    align(sample, text)
                continue
            path = path_from_spans(align(sample, text), text, num_steps, num_classes - 1)
            assert collapse(path, num_classes - 1) == text
            assert math.isclose(math.exp(sum(sample[range(num_steps), path])), highest, rel_tol=1e-12)


@SETTINGS
@given(small_log_probs())
def test_decode_greedy_describes_the_best_path(log_probs):
    _, num_steps, num_classes = log_probs.shape
    texts = greedy(log_probs)
    scores = sequence_log_probs(log_probs, texts).tolist()
    for sample, text, score, reading in zip(log_probs, texts, scores, decode_greedy(log_probs), strict=True):
        assert reading.ids == tuple(text)
        assert reading.score == score
        path = path_from_spans(reading.spans, text, num_steps, num_classes - 1)
        assert path == sample.argmax(axis=1).tolist()
        assert reading.character_scores == tuple(
            max(sample[t, k] for t in range(start, end)) for (start, end), k in zip(reading.spans, text, strict=True)
        )


# ---------------------------------------------------------------------------------------------------------------------
# torch's loss, and improbable texts


def ctc_loss(log_probs, targets):
    num_samples, num_steps, num_classes = log_probs.shape
    log_probs_TNV = torch.from_numpy(log_probs.astype(np.float64)).transpose(0, 1)
    return torch.nn.functional.ctc_loss(
        log_probs_TNV,
        torch.tensor([k for target in targets for k in target], dtype=torch.long),
        torch.full((num_samples,), num_steps),
        torch.tensor([len(target) for target in targets]),
        blank=num_classes - 1,
        reduction="none",
        zero_infinity=False,
    ).numpy()


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 100.0, 3000.0])
@pytest.mark.parametrize("num_steps", [24, 127])
def test_score_is_minus_the_ctc_loss(sharpness, num_steps):
    # Sharpness 3000 puts most texts below the smallest double, so that they can only be summed as logarithms.
    rng = np.random.default_rng(int(sharpness) + num_steps)
    log_probs = random_log_probs(num_steps, 40, num_steps, 11, sharpness)
    targets = [rng.integers(0, 10 if n % 2 else 2, n % 13).tolist() for n in range(40)]  # two letters: many repeats
    scores = sequence_log_probs(log_probs, targets)
    if sharpness == 3000.0:
        assert np.median(scores) < -1000.0
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, -ctc_loss(log_probs, targets), rtol=1e-10, atol=1e-10)


def test_one_batch_holds_probable_improbable_and_impossible_targets():
    log_probs = random_log_probs(1, 5, 6, 4, sharpness=500.0)
    targets = [greedy(log_probs[:1])[0], [0, 0, 0], [0, 0, 0, 0], [], [0, 1, 2, 0, 1, 2, 0]]
    scores = sequence_log_probs(log_probs, targets)
    assert scores[0] > -1.0
    assert scores[1] < -650.0  # summed as logarithms
    assert scores[2] == scores[4] == -np.inf  # four equal characters need seven steps
    np.testing.assert_allclose(scores, -ctc_loss(log_probs, targets), rtol=1e-10)


def test_sums_agree_where_the_method_changes():
    # One character at step 0, at a log-probability on either side of the limit; the rest is certain.
    limit = math.log(1e-280)
    values = np.linspace(limit - 30.0, limit + 30.0, 61)
    log_probs = np.full((61, 3, 2), -np.inf)
    log_probs[:, :, 1] = 0.0
    log_probs[:, 0, 0] = values
    np.testing.assert_allclose(sequence_log_probs(log_probs, [[0]] * 61), values, rtol=1e-14)


def test_rounding_does_not_put_a_score_above_zero():
    log_probs = np.array([[[1e-7, -20.0], [-20.0, 1e-7]]], dtype=np.float32)
    (reading,) = decode_greedy(log_probs)
    assert reading == DecodedText((0,), 0.0, ((0, 1),), (0.0,))
    assert beam_search(log_probs)[0][0] == ((0,), 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Cases by hand


def test_two_frames_where_best_path_and_best_text_differ():
    log_probs = np.log(np.array([[[0.4, 0.6], [0.4, 0.6]]]))
    assert greedy(log_probs) == [[]]
    assert decode_greedy(log_probs)[0].score == pytest.approx(math.log(0.36))
    (found,) = beam_search(log_probs, beam_width=2)
    assert [text for text, _ in found] == [(0,), ()]
    assert np.exp([score for _, score in found]) == pytest.approx([0.64, 0.36])


def test_repeated_characters_need_a_blank_between_them():
    log_probs = np.log(np.array([[[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]]))
    (reading,) = decode_greedy(log_probs)
    assert reading.ids == (0, 0)
    assert reading.spans == ((0, 2), (3, 4))
    assert reading.character_scores == pytest.approx((math.log(0.8), math.log(0.9)))
    assert align(log_probs[0], [0, 0]) == [(0, 2), (3, 4)]
    assert align(log_probs[0], [0]) == [(0, 4)]
    assert align(log_probs[0], [1, 0]) == [(0, 1), (3, 4)]


def test_runs_do_not_continue_into_the_next_sample():
    log_probs = np.log(np.array([[[0.1, 0.9], [0.8, 0.2]], [[0.7, 0.3], [0.1, 0.9]]]))
    first, second = decode_greedy(log_probs)
    assert (first.spans, second.spans) == (((1, 2),), ((0, 1),))
    assert first.character_scores + second.character_scores == pytest.approx((math.log(0.8), math.log(0.7)))


def test_alignment_agrees_with_the_best_path_where_there_are_no_ties():
    log_probs = peaked_log_probs(3, num_samples=64, dtype=np.float64)
    readings = decode_greedy(log_probs)
    assert any(a == b for reading in readings for a, b in itertools.pairwise(reading.ids))  # "ll" is among them
    assert align_batch(log_probs, [reading.ids for reading in readings]) == [list(r.spans) for r in readings]


def test_ties_go_to_the_lowest_class():
    uniform = np.full((1, 3, 4), math.log(0.25))
    assert greedy(uniform) == [[0]]
    assert decode_greedy(uniform)[0].spans == ((0, 3),)
    assert [text for text, _ in beam_search(uniform, beam_width=100)[0][:3]] == [(0,), (1,), (2,)]


def test_equal_scores_are_in_the_order_of_the_ids():
    log_probs = logarithm(np.array([[[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    assert beam_search(log_probs) == [[((0, 1), math.log(0.5)), ((1,), math.log(0.5))]]


def test_no_steps_and_no_samples():
    nothing = np.zeros((2, 0, 5))
    check_log_probs(nothing, 5)
    assert greedy(nothing) == [[], []]
    assert decode_greedy(nothing) == [DecodedText((), 0.0, (), ())] * 2
    assert beam_search(nothing) == [[((), 0.0)]] * 2
    assert sequence_log_probs(nothing, [[], [1]]).tolist() == [0.0, -np.inf]
    assert align_batch(nothing, [[], []]) == [[], []]
    nobody = np.zeros((0, 7, 5), dtype=np.float32)
    check_log_probs(nobody, 5)
    assert greedy(nobody) == decode_greedy(nobody) == beam_search(nobody) == align_batch(nobody, []) == []
    assert sequence_log_probs(nobody, []).shape == (0,)


def test_certain_steps():
    log_probs = np.full((1, 4, 3), -np.inf)
    log_probs[0, range(4), [1, 1, 2, 1]] = 0.0
    assert decode_greedy(log_probs) == [DecodedText((1, 1), 0.0, ((0, 2), (3, 4)), (0.0, 0.0))]
    assert beam_search(log_probs, beam_width=5) == [[((1, 1), 0.0)]]
    with pytest.raises(DataError, match=r"each of its alignments meets a step where log_probs are -inf"):
        align(log_probs[0], [0])


def test_decoded_text_cannot_be_changed():
    (reading,) = decode_greedy(peaked_log_probs(0, num_samples=1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        reading.score = 0.0
    assert {type(k) for k in reading.ids} == {int}
    assert {type(t) for span in reading.spans for t in span} == {int}
    assert {type(score) for score in (reading.score, *reading.character_scores)} == {float}


# ---------------------------------------------------------------------------------------------------------------------
# The narrow beam


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
def test_narrow_beam_keeps_what_the_plain_search_keeps(width, num_classes, sharpness):
    # Few classes and flat steps: prefixes leave the beam, come back, and meet their own extensions.
    log_probs = random_log_probs(width, 12, 14, num_classes, sharpness)
    for sample, found in zip(log_probs, beam_search(log_probs, width), strict=True):
        assert {text for text, _ in found} == plain_beam_search(sample, width)


def test_beam_scores_are_sequence_scores_in_order():
    log_probs = peaked_log_probs(5)
    for sample, found in zip(log_probs, beam_search(log_probs, beam_width=7), strict=True):
        assert len(found) == 7
        texts, scores = zip(*found, strict=True)
        assert list(scores) == sequence_log_probs(np.repeat(sample[None], 7, axis=0), texts).tolist()
        assert list(found) == sorted(found, key=lambda pair: (-pair[1], pair[0]))


def test_beam_is_never_worse_than_greedy_on_peaked_steps():
    log_probs = peaked_log_probs(6, num_samples=64)
    best = [found[0][1] for found in beam_search(log_probs, beam_width=10)]
    gain = np.array(best) - [reading.score for reading in decode_greedy(log_probs)]
    assert gain.min() >= 0.0
    assert gain.max() > 0.0


def test_equal_hashes_do_not_merge_different_prefixes(monkeypatch):
    log_probs = random_log_probs(8, 16, 12, 5)
    expected = beam_search(log_probs, beam_width=8)
    monkeypatch.setattr(decode, "_HASH_FACTOR", np.uint64(0))  # the hash is now the last character alone
    assert beam_search(log_probs, beam_width=8) == expected


@SETTINGS
@given(st.data(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 10))
def test_the_largest_of_each_row_ties_to_the_first(data, num_rows, num_columns, count):
    value = st.sampled_from([-np.inf, -2.0, -1.0, 0.0])
    size = num_rows * num_columns
    scores = np.array(data.draw(st.lists(value, min_size=size, max_size=size))).reshape(num_rows, num_columns)
    expected = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :count], axis=1)
    np.testing.assert_array_equal(decode._top(scores, count), expected)


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers whatever the batch, the layout and the type


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_batch_gives_exactly_what_its_samples_give(dtype):
    log_probs = peaked_log_probs(9, num_samples=33, dtype=dtype)
    log_probs[7:9] = random_log_probs(9, 2, 24, 37, 2000.0).astype(dtype)  # these are summed as logarithms
    targets = [list(range(n % 12)) for n in range(33)]
    check_log_probs(log_probs, 37)
    whole = (
        greedy(log_probs),
        decode_greedy(log_probs),
        sequence_log_probs(log_probs, targets).tolist(),
        align_batch(log_probs, targets),
        beam_search(log_probs, beam_width=5),
    )
    for n in range(33):
        one = log_probs[n : n + 1]
        assert greedy(one) == whole[0][n : n + 1]
        assert decode_greedy(one) == whole[1][n : n + 1]
        assert sequence_log_probs(one, targets[n : n + 1]).tolist() == whole[2][n : n + 1]
        assert align(one[0], targets[n]) == whole[3][n]
        assert beam_search(one, beam_width=5) == whole[4][n : n + 1]


def test_memory_layout_does_not_matter():
    log_probs = peaked_log_probs(10)
    time_first = np.ascontiguousarray(log_probs.transpose(1, 0, 2)).transpose(1, 0, 2)
    log_probs.flags.writeable = False
    assert not time_first.flags.c_contiguous
    assert decode_greedy(time_first) == decode_greedy(log_probs)
    assert beam_search(time_first) == beam_search(log_probs)
    targets = [[1, 2, 2]] * 8
    assert align_batch(time_first, targets) == align_batch(log_probs, targets)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_accepts_what_log_softmax_gives(dtype):
    for num_classes in (2, 37, 95, 7000):
        check_log_probs(np.full((1, 2, num_classes), -math.log(num_classes), dtype=dtype), num_classes)
        check_log_probs(random_log_probs(0, 3, 4, num_classes, 5.0, dtype))
    certain = np.full((1, 1, 3), -np.inf, dtype=dtype)
    certain[..., 2] = 0.0
    check_log_probs(certain, None)


@pytest.mark.parametrize(
    ("log_probs", "num_classes", "message"),
    [
        (np.zeros((4, 5)), None, r"shape \(4, 5\); expected \(N, T, V\)"),
        (np.zeros((1, 2, 3, 4)), None, r"shape \(1, 2, 3, 4\)"),
        (np.zeros((2, 3, 1)), None, r"shape \(2, 3, 1\).*at least 2 classes"),
        (np.zeros((2, 3, 37), dtype=np.int64), None, r"type int64; expected float16, float32 or float64"),
        (np.full((2, 3, 2), math.log(0.5)), 37, r"so 2 classes; expected 37"),
        (np.full((2, 3, 2), -np.inf), None, r"\(n, t\) = \(0, 0\) the probabilities sum to 0, not to 1"),
        (np.full((2, 3, 2), np.inf), None, r"sum to inf, not to 1"),
        (np.full((2, 3, 2), 1000.0), None, r"sum to inf, not to 1"),
    ],
)
def test_check_refuses(log_probs, num_classes, message):
    with pytest.raises(DataError, match=message):
        check_log_probs(log_probs, num_classes)


def test_check_names_the_first_bad_step():
    log_probs = np.full((3, 4, 2), math.log(0.5))
    log_probs[1, 2] += 0.0015
    log_probs[2, 0] = np.nan
    with pytest.raises(DataError, match=r"\(n, t\) = \(1, 2\) the probabilities sum to 1.0015, not to 1"):
        check_log_probs(log_probs)
    log_probs[1, 2] -= 0.0006  # within 1e-3
    with pytest.raises(DataError, match=r"\(n, t\) = \(2, 0\) the probabilities are not numbers \(nan\)"):
        check_log_probs(log_probs)


@pytest.mark.parametrize("function", [greedy, decode_greedy, beam_search])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 1)])
def test_wrong_shapes(function, shape):
    with pytest.raises(DataError, match=r"expected \(N, T, V\)"):
        function(np.zeros(shape))


@pytest.mark.parametrize("function", [sequence_log_probs, align_batch])
def test_wrong_targets(function):
    log_probs = random_log_probs(0, 3, 6, 4)
    with pytest.raises(DataError, match="2 targets for 3 samples"):
        function(log_probs, [[0], [1]])
    with pytest.raises(DataError, match=r"target 2 has the class id 3; expected ids of characters, from 0 to 2 \(3 is"):
        function(log_probs, [[0, 1], [], [2, 3]])
    with pytest.raises(DataError, match="target 1 has the class id -1"):
        function(log_probs, [[0, 1], [-1], [2]])


def test_targets_that_do_not_fit():
    log_probs = random_log_probs(0, 3, 4, 4)
    with pytest.raises(DataError, match=r"target 1 has 3 characters and needs 5 time steps .* log_probs have 4"):
        align_batch(log_probs, [[0, 1, 2, 0], [2, 2, 2], [1]])
    with pytest.raises(DataError, match=r"shape \(3, 4, 4\); expected \(T, V\)"):
        align(log_probs, [1])


@pytest.mark.parametrize("beam_width", [0, -3])
def test_wrong_beam_width(beam_width):
    with pytest.raises(ConfigError, match=f"beam_width is {beam_width}; expected at least 1"):
        beam_search(random_log_probs(0, 1, 2, 3), beam_width)

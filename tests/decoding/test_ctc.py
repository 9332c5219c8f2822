"""The best path, scores and alignments against enumeration of all paths, and against torch's CTC loss."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.decoding.ctc import DecodedText, align, decode_greedy, describe_texts, sequence_log_probs
from crnn.errors import DataError


def logarithm(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def collapse(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


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


@settings(max_examples=60)
@given(data=st.data())
def test_sequence_log_probs_are_the_sums_over_all_paths(small_log_probs, data, path_sums):
    log_probs = data.draw(small_log_probs)
    _, num_steps, num_classes = log_probs.shape
    texts = all_texts(num_steps, num_classes)
    for sample in log_probs:
        sums = path_sums(sample)
        expected = logarithm(np.array([sums.get(text, (0.0, 0.0))[0] for text in texts]))
        scores = sequence_log_probs(np.repeat(sample[None], len(texts), axis=0), texts)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
        assert math.isclose(np.exp(scores).sum(), 1.0, rel_tol=1e-12)


@settings(max_examples=30)
@given(data=st.data())
def test_alignments_are_best_paths(small_log_probs, data, path_sums):
    log_probs = data.draw(small_log_probs)
    _, num_steps, num_classes = log_probs.shape
    for sample in log_probs:
        best = path_sums(sample)
        for text in all_texts(num_steps, num_classes):
            highest = best.get(text, (0.0, 0.0))[1]
            if text and highest == 0.0:
                with pytest.raises(DataError, match="target 0 has no possible alignment"):
                    align(sample[None], [text])
                continue
            (found,) = describe_texts(sample[None], [(text, -1.0)])
            path = path_from_spans(found.spans, text, num_steps, num_classes - 1)
            assert collapse(path, num_classes - 1) == text
            assert math.isclose(math.exp(sum(sample[range(num_steps), path])), highest, rel_tol=1e-12)
            assert found.character_scores == tuple(
                max(sample[start:end, k]) for (start, end), k in zip(found.spans, text, strict=True)
            )


@settings(max_examples=60)
@given(data=st.data())
def test_decode_greedy_describes_the_best_path(small_log_probs, data):
    log_probs = data.draw(small_log_probs)
    _, num_steps, num_classes = log_probs.shape
    texts = [collapse(path, num_classes - 1) for path in log_probs.argmax(axis=2).tolist()]
    scores = sequence_log_probs(log_probs, texts).tolist()
    for sample, text, score, reading in zip(log_probs, texts, scores, decode_greedy(log_probs), strict=True):
        assert reading.ids == text
        assert reading.score == score
        path = path_from_spans(reading.spans, text, num_steps, num_classes - 1)
        assert path == sample.argmax(axis=1).tolist()
        assert reading.character_scores == tuple(
            max(sample[t, k] for t in range(start, end)) for (start, end), k in zip(reading.spans, text, strict=True)
        )


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
def test_score_is_minus_the_ctc_loss(sharpness, num_steps, random_log_probs):
    # Sharpness 3000 puts most texts below the smallest double, so that they can only be summed as logarithms.
    rng = np.random.default_rng(int(sharpness) + num_steps)
    log_probs = random_log_probs(num_steps, 40, num_steps, 11, sharpness)
    targets = [rng.integers(0, 10 if n % 2 else 2, n % 13).tolist() for n in range(40)]  # two letters: many repeats
    scores = sequence_log_probs(log_probs, targets)
    if sharpness == 3000.0:
        assert np.median(scores) < -1000.0
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, -ctc_loss(log_probs, targets), rtol=1e-10, atol=1e-10)


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


def test_alignment_agrees_with_the_best_path_where_there_are_no_ties(peaked_log_probs):
    log_probs = peaked_log_probs(3, num_samples=64, dtype=np.float64)
    readings = decode_greedy(log_probs)
    assert any(a == b for reading in readings for a, b in itertools.pairwise(reading.ids))  # "ll" is among them
    assert describe_texts(log_probs, [(reading.ids, reading.score) for reading in readings]) == readings


def test_no_steps_and_no_samples():
    nothing = np.zeros((2, 0, 5))
    assert decode_greedy(nothing) == [DecodedText((), 0.0, (), ())] * 2
    assert sequence_log_probs(nothing, [[], [1]]).tolist() == [0.0, -np.inf]
    assert align(nothing, [[], []]) == [[], []]
    nobody = np.zeros((0, 7, 5), dtype=np.float32)
    assert decode_greedy(nobody) == align(nobody, []) == []
    assert sequence_log_probs(nobody, []).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_batch_gives_exactly_what_its_samples_give(dtype, random_log_probs, peaked_log_probs):
    log_probs = peaked_log_probs(9, num_samples=33, dtype=dtype)
    log_probs[7:9] = random_log_probs(9, 2, 24, 37, 2000.0).astype(dtype)  # these are summed as logarithms
    targets = [list(range(n % 12)) for n in range(33)]
    whole = (
        decode_greedy(log_probs),
        sequence_log_probs(log_probs, targets).tolist(),
        align(log_probs, targets),
    )
    for n in range(33):
        one = log_probs[n : n + 1]
        assert decode_greedy(one) == whole[0][n : n + 1]
        assert sequence_log_probs(one, targets[n : n + 1]).tolist() == whole[1][n : n + 1]
        assert align(one, targets[n : n + 1]) == whole[2][n : n + 1]


def test_memory_layout_does_not_matter(peaked_log_probs):
    log_probs = peaked_log_probs(10)
    time_first = np.ascontiguousarray(log_probs.transpose(1, 0, 2)).transpose(1, 0, 2)
    log_probs.flags.writeable = False
    assert not time_first.flags.c_contiguous
    assert decode_greedy(time_first) == decode_greedy(log_probs)
    targets = [[1, 2, 2]] * 8
    assert align(time_first, targets) == align(log_probs, targets)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 1)])
def test_wrong_shapes(shape):
    with pytest.raises(DataError, match=r"expected \(N, T, V\)"):
        decode_greedy(np.zeros(shape))


def test_wrong_targets(random_log_probs):
    log_probs = random_log_probs(0, 3, 4, 4)
    for targets, message in (
        ([[0], [1]], "2 targets for 3 samples"),
        ([[0, 1], [], [2, 3]], "class ids from 0 to 3; expected 0 to 2"),
        ([[0, 1], [-1], [2]], "class ids from -1 to 2"),
    ):
        with pytest.raises(DataError, match=message):
            sequence_log_probs(log_probs, targets)
    with pytest.raises(DataError, match="target 1 has no possible alignment with the 4 steps"):
        align(log_probs, [[0, 1, 2, 0], [2, 2, 2], [1]])

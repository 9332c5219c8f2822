"""CTC against the sum over all alignments, written out. Shape letters as in ``crnn.training.loss``."""

import itertools
import math

import numpy as np
import pytest
import torch

from crnn.charset import min_time_steps
from crnn.decoding.ctc import sequence_log_probs
from crnn.training.loss import ctc_loss


def collapse(path, blank):
    """Graves' map B: repeats merged, then blanks removed."""
    return tuple(k for i, k in enumerate(path) if k != blank and (i == 0 or path[i - 1] != k))


def summed_over_alignments(logits, target):
    """Negative log-probability of one target in double precision; ``logits`` is ``(T, V)``, the blank last."""
    num_steps, num_classes = logits.shape
    log_probs = logits.double().log_softmax(-1)
    paths = [
        sum(log_probs[t, k] for t, k in enumerate(path))
        for path in itertools.product(range(num_classes), repeat=num_steps)
        if collapse(path, num_classes - 1) == tuple(target)
    ]
    return -torch.logsumexp(torch.stack(paths), 0) if paths else torch.tensor(math.inf, dtype=torch.float64)


def padded(targets, filler=0):
    """``(N, S)`` and ``(N,)``."""
    lengths = [len(target) for target in targets]
    rows = [[*target, *[filler] * (max(lengths) - len(target))] for target in targets]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(targets), -1), torch.tensor(lengths)


def random_logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_loss_is_the_sum_over_all_alignments(num_steps, num_classes):
    targets = [
        target
        for size in range(num_steps + 1)
        for target in itertools.product(range(num_classes - 1), repeat=size)
        if min_time_steps(target) <= num_steps
    ]
    for number, target in enumerate(targets):
        logits = random_logits(1, num_steps, num_classes, seed=number)
        expected = summed_over_alignments(logits[0], target).item()
        assert ctc_loss(logits, *padded([target])).item() == pytest.approx(expected, rel=1e-5)
    # What can be read at all has probability one.
    logits = random_logits(1, num_steps, num_classes)
    total = sum(math.exp(-ctc_loss(logits, *padded([target])).item()) for target in targets)
    assert total == pytest.approx(1.0, rel=1e-5)


def test_gradients_are_those_of_the_sum_over_all_alignments():
    targets = [(0, 0), (1,), (0, 1, 0), (1, 0)]
    logits = random_logits(len(targets), 4, 3, seed=5).requires_grad_()
    ctc_loss(logits, *padded(targets)).backward()
    doubles = logits.detach().double().requires_grad_()
    sum(summed_over_alignments(doubles[n], target) for n, target in enumerate(targets)).backward()
    torch.testing.assert_close(logits.grad.double(), doubles.grad, rtol=1e-4, atol=1e-6)
    # Adding a number to all logits of a step changes nothing, so the gradients of a step cancel.
    torch.testing.assert_close(logits.grad.sum(-1), torch.zeros(len(targets), 4), rtol=0, atol=1e-5)


def test_it_agrees_with_the_probability_that_reading_gives():
    """Training and reading have code of their own for the same sum; V, T and the lengths are those of real words."""
    rng = np.random.default_rng(0)
    targets = [rng.integers(0, 36, size).tolist() for size in (0, 1, 5, 12, 11)] + [[4] * 12]
    logits = random_logits(len(targets), 24, 37, seed=1)
    each = -sequence_log_probs(logits.double().log_softmax(-1).numpy(), targets)
    assert ctc_loss(logits, *padded(targets)).item() == pytest.approx(each.sum(), rel=1e-5)


def test_the_batch_is_summed_whatever_the_lengths_of_its_labels():
    targets = [[0], [1, 2, 3, 4, 0, 1], [2, 2]]
    logits = random_logits(3, 8, 6, seed=2)
    alone = [ctc_loss(logits[n : n + 1], *padded([target])) for n, target in enumerate(targets)]
    together = ctc_loss(logits, *padded(targets))
    assert together.shape == ()
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-6)
    twice = ctc_loss(logits.repeat(2, 1, 1), *padded(targets * 2))
    assert twice.item() == pytest.approx(2 * together.item(), rel=1e-6)


def test_what_stands_behind_a_target_has_no_effect():
    targets = [[0, 1], [3, 3, 2, 0], [1]]
    logits = random_logits(3, 9, 5, seed=3)
    results = []
    for filler, extra in ((0, 0), (3, 0), (1, 4)):
        ids, lengths = padded(targets, filler)
        ids = torch.nn.functional.pad(ids, (0, extra), value=filler)
        leaf = logits.clone().requires_grad_()
        loss = ctc_loss(leaf, ids, lengths)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_single_precision(dtype):
    targets = padded([[0, 1, 2], [2]])
    logits = random_logits(2, 24, 5, seed=4).to(dtype).requires_grad_()
    loss = ctc_loss(logits, *targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ctc_loss(logits.detach().float(), *targets))
    loss.backward()
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


def test_a_target_that_needs_more_steps_than_there_are_is_infinite():
    logits = random_logits(1, 3, 4)
    assert ctc_loss(logits, *padded([[0, 1, 2]])).isfinite()
    assert ctc_loss(logits, *padded([[0, 0]])).isfinite()
    assert ctc_loss(logits, *padded([[0, 0, 1]])).item() == math.inf


def test_shares_weigh_the_samples_in_float32_whatever_autocast_chose():
    logits, (targets, lengths) = random_logits(3, 6, 4), padded([[0], [1, 2], [2, 2]])
    shares = torch.tensor([0.501, 1.0, 0.2503])
    each = torch.stack([ctc_loss(logits[n : n + 1], targets[n : n + 1], lengths[n : n + 1]) for n in range(3)])
    with torch.autocast("cpu", torch.bfloat16):
        loss = ctc_loss(logits, targets, lengths, shares)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((each.double() * shares.double()).sum().item(), rel=1e-6)

"""CTC in whole-batch operations gives what torch's own and a sum over all paths give."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from crnn.charset import min_time_steps
from crnn.training.batched_ctc import batched_ctc_loss


def of_torch(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    steps = torch.full((len(logits),), logits.shape[1])
    return F.ctc_loss(log_probs, targets, steps, lengths, blank=logits.shape[2] - 1, reduction="none")


def some(seed: int, count: int, steps: int, classes: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets that fit, lengths 0 to ``longest``, many characters the same."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4.0 * torch.randn(count, steps, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes - 1, (count, longest), generator=generator)
    lengths = torch.randint(0, longest + 1, (count,), generator=generator)
    for row, target in enumerate(targets.tolist()):
        while min_time_steps(target[: lengths[row]]) > steps:
            lengths[row] -= 1
    return logits.requires_grad_(), targets, lengths


SHAPES = [(16, 24, 37, 23), (8, 8, 4, 5), (8, 12, 3, 4), (3, 5, 4, 0), (5, 1, 5, 1), (8, 6, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_are_those_of_torch(shape: tuple[int, int, int, int]) -> None:
    logits, targets, lengths = some(1, *shape)
    weights = torch.rand(len(logits), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, found = of_torch(logits, targets, lengths), batched_ctc_loss(logits.log_softmax(-1), targets, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((weights * losses).sum(), logits)[0] for losses in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)


def test_the_loss_is_the_sum_over_all_paths() -> None:
    logits, targets, lengths = some(3, 6, 4, 3, 2)
    losses = batched_ctc_loss(logits.log_softmax(-1), targets, lengths)
    probabilities = logits.detach().softmax(-1)
    for row, target in enumerate(targets.tolist()):
        total = 0.0
        for path in itertools.product(range(3), repeat=4):
            if [c for c, _ in itertools.groupby(path) if c != 2] == target[: lengths[row]]:
                total += math.prod(probabilities[row, t, c].item() for t, c in enumerate(path))
        assert losses[row].item() == pytest.approx(-math.log(total), rel=1e-12)


def test_gradients_are_differences() -> None:
    logits, targets, lengths = some(5, 4, 6, 5, 3)
    assert torch.autograd.gradcheck(lambda x: batched_ctc_loss(x.log_softmax(-1), targets, lengths), logits)


def test_float32_is_close_even_where_probabilities_are_tiny() -> None:
    logits, targets, lengths = some(7, 32, 24, 37, 12)
    large = (10.0 * logits.detach()).requires_grad_()
    exact = batched_ctc_loss(large.log_softmax(-1), targets, lengths)
    single = large.detach().float().requires_grad_()
    found = batched_ctc_loss(single.log_softmax(-1), targets, lengths)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    expected, gradient = (torch.autograd.grad(of.sum(), by)[0] for of, by in ((exact, large), (found, single)))
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-3)


def test_what_is_behind_the_end_of_a_target_does_not_matter() -> None:
    logits, targets, lengths = some(9, 8, 10, 6, 5)
    other = targets.clone()
    other[torch.arange(5) >= lengths[:, None]] = 3
    other = F.pad(other, (0, 4))
    found = [batched_ctc_loss(logits.log_softmax(-1), ids, lengths) for ids in (targets, other)]
    gradients = [torch.autograd.grad(losses.sum(), logits)[0] for losses in found]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


def test_a_target_that_does_not_fit_is_infinite_and_the_others_are_not() -> None:
    logits, _, _ = some(11, 2, 3, 4, 3)
    losses = batched_ctc_loss(logits.log_softmax(-1), torch.tensor([[1, 1, 1], [0, 1, 2]]), torch.tensor([3, 3]))
    assert losses.isinf().tolist() == [True, False]


def test_autocast_does_not_reach_it() -> None:
    logits, targets, lengths = some(13, 8, 12, 6, 5)
    log_probs = logits.detach().float().log_softmax(-1).requires_grad_()
    plain = torch.autograd.grad(batched_ctc_loss(log_probs, targets, lengths).sum(), log_probs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        losses = batched_ctc_loss(log_probs, targets, lengths)
    assert losses.dtype == torch.float32
    assert torch.equal(torch.autograd.grad(losses.sum(), log_probs)[0], plain)


def test_nothing_is_asked_of_the_device() -> None:
    """On the device without memory every question fails; so does one that shapes depend on."""
    log_probs = torch.empty(4, 8, 5, device="meta", requires_grad=True)
    losses = batched_ctc_loss(log_probs, torch.empty(4, 3, device="meta", dtype=torch.int64), torch.empty(
        4, device="meta", dtype=torch.int64))  # fmt: skip
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    assert losses.shape == (4,)
    assert gradient.shape == log_probs.shape

"""The best alignment against all alignments, written out. Shape letters as in ``crnn.training.alignment_loss``."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from crnn.loss import ctc_loss
from crnn.training.alignment_loss import alignment_loss, best_alignment

TARGETS = [(), (0,), (1, 0), (0, 0), (1, 1), (0, 1, 0), (1, 0, 0)]


def random_log_probs(*shape: int, seed: int = 0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2).log_softmax(-1)


def padded(targets: list[tuple[int, ...]], filler: int = 0) -> tuple[Tensor, Tensor]:
    lengths = [len(target) for target in targets]
    rows = [[*target, *[filler] * (max(lengths) - len(target))] for target in targets]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(targets), -1), torch.tensor(lengths)


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(k for i, k in enumerate(path) if k != blank and (i == 0 or path[i - 1] != k))


def best_of_all(log_probs: Tensor, target: tuple[int, ...]) -> tuple[int, ...]:
    steps, classes = log_probs.shape
    paths = [p for p in itertools.product(range(classes), repeat=steps) if collapse(p, classes - 1) == target]
    return max(paths, key=lambda path: sum(float(log_probs[t, k]) for t, k in enumerate(path)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [4, 5, 7])
def test_it_is_the_best_of_all_alignments(steps: int, seed: int) -> None:
    log_probs = random_log_probs(len(TARGETS), steps, 3, seed=seed)
    for filler in (0, 1):
        found = best_alignment(log_probs, *padded(TARGETS, filler))
        assert [tuple(row) for row in found.tolist()] == [
            best_of_all(rows, target) for rows, target in zip(log_probs, TARGETS, strict=True)
        ]


def test_one_step_and_no_target_at_all() -> None:
    log_probs = random_log_probs(2, 1, 3)
    assert best_alignment(log_probs, *padded([(0,), ()])).tolist() == [[0], [2]]
    assert best_alignment(
        log_probs, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    ).tolist() == [
        [2],
        [2],
    ]


def test_a_target_that_does_not_fit_breaks_nothing() -> None:
    log_probs = random_log_probs(2, 2, 3)
    found = best_alignment(log_probs, *padded([(0, 0), (0, 1)]))
    assert found[1].tolist() == [0, 1]
    assert ((found >= 0) & (found < 3)).all()


def test_the_loss_is_that_of_the_best_alignment() -> None:
    logits = random_log_probs(len(TARGETS), 5, 3).requires_grad_()
    targets, lengths = padded(TARGETS)
    log_probs = logits.log_softmax(-1)
    expected = -sum(
        log_probs[row, t, k]
        for row, target in enumerate(TARGETS)
        for t, k in enumerate(best_of_all(log_probs[row].detach(), target))
    )
    loss = alignment_loss(logits, targets, lengths)
    torch.testing.assert_close(loss, expected)
    assert loss > ctc_loss(logits, targets, lengths)
    loss.backward()
    one_hot = torch.nn.functional.one_hot(best_alignment(log_probs, targets, lengths), 3)
    torch.testing.assert_close(logits.grad, log_probs.exp().detach() - one_hot)  # cross-entropy of each frame


def test_low_precision_is_raised_first() -> None:
    logits = random_log_probs(3, 6, 4).bfloat16()
    text = padded([(0, 1), (2,), ()])
    loss = alignment_loss(logits, *text)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, alignment_loss(logits.float(), *text))

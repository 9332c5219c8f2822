"""CTC in whole-batch operations, for accelerators: nothing waits for the device, and it can be part of a graph.

torch's own kernel for CUDA takes its lengths from the CPU and copies three small arrays over in each direction, each
time waiting until the device has caught up (``at::tensor(target_lengths, ...)`` in ``LossCTC.cu``), and its gradient
depends on the order of atomic additions. cuDNN's wants the blank first. This one is T - 1 steps of four operations on
all samples at once, forwards and backwards in time together, and gives the same bits every time.

Shape letters: N batch, T time steps, V classes with the blank, S target length, L = 2 S + 1 states: blank, first
character, blank, second character, ..., blank.

Reference: Graves et al. 2006, "Connectionist Temporal Classification", equations 6 to 16.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["batched_ctc_loss"]

_NEVER = float("-inf")


def batched_ctc_loss(log_probs: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Negative log-probability of each target.

    Args:
        log_probs: ``(N, T, V)`` float32 or float64 log-probabilities; the blank is class V - 1.
        targets: ``(N, S)`` int64 class ids, padded with any valid id behind ``target_lengths``; on the same device.
        target_lengths: ``(N,)`` int64; on the same device. A target that needs more than T steps makes its loss
            infinite and its gradient nan.

    Returns:
        ``(N,)``, of the type of ``log_probs``, in nats.
    """
    losses: Tensor = _BatchedCTC.apply(log_probs, targets, target_lengths)  # type: ignore[no-untyped-call]
    return losses


class _BatchedCTC(torch.autograd.Function):
    """The losses; their gradient is found on the way, while the two chains are at hand."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        device = log_probs.device.type
        mixed = torch.amp.is_autocast_available(device)
        # Products in bf16 would lose the small shares.
        with torch.autocast(device, enabled=False) if mixed else contextlib.nullcontext():
            log_shares, losses = _log_shares(log_probs, targets, target_lengths)
            if ctx.needs_input_grad[0]:
                ctx.save_for_backward(_by_class(log_shares.exp_(), targets, target_lengths, log_probs.shape[2]))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return shares * -gradient[:, None, None], None, None


def _log_shares(log_probs: Tensor, targets: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the probability of its target goes through each state at each step, and the losses.

    Returns:
        ``(N, T, L)`` logarithms, and ``(N,)``.
    """
    count, num_steps, num_classes = log_probs.shape
    device = log_probs.device
    place = torch.arange(2 * targets.shape[1] + 1, device=device)
    last = 2 * target_lengths[:, None]  # the state behind the last character
    outside = place > last
    states = targets.new_full((count, len(place)), num_classes - 1)
    states[:, 1::2] = targets
    scores = log_probs.gather(2, states[:, None].expand(-1, num_steps, -1))
    scores = scores.masked_fill(outside[:, None], _NEVER)
    # Backwards in time is forwards through the mirrored sample: its states and its steps in reverse order.
    mirror = (last - place).clamp_min(0)
    mirrored = scores.flip(1).gather(2, mirror[:, None].expand(-1, num_steps, -1)).masked_fill(outside[:, None], _NEVER)
    both = torch.cat([states, states.gather(1, mirror)])
    chain = _chain(torch.cat([scores, mirrored]).transpose(0, 1).contiguous(), both).transpose(0, 1)
    ahead, behind = chain[:count], chain[count:]
    behind = behind.flip(1).gather(2, mirror[:, None].expand(-1, num_steps, -1))
    ends = torch.stack([last[:, 0], (last[:, 0] - 1).clamp_min(0)], dim=1)
    found = ahead[:, -1].gather(1, ends)
    found[:, 1].masked_fill_(target_lengths == 0, _NEVER)  # one state only: not twice
    total = found.logsumexp(dim=1)
    # Both chains count the step itself. Outside of the target that would be infinity less infinity.
    shares = (ahead + behind).sub_(scores).sub_(total[:, None, None]).masked_fill_(outside[:, None], _NEVER)
    return shares, -total


def _chain(scores: Tensor, states: Tensor) -> Tensor:
    """Log-probabilities of all ways from the start to each state at each step, ``(T, M, L)`` as ``scores``.

    Args:
        scores: ``(T, M, L)`` log-probability of each state at each step.
        states: ``(M, L)`` class ids of the states.
    """
    num_steps, count, num_states = scores.shape
    # Two states before the first one, never reached, so that each has two before it.
    memory = scores.new_full((num_steps, count, num_states + 2), _NEVER)
    memory[0, :, 2:4] = scores[0, :, :2]
    # A character may follow another one at once, unless they are the same; a blank may not be left out between blanks.
    skips = scores.new_full((count, num_states), _NEVER)
    skips[:, 3::2].masked_fill_(states[:, 3::2] != states[:, 1:-2:2], 0.0)
    for step in range(1, num_steps):
        before = memory[step - 1]
        ways = torch.logaddexp(before[:, 2:], before[:, 1:-1])
        ways = torch.logaddexp(ways, before[:, :-2] + skips)
        torch.add(ways, scores[step], out=memory[step, :, 2:])
    return memory[:, :, 2:]


def _by_class(shares: Tensor, targets: Tensor, target_lengths: Tensor, num_classes: int) -> Tensor:
    """Shares of states, ``(N, T, L)``, summed up by class, ``(N, T, V)``, in an order that is always the same."""
    count, num_steps, _ = shares.shape
    inside = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
    same = (targets[:, :, None] == targets[:, None, :]) & inside[:, :, None]
    sums = shares[:, :, 1::2] @ same.to(shares.dtype)
    # Each class is written by its first character; the others, and the padding, write into a column that is cut off.
    repeated = same.triu(1).any(dim=1)
    classes = targets.masked_fill(repeated | ~inside, num_classes)
    result = shares.new_zeros((count, num_steps, num_classes + 1))
    result.scatter_(2, classes[:, None].expand(-1, num_steps, -1), sums)
    result[:, :, num_classes - 1] = shares[:, :, ::2].sum(dim=2)
    return result[:, :, :num_classes]

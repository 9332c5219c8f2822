"""Each frame told which class it stands for: the one that the network itself gives it in its best alignment.

CTC asks that all alignments of a text together are probable and leaves open what each frame has to say. Here the most
probable of them, found without gradients, is a target for every frame.

Shape letters: N batch, T time steps, V classes with the blank, S target length, L = 2 S + 1 states: a blank before,
between and behind all classes of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

__all__ = ["alignment_loss", "best_alignment"]


def alignment_loss(logits: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Negative log-probability of the most probable alignment, summed over the batch.

    Args:
        logits: ``(N, T, V)`` float of any precision; the blank is class V - 1.
        targets: ``(N, S)`` int64 class ids, padded with any valid id behind ``target_lengths``.
        target_lengths: ``(N,)`` int64.

    Returns:
        A float32 scalar, in nats; never less than ``crnn.loss.ctc_loss``, which sums the probabilities of all
        alignments, this one among them.

    Reference: Zhang et al. 2023, "Self-distillation Regularized Connectionist Temporal Classification Loss for Text
    Recognition", arXiv 2308.08806. There each frame takes the class that is most probable for itself over all
    alignments; here all frames together take the best alignment, so that they never contradict each other.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    classes = best_alignment(log_probs, targets, target_lengths)
    return F.nll_loss(log_probs.flatten(0, 1), classes.flatten(), reduction="sum")


@torch.no_grad()
def best_alignment(log_probs: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The most probable alignment of each target (Viterbi), all samples at once, without waiting for the device.

    Args:
        log_probs: ``(N, T, V)`` float32; the blank is class V - 1.
        targets: ``(N, S)`` int64 class ids, padded with any valid id.
        target_lengths: ``(N,)`` int64.

    Returns:
        ``(N, T)`` int64 class ids. For a target that does not fit into T steps they are some class each.
    """
    num_samples, num_steps, num_classes = log_probs.shape
    num_states = 2 * targets.shape[1] + 1
    states = torch.full((num_samples, num_states), num_classes - 1, dtype=torch.int64, device=log_probs.device)
    states[:, 1::2] = targets
    emissions = log_probs.gather(2, states[:, None, :].expand(-1, num_steps, -1))
    # A blank may be passed over between two classes that differ; from blank to blank there is nothing to pass over.
    closed = torch.ones_like(states, dtype=torch.bool)
    closed[:, 2:] = states[:, 2:] == states[:, :-2]

    scores = torch.full_like(emissions[:, 0], -torch.inf)
    scores[:, :2] = emissions[:, 0, :2]
    came_from = []
    for step in range(1, num_steps):
        one_back, two_back = (F.pad(scores, (back, 0), value=-torch.inf)[:, :num_states] for back in (1, 2))
        best, back = torch.stack([scores, one_back, two_back.masked_fill(closed, -torch.inf)]).max(dim=0)
        scores = best + emissions[:, step]
        came_from.append(back)

    last = 2 * target_lengths.to(scores.device)[:, None]  # the blank behind the target, or its last class
    before = (last - 1).clamp(min=0)
    state = torch.where(scores.gather(1, before) > scores.gather(1, last), before, last)
    path = [state]
    for back in reversed(came_from):
        state = state - back.gather(1, state)
        path.append(state)
    return states.gather(1, torch.cat(path[::-1], dim=1))

"""CTC, and what can be asked of its distributions beside it: all sums over samples, in float32, in nats.

The sum over the samples is divided by their number in the whole batch (all ranks, all accumulated parts) by
``crnn.training.step``, and by nothing else: ``reduction="mean"`` of torch would first divide each sample by the length
of its label, so that short words weigh more. DTRB's authors trace about one point of accuracy to that (clovaai, pull
request 209).

Shape letters: N batch, T time steps, V classes with the blank, S target length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from crnn.training.batched_ctc import batched_ctc_loss

__all__ = ["consistency_loss", "ctc_loss", "focal_ctc_loss", "uniform_divergence"]


def ctc_loss(logits: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Negative log-probability of the targets, summed over the batch.

    Args:
        logits: ``(N, T, V)`` float of any precision; the blank is class V - 1.
        targets: ``(N, S)`` int64 class ids, padded with any valid id behind ``target_lengths``.
        target_lengths: ``(N,)`` int64. A target may not need more than T steps (``crnn.charset.min_time_steps``):
            such samples are left out, counted and named where batches are made, and would make the sum infinite here.

    Returns:
        A float32 scalar: the sum over the samples, in nats.

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", equation 12.
    """
    return _ctc(logits, targets, target_lengths, "sum")


def focal_ctc_loss(logits: Tensor, targets: Tensor, target_lengths: Tensor, gamma: float) -> Tensor:
    """``ctc_loss`` in which a sample that is read with probability p counts ``(1 - p) ** gamma`` times.

    The factor is differentiated, too, as in the papers.

    Args:
        logits: As for ``ctc_loss``, the others too.
        targets: Class ids.
        target_lengths: Their lengths.
        gamma: Above 0; the larger, the less samples count that are read already.

    Reference: Feng, Yao and Zhang 2019, "Focal CTC Loss for Chinese Optical Character Recognition on Unbalanced
    Datasets", after Lin et al. 2017, arXiv 1708.02002.
    """
    losses = _ctc(logits, targets, target_lengths, "none")
    # 1 - exp(-loss) without the rounding of the difference; where the loss is 0 its power has no finite slope.
    unread = -torch.expm1(-losses.clamp(min=1e-6))
    return (unread.pow(gamma) * losses).sum()


def uniform_divergence(logits: Tensor) -> Tensor:
    """KL divergence of the distributions of all frames from the uniform one, summed over frames and samples.

    It is ``log V`` less the entropy, for each frame: 0 where nothing is known and 3.6 nats for 37 classes where all is.

    Args:
        logits: ``(N, T, V)`` float of any precision.

    Reference: Kim et al. 2017, "Improved training for online end-to-end speech recognition systems", arXiv 1711.02212,
    who smooth CTC so; the confidence penalty of Pereyra et al. 2017, arXiv 1701.06548.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    frames = logits.shape[0] * logits.shape[1]
    return frames * math.log(logits.shape[-1]) + (log_probs.exp() * log_probs).sum()


def consistency_loss(logits: Tensor, other: Tensor) -> Tensor:
    """How much the frames of two views of the same pictures differ, summed over frames and samples.

    Half of the KL divergences in both directions; each view is only moved towards the other one held fixed.

    Args:
        logits: ``(N, T, V)`` float of any precision, of one view.
        other: ``(N, T, V)``, of the other view.

    Reference: Yao et al. 2024, "CR-CTC: Consistency regularization on CTC for improved speech recognition",
    arXiv 2410.05101, equation 5.
    """
    first, second = logits.float().log_softmax(dim=-1), other.float().log_softmax(dim=-1)
    there = F.kl_div(first, second.detach(), reduction="sum", log_target=True)
    back = F.kl_div(second, first.detach(), reduction="sum", log_target=True)
    return 0.5 * (there + back)


def _ctc(logits: Tensor, targets: Tensor, target_lengths: Tensor, reduction: str) -> Tensor:
    num_samples, num_steps, num_classes = logits.shape
    # float32 whatever autocast chose: sums over 24 steps of bf16 logarithms lose the small differences that matter.
    log_probs = logits.float().log_softmax(dim=-1)
    if logits.device.type != "cpu":
        losses = batched_ctc_loss(log_probs, targets, target_lengths)
        return losses if reduction == "none" else losses.sum()
    log_probs_TNV = log_probs.transpose(0, 1)
    input_lengths = torch.full((num_samples,), num_steps, dtype=torch.long)
    loss: Tensor = F.ctc_loss(
        log_probs_TNV, targets, input_lengths, target_lengths, blank=num_classes - 1, reduction=reduction
    )
    return loss

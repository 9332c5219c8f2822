"""CTC loss summed over the samples; ``crnn.training.step`` divides it by the number of samples in the whole batch.

torch's ``reduction="mean"`` would also divide each sample by its label length, so that short words weigh more; DTRB's
authors trace about one point of accuracy to that (clovaai, pull request 209).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def ctc_loss(logits: Tensor, targets: Tensor, target_lengths: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the negative log-probability of the targets, summed over the batch: a float32 scalar in nats.

    Args:
        logits: ``(N, T, V)`` float of any precision; the blank is class V - 1.
        targets: ``(N, S)`` int64 class ids, padded with any valid id behind ``target_lengths``.
        target_lengths: ``(N,)`` int64. Targets that need more than T steps (``crnn.charset.min_time_steps``) make the
            sum infinite; they are left out where batches are made.
        shares: ``(N,)`` float32 factors of the samples. Default: 1.

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", equation 12.
    """
    num_samples, num_steps, num_classes = logits.shape
    # float32 whatever autocast chose: sums over 24 steps of bf16 logarithms lose the small differences that matter.
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # (T, N, V)
    input_lengths = torch.full((num_samples,), num_steps, dtype=torch.long)
    reduction = "sum" if shares is None else "none"
    loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=num_classes - 1, reduction=reduction)
    return loss if shares is None else (loss * shares).sum()  # autocast would make a product of matrices bf16

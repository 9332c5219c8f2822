"""A decoder with attention that reads from the convolutions while they are trained, and is thrown away.

CTC tells the convolutions little at first: all that it asks for is blanks. A decoder that is given the characters so
far has to find the next one in the picture from the first step on, and teaches the convolutions where characters are.

Shape letters: N batch, T time steps, D feature depth, V classes with the blank, S target length.
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["AttentionGuide"]

_HEAD_DEPTH = 32
"""Numbers per attention head."""


class AttentionGuide(nn.Module):
    """One layer of a transformer's decoder over the features of the convolutions, and its loss.

    It is half as deep as the features, without dropout, and does a few percent of the network's arithmetic. The class
    of the blank, which no target has, is its start and its end.

    Args:
        channels: Depth D of the features, a multiple of 64.
        num_classes: Number of classes V, with the blank.

    Reference: Hu et al. 2020, "GTC: Guided Training of CTC", arXiv 2002.01276; Li et al. 2022, "PP-OCRv3",
    arXiv 2206.03001, where both losses train the same convolutions, as they do here.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        depth = channels // 2
        self.blank = num_classes - 1
        self.memory = nn.Linear(channels, depth)
        self.symbols = nn.Embedding(num_classes, depth)
        self.layer = nn.TransformerDecoderLayer(
            depth, depth // _HEAD_DEPTH, 2 * depth, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(depth)
        self.head = nn.Linear(depth, num_classes)

    def forward(self, features: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """Negative log-probability of the targets and their ends, summed over the batch.

        Args:
            features: ``(N, T, D)`` float of any precision.
            targets: ``(N, S)`` int64 class ids, padded with any valid id behind ``target_lengths``.
            target_lengths: ``(N,)`` int64.

        Returns:
            A float32 scalar, in nats.
        """
        num_samples, longest = targets.shape
        start = targets.new_full((num_samples, 1), self.blank)
        place = torch.arange(longest + 1, device=targets.device)
        lengths = target_lengths.to(targets.device)[:, None]
        wanted = torch.where(place < lengths, torch.cat([targets, start], dim=1), self.blank)
        later = torch.ones(len(place), len(place), dtype=torch.bool, device=targets.device).triu(1)

        memory = self.memory(features)
        memory = memory + _positions(memory)
        known = self.symbols(torch.cat([start, targets], dim=1))
        with _attention(features.device):
            hidden = self.layer(known + _positions(known), memory, tgt_mask=later)
        logits: Tensor = self.head(self.norm(hidden))
        losses = F.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none")
        return (losses * (place <= lengths)).sum()


def _attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On CPUs plain products: torch's blocks for long sequences make training the guide twice as slow on short ones."""
    if device.type != "cpu":
        return contextlib.nullcontext()
    plain: contextlib.AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return plain


def _positions(sequence: Tensor) -> Tensor:
    """``(L, depth)`` float32: sines and cosines of the place in a sequence ``(N, L, depth)`` (arXiv 1706.03762)."""
    length, depth = sequence.shape[1:]
    place = torch.arange(length, device=sequence.device, dtype=torch.float32)[:, None]
    rates = torch.arange(0, depth, 2, device=sequence.device, dtype=torch.float32) * (-math.log(10_000.0) / depth)
    angles = place * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)

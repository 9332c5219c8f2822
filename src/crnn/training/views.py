"""Two views of the same pictures, each disturbed in its own way, with every letter where it was.

For training that asks the network to say the same of both (``objective.consistency_weight``). All random numbers come
from torch's own generator, which a step of training seeds with its number.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["disturbed"]

_SPANS = 2
"""Groups of columns that are hidden in each picture."""

_SPAN = 0.08
"""Widest of them, as a share of the width: 8 columns of 100, about as wide as a narrow letter."""

_CONTRAST = (0.6, 1.1)
"""Range of the factor of the contrast."""

_BRIGHTNESS = 0.15
"""Largest shift of brightness, where black is -1 and white is 1."""

_NOISE = 0.12
"""Largest standard deviation of the noise: 15 grey levels of 255."""


def disturbed(images: Tensor) -> Tensor:
    """Pictures with columns hidden behind their mean, and with other contrast, brightness and noise.

    Args:
        images: ``(N, C, H, W)`` float32 in [-1, 1].

    Returns:
        A tensor like ``images``, in its order in memory. Values may go beyond [-1, 1] a little, as noise does.

    Reference: Yao et al. 2024, arXiv 2410.05101, for whom hidden stretches of time are what matters. Strengths are own.
    """
    count, device = len(images), images.device
    width = images.shape[3]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, device=device)

    means = images.mean(dim=(1, 2, 3), keepdim=True)
    low, high = _CONTRAST
    contrast = low + (high - low) * uniform(count, 1, 1, 1)
    brightness = _BRIGHTNESS * (2.0 * uniform(count, 1, 1, 1) - 1.0)
    changed = (images - means) * contrast + (means + brightness)
    columns = torch.arange(width, device=device)
    spans = uniform(count, _SPANS, 1) * (_SPAN * width)
    starts = uniform(count, _SPANS, 1) * (width - spans)
    hidden = ((columns >= starts) & (columns < starts + spans)).any(dim=1)[:, None, None, :]
    changed = torch.where(hidden, means + brightness, changed)
    return changed + torch.randn_like(images) * (_NOISE * uniform(count, 1, 1, 1))

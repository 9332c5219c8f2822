"""Numbers from the CPU onto the device that computes, without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["on_device"]

_PINNED = ("cuda", "npu", "xpu")
"""Devices that copy from page-locked memory by themselves; from any other, torch waits until a copy is done."""


def on_device(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Numbers as a tensor on ``device``.

    On accelerators the copy takes its place in the current stream, and the process goes on to plan what follows: a
    batch of rendered text brings some 170 small arrays over. What is there already stays what it is, and on the CPU an
    array shares its memory with the tensor.

    Args:
        values: An array of any type that torch has, or a tensor on any device.
        device: Where the tensor shall be.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if tensor.device.type == "cpu" and device.type in _PINNED and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

"""What makes a training step fast on an accelerator without changing what it computes, up to rounding.

Compilation: the convolutions become few kernels, with normalisation, pooling and ReLU in one pass over memory instead
of one each. The LSTMs stay cuDNN's, which are faster than what a compiler makes of a loop over time steps.

It needs batches of one shape. A batch that is smaller, because pictures could not be read, goes the plain way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from crnn.config import Config
from crnn.errors import ConfigError
from crnn.model import CRNN

__all__ = ["compile_backbone", "compiles", "tune_kernels"]


def compiles(config: Config, device: torch.device, world_size: int) -> bool:
    """Whether ``train.compile`` means that the convolutions are compiled for this device.

    Raises:
        ConfigError: It is asked for with pictures of many widths.
    """
    wanted = config.train.compile
    if config.image.resize != "squash":
        if wanted is True:
            raise ConfigError(
                'train.compile is true with image.resize "keep_ratio", whose batches have many widths; '
                'expected "squash", or train.compile false'
            )
        return False
    if wanted != "auto":
        return wanted
    # On the CPU it made training slower; ranks that share statistics break the graph at every normalisation.
    shared = world_size > 1 and config.train.sync_batch_norm
    return device.type == "cuda" and not shared and _has_compiler()


def _has_compiler() -> bool:
    """Whether torch can compile for CUDA here: Triton writes the kernels, a C compiler what starts them."""
    compiler = os.environ.get("CC", "") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    return bool(compiler) and importlib.util.find_spec("triton") is not None


def compile_backbone(network: CRNN, backend: str = "inductor") -> None:
    """Compile the convolutions, in place and when they are first used; parameters keep their names."""
    network.backbone.compile(backend=backend, dynamic=False)


def tune_kernels(config: Config, device: torch.device) -> None:
    """Let cuDNN measure its kernels where every batch has the same shape; with many shapes it would never be done."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = config.image.resize == "squash"

"""What makes a training step fast on an accelerator without changing what it computes, up to rounding.

Compilation: the convolutions become few kernels, with normalisation, pooling and ReLU in one pass over memory instead
of one each. The LSTMs stay cuDNN's, which are faster than what a compiler makes of a loop over time steps.

Capture: the forward and the backward pass of a batch as one CUDA graph, which the processor starts by one call instead
of a thousand. That pays where the device is done with a kernel before the next one is planned: small batches, the small
backbone, a processor that renders beside.

Both need batches of one shape. A batch that is smaller, because pictures could not be read, goes the plain way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from crnn.config import Config
from crnn.data.dataset import Batch
from crnn.errors import ConfigError
from crnn.model import CRNN

__all__ = ["CapturedStep", "Record", "captures", "compile_backbone", "compiles", "record_graph", "tune_kernels"]

Record = Callable[[Callable[[], None], Callable[[], None]], Callable[[], None]]
"""(work, restore) -> what does the work again. It may be done some times before, and is then undone by ``restore``."""

_WARM_UPS = 3
"""Times that work is done before it is captured: libraries choose their kernels and take their memory then."""


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


def captures(config: Config, device: torch.device, world_size: int) -> bool:
    """Whether ``train.cuda_graph`` asks for captured steps.

    Raises:
        ConfigError: It does, where there can be none.
    """
    if not config.train.cuda_graph:
        return False
    reasons = {
        f"train.device is {device.type}, and only CUDA has such graphs": device.type != "cuda",
        f"there are {world_size} ranks, which wait for each other within a step": world_size > 1,
        f"optim.accumulate_steps is {config.optim.accumulate_steps}": config.optim.accumulate_steps > 1,
        'image.resize is "keep_ratio", whose batches have many widths': config.image.resize != "squash",
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"train.cuda_graph is true, but {reason}; set train.cuda_graph to false")
    return True


def tune_kernels(config: Config, device: torch.device) -> None:
    """Let cuDNN measure its kernels where every batch has the same shape; with many shapes it would never be done."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = config.image.resize == "squash"


def record_graph(work: Callable[[], None], restore: Callable[[], None]) -> Callable[[], None]:
    """Capture work as a CUDA graph."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
        restore()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Another thread renders meanwhile; what it does on its own stream is no part of this.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


class CapturedStep:
    """The gradients of one batch after another, all of one shape, by work that was recorded once.

    Args:
        loss: Images, targets, their lengths -> the loss, summed over the batch.
        module: What has the parameters, in training mode; its buffers may change with every batch.
        factor: On the loss before its gradient is taken.
        max_length: Longest target; shorter ones are padded to it.
        record: How work is recorded.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        module: nn.Module,
        factor: float,
        max_length: int,
        record: Record = record_graph,
    ) -> None:
        self._function, self._factor, self._max_length, self._record = loss, factor, max_length, record
        self._parameters = list(module.parameters())
        self._buffers = list(module.buffers())
        self._gradients: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the shape of the first one; true before there was one."""
        return not self._inputs or batch.images.shape == self._inputs[0].shape

    def __call__(self, batch: Batch) -> Tensor:
        """Put the gradients of a batch where the optimiser finds them.

        Args:
            batch: On the device; see ``fits``.

        Returns:
            The loss, summed over the batch, a float32 scalar on the device; overwritten by the next call.
        """
        padding = self._max_length - batch.targets.shape[1]
        targets = nn.functional.pad(batch.targets, (0, padding))
        if self._replay is None:
            self._inputs = [tensor.clone() for tensor in (batch.images, targets, batch.target_lengths)]
            self._gradients = [torch.zeros_like(parameter, requires_grad=False) for parameter in self._parameters]
            self._loss = torch.zeros((), device=batch.images.device)
            before = [buffer.clone() for buffer in self._buffers]
            self._replay = self._record(self._work, lambda: _copy(self._buffers, before))
        for own, given in zip(self._inputs, (batch.images, targets, batch.target_lengths), strict=True):
            own.copy_(given)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss

    def _work(self) -> None:
        loss = self._function(*self._inputs)
        gradients = torch.autograd.grad(loss * self._factor, self._parameters)
        torch._foreach_copy_(self._gradients, list(gradients))
        self._loss.copy_(loss.detach())


def _copy(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)

"""Ranks: this process among all (one without ``torchrun``), its device, sums and statistics over all ranks."""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from crnn.errors import ConfigError, CrnnError, TrainingError

_T = TypeVar("_T")

TIMEOUT = timedelta(minutes=10)  # default of start_ranks; train.rank_timeout sets it for a run


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone logs and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum ``tensor`` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all ranks in order of rank, on every rank; our own objects, never a user's data."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: _T) -> _T:
        """Return the value of rank 0, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is this machine's accelerator, or the CPU.

    Raises:
        ConfigError: torch has no such device here.
    """
    if importlib.util.find_spec("torch_npu") is not None:
        importlib.import_module("torch_npu")  # registers Ascend with torch's accelerator interface
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).sum().item()  # "meta" has no numbers
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError, by device
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device is {name!r}, which cannot be used here ({reason}); use auto, cpu or an accelerator's name"
        ) from None
    return device


@contextmanager
def start_ranks(device_name: str, timeout: timedelta | None = None) -> Iterator[Ranks]:
    """Join the process group under ``torchrun``, and leave it at the end; ranks wait ``timeout`` for each other."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = resolve_device(device_name)
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    if device.type != "cpu":
        device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device.index)
    backend = dist.get_default_backend_for_device(device)
    if device.type != "cpu":  # with gloo beside it, gathered objects and barriers need no device memory
        backend = f"cpu:gloo,{device.type}:{backend}"
    rank = int(os.environ["RANK"])
    try:
        dist.init_process_group(backend, timeout=timeout or TIMEOUT)
    except RuntimeError as error:  # torch's are subclasses, and gloo's are not
        raise TrainingError(
            f"rank {rank} of {world_size} cannot reach the others ({str(error).splitlines()[0]}); is MASTER_ADDR right?"
        ) from error
    try:
        yield Ranks(rank, world_size, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_peers_explained(ranks: Ranks, seconds: float, hint: str) -> Iterator[None]:
    """Raise ``TrainingError`` if another rank is gone or hangs for ``seconds``; ``hint`` says how to wait longer."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()  # gloo and nccl tell it only in words
        lost = isinstance(error, dist.DistBackendError | dist.DistNetworkError) or any(
            words in text for words in ("closed by peer", "reset by peer", "broken pipe", "timed out waiting")
        )
        if ranks.world_size == 1 or isinstance(error, CrnnError) or not lost:
            raise
        why = "ends because another rank did; look at what that one says"
        if "timed out" in text or "timeout" in text:
            why = f"waited {seconds:g} s for another rank, which hangs or is that much slower; {hint}"
        raise TrainingError(f"rank {ranks.rank} {why}") from error


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over the images of all ranks; torch's ``SyncBatchNorm`` refuses the CPU.

    It gathers mean, squared distances from it and count of every rank, since sums of squares would lose all digits
    where the mean is large against the deviation. Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing
    the sample variance".
    """

    counted = True  # false under without_statistics

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as its parent
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        depth = values.shape[1]
        own_mean = values.mean((0, 2, 3))
        own_squares = (values - own_mean[:, None, None]).square().sum((0, 2, 3))
        own = torch.cat([own_mean, own_squares, values.new_full((1,), values.numel() / depth)])
        if not self.counted:
            own = own * 0.0
        rows = [own if rank == dist.get_rank() else torch.zeros_like(own) for rank in range(dist.get_world_size())]
        gathered: Tensor = _AllReduceSum.apply(torch.stack(rows))  # type: ignore[no-untyped-call]
        means, squares, counts = gathered[:, :depth], gathered[:, depth:-1], gathered[:, -1:]
        total = counts.sum().clamp(min=1.0)
        mean = (means * counts).sum(0) / total
        variance = (squares + (means - mean).square() * counts).sum(0) / total
        if bool(counts.any()):
            with torch.no_grad():
                momentum = 0.1 if self.momentum is None else self.momentum
                self.get_buffer("running_mean").lerp_(mean, momentum)
                self.get_buffer("running_var").lerp_(variance * total / (total - 1), momentum)
                self.get_buffer("num_batches_tracked").add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks, and of their gradients; torch's own one is deprecated."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    backward = forward


_Module = TypeVar("_Module", bound=nn.Module)


def sync_batch_norm(network: _Module) -> _Module:
    """Share every batch normalization between the ranks; parameters and names stay."""
    if next(network.parameters()).device.type != "cpu":  # torch's version is fused
        converted: _Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # same attributes, another forward
    return network


@contextmanager
def without_statistics(network: nn.Module) -> Iterator[None]:
    """Keep batches out of the statistics of the network's batch normalizations.

    A rank that could read none of its images takes part in a step with a blank one, which no rank may learn from.
    torch's fused ``SyncBatchNorm``, on accelerators, counts it all the same.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.training]

    def count(counted: bool) -> None:
        for module in norms:
            if isinstance(module, SyncBatchNorm2d):
                module.counted = counted  # the other ranks wait for its sums all the same
            else:
                module.train(counted)

    count(False)
    try:
        yield
    finally:
        count(True)


def average_buffers(network: nn.Module, ranks: Ranks, averaged_weights: Mapping[str, Tensor] | None = None) -> None:
    """Average the running statistics over all ranks in place, lest every rank evaluate another network.

    ``averaged_weights``, a running average under the network's names, gets the same.
    """
    for name, buffer in network.named_buffers():
        for tensor in (buffer, averaged_weights[name]) if averaged_weights is not None else (buffer,):
            if tensor.is_floating_point():
                ranks.sum(tensor).div_(ranks.world_size)


def has_fast_bf16(device: torch.device) -> bool:
    """Return true if ``device`` multiplies bf16 faster than fp32: CPUs with AVX512-BF16 or AMX, most accelerators."""
    if device.type == "cpu":  # public from torch 2.10 on; before, the answer is no, which is slower and never wrong
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return bool(supported is not None and supported())


_PINNED = ("cuda", "npu", "xpu")  # copy from page-locked memory without a wait


def on_device(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return numbers as a tensor on ``device``, copied without a wait: rendered batches have some 170 small arrays."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if tensor.device.type == "cpu" and device.type in _PINNED and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

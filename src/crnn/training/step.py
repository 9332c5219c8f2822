"""One optimizer step, without waiting for the device.

Its loss is the sum over the samples of all ranks and all accumulated batches, divided by their number.
"""

import contextlib
import importlib.util
import inspect
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crnn.config.run import Config
from crnn.data.dataset import Batch, collate, network_input
from crnn.distributed import Ranks, has_fast_bf16, without_statistics
from crnn.errors import ConfigError
from crnn.training.loss import ctc_loss
from crnn.training.optim import clip_gradients
from crnn.training.run_folder import TrainState
from crnn.training.teacher import Teacher


def compiles(config: Config, device: torch.device, world_size: int) -> bool:
    """Return true if ``train.compile`` asks for compiled convolutions on this device."""
    wanted = config.train.compile
    if config.image.resize != "squash":
        if wanted is True:
            raise ConfigError('train.compile is true, and image.resize "keep_ratio" has many widths; expected squash')
        return False
    if wanted != "auto":
        return wanted
    # On the CPU it made training slower; ranks that share statistics break the graph at every normalization.
    shared = world_size > 1 and config.train.sync_batch_norm
    if device.type != "cuda" or shared:
        return False
    # Triton needs a C compiler.
    compiler = os.environ.get("CC", "") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    return bool(compiler) and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of one step; all numbers are float32 on the device."""

    counts: Tensor  # (3,) over all ranks: sum of the loss, samples, ranks that want to stop
    norm: Tensor  # of the gradient before clipping
    own_loss: Tensor  # summed over the samples of this rank
    keys: tuple[str, ...]  # of the samples of this rank


class TrainStep:
    """Updates the weights of a run by one step.

    ``stop`` lists the signals that this process got; all ranks learn of them with the counts of a step. A ``teacher``
    reads each batch on the CPU, for which the step waits.
    """

    def __init__(
        self, config: Config, ranks: Ranks, state: TrainState, stop: Sequence[int] = (), teacher: Teacher | None = None
    ) -> None:
        self._config, self._ranks, self._state, self._stop, self._teacher = config, ranks, state, stop, teacher
        self._bf16 = uses_bf16(config, ranks.device)
        self._format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self._forward = _distributed(state.network, ranks)
        self._parameters = list(state.network.parameters())
        self._compiled = compiles(config, ranks.device, ranks.world_size)
        if self._compiled:
            state.network.backbone.compile(dynamic=False)  # at their first use; parameters keep their names
        if ranks.device.type == "cuda":
            # cuDNN measures its kernels if every batch has the same shape; with many shapes it would never finish.
            torch.backends.cudnn.benchmark = config.image.resize == "squash"

    def __call__(self, parts: Sequence[Batch], rate: float) -> StepResult:
        """Do a step at learning rate ``rate`` with the summed gradients of ``parts``, this rank's part of each."""
        config, state, device = self._config, self._state, self._ranks.device
        world_size = self._ranks.world_size
        nominal = config.train.batch_size * world_size * len(parts)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=device)
        for place, batch in enumerate(parts):
            # Dropout is the only random choice of a step that is drawn from torch's generator. Seeded after the batch
            # has come: a data loader that has just started draws from that generator, too.
            number = config.train.seed * 1_000_003 + state.step * len(parts) + place
            torch.manual_seed(number * 1_009 + self._ranks.rank)
            with contextlib.ExitStack() as stack:
                if self._compiled and len(batch) < config.train.batch_size:  # a short one is not worth compiling for
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                if place + 1 < len(parts) and isinstance(self._forward, DistributedDataParallel):
                    stack.enter_context(self._forward.no_sync())  # more batches follow before the step
                # DDP takes the mean over ranks; the factor makes it the sum, over the nominal batch.
                loss_sum += self._gradients(batch.to(device), world_size / nominal)
        found = [0.0, float(sum(map(len, parts))), float(bool(self._stop))]
        counts = torch.tensor(found).to(device, non_blocking=True)
        counts[0] = loss_sum
        self._ranks.sum(counts)
        # Samples that could not be read made the batch smaller than the divisor above.
        norm = clip_gradients(self._parameters, config.optim.clip_norm, nominal / counts[1].clamp(min=1.0))
        state.optimizer.step()
        if state.average is not None:
            state.average.update()
        return StepResult(counts, norm, loss_sum, sum((batch.keys for batch in parts), ()))

    def _gradients(self, batch: Batch, factor: float) -> Tensor:
        """Add up the gradients of a batch; return the loss, summed over its samples, without a graph."""
        if len(batch):
            loss = self._loss_of(batch)
            torch.autograd.backward(loss * factor)
            return loss.detach()
        # Nothing could be read; the other ranks still wait for this one's gradients.
        image = self._config.image
        grey = np.full((image.image_channels, image.image_height, image.image_width), 128, np.uint8)
        with without_statistics(self._state.network):
            torch.autograd.backward(self._loss_of(collate([grey], [[0]], [""]).to(self._ranks.device)) * 0.0)
        return torch.zeros((), device=self._ranks.device)

    def _loss_of(self, batch: Batch) -> Tensor:
        images = network_input(batch.images, self._config.image).contiguous(memory_format=self._format)
        with torch.autocast(self._ranks.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self._forward(images)
            if self._teacher is None:
                return ctc_loss(logits, batch.targets, batch.target_lengths)
            pairs = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
            read = self._teacher.targets(images, [ids[:length] for ids, length in pairs], logits.shape[1])
            return ctc_loss(logits[read.rows], read.targets, read.lengths, read.shares)


def uses_bf16(config: Config, device: torch.device) -> bool:
    """Return true if the settings ask for bf16 on this device."""
    precision = config.train.precision
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def _distributed(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Wrap the network to share its gradients with all ranks."""
    if ranks.world_size == 1:
        return network
    # Buffers are not broadcast: batch statistics are either shared by all ranks or averaged before they are used.
    # torch 2.13 renamed the argument and warns of the old name; up to 2.12 there is no other.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **options)

"""Optimizers, learning-rate schedules, gradient clipping, the running average of the weights."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from crnn.config.training import OptimConfig
from crnn.distributed import has_fast_bf16
from crnn.model.crnn import CRNN

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that brings singular values near 1 fastest

_RMS = 0.2  # of an update over the learning rate, like AdamW's


class Muon(torch.optim.AdamW):
    """Muon for groups with ``parts`` above 0, AdamW for the others; one learning rate fits both.

    ``parts`` is the number of stacked matrices of one height in a parameter, 4 for the gates of an LSTM; a kernel is a
    matrix with a row for each output. ``bf16`` multiplies matrices in bfloat16, exact enough for singular values
    between 0.7 and 1.2.

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
    kellerjordan.github.io/posts/muon; scale of the updates: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], config: OptimConfig, bf16: bool = False) -> None:
        groups = [{"parts": 0, **group} for group in groups]
        betas = config.momentum, config.beta2
        super().__init__(groups, config.learning_rate, betas, weight_decay=0.0, fused=True)
        self._nesterov = config.nesterov
        self._type = torch.bfloat16 if bf16 else torch.float32

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's would look for its own state of each parameter

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights once; parameters without a gradient stay."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["parts"]]
        loss = super().step(closure)
        self.param_groups = groups
        for group in groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["parts"]:
                self._update_matrices(parameters, group)
        return loss

    @torch.no_grad()
    def _update_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum, rate, parts = group["betas"][0], group["lr"], group["parts"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1.0 - momentum)
        updates = torch._foreach_lerp(gradients, averages, momentum) if self._nesterov else averages
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - rate * group["weight_decay"])

        # Matrices of one shape are made orthogonal together: many small products are one large one.
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, update in zip(parameters, updates, strict=True):
            matrices = update.reshape(parts, parameter.shape[0] // parts, -1)
            alike[matrices.shape[1], matrices.shape[2]].append((parameter, matrices))
        for shape, members in alike.items():
            stack = torch.cat([matrices for _, matrices in members]).to(self._type)
            moves = torch.split(orthogonalize(stack), parts)
            for (parameter, _), move in zip(members, moves, strict=True):
                parameter.add_(move.reshape(parameter.shape), alpha=-rate * _RMS * max(shape) ** 0.5)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices with the same directions and singular values near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    ``matrices`` is ``(n, rows, columns)`` float32 or bfloat16. A zero matrix stays zero.
    """
    first, third, fifth = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32) + 1e-12).to(x.dtype)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x


def build_optimizer(network: CRNN, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer of these settings. Biases and normalization (vectors) have no weight decay.

    Muon updates the inner matrices: convolutions after the first, LSTMs gate by gate, the layer between them. AdamW
    updates the first convolution and the last layer.
    """
    rate, momentum = config.learning_rate, config.momentum
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    others = [p for p in network.parameters() if p.ndim > 1]
    decay = {"weight_decay": config.weight_decay}
    groups: list[dict[str, Any]] = [{"params": others, **decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        nesterov = config.nesterov and momentum > 0.0
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, config.beta2), fused=True)
    convolutions = [m.weight for m in network.backbone.modules() if isinstance(m, nn.Conv2d)]
    single = [*convolutions[1:], *(p for p in network.neck.parameters() if p.ndim > 1)]
    gates = [p for rnn in (network.rnn1, network.rnn2) for p in rnn.parameters() if p.ndim == 2]
    inner = {id(p) for p in (*single, *gates)}
    groups[0]["params"] = [p for p in others if id(p) not in inner]
    groups = [{"params": single, **decay, "parts": 1}, {"params": gates, **decay, "parts": 4}, *groups]
    return Muon(groups, config, has_fast_bf16(vectors[0].device))


def learning_rate(config: OptimConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0; a pure function, so that resumed runs repeat it.

    Reference: ``cosine_epoch`` is the ModelZoo's ``cosine_decay_lr_with_start_step``; ``one_cycle`` is Smith 2018
    (arXiv 1708.07120) with a linear climb and a cosine fall, without its cycling momentum; ``linear`` falls linearly
    (Defazio et al. 2023, arXiv 2310.07831, find it at least as good as others).
    """
    peak, end = config.learning_rate, config.final_learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine_epoch":
        num_epochs = max(1, math.ceil(num_steps / steps_per_epoch))
        progress = min(step // steps_per_epoch, num_epochs) / num_epochs
    elif config.schedule == "cosine":
        progress = step / num_steps
    else:
        warmup_steps = config.warmup * num_steps
        if step + 1 <= warmup_steps:
            return peak * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
        if config.schedule == "linear":
            return end + (peak - end) * (1.0 - min(progress, 1.0))
    return end + 0.5 * (peak - end) * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


class WeightAverage:
    """Exponential running average of all floating parameters and buffers of a network.

    The decay per step grows as ``(1 + t) / (10 + t)`` from 0.1 to ``decay``, in (0, 1), so that the initial weights are
    forgotten early (``torch.optim.swa_utils`` forgets them at once). Statistics of batch normalization are averaged
    together with their weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._source = network.state_dict()  # the tensors themselves: they change with each step
        self._average = {name: tensor.detach().clone() for name, tensor in self._source.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the network's current weights."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        pairs = [(tensor, self._source[name]) for name, tensor in self._average.items()]
        averages, sources = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, sources, 1.0 - decay)
        for counter, source in pairs:
            if not counter.is_floating_point():
                counter.copy_(source)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights, under the network's names."""
        return self._average

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Restore saved averages."""
        self.steps = steps
        for name, tensor in self._average.items():
            tensor.copy_(state[name])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, scale: Tensor | float = 1.0) -> Tensor:
    """Multiply all gradients by ``scale``, then clip their common Euclidean norm to ``max_norm`` (0: no clipping).

    Return the norm after scaling and before clipping, a float32 scalar on the device, without a synchronization.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients) * scale
    factor = torch.ones_like(norm) * scale
    if max_norm > 0.0:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm

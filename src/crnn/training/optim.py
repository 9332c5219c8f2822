"""Optimizers, learning-rate schedules, gradient clipping, the running average of the weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from crnn.config.training import OptimConfig
from crnn.distributed import has_fast_bf16
from crnn.model.crnn import CRNN

# Of the odd polynomial that brings singular values near 1 fastest, found by the author by search.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

_ROUNDS = 5

_RMS = 0.2  # of an update over the learning rate, like AdamW's


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``parts`` above 0, AdamW for the others; one learning rate fits both.

    Args:
        groups: Parameters with ``weight_decay`` (decoupled) and ``parts``: number of stacked matrices of one height in
            a parameter, 4 for the gates of an LSTM; 0: AdamW. A kernel is a matrix with a row for each output.
        lr: Learning rate.
        momentum: Momentum of Muon, and AdamW's beta1.
        beta2: AdamW's beta2.
        nesterov: Use Nesterov momentum in Muon.
        bf16: Multiply matrices in bfloat16, exact enough for singular values between 0.7 and 1.2.

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
    kellerjordan.github.io/posts/muon; scale of the updates: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        beta2: float = 0.99,
        nesterov: bool = True,
        bf16: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "nesterov": nesterov, "weight_decay": 0.0}
        super().__init__(list(groups), {**defaults, "parts": 0})
        self._type = torch.bfloat16 if bf16 else torch.float32

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the weights once; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["parts"]:
                self._muon(parameters, group)
            elif parameters:
                self._adamw(parameters, group)
        return loss

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["momentum"],
            beta2=group["beta2"],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1.0 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])

        # Matrices of one shape are made orthogonal together: many small products are one large one.
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, update in zip(parameters, ahead, strict=True):
            rows = parameter.shape[0] // group["parts"]
            matrices = update.reshape(group["parts"], rows, -1)
            alike[rows, matrices.shape[2]].append((parameter, matrices))
        for shape, members in alike.items():
            stack = torch.cat([matrices for _, matrices in members]).to(self._type)
            moves = torch.split(orthogonalize(stack), group["parts"])
            scale = group["lr"] * _RMS * max(shape) ** 0.5
            for (parameter, _), move in zip(members, moves, strict=True):
                parameter.add_(move.reshape(parameter.shape), alpha=-scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices with the same directions and singular values near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    ``matrices`` is ``(n, rows, columns)`` float32 or bfloat16. A zero matrix stays zero.
    """
    first, third, fifth = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32) + 1e-12).to(x.dtype)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of these settings. Biases and normalisation (vectors) have no weight decay.

    Muon updates the inner matrices of each ``CRNN``: convolutions after the first, LSTMs gate by gate, the layer
    between them. AdamW updates the first convolution and the last layer.
    """
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        nesterov = config.nesterov and config.momentum > 0.0
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=True)
    if config.optimizer == "muon":
        return _muon(network, groups, config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, config.beta2), fused=True)


def _muon(network: nn.Module, groups: list[dict[str, Any]], config: OptimConfig) -> Muon:
    single, gates = [], []
    for crnn in network.modules():
        if isinstance(crnn, CRNN):
            convolutions = [m.weight for m in crnn.backbone.modules() if isinstance(m, nn.Conv2d)]
            single += [*convolutions[1:], crnn.neck.weight]
            gates += [p for rnn in (crnn.rnn1, crnn.rnn2) for p in rnn.parameters() if p.ndim == 2]
    inside = {id(p) for p in (*single, *gates)}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in inside]
    groups = [
        {"params": single, "weight_decay": config.weight_decay, "parts": 1},
        {"params": gates, "weight_decay": config.weight_decay, "parts": 4},
        *groups,
    ]
    bf16 = has_fast_bf16(next(network.parameters()).device)
    return Muon(
        [group for group in groups if group["params"]],
        config.learning_rate, config.momentum, config.beta2, config.nesterov, bf16,
    )  # fmt: skip


def learning_rate(config: OptimConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0; a pure function, so that resumed runs repeat it.

    Only ``cosine_epoch`` uses ``steps_per_epoch``.

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
    forgotten early. Statistics of batch normalisation are averaged together with their weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        # Lists made once: the update is one fused call, every step.
        self._source: dict[str, Tensor] = dict(network.state_dict(keep_vars=False))
        self._names = [name for name, tensor in self._source.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Add the network's current weights."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averages = [self._state[name] for name in self._names]
        sources = [self._source[name] for name in self._names]
        torch._foreach_lerp_(averages, sources, 1.0 - decay)
        for name in self._state.keys() - set(self._names):
            self._state[name].copy_(self._source[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights, under the network's names."""
        return self._state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Restore saved averages."""
        self.steps = steps
        for name, tensor in self._state.items():
            tensor.copy_(state[name])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, scale: Tensor | float = 1.0) -> Tensor:
    """Multiply all gradients by ``scale``, then clip their common Euclidean norm to ``max_norm`` (0: no clipping).

    Returns:
        The norm after scaling and before clipping, a float32 scalar on the device, without a synchronisation.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) * scale
    factor = torch.ones_like(norm) * scale
    if max_norm > 0.0:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm

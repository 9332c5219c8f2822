"""Muon: momentum whose matrices are made orthogonal before they move the weights.

A gradient's matrix has a few strong directions and many weak ones. Muon moves along all of them alike, which suits the
matrices inside of a network; vectors, the first convolution and the last layer are left to AdamW, as the author does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["Muon", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that brings singular values near 1 fastest, found by the author by search."""

_ROUNDS = 5

_RMS = 0.2
"""Root mean square of an update over the learning rate, as AdamW's updates have it."""


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``parts`` above 0, AdamW for the others; one learning rate fits both.

    Args:
        groups: Parameters with ``weight_decay`` (decoupled) and ``parts``: how many matrices of one height lie below
            each other in a parameter, 4 for the gates of an LSTM. A convolution's kernel is a matrix with a row for
            each output. 0: AdamW.
        lr: Learning rate.
        momentum: Of Muon, and AdamW's beta1.
        beta2: AdamW's.
        nesterov: Whether Muon looks ahead.
        bf16: Multiply matrices in bfloat16, which is exact enough: the singular values land between 0.7 and 1.2 anyway.

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
    kellerjordan.github.io/posts/muon; the scale of the updates is that of Liu et al. 2025, arXiv 2502.16982.
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
        """Move the weights once; parameters without a gradient stay."""
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
            moves = torch.split(orthogonalised(stack), group["parts"])
            scale = group["lr"] * _RMS * max(shape) ** 0.5
            for (parameter, _), move in zip(members, moves, strict=True):
                parameter.add_(move.reshape(parameter.shape), alpha=-scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices with the same directions and singular values near 1 (0.7 to 1.2), by Newton and Schulz's iteration.

    Args:
        matrices: ``(n, rows, columns)`` float32 or bfloat16. A zero matrix stays one.
    """
    first, third, fifth = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32) + 1e-12).to(x.dtype)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x

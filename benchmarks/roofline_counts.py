"""What the layers of the network have to do: multiply-adds, and the tensors that go to and from memory.

Counted from the tensors of a real forward pass, so that shapes and precisions are those of training. A tensor counts
once each time an operation reads or writes it as a whole; what stays inside an operation does not. Arithmetic that is
not part of a matrix product (normalisation, ReLU, gates, logarithms) does not count as multiply-adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crnn.model import CRNN

__all__ = ["Cost", "Layer", "layers_of", "loss_cost", "update_cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one direction of a layer has to do for a whole batch.

    Attributes:
        multiply_adds: In matrix products and convolutions.
        tensors: Bytes of each tensor, as often as it is read or written.
    """

    multiply_adds: int = 0
    tensors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A row of the table: one or several modules that follow each other.

    Attributes:
        name: ``conv1``, ``norm1 pool1 relu1``, ``rnn1``, ...
        modules: In their order.
        input: What the first of them gets in a forward pass.
        costs: Forward and backward.
        merged: The same if all its modules were one operation that keeps nothing but its input.
    """

    name: str
    modules: nn.Sequential
    input: Tensor
    costs: tuple[Cost, Cost]
    merged: tuple[Cost, Cost]


def layers_of(network: CRNN, images: Tensor, bf16: bool) -> list[Layer]:
    """The rows of a network, from the pictures to the logits.

    Args:
        network: With batch normalisation after every convolution; in training mode.
        images: ``(N, C, 32, W)`` float32.
        bf16: Whether autocast is on.
    """
    inputs: dict[nn.Module, Tensor] = {}
    named = [(n, m) for n, m in network.named_modules() if not list(m.children()) and not isinstance(m, nn.Dropout)]
    hooks = [
        module.register_forward_pre_hook(lambda module, given: inputs.update({module: given[0]})) for _, module in named
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(images)
    for hook in hooks:
        hook.remove()
    groups: list[list[tuple[str, nn.Module]]] = []
    for name, module in named:
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            groups[-1].append((name, module))
        else:
            groups.append([(name, module)])
    outputs = [inputs[group[0][1]] for group in groups[1:]] + [logits]
    rows: list[Layer] = []
    for group, output in zip(groups, outputs, strict=True):
        modules = nn.Sequential(*(module for _, module in group))
        given = inputs[group[0][1]]
        costs, merged = _costs(modules, given, output, first=not rows)
        name = " ".join(name.removeprefix("backbone.") for name, _ in group)
        rows.append(Layer(name, modules, given, costs, merged))
    return rows


def _costs(modules: nn.Sequential, x: Tensor, y: Tensor, first: bool) -> tuple[tuple[Cost, Cost], tuple[Cost, Cost]]:
    if isinstance(modules[0], nn.BatchNorm2d):
        return _normalised(modules, x, y), _merged(x, y)
    weights = [p for p in modules.parameters() if p.ndim > 1]
    places = y.numel() // y.shape[1] if isinstance(modules[0], nn.Conv2d) else x.shape[0] * x.shape[1]
    products = sum(weight.numel() for weight in weights) * places
    parameters = sum(map(_bytes, modules.parameters()))
    into, out = _bytes(x), _bytes(y)
    forward = [into, parameters, out]
    # Two products: with the weights for the gradient of x, with x for that of the weights.
    backward = [out, parameters, *([] if first else [into]), out, into, parameters]
    if isinstance(modules[0], nn.LSTM):
        saved = 5 * out  # four gates and the cell of each unit
        forward, backward = [*forward, saved], [*backward, saved, out]
    both = Cost(products, tuple(forward)), Cost(products * (1 if first else 2), tuple(backward))
    return both, both


def _normalised(modules: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Cost, Cost]:
    """Statistics and normalisation, ReLU in place, pooling with its 64-bit places: in whatever order."""
    size, pooled, places = _bytes(x), _bytes(y), 8 * y.numel()
    forward = [size] * 3  # x, x again, the result
    backward = [size] * 5  # x and g, both twice, gx
    for module in list(modules)[1:]:
        if isinstance(module, nn.MaxPool2d):
            forward += [size, pooled, places]
            backward += [pooled, places, size]
            size = pooled
        else:
            forward += [size] * 2
            backward += [size] * 3  # g, what came out, gx
    return Cost(tensors=tuple(forward)), Cost(tensors=tuple(backward))


def _merged(x: Tensor, y: Tensor) -> tuple[Cost, Cost]:
    full, pooled = _bytes(x), _bytes(y)
    return Cost(tensors=(full, full, pooled)), Cost(tensors=(full, full, pooled, pooled, full))


def loss_cost(logits: Tensor, target_length: int) -> tuple[Cost, Cost]:
    """CTC with its softmax: logits to float32, log-softmax, and a pass over time each way with 2 S + 1 states."""
    num_samples, num_steps, _ = logits.shape
    given, full = _bytes(logits), 4 * logits.numel()
    states = 4 * num_samples * num_steps * (2 * target_length + 1)
    to_float = [given, full] if given != full else []
    forward = [*to_float, full, full, full, states]
    backward = [full, states, states, full, full, full, full, *to_float]
    return Cost(tensors=tuple(forward)), Cost(tensors=tuple(backward))


def update_cost(network: nn.Module) -> Cost:
    """Clipping, AdamW and the running average: 13 times all weights, in float32, each pass over all of them."""
    # Clipping: g, and g read and written. AdamW: weight, g, two moments; three written. Average: weight, it, written.
    # One tensor, for its speed: weights, moments and averages come round once a step and are in no cache by then.
    return Cost(tensors=(13 * sum(map(_bytes, network.parameters())),))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

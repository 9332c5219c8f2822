"""Muon: what its matrices become, which parameters it moves, and how far."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crnn.config.model import ImageConfig, ModelConfig
from crnn.config.training import OptimConfig
from crnn.model.crnn import build_model
from crnn.training.optim import Muon, build_optimizer, orthogonalize

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_become_nearly_orthogonal_in_the_same_directions(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    matrices = random(*shape)
    found = orthogonalize(matrices.to(dtype)).float()
    assert found.shape == shape
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ found @ v.mT
    diagonal = turned.diagonal(dim1=1, dim2=2)
    kept = values > 0.05 * values[:, :1]  # the smallest directions need more rounds
    assert diagonal[kept].min() > 0.6
    assert diagonal[kept].max() < 1.3
    torch.testing.assert_close(turned, torch.diag_embed(diagonal), atol=0.06, rtol=0.0)


def test_the_length_of_a_gradient_does_not_matter_and_zero_stays_zero() -> None:
    matrices = random(1, 6, 9)
    torch.testing.assert_close(orthogonalize(matrices * 1e-4), orthogonalize(matrices), rtol=1e-3, atol=1e-3)
    assert not orthogonalize(torch.zeros(1, 6, 9)).any()


def moved(parameter: Tensor, gradients: list[Tensor], parts: int, **options: Any) -> Tensor:
    """How far a parameter moves in some steps."""
    weight = nn.Parameter(parameter.clone())
    decay = options.pop("weight_decay", 0.0)
    optimizer = Muon([{"params": [weight], "parts": parts, "weight_decay": decay}], lr=0.1, **options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach() - parameter


def test_one_step_by_hand() -> None:
    gradient, start = random(12, 30, seed=1), random(12, 30, seed=2)
    step = moved(start, [gradient], parts=1, momentum=0.9)
    torch.testing.assert_close(step, -0.1 * 0.2 * 30**0.5 * orthogonalize(gradient[None])[0])
    assert step.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.15)  # as AdamW's would be
    decayed = moved(start, [gradient], parts=1, momentum=0.9, weight_decay=0.5)
    torch.testing.assert_close(decayed, step - 0.1 * 0.5 * start)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_of_two_steps(nesterov: bool) -> None:
    one, two = random(6, 6, seed=1), random(6, 6, seed=2)
    first, second = 0.2 * one, 0.8 * 0.2 * one + 0.2 * two
    ahead = [0.2 * one + 0.8 * first, 0.2 * two + 0.8 * second] if nesterov else [first, second]
    expected = -0.1 * 0.2 * 6**0.5 * sum(orthogonalize(update[None])[0] for update in ahead)
    found = moved(torch.zeros(6, 6), [one, two], parts=1, momentum=0.8, nesterov=nesterov)
    torch.testing.assert_close(found, expected)


def test_gates_are_matrices_of_their_own_and_kernels_are_flattened() -> None:
    gates = random(32, 10)
    found = moved(torch.zeros(32, 10), [gates], parts=4)
    alone = [moved(torch.zeros(8, 10), [gate], parts=1) for gate in gates.split(8)]
    torch.testing.assert_close(found, torch.cat(alone))
    kernel = random(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    flat = moved(torch.zeros(6, 36), [kernel.contiguous().reshape(6, 36)], parts=1)
    torch.testing.assert_close(moved(torch.zeros(6, 4, 3, 3), [kernel], parts=1), flat.reshape(6, 4, 3, 3))


def test_the_others_are_adamw_s() -> None:
    weights = [nn.Parameter(random(5, seed=1)) for _ in range(2)]
    ours = Muon([{"params": [weights[0]], "weight_decay": 0.1}], lr=0.01, momentum=0.9, beta2=0.98)
    theirs = torch.optim.AdamW([weights[1]], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for step in range(3):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = random(5, seed=step)
            optimizer.step()
    assert torch.equal(*(weight.detach() for weight in weights))


def test_parameters_without_a_gradient_stay() -> None:
    kept, other = nn.Parameter(random(4, 4)), nn.Parameter(random(4))
    optimizer = Muon([{"params": [kept], "parts": 1}, {"params": [other]}], lr=0.1)
    before = copy.deepcopy([kept.detach(), other.detach()])
    optimizer.step()
    assert torch.equal(kept.detach(), before[0])
    assert torch.equal(other.detach(), before[1])
    assert not optimizer.state


@pytest.mark.parametrize("backbone", ["small", "vgg"])
def test_what_muon_moves_of_the_network(backbone: Any) -> None:
    network = build_model(ModelConfig(backbone=backbone, hidden_size=8), ImageConfig(), 5, seed=0)
    optimizer = build_optimizer(network, OptimConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    single, gates, *rest = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    assert single == {*(f"backbone.conv{number}.weight" for number in range(2, 8)), "neck.weight"}
    assert gates == {
        f"rnn{layer}.weight_{side}_l0{way}" for layer in (1, 2) for side in ("ih", "hh") for way in ("", "_reverse")
    }
    assert single | gates | rest[0] | rest[1] == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert {"backbone.conv1.weight", "head.weight"} == rest[0]
    assert all(parameter.ndim == 1 for parameter in optimizer.param_groups[3]["params"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.3, 0.0]

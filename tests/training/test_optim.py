"""The learning rate at its corners, the optimizers, the running average, and clipping."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crnn.config.model import ImageConfig, ModelConfig
from crnn.config.training import OptimConfig
from crnn.model.crnn import build_model
from crnn.training.optim import Muon, WeightAverage, build_optimizer, clip_gradients, learning_rate, orthogonalize

pytestmark = pytest.mark.usefixtures("one_thread")


def rates(num_steps, steps_per_epoch=10, **settings):
    config = OptimConfig(**settings)
    return [learning_rate(config, step, num_steps, steps_per_epoch) for step in range(num_steps)]


# ---- learning rate


def test_a_constant_rate_is_constant():
    assert set(rates(50, schedule="constant", learning_rate=0.02, warmup=0.5, final_learning_rate=0.001)) == {0.02}


def test_cosine_falls_from_the_peak_to_the_end():
    settings = {"schedule": "cosine", "learning_rate": 0.1, "final_learning_rate": 0.02}
    values = rates(100, **settings)
    assert values[0] == 0.1
    assert values[50] == pytest.approx(0.06)
    assert values[25] == pytest.approx(0.02 + 0.08 * (1 + math.sqrt(0.5)) / 2)
    assert values == sorted(values, reverse=True)
    assert learning_rate(OptimConfig(**settings), 100, 100, 10) == pytest.approx(0.02)


def test_one_cycle_climbs_in_a_line_and_falls_in_a_cosine():
    settings = {"schedule": "one_cycle", "learning_rate": 0.1, "warmup": 0.2, "final_learning_rate": 0.01}
    values = rates(50, **settings)
    assert values[0] == pytest.approx(0.1 / 10)  # never a step that does nothing
    assert values[4] == pytest.approx(0.05)
    assert values[9] == pytest.approx(0.1)
    assert values[10] == pytest.approx(0.1)
    assert values[:10] == sorted(values[:10])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[30] == pytest.approx(0.055)  # half of the way down
    assert values[49] == pytest.approx(0.01 + 0.09 / 2 * (1 + math.cos(math.pi * 39 / 40)))
    assert learning_rate(OptimConfig(**settings), 50, 50, 10) == pytest.approx(0.01)


def test_linear_climbs_and_falls_in_lines():
    settings = {"schedule": "linear", "learning_rate": 0.1, "warmup": 0.2, "final_learning_rate": 0.02}
    values = rates(50, **settings)
    assert values[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    assert values[10:] == pytest.approx([0.1 - 0.08 * step / 40 for step in range(40)])
    assert learning_rate(OptimConfig(**settings), 50, 50, 10) == pytest.approx(0.02)
    assert learning_rate(OptimConfig(**settings), 60, 50, 10) == pytest.approx(0.02)


def test_cosine_epoch_is_the_modelzoos_formula():
    """``min_lr + (max_lr - min_lr) / 2 * (1 + cos(pi * epoch / decay_epochs))``, the same for all steps of an epoch."""
    peak, end, epochs, steps_per_epoch = 0.02, 0.0005, 10, 7
    values = rates(
        epochs * steps_per_epoch,
        steps_per_epoch,
        schedule="cosine_epoch",
        learning_rate=peak,
        final_learning_rate=end,
    )
    for step, value in enumerate(values):
        epoch = step // steps_per_epoch
        assert value == pytest.approx(end + (peak - end) / 2 * (1 + math.cos(math.pi * epoch / epochs)))
    assert values[0] == values[6] == peak
    assert len(set(values)) == epochs


# ---- optimiser


def small_network():
    return build_model(ModelConfig(backbone="small", hidden_size=8), ImageConfig(), 11, seed=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_spares_biases_and_normalisation(optimizer):
    network = small_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    settings = {"optimizer": optimizer, "learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.0}
    built = build_optimizer(network, OptimConfig(**settings))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    decayed = set()
    for name, parameter in network.named_parameters():
        if not torch.equal(parameter, before[name]):
            decayed.add(name)
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5))
    assert decayed == {name for name in before if "weight" in name and "norm" not in name}
    assert {"backbone.conv1.weight", "rnn1.weight_hh_l0", "neck.weight", "head.weight"} <= decayed


def test_the_settings_reach_the_optimizer():
    for momentum, ahead in ((0.0, False), (0.5, True)):  # no momentum to look ahead with
        config = OptimConfig(optimizer="sgd", learning_rate=0.1, momentum=momentum, nesterov=True)
        built = build_optimizer(small_network(), config).defaults
        assert (built["lr"], built["momentum"], built["nesterov"]) == (0.1, momentum, ahead)
    built = build_optimizer(small_network(), OptimConfig(learning_rate=0.1, momentum=0.8, beta2=0.9)).defaults
    assert (built["lr"], built["betas"]) == (0.1, (0.8, 0.9))


# ---- running average


def normalised_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def disturb(network, seed):
    """Other weights, and a forward pass that moves the running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    network(torch.randn(5, 3, generator=generator))


def test_the_average_follows_its_formula_buffers_included():
    network = normalised_network()
    average = WeightAverage(network, 0.6)
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for step in range(12):
        disturb(network, step)
        average.update()
        decay = min(0.6, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor
    assert average.steps == 12
    assert average.state_dict().keys() == expected.keys()
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= expected.keys()
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    assert average.state_dict()["1.num_batches_tracked"] == 12


# ---- clipping


def parameters_with(*gradients):
    parameters = [nn.Parameter(torch.zeros_like(torch.tensor(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    ("max_norm", "scale", "norm", "factor"),
    [
        (100.0, 1.0, 13.0, 1.0),  # short enough: every bit stays
        (100.0, 2.0, 26.0, 2.0),  # scaled, and short enough
        (6.5, 1.0, 13.0, 0.5),
        (6.5, 2.0, 26.0, 0.5),  # scaled first: the limit is for what the optimiser gets
        (6.5, 0.5, 6.5, 0.5),
        (6.5, 0.25, 3.25, 0.25),
        (0.0, 1.0, 13.0, 1.0),  # 0 never clips
        (0.0, 1000.0, 13000.0, 1000.0),
    ],
)
def test_gradients_are_scaled_and_then_shortened_together(max_norm, scale, norm, factor, as_tensor):
    parameters = parameters_with([3.0, 4.0], [[12.0]])
    scale = torch.tensor(scale) if as_tensor else scale
    measured = clip_gradients(parameters, max_norm, scale)
    assert measured.shape == ()
    assert measured.dtype == torch.float32
    assert measured.item() == pytest.approx(norm)
    tolerance = {"rtol": 0.0, "atol": 0.0} if factor == 1.0 else {}
    torch.testing.assert_close(parameters[0].grad, torch.tensor([3.0, 4.0]) * factor, **tolerance)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[12.0]]) * factor, **tolerance)


def test_gradients_of_zero_stay_zero_and_infinite_ones_are_reported():
    zero = parameters_with([0.0, 0.0])
    assert clip_gradients(zero, 5.0).item() == 0.0
    assert not zero[0].grad.any()
    assert not math.isfinite(clip_gradients(parameters_with([math.inf, 1.0]), 5.0).item())
    assert not math.isfinite(clip_gradients(parameters_with([math.nan, 1.0]), 5.0).item())


# ---- Muon


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


def moved(parameter: Tensor, gradients: list[Tensor], parts: int, **options: Any) -> Tensor:
    """How far a parameter moves in some steps."""
    weight = nn.Parameter(parameter.clone())
    decay = options.pop("weight_decay", 0.0)
    group = {"params": [weight], "parts": parts, "weight_decay": decay}
    optimizer = Muon([group], OptimConfig(learning_rate=0.1, **options))
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
    config = OptimConfig(learning_rate=0.01, momentum=0.9, beta2=0.98)
    ours = Muon([{"params": [weights[0]], "weight_decay": 0.1}], config)
    theirs = torch.optim.AdamW([weights[1]], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for step in range(3):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = random(5, seed=step)
            optimizer.step()
    assert torch.equal(*(weight.detach() for weight in weights))


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
    other = build_model(ModelConfig(backbone=backbone, hidden_size=8, neck="none"), ImageConfig(), 5, seed=0)
    assert len(build_optimizer(other, OptimConfig(optimizer="muon")).param_groups[0]["params"]) == 6

"""The optimiser's groups, the learning rate at its corners, the running average, and clipping."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from crnn.config.model import ImageConfig, ModelConfig
from crnn.config.training import OptimConfig
from crnn.model.crnn import build_model
from crnn.training.optim import WeightAverage, build_optimizer, clip_gradients, learning_rate


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


@pytest.mark.parametrize("warmup", [0.0, 0.001, 0.33, 1.0])
def test_one_cycle_with_any_warm_up(warmup):
    values = rates(33, schedule="one_cycle", learning_rate=0.1, warmup=warmup)
    climbing = sum(step + 1 <= warmup * 33 for step in range(33))
    assert max(values) == pytest.approx(0.1)
    assert values[:climbing] == sorted(values[:climbing])
    assert values[climbing:] == sorted(values[climbing:], reverse=True)
    assert min(values) > 0


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


def test_cosine_epoch_of_a_run_that_ends_within_an_epoch():
    values = rates(25, 10, schedule="cosine_epoch", learning_rate=1.0)
    assert values[:10] == [1.0] * 10
    assert values[20:] == pytest.approx([0.5 * (1 + math.cos(math.pi * 2 / 3))] * 5)
    assert rates(5, 10, schedule="cosine_epoch", learning_rate=1.0) == [1.0] * 5


@given(
    st.sampled_from(["cosine", "one_cycle", "constant", "cosine_epoch"]),
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0, 1),
    st.floats(0, 1e-2),
)
def test_the_rate_stays_between_its_ends(schedule, num_steps, steps_per_epoch, warmup, end):
    config = OptimConfig(schedule=schedule, learning_rate=1e-2, warmup=warmup, final_learning_rate=end)
    for step in {0, num_steps // 3, num_steps - 1, num_steps, num_steps + 10}:
        rate = learning_rate(config, step, num_steps, steps_per_epoch)
        lowest = 0.0 if schedule == "one_cycle" else end * (1 - 1e-9)
        assert lowest <= rate <= 1e-2 * (1 + 1e-9)
        assert rate == learning_rate(config, step, num_steps, steps_per_epoch)


# ---- optimiser


def small_network():
    return build_model(ModelConfig(backbone="small", hidden_size=8), ImageConfig(), 11, seed=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_weight_is_in_one_group(optimizer):
    network = small_network()
    built = build_optimizer(network, OptimConfig(optimizer=optimizer))
    held = [id(p) for group in built.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in network.parameters()}


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


def moved(config, gradients):
    """A weight that starts at 1, after steps with these gradients."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    optimizer = build_optimizer(module, config)
    for gradient in gradients:
        module.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    return module.weight.item()


def test_sgd_moves_with_momentum():
    plain = OptimConfig(optimizer="sgd", learning_rate=0.1, momentum=0.0, nesterov=True)
    assert moved(plain, [1.0, 2.0]) == pytest.approx(1 - 0.1 - 0.2)  # no momentum to look ahead with
    heavy = OptimConfig(optimizer="sgd", learning_rate=0.1, momentum=0.5, nesterov=False)
    assert moved(heavy, [1.0, 2.0]) == pytest.approx(1 - 0.1 * (1 + 2.5))
    nesterov = OptimConfig(optimizer="sgd", learning_rate=0.1, momentum=0.5, nesterov=True)
    assert moved(nesterov, [1.0, 2.0]) == pytest.approx(1 - 0.1 * (1.5 + 2 + 0.5 * 2.5))


def test_adamw_has_the_settings_betas():
    config = OptimConfig(learning_rate=0.1, momentum=0.8, beta2=0.9)
    first = 0.2 * 1 / (1 - 0.8), 0.1 * 1 / (1 - 0.9)
    second = (0.8 * 0.2 + 0.2 * 3) / (1 - 0.8**2), (0.9 * 0.1 + 0.1 * 9) / (1 - 0.9**2)
    expected = 1 - 0.1 * sum(mean / math.sqrt(square) for mean, square in (first, second))
    assert moved(config, [1.0, 3.0]) == pytest.approx(expected, rel=1e-5)


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


def test_the_average_of_weights_that_stand_still_is_those_weights():
    network = normalised_network()
    average = WeightAverage(network, 0.999)
    for _ in range(5):
        average.update()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(average.state_dict()[name], tensor)


def test_the_average_is_no_part_of_the_network():
    network = normalised_network()
    average = WeightAverage(network, 0.9)
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    disturb(network, 1)
    assert all(torch.equal(average.state_dict()[name], tensor) for name, tensor in before.items())
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average.update()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in weights.items())
    assert not any(tensor.requires_grad for tensor in average.state_dict().values())
    normalised_network().load_state_dict(average.state_dict())


def test_an_average_goes_on_from_its_saved_state():
    network = normalised_network()
    average = WeightAverage(network, 0.7)
    for step in range(4):
        disturb(network, step)
        average.update()
    saved = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    other = normalised_network()
    resumed = WeightAverage(other, 0.7)
    other.load_state_dict(weights)  # after the average was made, as a resumed run does
    resumed.load_state_dict(saved, steps=4)
    for step in range(4, 8):
        for one, its_average in ((network, average), (other, resumed)):
            disturb(one, step)
            its_average.update()
    assert resumed.steps == average.steps == 8
    for name, tensor in average.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert not torch.equal(saved["0.weight"], resumed.state_dict()["0.weight"])  # what was given is left alone


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
        (100.0, 1.0, 13.0, 1.0),
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
    torch.testing.assert_close(parameters[0].grad, torch.tensor([3.0, 4.0]) * factor)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[12.0]]) * factor)


def test_clipping_is_torchs_own():
    ours, theirs = small_network(), small_network()
    for number, (p, q) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
        q.grad = p.grad.clone()
    norm = clip_gradients(ours.parameters(), 5.0)
    assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(theirs.parameters(), 5.0).item())
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_short_gradients_keep_every_bit():
    parameters = parameters_with([0.1, -0.3], [[0.7]])
    clip_gradients(parameters, 5.0)
    assert torch.equal(parameters[0].grad, torch.tensor([0.1, -0.3]))
    assert torch.equal(parameters[1].grad, torch.tensor([[0.7]]))


def test_parameters_without_a_gradient_are_passed_over():
    parameters = [nn.Parameter(torch.ones(3)), *parameters_with([3.0, 4.0])]
    assert clip_gradients(iter(parameters), 1.0).item() == pytest.approx(5.0)
    assert parameters[0].grad is None


def test_gradients_of_zero_stay_zero_and_infinite_ones_are_reported():
    zero = parameters_with([0.0, 0.0])
    assert clip_gradients(zero, 5.0).item() == 0.0
    assert not zero[0].grad.any()
    assert not math.isfinite(clip_gradients(parameters_with([math.inf, 1.0]), 5.0).item())
    assert not math.isfinite(clip_gradients(parameters_with([math.nan, 1.0]), 5.0).item())

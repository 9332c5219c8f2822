"""What is minimised: each term by its formula, gradients everywhere, seeds, and runs that are resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import crnn.training.objective
from crnn.checkpoint import load_weights, read_tensors
from crnn.config import Config
from crnn.loss import consistency_loss, ctc_loss, focal_ctc_loss, uniform_divergence
from crnn.model import CRNN, build_model
from crnn.reader_config import ImageConfig, ModelConfig
from crnn.train import train
from crnn.training.alignment_loss import alignment_loss
from crnn.training.objective import Objective, bias_blank
from crnn.training.settings import ObjectiveConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 6
TERMS: dict[str, dict[str, float]] = {
    "label_smoothing": {"label_smoothing": 0.1},
    "focal_gamma": {"focal_gamma": 2.0},
    "shortcut_weight": {"shortcut_weight": 0.3},
    "guide_weight": {"guide_weight": 0.5},
    "consistency_weight": {"consistency_weight": 0.2},
    "distillation_weight": {"distillation_weight": 0.2},
}
EVERYTHING = {name: value for term in TERMS.values() for name, value in term.items()}


def network() -> CRNN:
    model = ModelConfig(backbone="small", batch_norm="all", hidden_size=8)
    return build_model(model, ImageConfig(), num_classes=CLASSES, seed=3).train()


def objective(**settings: float) -> Objective:
    return Objective(network(), ObjectiveConfig(**settings), seed=5).train()


def batch(count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, targets and lengths; the last target is empty."""
    random = torch.Generator().manual_seed(7)
    images = torch.rand(count, 1, 32, 40, generator=random) * 2 - 1
    targets = torch.randint(0, CLASSES - 1, (count, 3), generator=random)
    return images, targets, torch.tensor([3, 1, 2, 0])[:count]


def test_nothing_is_added_unless_it_is_asked_for() -> None:
    images, *text = batch()
    plain = objective()
    assert plain(images, *text) == ctc_loss(network()(images), *text)
    assert not list(plain.helpers.parameters())
    assert [name for name, _ in plain.named_parameters()] == [
        f"network.{name}" for name, _ in network().named_parameters()
    ]


@pytest.mark.parametrize("term", TERMS)
def test_each_term_changes_what_is_learned_and_not_what_is_deployed(term: str) -> None:
    def gradient(**settings: float) -> Tensor:
        helped = objective(**settings)
        torch.manual_seed(0)
        helped(*batch()).backward()
        assert helped.network.state_dict().keys() == network().state_dict().keys()
        gradient = helped.network.backbone.conv2.weight.grad
        assert gradient is not None
        return gradient

    with_it, without = gradient(**TERMS[term]), gradient()
    assert torch.isfinite(with_it).all()
    assert not torch.allclose(with_it, without, rtol=1e-2, atol=0.0)


def test_terms_are_added_by_their_weights() -> None:
    images, *text = batch()
    settings = {"shortcut_weight": 0.3, "guide_weight": 0.5, "distillation_weight": 0.2, "label_smoothing": 0.1}
    helped = objective(**settings)
    features = network().features(images)
    logits = network().classify(features)
    expected = 0.9 * ctc_loss(logits, *text) + 0.1 * uniform_divergence(logits)
    expected = expected + 0.2 * alignment_loss(logits, *text)
    expected = expected + 0.3 * ctc_loss(helped.helpers["shortcut"](features), *text)
    expected = expected + 0.5 * helped.helpers["guide"](features, *text)
    torch.testing.assert_close(helped(images, *text), expected)
    focal = objective(focal_gamma=2.0)
    torch.testing.assert_close(focal(images, *text), focal_ctc_loss(logits, *text, 2.0))


def test_two_views_cost_the_mean_of_both_and_their_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    images, *text = batch()
    views = iter([images * 0.5, images + 0.1])
    monkeypatch.setattr(crnn.training.objective, "disturbed", lambda _: next(views))
    first, second = network()(torch.cat([images * 0.5, images + 0.1])).chunk(2)
    expected = 0.5 * (ctc_loss(first, *text) + ctc_loss(second, *text)) + 0.2 * consistency_loss(first, second)
    torch.testing.assert_close(objective(consistency_weight=0.2)(images, *text), expected)


def test_views_are_the_same_for_the_same_seed_of_a_step() -> None:
    helped = objective(consistency_weight=0.2)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(helped(*batch()).detach())

    assert loss(1) == loss(1) != loss(2)


@pytest.mark.parametrize("settings", [*TERMS.values(), EVERYTHING], ids=[*TERMS, "everything"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("longest", [3, 0])
def test_every_parameter_has_a_gradient_whatever_the_targets(
    settings: dict[str, float], bf16: bool, longest: int
) -> None:
    images, targets, lengths = batch()
    helped = objective(**settings)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = helped(images, targets[:, :longest], lengths.clamp(max=longest))
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in helped.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_helpers_follow_their_seed_and_leave_torch_s_generator_alone() -> None:
    def weights(seed: int | None) -> Tensor:
        helped = Objective(network(), ObjectiveConfig(**EVERYTHING), seed)
        return torch.cat([parameter.detach().flatten() for parameter in helped.helpers.parameters()])

    torch.manual_seed(11)
    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), before)
    weights(None)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_blank_s_bias() -> None:
    biased, plain = network(), network()
    bias_blank(biased, 4.0)
    difference = biased.head.bias - plain.head.bias
    torch.testing.assert_close(difference, torch.tensor([0.0] * (CLASSES - 1) + [4.0]))


# ---- whole runs


def same_tensors(one: Path, other: Path) -> bool:
    left, right = read_tensors(one)[0], read_tensors(other)[0]
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    optimizer: str, word_list: Callable[..., Path], small_config: Callable[..., Config], tmp_path: Path
) -> None:
    words = word_list(32)

    def config(steps: int, folder: str) -> Config:
        sections: dict[str, dict[str, Any]] = {
            "objective": {**EVERYTHING, "blank_bias": 1.0},
            "optim": {"optimizer": optimizer, "ema_decay": 0.9, "schedule": "constant"},
            "train": {"num_steps": steps},
            "checkpoint": {"save_checkpoint_steps": 2},
        }
        return small_config(words, folder=folder, **sections)

    whole = train(config(4, "whole"))
    train(config(2, "stopped"))
    resumed = train(config(4, "stopped"), resume=True)
    assert same_tensors(whole.weights, resumed.weights)
    checkpoints = [next((tmp_path / name / "checkpoints").glob("*4.safetensors")) for name in ("whole", "stopped")]
    assert same_tensors(*checkpoints)
    names = read_tensors(checkpoints[0])[0]
    assert any(name.startswith("helper.guide.") for name in names)
    assert not any(name.startswith("ema.") and "guide" in name for name in names)
    assert load_weights(whole.weights).state.keys() == load_weights(whole.weights).build().state_dict().keys()


def test_a_biased_blank_is_where_a_run_starts_and_not_where_a_warm_start_does(
    word_list: Callable[..., Path], small_config: Callable[..., Config]
) -> None:
    words = word_list(16)

    def bias(folder: str, blank_bias: float, **train_section: Any) -> float:
        values = {"train": {"num_steps": 1, **train_section}, "objective": {"blank_bias": blank_bias}}
        found = train(small_config(words, folder=folder, optim={"learning_rate": 1e-9}, **values))
        return float(load_weights(found.weights).state["head.bias"][-1])

    plain = bias("plain", 0.0)
    assert bias("biased", 3.0) == pytest.approx(plain + 3.0, abs=1e-5)
    weights = str(small_config(folder="plain").checkpoint.save_checkpoint_path)
    assert bias("warm", 3.0, warm_start=weights) == pytest.approx(plain, abs=1e-5)

"""A step whose loss or gradient is not finite: with ``train.non_finite = "skip"`` it leaves everything as it was."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crnn.training.objective
from crnn.checkpoint import read_tensors
from crnn.config import Config
from crnn.errors import TrainingError
from crnn.train import train
from crnn.training.objective import Objective
from crnn.training.optim import StepGuard, WeightAverage

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]
Words = Callable[..., Path]


# ---------------------------------------------------------------------------------------------------------------------
# The guard


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "fused AdamW": lambda network: torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1, fused=True),
    "fused SGD": lambda network: torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True
    ),
    "fused SGD without momentum": lambda network: torch.optim.SGD(network.parameters(), lr=0.1, fused=True),
    "one that knows no flag": lambda network: torch.optim.RMSprop(network.parameters(), lr=0.1, momentum=0.9),
}


def everything(network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage) -> list[Tensor]:
    state = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [t.clone() for t in (*network.state_dict().values(), *average.state_dict().values(), *state)]


def do_steps(kind: str, values: list[float], guarded: bool) -> list[list[Tensor]]:
    """Everything after each step; in a step with a value that is not finite, pictures, loss and gradient are it."""
    network = small_network()
    optimizer, average = OPTIMIZERS[kind](network), WeightAverage(network, 0.9)
    guard = StepGuard(network, optimizer) if guarded else None
    generator, seen = torch.Generator().manual_seed(1), []
    for value in values:
        batch = torch.randn(8, 4, generator=generator)
        if guard is not None:
            guard.remember()
        optimizer.zero_grad()
        loss = network(batch * value).square().sum()
        torch.autograd.backward(loss)
        moved = None
        if guard is None:
            optimizer.step()
        else:
            moved = guard.step(torch.isfinite(loss.detach()))
            assert moved.item() == float(math.isfinite(value))
        average.update(moved)
        seen.append(everything(network, optimizer, average))
    return seen


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_finite_steps_are_as_without_it(kind: str) -> None:
    with_it, without = (do_steps(kind, [1.0] * 4, guarded) for guarded in (True, False))
    assert all(same(one, other) for one, other in zip(with_it, without, strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_moves_nothing(kind: str, value: float) -> None:
    first, bad, after = do_steps(kind, [1.0, value, 1.0], guarded=True)
    assert same(first, bad)
    assert not same(bad, after)
    assert all(torch.isfinite(tensor).all() for tensor in after)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_first_step_that_is_not_finite_leaves_an_optimiser_that_begins(kind: str) -> None:
    """What the optimiser makes in its first step must not be whatever was in memory."""
    bad, after = do_steps(kind, [math.nan, 1.0], guarded=True)
    network = small_network()
    count = len(network.state_dict())
    assert same(bad[:count], list(network.state_dict().values()))
    state = bad[2 * count :]
    assert all(not tensor.any() for tensor in state)
    # The second step is the first one with the same batch, which a network that was never disturbed may do, too.
    optimizer = OPTIMIZERS[kind](network)
    generator = torch.Generator().manual_seed(1)
    torch.randn(8, 4, generator=generator)
    torch.autograd.backward(network(torch.randn(8, 4, generator=generator)).square().sum())
    optimizer.step()
    assert same(after[:count], list(network.state_dict().values()))


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def broken_in(monkeypatch: pytest.MonkeyPatch, steps: range, value: float = math.nan) -> None:
    """Pictures of these steps, from 1, are not finite, and so are batch statistics, loss and gradient."""
    forward, calls = Objective.forward, 0

    def broken(self: Objective, images: Tensor, *rest: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, images * value if calls in steps else images, *rest)

    monkeypatch.setattr(Objective, "forward", broken)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


SKIP = {"non_finite": "skip", "num_steps": 4, "batch_size": 4}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_step_leaves_the_checkpoint_as_it_was(
    word_list: Words,
    small_config: Configs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    optimizer: str,
) -> None:
    config = small_config(
        word_list(16),
        optim={"ema_decay": 0.9, "accumulate_steps": 2, "optimizer": optimizer, "learning_rate": 1e-3},
        train=SKIP,
        checkpoint={"save_checkpoint_steps": 1, "keep_checkpoint_max": 9},
    )
    broken_in(monkeypatch, range(5, 6))  # the first of two batches of step 3
    report = train(config)
    assert (report.steps, report.not_finite) == (4, 1)
    saved = [read_tensors(report.folder / f"checkpoints/step-0000000{n}.safetensors") for n in (1, 2, 3, 4)]
    differing = [
        [name for name in left if not torch.equal(left[name], right[name])]
        for (left, _), (right, _) in itertools.pairwise(saved)
    ]
    assert differing[1] == []
    groups = {name.split(".")[0] for name in differing[0]}
    assert groups == {name.split(".")[0] for name in differing[2]} == {"model", "optim", "ema"}
    assert [numbers["numbers"]["not_finite"] for _, numbers in saved] == [[0, 0], [0, 0], [1, 1], [1, 0]]
    assert [numbers["numbers"]["samples"] for _, numbers in saved] == [8, 16, 16, 24]

    (record,) = caplog.records
    pattern = r"step 3: loss nan, gradient norm nan: not finite; nothing moved\. Samples of this rank: (.*)"
    found = re.fullmatch(pattern, record.getMessage())
    assert found is not None
    assert len(found[1].split(", ")) == 8
    lines = lines_of(report.folder)
    assert [line.get("skipped_steps") for line in lines] == [None, None, 1, None]
    assert [line["loss"] is None for line in lines] == [False, False, True, False]
    assert "step 4/4" in capsys.readouterr().err


def test_a_window_is_the_mean_of_its_finite_steps(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = word_list(16)
    plain = lines_of(train(small_config(words, folder="plain", train={**SKIP, "num_steps": 1})).folder)
    broken_in(monkeypatch, range(2, 5))
    (line,) = lines_of(train(small_config(words, train={**SKIP, "log_steps": 4, "tensorboard": True})).folder)
    assert (line["loss"], line["gradient_norm"]) == (plain[0]["loss"], plain[0]["gradient_norm"])
    assert (line["step"], line["skipped_steps"]) == (4, 3)


def test_what_was_counted_survives_a_resume(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps in a row before the end of a process and six after it are ten."""
    words = word_list(16)
    with monkeypatch.context() as patch:
        broken_in(patch, range(1, 5))
        assert train(small_config(words, train=SKIP)).not_finite == 4
    with monkeypatch.context() as patch:
        broken_in(patch, range(1, 6))
        report = train(small_config(words, train={**SKIP, "num_steps": 10}), resume=True)
        assert report.not_finite == 9
    broken_in(monkeypatch, range(1, 12))
    with pytest.raises(TrainingError, match=r"^step 20: loss nan.*the 10th step in a row that is skipped\. Samples of"):
        train(small_config(words, train={**SKIP, "num_steps": 40}), resume=True)


def test_an_infinite_gradient_is_skipped_though_the_loss_is_finite(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ctc_loss, calls = crnn.training.objective.ctc_loss, 0

    def broken(logits: Tensor, *rest: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = ctc_loss(logits, *rest)
        return loss + (logits.sum() * 0.0).sqrt() if calls == 2 else loss  # finite, with an infinite slope

    monkeypatch.setattr(crnn.training.objective, "ctc_loss", broken)
    report = train(small_config(word_list(16), train=SKIP))
    assert report.not_finite == 1
    assert re.search(r"step 2: loss \d+\.\d+, gradient norm (nan|inf): not finite; nothing moved", caplog.text)
    tensors = read_tensors(report.weights)[0]
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_run_without_such_steps_is_the_same_with_either_setting(word_list: Words, small_config: Configs) -> None:
    words = word_list(16)
    optim = {"ema_decay": 0.9, "optimizer": "sgd", "learning_rate": 1e-3}
    stop, skip = (
        train(small_config(words, folder=kind, optim=optim, train={**SKIP, "non_finite": kind}))
        for kind in ("stop", "skip")
    )
    left, right = (read_tensors(r.folder / "checkpoints/step-00000004.safetensors") for r in (stop, skip))
    assert left[0].keys() == right[0].keys()
    assert [name for name in left[0] if not torch.equal(left[0][name], right[0][name])] == []
    assert left[1]["numbers"] == right[1]["numbers"]


def test_a_run_that_stopped_may_go_on_with_the_other_setting(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = word_list(16)
    stopping = small_config(words, train={**SKIP, "non_finite": "stop"}, checkpoint={"save_checkpoint_steps": 1})
    with monkeypatch.context() as patch:
        broken_in(patch, range(3, 4))
        with pytest.raises(TrainingError, match=r'go on past such steps with train\.non_finite "skip"'):
            train(stopping)
    skipping = copy.deepcopy(stopping).model_copy(
        update={"train": stopping.train.model_copy(update={"non_finite": "skip"})}
    )
    broken_in(monkeypatch, range(1, 2))
    report = train(skipping, resume=True)
    assert (report.steps, report.not_finite) == (4, 1)
    assert "train.non_finite: 'stop' -> 'skip'" in capsys.readouterr().err

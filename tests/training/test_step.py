"""Compiled steps compute what plain ones do; settings that cannot be are refused in words."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crnn.config.run import Config, parse_config
from crnn.data.dataset import Batch
from crnn.distributed import Ranks
from crnn.errors import ConfigError
from crnn.model.crnn import build_model
from crnn.training.optim import build_optimizer
from crnn.training.run_folder import TrainState
from crnn.training.step import TrainStep, compiles

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZE = 6


def settings(**train: Any) -> Config:
    return parse_config(
        {
            "model": {"backbone": "small", "hidden_size": 8, "use_dropout": True, "dropout": 0.3},
            "image": {"image_width": 48},
            "charset": {"max_text_length": 6},
            "train": {"batch_size": SIZE, "device": "cpu", "precision": "fp32", **train},
        }
    )


def batch(number: int, size: int = SIZE) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (size, 1, 32, 48), dtype=torch.uint8, generator=generator)
    longest = 3 + number % 2  # batches differ in that, too
    targets = torch.randint(0, 36, (size, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (size,), generator=generator)
    return Batch(images, targets, lengths, tuple(f"sample {i}" for i in range(size)))


def state_of(config: Config) -> TrainState:
    network = build_model(config.model, config.image, 37, seed=1)
    return TrainState(network, build_optimizer(network, config.optim), None)


def run(config: Config, batches: list[Batch]) -> list[Any]:
    """Losses of some steps and all tensors of the network after them."""
    state = state_of(config)
    step = TrainStep(config, Ranks(0, 1, CPU), state)
    found: list[Any] = []
    for one in batches:
        result = step([one], 1e-2)
        found.append((result.counts.tolist(), result.norm.item(), result.own_loss.item()))
        state.step += 1
    return [*found, *(tensor.clone() for tensor in state.network.state_dict().values())]


def check_equal(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


BATCHES = [batch(0), batch(1), batch(2, SIZE - 2), batch(3), batch(4, 0), batch(5)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_steps_are_the_plain_ones(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(settings(compile=False), BATCHES)
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr("torch.nn.Module.compile", lambda module, **kw: compile_module(module, backend=backend, **kw))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = run(settings(compile=True), BATCHES)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    assert graphs == 1  # smaller batches were not compiled for
    check_equal(found, plain)


def test_what_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("CC", "cc")
    config = settings()
    assert compiles(config, CUDA, 1)
    assert not compiles(config, CPU, 1)
    assert not compiles(config, CUDA, 2)  # shared statistics
    assert compiles(settings(sync_batch_norm=False), CUDA, 2)
    assert compiles(settings(compile=True), CPU, 1)
    assert not compiles(settings(compile=False), CUDA, 1)
    wide = config.model_copy(update={"image": config.image.model_copy(update={"resize": "keep_ratio"})})
    assert not compiles(wide, CUDA, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # no Triton
    assert not compiles(config, CUDA, 1)


def test_what_cannot_be_compiled_is_refused() -> None:
    wide = parse_config({"image": {"resize": "keep_ratio"}, "train": {"compile": True}})
    with pytest.raises(ConfigError, match=r"train.compile is true.*keep_ratio"):
        compiles(wide, CUDA, 1)

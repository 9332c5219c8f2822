"""What the parts of ``gpu.py`` share: settings, a step with its network, times of work, lines of a report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnn.config import Config
from crnn.config_file import load_config, parse_config
from crnn.data.dataset import Batch
from crnn.distributed import Ranks
from crnn.model import build_model
from crnn.training.objective import Objective
from crnn.training.optim import WeightAverage, build_optimizer
from crnn.training.state import TrainState
from crnn.training.step import TrainStep

__all__ = ["Report", "Times", "constant_batch", "settings", "training_step", "wait"]


def settings(backbone: str, batch: int, device: torch.device, **train: Any) -> Config:
    """A preset that learns from rendered text with the faces that ship."""
    values = load_config(f"crnn-{backbone}").model_dump(mode="json", exclude_none=True)
    values["data"]["train"] = ["synth"]
    values["train"] |= {"batch_size": batch, "device": str(device), "tensorboard": False, **train}
    values["checkpoint"] |= {"save_checkpoint": False}
    return parse_config(values)


def training_step(config: Config, device: torch.device) -> TrainStep:
    """A training step of a fresh network, as in a run."""
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=1).to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(network, config.objective).to(device).train()
    average = WeightAverage(network, config.optim.ema_decay) if config.optim.ema_decay else None
    return TrainStep(
        config, Ranks(0, 1, device), TrainState(objective, build_optimizer(objective, config.optim), average)
    )


def constant_batch(config: Config, device: torch.device) -> Batch:
    """Noise with random labels of 3 to 8 characters, on the device."""
    generator = torch.Generator().manual_seed(1)
    size = config.train.batch_size
    shape = (size, config.image.image_channels, config.image.image_height, config.image.image_width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, 36, (size, 8), generator=generator)
    lengths = torch.randint(3, 9, (size,), generator=generator)
    return Batch(images, torch.full((size,), shape[3]), targets, lengths, ("",) * size).to(device)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one piece of work, medians.

    Attributes:
        whole: Until it is done.
        planned: Until the processor is free again; as long, where it waits for the device.
    """

    whole: float
    planned: float

    @classmethod
    def of(cls, work: Callable[[], object], device: torch.device, rounds: int, repeats: int = 4) -> Times:
        """Do work a few times without counting, then ``repeats`` times per round."""
        for _ in range(2):
            work()
        whole, planned = [], []
        for _ in range(rounds):
            wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            planned.append((time.perf_counter() - start) / repeats)
            wait(device)
            whole.append((time.perf_counter() - start) / repeats)
        return cls(statistics.median(whole), statistics.median(planned))


@dataclass
class Report:
    """Rows as they are found, printed at once and written into a folder after each.

    Attributes:
        folder: Gets ``gpu.json`` and ``gpu.txt``.
        seconds: After which no further part is begun.
        rows: What was found.
        lines: The same as text.
    """

    folder: Path
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def say(self, line: str) -> None:
        """A line of text."""
        self.lines.append(line)
        print(line, flush=True)
        (self.folder / "gpu.txt").write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def row(self, part: str, name: str, **figures: Any) -> None:
        """A row of figures; tensors and floats in five digits."""
        plain = {key: float(f"{float(v):.5g}") if isinstance(v, float | Tensor) else v for key, v in figures.items()}
        self.rows.append({"part": part, "name": name, **plain})
        shown = "   ".join(f"{key} {value:,}" if isinstance(value, int | float) else f"{key} {value}"
                           for key, value in plain.items())  # fmt: skip
        self.say(f"  {name:<44} {shown}")
        (self.folder / "gpu.json").write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Do a part. What fails in one is a row, too, so that the others are still done."""
        spent = time.perf_counter() - self.started
        self.say(f"\n{name}   ({spent:.0f} s)")
        if spent > self.seconds:
            self.row(name, "left out: no time")
            return
        try:
            work()
        except Exception as error:
            self.row(name, "failed", error=f"{type(error).__name__}: {str(error)[:600]}")

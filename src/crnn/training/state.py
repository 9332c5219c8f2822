"""The state of a training run, and its way into a checkpoint and back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crnn.config import Config
from crnn.model import CRNN
from crnn.training.optim import WeightAverage
from crnn.training.run_folder import Checkpoint

__all__ = ["TrainState"]


@dataclass(slots=True)
class TrainState:
    """All that changes while a run goes on, and all that a checkpoint holds.

    Attributes:
        network: The network that is trained.
        optimizer: Its optimiser.
        average: Running average of the weights, or ``None``.
        step: Optimiser steps done.
        samples: Samples learned from, all ranks together.
        best: Accuracy and 1-NED of the best validation.
        validated: Step of the last validation.
        skipped: Pictures that this rank could not read, by reason.
    """

    network: CRNN
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    samples: int = 0
    best: tuple[float, float] = (-1.0, -1.0)
    validated: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and kept: the running average where there is one."""
        return self.average.state_dict() if self.average is not None else self.network.state_dict()

    def to_checkpoint(self, config: Config, skipped: list[dict[str, int]], digest: str = "") -> Checkpoint:
        """The state as a checkpoint.

        Args:
            config: All settings of the run.
            skipped: Unreadable pictures of all ranks; nothing else differs between them.
            digest: Of what the run learns from, beyond its settings.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{name}": t for name, t in values.items() if isinstance(t, Tensor)}
        numbers: dict[str, Any] = {
            "samples": self.samples, "best": self.best, "validated": self.validated, "skipped": skipped,
            "digest": digest,
        }  # fmt: skip
        if self.average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.average.state_dict().items()}
            numbers["ema_steps"] = self.average.steps
        return Checkpoint(self.step, tensors, numbers, config.model_dump(mode="json", exclude_none=True))

    def restore(self, checkpoint: Checkpoint, rank: int) -> None:
        """Go on from a checkpoint, in place."""
        self.network.load_state_dict(checkpoint.group("model"))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.group("optim").items():
            index, key = name.split(".", 1)
            parameter = parameters[int(index)]
            # Fused optimisers walk through raw memory: what belongs to a parameter has to lie there as it does.
            if tensor.shape == parameter.shape:
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            values.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": values, "param_groups": groups})
        if self.average is not None:
            self.average.load_state_dict(checkpoint.group("ema"), checkpoint.numbers["ema_steps"])
        self.step, self.samples = checkpoint.step, checkpoint.numbers["samples"]
        accuracy, ned = checkpoint.numbers["best"]
        self.best = (accuracy, ned)
        self.validated = checkpoint.numbers["validated"]
        self.skipped = Counter(checkpoint.numbers["skipped"][rank])

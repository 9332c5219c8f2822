"""Folder of a training run: settings, checkpoints, weights, lock.

No random states are kept: every random choice of a step follows from seed, step and rank (``crnn.training.loop``).
"""

import contextlib
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnn.config.run import Config, dump_config, parse_config
from crnn.errors import CheckpointError, ConfigError, TrainingError
from crnn.files import atomic_write, lock_file
from crnn.model.checkpoint import read_tensors, write_tensors
from crnn.model.crnn import CRNN
from crnn.training.optim import WeightAverage

_FORMAT, _VERSION = "crnn-checkpoint", 1

_log = logging.getLogger(__name__)

_FREE_SECTIONS = ("eval", "checkpoint")
_FREE_KEYS = {
    "data.workers", "data.worker_start", "data.max_bad_share", "data.max_lost_share", "data.validation",
    "train.epoch_size", "train.num_steps", "train.device", "train.compile", "train.threads", "train.rank_timeout",
    "train.log_steps", "train.log_format", "train.tensorboard", "train.warm_start", "image.chroma_retry",
}  # fmt: skip
"""Settings that a resumed run may change: a step computes the same (a longer run alters the rate)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a run needs to continue."""

    step: int  # optimizer steps done
    tensors: Mapping[str, Tensor]  # model.NAME, optim.INDEX.NAME and, with averaged weights, ema.NAME
    numbers: Mapping[str, Any]  # JSON-able: best accuracy, counts of skipped samples, steps of the average
    settings: Mapping[str, Any]  # of the run that wrote it
    path: Path | None = None  # source file

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under ``prefix.``, without the prefix."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}


class RunFolder:
    """Folder of one run.

    It has ``config.toml``, ``metrics.jsonl``, ``best.safetensors`` (with validation), ``last.safetensors``,
    ``checkpoints/step-00001000.safetensors`` and ``run.lock``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / "best.safetensors", self.path / "last.safetensors"
        self._checkpoints = self.path / "checkpoints"
        self._begun = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and hold it; remove what a killed process left, and, if ``begin`` is not reached, our own."""
        path, parents = self.path / "run.lock", (self._checkpoints, self.path, *self.path.parents)
        files = [path, *(self.path / name for name in ("metrics.jsonl", "tensorboard", "best.safetensors"))]
        new_files, new_folders = ([p for p in paths if not p.exists()] for paths in (files, parents))
        with contextlib.ExitStack() as stack:
            stack.push(partial(self._forget, new_folders))
            try:
                self._checkpoints.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(lock_file(path))
                stack.push(partial(self._forget, new_files))  # while the folder is held
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
                for name in ("*.safetensors", "config.toml", "metrics.jsonl", "checkpoints/step-*"):
                    for half in self.path.glob(f"{name}.partial"):
                        half.unlink(missing_ok=True)
            except BlockingIOError:
                raise TrainingError(
                    f"another run (process {path.read_text().strip() or 'unknown'}) is training in {self.path}"
                ) from None
            except OSError as error:
                raise self._unusable(error) from error
            yield

    def begin(self, config: Config) -> None:
        """Write the settings after the first step; from here on everything stays."""
        if not self._begun:
            atomic_write(self.path / "config.toml", dump_config(config).encode(), CheckpointError)
            self._begun = True

    def _forget(self, paths: list[Path], error: object, *_: object) -> None:
        """Remove what a run has made that failed before it began, as the end of a context; but no others' files."""
        if error is None or self._begun:
            return
        for path in paths:
            with contextlib.suppress(OSError):  # not there, or a folder with others' files
                if path.name == "tensorboard":
                    shutil.rmtree(path)
                elif path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()

    def _unusable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"cannot write in the run folder {self.path}: {error.strerror}; choose another "
            "checkpoint.save_checkpoint_path"
        )

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, the latest first."""
        pattern = re.compile(r"step-\d{8,}\.safetensors")
        found = [p for p in self._checkpoints.glob("*") if pattern.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(p.stem[5:]), reverse=True)

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Write a checkpoint, then remove all but the latest ``keep``."""
        path = self._checkpoints / f"step-{checkpoint.step:08d}.safetensors"
        metadata = {"step": checkpoint.step, "numbers": checkpoint.numbers, "settings": checkpoint.settings}
        write_tensors(path, checkpoint.tensors, {"format": _FORMAT, "format_version": _VERSION, **metadata})
        # Those of later steps could not be used when this run went on from an earlier one: they must not count.
        for old in [p for p in self.checkpoints() if int(p.stem[5:]) <= checkpoint.step][keep:]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s: cannot be removed (%s); it stays", old, error.strerror)
        return path

    def load_latest(self) -> Checkpoint | None:
        """Return the latest intact checkpoint, or ``None`` without any; ``CheckpointError`` if none is intact."""
        failures = []
        for path in self.checkpoints():
            try:
                tensors, metadata = read_tensors(path)
                if (metadata["format"], metadata["format_version"]) != (_FORMAT, _VERSION):
                    raise CheckpointError(f"{path}: not a checkpoint that this version of crnn can go on from")
                return Checkpoint(metadata["step"], tensors, metadata["numbers"], metadata["settings"], path)
            except (CheckpointError, KeyError) as error:
                failures.append(str(error))
                _log.warning("%s; trying the checkpoint before it", error)
        if failures:
            raise CheckpointError(f"no checkpoint of {self.path} can be used: {failures[0]}")
        return None


def check_same_run(checkpoint: Checkpoint, config: Config, world_size: int, digest: str) -> list[str]:
    """Check that this continues the run that wrote the checkpoint; return lines on the allowed differences."""
    num_ranks = len(checkpoint.numbers["skipped"])
    if num_ranks != world_size:
        raise ConfigError(
            f"--resume: {checkpoint.path} is of a run with {num_ranks} rank(s), here are {world_size}: start as many"
        )
    settings = checkpoint.settings
    with contextlib.suppress(ConfigError):
        # An older version did not have every setting, and did what is now the default.
        settings = parse_config(settings).model_dump(mode="json", exclude_none=True)
    trees = settings, config.model_dump(mode="json", exclude_none=True)
    old, new = ({f"{name}.{key}": tree[name][key] for name in tree for key in tree[name]} for tree in trees)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    free = [key for key in changed if key in _FREE_KEYS or key.split(".")[0] in _FREE_SECTIONS]
    clash = [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed if key not in free]
    if clash:
        raise ConfigError(
            f"--resume: the settings are not those of {checkpoint.path}: {'; '.join(clash)}. Use the run's own ones "
            "(config.toml in its folder), or start a new run with train.warm_start in another folder"
        )
    changes = [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in free]
    before = checkpoint.numbers.get("digest", digest)
    if before != digest:
        samples = "the samples of data.train, or the fonts of rendered text"
        changes.append(f"{samples} ({before} -> {digest}): other batches from here on")
    return [f"not as before the resume: {change}" for change in changes]


@dataclass(slots=True)
class TrainState:
    """Changing state of a run, the content of a checkpoint."""

    network: CRNN
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    samples: int = 0  # of all ranks
    best: tuple[float, float] = (-1.0, -1.0)  # accuracy and 1-NED of the best validation
    validated: int = 0  # step of the last validation
    skipped: Counter[str] = field(default_factory=Counter)  # unreadable images of this rank, by reason

    def to_checkpoint(self, config: Config, skipped: list[dict[str, int]], digest: str = "") -> Checkpoint:
        """Return the state as a checkpoint; ``skipped`` is that of each rank, ``digest`` a code of the data."""
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
        """Restore a checkpoint, in place."""
        self.network.load_state_dict(checkpoint.group("model"))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.group("optim").items():
            index, key = name.split(".", 1)
            parameter = parameters[int(index)]
            # Fused optimizers walk through raw memory: what belongs to a parameter has to lie there as it does.
            if tensor.shape == parameter.shape:
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            values.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": values, "param_groups": groups})
        if self.average is not None:
            self.average.load_state_dict(checkpoint.group("ema"), checkpoint.numbers["ema_steps"])
        numbers = checkpoint.numbers
        self.step, self.samples, self.validated = checkpoint.step, numbers["samples"], numbers["validated"]
        self.best = (numbers["best"][0], numbers["best"][1])
        self.skipped = Counter(numbers["skipped"][rank])

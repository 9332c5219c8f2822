"""The training loop.

::

    crnn train tiny --data.train words.tsv                                  one process
    torchrun --nproc-per-node 2 -m crnn train tiny --data.train words.tsv   two ranks
    crnn train tiny --data.train words.tsv --resume                         go on where it stopped

The number of a step decides its samples, its augmentation, its learning rate and its dropout, so a run that goes on
from a checkpoint does what it would have done. One path serves one rank or many, bf16 or not, accumulation or not.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections import Counter, deque
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crnn.checkpoint import load_weights, warm_start
from crnn.config import Config
from crnn.data.dataset import Batch, check_training_data
from crnn.distributed import Ranks, average_buffers, lost_peers_explained, start_ranks, sync_batch_norm
from crnn.errors import CheckpointError, ConfigError, DataError, TrainingError
from crnn.evaluation.results import Evaluation
from crnn.model import build_model
from crnn.progress import counting_bar
from crnn.signals import signals_collected
from crnn.training.ahead import batches_ahead
from crnn.training.batches import open_batches, stored_sources
from crnn.training.heap import keep_freed_memory
from crnn.training.monitor import Monitor, StepStats
from crnn.training.objective import Objective, bias_blank
from crnn.training.optim import WeightAverage, build_optimizer, learning_rate
from crnn.training.run_folder import Checkpoint, RunFolder, check_same_run
from crnn.training.state import TrainState
from crnn.training.step import StepResult, TrainStep, uses_bf16
from crnn.training.validation import Validator, pictured

__all__ = ["TrainReport", "train"]

_log = logging.getLogger(__name__)

_MAX_NOT_FINITE_IN_A_ROW = 10
"""Skipped steps one after the other that end a run: its weights are broken, not a batch."""

_MIN_BAD_SAMPLES = 10
"""Unreadable pictures before ``data.max_bad_share`` can stop a run: one in a small set is no trend."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """How a run ended.

    Attributes:
        folder: The run folder.
        steps: Optimiser steps done, those before a resume included.
        best_accuracy: Of the validation sets together, in [0, 1]; ``None`` where nothing was validated.
        weights: The file to read with: the best weights, or the last where nothing was validated.
        skipped: Pictures that could not be read while training, by reason.
        stopped_by: The signal that ended the run before its last step, or ``None``.
        not_finite: Steps that were skipped because their loss or gradient was not finite (``train.non_finite``).
        best_step: Step of the best weights, 0 where nothing beat those of the warm start; ``None`` where nothing was
            validated, and on ranks other than the first.
    """

    folder: Path
    steps: int
    best_accuracy: float | None
    weights: Path
    skipped: dict[str, int]
    stopped_by: int | None
    not_finite: int = 0
    best_step: int | None = None


def train(config: Config, *, resume: bool = False) -> TrainReport:
    """Train a network.

    Args:
        config: All settings.
        resume: Go on from the latest checkpoint of the run folder; start where there is none.

    Returns:
        How the run ended; also after SIGTERM, SIGHUP or Ctrl-C, or when nobody reads its output any more (a broken
        pipe), which save a checkpoint and end it.

    Raises:
        ConfigError: Settings contradict each other, the data, or the run that is resumed; or the folder holds a run.
        DataError: A dataset is missing, empty or unusable, or too many of its pictures cannot be read.
        CheckpointError: A checkpoint or weights cannot be read or written.
        TrainingError: The loss is not finite, a worker died, or another run holds the folder.
    """
    if not config.data.train:
        raise ConfigError(
            "data.train is empty; expected LMDB folders or list files to train on, or synth for rendered text "
            "(--data.train synth)"
        )
    stored = config.data.model_copy(update={"train": tuple(stored_sources(config))})
    check_training_data(stored)  # a missing or empty set is found now, not after the first hour
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(start_ranks(config.train.device, timedelta(seconds=config.train.rank_timeout)))
        folder = RunFolder(config.checkpoint.save_checkpoint_path)
        if ranks.is_main:
            stack.enter_context(folder.lock())
            if folder.holds_a_run() and not resume:
                raise ConfigError(
                    f"{folder.path} already holds a run; add --resume to go on with it, or choose another "
                    "--checkpoint.save_checkpoint_path"
                )
            if folder.last.exists() and not folder.checkpoints():
                raise ConfigError(
                    f"{folder.path} holds the weights of a run and no checkpoint to go on from; start a new run in "
                    "another --checkpoint.save_checkpoint_path, with these weights as --train.warm_start"
                )
        stop = stack.enter_context(signals_collected())
        hint = "continue with --resume, or with a longer train.rank_timeout"
        with lost_peers_explained(ranks, config.train.rank_timeout, hint):
            return _Run(config, ranks, folder, stop).run(resume)


class _Run:
    """One call of ``train`` on one rank: what does not change while it goes on."""

    def __init__(self, config: Config, ranks: Ranks, folder: RunFolder, stop: list[int]) -> None:
        self.config, self.ranks, self.folder, self.stop = config, ranks, folder, stop
        with counting_bar("checking labels", enabled=ranks.is_main) as progress:
            self.source = open_batches(config, ranks.rank, ranks.world_size, ranks.device, progress)
        self.epoch_steps = max(1, self.source.epoch_batches // config.optim.accumulate_steps)
        self.num_steps = config.train.num_steps or config.train.epoch_size * self.epoch_steps
        self.bf16 = uses_bf16(config, ranks.device)
        # Waiting for the device at every step would leave it idle; on the CPU there is nothing to wait for.
        self.look_every = 1 if ranks.device.type == "cpu" else config.train.log_steps

    # ---- set-up ----------------------------------------------------------------------------------------------

    def run(self, resume: bool) -> TrainReport:
        # Of rank 0 for all: on other machines the folder may be empty, and all have to go on from the same step.
        checkpoint = self.ranks.broadcast(self.folder.load_latest() if resume and self.ranks.is_main else None)
        changed = self._check_same_run(checkpoint) if checkpoint is not None else []
        state = self._start(checkpoint)
        if self.ranks.is_main:
            self.folder.write_settings(self.config)
        step = TrainStep(self.config, self.ranks, state, self.stop)
        self.validator = Validator(self.config, state.network.num_classes, self.ranks, self.bf16)
        with contextlib.ExitStack() as stack:
            self.monitor = None
            if self.ranks.is_main:
                self.monitor = stack.enter_context(
                    Monitor(self.folder.path, self.config, self.num_steps, self.epoch_steps, state.step)
                )
                self._introduce(state, changed)
                if resume and checkpoint is None:
                    self.monitor.say(f"{self.folder.path} has no run to go on with; a new one begins")
            if self.warm_line and self.config.data.validation:
                self._validate(state)  # what the run starts from, and keeps if nothing is better
            self._loop(state, step)
            return self._finish(state)

    def _check_same_run(self, checkpoint: Checkpoint) -> list[str]:
        ranks = len(checkpoint.numbers["skipped"])
        if ranks != self.ranks.world_size:
            raise ConfigError(
                f"--resume: {checkpoint.path} is of a run with {ranks} rank(s), here are {self.ranks.world_size}: "
                "steps would have other samples. Start as many, or a new run with train.warm_start in another folder"
            )
        changed = check_same_run(checkpoint, self.config)
        digest = checkpoint.numbers.get("digest", self.source.digest)
        if digest != self.source.digest:
            changed.append(
                f"the samples of data.train, or the faces of rendered text ({digest} -> {self.source.digest}): other "
                "batches from here on"
            )
        return changed

    def _start(self, checkpoint: Checkpoint | None) -> TrainState:
        config = self.config
        network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=config.train.seed)
        bias_blank(network, config.objective.blank_bias)
        self.warm_line = ""
        if config.train.warm_start is not None and checkpoint is None:
            try:
                self.warm_line = warm_start(network, config.charset.charset(), load_weights(config.train.warm_start))
            except CheckpointError as error:
                raise CheckpointError(f"train.warm_start: {error}") from error
        memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        network.to(self.ranks.device).to(memory_format=memory_format)  # type: ignore[call-overload]
        if self.ranks.world_size > 1 and config.train.sync_batch_norm:
            network = sync_batch_norm(network)
        objective = Objective(network, config.objective, config.train.seed).to(self.ranks.device).train()
        average = WeightAverage(network, config.optim.ema_decay) if config.optim.ema_decay > 0.0 else None
        state = TrainState(objective, build_optimizer(objective, config.optim), average)
        if checkpoint is not None:
            state.restore(checkpoint, self.ranks.rank)
        return state

    def _introduce(self, state: TrainState, changed: list[str]) -> None:
        assert self.monitor is not None
        parameters = sum(p.numel() for p in state.network.parameters())
        self.monitor.say(
            f"{self.config.model.backbone}, {parameters / 1e6:.2f} M parameters, {state.network.num_classes} classes, "
            f"on {self.ranks.device}{' in bf16' if self.bf16 else ''}, {self.ranks.world_size} rank(s); "
            f"{self.source.num_samples} samples, {self.num_steps} steps"
        )
        self.remarks = self.source.remarks()
        for line in self.remarks:
            self.monitor.say(line)
        for line in changed:
            self.monitor.say(f"not as before the resume: {line}")
        if state.step:
            self.monitor.say(f"going on from step {state.step}")
        elif self.warm_line:
            self.monitor.say(self.warm_line)

    # ---- loop ------------------------------------------------------------------------------------------------

    def _loop(self, state: TrainState, step: TrainStep) -> None:
        accumulate = self.config.optim.accumulate_steps
        if state.validated < state.step and self._validation_due(state.step):
            self._validate(state)  # the run was stopped before it could do that
        batches = batches_ahead(
            self.source.iterate(state.step * accumulate, self.num_steps * accumulate), self.ranks.device
        )
        waiting: deque[tuple[int, float, StepResult]] = deque()
        with contextlib.closing(batches):
            while state.step < self.num_steps:
                rate = learning_rate(self.config.optim, state.step, self.num_steps, self.epoch_steps)
                parts = list(islice(batches, accumulate))
                for batch in parts:
                    self._count_skipped(state, batch)
                result = step(parts, rate)
                state.step += 1
                waiting.append((state.step, rate, result))
                save, validate = self._save_due(state.step), self._validation_due(state.step)
                last = state.step == self.num_steps
                if state.step % self.look_every == 0 or save or validate or last:
                    if self._look(state, waiting) and not last:
                        break
                    if validate:
                        self._validate(state)
                    if save:
                        self._save(state)

    def _validation_due(self, step: int) -> bool:
        every = self.config.eval.eval_steps or self.config.checkpoint.save_checkpoint_steps
        return bool(self.config.data.validation) and (step % every == 0 or step == self.num_steps)

    def _save_due(self, step: int) -> bool:
        settings = self.config.checkpoint
        return settings.save_checkpoint and (step % settings.save_checkpoint_steps == 0 or step == self.num_steps)

    def _look(self, state: TrainState, waiting: deque[tuple[int, float, StepResult]]) -> bool:
        """Wait for the steps done since the last look; stop, or take note, where a loss is not finite.

        Returns:
            Whether a signal asks to end the run, on any rank.
        """
        stop = False
        while waiting:
            step, rate, result = waiting.popleft()
            loss_sum, samples, stopping = result.counts.tolist()
            stats = StepStats(step, loss_sum / max(samples, 1), result.norm.item(), rate, int(samples))
            if stats.is_finite:
                state.samples += stats.samples
                state.not_finite_in_a_row = 0
            else:
                self._not_finite(state, stats, result)
            stop = stop or stopping > 0
            if self.monitor is not None:
                self.monitor.step(stats)
                if self.monitor.unheard and not self.stop:
                    self.stop.append(signal.SIGPIPE)  # seen by all ranks at the next step
        return stop

    def _not_finite(self, state: TrainState, stats: StepStats, result: StepResult) -> None:
        """Name the samples of a step whose loss or gradient is not finite, and stop unless it was skipped."""
        own = f"Samples of this rank: {', '.join(result.keys)}"
        if np.isfinite(result.own_loss.item()) and not np.isfinite(stats.loss):
            own = "The loss of this rank is finite: another one names the samples"
        what = f"step {stats.step}: loss {stats.loss:g}, gradient norm {stats.gradient_norm:g}: not finite"
        advice = "Look at them, lower optim.learning_rate or optim.clip_norm"
        if self.config.train.non_finite == "stop":
            raise TrainingError(
                f'{what}. {own}. {advice}, or go on past such steps with train.non_finite "skip"; '
                "the checkpoints before it are untouched"
            )
        state.not_finite += 1
        state.not_finite_in_a_row += 1
        if state.not_finite_in_a_row >= _MAX_NOT_FINITE_IN_A_ROW:
            raise TrainingError(
                f"{what}, the {state.not_finite_in_a_row}th step in a row that is skipped. {own}. {advice}; "
                "the checkpoints before it are untouched"
            )
        _log.warning("%s; nothing moved. %s", what, own)

    def _count_skipped(self, state: TrainState, batch: Batch) -> None:
        for key, reason in batch.skipped:
            state.skipped[reason] += 1
            if state.skipped[reason] <= 3:
                _log.warning("left out: %s: %s", key, reason)
        bad = state.skipped.total()
        seen = (state.step + 1) * self.config.train.batch_size * self.config.optim.accumulate_steps
        if bad >= _MIN_BAD_SAMPLES and bad > self.config.data.max_bad_share * seen and batch.skipped:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in state.skipped.most_common())
            raise DataError(
                f"{bad} of {seen} pictures could not be read ({reasons}), the last {batch.skipped[-1][0]}; "
                f"data.max_bad_share allows {self.config.data.max_bad_share:g}. Repair the set or raise it"
            )

    # ---- once in a while -------------------------------------------------------------------------------------

    def _settled_weights(self, state: TrainState) -> dict[str, Tensor]:
        if self.ranks.world_size > 1 and not self.config.train.sync_batch_norm:
            average_buffers(state.network, self.ranks, state.average.state_dict() if state.average else None)
        return state.weights()

    def _validate(self, state: TrainState) -> None:
        result = self.validator.validate(self._settled_weights(state), model=str(self.folder.path))
        state.validated = state.step
        # While nothing is read yet, fewer wrong characters still are progress.
        score = (result.combined_accuracy, result.one_minus_ned)
        best = score > state.best
        if best:
            state.best = score
        if self.monitor is not None:
            if best:
                self.folder.save_weights(self.folder.best, state.weights(), self.config, self._info(state, result))
            sheet = pictured(result) if self.config.train.tensorboard else None
            self.monitor.validation(state.step, result.as_dict(), sheet, best)
            self.monitor.restart_clock()

    def _save(self, state: TrainState) -> None:
        self._settled_weights(state)
        skipped = self.ranks.gather(dict(state.skipped))
        if self.monitor is not None:
            checkpoint = state.to_checkpoint(self.config, skipped, self.source.digest)
            self.folder.save(checkpoint, self.config.checkpoint.keep_checkpoint_max)
            self.monitor.restart_clock()

    def _finish(self, state: TrainState) -> TrainReport:
        stopped = state.step < self.num_steps
        if stopped and self.config.checkpoint.save_checkpoint:
            self._save(state)
        weights = self._settled_weights(state)
        if self.monitor is not None:
            self.folder.save_weights(self.folder.last, weights, self.config, self._info(state, None))
            for line in self.source.remarks():
                if line not in self.remarks:  # what was only found while training
                    self.monitor.say(line)
            if stopped:
                after = "; --resume goes on from here" if self.config.checkpoint.save_checkpoint else ""
                self.monitor.say(f"stopped at step {state.step} of {self.num_steps}{after}")
        skipped: Counter[str] = sum(self.ranks.gather(state.skipped), Counter())
        has_best = self.monitor is not None and self.folder.best.exists()
        if self.monitor is not None and has_best and not stopped:
            self.monitor.say(self.validator.calibrate(self.folder.best))
        best_step = load_weights(self.folder.best).info.get("step") if has_best else None
        self.ranks.barrier()
        return TrainReport(
            self.folder.path,
            state.step,
            state.best[0] if self.config.data.validation and state.best[0] >= 0.0 else None,
            self.folder.best if self.folder.best.exists() else self.folder.last,
            dict(skipped),
            (self.stop[0] if self.stop else int(signal.SIGTERM)) if stopped else None,
            state.not_finite,
            best_step,
        )

    def _info(self, state: TrainState, result: Evaluation | None) -> dict[str, Any]:
        return {
            "step": state.step,
            "samples": state.samples,
            "validation": result.as_dict() if result is not None else None,
            "data": list(self.config.data.train),
        }

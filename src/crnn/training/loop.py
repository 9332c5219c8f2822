"""The training loop, for one rank or many (``torchrun``).

The number of a step decides its samples, augmentation, learning rate and dropout, so that a run resumed from a
checkpoint (``crnn train ... --resume``) does the same as one without a break.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import signal
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.charset import NAMED_CHARSETS
from crnn.config.run import Config
from crnn.config.section import checked_call
from crnn.contact_sheet import contact_sheet
from crnn.data.dataset import Batch, check_training_data
from crnn.data.source import open_source, too_many
from crnn.distributed import Ranks, average_buffers, lost_peers_explained, start_ranks, sync_batch_norm
from crnn.engines.torch_engine import TorchEngine
from crnn.errors import CheckpointError, ConfigError, DataError, ImageError, TrainingError
from crnn.evaluation.evaluate import calibrate, check_labels, evaluate, open_sets
from crnn.evaluation.results import Evaluation
from crnn.image import load_image
from crnn.model.checkpoint import load_weights, save_weights, warm_start
from crnn.model.crnn import build_model
from crnn.model.weights import save_calibration
from crnn.recognizer import Recognizer
from crnn.terminal import counting_bar, signals_collected
from crnn.training.batches import BatchFeed, batches_ahead, stored_sources
from crnn.training.monitor import Monitor, StepStats
from crnn.training.optim import WeightAverage, build_optimizer, learning_rate
from crnn.training.run_folder import Checkpoint, RunFolder, TrainState, check_same_run
from crnn.training.step import StepResult, TrainStep, uses_bf16
from crnn.training.teacher import Teacher

_log = logging.getLogger(__name__)

_SHEET_SAMPLES = 8  # of each set on a sheet

_Pending = deque[tuple[int, float, StepResult]]  # (step, learning rate, numbers still on the device)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """End of a run."""

    folder: Path
    steps: int  # optimizer steps done, including those before a resume
    best_accuracy: float | None  # over all validation sets, in [0, 1]; None without validation
    weights: Path  # the best, or the last ones without validation
    skipped: dict[str, int]  # images unreadable in training, by reason
    stopped_by: int | None  # the signal that ended the run early
    best_step: int | None = None  # of the best weights, 0: those of the warm start; only on rank 0, with validation


@checked_call
def train(config: Config, *, resume: bool = False) -> TrainReport:
    """Train a network.

    Args:
        config: All settings.
        resume: Continue from the latest checkpoint of the run folder, if there is one.

    Returns:
        The end of the run; also after SIGTERM, SIGHUP or Ctrl-C, which save a checkpoint first.

    Raises:
        ConfigError: Settings contradict each other, the data, or the resumed run; or the folder holds a run.
        DataError: A dataset is missing, empty or unusable, or too many of its images cannot be read.
        CheckpointError: A checkpoint or weights cannot be read or written.
        TrainingError: The loss is not finite, a worker died, or another run holds the folder.
    """
    if not config.data.train:
        raise ConfigError("data.train is empty; expected LMDB folders, list files or synth (--data.train synth)")
    stored = config.data.model_copy(update={"train": tuple(stored_sources(config))})
    check_training_data(stored)  # a missing or empty set is found now, not after the first hour
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    _disable_malloc_trim()
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(start_ranks(config.train.device, timedelta(seconds=config.train.rank_timeout)))
        folder = RunFolder(config.checkpoint.save_checkpoint_path)
        if ranks.is_main:
            stack.enter_context(folder.lock())
            if not resume and (folder.checkpoints() or folder.best.exists() or folder.last.exists()):
                raise ConfigError(
                    f"{folder.path} already holds a run; --resume it, or set checkpoint.save_checkpoint_path"
                )
            if folder.last.exists() and not folder.checkpoints():
                raise ConfigError(
                    f"{folder.path} holds weights and no checkpoint; use them as --train.warm_start in another folder"
                )
        stop = stack.enter_context(signals_collected())
        hint = "continue with --resume, or with a longer train.rank_timeout"
        with lost_peers_explained(ranks, config.train.rank_timeout, hint):
            return _run(config, ranks, folder, stop, resume)


def _run(config: Config, ranks: Ranks, folder: RunFolder, stop: list[int], resume: bool) -> TrainReport:
    """Train on one rank, from the start or a checkpoint to the last step or a signal."""
    teacher = Teacher(config, ranks.device) if config.objective.teacher is not None else None
    validator = Validator(config, config.charset.charset().num_classes, ranks)
    with counting_bar("checking labels", enabled=ranks.is_main) as progress:
        source = BatchFeed(config, ranks.rank, ranks.world_size, ranks.device, progress)
    accumulate = config.optim.accumulate_steps
    epoch_steps = max(1, source.epoch_batches // accumulate)
    num_steps = config.train.num_steps or config.train.epoch_size * epoch_steps
    save_every = config.checkpoint.save_checkpoint_steps
    validate_every = config.eval.eval_steps or save_every
    # Waiting for the device at every step would leave it idle; on the CPU there is nothing to wait for.
    look_every = 1 if ranks.device.type == "cpu" else config.train.log_steps

    # Of rank 0 for all: on other machines the folder may be empty, and all have to go on from the same step.
    checkpoint = ranks.broadcast(folder.load_latest() if resume and ranks.is_main else None)
    remarks = source.remarks()
    lines = list(remarks)
    if checkpoint is not None:
        lines += check_same_run(checkpoint, config, ranks.world_size, source.digest)
        then = checkpoint.settings["train"]
        steps_then = then.get("num_steps") or then["epoch_size"] * epoch_steps
        was, is_now = (learning_rate(config.optim, checkpoint.step, n, epoch_steps) for n in (steps_then, num_steps))
        if was != is_now:
            change = f"was {was:.3g} in a run of {steps_then} steps, and is {is_now:.3g} in one of {num_steps}"
            lines.append(f"the learning rate at step {checkpoint.step} {change}")
        if checkpoint.step > num_steps:
            raise ConfigError(
                f"{folder.path} is at step {checkpoint.step} of {num_steps} (train.num_steps, train.epoch_size); "
                "expected no fewer steps than are done"
            )
    state = _start(config, ranks, checkpoint, lines)
    warm = config.train.warm_start is not None and checkpoint is None
    if teacher is not None:
        lines.append(f"teacher: {teacher.path}")
    if resume and checkpoint is None:
        lines.append(f"{folder.path} has no run to go on with; a new one begins")
    train_step = TrainStep(config, ranks, state, stop, teacher)

    with Monitor(folder.path, config, num_steps, epoch_steps, state.step, ranks.is_main) as monitor:
        monitor.say(f"{_summary(config, ranks, state)}; {source.num_samples} samples, {num_steps} steps")
        for line in lines:
            monitor.say(line)
        pending: _Pending = deque()
        saved, stopped = state.step, False
        batches = batches_ahead(source.iterate(state.step * accumulate, num_steps * accumulate), ranks.device)
        with contextlib.closing(batches):
            while True:  # look at the state after state.step steps, then do one more
                last = state.step == num_steps
                save = config.checkpoint.save_checkpoint and (state.step % save_every == 0 or last)
                validate = bool(config.data.validation) and (state.step % validate_every == 0 or last)

                # Once in a while: wait for the device, check and log.
                if state.step % look_every == 0 or save or validate or last:
                    stopped = _sync_and_log(pending, state, monitor) and not last

                # Once in a while: validate. A stop leaves it to the resume; a warm start is kept if nothing beats it.
                due = validate and state.validated < state.step and not stopped
                if due or (warm and config.data.validation and state.step == 0):
                    _validate(state, config, ranks, folder, validator, monitor)

                # Once in a while: save.
                if state.step > saved and (save or (stopped and config.checkpoint.save_checkpoint)):
                    _save(state, config, ranks, folder, source.digest)
                    monitor.restart_clock()
                    saved = state.step

                if last or stopped:
                    break
                rate = learning_rate(config.optim, state.step, num_steps, epoch_steps)
                parts = list(islice(batches, accumulate))
                for batch in parts:
                    _count_skipped(state, batch, config)
                result = train_step(parts, rate)
                if ranks.is_main and any(map(len, parts)):  # not where all was left out, which soon is too much
                    folder.begin(config)
                state.step += 1
                pending.append((state.step, rate, result))

        weights = _synced_weights(state, config, ranks)
        skipped = sum(ranks.gather(state.skipped), Counter[str]())
        best_step = None
        if ranks.is_main:
            _save_weights(folder.last, state, weights, config, None)
            for line in source.remarks():
                if line not in remarks:  # found only while training
                    monitor.say(line)
            if stopped:
                after = "; --resume goes on from here" if config.checkpoint.save_checkpoint else ""
                monitor.say(f"stopped at step {state.step} of {num_steps}{after}")
            if folder.best.exists():
                if not stopped:
                    monitor.say(validator.calibrate(folder.best))
                best_step = load_weights(folder.best).info.get("step")
        ranks.barrier()
    return TrainReport(
        folder.path,
        state.step,
        state.best[0] if config.data.validation and state.best[0] >= 0.0 else None,
        folder.best if folder.best.exists() else folder.last,
        dict(skipped),
        (stop[0] if stop else int(signal.SIGTERM)) if stopped else None,
        best_step,
    )


def _start(config: Config, ranks: Ranks, checkpoint: Checkpoint | None, lines: list[str]) -> TrainState:
    """Return the state, new or from the checkpoint; append a line on where it starts."""
    charset = config.charset.charset()
    network = build_model(config.model, config.image, charset.num_classes, seed=config.train.seed)
    with torch.no_grad():
        network.head.bias[-1] += config.objective.blank_bias
    if config.train.warm_start is not None and checkpoint is None:
        try:
            lines.append(warm_start(network, charset, load_weights(config.train.warm_start)))
        except CheckpointError as error:
            raise CheckpointError(f"train.warm_start: {error}") from error
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    network.to(ranks.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    if ranks.world_size > 1 and config.train.sync_batch_norm:
        network = sync_batch_norm(network)
    network.train()
    average = WeightAverage(network, config.optim.ema_decay) if config.optim.ema_decay > 0.0 else None
    state = TrainState(network, build_optimizer(network, config.optim), average)
    if checkpoint is not None:
        state.restore(checkpoint, ranks.rank)
        lines.append(f"going on from step {state.step}")
    return state


def _summary(config: Config, ranks: Ranks, state: TrainState) -> str:
    parameters = sum(p.numel() for p in state.network.parameters())
    bf16 = " in bf16" if uses_bf16(config, ranks.device) else ""
    return (
        f"{config.model.backbone}, {parameters / 1e6:.2f} M parameters, {state.network.num_classes} classes, "
        f"on {ranks.device}{bf16}, {ranks.world_size} rank(s)"
    )


def _sync_and_log(pending: _Pending, state: TrainState, monitor: Monitor) -> bool:
    """Wait for the steps done and log them; return true if any rank got a signal to stop."""
    stop = False
    while pending:
        step, rate, result = pending.popleft()
        loss_sum, samples, stopping = result.counts.tolist()
        stats = StepStats(step, loss_sum / max(samples, 1), result.norm.item(), rate, int(samples))
        if not math.isfinite(stats.loss) or not math.isfinite(stats.gradient_norm):
            own = f"Samples of this rank: {', '.join(result.keys)}"
            if math.isfinite(result.own_loss.item()) and not math.isfinite(stats.loss):
                own = "The loss of this rank is finite: another one names the samples"
            raise TrainingError(
                f"step {step}: loss {stats.loss:g}, gradient norm {stats.gradient_norm:g}: not finite. {own}. Look at "
                "them, lower optim.learning_rate or optim.clip_norm; the checkpoints before it are untouched"
            )
        state.samples += stats.samples
        stop = stop or stopping > 0
        monitor.step(stats)
    return stop


def _count_skipped(state: TrainState, batch: Batch, config: Config) -> None:
    for key, reason in batch.skipped:
        state.skipped[reason] += 1
        if state.skipped[reason] <= 3:
            _log.warning("left out: %s: %s", key, reason)
    bad = state.skipped.total()
    seen = (state.step + 1) * config.train.batch_size * config.optim.accumulate_steps
    if too_many(bad, seen, config.data.max_bad_share) and batch.skipped:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in state.skipped.most_common())
        raise DataError(
            f"{bad} of {seen} images could not be read ({reasons}), the last {batch.skipped[-1][0]}; "
            f"data.max_bad_share allows {config.data.max_bad_share:g}. Repair the set or raise it"
        )


def _validate(
    state: TrainState, config: Config, ranks: Ranks, folder: RunFolder, validator: Validator, monitor: Monitor
) -> None:
    """Evaluate the weights on all ranks, and keep them if they are the best so far."""
    weights = _synced_weights(state, config, ranks)
    evaluation = validator.validate(weights, model=str(folder.path))
    # While nothing is read yet, fewer wrong characters still are progress.
    score = (evaluation.combined_accuracy, evaluation.one_minus_ned)
    best = score > state.best
    state.validated, state.best = state.step, max(score, state.best)
    if ranks.is_main:
        values = evaluation.as_dict()
        if best:
            _save_weights(folder.best, state, weights, config, values)
        monitor.validation(state.step, values, reading_sheet(evaluation) if config.train.tensorboard else None, best)
        monitor.restart_clock()


def _save(state: TrainState, config: Config, ranks: Ranks, folder: RunFolder, digest: str) -> None:
    """Write a checkpoint."""
    _synced_weights(state, config, ranks)
    skipped_by_rank = ranks.gather(dict(state.skipped))
    if ranks.is_main:
        folder.save(state.to_checkpoint(config, skipped_by_rank, digest), config.checkpoint.keep_checkpoint_max)


def _synced_weights(state: TrainState, config: Config, ranks: Ranks) -> dict[str, Tensor]:
    """Return the weights to evaluate and keep, the running average if there is one, with all ranks' statistics."""
    averaged = state.average.state_dict() if state.average else None
    if ranks.world_size > 1 and not config.train.sync_batch_norm:
        average_buffers(state.network, ranks, averaged)
    return averaged or state.network.state_dict()


def _save_weights(
    path: Path, state: TrainState, weights: dict[str, Tensor], config: Config, validation: dict[str, Any] | None
) -> None:
    run = config.model_dump(mode="json", exclude_none=True)
    info = {"step": state.step, "samples": state.samples, "validation": validation, "data": run["data"]["train"]}
    save_weights(path, weights, config, {**info, "run": run})


class Validator:
    """Evaluates weights on ``data.validation``, every rank a part of it, in bf16 or fp32 like the training.

    It has a second network, so that the one in training never changes its mode. Sets that cannot be evaluated are
    refused at once.
    """

    def __init__(self, config: Config, num_classes: int, ranks: Ranks) -> None:
        self._sets, self._ranks = config.data.validation, ranks
        # Cased models are validated with case.
        own = set(config.charset.charset().characters)
        charset = next((name for name, characters in NAMED_CHARSETS.items() if set(characters) == own), "auto")
        self._rules: dict[str, Any] = {"protocol": config.eval.protocol, "charset": charset}
        self._max_bad_share = config.data.max_bad_share
        self._network = build_model(config.model, config.image, num_classes, seed=0).eval()
        bf16 = uses_bf16(config, ranks.device)
        engine = TorchEngine(self._network, str(ranks.device), "bf16" if bf16 else "fp32", config.train.channels_last)
        self._recognizer = Recognizer(engine, config, batch_size=config.eval.batch_size)
        if self._sets:
            check_labels(open_sets(config.charset, self._sets, **self._rules))

    def validate(self, weights: Mapping[str, Tensor], model: str) -> Evaluation:
        """Evaluate weights by name; the result, under the name ``model``, is the same on all ranks."""
        self._network.load_state_dict(weights)
        sets, share = self._sets, self._max_bad_share
        return evaluate(self._recognizer, sets, model=model, max_bad_share=share, ranks=self._ranks, **self._rules)

    def calibrate(self, path: Path) -> str:
        """Fit the confidences of a weights file on the validation sets, store them, return a line for the user."""
        self._network.load_state_dict(load_weights(path).tensors)
        try:
            found = calibrate(self._recognizer, self._sets, max_bad_share=self._max_bad_share, **self._rules)
        except DataError as error:
            return f"{path}: confidences stay as the network gives them: {error}"
        save_calibration(path, found)
        curve = found.language or found.greedy
        before, after = f"{100 * curve.error_before:.1f} %", f"{100 * curve.error_after:.1f} %"
        if (curve.slope, curve.offset) == (1.0, 0.0):
            unchanged = "confidences stay as the network gives them: a fit does not lower their calibration error"
            return f"{path}: {unchanged} on the validation sets, {before}"
        return f"{path}: confidences fitted on the validation sets, calibration error {before} before, {after} after"


def reading_sheet(result: Evaluation) -> npt.NDArray[np.uint8] | None:
    """Draw the first readings of each set, right and wrong, as a sheet ``(H, W, 3)``; ``None`` without readings."""
    images, captions = [], []
    for dataset in result.datasets:
        store = open_source(dataset.path)
        for sample in dataset.samples[:_SHEET_SAMPLES]:
            with contextlib.suppress(ImageError):
                images.append(load_image(store.image_bytes(sample.index), 3))
                sign = "=" if sample.prediction == sample.label else f"| {sample.label}"
                captions.append(f"{sample.prediction} {sign}")
    return contact_sheet(images, captions) if images else None


def _disable_malloc_trim() -> None:
    """Let glibc keep freed blocks up to 1 GiB, or each step has a hundred page faults an image; see mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
    if mallopt is not None and mallopt(trim_threshold, -1):
        mallopt(mmap_threshold, 1 << 30)

"""Logs of a run: progress bar, ``metrics.jsonl``, TensorBoard, the ModelZoo's lines."""

import contextlib
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crnn.config.run import Config
from crnn.errors import CheckpointError, TrainingError, printable
from crnn.files import atomic_write

_log = logging.getLogger(__name__)

_PLAIN_LINE_SECONDS = 10.0  # between progress lines, if stderr is no terminal


@dataclass(frozen=True, slots=True)
class StepStats:
    """Figures of one optimizer step over all ranks."""

    step: int  # from 1
    loss: float  # mean CTC loss per sample, in nats
    gradient_norm: float  # before clipping
    learning_rate: float
    samples: int


class Monitor:
    """Reports the steps of one run, those after ``first_step``; later lines of an earlier process are dropped.

    ``epoch_steps`` are the steps of one pass over the data. Ranks that are not ``enabled`` say nothing.
    """

    def __init__(
        self, folder: Path, config: Config, num_steps: int, epoch_steps: int, first_step: int, enabled: bool = True
    ) -> None:
        self._config, self._enabled = config.train, enabled
        self._epoch_steps, self._num_steps = epoch_steps, num_steps
        self._window: list[StepStats] = []
        self._epoch_first_step = first_step + 1
        self._window_start = self._epoch_start = time.perf_counter()
        self._last_line = self._rate = 0.0
        self._best = ""
        self._said: set[str] = set()  # of the validation sets: at every validation it would be noise
        console = Console(stderr=True)
        self._terminal = console.is_terminal and enabled
        self._progress = Progress(
            TextColumn("[bold]train"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=console, disable=not self._terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("train", total=num_steps, completed=first_step, text="")
        self._metrics: IO[str] | None = None
        self._board: Any = None
        if enabled:
            self._metrics_path = folder / "metrics.jsonl"
            _drop_lines_after(self._metrics_path, first_step)
            try:
                self._metrics = self._metrics_path.open("a", encoding="utf-8")
            except OSError as error:
                raise self._unwritten(error) from error
            self._board = _tensorboard(folder, first_step) if config.train.tensorboard else None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for file in (self._metrics, self._board):
            with contextlib.suppress(OSError):  # what a full disk kept back was reported when it was written
                if file is not None:
                    file.close()

    def say(self, text: str) -> None:
        """Print one line to stderr, above the progress bar."""
        if self._enabled:
            self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def step(self, stats: StepStats) -> None:
        """Record a step, and report every ``train.log_steps``."""
        if not self._enabled:
            return
        self._window.append(stats)
        last = stats.step == self._num_steps
        if stats.step % self._config.log_steps == 0 or last:
            self._report(stats)
        if self._config.log_format == "modelzoo":
            self._modelzoo_lines(stats, last)

    def restart_clock(self) -> None:
        """Exclude the time since the last step, a validation or a checkpoint, from the next rate."""
        self._window_start = time.perf_counter() - sum(s.samples for s in self._window) / (self._rate or 1e9)

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; ``TrainingError`` if it cannot be written."""
        assert self._metrics is not None
        try:
            self._metrics.write(json.dumps(values, ensure_ascii=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> TrainingError:
        why = error.strerror or str(error)
        return TrainingError(f"cannot write {self._metrics_path}: {why}; correct that and continue with --resume")

    def validation(self, step: int, result: Mapping[str, Any], sheet: npt.NDArray[np.uint8] | None, best: bool) -> None:
        """Report a validation to ``metrics.jsonl``, TensorBoard and the screen.

        ``result`` is ``Evaluation.as_dict()``, ``sheet`` a few readings drawn, ``(H, W, 3)`` uint8.
        """
        self.record({"step": step, "validation": result, "best": best})
        accuracy = result["combined_accuracy"] or 0.0
        parts = [
            f"{d['name']} " + ("nothing compared" if d["accuracy"] is None else f"{100 * d['accuracy']:.2f} %")
            for d in result["datasets"]
        ]
        self._best = f"best {100 * accuracy:.1f} %" if best else self._best
        self.say(f"step {step}: {', '.join(parts)}" + (" (best so far)" if best else ""))
        for dataset in result["datasets"]:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in dataset["skipped"].items())
            left_out = f"{dataset['name']}: {dataset['samples']} samples compared, left out {reasons}"
            for line in [*([left_out] if reasons else []), *dataset.get("warnings", ())]:
                if line not in self._said:
                    self.say(line)
                self._said.add(line)
            scores = {f"{kind}/{dataset['name']}": dataset[kind] for kind in ("accuracy", "one_minus_ned", "cer")}
            self._draw_scalars(step, scores)
        if sheet is not None:
            self._draw(lambda board: board.add_image("readings", sheet, step, dataformats="HWC"))

    def _draw(self, draw: Callable[[Any], object]) -> None:
        """Draw for TensorBoard; if its file cannot be written, the run goes on without it."""
        if self._board is None:
            return
        try:
            draw(self._board)
        except OSError as error:
            _log.warning("TensorBoard's file cannot be written (%s); it ends here", error.strerror or error)
            self._board = None

    def _draw_scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        self._draw(lambda board: [board.add_scalar(k, value, step) for k, value in values.items() if value is not None])

    def _report(self, stats: StepStats) -> None:
        now = time.perf_counter()
        samples = sum(s.samples for s in self._window)
        self._rate = samples / max(now - self._window_start, 1e-9)
        loss = sum(s.loss * s.samples for s in self._window) / max(samples, 1)
        curves = {
            "loss": loss,
            "gradient_norm": stats.gradient_norm,
            "learning_rate": stats.learning_rate,
            "samples_per_s": round(self._rate, 1),
        }
        self.record({"step": stats.step, "epoch": round(stats.step / self._epoch_steps, 4), **curves})
        self._draw_scalars(stats.step, {f"train/{name}": value for name, value in curves.items()})
        text = f"loss {loss:.3f}  {self._rate:.0f} img/s  {self._best}"
        self._progress.update(self._task, completed=stats.step, text=text)
        if not self._terminal and (now - self._last_line > _PLAIN_LINE_SECONDS or stats.step == self._num_steps):
            left = (self._num_steps - stats.step) * samples / len(self._window) / max(self._rate, 1e-9)
            self.say(f"step {stats.step}/{self._num_steps}  {text.rstrip()}  {_duration(left)} left")
            self._last_line = now
        self._window, self._window_start = [], time.perf_counter()

    def _modelzoo_lines(self, stats: StepStats, last: bool) -> None:
        epoch, step = divmod(stats.step - 1, self._epoch_steps)
        step += 1
        if stats.step % self._config.log_steps == 0 or step == self._epoch_steps or last:
            print(f"epoch: {epoch + 1} step: {step}, loss is {stats.loss:.10g}", flush=True)
        if step == self._epoch_steps or last:
            elapsed = time.perf_counter() - self._epoch_start
            done = stats.step - self._epoch_first_step + 1  # fewer than ``step`` where the run went on within the epoch
            print(f"Epoch time: {elapsed:.3f}s, per step time: {elapsed / done:.3f}s", flush=True)
            self._epoch_start, self._epoch_first_step = time.perf_counter(), stats.step + 1


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines of steps that a resumed run repeats."""
    if not path.exists():
        return
    kept = []
    # Not splitlines: names of sets may have what Unicode calls a line break, too.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed process may be cut short
    atomic_write(path, "".join(kept).encode(), CheckpointError)


def _tensorboard(folder: Path, first_step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        _log.info("tensorboard is not installed; its scalars are not written (pip install 'crnn[train]')")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

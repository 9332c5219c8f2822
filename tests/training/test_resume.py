"""Runs that are stopped, killed and resumed: they end as one that never was."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.config.run import Config, dump_config
from crnn.errors import CheckpointError, ConfigError
from crnn.model.checkpoint import load_weights, read_tensors
from crnn.training.loop import train
from crnn.training.monitor import Monitor, StepStats
from crnn.training.run_folder import Checkpoint, RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]
Words = Callable[..., Path]
Sections = dict[str, dict[str, Any]]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock and on the folder's name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("samples_per_s", None)
        line.get("validation", {}).pop("model", None)
    return lines


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    left, right = read_tensors(one)[0], read_tensors(other)[0]
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something when a step was reported."""
    report = Monitor.step

    def step_and_act(self: Monitor, stats: StepStats) -> None:
        report(self, stats)
        if stats.step == step:
            act()

    monkeypatch.setattr(Monitor, "step", step_and_act)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal while it does ``step``, which is the last one that it finishes."""
    after_step(monkeypatch, step - 1, lambda: os.kill(os.getpid(), number))


# ---- Stopped


EVERYTHING: Sections = {
    "model": {"use_dropout": True, "dropout": 0.3},
    "augment": {"probability": 0.8},
    "optim": {"ema_decay": 0.9, "accumulate_steps": 2, "learning_rate": 5e-3},
    "train": {"batch_size": 4},
    "eval": {"eval_steps": 3},
    "checkpoint": {"save_checkpoint_steps": 4},
}
OTHERWISE: Sections = {
    "image": {"resize": "keep_ratio", "image_channels": 3},
    "optim": {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4, "schedule": "cosine"},
    "train": {"channels_last": False},
    "eval": {"eval_steps": 3},
    "checkpoint": {"save_checkpoint_steps": 4},
}
TAUGHT: Sections = {"image": {"resize": "keep_ratio"}, "objective": {"teacher": "crnn-small"}}


@pytest.mark.parametrize(
    ("sections", "workers", "stop"),
    [(EVERYTHING, 1, 5), (OTHERWISE, 0, 6), ({}, 0, 2), (TAUGHT, 0, 3)],
    ids=["everything", "before a validation", "before a checkpoint", "with a teacher"],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    word_list: Words,
    small_config: Configs,
    monkeypatch: pytest.MonkeyPatch,
    sections: Sections,
    workers: int,
    stop: int,
) -> None:
    words, held_back = word_list(40), word_list(6, "held_back", seed=1)
    data = {"train": [str(words)], "validation": [str(held_back)], "workers": workers}
    never, stopped = (small_config(folder=name, **sections, data=data) for name in ("never", "stopped"))
    whole = train(never)
    assert (whole.steps, whole.stopped_by) == (12, None)
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        report = train(stopped)
    assert (report.steps, report.stopped_by) == (stop, signal.SIGTERM)
    assert load_weights(report.folder / "last.safetensors").info["step"] == stop
    assert RunFolder(report.folder).checkpoints()[0].name == f"step-{stop:08d}.safetensors"
    resumed = train(stopped, resume=True)
    assert (resumed.steps, resumed.stopped_by, resumed.best_accuracy) == (12, None, whole.best_accuracy)

    last = "checkpoints/step-00000012.safetensors"
    kinds = {name.split(".")[0] for name in read_tensors(whole.folder / last)[0]}
    assert kinds == {"model", "optim"} | ({"ema"} if "ema_decay" in sections.get("optim", {}) else set())
    for name in (last, "last.safetensors", "best.safetensors"):
        assert same_tensors(whole.folder / name, resumed.folder / name), name
    one, other = (read_tensors(r.folder / last)[1]["numbers"] for r in (whole, resumed))
    assert one == other
    assert load_weights(whole.folder).info["step"] == load_weights(resumed.folder).info["step"]
    assert metrics_of(resumed.folder) == metrics_of(whole.folder)
    assert [line["step"] for line in metrics_of(resumed.folder) if "loss" in line] == list(range(1, 13))


def test_a_signal_in_the_last_step_ends_a_run_as_if_there_were_none(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"validation": [str(word_list(4, "held_back"))]}
    stop_at(monkeypatch, 3)
    report = train(small_config(word_list(16), data=data, train={"num_steps": 3}))
    assert (report.steps, report.stopped_by) == (3, None)
    assert report.best_accuracy is not None
    assert [path.name for path in RunFolder(report.folder).checkpoints()] == ["step-00000003.safetensors"]


def test_a_stopped_run_that_keeps_no_checkpoints_promises_none(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(word_list(16), checkpoint={"save_checkpoint": False})
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGINT)
        report = train(config)
    assert report.stopped_by == signal.SIGINT
    assert capsys.readouterr().err.endswith("stopped at step 2 of 12\n")
    assert RunFolder(report.folder).checkpoints() == []
    weights = report.weights.read_bytes()
    with pytest.raises(ConfigError, match=r"holds weights and no checkpoint"):
        train(config, resume=True)
    assert report.weights.read_bytes() == weights


# ---- Processes


def start(config: Config, *flags: str) -> subprocess.Popen[str]:
    """``crnn train`` in a process group of its own."""
    folder = Path(config.checkpoint.save_checkpoint_path)
    path = folder.with_suffix(".toml")
    path.write_text(dump_config(config), encoding="utf-8")
    # Files instead of pipes: a worker that outlives its killed parent would keep a pipe open.
    with folder.with_suffix(".out").open("w") as out, folder.with_suffix(".err").open("w") as err:
        command = [sys.executable, "-m", "crnn", "train", str(path), *flags]
        return subprocess.Popen(command, stdout=out, stderr=err, text=True, start_new_session=True)


def wait_for_step(config: Config, process: subprocess.Popen[str], step: int) -> None:
    """Until metrics.jsonl has a line of that step."""
    folder = Path(config.checkpoint.save_checkpoint_path)
    path, limit = folder / "metrics.jsonl", time.monotonic() + 300.0
    while process.poll() is None and time.monotonic() < limit:
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached: {folder.with_suffix('.err').read_text()}")


DYING = """
import os, signal, sys
from crnn.cli import main
phase, sync, saved = sys.argv[1], os.fsync, []

def dying(descriptor):
    name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
    if name.startswith("step-"):
        saved.append(name)
        if len(saved) == 2 and phase == "half":
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        if len(saved) == 2 and phase != "renamed":
            os.kill(os.getpid(), signal.SIGKILL)
    elif len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

os.fsync = dying
sys.exit(main(["train", *sys.argv[2:]]))
"""
"""``crnn train`` that kills itself at its second checkpoint: half of it written, whole without its name, or with it."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are read from /proc")
def test_a_run_that_dies_while_it_saves_ends_bit_for_bit(
    word_list: Words, small_config: Configs, tmp_path: Path
) -> None:
    sections: Sections = {
        **EVERYTHING,
        "data": {"train": [str(word_list(24))], "workers": 1},
        "checkpoint": {"save_checkpoint_steps": 2},
    }
    never, killed = (small_config(folder=name, **sections) for name in ("never", "killed"))
    whole = train(never)
    path = tmp_path / "killed.toml"
    path.write_text(dump_config(killed), encoding="utf-8")
    for phase in ("half", "whole", "renamed"):
        command = [sys.executable, "-c", DYING, phase, str(path), "--resume"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = train(killed, resume=True)
    for name in ("checkpoints/step-00000012.safetensors", "last.safetensors"):
        assert same_tensors(whole.folder / name, resumed.folder / name), name
    assert metrics_of(resumed.folder) == metrics_of(whole.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_ends_a_run_cleanly(
    word_list: Words, small_config: Configs, number: signal.Signals, status: int
) -> None:
    config = small_config(word_list(16), data={"workers": 2}, train={"batch_size": 4, "num_steps": 100_000})
    process = start(config)
    wait_for_step(config, process, 3)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == status
    folder = Path(config.checkpoint.save_checkpoint_path)
    checkpoint = RunFolder(folder).load_latest()
    assert checkpoint is not None
    lines = folder.with_suffix(".err").read_text().splitlines()
    assert lines[-1] == f"stopped at step {checkpoint.step} of 100000; --resume goes on from here"
    answers = [line for line in lines if line == "stopping, and saving what is done; Ctrl-C again ends at once"]
    assert len(answers) == (number == signal.SIGINT)
    assert all(re.match(r"small, |step \d+/100000 |stopp(ing,|ed) ", line) for line in lines), lines
    assert folder.with_suffix(".out").read_text() == f"{folder}/last.safetensors: {checkpoint.step} steps\n"
    with pytest.raises(ProcessLookupError):  # the workers are gone, too
        os.killpg(process.pid, 0)


# ---- What may be resumed, and how


def test_an_existing_run_is_not_written_over(word_list: Words, small_config: Configs) -> None:
    config = small_config(word_list(16), train={"num_steps": 1})
    report = train(config)
    before = {path: path.read_bytes() for path in report.folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run; --resume it"):
        train(config)
    assert {path: path.read_bytes() for path in report.folder.rglob("*") if path.is_file()} == before


def test_a_run_that_ended_may_be_made_longer(
    word_list: Words, small_config: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    words = word_list(16)
    train(small_config(words, train={"num_steps": 2}))
    report = train(small_config(words, train={"num_steps": 4}), resume=True)
    assert (report.steps, [line["step"] for line in metrics_of(report.folder)]) == (4, [1, 2, 3, 4])
    said = capsys.readouterr().err.splitlines()
    assert "not as before the resume: train.num_steps: 2 -> 4" in said
    assert "going on from step 2" in said
    before = shutil.copy(report.weights, report.folder / "before")
    assert train(small_config(words, train={"num_steps": 4}), resume=True).steps == 4  # nothing is left to do
    assert same_tensors(report.weights, before)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"num_steps": 4}, {"num_steps": 400}, "was 0 in a run of 4 steps, and is 0.1 in one of 400"),
        ({"epoch_size": 2}, {"epoch_size": 4}, "was 0 in a run of 4 steps, and is 0.05 in one of 8"),
        ({"num_steps": 4}, {"num_steps": 4}, None),
    ],
)
def test_another_learning_rate_after_a_resume_is_said(
    word_list: Words, small_config: Configs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    before: dict[str, int], after: dict[str, int], said: str | None,
) -> None:  # fmt: skip
    words, optim = word_list(16), {"learning_rate": 0.1, "schedule": "cosine"}
    train(small_config(words, optim=optim, train={"num_steps": None, **before}))
    stop_at(monkeypatch, 5)
    train(small_config(words, optim=optim, train={"num_steps": None, **after}), resume=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "learning rate" in line]
    assert lines == ([f"the learning rate at step 4 {said}"] if said else [])


def test_fewer_steps_than_are_done_are_refused(word_list: Words, small_config: Configs) -> None:
    words = word_list(16)
    train(small_config(words, train={"num_steps": 3}))
    with pytest.raises(ConfigError, match=r"is at step 3 of 2 .* expected no fewer steps than are done"):
        train(small_config(words, train={"num_steps": 2}), resume=True)


def test_other_samples_after_a_resume_are_said(
    word_list: Words, small_config: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    words = word_list(16)
    train(small_config(words, train={"num_steps": 2}))
    train(small_config(words, train={"num_steps": 3}), resume=True)
    assert "the samples of data.train" not in capsys.readouterr().err
    lines = words.read_text().splitlines(keepends=True)
    words.write_text("".join(lines[:-1]))
    train(small_config(words, train={"num_steps": 4}), resume=True)
    assert "not as before the resume: the samples of data.train" in capsys.readouterr().err


def test_a_resume_with_another_number_of_ranks_is_refused(word_list: Words, small_config: Configs) -> None:
    config = small_config(word_list(16), train={"num_steps": 1})
    folder = RunFolder(train(config).folder)
    found = folder.load_latest()
    assert found is not None
    folder.save(Checkpoint(1, found.tensors, {**found.numbers, "skipped": [{}, {}]}, found.settings), keep=1)
    with pytest.raises(ConfigError, match=r"is of a run with 2 rank\(s\), here are 1: start as many"):
        train(config, resume=True)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    word_list: Words, small_config: Configs, caplog: pytest.LogCaptureFixture
) -> None:
    words = word_list(24)
    sections: Sections = {"train": {"num_steps": 6}, "checkpoint": {"save_checkpoint_steps": 2}}
    whole, other = (train(small_config(words, folder=name, **sections)) for name in ("whole", "other"))
    latest = RunFolder(other.folder).checkpoints()[0]
    latest.write_bytes(latest.read_bytes()[:-1])
    (other.folder / "last.safetensors").unlink()
    resumed = train(small_config(words, folder="other", **sections), resume=True)
    assert "step-00000006.safetensors: not a safetensors file, or cut short" in caplog.text
    assert same_tensors(latest, RunFolder(whole.folder).checkpoints()[0])
    assert same_tensors(resumed.weights, whole.weights)
    assert metrics_of(resumed.folder) == metrics_of(whole.folder)


def test_a_run_all_of_whose_checkpoints_are_damaged_is_not_started_again(
    word_list: Words, small_config: Configs
) -> None:
    config = small_config(word_list(16), train={"num_steps": 1})
    for path in RunFolder(train(config).folder).checkpoints():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be used"):
        train(config, resume=True)

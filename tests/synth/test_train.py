"""Runs that learn from rendered text, alone or beside stored sets: from the command line, stopped, resumed."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.cli import main
from crnn.config.run import Config
from crnn.errors import ConfigError
from crnn.model.checkpoint import load_weights, read_tensors
from crnn.training.loop import train
from crnn.training.monitor import Monitor, StepStats

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

Configs = Callable[..., Config]
Words = Callable[..., Path]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock and on the folder's name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("samples_per_s", None)
        line.get("validation", {}).pop("model", None)
    return lines


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a signal while it does ``step``, which is the last one that it finishes."""
    report = Monitor.step

    def report_and_stop(self: Monitor, stats: StepStats) -> None:
        report(self, stats)
        if stats.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Monitor, "step", report_and_stop)


def test_from_the_command_line(synth_config: Configs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset that names no data; everything else with flags."""
    config = synth_config()
    flags = {
        "data.train": "synth", "data.workers": "1", "train.num_steps": "3", "train.batch_size": "4",
        "train.device": "cpu", "train.threads": "1", "style.texture_tiles": "2", "corpus.words": config.corpus.words[0],
        "fonts.folders": config.fonts.folders[0], "synth.pool_size": "64",
        "checkpoint.save_checkpoint_path": str(tmp_path / "run"),
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert main(["train", "tiny", *words, "--train.no_tensorboard"]) == 0, capsys.readouterr().err
    assert "rendered text: 3 fonts of 1 families" in capsys.readouterr().err
    info = load_weights(tmp_path / "run").info
    assert (info["data"], info["samples"]) == (["synth"], 12)


def test_a_run_learns(synth_config: Configs) -> None:
    report = train(synth_config(train={"num_steps": 60, "batch_size": 16}, optim={"learning_rate": 5e-3}))
    losses = [line["loss"] for line in metrics_of(report.folder) if "loss" in line]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[5:15])


def test_an_epoch_is_what_the_settings_say(synth_config: Configs) -> None:
    """``num_steps`` cannot be given here: it takes the place of epochs."""
    config = synth_config(synth={"pool_size": 64, "epoch_samples": 24}, train={"epoch_size": 2})
    config = config.model_copy(update={"train": config.train.model_copy(update={"num_steps": None})})
    assert train(config).steps == 6


ALONE: dict[str, Any] = {"optim": {"ema_decay": 0.9, "accumulate_steps": 2}, "synth": {"pool_size": 64}}
BESIDE: dict[str, Any] = {"augment": {"probability": 0.8}, "model": {"use_dropout": True, "dropout": 0.3}}
IN_TURN: dict[str, Any] = {
    "image": {"resize": "keep_ratio", "max_width": 96}, "charset": {"characters": "95"}, "synth": {"pool_size": 64},
    "augment": {"probability": 0.8},
}  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("sections", "stored"),
    [(ALONE, False), (BESIDE, True), (IN_TURN, True)],
    ids=["alone", "beside a set", "in turn"],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    synth_config: Configs,
    word_list: Words,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    stored: bool,
    workers: int,
) -> None:
    data: dict[str, Any] = {"workers": workers, "validation": [str(word_list(6, "held_back", seed=1))]}
    if stored:
        data |= {"train": [str(word_list(20)), "synth"], "ratios": [1.0, 3.0]}
    never, stopped = (
        synth_config(folder=name, **sections, data=data, eval={"eval_steps": 5}) for name in ("never", "stopped")
    )
    whole = train(never)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert train(stopped).steps == 5
    resumed = train(stopped, resume=True)
    assert (whole.steps, resumed.steps) == (12, 12)
    for name in ("checkpoints/step-00000012.safetensors", "last.safetensors", "best.safetensors"):
        one, other = (read_tensors(report.folder / name)[0] for report in (whole, resumed))
        assert one.keys() == other.keys()
        assert [n for n in one if not torch.equal(one[n], other[n])] == [], name
    assert metrics_of(resumed.folder) == metrics_of(whole.folder)


def test_a_resume_says_what_is_not_as_before(synth_config: Configs, capsys: pytest.CaptureFixture[str]) -> None:
    train(synth_config(train={"num_steps": 2}))
    capsys.readouterr()
    for changes in ({"style": {"arc_share": 0.9}}, {"synth": {"reuse": 1.0}}, {"corpus": {"balance": 0.0}}):
        with pytest.raises(ConfigError, match=r"--resume: the settings are not those of"):
            train(synth_config(train={"num_steps": 3}, **changes), resume=True)
    assert train(synth_config(train={"num_steps": 3}, data={"workers": 1}), resume=True).steps == 3
    assert "data.workers: 0 -> 1" in capsys.readouterr().err


def test_other_faces_after_a_resume_are_said(
    synth_config: Configs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(synth_config().fonts.folders[0], tmp_path / "faces")
    fonts = {"folders": [str(tmp_path / "faces")], "min_readable": 0.0}
    train(synth_config(train={"num_steps": 1}, fonts=fonts))
    min((tmp_path / "faces").glob("*.ttf")).unlink()
    capsys.readouterr()
    train(synth_config(train={"num_steps": 2}, fonts=fonts), resume=True)
    said = capsys.readouterr().err
    assert "not as before the resume: the samples of data.train, or the fonts of rendered text" in said
    train(synth_config(train={"num_steps": 2}, fonts=fonts), resume=True)
    assert "the fonts of rendered text" not in capsys.readouterr().err


def test_what_cannot_be_trained_on_is_said_before_anything_is_written(synth_config: Configs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.pattern '\[0-9'"):
        train(synth_config(corpus={"pattern": "[0-9"}))
    with pytest.raises(ConfigError, match='has "synth" 2 times'):
        train(synth_config("synth", "synth"))
    assert not (tmp_path / "run" / "config.toml").exists()
    # The folder is not taken for one that holds a run.
    assert train(synth_config(train={"num_steps": 1})).steps == 1

"""The folder of a run: what is kept of it, what is used when files are damaged, who may write there."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.config.run import Config, parse_config
from crnn.errors import CheckpointError, ConfigError, TrainingError
from crnn.model.checkpoint import read_tensors, write_tensors
from crnn.training.run_folder import Checkpoint, RunFolder, check_same_run

Configs = Callable[..., Config]

ONE_RANK = {"skipped": [{}]}


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"model.head.weight": torch.full((2, 3), float(step))}, ONE_RANK, {"train": {"seed": 3}})


def made(path: Path) -> RunFolder:
    """Return a folder as a run has it that holds it."""
    (path / "checkpoints").mkdir()
    return RunFolder(path)


def steps_in(folder: RunFolder) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in folder.checkpoints()]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    path.write_bytes(content)


# ---- Checkpoints


@pytest.mark.parametrize(("keep", "left"), [(1, [50]), (2, [50, 40]), (9, [50, 40, 30, 20, 10])])
def test_the_latest_checkpoints_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    folder = made(tmp_path)
    for step in (10, 20, 30, 40, 50):
        folder.save(checkpoint(step), keep)
    assert steps_in(folder) == left


def test_steps_are_ordered_as_numbers_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for step in (99_999_999, 100_000_001):
        folder.save(checkpoint(step), keep=5)
    others = ["step-1.safetensors", "notes.txt", "step-00000005.safetensors.bak", "step-00000009.safetensors.partial"]
    for name in others:
        (tmp_path / "checkpoints" / name).write_text("mine")
    assert steps_in(folder) == [100_000_001, 99_999_999]
    folder.save(checkpoint(100_000_002), keep=1)
    assert steps_in(folder) == [100_000_002]
    assert all((tmp_path / "checkpoints" / name).exists() for name in others)


@pytest.mark.parametrize("change", [{"format": "crnn-weights"}, {"format_version": 2}])
def test_a_checkpoint_of_another_kind_or_version_is_not_used(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = made(tmp_path)
    path = folder.save(checkpoint(4), keep=3)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, metadata | change)
    with pytest.raises(CheckpointError, match="not a checkpoint that this version of crnn can go on from"):
        folder.load_latest()


def test_damaged_checkpoints_of_later_steps_do_not_push_out_good_ones(tmp_path: Path) -> None:
    # 30 is damaged, so the run goes on from 20 and saves 21: only 20 and 21 are worth anything.
    folder = made(tmp_path)
    for step in (10, 20, 30):
        folder.save(checkpoint(step), keep=3)
    damage(folder.checkpoints()[0])
    folder.save(checkpoint(21), keep=1)
    found = folder.load_latest()
    assert found is not None
    assert found.step == 21


# ---- The folder


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"run folder .*file/run: Not a directory; choose another"),
        RunFolder(tmp_path / "file" / "run").lock(),
    ):
        pass


FOREIGN = ("notes.txt", "config.toml", "movie.partial", "checkpoints/mine.bin")


def content(folder: Path) -> dict[str, str | None]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("foreign", [(), FOREIGN[:3], FOREIGN])
@pytest.mark.parametrize("error", [ConfigError, KeyboardInterrupt])
def test_a_run_that_fails_before_its_first_step_leaves_what_was_there(
    tmp_path: Path, foreign: tuple[str, ...], error: type[BaseException]
) -> None:
    path = tmp_path / "new" / "run"
    for name in foreign:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("mine")
    before = content(tmp_path)

    def fail() -> None:
        with RunFolder(path).lock():
            (path / "metrics.jsonl").write_text("")
            (path / "tensorboard").mkdir()
            (path / "tensorboard" / "events").write_text("")
            (path / "best.safetensors").write_text("the warm start")
            raise error

    with pytest.raises(error):
        fail()
    assert content(tmp_path) == before


def test_what_was_there_of_a_run_stays_where_its_resume_fails(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.save(checkpoint(3), keep=1)
    for name in ("run.lock", "metrics.jsonl", "best.safetensors", "config.toml"):
        (tmp_path / name).write_text("of the run\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError), folder.lock():
        raise ConfigError
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "config.toml").read_text() == "of the run\n"


def test_what_a_run_has_begun_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with contextlib.suppress(TrainingError), folder.lock():
        folder.begin(Config())
        raise TrainingError
    assert sorted(content(tmp_path / "run")) == ["checkpoints", "config.toml", "run.lock"]


def test_the_folder_of_another_run_is_not_tidied_up(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").lock():
        before = content(tmp_path)
        with pytest.raises(TrainingError, match="is training in"), RunFolder(tmp_path / "run").lock():
            pass
        assert content(tmp_path) == before


# ---- The lock

HOLDER = """
import os, sys, time

from crnn.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    ended = os.fork()  # that a child ends does not free the lock
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    child = os.fork()  # as a data worker, which lives on for a while when its parent is killed
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_process_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with (
                pytest.raises(TrainingError, match=rf"another run \(process {holder.pid}\) is training in "),
                RunFolder(tmp_path).lock(),
            ):
                pass
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # its child is still there, and does not keep the lock
            with RunFolder(tmp_path).lock():
                assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
        finally:
            os.kill(child, signal.SIGKILL)


def test_half_written_files_of_a_killed_run_are_tidied_up(tmp_path: Path) -> None:
    folder = made(tmp_path)
    halves = ["best", "last", "checkpoints/step-00000002"]
    others = ["checkpoints/mine.partial", "movie.partial", "notes.txt"]
    for name in [*(f"{half}.safetensors.partial" for half in halves), "config.toml.partial", *others]:
        (tmp_path / name).write_text("half")
    with folder.lock():
        assert sorted(n for n, text in content(tmp_path).items() if text is not None) == [*others, "run.lock"]


# ---- Whether it is the same run


def changes(before: Checkpoint, config: Config) -> list[str]:
    return check_same_run(before, config, world_size=1, digest="")


def from_run(config: Config) -> Checkpoint:
    settings = config.model_dump(mode="json", exclude_none=True)
    return Checkpoint(5, {}, ONE_RANK, settings, Path("run/checkpoints/step-00000005.safetensors"))


@pytest.mark.parametrize(
    ("section", "key", "old", "new"),
    [
        ("data", "workers", 0, 3),
        ("data", "validation", ["a"], ["b", "c"]),
        ("data", "max_bad_share", 0.01, 0.5),
        ("train", "num_steps", 12, 50),
        ("image", "chroma_retry", False, True),
        ("train", "device", "cpu", "auto"),
        ("train", "threads", None, 2),
        ("train", "warm_start", "w.safetensors", None),
        ("eval", "eval_steps", None, 5),
        ("checkpoint", "save_checkpoint_path", "here", "there"),
    ],
)
def test_settings_that_do_not_change_a_step_may_change(
    small_config: Configs, section: str, key: str, old: Any, new: Any
) -> None:
    before, after = (small_config(Path("a.tsv"), **{section: {key: value}}) for value in (old, new))
    assert changes(from_run(before), after) == [f"not as before the resume: {section}.{key}: {old!r} -> {new!r}"]


@pytest.mark.parametrize(
    ("section", "key", "old", "new"),
    [
        ("model", "hidden_size", 16, 24),
        ("image", "resize", "squash", "keep_ratio"),
        ("charset", "characters", "abc", "cba"),
        ("data", "train", ["a.tsv"], ["b.tsv"]),
        ("augment", "probability", 0.0, 0.5),
        ("optim", "learning_rate", 1e-3, 2e-3),
        ("train", "batch_size", 8, 4),
        ("train", "precision", "fp32", "bf16"),
    ],
)
def test_settings_that_make_it_another_run_are_refused(
    small_config: Configs, section: str, key: str, old: Any, new: Any
) -> None:
    before, after = (small_config(Path("a.tsv"), **{section: {key: value}}) for value in (old, new))
    with pytest.raises(ConfigError) as caught:
        changes(from_run(before), after)
    assert f"step-00000005.safetensors: {section}.{key} was {old!r}, is {new!r}. Use" in str(caught.value)


def test_a_setting_that_the_old_run_did_not_know_had_its_default(small_config: Configs) -> None:
    config = small_config(Path("a.tsv"))
    old = from_run(config)
    settings = {**old.settings, "optim": {k: v for k, v in old.settings["optim"].items() if k != "clip_norm"}}
    older = Checkpoint(5, {}, ONE_RANK, settings, old.path)
    assert changes(older, config) == []
    optim = config.optim.model_copy(update={"clip_norm": 3.0})
    with pytest.raises(ConfigError, match=r"optim\.clip_norm was 5\.0, is 3\.0"):
        changes(older, config.model_copy(update={"optim": optim}))


def test_a_run_of_former_settings_at_their_defaults_goes_on(small_config: Configs) -> None:
    config = small_config(Path("a.tsv"))
    values = config.model_dump(mode="json", exclude_none=True)
    old = {name: {**section, **getattr(config, name).removed} for name, section in values.items()}
    assert {"shortcut_weight", "focal_gamma"} < old["objective"].keys()
    assert old["train"]["non_finite"] == "stop"
    assert parse_config(old) == config
    assert changes(Checkpoint(5, {}, ONE_RANK, old, Path("run")), config) == []


@pytest.mark.parametrize(("key", "value"), [("objective.shortcut_weight", 0.1), ("train.non_finite", "skip")])
def test_a_former_setting_with_another_value_is_named(small_config: Configs, key: str, value: Any) -> None:
    config = small_config(Path("a.tsv"))
    old = config.model_dump(mode="json", exclude_none=True)
    section, name = key.split(".")
    old[section][name] = value
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        parse_config(old)
    with pytest.raises(ConfigError, match=f"{key} was {value!r}, is None"):
        changes(Checkpoint(5, {}, ONE_RANK, old, Path("run")), config)

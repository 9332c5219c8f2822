"""A training that dies in the middle of a save goes on from what is whole, and ends as one that nothing happened to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.config.run import dump_config
from crnn.model.checkpoint import read_tensors
from crnn.training.loop import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are read from /proc"),
]

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


def test_a_run_that_dies_while_it_saves_ends_bit_for_bit(word_list: Any, small_config: Any, tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {
        "data": {"train": [str(word_list(24))]},
        "optim": {"ema_decay": 0.9},
        "train": {"batch_size": 4, "num_steps": 12},
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
        one, other = (read_tensors(report.folder / name)[0] for report in (whole, resumed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name

"""Faults of ``faults.py``: data workers, pictures and numbers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import crnn.data.loader
import crnn.model
from fault_case import (
    END,
    Case,
    Found,
    at_once,
    checkpoints,
    ended,
    entering,
    expect,
    goes_on_as_if_nothing_had_been,
)
from fault_disks import fill, mounted
from fault_processes import Lab, at_step, terminate

__all__ = ["CASES"]

CASES: dict[str, Case] = {}

case = entering(CASES)


# ---------------------------------------------------------------------------------------------------------------------
# Data workers


def worker_of(process: int) -> int:
    """A data worker of a process."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    return int(children[0])


@case("a data worker is killed", "the run ends where it waits for that worker's batch, and says so", 15.0)
def worker_killed(lab: Lab, name: str) -> Found:
    run, when = at_once(lab, name, lambda: os.kill(worker_of(os.getpid()), signal.SIGKILL), **_long())
    return ended(run, when, 2, "a data worker died .* Continue with --resume")


@case("a data worker hangs", "it is ended when its batch is 600 s late (here: 5 s)", 15.0)
def worker_hangs(lab: Lab, name: str) -> Found:
    def stop() -> None:
        crnn.data.loader.WAIT_SECONDS = 5.0
        os.kill(worker_of(os.getpid()), signal.SIGSTOP)

    run, when = at_once(lab, name, stop, **_long())
    return ended(run, when, 2, "no data worker gave the next batch for 5 s, so they were ended; .* --resume")


@case("the shared memory is full", "a worker dies of it; the run ends and names it", 15.0)
def shared_memory_full(lab: Lab, name: str) -> Found:
    def keep_filling() -> None:
        while True:
            fill(Path("/dev/shm"))
            time.sleep(0.001)

    with mounted(Path("/dev/shm"), "64m"):
        run, when = at_once(lab, name, threading.Thread(target=keep_filling, daemon=True).start, **_long())
        return ended(run, when, 2, r"a data worker died .*shared memory \(/dev/shm\) (may be|is) full")


@case("a store is cut short while it is read", "a worker dies of it; the run ends and names it", 15.0)
def store_cut_short(lab: Lab, name: str) -> Found:
    shutil.copytree(lab.folder / "store", lab.folder / f"{name}-data")
    settings = _long()
    settings["data"]["train"] = [str(lab.folder / f"{name}-data")]
    run, when = at_once(lab, name, lambda: os.truncate(lab.folder / f"{name}-data" / "data.mdb", 8192), **settings)
    return ended(run, when, 2, "a data worker died .*a store was cut short")


@case("SIGKILL of the training process", "its data workers end, too; nothing keeps the folder locked", 15.0)
def workers_orphaned(lab: Lab, name: str) -> Found:
    run, when = at_once(lab, name, lambda: os.kill(os.getpid(), signal.SIGKILL), **_long())
    expect(run.wait(END) == -signal.SIGKILL, run.errors())
    again = lab.start(f"{name}-again", [*lab.settings(name, "store", **_long()), "--resume"], at_step(9, terminate))
    run.wait_for_workers(END)
    seconds = time.monotonic() - float(when.read_text(encoding="utf-8"))
    expect(again.wait(END) == 128 + signal.SIGTERM, again.errors())
    return Found(-signal.SIGKILL, seconds)


def _long() -> dict[str, dict[str, Any]]:
    """Settings of a run that does not end by itself while it is looked at."""
    return {
        "data": {"workers": 2, "validation": []},
        "train": {"num_steps": 100_000},
        "checkpoint": {"save_checkpoint_steps": 1000},
    }


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and numbers


@case("1 % of a store's pictures are truncated, 2 % allowed", "left out, counted and named; the run goes on", 60.0)
def truncated_allowed(lab: Lab, name: str) -> Found:
    run = lab.start(name, _truncated(lab, name, 0.02))
    found = ended(run, run.began, 0, r"step 15/15 ")
    result = run.output()
    expect("15 steps, pictures left out 12 times: truncated" in result, result)
    expect(len(re.findall("left out: .*truncated: image-0.*: truncated", run.errors())) == 3, run.errors())
    return found


@case("the same, 0.5 % allowed", "the run ends at the tenth and names it", 60.0)
def truncated_refused(lab: Lab, name: str) -> Found:
    run = lab.start(name, _truncated(lab, name, 0.005))
    return ended(run, run.began, 2, r"\d+ of \d+ pictures could not be read \(truncated: \d+\), the last .*image-0")


def _truncated(lab: Lab, name: str, allowed: float) -> list[str]:
    data = {"max_bad_share": allowed, "validation": [], "workers": 1}
    train = {"batch_size": 80, "num_steps": 15, "log_steps": 15}
    return lab.settings(name, "truncated", data=data, train=train, image={"image_width": 32})


def broken_loss(steps: range) -> Callable[[], None]:
    """To prepare a process: the loss of these steps, from 1, is NaN, and so are the batch statistics."""

    def prepare() -> None:
        forward, calls = crnn.model.CRNN.forward, 0

        def broken(self: crnn.model.CRNN, images: Tensor) -> Tensor:
            nonlocal calls
            calls += self.training
            return forward(self, images * torch.nan if self.training and calls in steps else images)

        crnn.model.CRNN.forward = broken  # type: ignore[method-assign]

    return prepare


@case("a batch is NaN", "the run ends and names its samples; the checkpoint before goes on", 15.0)
def not_a_number(lab: Lab, name: str) -> Found:
    arguments = lab.settings(name)
    run = lab.start(name, arguments, broken_loss(range(5, 6)))
    found = ended(run, run.began, 2, r"step 5: loss nan, .*Samples of this rank: (.*image-0\d+, ){7}.*image-0\d+\. ")
    expect(checkpoints(lab, name)[0] == "step-00000004.safetensors", str(checkpoints(lab, name)))
    goes_on_as_if_nothing_had_been(lab, name, arguments)
    return found

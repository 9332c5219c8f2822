"""Faults of ``faults.py``: disks, folders, files."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crnn.training.run_folder import Checkpoint, RunFolder
from fault_case import (
    END,
    Case,
    Found,
    NotTriedError,
    at_once,
    checkpoints,
    ended,
    entering,
    expect,
    goes_on_as_if_nothing_had_been,
    never_disturbed,
)
from fault_processes import Lab, at_step, same_run, terminate

__all__ = ["CASES"]

CASES: dict[str, Case] = {}

case = entering(CASES)


# ---------------------------------------------------------------------------------------------------------------------
# Small disks


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small disk."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        raise NotTriedError(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        while not subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False).returncode:
            pass  # what was laid over it


def remount(folder: Path, option: str) -> None:
    """Change a disk while it is used."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


# ---------------------------------------------------------------------------------------------------------------------
# Disks and folders


@case("the disk is full in the middle of the run", "earlier checkpoints stay; goes on when there is room", 15.0)
def disk_full(lab: Lab, name: str) -> Found:
    step, when = lab.steps // 2 + 1, lab.folder / f"{name}.when"
    return _full(lab, name, step, at_step(step, lambda: fill(lab.folder / name), when))


@case("the disk is full at the last save", "earlier checkpoints stay; goes on when there is room", 15.0)
def disk_full_at_the_end(lab: Lab, name: str) -> Found:
    def prepare() -> None:
        save = RunFolder.save

        def fill_and_save(self: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
            if checkpoint.step == lab.steps:
                (lab.folder / f"{name}.when").write_text(str(time.monotonic()), encoding="utf-8")
                fill(lab.folder / name)
            return save(self, checkpoint, keep)

        RunFolder.save = fill_and_save  # type: ignore[method-assign]

    return _full(lab, name, lab.steps - 1, prepare)


def _full(lab: Lab, name: str, step: int, prepare: Callable[[], None]) -> Found:
    """A run whose disk is filled behind ``step``."""
    folder = lab.folder / name
    with mounted(folder, "64m"):
        arguments = lab.settings(name, train={"tensorboard": True})
        run = lab.start(name, arguments, prepare)
        words = "cannot write .*(the disk is full|No space left on device).*--resume"
        found = ended(run, lab.folder / f"{name}.when", 2, words)
        expect(checkpoints(lab, name)[0] == f"step-{step // 2 * 2:08d}.safetensors", str(checkpoints(lab, name)))
        (folder / "filler").unlink()
        goes_on_as_if_nothing_had_been(lab, name, arguments)
    return found


@case("the folder cannot be written from the start", "refused before anything is done", 15.0)
def read_only(lab: Lab, name: str) -> Found:
    with mounted(lab.folder / name, "1m"):
        remount(lab.folder / name, "ro")
        run = lab.start(name, lab.settings(name))
        return ended(run, run.began, 2, "(cannot make|cannot write in) the run folder .*Read-only file system; choose")


@case("the folder's disk becomes read-only", "the run ends at the next line or save", 15.0)
def becomes_read_only(lab: Lab, name: str) -> Found:
    folder = lab.folder / name
    with mounted(folder, "64m"):
        run, when = at_once(lab, name, lambda: _cover_read_only(folder))
        return ended(run, when, 2, "cannot write .*Read-only file system")


def _cover_read_only(folder: Path) -> None:
    """A disk with open files cannot become read-only on request, so the same one is laid over it."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


@case("the folder vanishes", "the run ends at the next save, and says that it is gone", 15.0)
def folder_vanishes(lab: Lab, name: str) -> Found:
    def move() -> None:
        (lab.folder / name).rename(lab.folder / f"{name}-gone")

    run, when = at_once(lab, name, move)
    return ended(run, when, 2, "the run folder .* is gone")


@case("the folder is removed and another run begins in it", "the first ends; nothing of the other is touched", 15.0)
def folder_replaced(lab: Lab, name: str) -> Found:
    folder = lab.folder / name

    def replace() -> None:
        folder.rename(lab.folder / f"{name}-gone")
        shutil.copytree(never_disturbed(lab)[0], folder)

    never_disturbed(lab)
    run, when = at_once(lab, name, replace)
    found = ended(run, when, 2, "the run folder .* is another one than when the run began")
    expect(not (differs := same_run(never_disturbed(lab)[0], folder, lab.steps)), differs)
    return found


@case("a second run in the same folder", "refused; the first goes on undisturbed", 15.0)
def second_run(lab: Lab, name: str) -> Found:
    go_on, arguments = lab.folder / f"{name}.go", lab.settings(name)

    def wait() -> None:
        while not go_on.exists():
            time.sleep(0.01)

    when = lab.folder / f"{name}.when"
    first = lab.start(name, arguments, at_step(lab.steps // 2, wait, when))
    while not when.exists():
        expect(first.poll() is None, first.errors())
        time.sleep(0.01)
    try:
        second = lab.start(f"{name}-second", [*arguments, "--resume"])
        found = ended(second, second.began, 2, rf"another run \(process {first.pid}\) is training in ")
    finally:
        go_on.touch()
    expect(first.wait(END) == 0, first.errors())
    expect(not (differs := same_run(never_disturbed(lab)[0], lab.folder / name, lab.steps)), differs)
    return found


@case("bytes of the latest checkpoint are flipped", "refused by its checksum, said; the one before is used", 60.0)
def checkpoint_flipped(lab: Lab, name: str) -> Found:
    run, _ = at_once(lab, name, terminate)
    expect(run.wait(END) == 128 + signal.SIGTERM, run.errors())
    latest = lab.folder / name / "checkpoints" / checkpoints(lab, name)[0]
    content, rng = bytearray(latest.read_bytes()), random.Random(lab.seed)
    for _ in range(3):
        content[rng.randrange(len(content) // 2, len(content))] ^= 1 << rng.randrange(8)
    latest.write_bytes(content)
    never_disturbed(lab)
    began = time.monotonic()
    said = goes_on_as_if_nothing_had_been(lab, name, lab.settings(name))
    (line,) = (line for line in said.splitlines() if "checksum does not fit" in line)
    expect(line.endswith("trying the checkpoint before it"), line)
    return Found(0, time.monotonic() - began, line)

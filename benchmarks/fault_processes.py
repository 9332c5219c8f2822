"""Trainings in processes of their own, to which something happens: what ``faults.py`` is made of.

A process is forked from one that has imported everything, so that dozens of them take a minute. It runs the command
``crnn train``, with files as its output, in a process group of its own, and ends as any program ends.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import torch
import torch._dynamo
import torch.utils.tensorboard  # what a training imports on its way is imported here, once for all of them
from PIL import Image, ImageDraw, ImageFont

import crnn.train
import crnn.whole_file
from crnn.checkpoint import read_tensors
from crnn.cli import main
from crnn.config_file import dump_config, parse_config
from crnn.synth.face_glyphs import shipped_folder
from crnn.training.monitor import Monitor, StepStats

__all__ = ["Lab", "Training", "at_step", "die_while_saving", "same_run", "terminate"]

LETTERS = "abcdefghij"
WORDS = 40


class Training:
    """``crnn train`` as a process.

    Args:
        out: Where its output goes: this name with ``.out`` and ``.err``.
        arguments: Of the command line.
        prepare: Called in the process before it begins.
        environment: Variables that are set there.
    """

    def __init__(
        self,
        out: Path,
        arguments: Sequence[str],
        prepare: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.began = time.monotonic()
        self._out = out
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(out, arguments, prepare, environment or {})

    def poll(self) -> int | None:
        """The exit status, ``None`` while it runs; ``-n`` where signal n ended it."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, seconds: float) -> int:
        """The exit status.

        Raises:
            TimeoutError: It has not ended by then; it is killed.
        """
        limit = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > limit:
                self.kill_all()
                raise TimeoutError(f"still there after {seconds:g} s: {self.errors()[-300:]}")
            time.sleep(0.002)
        return status

    def kill(self) -> None:
        """SIGKILL, for the training process alone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL, also for its workers."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.poll()

    def wait_for_workers(self, seconds: float) -> None:
        """Until no process of its group is left.

        Raises:
            TimeoutError: Some are left; they are killed.
        """
        limit = time.monotonic() + seconds
        while True:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return
            if time.monotonic() > limit:
                self.kill_all()
                raise TimeoutError(f"workers are still there after {seconds:g} s")
            time.sleep(0.005)

    def errors(self) -> str:
        """What it has written to stderr."""
        path = self._out.with_suffix(".err")
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def output(self) -> str:
        """What it has written to stdout."""
        return self._out.with_suffix(".out").read_text(encoding="utf-8")


def _become(out: Path, arguments: Sequence[str], prepare: Callable[[], None], environment: Mapping[str, str]) -> None:
    """The life of a forked process; does not return."""
    status = 1
    try:
        os.setsid()
        for descriptor, suffix in ((1, ".out"), (2, ".err")):
            file = os.open(out.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, descriptor)
            os.close(file)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.update(environment)
        prepare()
        status = main(["train", *arguments])
    except BaseException:
        traceback.print_exc()
    finally:
        # As the interpreter does it at the end of a program; what was there before the fork is not ours to tidy up.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


# ---------------------------------------------------------------------------------------------------------------------
# What happens to them


def at_step(step: int, act: Callable[[], None], when: Path | None = None) -> Callable[[], None]:
    """To prepare a process: it does something when it has reported a step, and notes when that was."""

    def prepare() -> None:
        report = Monitor.step

        def step_and_act(self: Monitor, stats: StepStats) -> None:
            report(self, stats)
            if stats.step == step:
                if when is not None:
                    when.write_text(str(time.monotonic()), encoding="utf-8")
                act()

        Monitor.step = step_and_act  # type: ignore[method-assign]

    return prepare


def terminate() -> None:
    """SIGTERM to the process itself."""
    os.kill(os.getpid(), signal.SIGTERM)


def die_while_saving(number: int, phase: str, seed: int) -> Callable[[], None]:
    """To prepare a process: SIGKILL while it saves its n-th checkpoint.

    Args:
        number: Which one, from 1.
        phase: ``half`` of it is written; it is ``whole`` and has not got its name; it is ``renamed``.
        seed: How much is half.
    """

    def prepare() -> None:
        sync, saved, renamed = os.fsync, 0, False

        def dying(descriptor: int) -> None:
            nonlocal saved, renamed
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
            if name.startswith("step-"):
                saved += 1
                if saved == number and phase == "half":
                    os.ftruncate(descriptor, random.Random(seed).randrange(os.fstat(descriptor).st_size))
                if saved == number and phase != "renamed":
                    os.kill(os.getpid(), signal.SIGKILL)
                renamed = saved == number
            elif renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        crnn.whole_file.os.fsync = dying  # type: ignore[attr-defined]

    return prepare


# ---------------------------------------------------------------------------------------------------------------------
# What they train on, and what comes out


@dataclass(frozen=True)
class Lab:
    """A folder with sets of drawn words, in which trainings run.

    Attributes:
        folder: Where everything is.
        steps: Steps of a training.
        kills: How often a run is killed until it may end.
        seed: Of the moments at which things happen.
    """

    folder: Path
    steps: int
    kills: int
    seed: int

    @classmethod
    def make(cls, folder: Path, steps: int, kills: int, seed: int) -> Lab:
        """Draw the words: a list file, a store of them, and one with one truncated picture in a hundred."""
        rng = random.Random(seed)
        pictures = []
        for number in range(400):
            text = "".join(rng.choices(LETTERS, k=rng.randint(1, 4)))
            picture = Image.new("L", (12 * len(text) + 8, 32), 255)
            ImageDraw.Draw(picture).text((4, 4), text, fill=0, font=ImageFont.load_default(20))
            path = folder / f"{number}.png"
            picture.save(path)
            pictures.append((path.read_bytes(), text))
        lines = [f"{number}.png\t{text}\n" for number, (_, text) in enumerate(pictures)]
        (folder / "words.tsv").write_text("".join(lines[:WORDS]), encoding="utf-8")
        (folder / "held_back.tsv").write_text("".join(lines[WORDS : WORDS + 8]), encoding="utf-8")
        (folder / "rendered.txt").write_text("\n".join(sorted({text for _, text in pictures})), encoding="utf-8")
        _write_store(folder / "store", pictures[:WORDS])
        cut = [(data[: len(data) // 2] if n % 100 == 50 else data, text) for n, (data, text) in enumerate(pictures)]
        _write_store(folder / "truncated", cut)
        return cls(folder, steps, kills, seed)

    def settings(self, name: str, source: str = "store", **sections: Mapping[str, Any]) -> list[str]:
        """Arguments of a training in the folder ``name``: small, and with everything on that a checkpoint holds.

        Args:
            name: Of the run.
            source: ``store``, ``truncated`` or ``synth``.
            sections: Settings that differ.
        """
        values: dict[str, dict[str, Any]] = {
            "model": {"backbone": "small", "hidden_size": 16, "use_dropout": True, "dropout": 0.3},
            "image": {"image_width": 64},
            "charset": {"characters": LETTERS},
            "data": {
                "train": [source if source == "synth" else str(self.folder / source)], "workers": 1,
                "validation": [str(self.folder / "held_back.tsv")],
            },
            "augment": {"probability": 0.5},
            "synth": {"pool_size": 64},
            "corpus": {"words": [str(self.folder / "rendered.txt")]},
            "faces": {"folders": [str(shipped_folder() / "open-sans")]},
            "look": {"texture_tiles": 2},
            "optim": {"ema_decay": 0.9},
            "train": {
                "batch_size": 8, "num_steps": self.steps, "device": "cpu", "precision": "fp32", "threads": 1,
                "log_steps": 1, "tensorboard": False,
            },
            "eval": {"eval_steps": 3},
            "checkpoint": {"save_checkpoint_path": str(self.folder / name), "save_checkpoint_steps": 2},
        }  # fmt: skip
        for section, changes in sections.items():
            values[section] = {**values[section], **changes}
        path = self.folder / f"{name}.toml"
        path.write_text(dump_config(parse_config(values)), encoding="utf-8")
        return [str(path)]

    def start(
        self, name: str, arguments: Sequence[str], prepare: Callable[[], None] = lambda: None, **environment: str
    ) -> Training:
        """Start a training, whose output goes to files of that name."""
        return Training(self.folder / f"{name}.log", arguments, prepare, environment)

    def start_ranks(self, name: str, arguments: Sequence[str], prepare: Sequence[Callable[[], None]]) -> list[Training]:
        """Start one training on as many ranks as there are preparations, with the variables that torchrun sets."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        numbers = {"WORLD_SIZE": str(len(prepare)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [
            self.start(f"{name}{rank}", arguments, each, RANK=str(rank), LOCAL_RANK=str(rank), **numbers)
            for rank, each in enumerate(prepare)
        ]


def _write_store(folder: Path, pictures: Sequence[tuple[bytes, str]]) -> None:
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", str(len(pictures)).encode())
        for number, (data, text) in enumerate(pictures, start=1):
            transaction.put(b"image-%09d" % number, data)
            transaction.put(b"label-%09d" % number, text.encode())


def same_run(one: Path, other: Path, steps: int) -> str:
    """What differs between two runs that ended, bit for bit; empty where nothing does."""
    for name in (f"checkpoints/step-{steps:08d}.safetensors", "last.safetensors", "best.safetensors"):
        left, right = (read_tensors(folder / name) for folder in (one, other))
        differing = [n for n in left[0] if n not in right[0] or not torch.equal(left[0][n], right[0][n])]
        if differing or left[0].keys() != right[0].keys():
            return f"{name}: {len(differing)} tensors differ"
        if left[1].get("numbers") != right[1].get("numbers"):
            return f"{name}: {left[1]['numbers']} is not {right[1]['numbers']}"
    left_lines, right_lines = _metrics(one), _metrics(other)
    return "" if left_lines == right_lines else f"metrics.jsonl: {len(left_lines)} and {len(right_lines)} lines differ"


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock and on the folder's name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line.pop("samples_per_s", None)
        line.get("validation", {}).pop("model", None)
    return lines

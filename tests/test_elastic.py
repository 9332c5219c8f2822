"""``torchrun`` starts the ranks of a run anew when one of them dies; two agents on this machine stand for two nodes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.checkpoint import read_tensors
from crnn.config import Config
from crnn.config_file import dump_config

Configs = Callable[..., Config]
Words = Callable[..., Path]

SCRIPT = Path(__file__).parent / "on_ranks.py"
LIMIT = 240.0
"""Seconds after which something hangs, even on a machine with much else to do."""


def quiet_port() -> int:
    """A free port that the system does not give to outgoing connections."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@contextlib.contextmanager
def two_nodes(settings: Path, *flags: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two agents of ``torchrun`` with one rank each, that meet by c10d's rendezvous; stderr goes to files."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{quiet_port()}", "--rdzv-id", "elastic",
        "--local-addr", "127.0.0.1", "-m", "crnn", "train", str(settings), *flags,
    ]  # fmt: skip
    agents = []
    for node in range(2):
        with settings.with_suffix(f".{node}.err").open("w") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            agents.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
    try:
        yield agents
    finally:
        for agent in agents:
            for rank in ranks_under(agent).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)
            agent.kill()
            agent.wait()


def ranks_under(agent: subprocess.Popen[bytes]) -> dict[int, int]:
    """The processes that an agent started, by rank."""
    found = {}
    for child in (
        Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split() if agent.poll() is None else ()
    ):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found |= {int(line[5:]): int(child) for line in lines if line.startswith(b"RANK=")}
    return found


def wait_until(what: Callable[[], Any], agents: list[subprocess.Popen[bytes]], why: Callable[[], str]) -> Any:
    """What ``what`` gives as soon as it gives something."""
    end = time.monotonic() + LIMIT
    while not (found := what()):
        assert time.monotonic() < end, f"{LIMIT:g} s are over\n{why()}"
        assert all(agent.poll() in (None, 0) for agent in agents), why()
        time.sleep(0.02)
    return found


def last_step(folder: Path) -> int:
    """The step of the last whole line of metrics.jsonl."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc")
def test_ranks_that_are_killed_are_started_again_and_end_as_if_nothing_had_been(
    tmp_path: Path, word_list: Words, small_config: Configs
) -> None:
    """Rank 1, then rank 0, which holds the folder: bit for bit what two ranks do that nobody kills."""
    sections: dict[str, dict[str, Any]] = {
        "data": {"train": [str(word_list(40))], "validation": [str(word_list(6, "held_back", seed=1))], "workers": 1},
        "optim": {"ema_decay": 0.9},
        "train": {"batch_size": 4, "num_steps": 48},
        "eval": {"eval_steps": 12},
        "checkpoint": {"save_checkpoint_steps": 4},
    }
    whole, killed = (small_config(folder=name, **sections) for name in ("whole", "killed"))
    for name, config in (("never", whole), ("elastic", killed)):
        (tmp_path / f"{name}.toml").write_text(dump_config(config), encoding="utf-8")
    undisturbed = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "never:2"], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stderr

    def said() -> str:
        return "\n".join((tmp_path / f"elastic.{node}.err").read_text() for node in range(2))

    folder = tmp_path / "killed"
    with two_nodes(tmp_path / "elastic.toml", "--resume") as agents:

        def ranks() -> dict[int, int]:
            found = {rank: process for agent in agents for rank, process in ranks_under(agent).items()}
            return found if len(found) == 2 else {}

        for step, victim in ((6, 1), (18, 0)):
            wait_until(lambda step=step: last_step(folder) >= step, agents, said)  # type: ignore[misc]
            before = wait_until(ranks, agents, said)
            os.kill(before[victim], signal.SIGKILL)
            after = wait_until(
                lambda before=before: (now := ranks()) and not set(now.values()) & set(before.values()) and now,  # type: ignore[misc]
                agents, said,
            )  # fmt: skip
            assert sorted(after) == [0, 1]
        assert [agent.wait(timeout=LIMIT) for agent in agents] == [0, 0], said()

    lines = said().splitlines()
    assert sum(line.startswith("going on from step ") for line in lines) == 2, said()
    assert "Traceback" not in said(), said()  # a rank that loses another one says so in a line
    for name in ("checkpoints/step-00000048.safetensors", "last.safetensors", "best.safetensors"):
        left, right = (read_tensors(tmp_path / run / name)[0] for run in ("whole", "killed"))
        assert left.keys() == right.keys()
        assert [key for key in left if not torch.equal(left[key], right[key])] == [], name

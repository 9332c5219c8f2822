"""Trainings on any number of ranks of this machine: ``test_ranks.py`` starts this file.

Usage: ``python on_ranks.py FOLDER NAME:RANKS[:ACTION] ...``. For each, one after the other, ``FOLDER/NAME.toml`` is
trained; rank r writes ``FOLDER/NAME.r.json``: how it ended, and the keys of its samples, step by step. ACTION ``stop``
and ``kill`` are what the last rank does to itself in its third step; ``double`` trains in float64.

All ranks are forked from here, so that torch is loaded once. Rank 0 takes a port that the system gives it, and tells
the others: a port that is looked for first and bound later may be taken in between by somebody else.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

import crnn.training.loop
import crnn.training.step
from crnn.config.run import load_config
from crnn.errors import CrnnError
from crnn.training.loop import train
from crnn.training.step import StepResult, TrainStep

SIGNALS = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}


def train_in_double() -> None:
    """From here on networks are trained in float64; they are evaluated in float32 as ever."""
    build, make_input = crnn.training.loop.build_model, crnn.training.step.network_input
    built = []

    def build_first_in_double(*arguments: Any, **named: Any) -> Any:
        built.append(build(*arguments, **named))
        return built[-1].double() if len(built) == 2 else built[-1]  # the first one is that of the validation

    crnn.training.loop.build_model = build_first_in_double
    crnn.training.step.network_input = lambda images, image: make_input(images, image).double()


def run_rank(path: Path, rank: int, world_size: int, action: str, ports: list[Connection]) -> None:
    """Train as one rank of several."""
    if action == "double":
        train_in_double()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(True)  # as under torchrun: the store is there already
    if rank == 0:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for other in ports:
            other.send(store.port)
        os.environ["MASTER_PORT"] = str(store.port)
    else:
        os.environ["MASTER_PORT"] = str(ports[rank - 1].recv())
    keys: list[tuple[str, ...]] = []

    class RecordedStep(TrainStep):
        def __call__(self, *arguments: Any, **named: Any) -> StepResult:
            if action in SIGNALS and len(keys) == 2 and rank == world_size - 1:
                path.with_suffix(".time").write_text(str(time.time()))
                os.kill(os.getpid(), SIGNALS[action])
            result = super().__call__(*arguments, **named)
            keys.append(result.keys)
            return result

    crnn.training.loop.TrainStep = RecordedStep  # type: ignore[misc]
    ended: dict[str, Any] = {"error": None}
    try:
        train(load_config(path))
    except CrnnError as error:
        ended["error"] = f"{type(error).__name__}: {error}"
    ended |= {"keys": keys, "time": time.time()}
    path.with_suffix(f".{rank}.json").write_text(json.dumps(ended), encoding="utf-8")


def run(folder: Path, name: str, world_size: int, action: str) -> bool:
    """One training on all its ranks; whether they ended as they should."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe() for _ in range(world_size - 1)]
    processes = []
    for rank in range(world_size):
        ports = [far if rank else near for near, far in pipes]
        arguments = (folder / f"{name}.toml", rank, world_size, action, ports)
        processes.append(fork.Process(target=run_rank, args=arguments))
        processes[-1].start()
    whole = processes[:-1] if action in SIGNALS else processes
    try:
        for process in whole:
            process.join(240.0)
        return all(process.exitcode == 0 for process in whole)
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> int:
    torch.set_num_threads(1)
    good = True
    for argument in sys.argv[2:]:
        name, world_size, action = [*argument.split(":"), ""][:3]
        good = run(Path(sys.argv[1]), name, int(world_size), action) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""Faults of ``faults.py``: killed, asked to end, not listened to any more."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from fault_case import (
    END,
    Case,
    Found,
    at_once,
    ended,
    entering,
    expect,
    goes_on_as_if_nothing_had_been,
    never_disturbed,
)
from fault_processes import Lab, Training, at_step, die_while_saving, same_run

__all__ = ["CASES"]

CASES: dict[str, Case] = {}

case = entering(CASES)


# ---------------------------------------------------------------------------------------------------------------------
# Killed


def _killed(lab: Lab, name: str, data: str, ranks: int) -> Found:
    """Kill a run again and again, at a moment of the clock and within a checkpoint by turns, then let it end."""
    whole, duration = never_disturbed(lab, data, ranks)
    rng = random.Random(f"{lab.seed} {name}")
    arguments = lab.settings(name, data)
    longest, killed, said = 0.0, 0, ""
    for number in range(lab.kills):
        victim = rng.randrange(ranks)
        prepare: list[Callable[[], None]] = [lambda: None] * ranks
        in_checkpoint = number % 2 == 0
        if in_checkpoint:  # rank 0 writes
            victim = 0
            phase = ("half", "whole", "renamed")[number // 2 % 3]
            prepare[0] = die_while_saving(1 + rng.randrange(2), phase, rng.randrange(1 << 30))
        runs = lab.start_ranks(f"{name}-{number}-", [*arguments, "--resume"], prepare) if ranks > 1 else [
            lab.start(f"{name}-{number}", [*arguments, "--resume"], prepare[0])
        ]  # fmt: skip
        if in_checkpoint:
            status = runs[0].wait(END)
        else:
            time.sleep(rng.uniform(0.1, 0.9) * duration)
            runs[victim].kill()
            status = runs[victim].wait(END)
        killed_at = time.monotonic()
        killed += status == -signal.SIGKILL
        expect(status in (-signal.SIGKILL, 0), f"kill {number}: {status}, {runs[victim].errors()}")
        for run in runs:
            _end_as_torchrun_does(run, killed_at)
            run.wait_for_workers(END)
            said = run.errors().splitlines()[-1] if run is not runs[victim] and run.errors() else said
        longest = max(longest, time.monotonic() - killed_at)
    last = lab.start_ranks(name, [*arguments, "--resume"], [lambda: None] * ranks) if ranks > 1 else [
        lab.start(name, [*arguments, "--resume"])
    ]  # fmt: skip
    for run in last:
        expect(run.wait(END) == 0, run.errors())
    expect(killed >= min(2, lab.kills), f"it was killed {killed} times")
    expect(not (differs := same_run(whole, lab.folder / name, lab.steps)), differs)
    return Found(-signal.SIGKILL, longest, said)


def _end_as_torchrun_does(run: Training, since: float) -> None:
    """Wait for a rank that has lost another one; one that still waits for the others to come is asked to end."""
    while run.poll() is None and time.monotonic() - since < 5.0:
        time.sleep(0.005)
    if run.poll() is None:
        os.kill(run.pid, signal.SIGTERM)
        run.wait(END)


_KILLED = "resumed each time; weights, averages, optimiser, metrics as of a run never killed, bit for bit"


@case("SIGKILL at random moments and in the middle of checkpoints, stored words", _KILLED, 15.0)
def killed_stored(lab: Lab, name: str) -> Found:
    return _killed(lab, name, "store", 1)


@case("the same, rendered words", _KILLED, 15.0)
def killed_rendered(lab: Lab, name: str) -> Found:
    return _killed(lab, name, "synth", 1)


@case("SIGKILL of one of two ranks, stored words", f"the other rank ends; {_KILLED}", 30.0)
def killed_stored_ranks(lab: Lab, name: str) -> Found:
    return _killed(lab, name, "store", 2)


@case("the same, rendered words", f"the other rank ends; {_KILLED}", 30.0)
def killed_rendered_ranks(lab: Lab, name: str) -> Found:
    return _killed(lab, name, "synth", 2)


# ---------------------------------------------------------------------------------------------------------------------
# Signals and pipes


def _stopped(lab: Lab, name: str, number: signal.Signals) -> Found:
    run, when = at_once(lab, name, lambda: os.kill(os.getpid(), number))
    found = ended(run, when, 128 + number, rf"stopped at step {lab.steps // 2 + 2} of .*; --resume goes on from here")
    goes_on_as_if_nothing_had_been(lab, name, lab.settings(name))
    return found


_STOPPED = "finishes its step, saves, ends; goes on bit for bit"


@case("SIGTERM", _STOPPED, 15.0)
def terminated(lab: Lab, name: str) -> Found:
    return _stopped(lab, name, signal.SIGTERM)


@case("Ctrl-C", _STOPPED, 15.0)
def interrupted(lab: Lab, name: str) -> Found:
    return _stopped(lab, name, signal.SIGINT)


@case("the terminal is closed (SIGHUP)", _STOPPED, 15.0)
def hung_up(lab: Lab, name: str) -> Found:
    return _stopped(lab, name, signal.SIGHUP)


@case("the reader of stdout goes away", "ends; the checkpoint before goes on", 15.0)
def stdout_closed(lab: Lab, name: str) -> Found:
    return _closed(lab, name, 1, 128 + signal.SIGPIPE)


@case("the reader of stderr goes away", "ends; the checkpoint before goes on", 15.0)
def stderr_closed(lab: Lab, name: str) -> Found:
    return _closed(lab, name, 2, 1)


def _closed(lab: Lab, name: str, descriptor: int, status: int) -> Found:
    def lose() -> None:
        reader, writer = os.pipe()
        os.dup2(writer, descriptor)
        os.close(reader)
        os.close(writer)

    settings = {"train": {"log_format": "modelzoo"}} if descriptor == 1 else {"eval": {"eval_steps": 1}}
    when = lab.folder / f"{name}.when"
    arguments = lab.settings(name, **settings)
    run = lab.start(name, arguments, at_step(lab.steps // 2 + 1, lose, when))
    found = ended(run, when, status, "")
    again = lab.start(f"{name}-again", [*arguments, "--resume"])
    expect(again.wait(END) == 0, again.errors())
    if descriptor == 1:
        expect(not (differs := same_run(never_disturbed(lab)[0], lab.folder / name, lab.steps)), differs)
    return found

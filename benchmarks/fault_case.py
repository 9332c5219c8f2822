"""What the faults of ``faults.py`` share: the table that they enter, how a run ends, and how it has to go on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_processes import Lab, Training, at_step, same_run

__all__ = [
    "END",
    "Case",
    "Found",
    "NotTriedError",
    "at_once",
    "checkpoints",
    "ended",
    "entering",
    "expect",
    "goes_on_as_if_nothing_had_been",
    "never_disturbed",
]

END = 60.0
"""Seconds in which everything has to end; a process that is still there then is a fault of ours."""


class NotTriedError(Exception):
    """This machine does not allow it."""


@dataclass(frozen=True)
class Found:
    """What came of a fault.

    Attributes:
        status: Exit status; of several runs, that of the first.
        seconds: From the fault to the end of the process; the longest of several.
        said: The last line of its stderr.
    """

    status: int
    seconds: float
    said: str = ""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        fault: What happens.
        outcome: What comes of it; ``act`` checks that it does.
        limit: Seconds in which the process has ended.
        act: Does it.
    """

    fault: str
    outcome: str
    limit: float
    act: Callable[[Lab, str], Found]


Entry = Callable[[str, str, float], Callable[[Callable[[Lab, str], Found]], None]]


def entering(cases: dict[str, Case]) -> Entry:
    """A decorator that enters a function into ``cases`` under its own name: fault, outcome, limit."""

    def case(fault: str, outcome: str, limit: float) -> Callable[[Callable[[Lab, str], Found]], None]:
        def enter(act: Callable[[Lab, str], Found]) -> None:
            cases[act.__name__] = Case(fault, outcome, limit, act)

        return enter

    return case


def expect(condition: object, what: str) -> None:
    """Raise ``AssertionError``, with and without ``-O``."""
    if not condition:
        raise AssertionError(what)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


_whole: dict[tuple[str, int], tuple[Path, float]] = {}


def never_disturbed(lab: Lab, data: str = "store", ranks: int = 1) -> tuple[Path, float]:
    """The folder of a run to compare with, done once, and the seconds that it took."""
    if (data, ranks) not in _whole:
        name = f"never-{data}-{ranks}"
        arguments = lab.settings(name, data)
        if ranks == 1:
            runs = [lab.start(name, arguments)]
        else:
            runs = lab.start_ranks(name, arguments, [lambda: None] * ranks)
        for run in runs:
            expect(run.wait(END) == 0, run.errors())
        _whole[data, ranks] = lab.folder / name, time.monotonic() - runs[0].began
    return _whole[data, ranks]


def goes_on_as_if_nothing_had_been(lab: Lab, name: str, arguments: list[str]) -> str:
    """Resume until the end, and compare; returns what was said."""
    again = lab.start(f"{name}-again", [*arguments, "--resume"])
    expect(again.wait(END) == 0, f"resumed: {again.errors()}")
    expect(not (differs := same_run(never_disturbed(lab)[0], lab.folder / name, lab.steps)), f"resumed: {differs}")
    return again.errors()


def ended(run: Training, since: float | Path, status: int, words: str, lines: int = 1) -> Found:
    """Wait for a process that a fault ends.

    Args:
        run: The process.
        since: When the fault happened, or the file in which the process noted it.
        status: What it has to end with.
        words: A regular expression for the last line of its stderr.
        lines: Lines of an error, which begin with the name of the program.
    """
    found = run.wait(END)
    now = time.monotonic()
    run.wait_for_workers(END)
    errors = run.errors()
    said = errors.splitlines()[-1] if errors else ""
    expect(found == status, f"exit status {found}, expected {status}: {errors}")
    expect(re.search(words, said), f"expected {words!r} in: {errors}")
    if status == 2:
        expect(errors.count("crnn train: ") == lines and "Traceback" not in errors, f"not one line: {errors}")
    began = since if isinstance(since, float) else float(since.read_text(encoding="utf-8"))
    return Found(status, now - began, said)


def at_once(lab: Lab, name: str, act: Callable[[], None], **sections: Mapping[str, Any]) -> tuple[Training, Path]:
    """A training to which something happens in the middle, and the file where it notes when."""
    when = lab.folder / f"{name}.when"
    return lab.start(name, lab.settings(name, "store", **sections), at_step(lab.steps // 2 + 1, act, when)), when


def checkpoints(lab: Lab, name: str) -> list[str]:
    """The checkpoints of a run, the latest first."""
    return sorted((path.name for path in (lab.folder / name / "checkpoints").iterdir()), reverse=True)

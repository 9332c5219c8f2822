"""What happens to a training when something goes wrong: faults made on purpose, and how long until the process ended.

    python benchmarks/faults.py [--only CASE ...] [--kills 6] [--steps 12] [--seed 1] [--folder FOLDER] [--json]

Every row is a small ``crnn train`` of its own, to which the fault happens while it runs; it checks what it says: the
exit status, that an error is one line, that earlier checkpoints are whole, and that the resumed run ends with the same
weights, optimiser, averages and metrics as one that nothing happened to, bit for bit. ``seconds`` is from the fault to
the end of the process, the limit beside it; where a run is meant to go on, they are those of the whole run.

Small disks are mounted in a namespace of this program's own, which needs no rights on most systems with Linux; where it
cannot be had, the rows that need one say so. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import fault_data
import fault_disks
import fault_kills
from fault_case import Found, NotTriedError
from fault_processes import Lab

CASES = fault_kills.CASES | fault_data.CASES | fault_disks.CASES

_OWN_MOUNTS = "CRNN_FAULTS_OWN_MOUNTS"


def in_own_namespace() -> None:
    """Start this program again where it may mount disks that nobody else sees; stay here if that cannot be had."""
    if _OWN_MOUNTS in os.environ:
        return
    command = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    if shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        os.environ[_OWN_MOUNTS] = "yes"
        os.execvp("unshare", [*command, sys.executable, *sys.argv])


def row(name: str, lab: Lab) -> dict[str, object]:
    """Make one fault happen."""
    case = CASES[name]
    values: dict[str, object] = {"case": name, "fault": case.fault, "outcome": case.outcome, "limit": case.limit}
    try:
        found: Found | None = case.act(lab, name)
        problem = ""
    except NotTriedError as error:
        return {**values, "not_tried": str(error)}
    except (AssertionError, TimeoutError, OSError) as error:
        found, problem = None, f"{type(error).__name__}: {error}"
    if found is not None:
        values |= {"status": found.status, "seconds": round(found.seconds, 2), "said": found.said}
        if found.seconds > case.limit:
            problem = f"{found.seconds:.1f} s"
    return {**values, "problem": problem}


def line(values: dict[str, object]) -> str:
    """A row of the table, in Markdown."""
    if "not_tried" in values:
        return f"| {values['fault']} | not tried: {values['not_tried']} | | | |"
    if values["problem"]:
        return f"| {values['fault']} | **not as it should be**: {values['problem']} | | | |"
    return (
        f"| {values['fault']} | {values['outcome']} | {values['status']} | {values['seconds']} | {values['limit']:g} |"
    )


def main() -> int:
    """Print the table as it grows. Exit status 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--kills", type=int, default=6, help="in each of the four runs that are killed again and again")
    parser.add_argument("--steps", type=int, default=12, help="of a run; a multiple of 6")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work, and what stays there; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    if options.steps % 6 or options.steps < 12:
        parser.error("--steps: expected 12, 18, ...")
    in_own_namespace()
    torch.set_num_threads(1)  # what is forked must not have lost threads
    began, bad = time.monotonic(), 0
    # Not a TemporaryDirectory: every forked process that ends would remove it.
    scratch = tempfile.mkdtemp(prefix="faults-")
    try:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        lab = Lab.make(folder.resolve(), options.steps, options.kills, options.seed)
        if not options.json:
            print("| fault | what happens | exit status | seconds | limit |\n|---|---|---:|---:|---:|", flush=True)
        for name in options.only or CASES:
            values = row(name, lab)
            bad += bool(values.get("problem"))
            print(json.dumps(values, ensure_ascii=False) if options.json else line(values), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s, torch {torch.__version__}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

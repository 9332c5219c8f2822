"""What the benchmarks share: their arguments, crops to work on, rounds, and the table.

All that is compared is measured in turns, round by round, so that a drift of the machine meets all of it alike. Figures
are medians over the rounds; a ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crnn.cli import main as crnn

__all__ = ["Crop", "Row", "arguments", "find_crops", "left_out", "measure", "report", "seconds"]


@dataclass(frozen=True, slots=True)
class Crop:
    """An image file and its text."""

    path: str
    label: str


@dataclass(slots=True)
class Row:
    """One thing that is measured.

    Attributes:
        name: In the table.
        work: Does it once; returns the figure of a round.
        base: Name of the row that the ratio refers to.
        notes: Further columns, by their heads.
        figures: One a round.
    """

    name: str
    work: Callable[[], float]
    base: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    figures: list[float] = field(default_factory=list)


def arguments(document: str, *, count: int, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take, and these defaults."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="crops with labels.tsv; default: rendered ones")
    parser.add_argument("--count", type=int, default=count, help=f"crops; default: {count}")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: one for each processor")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    return parser


def find_crops(options: argparse.Namespace, preset: str, scratch: Path) -> list[Crop]:
    """Return the crops of ``--data``, evenly over the list, or rendered ones.

    Args:
        options: As parsed.
        preset: Its settings render the crops.
        scratch: Where they are written.
    """
    folder = options.data or scratch / "crops"
    if options.data is None:
        flags = ["--count", str(options.count), "--to", "list", "--train.seed", "7"]
        with contextlib.redirect_stdout(sys.stderr):
            status = crnn(["synth", "write", str(folder), preset, *flags])
        if status:
            raise SystemExit("no crops could be rendered")
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    chosen = pairs[:: max(1, len(pairs) // options.count)][: options.count]
    return [Crop(str(folder / path), label) for path, label in chosen]


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(rows: list[Row], rounds: int) -> None:
    """Fill in the figures: all rows in turns, as many rounds as are asked for."""
    for _ in range(rounds):
        for row in rows:
            row.figures.append(row.work())


def report(title: str, unit: str, rows: list[Row], as_json: bool) -> None:
    """Print the table in Markdown, or all figures as JSON."""
    by_name = {row.name: row for row in rows}
    found = [
        {
            "name": row.name,
            "median": statistics.median(row.figures),
            "lowest": min(row.figures),
            "highest": max(row.figures),
            "ratio": _ratio(row, by_name[row.base]) if row.base else None,
            **row.notes,
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps({"title": title, "unit": unit, "machine": _machine(), "rows": found}, ensure_ascii=False))
        return
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    print(f"{title}; {_machine()}\n")
    print(f"| {unit} | median | lowest | highest | ratio |{''.join(f' {name} |' for name in notes)}")
    print("|---|" + "---:|" * (4 + len(notes)))
    for row, values in zip(rows, found, strict=True):
        figures = [_shown(values[name]) for name in ("median", "lowest", "highest")]
        ratio = "" if values["ratio"] is None else f"{values['ratio']:.2f}"
        print(f"| {row.name} | {' | '.join([*figures, ratio, *(row.notes.get(name, '') for name in notes)])} |")


def _ratio(row: Row, base: Row) -> float:
    return statistics.median(mine / other for mine, other in zip(row.figures, base.figures, strict=True))


def _shown(value: object) -> str:
    assert isinstance(value, float)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _machine() -> str:
    """Processor and versions."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", "onnxruntime", "openvino", "numpy", "pillow"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{os.cpu_count()} x {processor}, {', '.join(versions)}"


def left_out(reasons: Mapping[str, str]) -> None:
    """Say what could not be measured, and why."""
    for name, reason in reasons.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)

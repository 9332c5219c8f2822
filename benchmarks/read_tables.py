"""What ``read.py`` measures, by name, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn.shipped import shipped_engine_file, shipped_weights

__all__ = ["ENGINES", "PARTS", "PRECISIONS", "Cell", "Values", "file_sizes", "tables"]

PARTS = ("accuracy", "start", "latency", "rates", "limits")
ENGINES = ("openvino", "onnx", "torch", "tesseract")
PRECISIONS = ("fp32", "bf16", "int8")

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that is measured, once a round.

    Attributes:
        part: Of ``PARTS``.
        model: As it was given; empty for Tesseract.
        engine: Of ``ENGINES``; empty for limits.
        precision: Of ``PRECISIONS``; empty where there is none.
        batch: Pictures at once; 0 where it is of no matter.
    """

    part: str
    model: str = ""
    engine: str = ""
    precision: str = ""
    batch: int = 0


def file_sizes(models: list[str]) -> dict[str, int]:
    """Bytes of each model's files."""
    sizes = {}
    for model in models:
        weights = shipped_weights(model) or Path(model)
        if weights.is_file():
            sizes[weights.name] = weights.stat().st_size
        for precision in PRECISIONS:
            shipped = shipped_engine_file(model, precision)
            if shipped is not None:
                sizes[shipped.name] = shipped.stat().st_size
    return sizes


def tables(rows: dict[Cell, Values], sizes: dict[str, int], left_out: dict[str, str]) -> Iterator[str]:
    """The tables, in Markdown, line by line.

    Args:
        rows: What was found for each cell.
        sizes: Bytes of each file.
        left_out: What could not be measured, and why.
    """
    yield from _rate_tables(rows)
    yield from _table(
        "Accuracy", ("words right", "of", "%"), rows, "accuracy",
        lambda row: (f"{row['right']:,.0f}", f"{row['samples']:,.0f}", f"{100 * row['right'] / row['samples']:.1f}"),
    )  # fmt: skip
    yield from _table(
        "Latency, one picture after the other, file to reading, ms", ("half within", "99 of 100 within"), rows,
        "latency", lambda row: (f"{row['p50']:.2f}", f"{row['p99']:.2f}"),
    )  # fmt: skip
    yield from _table(
        "`crnn read one.png`, start to end", ("s", "MiB resident"), rows, "start",
        lambda row: (f"{row['seconds']:.2f}", f"{row['mib']:.0f}"),
    )  # fmt: skip
    yield from ("", "| file | MB |", "|---|---:|")
    yield from (f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items())
    if left_out:
        yield from ("", "Left out:", "", *(f"* {name}: {reason}" for name, reason in left_out.items()))


def _rate_tables(rows: dict[Cell, Values]) -> Iterator[str]:
    tesseract = next(
        (row["files"] for cell, row in rows.items() if cell.engine == "tesseract" and "files" in row), None
    )
    if tesseract is not None:
        yield from ("", f"Tesseract: {tesseract:,.1f} img/s from files.")
    for model in dict.fromkeys(cell.model for cell in rows if cell.part == "rates" and cell.model):
        own = {cell: row for cell, row in rows.items() if cell.part == "rates" and cell.model == model}
        limit = rows.get(Cell("limits", model), {})
        base = max(
            (row["network"] for cell, row in own.items() if (cell.engine, cell.precision) == ("onnx", "fp32")),
            default=None,
        )
        yield from (
            "", f"**{Path(model).name}**, img/s", "",
            "| engine, precision, batch | network | pixels | files | network / ONNX Runtime fp32 at its best | "
            "files / Tesseract | limit | network / limit |", "|---|" + "---:|" * 7,
        )  # fmt: skip
        for cell, row in own.items():
            top = limit.get(cell.precision)
            cells = [f"{cell.engine}, {cell.precision}, {cell.batch}"]
            cells += [f"{row[name]:,.0f}" for name in ("network", "pixels", "files")]
            cells += [_ratio(row["network"], base), _ratio(row["files"], tesseract)]
            cells += ["-" if top is None else f"{top:,.0f}", _ratio(row["network"], top)]
            yield f"| {' | '.join(cells)} |"


def _ratio(value: float, other: float | None) -> str:
    return "-" if other is None else f"{value / other:.2f}"


def _table(
    title: str, heads: tuple[str, ...], rows: dict[Cell, Values], part: str, shown: Callable[[Values], tuple[str, ...]]
) -> Iterator[str]:
    own = {cell: row for cell, row in rows.items() if cell.part == part}
    if own:
        yield from ("", f"**{title}**", "", f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads))
        for cell, row in own.items():
            name = ", ".join(filter(None, (Path(cell.model).name if cell.model else "", cell.engine, cell.precision)))
            yield f"| {name} | {' | '.join(shown(row))} |"

"""Measure the reading of whole pages: seconds a page, lines found and read, beside RapidOCR and Tesseract.

A folder has pages, NAME.jpg, and beside each its lines, NAME.csv: eight coordinates of the corners, and the text (the
form of ICDAR's SROIE). Case is folded everywhere.

found: a line is found where the box of a line that was read has an IoU of 0.5 or more with its own, both upright.
exact: of all annotated lines, those found whose text is the annotation's; "no spaces": spaces aside.
CER: edits between all texts of a page in the order that each system gives, joined by spaces, and the annotation.

RapidOCR with its own recognizer needs rapidocr; Tesseract its command.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein

from common import Row, arguments, left_out, measure, report
from crnn import MissingExtraError, PageReader, load

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Lines: TypeAlias = list[tuple[Box, str]]


@dataclass
class Counts:
    """Counts over all pages."""

    lines: int = 0
    found: int = 0
    exact: int = 0
    without_spaces: int = 0
    edits: int = 0
    characters: int = 0

    def notes(self) -> dict[str, str]:
        """Return the columns of the table."""
        shares = {"found": self.found, "exact": self.exact, "no spaces": self.without_spaces}
        notes = {name: f"{100 * count / self.lines:.1f} %" for name, count in shares.items()}
        return notes | {"CER": f"{100 * self.edits / max(self.characters, 1):.1f} %"}


def upright(corners: Any) -> Box:
    """Return the upright box around corners."""
    points = np.asarray(corners, dtype=float).reshape(-1, 2)
    return (*points.min(0).tolist(), *points.max(0).tolist())


def annotated(path: Path) -> Lines:
    """Return the lines of a CSV file, whose texts may have commas."""
    rows = [line.split(",", 8) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [(upright(row[:8]), row[8].strip()) for row in rows if len(row) == 9]


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common) if areas > common else 0.0


def folded(text: str) -> str:
    """Return a text without what case and runs of spaces say."""
    return " ".join(text.casefold().split())


def count(counts: Counts, wanted: Lines, lines: Lines) -> None:
    """Add what was read of a page."""
    for box, label in wanted:
        counts.lines += 1
        share, text = max(((overlap(box, of), read) for of, read in lines), default=(0.0, ""))
        if share >= 0.5:
            given, label = folded(text), folded(label)
            counts.found += 1
            counts.exact += given == label
            counts.without_spaces += given.replace(" ", "") == label.replace(" ", "")
    texts = [folded(" ".join(text for _, text in of)) for of in (lines, wanted)]
    counts.edits += Levenshtein.distance(*texts)
    counts.characters += len(texts[1])


def tesseract(mode: str) -> Callable[[Path], Lines]:
    """Return a function that reads by Tesseract's command, in a mode of segmentation."""

    def read(path: Path) -> Lines:
        done = subprocess.run(
            ["tesseract", str(path), "-", "--psm", mode, "tsv"], capture_output=True, text=True, check=True
        )
        by_line: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for word in csv.DictReader(io.StringIO(done.stdout), delimiter="\t", quoting=csv.QUOTE_NONE):
            if word["level"] == "5" and word["text"].strip():
                by_line.setdefault((word["block_num"], word["par_num"], word["line_num"]), []).append(word)
        found = []
        for words in by_line.values():
            sides = [[int(word[name]) for name in ("left", "top", "width", "height")] for word in words]
            corners = [point for x, y, w, h in sides for point in ((x, y), (x + w, y + h))]
            found.append((upright(corners), " ".join(word["text"] for word in words)))
        return found

    return read


def read_all(row: Row, read: Callable[[Path], Lines], labels: dict[Path, Lines]) -> float:
    """Read all pages, and return the seconds for each."""
    counts, taken = Counts(), 0.0
    for path, wanted in labels.items():
        began = time.perf_counter()
        lines = read(path)
        taken += time.perf_counter() - began
        count(counts, wanted, lines)
    row.notes = counts.notes()
    return taken / len(labels)


def main() -> None:
    """Measure, and print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, count=40, rounds=1)
    parser.add_argument("--models", nargs="*", default=["crnn-small"], help="default: crnn-small")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data FOLDER is needed: pages NAME.jpg, and NAME.csv with their lines")
    pages = sorted(options.data.glob("*.jpg"))[: options.count]
    labels = {path: annotated(path.with_suffix(".csv")) for path in pages}
    readers: dict[str, Callable[[Path], Lines]] = {}
    missing: dict[str, str] = {}

    try:
        for model in options.models:
            reader = PageReader(load(model, threads=options.threads), "rapidocr", threads=options.threads)

            def ours(path: Path, reader: PageReader = reader) -> Lines:
                return [(upright(line.box), line.text) for line in reader.read(path).lines]

            readers[f"rapidocr's lines, {model}"] = ours
        from rapidocr import RapidOCR

        threads = {"EngineConfig.onnxruntime.intra_op_num_threads": options.threads}
        engine = RapidOCR(params={"Global.log_level": "critical", **threads})

        def rapid(path: Path) -> Lines:
            found = engine(np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1].copy())
            boxes = [] if found.boxes is None else found.boxes
            return [(upright(box), text) for box, text in zip(boxes, found.txts or (), strict=True)]

        readers["rapidocr alone"] = rapid
    except MissingExtraError as error:
        missing["rapidocr"] = str(error)
    if shutil.which("tesseract"):
        readers |= {f"tesseract --psm {mode}": tesseract(mode) for mode in ("3", "6", "11")}
    else:
        missing["tesseract"] = "no such command"

    rows = []
    for name, read in readers.items():
        row = Row(name, work=lambda: 0.0)
        row.work = partial(read_all, row, read, labels)
        rows.append(row)
    measure(rows, options.rounds)
    report(f"{len(pages)} pages, {sum(map(len, labels.values()))} lines", "seconds a page", rows, options.json)
    left_out(missing)


if __name__ == "__main__":
    main()

"""Reading, side by side: engines, precisions and batch sizes, Tesseract beside them, and what the machine could do.

    python benchmarks/read.py MODEL [MODEL ...] --data NAME=DATA [NAME=DATA ...] --keep FILE.jsonl
                              [--engines openvino onnx torch tesseract] [--precisions fp32 bf16 int8]
                              [--batches 1 16 64] [--parts accuracy start latency rates limits] [--pictures 512]
                              [--rounds 5] [--seconds 0.7] [--threads 2] [--budget 140] [--json]

Every figure of one run is of the same crops. What is measured goes in turns, round by round, so that a drift of the
machine meets all of it alike; figures are medians over the rounds. Each measurement is added to the file of ``--keep``
as it is made, and made only once: the same command again goes on where the last one ended, be it by ``--budget``
(seconds a call) or by force, and with more in ``--engines`` or ``--rounds`` adds to it. When all is there it measures
nothing and prints the tables.

* ``rates``: pictures per second. ``network``: from pixels to log-probabilities. ``pixels``: from pictures in memory, at
  the network's size, to readings. ``files``: from files to readings, as ``crnn read`` does it.
* ``latency``: from a path to its reading, one after the other; engines open in the mode ``latency``.
* ``start``: ``crnn read one.png`` from its start to its end, and its largest resident memory; files are in the cache.
* ``accuracy``: words right under PARSeq's protocol with 36 characters, for Tesseract too.
* ``limits``: what a network's multiply-adds would take if there were nothing else (see roofline.md).

Engines that are not installed, and what an engine cannot do, are named and left out. An int8 network is that of a
shipped name, or an exported file (``NAME.int8.onnx`` among the models counts as int8 of ``NAME``).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crnn.errors import CrnnError
from crnn.recognizer import Recognizer, load
from read_measures import (
    Crop,
    accuracy,
    crops_of,
    latencies,
    limits,
    percentiles,
    rates,
    start_of_command,
    start_of_process,
)
from read_tables import ENGINES, PARTS, PRECISIONS, Cell, Values, file_sizes, tables
from read_tesseract import read_with_tesseract, tesseract_command, tesseract_version


class Bench:
    """The measurements of one call, and those before it.

    Args:
        options: As parsed.
        folder: For the files of the crops.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.left_out: dict[str, str] = {}
        self.results: dict[Cell, list[Values]] = {}
        self._crops: list[Crop] = []
        self._readers: dict[tuple[str, str, str, str], Recognizer] = {}
        self._conditions = {
            "data": options.data, "pictures": options.pictures, "threads": options.threads,
            "seconds": options.seconds, "system": system(options.threads),
        }  # fmt: skip

    def measure(self) -> int:
        """Measure what is missing; how much is missing still."""
        self._take_up()
        begin = time.monotonic()
        todo = [cell for number in range(self.options.rounds) for cell in self.cells() if self._is_due(cell, number)]
        for done, cell in enumerate(todo):
            if time.monotonic() - begin > self.options.budget:
                return len(todo) - done
            self._add(cell, self._measured(cell))
        return 0

    def cells(self) -> Iterator[Cell]:
        """All that can be measured here, in the order of a round; what cannot goes to ``left_out``."""
        wanted, engines = self.options.parts, self.options.engines
        if "tesseract" in engines:
            if tesseract_version() is None:
                self.left_out["tesseract"] = "not installed, or without English"
            else:
                own = ("accuracy", "start", "rates")  # it cannot read one after the other in one process
                yield from (Cell(part, engine="tesseract") for part in own if part in wanted)
        for model in self.options.models:
            if "limits" in wanted and not is_exported(model):
                if importlib.util.find_spec("torch") is None:
                    self.left_out["limits"] = "torch, which finds them, is not installed"
                else:
                    yield Cell("limits", model)
            for engine in (name for name in ENGINES[:3] if name in engines):
                for precision in precisions_of(model, self.options.precisions):
                    if self._reader(model, engine, precision, "throughput") is not None:
                        yield from (Cell(part, model, engine, precision) for part in PARTS[:3] if part in wanted)
                        batches = self.options.batches if "rates" in wanted else ()
                        yield from (Cell("rates", model, engine, precision, batch) for batch in batches)

    def _is_due(self, cell: Cell, number: int) -> bool:
        once = cell.part in ("accuracy", "limits")
        return len(self.results.get(cell, [])) <= number and not (once and number)

    def _reader(self, model: str, engine: str, precision: str, mode: Any) -> Recognizer | None:
        key = (model, engine, precision, mode)
        name = f"{model}, {engine} {precision}"
        if key not in self._readers and name not in self.left_out:
            options: dict[str, Any] = {"engine": engine, "precision": precision, "threads": self.options.threads}
            try:
                self._readers[key] = load(model, device="cpu", mode=mode, **options)
            except CrnnError as error:
                self.left_out[name] = str(error)
        return self._readers.get(key)

    def _measured(self, cell: Cell) -> Values:
        crops, threads = self._all_crops(), self.options.threads
        if cell.part == "limits":
            return dict(limits(cell.model, threads))
        if cell.engine == "tesseract":
            return self._of_tesseract(cell.part)
        if cell.part == "start":
            chosen = ["--model", cell.model, "--engine", cell.engine, "--precision", cell.precision]
            return dict(start_of_command(crops[0].path, *chosen, "--threads", str(threads)))
        reader = self._reader(
            cell.model, cell.engine, cell.precision, "latency" if cell.part == "latency" else "throughput"
        )
        assert reader is not None
        if cell.part == "latency":
            return {"ms": latencies(reader, crops, self.options.latencies)}
        if cell.part == "accuracy":
            return dict(accuracy([reading.text for reading in reader.read([crop.path for crop in crops])], crops))
        reader.batch_size = cell.batch
        return dict(rates(reader, crops, self.options.seconds))

    def _of_tesseract(self, part: str) -> Values:
        crops = self._all_crops()
        if part == "start":
            return dict(start_of_process(*tesseract_command(crops[0].path)))
        if part == "accuracy":
            texts, _ = read_with_tesseract([crop.path for crop in crops], self.options.threads, self.folder)
            return dict(accuracy(texts, crops))
        some = crops[:: max(1, len(crops) // 128)]
        _, seconds = read_with_tesseract([crop.path for crop in some], self.options.threads, self.folder)
        return {"files": len(some) / seconds}

    def _all_crops(self) -> list[Crop]:
        if not self._crops:
            self._crops = crops_of(self.options.data, self.options.pictures, self.folder)
        return self._crops

    def _take_up(self) -> None:
        """What calls before this one have measured."""
        if self.options.keep is None or not self.options.keep.exists():
            self._write({"conditions": self._conditions})
            return
        first, *lines = map(json.loads, self.options.keep.read_text("utf-8").splitlines())
        if first["conditions"] != json.loads(json.dumps(self._conditions)):
            raise SystemExit(
                f"{self.options.keep}: made under other conditions: {first['conditions']}; begin a new one"
            )
        for line in lines:
            self.results.setdefault(Cell(**line["cell"]), []).append(line["values"])

    def _add(self, cell: Cell, values: Values) -> None:
        self.results.setdefault(cell, []).append(values)
        self._write({"cell": {name: getattr(cell, name) for name in Cell.__slots__}, "values": values})

    def _write(self, line: dict[str, Any]) -> None:
        if self.options.keep is not None:
            with self.options.keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def row(self, cell: Cell) -> Values:
        """The medians of a cell over its rounds."""
        rounds = self.results[cell]
        if cell.part == "latency":
            pooled = [value for values in rounds for value in values["ms"]]
            return dict(zip(("p50", "p99"), percentiles(pooled), strict=True))
        return {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}


def precisions_of(model: str, wanted: list[str]) -> list[str]:
    """Those that can be asked of a model; an exported file has its own, and is asked for none."""
    return [name for name in wanted if not is_exported(model) or name == exported_precision(model)]


def is_exported(model: str) -> bool:
    """Whether it is an exported file."""
    return Path(model).suffix == ".onnx"


def exported_precision(model: str) -> str:
    """The precision that an exported file's name says: ``NAME.int8.onnx``; without one, fp32."""
    return next((name for name in PRECISIONS if f".{name}." in Path(model).name), "fp32")


def system(threads: int) -> dict[str, Any]:
    """Processor, threads and versions."""
    packages = ("torch", "onnxruntime", "openvino", "pillow", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    return {"processor": processor, "threads": threads, "python": platform.python_version(), **versions,
            "tesseract": tesseract_version()}  # fmt: skip


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=DATA")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--latencies", type=int, default=100, help="pictures of a round of latencies")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=140.0, help="seconds of this call")
    parser.add_argument("--keep", type=Path, help="file of all measurements, to go on from")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        missing = bench.measure()
    if options.json:
        rows = [{**{name: getattr(cell, name) for name in Cell.__slots__}, **bench.row(cell)} for cell in bench.results]
        found = {"system": system(options.threads), "rows": rows, "left_out": bench.left_out, "missing": missing}
        print(json.dumps({**found, "files": file_sizes(options.models)}))
        return
    conditions = ", ".join(f"{name} {value}" for name, value in system(options.threads).items() if value)
    print(f"{options.pictures} pictures of {', '.join(options.data)}; {conditions}; {options.rounds} rounds")
    values = {cell: bench.row(cell) for cell in bench.results}
    print(*tables(values, file_sizes(options.models), bench.left_out), sep="\n")
    if missing:
        print(f"\n{missing} measurements are missing; the same command goes on with them.", file=sys.stderr)


if __name__ == "__main__":
    main()

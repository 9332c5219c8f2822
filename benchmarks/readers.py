"""Measure how well and how fast crops are read, from files to texts: this package beside Tesseract and RapidOCR.

    python benchmarks/readers.py --data receipts
    python benchmarks/readers.py --data svt_train --protocol parseq

right, CER: under the protocol of ``crnn evaluate``; parseq compares letters and digits, case folded. Tesseract gets
crops 64 pixels high with ten pixels around them, ``--psm 7``, or ``--psm 8`` for words (parseq), a process an image and
as many at a time as there are threads. RapidOCR needs rapidocr, and reads with its recognizer alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from common import Crop, Row, arguments, find_crops, left_out, measure, report, seconds
from crnn import Recognizer, load
from crnn.charset import LabelSkip
from crnn.evaluation.metrics import score_texts
from crnn.evaluation.protocol import Protocol, protocol_for

_Read = Callable[[Sequence[str]], list[str]]  # paths -> texts


def ours(reader: Recognizer, paths: Sequence[str]) -> list[str]:
    """Return the texts of a recognizer."""
    return [reading.text for reading in reader.read(paths)]


def tesseract(mode: str, threads: int, paths: Sequence[str]) -> list[str]:
    """Return the texts of Tesseract's command."""

    def read(path: str) -> str:
        image = Image.open(path).convert("RGB")
        image = image.resize((max(1, round(image.width * 64 / image.height)), 64), Image.Resampling.BICUBIC)
        border = tuple(np.asarray(image)[[0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=0).astype(int).tolist())
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            ImageOps.expand(image, 10, border).save(file.name)
            command = ["tesseract", file.name, "-", "--psm", mode]
            single = {**os.environ, "OMP_THREAD_LIMIT": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=single)
        return " ".join(done.stdout.split())

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, paths))


def rapidocr(threads: int) -> _Read:
    """Return a function that reads by RapidOCR's recognizer."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": threads})

    def read(path: str) -> str:
        image = np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1].copy()
        found = engine(image, use_det=False, use_cls=False, use_rec=True)
        return " ".join(found.txts or ())

    return lambda paths: [read(path) for path in paths]


def read_all(row: Row, read: _Read, crops: Sequence[Crop], rules: Protocol) -> float:
    """Read all crops, score the texts, and return images a second."""
    texts: list[str] = []
    taken = seconds(lambda: texts.extend(read([crop.path for crop in crops])))
    pairs = []
    for crop, text in zip(crops, texts, strict=True):
        try:
            pairs.append((rules.label(crop.label), rules.prediction(text)))
        except LabelSkip:
            continue
    sums = score_texts(pairs)
    row.notes = {"samples": str(sums.samples), "right": f"{sums.accuracy:.2%}", "CER": f"{sums.cer:.2%}"}
    return len(crops) / taken


def main() -> None:
    """Measure, and print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, count=10_000, rounds=1)
    parser.add_argument("--models", nargs="*", default=["crnn-small", "crnn-vgg"], help="default: both that ship")
    parser.add_argument("--protocol", choices=["lines", "parseq"], default="lines", help="default: lines")
    options = parser.parse_args()
    rules = protocol_for(options.protocol)
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        crops = find_crops(options, "crnn-small", Path(scratch))
        readers: dict[str, _Read] = {
            model: partial(ours, load(model, threads=options.threads)) for model in options.models
        }
        if shutil.which("tesseract"):
            mode = "7" if options.protocol == "lines" else "8"
            readers[f"tesseract --psm {mode}"] = partial(tesseract, mode, options.threads)
        else:
            missing["tesseract"] = "no such command"
        try:
            readers["rapidocr"] = rapidocr(options.threads)
        except ImportError:
            missing["rapidocr"] = "pip install 'crnn[detect]'"
        rows = []
        for name, read in readers.items():
            row = Row(name, work=lambda: 0.0)
            row.work = partial(read_all, row, read, crops, rules)
            rows.append(row)
        measure(rows, options.rounds)
        report(f"{len(crops)} crops, {rules.title}", "images/s", rows, options.json)
        left_out(missing)


if __name__ == "__main__":
    main()

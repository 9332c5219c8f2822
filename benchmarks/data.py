"""Stored data: conversion to LMDB beside ``tar``, and reading it back.

    python benchmarks/data.py [--data FOLDER] [--files 20000] [--workers 2]

A tree of files, copies of the crops, is made in a temporary folder (``TMPDIR`` says where); every file was read just
before, so that the disk is waited for in writing only. ``tar cf`` of the tree is the limit of anything that reads every
file; ``crnn data convert`` also waits until its store is safe on the disk, and its time has the start of Python in it.
Then the store is read: labels alone, images in order, and shuffled batches as training has them (decoded, resized to
32 x 100). Ratios are to tar, and to reading in order.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import Crop, Row, arguments, find_crops, measure, report, seconds
from crnn.config.run import Config, parse_config
from crnn.data.dataset import StoredBatches
from crnn.data.loader import iterate_batches
from crnn.data.store import LmdbStore
from crnn.image import load_resized


def make_tree(crops: Sequence[Crop], files: int, root: Path) -> int:
    """Write as many files as are asked for, with their list; return their size in bytes."""
    contents = [Path(crop.path).read_bytes() for crop in crops]
    lines, size = [], 0
    for number in range(files):
        path = root / str(number // 1000) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % len(crops)])
        lines.append(f"{path.relative_to(root)}\t{crops[number % len(crops)].label}\n")
        size += len(contents[number % len(crops)])
    (root / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    return size


def tar(root: Path, files: int) -> float:
    """Return files per second."""
    archive = root.with_suffix(".tar")
    passed = seconds(lambda: subprocess.run(["tar", "cf", archive, "-C", root, "."], check=True))
    archive.unlink()
    return files / passed


def convert(root: Path, store: Path, files: int, workers: int) -> float:
    """Return files per second."""
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "crnn", "data", "convert", "list", str(root / "labels.tsv"), str(store)]
    run = functools.partial(subprocess.run, [*command, "--workers", str(workers)], check=True, capture_output=True)
    return files / seconds(run)


def settings(store: Path, workers: int) -> Config:
    """Return the settings of a training on a store: gray, 32 x 100."""
    batch = {"batch_size": 64}
    return parse_config({"data": {"train": [str(store)], "workers": workers}, "train": batch})


def label_rate(store: Path) -> float:
    """Return labels per second."""
    with LmdbStore(store) as samples:
        return len(samples) / seconds(lambda: [samples.label(index) for index in range(len(samples))])


def ordered_rate(store: Path, count: int) -> float:
    """Return images per second, read, decoded and resized in the order of the store."""
    image = settings(store, 0).image
    with LmdbStore(store) as samples:
        read = lambda: [load_resized(samples.image_bytes(index), image) for index in range(count)]  # noqa: E731
        return count / seconds(read)


def shuffled_rate(store: Path, count: int, workers: int) -> float:
    """Return images per second in shuffled batches, the start of workers included."""
    config = settings(store, workers)
    source, last = StoredBatches(config), max(1, count // config.train.batch_size)
    read: list[int] = []
    passed = seconds(lambda: read.extend(len(b) for b in iterate_batches(source, 0, last, config.data)))
    return sum(read) / passed


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__, count=256, rounds=3)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2, help="processes of the conversion")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, store = Path(scratch, "tree"), Path(scratch, "store")
        size = make_tree(find_crops(options, "tiny", Path(scratch)), options.files, root)
        some = min(options.files, 10_000)
        rows = [
            Row("tar", functools.partial(tar, root, options.files)),
            Row("convert", functools.partial(convert, root, store, options.files, options.workers), "tar"),
            Row("labels", functools.partial(label_rate, store)),
            Row("read in order", functools.partial(ordered_rate, store, some)),
        ]
        for workers in (0, 1, 2):
            work = functools.partial(shuffled_rate, store, some, workers)
            rows.append(Row(f"read shuffled, {workers} workers", work, "read in order"))
        measure(rows, options.rounds)
        stored = (store / "data.mdb").stat().st_size
    title = f"{options.files:,} files, {size / 1e6:,.1f} MB; store {stored / 1e6:,.1f} MB; {options.workers} processes"
    report(title, "per second", rows, options.json)


if __name__ == "__main__":
    main()

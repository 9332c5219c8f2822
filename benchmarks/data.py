"""Stored data at MJSynth's scale: conversion beside ``tar``, memory, the store's size, and reading it back.

    python benchmarks/data.py --folder /disk/scratch [--pictures 200000] [--repeats 3] [--workers 2] [--cold] [--json]

The folder gets a tree in MJSynth's layout (``mjsynth_tree.py`` says what is in it), which is made once and used again;
nothing else stays there.

Then, in turns, so that a drift of the machine meets both: ``tar cf`` of the tree to the same disk, the limit of
anything that reads every file, and ``crnn data convert mjsynth``, which also waits until its store is safe on the disk,
as tar does not. At the end the last store is read: labels alone, pictures one after the other, and shuffled batches as
training has them (decoded, resized to 32 x 100, no augmentation). Figures are medians. The start of Python and of
worker processes is part of every time.

Warm, the default: every file was read just before, so that the disk is waited for in writing only. ``--cold``: before
each turn the system is asked to forget the contents of the files (``posix_fadvise``, which needs no root; names and
inodes stay in memory).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from crnn.config import Config
from crnn.config_file import parse_config
from crnn.data.dataset import StoredBatches
from crnn.data.label_scan import scan_labels
from crnn.data.loader import iterate_batches
from crnn.data.store import LmdbStore
from crnn.image import load_resized
from mjsynth_tree import counted, make_tree

_BATCH = 256

# ---- conversion ------------------------------------------------------------------------------------------------------


def convert(root: Path, store: Path, workers: int) -> tuple[float, dict[str, int]]:
    """Seconds that ``crnn data convert`` takes, and the memory in bytes that its processes have at their highest."""
    command = [sys.executable, "-m", "crnn", "data", "convert", "mjsynth", str(root), str(store), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True)
    with _memory_watched(process.pid) as peak:
        out, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode or not json.loads(out)["complete"]:
        raise SystemExit(f"the conversion failed with exit status {process.returncode}")
    return seconds, peak


@contextmanager
def _memory_watched(pid: int) -> Iterator[dict[str, int]]:
    """The highest sums over a process and those it started: ``resident``, and of it ``own`` (not pages of files)."""
    peak: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            sums = {"resident": 0, "own": 0}
            for each in _with_children(pid):
                kinds = _resident(each)
                sums["resident"] += sum(kinds.values())
                sums["own"] += kinds.get("RssAnon", 0)
            for name, value in sums.items():
                peak[name] = max(peak.get(name, 0), value)

    thread = threading.Thread(target=watch)
    if Path("/proc/self/status").exists():  # elsewhere it is not measured
        thread.start()
    try:
        yield peak
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:  # it ended
        return
    for child in children:
        yield from _with_children(int(child))


def _resident(pid: int) -> dict[str, int]:
    """Bytes in memory by kind: RssAnon, RssFile, RssShmem."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}


def tar(root: Path, archive: Path) -> float:
    """Seconds that ``tar`` takes for the same files."""
    started = time.perf_counter()
    subprocess.run(["tar", "cf", archive, "-C", root, "."], check=True)
    return time.perf_counter() - started


def settle(root: Path, cold: bool) -> int:
    """Bring all files into memory, or out of it, with nothing left to write; the size of all pictures."""
    size = 0
    os.sync()
    for folder, _, names in os.walk(root):
        for name in names:
            descriptor = os.open(f"{folder}/{name}", os.O_RDONLY)
            size += os.fstat(descriptor).st_size if name.endswith(".jpg") else 0
            if cold:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while os.read(descriptor, 1 << 20):
                    pass
            os.close(descriptor)
    return size


# ---- reading ---------------------------------------------------------------------------------------------------------


def settings(store: Path, workers: int) -> Config:
    """Training on a store as the ModelZoo sees pictures: grey, 32 x 100."""
    data = {"train": [str(store)], "workers": workers}
    return parse_config({"data": data, "train": {"batch_size": _BATCH}})


def label_rate(store: Path) -> float:
    """Labels per second as training looks at each of them once before it starts."""
    config = settings(store, 0)
    with LmdbStore(store) as samples:
        started = time.perf_counter()
        scan_labels(samples, config.charset.charset(), config.charset.rules(), config.image)
        return len(samples) / (time.perf_counter() - started)


def sequential_rate(store: Path, count: int) -> float:
    """Pictures per second, read, decoded and resized in the order in which they are stored."""
    image = settings(store, 0).image
    with LmdbStore(store) as samples:
        started = time.perf_counter()
        for index in range(min(count, len(samples))):
            load_resized(samples.image_bytes(index), image)
        return min(count, len(samples)) / (time.perf_counter() - started)


def shuffled_rate(source: StoredBatches, store: Path, workers: int, first: int, count: int) -> float:
    """Pictures per second in shuffled batches, from batch ``first`` on."""
    last = first + max(1, count // _BATCH)
    started = time.perf_counter()
    read = sum(len(batch) for batch in iterate_batches(source, first, last, settings(store, workers).data))
    return read / (time.perf_counter() - started)


def reading_rates(store: Path, count: int, repeats: int, cold: bool) -> dict[str, list[float]]:
    """Everything that is read from a store, in turns."""
    source = StoredBatches(settings(store, 0))
    kinds: dict[str, Callable[[int], float]] = {
        "labels": lambda _: label_rate(store),
        "read in order": lambda _: sequential_rate(store, count),
    }
    for workers in (0, 1, 2):
        kinds[f"read shuffled, {workers} workers"] = functools.partial(
            lambda workers, turn: shuffled_rate(source, store, workers, turn * (count // _BATCH), count), workers
        )
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in counted("reading", range(repeats), repeats):
        for name, rate in kinds.items():
            settle(store, cold)
            rates[name].append(rate(turn))
    return rates


# ---- all of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        pictures: Files in the tree.
        workers: Processes of the conversion.
        cache: Whether the files were in memory.
        machine: Cores and versions.
        rates: Per second, each time that it was measured.
        convert_to_tar: Ratio of their rates, in each turn.
        peak_memory: Bytes; see ``convert``.
        file_bytes: Sum of the sizes of the pictures' files.
        store_bytes: Size of the store.
    """

    pictures: int
    workers: int
    cache: str
    machine: str
    rates: dict[str, list[float]]
    convert_to_tar: list[float]
    peak_memory: dict[str, int]
    file_bytes: int
    store_bytes: int


def measure(options: argparse.Namespace) -> Figures:
    """Everything, in turns."""
    root = make_tree(options.folder, options.pictures, options.workers)
    rates: dict[str, list[float]] = {"tar": [], "convert": []}
    peaks: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        store, archive = Path(scratch, "store"), Path(scratch, "tree.tar")
        for _ in counted("converting", range(options.repeats), options.repeats):
            shutil.rmtree(store, ignore_errors=True)
            file_bytes = settle(root, options.cold)
            rates["tar"].append(options.pictures / tar(root, archive))
            archive.unlink()
            settle(root, options.cold)
            seconds, peak = convert(root, store, options.workers)
            rates["convert"].append(options.pictures / seconds)
            peaks.append(peak)
        rates |= reading_rates(store, min(options.read, options.pictures), options.repeats, options.cold)
        store_bytes = (store / "data.mdb").stat().st_size
    return Figures(
        pictures=options.pictures,
        workers=options.workers,
        cache="cold" if options.cold else "warm",
        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        rates=rates,
        convert_to_tar=[mine / limit for mine, limit in zip(rates["convert"], rates["tar"], strict=True)],
        peak_memory={name: max(peak[name] for peak in peaks) for name in peaks[0]},
        file_bytes=file_bytes,
        store_bytes=store_bytes,
    )


def table(figures: Figures) -> str:
    """The figures for people, in Markdown."""
    lines = [
        f"{figures.pictures:,} pictures, {figures.workers} processes, cache {figures.cache}, {figures.machine}",
        "",
        "| per second | median | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    shown = {f"pictures, {name}" if name != "labels" else name: values for name, values in figures.rates.items()}
    for name, values in shown.items():
        lines.append(f"| {name} | {statistics.median(values):,.0f} | {min(values):,.0f} | {max(values):,.0f} |")
    ratio = figures.convert_to_tar
    lines.append(f"| convert / tar | {statistics.median(ratio):.2f} | {min(ratio):.2f} | {max(ratio):.2f} |")
    sizes = {
        "most memory of the conversion, all processes": figures.peak_memory.get("resident"),
        "of it no pages of files": figures.peak_memory.get("own"),
        "sum of the pictures' sizes": figures.file_bytes,
        "store": figures.store_bytes,
    }
    lines += ["", "| MB | |", "|---|---:|"]
    lines += [
        f"| {name} | {'not measured' if size is None else f'{size / 1e6:,.1f}'} |" for name, size in sizes.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the tree is made and kept, 1 GB and more")
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of the conversion")
    parser.add_argument("--read", type=int, default=40_000, help="pictures for each figure of reading")
    parser.add_argument("--cold", action="store_true", help="files out of memory before each turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options)
    print(json.dumps(asdict(figures), indent=1) if options.json else table(figures))


if __name__ == "__main__":
    main()

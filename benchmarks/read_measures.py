"""What ``read.py`` measures: rates, latencies, accuracy and starts of one engine, and the limits of the machine."""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crnn.charset import LabelSkip
from crnn.data.source import open_source, split_name
from crnn.errors import DataError, ImageError
from crnn.evaluation.protocol import Protocol, protocol_for
from crnn.image import load_resized, target_width
from crnn.recognizer import Recognizer

__all__ = [
    "Crop",
    "accuracy",
    "crops_of",
    "latencies",
    "limits",
    "percentiles",
    "pixels_of",
    "rates",
    "start_of_command",
    "start_of_process",
]

_PROBE = """
import json, os, sys, time
begin = time.perf_counter()
null = os.open(os.devnull, os.O_RDWR)
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
_, status, usage = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - begin, usage.ru_maxrss]))
"""
"""Starts a program and says how long it took and its largest memory in KiB. In a small process of its own: a new
process begins with the memory of the one that starts it, and that would be counted."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A picture that is read.

    Attributes:
        path: Of its file.
        label: What it says, as the protocol compares it.
        protocol: That of its set.
    """

    path: str
    label: str
    protocol: Protocol


def crops_of(specs: Sequence[str], count: int, folder: Path) -> list[Crop]:
    """Samples that count under PARSeq's protocol with 36 characters, evenly over the sets, as files.

    Args:
        specs: Sets; ``NAME=DATA`` gives one a name.
        count: How many of them together, at most.
        folder: Where the files are written.
    """
    crops: list[Crop] = []
    for number, (name, path) in enumerate(map(split_name, specs)):
        protocol = protocol_for("parseq", "36", name)
        with open_source(path) as store:
            kept = []
            for index in range(len(store)):
                try:
                    kept.append((index, protocol.label(store.label(index))))
                except (LabelSkip, DataError):  # the protocol leaves it out, or it cannot be read
                    continue
            share = count // len(specs)
            places = np.linspace(0, len(kept) - 1, min(share, len(kept))).round().astype(int)
            for index, label in (kept[place] for place in sorted(set(places.tolist()))):
                file = folder / f"{number}-{index}.img"
                file.write_bytes(store.image_bytes(index))
                crops.append(Crop(str(file), label, protocol))
    return crops


def pixels_of(crops: Sequence[Crop], reader: Recognizer) -> npt.NDArray[np.uint8]:
    """``(N, C, 32, W)``: the crops as the network takes them, each at the most frequent of their widths."""
    first = [load_resized(crop.path, reader.config.image) for crop in crops]
    ((width, _),) = Counter(pixels.shape[2] for pixels in first).most_common(1)
    return np.stack([load_resized(crop.path, reader.config.image, width) for crop in crops])


def rates(reader: Recognizer, crops: Sequence[Crop], seconds: float) -> dict[str, float]:
    """Pictures per second at the reader's batch size: of the network alone, with pixels given, from files to readings.

    Args:
        reader: What reads.
        crops: Taken in turns.
        seconds: That each of the three takes, about.
    """
    size = reader.batch_size
    pixels = pixels_of(crops, reader)
    batch = np.ascontiguousarray(np.resize(pixels, (size, *pixels.shape[1:])))
    compute = functools.partial(reader._engine.log_probs, batch)
    compute()
    once = min(_seconds(compute) for _ in range(2))
    rounds = max(1, round(seconds / once))
    arrays = [np.ascontiguousarray(one.transpose(1, 2, 0)) for one in pixels]

    def read(pictures: Sequence[str | npt.NDArray[np.uint8]]) -> None:
        for reading in reader.stream(itertools.islice(itertools.cycle(pictures), rounds * size)):
            if isinstance(reading, ImageError):
                raise reading

    work: dict[str, Callable[[], object]] = {
        "network": lambda: [compute() for _ in range(rounds)],
        "pixels": lambda: read(arrays),
        "files": lambda: read([crop.path for crop in crops]),
    }
    return {name: rounds * size / _seconds(function) for name, function in work.items()}


def latencies(reader: Recognizer, crops: Sequence[Crop], count: int) -> list[float]:
    """Milliseconds from a path to its reading, one after the other."""
    for crop in crops[:5]:
        reader.read(crop.path)
    asked = itertools.islice(itertools.cycle(crops), count)
    return [1e3 * _seconds(functools.partial(reader.read, crop.path)) for crop in asked]


def accuracy(texts: Sequence[str], crops: Sequence[Crop]) -> dict[str, int]:
    """How many of the texts are right."""
    right = sum(crop.protocol.prediction(text) == crop.label for text, crop in zip(texts, crops, strict=True))
    return {"right": right, "samples": len(crops)}


def start_of_command(picture: str, *options: str) -> dict[str, float]:
    """Seconds and largest resident memory of ``crnn read`` with one picture, its files in the system's cache."""
    return start_of_process(sys.executable, "-m", "crnn", "read", picture, *options)


def start_of_process(*command: str) -> dict[str, float]:
    """Seconds and largest resident memory (MiB) of a command.

    Raises:
        RuntimeError: It fails.
    """
    probe = [sys.executable, "-I", "-S", "-c", _PROBE, *command]
    status, seconds, kib = json.loads(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)}: exit status {status}")
    return {"seconds": seconds, "mib": kib / 1024}


def limits(weights: str, threads: int) -> dict[str, float]:
    """Pictures per second if a network did nothing but its multiply-adds, as fast as the machine can; by precision.

    int8 counts as twice bf16: what processors have for both (AMX, AVX-512) does two for one.
    """
    import torch

    from crnn.checkpoint import load_weights
    from model_size import multiply_adds
    from roofline_ceilings import ceiling

    loaded = load_weights(weights)
    width = target_width((100, 32), loaded.config.image)
    products = sum(multiply_adds(loaded.build(), width).values())
    torch.set_num_threads(threads)
    found = {name: ceiling(name, [1024, 2048], [1], 64).product / products for name in ("fp32", "bf16")}
    return {**found, "int8": 2 * found["bf16"]}


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The median, and what one in a hundred is above."""
    return statistics.median(values), float(np.percentile(values, 99))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

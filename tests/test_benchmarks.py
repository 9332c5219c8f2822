"""The benchmark of stored data measures all that it says, on a tree that is MJSynth's in its layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crnn.data.formats.mjsynth import MjsynthReader
from crnn.data.formats.record import Record
from crnn.image import image_size

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "data.py"
NUM_PICTURES = 200


def run(folder: Path, *options: str) -> str:
    arguments = ["--folder", str(folder), "--pictures", str(NUM_PICTURES), "--repeats", "1", *options]
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be asked to forget a file")
def test_the_benchmark_of_stored_data(tmp_path: Path) -> None:
    figures = json.loads(run(tmp_path, "--json"))
    assert (figures["pictures"], figures["cache"]) == (NUM_PICTURES, "warm")
    named = {"tar", "convert", "labels", "read in order", *(f"read shuffled, {n} workers" for n in (0, 1, 2))}
    assert set(figures["rates"]) == named
    assert all(len(rates) == 1 and rates[0] > 0 for rates in figures["rates"].values())
    (ratio,) = figures["convert_to_tar"]
    assert ratio == pytest.approx(figures["rates"]["convert"][0] / figures["rates"]["tar"][0])

    (root,) = tmp_path.iterdir()  # nothing else stays there
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    reader = MjsynthReader(root)
    samples = [sample for sample in reader if isinstance(sample, Record)]
    assert len(samples) == len(reader) == NUM_PICTURES
    files = [(root / sample.path).read_bytes() for sample in samples]
    assert len(set(files)) == NUM_PICTURES
    assert {image_size(data)[1] for data in files} == {32}
    assert 1000 < sum(map(len, files)) / NUM_PICTURES < 1600
    assert figures["file_bytes"] == sum(map(len, files)) < figures["store_bytes"]
    if Path("/proc/self/status").exists():
        assert 10e6 < figures["peak_memory"]["own"] < figures["peak_memory"]["resident"] < 1e9

    shown = run(tmp_path, "--cold")
    assert "200 pictures, 2 processes, cache cold" in shown
    assert all(name in shown for name in (*named, "convert / tar", "sum of the pictures' sizes", "store"))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == made  # it was used again

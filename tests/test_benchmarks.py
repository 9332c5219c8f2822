"""The benchmarks measure all that they say, at tiny sizes. That of stored data: on a tree in MJSynth's layout."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from crnn.data.formats.mjsynth import MjsynthReader
from crnn.data.formats.record import Record
from crnn.image import image_size
from crnn.synth.face_glyphs import shipped_folder

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


# ---- limits of a step, memory ----------------------------------------------------------------------------------------


def figures(name: str, *options: str, statuses: tuple[int, ...] = (0,)) -> dict[str, object]:
    command = [sys.executable, str(SCRIPT.parent / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in statuses, done.stderr
    return {"status": done.returncode, **json.loads(done.stdout)}


@pytest.mark.slow
def test_the_limits_of_a_step() -> None:
    tiny = ["--batch", "2", "--threads", "1", "--product", "64", "--copy", "1", "--rounds", "1", "--json"]
    found = figures("roofline.py", "--backbone", "small", *tiny)
    assert [(top["precision"], top["threads"]) for top in found["ceilings"]] == [("bf16", 1), ("fp32", 1)]
    assert all(top["product"] > 0 and top["copies"]["1"] > 0 for top in found["ceilings"])
    assert [(step["precision"], step["batch"]) for step in found["steps"]] == [("bf16", 2), ("fp32", 2)]
    bf16, fp32 = ({row["name"]: row for row in step["rows"]} for step in found["steps"])
    assert list(bf16) == list(fp32)
    assert len(fp32) == 7 + 7 + 4 + 2
    for row in (*bf16.values(), *fp32.values()):
        assert sum(row["limit"]) >= sum(row["merged"]) > 0
        assert sum(row["measured"]) > 0
    # small's second convolution: 3 x 3, 32 to 48, on 16 x 50 places; and what follows it, down to 8 x 25
    products, x, y, weights = 9 * 32 * 48 * 16 * 50, 2 * 32 * 16 * 50, 2 * 48 * 16 * 50, 9 * 32 * 48
    conv, after = "conv2", next(name for name in fp32 if name.startswith("norm2"))
    relu = y // 4 if after.index("pool") < after.index("relu") else y
    assert fp32[conv]["multiply_adds"] == bf16[conv]["multiply_adds"] == [2 * products, 4 * products]
    assert fp32[conv]["moved"] == [4 * (x + weights + y), 8 * (x + weights + y)]
    assert bf16[conv]["moved"] == [2 * (x + y) + 4 * weights, 4 * (x + y) + 8 * weights]
    assert fp32[after]["moved"] == [
        4 * (4 * y + y // 4 + 2 * relu) + 8 * y // 4,
        4 * (6 * y + y // 4 + 3 * relu) + 8 * y // 4,
    ]
    lstm = 2 * 4 * 128 * (256 + 128)  # both directions, four gates
    assert fp32["rnn1"]["multiply_adds"] == [2 * 24 * lstm, 4 * 24 * lstm]
    assert sum(fp32["clipping, AdamW, average"]["moved"]) == 13 * 4 * found["steps"][0]["parameters"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("memory_benchmark", SCRIPT.parent / "memory.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    return module


def test_growth_is_counted_after_the_first_fifth(memory: ModuleType) -> None:
    seconds = [float(second) for second in range(5, 1001, 5)]
    level = [min(second, 200) * 10**6 for second in range(5, 1001, 5)]
    flat = memory.trend(seconds, level)
    assert (flat.growth, flat.slope, flat.ends) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1), (2e8, 2e8))
    leaking = memory.trend(seconds, [value + 1000 * int(second) for value, second in zip(level, seconds, strict=True)])
    assert leaking.slope == pytest.approx(3.6e6)
    assert leaking.growth == pytest.approx(800e3 / (200e6 + 200e3))
    assert leaking.peak == 201 * 10**6


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of processes is read from /proc")
def test_memory_of_processes(memory: ModuleType) -> None:
    inner = "x = bytearray(b'1') * (64 << 20); print(1, flush=True); input()"
    command = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {inner!r}]); p.wait()"
    with subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        seen = memory.look(process.pid, 1.0)
        process.stdin.write(b"\n")
        process.stdin.close()
    assert seen.processes == 1
    assert 64 << 20 < seen.workers["own"] < seen.workers["all"] < 100 << 20
    assert 0 < seen.training["own"] < 50 << 20
    assert seen.total() == seen.training["all"] + seen.workers["all"]
    assert memory.look(process.pid, 2.0) is None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of processes is read from /proc")
def test_the_benchmark_of_memory(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("L", (60, 20), 20 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "words.tsv").write_text("".join(f"{number}.png\tword{number}\n" for number in range(8)), "utf-8")
    options = ["--minutes", "0.05", "--every", "0.25", "--preset", "tiny", "--json"]
    training = ["--train.batch_size", "4", "--train.log_steps", "1", "--train.threads", "1", "--train.no-tensorboard"]
    found = figures("memory.py", "watch", str(tmp_path / "words.tsv"), *options, "--", *training, statuses=(0, 1))
    assert len(found["looks"]) == 12
    assert found["steps"] > 1
    assert {look["processes"] for look in found["looks"]} == {1}
    assert set(found["trends"]) == {"all", "all, own", "all, files", "training process", "workers"}
    assert found["status"] == int(found["trends"]["all, own"]["growth"] > 0.03)
    assert found["trends"]["training process"]["peak"] > found["trends"]["workers"]["peak"] > 10e6

    peaks = figures("memory.py", "peaks", "--backbone", "small", "--precision", "fp32", "--batch", "2", "64", "--json")
    assert set(peaks["small, fp32"]) == {"2", "64"}
    assert peaks["small, fp32"]["64"] - peaks["small, fp32"]["2"] > 62 * 500_000  # what conv1 and conv2 keep alone
    assert peaks["nothing"]["0"] < peaks["small, fp32"]["2"]


# ---- what helps the network to learn ---------------------------------------------------------------------------------


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("learning_benchmark", SCRIPT.parent / "learning.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    return module


def test_the_beginning_of_a_run(learning: ModuleType, tmp_path: Path) -> None:
    losses = {
        step: 40.0 if step <= 40 else 20.0 if step < 300 else 16.1 if step < 400 else 15.9
        for step in range(10, 1001, 10)
    }
    lines = [{"step": step, "loss": loss} for step, loss in losses.items()]
    lines += [{"step": step, "validation": {"combined_accuracy": step / 10_000}} for step in range(50, 1001, 50)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    options = argparse.Namespace(data=["words.tsv"], faces=["shipped"], exclude=[], samples=128_000)
    config = learning.settings("base", options, tmp_path)
    assert config.train.num_steps == 1000
    found = learning.beginning(tmp_path / "metrics.jsonl", config)
    assert found == {"left_plateau": 400 * 128, "first_tenth": 1000 * 128}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:20]), "utf-8")
    assert learning.beginning(tmp_path / "metrics.jsonl", config) == {"left_plateau": None, "first_tenth": None}


def test_every_arm_has_its_settings(learning: ModuleType, tmp_path: Path) -> None:
    options = argparse.Namespace(data=["a.tsv", "b.tsv"], faces=["shipped"], exclude=["* BRK"], samples=25_600)
    seen = []
    for arm in learning.ARMS:
        config = learning.settings(arm, options, tmp_path)
        pictures = config.train.num_steps * config.train.batch_size
        assert pictures == 25_600, arm
        assert config.data.validation == ("b.tsv",)
        assert (config.train.threads, config.data.workers) == (1, 0)
        seen.append(config.model_dump())
    assert all(one != other for place, one in enumerate(seen) for other in seen[:place])


@pytest.mark.slow
def test_the_benchmark_of_learning(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("L", (60, 20), 20 * number).save(tmp_path / f"{number}.png")
    words = tmp_path / "words.tsv"
    words.write_text("".join(f"{number}.png\tword{number}\n" for number in range(8)), "utf-8")
    options = ["--samples", "256", "--faces", str(shipped_folder() / "anton"), "--runs", str(tmp_path / "runs")]
    command = [sys.executable, str(SCRIPT.parent / "learning.py"), "--data", str(words), *options]
    command += ["--arms", "base", "adamw", "blank bias 4"]

    def table() -> list[list[str]]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][-4:]

    heads, *rows = table()
    assert [row[0] for row in rows] == ["base", "adamw", "blank bias 4"]
    assert heads[:5] == ["arm", "words", "together", "difference", "one standard error"]
    assert heads[5:] == ["processor minutes", "plateau left", "10 % read"]
    assert all(float(row[5].split()[0]) > 0 for row in rows)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    assert len(made) == 3
    assert table() == [heads, *rows]  # nothing is done again
    assert {path: path.stat().st_mtime_ns for path in made} == made


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_of_reading(trained_run, tmp_path: Path) -> None:
    tiny = ["--data", f"words={trained_run.words}", "--pictures", "6", "--latencies", "3", "--seconds", "0.01"]
    tiny += ["--threads", "1", "--keep", str(tmp_path / "kept.jsonl"), "--precisions", "fp32", "int8", "--json"]
    parts = ["--parts", "accuracy", "start", "latency", "rates"]

    def run(*options: str) -> tuple[dict[tuple[str, str, int], dict[str, object]], dict[str, object]]:
        found = figures("read.py", str(trained_run.folder), *tiny, *options)
        return {(row["part"], row["engine"], row["batch"]): row for row in found["rows"]}, found

    rows, found = run("--engines", "torch", *parts, "--batches", "1", "4", "--rounds", "1", "--budget", "0")
    assert (rows, found["missing"]) == ({}, 5)  # nothing was measured yet, and it says how much there is to do
    options = ["--engines", "torch", "tesseract", "--batches", "1", "4", "--rounds", "2", *parts]
    rows, found = run(*options)
    assert found["missing"] == 0
    assert (rows["accuracy", "torch", 0]["right"], rows["accuracy", "torch", 0]["samples"]) == (6, 6)
    assert 0 < rows["latency", "torch", 0]["p50"] <= rows["latency", "torch", 0]["p99"]
    assert rows["start", "torch", 0]["seconds"] > 0.1
    assert 50 < rows["start", "torch", 0]["mib"] < 2000
    for batch in (1, 4):
        row = rows["rates", "torch", batch]
        assert row["network"] > 0
        assert row["pixels"] > 0
        assert row["files"] > 0
    assert "does not compute in int8" in found["left_out"][f"{trained_run.folder}, torch int8"]
    assert ("tesseract" in found["left_out"]) == (("rates", "tesseract", 0) not in rows)
    kept = (tmp_path / "kept.jsonl").read_text()
    assert run(*options)[0] == rows  # nothing is measured again
    assert (tmp_path / "kept.jsonl").read_text() == kept
    command = [sys.executable, str(SCRIPT.parent / "read.py"), str(trained_run.folder), *tiny[:-1], *options]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert re.search(r"\| torch, fp32, 4 \| [\d,]+ \| [\d,]+ \| [\d,]+ \| - \|", shown)
    assert "| run, torch, fp32 | 6 | 6 | 100.0 |" in shown
    refused = subprocess.run([*command, "--seconds", "0.02"], capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 1
    assert "made under other conditions" in refused.stderr

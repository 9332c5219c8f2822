"""The script for a borrowed GPU: packs, trains in stretches, evaluates, and gives weights in parts; here on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from crnn.checkpoint import load_weights

SCRIPT = Path(__file__).parent.parent / "scripts" / "train_on_gpu.py"

QUICK = [
    "--model.backbone", "small", "--model.hidden_size", "8", "--image.image_width", "48", "--train.batch_size", "4",
    "--train.num_steps", "6", "--train.log_steps", "1", "--train.device", "cpu", "--data.workers", "0",
    "--look.texture_tiles", "2", "--synth.pool_size", "64", "--checkpoint.save_checkpoint_steps", "100",
]  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("train_on_gpu", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def packed(script: ModuleType, word_list: Callable[..., Path], tmp_path: Path) -> Path:
    faces = tmp_path / "faces"
    faces.mkdir()
    shipped = SCRIPT.parent.parent / "src" / "crnn" / "synth" / "faces"
    shutil.copy(next(shipped.glob("*/*.ttf")), faces)
    script.pack(tmp_path / "packed.tar", [faces], [f"words={word_list(count=6)}"])
    return tmp_path / "packed.tar"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


@pytest.mark.slow
def test_two_stretches_give_the_weights_of_one(
    script: ModuleType, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = call("train", packed, tmp_path / "one", tmp_path / "out", *QUICK)
    assert whole.returncode == 0, whole.stderr
    assert "words: " in whole.stdout
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [(found["name"], found["samples"]) for found in evaluation["datasets"]] == [("words", 6)]
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) >= 6

    # The same as two calls: a run that ends early, and one that goes on.
    script.unpack(packed, tmp_path / "two-data")
    command = script.command(tmp_path / "two", tmp_path / "two-data", QUICK)
    half = [word if word != "100" else "3" for word in command]
    stop = (
        "import os, signal, sys, crnn.train as t; o = t._Run._save\n"
        "t._Run._save = lambda self, state: (o(self, state), os.kill(os.getpid(), signal.SIGTERM))[0]\n"
        "import crnn.cli; sys.exit(crnn.cli.main(sys.argv[1:]))"
    )
    stopped = subprocess.run([sys.executable, "-c", stop, *half[3:]], capture_output=True, text=True, timeout=240)
    assert stopped.returncode == 128 + 15, stopped.stderr
    again = call("train", packed, tmp_path / "two", tmp_path / "out2", *QUICK)
    assert again.returncode == 0, again.stderr
    for name in ("out", "out2"):
        script.join(tmp_path / name, tmp_path / f"{name}.safetensors")
    first, second = (load_weights(str(tmp_path / f"{name}.safetensors")).state for name in ("out", "out2"))
    assert all((first[key] == second[key]).all() for key in first)


@pytest.mark.slow
def test_a_stretch_ends_in_time(
    script: ModuleType, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    waits = []
    popen = subprocess.Popen

    class Impatient(popen):  # type: ignore[type-arg, misc, valid-type]
        def wait(self, timeout: float | None = None) -> int:
            if not waits and timeout is not None:
                waits.append(timeout)
                while not (tmp_path / "run" / "metrics.jsonl").exists():
                    super().poll()
                    assert self.returncode is None
                raise subprocess.TimeoutExpired("crnn", timeout)
            return super().wait(timeout)

    monkeypatch.setattr(script.subprocess, "Popen", Impatient)
    endless = [word if word != "6" else "100000" for word in QUICK]
    assert script.train(packed, tmp_path / "run", tmp_path / "out", 540.0, endless) == script.LEFT
    assert 400 < waits[0] < 540 - script.SAVING + 1
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    assert (tmp_path / "out" / "weights.0").exists()


def test_parts_and_their_checksum(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    weights = bytes(range(256)) * 50
    (run / "last.safetensors").write_bytes(weights)
    for name in ("metrics.jsonl", "config.toml"):
        (run / name).write_text("x\n")
    monkeypatch.setattr(script, "PART", 1000)
    script.report(run, tmp_path / "nothing", out)
    assert len(list(out.glob("weights.*"))) == 13 + 1
    script.join(out, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == weights
    (out / "weights.3").write_bytes(b"other")
    with pytest.raises(SystemExit, match="13 parts are not the weights"):
        script.join(out, tmp_path / "joined")


def test_packing(script: ModuleType, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    assert any(name.startswith("faces/0/") and name.endswith(".ttf") for name in names)
    assert "crops/words/labels.tsv" in names
    script.unpack(packed, tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["crops", "faces"]
    monkeypatch.setattr(script, "MOST_PACKED", 1000)
    with pytest.raises(SystemExit, match="give fewer faces"):
        script.pack(tmp_path / "more.tar", [tmp_path / "faces"], [])
    assert not (tmp_path / "more.tar").exists()


def test_settings_take_the_place_of_the_script_s(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "faces" / "0").mkdir(parents=True)
    words = script.command(tmp_path / "run", tmp_path, ["--train.batch_size", "7", "--data.train", "synth", "a.tsv"])
    line = " ".join(words)
    assert "--train.batch_size 7" in line
    assert "1024" not in line
    assert "--data.train synth a.tsv" in line
    assert f"--faces.folders shipped {tmp_path / 'faces' / '0'}" in line
    assert "data.validation" not in line  # no crops
    with pytest.raises(SystemExit, match="loose is no setting"):
        script.command(tmp_path / "run", tmp_path, ["loose"])

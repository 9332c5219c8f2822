"""Reading without torch: no import of it, and no package but those that the project names for the engine."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crnn.model.checkpoint import load_weights

ROOT = Path(__file__).resolve().parents[1]

NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, NoTorch())
"""


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_the_command_imports_no_torch(engine, trained_run):
    images = [trained_run.words.parent / "images" / f"{n}.png" for n in (1, 4)]
    # The settings of trainings take a tenth of the time from the start to the answer.
    end = "\nassert 'crnn.config.run' not in sys.modules\nsys.exit(status)"
    program = NO_TORCH + "from crnn.cli import main\nstatus = main(sys.argv[1:])" + end
    done = python("-c", program, "read", "--json", "--model", trained_run.folder, "--engine", engine, *images)
    assert (done.returncode, done.stderr) == (0, "")
    readings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reading["text"] for reading in readings] == [trained_run.labels[0], trained_run.labels[3]]


@pytest.mark.parametrize("engine", ["openvino", "onnx", "auto"])
def test_measuring_needs_no_torch(engine, trained_run, tmp_path):
    """Where torch is not installed (``auto``), and where an engine is named that does without."""
    weights = shutil.copy(trained_run.folder / "best.safetensors", tmp_path / "model.safetensors")
    lines = [f"images/{1 + n % 12}.png\t{trained_run.labels[n % 12] if n % 3 else 'zzz'}\n" for n in range(36)]
    doubtful = trained_run.words.parent / f"doubtful-{engine}.tsv"
    doubtful.write_text("".join(lines))
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    readings, report = tmp_path / "readings.tsv", tmp_path / "report.html"
    commands = [
        ["evaluate", trained_run.folder, trained_run.words, "--engine", engine, "--readings", readings, "--json"],
        ["evaluate", "--readings", readings, trained_run.words, "--report", report, "--json"],
        ["compare", readings, readings, trained_run.words, "--sheet", tmp_path / "sheet.png", "--json"],
        ["calibrate", weights, doubtful, "--engine", engine, "--json"],
        ["lm", tmp_path / "words.lm", tmp_path / "words.txt", "--labels", trained_run.words],
    ]
    hidden = NO_TORCH.replace("raise AssertionError(", "raise ModuleNotFoundError(") if engine == "auto" else NO_TORCH
    program = hidden + "import json\nfrom crnn.cli import main\nassert not any(map(main, json.loads(sys.argv[1])))"
    done = python("-c", program, json.dumps([[str(word) for word in command] for command in commands]))
    assert done.returncode == 0, done.stderr
    model, scored, compared, calibrated = (json.loads(line) for line in done.stdout.splitlines()[:4])
    assert (model["combined_accuracy"], scored["combined_accuracy"], compared["combined"]["right"]["both"]) == (
        1,
        1,
        12,
    )
    assert calibrated["greedy"]["samples"] == 36
    assert report.is_file()
    stored = load_weights(weights).calibration.as_dict()
    assert stored == {"shift": 0.0, **{k: calibrated[k] for k in ("greedy", "language", "data")}}


def built_wheel(folder):
    """The wheel of this tree, built without a network from a copy of what belongs in it."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    program = (
        "import os, sys; os.chdir(sys.argv[1]); from setuptools import build_meta as b; print(b.build_wheel('..'))"
    )
    done = python("-c", program, source)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def needed(root, extra):
    """Names of the distributions that one needs with this extra, and of those that they need."""
    found = set()
    waiting = [(root, ""), (root, extra)]
    while waiting:
        distribution, extra = waiting.pop()
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in {(requirement.name, e) for e in ("", *requirement.extras)} - found:
                found.add(wanted)
                waiting.append((Distribution.from_name(requirement.name), wanted[1]))
    return {name for name, _ in found}


def linked_site(folder, names):
    """A folder that has the packages of these distributions and no other."""
    folder.mkdir()
    for name in names:
        installed = Distribution.from_name(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "read"])
def test_the_wheel_reads_with_what_it_names_alone(extra, tmp_path, image_of):
    wheel = built_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (information,) = (tmp_path / "unpacked").glob("crnn-*.dist-info")
    names = needed(PathDistribution(information), extra)
    assert {"numpy", "pillow", "safetensors"} <= {name.lower() for name in names}
    assert "torch" not in names
    site = linked_site(tmp_path / "site", names)
    (tmp_path / "word.png").write_bytes(image_of("hello"))
    program = """
import sys
sys.path[:0] = sys.argv[1:3]
from crnn.cli import main
assert sys.modules["crnn"].__file__.startswith(sys.argv[1])
status = main(["read", sys.argv[3], "--json"])
assert "torch" not in sys.modules
sys.exit(status)
"""
    # -I and -S: neither the environment nor site-packages; what is found is the standard library and these two.
    done = python("-I", "-S", "-c", program, tmp_path / "unpacked", site, tmp_path / "word.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["text"] == "hello"


OWNERS = {
    "lmdb": "data/store.py", "onnxruntime": "engines/onnx_engine.py", "openvino": "engines/openvino_engine.py",
    "huggingface_hub": "model/hub.py", "typer": "cli/.*",
    "scipy": "data/formats/matfile.py", "regex": "decoding/constraints.py",
}  # fmt: skip


@pytest.mark.parametrize(("library", "owner"), OWNERS.items())
def test_a_library_has_one_owner(library, owner):
    statement, package = re.compile(rf"^\s*(?:import|from) {library}\b", re.MULTILINE), ROOT / "src" / "crnn"
    users = [p.relative_to(package).as_posix() for p in package.rglob("*.py") if statement.search(p.read_text("utf-8"))]
    assert users
    assert all(re.fullmatch(owner, user) for user in users), users

"""The package as users get it: built, installed with each extra into an environment of its own, tried elsewhere.

It fetches packages (``make test-package``), into an environment with the base alone, of which those of the extras are
copies by hard links; torch is installed once.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CRNN_TEST_PACKAGE" not in os.environ, reason="it fetches packages: make test-package"),
]
CALLER = dict(os.environ)  # before fixtures change it: with the cache of pip
EXTRAS = ("read", "data", "train", "words", "detect", "hub", "serve")


def run(*command, ok=True, cwd=None, **environment):
    env = {**{k: v for k, v in CALLER.items() if k not in ("PYTHONPATH", "HF_TOKEN")}, "OMP_NUM_THREADS": "1"}
    env |= environment
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0 or not ok, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


class Environment:
    """An environment, and a folder that is no part of the tree to work in."""

    def __init__(self, folder, work):
        self.folder, self.work = folder, work
        self.python = folder / "bin" / "python"

    def install(self, *requirements):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--python",
            self.python,
            "install",
        ]
        run(*pip, "-c", ROOT / "constraints.txt", *requirements)

    def copy(self, name):
        run("cp", "-al", self.folder, self.folder.parent / name)
        return Environment(self.folder.parent / name, self.work)

    def crnn(self, *arguments, **options):
        return run(self.python, "-m", "crnn", *arguments, cwd=self.work, **options)

    def read(self, *options):
        return self.crnn("read", "word.png", *options).stdout.split("\t")[1]

    def names(self):
        done = run(self.python, "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))")
        return {name.lower().replace("_", "-") for name in done.stdout.split()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, made from the source archive, which is made from the tree."""
    folder = tmp_path_factory.mktemp("built")
    program = "import sys; from setuptools import build_meta as b; print(b.build_sdist(sys.argv[1]))"
    archive = folder / run(sys.executable, "-c", program, folder, cwd=ROOT).stdout.splitlines()[-1]
    run(sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "-w", folder, archive)
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def base(built, tmp_path_factory, image_of):
    folder = tmp_path_factory.mktemp("environments")
    (folder / "work").mkdir()
    (folder / "work" / "word.png").write_bytes(image_of("hello"))
    (folder / "work" / "labels.tsv").write_text("word.png\thello\n")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "base")
    environment = Environment(folder / "base", folder / "work")
    environment.install(built[1])
    return environment


@pytest.fixture(scope="module")
def with_extra(base, built):
    """A function that gives the environment with an extra; ``all`` begins with that of ``train``."""
    made = {}

    def get(extra):
        if extra not in made:
            made[extra] = (get("train") if extra == "all" else base).copy(extra)
            made[extra].install(*(["torch==2.13.0"] if extra == "train" else []), f"{built[1]}[{extra}]")
        return made[extra]

    return get


def test_the_archives_have_every_file_of_the_package(built):
    archive, wheel = built
    tree = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src" / "crnn").rglob("*") if p.is_file()}
    tree = {name for name in tree if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as file:
        assert {name for name in file.namelist() if name.startswith("crnn/")} == tree
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {f"src/{name}" for name in tree} | {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert wheel.stat().st_size < 40e6


def test_the_base_reads_and_says_what_the_rest_needs(base):
    assert run(base.folder / "bin" / "crnn", "read", "word.png", cwd=base.work).stdout.split("\t")[1] == "hello"
    assert base.read("--precision", "int8") == "hello"
    base.crnn("evaluate", "crnn-small", "labels.tsv")
    commands = re.findall(r"^  (\w+) ", base.crnn("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) >= 12
    program = "import sys; from crnn.cli import main; sys.exit(any(main([name, '--help']) for name in sys.argv[1:]))"
    run(base.python, "-c", program, *commands, cwd=base.work)
    assert not base.names() & {"torch", "openvino", "huggingface-hub", "starlette", "lmdb", "fonttools", "rapidocr"}
    (base.work / "store").mkdir(exist_ok=True)
    (base.work / "store" / "data.mdb").write_bytes(b"")
    for extra, *command in (
        ("read", "read", "word.png", "--engine", "openvino"),
        ("train", "read", "word.png", "--engine", "torch"),
        ("train", "train", "tiny"),
        ("train", "synth", "preview", "sheet.png"),
        ("data", "data", "inspect", "store"),
        ("words", "lm", "de.lm", "wordfreq:de"),
        ("hub", "read", "word.png", "--model", "hf://owner/name"),
        ("hub", "push", "crnn-small", "owner/name"),
        ("serve", "serve"),
    ):
        done = base.crnn(*command, ok=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (command, done.stderr)
        assert f"Install it with: pip install 'crnn[{extra}]'" in done.stderr, command


def try_read(environment):
    assert environment.read("--engine", "openvino") == "hello"


def try_data(environment):
    environment.crnn("data", "convert", "list", "labels.tsv", "words.lmdb")
    assert json.loads(environment.crnn("data", "inspect", "words.lmdb", "--json").stdout)["samples"] == 1


def try_train(environment):
    settings = ("--train.num_steps", "2", "--train.batch_size", "4", "--checkpoint.save_checkpoint_path", "run")
    environment.crnn("train", "tiny", "--data.train", "labels.tsv", *settings)
    environment.crnn("read", "word.png", "--model", "run")
    environment.crnn("evaluate", "crnn-small", "labels.tsv")
    assert environment.read("--engine", "torch") == "hello"
    environment.crnn("synth", "preview", "sheet.png", "--count", "4")


def try_words(environment):
    environment.crnn("lm", "fil.lm", "wordfreq:fil")  # a small one
    environment.crnn("read", "word.png", "--lm", "fil.lm")


def try_detect(environment):
    assert environment.crnn("read", "word.png", "--detect", "rapidocr").stdout.split("\t")[1] == "hello"


def try_hub(environment):
    done = environment.crnn(
        "read", "word.png", "--model", "hf://owner/name", ok=False, HF_HUB_OFFLINE="1", HF_HOME="hf"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "HF_HUB_OFFLINE is set, and the file is not in the cache" in done.stderr
    card = f"card-{environment.folder.name}"
    environment.crnn("push", "crnn-small", "owner/name", "--dry-run", card, HF_HUB_OFFLINE="1", HF_HOME="hf")
    assert environment.read("--model", f"{card}/model.onnx") == "hello"


def try_serve(environment):
    command = [environment.python, "-m", "crnn", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=environment.work, stderr=subprocess.PIPE, text=True) as server:
        with contextlib.ExitStack() as stack:
            stack.callback(server.terminate)
            url = re.search(r"http://\S+/", server.stderr.readline())[0]
            word = (environment.work / "word.png").read_bytes()
            for _ in range(120):
                with contextlib.suppress(OSError), urllib.request.urlopen(url + "read", word, timeout=60) as answer:
                    break
            with urllib.request.urlopen(url + "read", word, timeout=60) as answer:
                assert json.load(answer)["text"] == "hello"
        server.stderr.read()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_its_commands_need(extra, with_extra):
    environment = with_extra(extra)
    assert environment.read() == "hello"
    globals()[f"try_{extra}"](environment)
    assert ("torch" in environment.names()) == (extra == "train")


def test_all_of_them_get_on_with_each_other(with_extra):
    environment = with_extra("all")
    for extra in EXTRAS:
        if extra not in ("data", "train"):  # just tried, in the environment that this one began with
            globals()[f"try_{extra}"](environment)

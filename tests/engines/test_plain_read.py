"""examples/read_plain.py and .mjs: exported networks read without crnn, and as crnn reads them."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import crnn
import crnn.export
from crnn.image import load_resized
from crnn.model.weights import read_weights

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
NODE_MODULES = Path(os.environ.get("CRNN_NODE_MODULES", ROOT / "node_modules"))

needs_node = pytest.mark.skipif(
    NODE is None or not (NODE_MODULES / "onnxruntime-web").is_dir(),
    reason="node or its package onnxruntime-web is not here: npm install --no-save onnxruntime-web in the project's "
    "folder, or CRNN_NODE_MODULES",
)

WORDS = ["cat", "2024", "book", "unread", "noon", "a7x", "street", "hh0oo", "", "constantinople7"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network as an ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "crnn-small.onnx"
    crnn.export.export("crnn-small", path, samples=4)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, image_of: Callable[..., bytes]) -> list[Path]:
    """Drawn words as PNG files; beside each of them the same at the network's size, as PGM."""
    config = read_weights("crnn-small").config
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number, word in enumerate(WORDS):
        data = image_of(word, (360, 40) if len(word) > 9 else (140 if number % 2 else 90, 40))
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(data)
        fitted = load_resized(paths[-1], config.image)
        Image.fromarray(fitted[0]).save(paths[-1].with_suffix(".pgm"))
    return paths


@pytest.fixture(scope="module")
def texts(images: list[Path]) -> list[str]:
    """What crnn reads."""
    texts = [reading.text for reading in crnn.load("crnn-small", threads=1).read(images)]
    assert texts[0] == "cat"
    assert any(a == b for text in texts for a, b in itertools.pairwise(text))  # a blank between equal ones
    return texts


def read_in_node(folder: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """The example in a folder of its own, beside the packages that it imports."""
    shutil.copy(ROOT / "examples" / "read_plain.mjs", folder)
    (folder / "node_modules").symlink_to(NODE_MODULES.resolve())
    command = [str(NODE), "read_plain.mjs", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def rows(paths: list[Path], texts: list[str]) -> str:
    return "".join(f"{path}\t{text}\n" for path, text in zip(paths, texts, strict=True))


def test_plain_python_reads_as_crnn_does(exported: Path, images: list[Path], texts: list[str]) -> None:
    program = (
        "import runpy, sys\n"
        "for name in ('crnn', 'torch', 'onnx'): sys.modules[name] = None\n"  # an import of one of them is an error
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = ROOT / "examples" / "read_plain.py"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(script), str(exported), *map(str, images)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == rows(images, texts)


@needs_node
def test_plain_javascript_reads_as_crnn_does(
    exported: Path, images: list[Path], texts: list[str], tmp_path: Path
) -> None:
    fitted = [path.with_suffix(".pgm") for path in images]
    run = read_in_node(tmp_path, exported, *fitted)
    assert run.returncode == 0, run.stderr
    assert run.stdout == rows(fitted, texts)

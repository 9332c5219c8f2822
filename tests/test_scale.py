"""examples/read_with_ray.py, on a cluster of two nodes: every image has its row, whatever happens to its reader."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

import crnn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'crnn[scale]'"
    ),
]

SCRIPT = Path(__file__).parents[0] / "on_ray.py"
WORDS = ["cat", "dog", "ten", "42", "tree", "bird", "2024", "coat", "net", "bed", "acid", "card"]


class Ended(NamedTuple):
    """The folder of ``on_ray.py``, and the processes that were there some seconds after it had ended."""

    folder: Path
    left: list[str]


def processes_with(mark):
    """The commands of processes that have ``mark`` in their environment: all that were started by one that had."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory, image_of):
    """``on_ray.py`` over drawn words, a file that is no image and one that is empty."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "crops").mkdir()
    for number, word in enumerate(WORDS):
        (folder / "crops" / f"word{number:02}.png").write_bytes(image_of(word))
    (folder / "crops" / "text.png").write_bytes(b"no image")
    (folder / "crops" / "void.png").write_bytes(b"")
    mark = uuid.uuid4().hex
    scratch = tempfile.mkdtemp(prefix="ray")  # its sockets have paths that must be short
    try:
        run = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=400, check=False,
            # The second is ray's own word for "stay on 127.0.0.1", on Linux too.
            env={
                **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": scratch, "CRNN_TEST": mark,
            },
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        until = time.monotonic() + 20
        while (left := processes_with(mark)) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Ended(folder, left)


def by_name(rows):
    assert len({row["path"] for row in rows}) == len(rows)
    return {Path(row["path"]).name: row for row in rows}


def test_every_image_has_a_row_though_a_reader_was_killed(ended):
    assert (ended.folder / "killed").exists()
    rows = by_name(json.loads((ended.folder / "rows.json").read_text()))
    assert set(rows) == {path.name for path in (ended.folder / "crops").iterdir()}
    recognizer = crnn.load("crnn-small", threads=1)
    for name, row in rows.items():
        if name.startswith("word"):
            reading = recognizer.read(ended.folder / "crops" / name)
            assert row["text"] == reading.text
            assert row["score"] == pytest.approx(reading.score, abs=1e-3)
            assert row["confidence"] == pytest.approx(reading.confidence, abs=1e-3)
            assert row["error"] is None


@pytest.mark.parametrize(("name", "error"), [("text.png", "not an image"), ("void.png", "empty")])
def test_what_cannot_be_read_is_a_row_with_the_reason(ended, name, error):
    row = by_name(json.loads((ended.folder / "rows.json").read_text()))[name]
    assert error in row["error"]
    assert row["text"] is None
    assert row["score"] is None
    assert row["confidence"] is None


def test_packed_images_are_read_as_those_in_files(ended):
    rows, packed = (by_name(json.loads((ended.folder / f"{name}.json").read_text())) for name in ("rows", "packed"))
    assert set(packed) == set(rows)
    assert {name: row["text"] for name, row in packed.items()} == {name: row["text"] for name, row in rows.items()}


def test_no_process_is_left(ended):
    assert ended.left == []

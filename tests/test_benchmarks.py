"""The benchmarks measure all that they say, at the smallest sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent / "benchmarks"


def rows(name, *options):
    flags = ["--rounds", "2", "--threads", "1", *map(str, options)]
    command = [sys.executable, str(FOLDER / name), *flags, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert all(0 < row["lowest"] <= row["median"] <= row["highest"] for row in found.values())
    return found


def test_reading_and_decoding_of_crops_that_are_given(word_list):
    folder = word_list(labels=["cat", "dog", "ten", "bird"]).parent
    found = rows("read.py", "--data", folder, "--engines", "torch", "--precisions", "fp32", "int8")
    assert set(found) == {"crnn-small, torch fp32, greedy", "crnn-small, torch fp32, language"}  # no int8 in torch
    assert {row["right"] for row in found.values()} == {"100.0 %"}
    found = rows("decode.py", "--data", folder, "--words", "50")
    assert set(found) == {"greedy", "beam of 10", "language", "lexicon, the 4 labels", "lexicon, 50 words"}
    assert {row["right"] for row in found.values()} == {"100.0 %"}
    assert found["greedy"]["ratio"] == 1.0


def test_readers_beside_each_other(word_list):
    folder = word_list(labels=["cat", "dog", "ten", "bird"]).parent
    found = rows("readers.py", "--data", folder, "--protocol", "parseq", "--models", "crnn-small")
    assert set(found) <= {"crnn-small", "tesseract --psm 8", "rapidocr"}
    assert (found["crnn-small"]["samples"], found["crnn-small"]["right"]) == ("4", "100.00%")
    assert all(row["samples"] == "4" for row in found.values())


def test_training_on_rendered_crops():
    found = rows("train.py", "--backbones", "small", "--count", "8", "--batch-size", "2", "--steps", "6")
    assert set(found) == {"small, bare step", "small, loop"}
    assert not found["small, loop"]["peak"] or int(found["small, loop"]["peak"].split()[0].replace(",", "")) > 100


def test_rendered_text():
    found = rows("synth.py", "--count", "4", "--workers", "0", "1", "--warm-up", "4")
    assert set(found) == {"words drawn", "composed", "camera", "finished, 0 workers", "finished, 1 workers"}


def test_the_service(word_list):
    pytest.importorskip("starlette", reason="the service needs crnn[serve]")
    found = rows(
        "serve.py",
        "--data",
        word_list(labels=["cat", "dog"]).parent,
        "--seconds",
        "0.5",
        "--clients",
        "2",
        "--silent",
        "5",
    )
    assert set(found) == {"Recognizer.stream", "2 clients"}
    assert int(found["2 clients"]["p50 ms"]) <= int(found["2 clients"]["p99 ms"])


def test_stored_data(word_list):
    found = rows("data.py", "--data", word_list(labels=["cat", "dog"]).parent, "--files", "20")
    shuffled = {f"read shuffled, {workers} workers" for workers in range(3)}
    assert set(found) == {"tar", "convert", "labels", "read in order", *shuffled}

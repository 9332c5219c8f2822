"""The ModelZoo's three scripts: logs where it has them, lines as it writes them, clear refusals."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "examples" / "modelzoo"

STEP_LINE = re.compile(r"epoch: (\d+) step: (\d+), loss is \d+(?:\.\d+)?(?:e[+-]\d+)?")
EPOCH_LINE = re.compile(r"Epoch time: \d+\.\d{3}s, per step time: \d+\.\d{3}s")

QUICK = [
    "--model.backbone", "small", "--model.input_size", "256", "--model.hidden_size", "16", "--image.image_width", "48",
    "--model.num_step", "11", "--train.batch_size", "4", "--train.num_steps", "3", "--train.log_steps", "1",
    "--train.no_tensorboard", "--data.workers", "0",
]  # fmt: skip
"""Another network and three steps; everything else as the preset has it."""


@pytest.fixture
def script(tmp_path):
    """A function that runs one of the scripts in a folder of its own."""

    def call(name, *arguments):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return subprocess.run(
            ["bash", str(SCRIPTS / name), *(str(argument) for argument in arguments)],
            cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return call


def modelzoo_lines(log):
    return [line for line in log.read_text().splitlines() if line.lower().startswith("epoch")]


def check_lines(lines, steps):
    """The lines of these epochs and steps, each epoch closed by its time."""
    found = [STEP_LINE.fullmatch(line) for line in lines]
    assert [(int(m[1]), int(m[2])) for m in found if m] == steps
    for line, match in zip(lines, found, strict=True):
        assert match or EPOCH_LINE.fullmatch(line), line
    assert EPOCH_LINE.fullmatch(lines[-1])


@pytest.mark.slow
def test_standalone_training_and_going_on(script, word_list, tmp_path):
    words = word_list(8)
    done = script("run_standalone_train.sh", "synth", words, "CPU", *QUICK)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "training on synth; log in train/log.txt\n"
    log = tmp_path / "train" / "log.txt"
    check_lines(modelzoo_lines(log), [(1, 1), (1, 2), (2, 1)])
    assert log.read_text().splitlines()[-1] == "train/last.safetensors: 3 steps"
    for name in ("config.toml", "last.safetensors", "checkpoints", "metrics.jsonl"):
        assert (tmp_path / "train" / name).exists()

    refused = script("run_standalone_train.sh", "synth", words, *QUICK)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [
        "crnn train: train already holds a run; --resume it, or set checkpoint.save_checkpoint_path"
    ]
    assert (tmp_path / "train" / "last.safetensors").exists()  # the original deletes what it finds

    again = script(
        "run_standalone_train.sh", "synth", words, "CPU", *("4" if word == "3" else word for word in QUICK), "--resume"
    )
    assert again.returncode == 0
    check_lines(modelzoo_lines(log)[5:], [(2, 2)])
    assert log.read_text().splitlines()[-1] == "train/last.safetensors: 4 steps"


@pytest.mark.slow
def test_distributed_training_by_a_rank_table(script, word_list, tmp_path):
    words, log = word_list(16), tmp_path / "train_parallel0" / "log.txt"
    table = tmp_path / "hccl.json"
    devices = [{"device_id": str(i), "device_ip": f"192.0.2.{i}", "rank_id": str(i)} for i in range(2)]
    table.write_text(json.dumps({"server_count": "1", "server_list": [{"server_id": "10.0.0.1", "device": devices}]}))
    done = script("run_distribute_train.sh", "synth", table, words, "CPU", *QUICK)
    assert (done.returncode, done.stdout) == (0, ""), log.read_text()
    assert done.stderr == "training on synth with 2 processes; log in train_parallel0/log.txt\n"
    check_lines(modelzoo_lines(log), [(1, 1), (1, 2), (2, 1)])  # 16 words in batches of two times four
    assert "2 rank(s)" in log.read_text()
    assert log.read_text().count("train_parallel0/last.safetensors: 3 steps\n") == 1  # rank 0 speaks for both


@pytest.mark.slow
def test_distributed_training_passes_on_what_this_run_says(script, word_list, tmp_path):
    words, log = word_list(4), tmp_path / "train_parallel0" / "log.txt"
    log.parent.mkdir()
    log.write_text("crnn train: what an earlier run said\n")
    done = script("run_distribute_train.sh", "synth", 2, words, "CPU", "--train.seed", "x")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "training on synth with 2 processes; log in train_parallel0/log.txt",
        "crnn train: flags: train.seed is 'x'; input should be a valid integer",
    ]


@pytest.mark.slow
def test_evaluation_writes_and_shows_the_result(script, trained_run, word_list, tmp_path):
    words = word_list(labels=["cat", "dog", "ten", "bird", "coat"])
    text = words.read_text().replace("3.png\tten", "3.png\tTIN")
    words.write_text(text.replace("4.png\tbird", "4.png\tB-ird"))  # compared without case and marks
    done = script("run_eval.sh", "svt", words, trained_run.folder, "CPU")
    assert (done.returncode, done.stdout, done.stderr) == (0, "result: {'CRNNAccuracy': (0.8)}\n", "")
    lines = (tmp_path / "eval" / "log.txt").read_text().splitlines()
    assert lines[-1] == "result: {'CRNNAccuracy': (0.8)}"
    assert lines[0].startswith("crnn evaluate: svt: 5 samples compared, 647 published")
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert (result["protocol"], result["datasets"][0]["name"], result["combined_accuracy"]) == ("modelzoo", "svt", 0.8)

    (words.parent / "images" / "3.png").write_bytes(b"not an image")
    done = script("run_eval.sh", "iiit5k", words, trained_run.folder / "best.safetensors")
    assert (done.returncode, done.stdout) == (1, "result: {'CRNNAccuracy': (1.0)}\n")
    assert "unreadable image images/3.png" in (tmp_path / "eval" / "log.txt").read_text()

    done = script("run_eval.sh", "svt", words, "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "crnn evaluate: model 'nothing' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)\n"
    )


TABLES = {
    "two.json": '{"server_list": [{"device": [{}]}, {"device": [{}]}]}',
    "none.json": '{"server_list": [{"device": []}]}',
    "other.json": '{"servers": []}',
    "list.json": "[1, 2]",
    "text.json": "two cards",
    "empty.json": "",
}

NO_DATA = "DATASET_PATH=nowhere does not exist; expected an LMDB folder or a list file"
NO_PLATFORM = "PLATFORM=TPU is unknown; expected CPU, GPU or Ascend"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "run_standalone_train.sh synth",
            "Usage: bash examples/modelzoo/run_standalone_train.sh DATASET_NAME DATASET_",
        ),
        (
            "run_standalone_train.sh mjsynth words",
            "DATASET_NAME=mjsynth is unknown; expected synth, ic03, ic13, svt or",
        ),
        ("run_standalone_train.sh synth nowhere", NO_DATA),
        ("run_standalone_train.sh synth words TPU --resume", NO_PLATFORM),
        ("run_distribute_train.sh synth 2", "Usage: bash examples/modelzoo/run_distribute_train.sh DATASET_NAME RANK_"),
        ("run_distribute_train.sh synth 2 nowhere", NO_DATA),
        ("run_distribute_train.sh synth 2 words TPU", NO_PLATFORM),
        *(
            (f"run_distribute_train.sh synth {table} words", f"RANK_TABLE_FILE={table} does not exist; expected")
            for table in ("0", "-1", "gone.json")
        ),
        *(
            (
                f"run_distribute_train.sh synth {name} words",
                f"RANK_TABLE_FILE={name}: expected a 'server_list' with one",
            )
            for name in TABLES
        ),
        ("run_eval.sh svt words model CPU more", "Usage: bash examples/modelzoo/run_eval.sh DATASET_NAME DATASET_PATH"),
        ("run_eval.sh svt nowhere model", NO_DATA),
        ("run_eval.sh svt words model TPU", NO_PLATFORM),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(line, message, script, tmp_path):
    (tmp_path / "words").mkdir()
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    done = script(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert not [name for name in ("train", "train_parallel0", "eval") if (tmp_path / name).exists()]

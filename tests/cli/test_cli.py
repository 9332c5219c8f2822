"""The commands as they are typed: what goes to stdout, what to stderr, with which exit status."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crnn
from crnn.cli import main
from crnn.image import IMAGE_SUFFIXES

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

QUICK = [
    "--train.num_steps", "3", "--train.batch_size", "4", "--train.device", "cpu", "--train.threads", "1",
    "--train.no_tensorboard", "--image.image_width", "32", "--model.hidden_size", "8", "--data.workers", "0",
]  # fmt: skip
"""Flags that make any preset of the small backbone train for three steps."""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command line and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def in_a_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment, **options
    )


# ---------------------------------------------------------------------------------------------------------------------
# Help


def test_help_names_every_command(run: Run) -> None:
    for arguments in ([], ["-h"], ["--help"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        commands = ["read", "train", "evaluate", "export", "calibrate", "lm", "data", "synth", "config"]
        assert re.findall(r"^  (\w+) ", out.partition("Commands:")[2], re.MULTILINE) == commands


def test_version(run: Run) -> None:
    assert run("--version") == run("-V") == (0, f"crnn {crnn.__version__}\n", "")


def test_completion() -> None:
    asked = {"_CRNN_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = in_a_process("-m", "crnn", env={**asked, "COMP_WORDS": "crnn re"})
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["read"], "")
    done = in_a_process("-m", "crnn", env={**asked, "COMP_WORDS": "crnn read --beam", "COMP_CWORD": "2"})
    assert done.stdout.split() == ["--beam-width"]


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["read", "--help"], ["--model", "--decode {auto,greedy,beam,lexicon}", "--json", "crnn.load"]),
        (["read", "x.png", "-h"], ["--batch-size"]),
        (["help", "read"], ["crnn read [OPTIONS] IMAGE|FOLDER|-"]),
        (["evaluate", "--help"], ["MODEL", "[NAME=]DATA", "{parseq,clovaai,modelzoo,lines}", "--report"]),
        (["train", "--help"], ["--resume", "crnn-small", "--train.num_steps", "--optim.learning_rate"]),
        (["train", "tiny", "--help"], ["crnn train [OPTIONS] CONFIG [--section.key VALUE ...]"]),
        (["config", "--help"], ["show", "explain", "modelzoo"]),
        (["config", "show", "--help"], ["crnn config show [OPTIONS] CONFIG [--section.key VALUE ...]"]),
        (["config", "explain", "optim.learning_rate"], ["--optim.learning_rate "]),
        (["data"], ["convert", "inspect", "lexicon", "mjsynth", "synthtext", "iiit5k"]),
        (["data", "inspect", "--help"], ["--max-fault-share", "--against OTHER"]),
        (["synth", "write", "--help"], ["DST [CONFIG] [--section.key VALUE ...]"]),
        (["lm", "--help"], ["--power", "wordfreq:LANG"]),
    ],
    ids=" ".join,
)
def test_help_of_each_command(arguments: list[str], flags: list[str], run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    for flag in flags:
        assert flag in " ".join(out.split())
    assert not re.search(r"``|<str>|list\[", out)


def test_help_needs_no_torch() -> None:
    program = """
import sys
from crnn.cli import main
for line in ("--help", "--version", "read --help", "train --help", "evaluate --help", "config show --help",
             "config show tiny"):
    assert main(line.split()) == 0, line
    heavy = {"torch", "lmdb", "tensorboard", "onnxruntime", "openvino"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    done = in_a_process("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_torch_commands_say_what_to_install(tmp_path: Path) -> None:
    program = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
sys.modules.pop("torch", None)
import importlib.util
find = importlib.util.find_spec
gone = ("torch", "onnx", "onnxruntime", "openvino")
importlib.util.find_spec = lambda name, *rest: None if name in gone else find(name, *rest)
from crnn.cli import main
lines = ("read x.png --model m", "read x.png --engine torch", "evaluate m words", "train tiny --data.train words")
for line in lines:
    print(main(line.split()))
"""
    done = in_a_process("-c", program, cwd=tmp_path)
    assert done.stdout.split() == ["2", "2", "2", "2"]
    needs = "needs the package 'torch'. Install it with: pip install"
    assert done.stderr.splitlines() == [
        "crnn read: no engine that can do it is installed; openvino needs the package 'openvino'. Install it with: pip "
        "install 'crnn[openvino]'",
        f"crnn read: reading with the engine torch {needs} 'crnn[torch]'",
        f"crnn evaluate: evaluating {needs} 'crnn[torch]'",
        f"crnn train: training {needs} 'crnn[train]'",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# read


def test_read_prints_path_text_and_confidence(run: Run, trained_run: Any) -> None:
    images = [trained_run.words.parent / "images" / f"{n}.png" for n in (2, 1, 3)]
    status, out, err = run("read", *images, "--model", trained_run.folder)
    assert (status, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [[str(images[0]), "dog"], [str(images[1]), "cat"], [str(images[2]), "ten"]]
    assert all(re.fullmatch(r"[01]\.\d{3}", row[2]) and 0.5 < float(row[2]) <= 1.0 for row in rows)


def test_read_json_has_a_line_for_every_image_in_order(run: Run, trained_run: Any, tmp_path: Path) -> None:
    images = trained_run.words.parent / "images"
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "wörd.png").write_bytes((images / "2.png").read_bytes())
    given = [images / "1.png", tmp_path / "text.png", "gone.png", tmp_path / "wörd.png"]
    status, out, err = run("read", *given, "--model", trained_run.folder, "--json", "--batch-size", "1")
    assert (status, err) == (1, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in given]
    assert [sorted(line) for line in lines] == [
        ["characters", "confidence", "image", "score", "text", "warning"], ["error", "image"], ["error", "image"],
        ["characters", "confidence", "image", "score", "text", "warning"],
    ]  # fmt: skip
    assert (lines[0]["text"], lines[3]["text"]) == ("cat", "dog")
    assert lines[0]["score"] <= 0
    assert [sorted(c) for c in lines[0]["characters"]] == [["end", "score", "start", "text"]] * 3
    assert "".join(c["text"] for c in lines[0]["characters"]) == "cat"
    assert lines[2]["error"] == "gone.png: no such file; expected the path of an image"


def test_read_goes_on_after_a_bad_image(run: Run, trained_run: Any) -> None:
    image = trained_run.words.parent / "images" / "4.png"
    status, out, err = run("read", "gone.png", image, "--model", trained_run.folder)
    assert status == 1
    assert out.split("\t")[:2] == [str(image), "42"]
    assert err == "crnn read: gone.png: no such file; expected the path of an image\n"


def test_read_takes_the_images_of_a_folder_and_names_what_it_passes_over(run: Run, trained_run: Any) -> None:
    folder = trained_run.words.parent
    status, out, err = run("read", folder, "--model", trained_run.folder / "last.safetensors", "--decode", "beam")
    assert status == 0
    found = dict(line.split("\t")[:2] for line in out.splitlines())
    assert list(found) == sorted(str(path) for path in (folder / "images").iterdir())
    expected = {str(folder / "images" / f"{n}.png"): label for n, label in enumerate(trained_run.labels, start=1)}
    assert found == expected
    assert err == f"crnn read: {folder}: 1 files passed over, not images: labels.tsv\n"


def test_read_takes_every_kind_of_image_that_the_readers_of_data_take(
    run: Run, trained_run: Any, tmp_path: Path
) -> None:
    image = (trained_run.words.parent / "images" / "1.png").read_bytes()
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"image{suffix}").write_bytes(image)
    status, out, err = run("read", tmp_path, "--model", trained_run.folder / "last.safetensors")
    assert (status, len(out.splitlines()), err) == (0, len(IMAGE_SUFFIXES), "")


def test_read_names_linked_folders_and_keeps_a_line_a_line(run: Run, trained_run: Any, tmp_path: Path) -> None:
    image = (trained_run.words.parent / "images" / "1.png").read_bytes()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a\tb\nc.png").write_bytes(image)
    (tmp_path / "some" / "elsewhere").symlink_to(trained_run.words.parent, target_is_directory=True)
    model = trained_run.folder / "last.safetensors"
    status, out, err = run("read", tmp_path / "some", "--model", model)
    assert (status, out.count("\n"), out.count("\t")) == (0, 1, 2)
    assert out.split("\t")[0] == str(tmp_path / "some" / r"a\tb\nc.png")
    assert err == f"crnn read: {tmp_path / 'some'}: 1 linked folders passed over: elsewhere\n"
    _, out, _ = run("read", tmp_path / "some", "--model", model, "--json")
    assert json.loads(out)["image"] == str(tmp_path / "some" / "a\tb\nc.png")
    _, _, err = run("read", tmp_path / "some", "--model", model, "--n-best", 3)
    assert "the texts of --n-best are part of --json" in err


def test_read_says_that_an_image_on_stdin_is_no_list(
    run: Run, trained_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = (trained_run.words.parent / "images" / "1.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(image)))
    status, out, err = run("read", "-", "--model", trained_run.folder / "last.safetensors")
    assert (status, out) == (2, "")
    assert "stdin holds other data than paths, perhaps an image; expected one path on each line" in err


def test_evaluate_says_what_the_model_cannot_write(run: Run, trained_run: Any) -> None:
    model = trained_run.folder / "last.safetensors"
    _, _, err = run("evaluate", model, trained_run.words, "--charset", "94")
    assert "cannot write" in err
    assert "of the 94 characters that are compared (" in err
    _, _, err = run("evaluate", model, trained_run.words)
    assert "cannot write" not in err


def test_read_takes_paths_from_stdin(run: Run, trained_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = trained_run.words.parent / "images"
    lines = f"{images}/1.png\n\n{images}/2.png\r\n{images}/3.png".encode("utf-8-sig")  # as Windows writes it
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    status, out, err = run("read", "-", "--model", trained_run.folder)
    assert (status, err) == (0, "")
    assert [line.split("\t")[1] for line in out.splitlines()] == trained_run.labels[:3]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape"])
def test_read_takes_file_names_of_any_bytes(encoding: str, trained_run: Any, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes((trained_run.words.parent / "images" / "1.png").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "crnn", "read", "-", "--model", str(trained_run.folder), "--json"],
        input=name + b"\n", capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    line = json.loads(done.stdout)
    assert os.fsencode(line["image"]) == name
    assert line["text"] == "cat"


def test_read_is_quiet_when_its_reader_has_enough(trained_run: Any) -> None:
    images = [str(trained_run.words.parent / "images")] * 20
    for arguments in (["read", *images, "--model", str(trained_run.folder)], ["config", "show", "tiny"], ["--help"]):
        with subprocess.Popen(
            [sys.executable, "-m", "crnn", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            if arguments[0] == "read":
                assert process.stdout.readline().endswith(b"\n")
            process.stdout.close()
            errors = process.stderr.read()
        assert b"Traceback" not in errors
        assert b"BrokenPipe" not in errors
        assert all(b"passed over" in line for line in errors.splitlines())
        assert process.returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# evaluate


def test_evaluate_prints_a_table(run: Run, trained_run: Any) -> None:
    status, out, err = run(
        "evaluate", trained_run.folder, f"words={trained_run.words}", f"x[v2]:smile:={trained_run.words}"
    )
    assert (status, err) == (0, "")
    assert f"{trained_run.folder}, parseq, 36 characters" in " ".join(out.split())
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["words", "100.00", "75.75 - 100.00", "100.00", "0.00", "12", "-"],
        ["x[v2]:smile:", "100.00", "75.75 - 100.00", "100.00", "0.00", "12", "-"],
        ["mean", "100.00", "", "", "", "", ""],
        ["combined", "100.00", "", "", "", "24", ""],
    ]


def test_evaluate_json_has_the_keys_that_programs_rely_on(run: Run, trained_run: Any) -> None:
    status, out, err = run(
        "evaluate", trained_run.folder, f"SVT={trained_run.words}", "--json", "--protocol", "clovaai"
    )
    assert status == 0
    assert out.count("\n") == 1
    result = json.loads(out)
    assert list(result) == ["model", "protocol", "datasets", "mean_accuracy", "combined_accuracy", "calibration"]
    assert (result["model"], result["protocol"]) == (str(trained_run.folder), "clovaai")
    (dataset,) = result["datasets"]
    assert {
        "name", "samples", "skipped", "accuracy", "accuracy_low", "accuracy_high", "one_minus_ned", "cer"
    } <= set(dataset)  # fmt: skip
    assert set(dataset) - {"expected", "warnings", "lexicons", "greedy", "forms"} == {
        "name", "samples", "skipped", "accuracy", "accuracy_low", "accuracy_high", "one_minus_ned", "cer"
    }  # fmt: skip
    assert (dataset["name"], dataset["samples"], dataset["skipped"], dataset["accuracy"]) == ("SVT", 12, {}, 1.0)
    assert result["mean_accuracy"] == result["combined_accuracy"] == 1.0
    assert err == (
        "crnn evaluate: SVT: 12 samples compared, 647 published (skipped: none); figures are not comparable with "
        "published ones\n"
    )


def test_evaluate_ends_with_1_where_an_image_cannot_be_read(
    run: Run, trained_run: Any, word_list: Callable[..., Path], tmp_path: Path
) -> None:
    words = word_list(labels=["cat", "dog", "ten"])
    (words.parent / "images" / "2.png").write_bytes(b"not an image")
    status, out, err = run("evaluate", trained_run.folder, words, "--json", "--report", tmp_path / "report.html")
    assert status == 1
    assert json.loads(out)["datasets"][0]["skipped"] == {"not_an_image": 1}
    lines = err.splitlines()
    assert lines[0].startswith("crnn evaluate: words: unreadable image images/2.png: ")
    assert lines[1:] == [f"crnn evaluate: report written to {tmp_path}/report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "1 not an image" in page


def test_evaluate_of_nothing_has_no_figures(run: Run, trained_run: Any, word_list: Callable[..., Path]) -> None:
    words = word_list(labels=["cat", "dog"])
    for image in (words.parent / "images").iterdir():
        image.unlink()
    status, out, err = run("evaluate", trained_run.folder, words)
    assert status == 1
    assert "nan" not in out
    assert re.search(r"words +│ +- │ +- │ +- │ +- │ +0 │ missing: 2", out)
    assert err.splitlines()[-1].startswith("crnn evaluate: words: no sample was compared (missing: 2); expected")


@pytest.mark.slow
def test_evaluate_on_two_ranks_prints_once_what_one_prints(trained_run: Any) -> None:
    command = ["evaluate", str(trained_run.folder), str(trained_run.words), "--json", "--device", "cpu"]
    alone = in_a_process("-m", "crnn", *command)
    together = in_a_process(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "crnn", *command
    )
    assert (alone.returncode, together.returncode) == (0, 0)
    assert json.loads(together.stdout) == json.loads(alone.stdout)


# ---------------------------------------------------------------------------------------------------------------------
# train and config


def test_train_resume_and_refusal(run: Run, word_list: Callable[..., Path], tmp_path: Path) -> None:
    words, folder = word_list(8, labels=["ab", "cd", "ef", "gh"]), tmp_path / "run"
    command = ["train", "tiny", "--data.train", words, *QUICK, "--checkpoint.save-checkpoint-path", folder]
    status, out, err = run(*command)
    assert (status, out) == (0, f"{folder}/last.safetensors: 3 steps\n")
    assert "4 samples, 3 steps" in err
    assert "no run to go on with" not in err
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert err == (
        f"crnn train: {folder} already holds a run; add --resume to go on with it, or choose another "
        "--checkpoint.save_checkpoint_path\n"
    )
    status, out, err = run(*(5 if word == "3" else word for word in command), "--resume")
    assert (status, out) == (0, f"{folder}/last.safetensors: 5 steps\n")
    assert "going on from step 3" in err
    assert "train.num_steps: 3 -> 5" in err
    assert run("read", words.parent / "images" / "1.png", "--model", folder)[0] == 0
    command[-1] = tmp_path / "mistyped"
    assert f"{tmp_path}/mistyped has no run to go on with; a new one begins" in run(*command, "--resume")[2]


def test_train_says_how_good_and_how_it_was_stopped(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from crnn.training.loop import TrainReport

    best = tmp_path / "best.safetensors"
    report = TrainReport(tmp_path, 7, 0.8125, best, {"truncated": 2}, int(signal.SIGTERM), best_step=4)
    monkeypatch.setattr("crnn.training.loop.train", lambda *_, **__: report)
    status, out, err = run("train", "tiny", "--data.train", "words")
    assert (status, err) == (143, "")
    assert out == (
        f"{tmp_path}/best.safetensors: 7 steps, best validation accuracy 81.25 % at step 4, "
        "images left out 2 times: truncated\n"
    )
    report = TrainReport(tmp_path, 7, 0.8125, best, {}, None, best_step=0)
    kept = "at step 0 (nothing beat the weights that it began with; they are kept)"
    assert run("train", "tiny", "--data.train", "words")[1].endswith(f"81.25 % {kept}\n")
    monkeypatch.setenv("RANK", "1")  # one of torchrun's processes speaks for all
    assert run("train", "tiny", "--data.train", "words")[1] == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_stdout_is_said_in_one_line() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "crnn", "config", "show", "tiny"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "crnn config: the output cannot be written: No space left on device; make room, or write elsewhere\n"
    )


def test_config_show_puts_flags_above_the_file_above_the_defaults(run: Run, tmp_path: Path) -> None:
    import tomllib

    preset = tmp_path / "mine.toml"
    preset.write_text('[train]\nseed = 5\nbatch_size = 7\n[data]\ntrain = ["a.tsv"]\n')
    flags = [
        "--train.batch_size=9", "--optim.learning-rate", "2e-3", "--optim.weight_decay", "0.5", "--optim.no-nesterov",
        "--data.train", "b.tsv", "c.tsv", "--data.ratios", "1", "2.5", "--charset.characters", "0123",
        "--model.use_dropout", "--train.warm-start", "5",
    ]  # fmt: skip
    status, out, err = run("config", "show", preset, *flags)
    assert (status, err) == (0, "")
    shown = tomllib.loads(out)
    assert (shown["train"]["seed"], shown["train"]["batch_size"], shown["train"]["warm_start"]) == (5, 9, "5")
    assert (shown["optim"]["learning_rate"], shown["optim"]["weight_decay"]) == (2e-3, 0.5)
    assert (shown["optim"]["nesterov"], shown["model"]["use_dropout"]) == (False, True)
    assert (shown["data"]["train"], shown["data"]["ratios"]) == (["b.tsv", "c.tsv"], [1.0, 2.5])
    assert shown["charset"]["characters"] == "0123"
    assert shown["train"]["epoch_size"] == 10
    again = tmp_path / "again.toml"
    again.write_text(out, encoding="utf-8")
    assert run("config", "show", again)[1] == out

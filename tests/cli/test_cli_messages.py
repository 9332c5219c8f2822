"""What a user reads when something is wrong: one line with what was given, what was expected, what to do; status 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crnn.cli import main
from crnn.config.run import Config

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command line and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_config: Callable[..., Config]) -> Path:
    """The current folder of a user: a set ``words``, weights ``m``, an empty folder, a file that is no weights."""
    from crnn.model.checkpoint import save_weights
    from crnn.model.crnn import build_model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "labels.tsv").write_text("1.png\tab\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no tensors here")
    config = small_config()
    save_weights(tmp_path / "m", build_model(config.model, config.image, 11, seed=0).state_dict(), config, {})
    return tmp_path


# What the line has to name: the key as it was typed, the value, or the file.
CASES = [
    *[(line, "MODEL") for line in ("evaluate", "export", "calibrate")],
    *[(line, "DATA") for line in ("evaluate m", "calibrate m", "data inspect")],
    *[(line, "CONFIG") for line in ("train", "config show", "train --train.seed 3")],
    ("bogus", "'bogus'"),
    ("--read", "--read"),
    ("read", "IMAGE"),
    ("read 1.png --model nope", "model 'nope' is no weights file, run folder or shipped name"),
    ("read 1.png --model words", "words: a folder without best.safetensors or last.safetensors"),
    ("read 1.png --model text", "text: not a safetensors file, or cut short"),
    ("read empty --model m", "empty: no image there"),
    ("read 1.png --model m --batch-size 0", "batch_size is 0"),
    ("read 1.png --model m --beam-width 0", "beam_width is 0"),
    ("read 1.png --model m --threads 0", "threads is 0"),
    ("read 1.png --model m --device abacus", "'abacus'"),
    ("read 1.png --batch-size x", "--batch-size"),
    ("read 1.png --decode best", "'best' is not one of 'auto', 'greedy', 'beam', 'lexicon'"),
    ("read 1.png --beam-width", "--beam-width"),
    ("read 1.png --batchsize 3", "--batch-size"),
    ("export crnn-small", "OUT.onnx"),
    ("export crnn-small a.txt", "a.txt: expected a file to write that ends in .onnx"),
    ("evaluate m nowhere", "nowhere: there is no such file or folder"),
    ("evaluate m words words", "2 sets are called 'words'"),
    ("evaluate m x=", "'x=' has no path after '='"),
    ("evaluate m words --charset 37", "'37' is not one of"),
    ("evaluate m words --protocol modelzoo --charset 94", "protocol modelzoo compares 36 characters, charset is 94"),
    ("evaluate m words --report no/r.html", "--report no/r.html: there is no such folder"),
    ("evaluate m words --report empty", "--report empty: is a folder"),
    ("train huge", "config 'huge' is neither a file nor a preset; presets are: crnn-small, crnn-vgg, modelzoo, tiny"),
    ("train text", "text: not valid TOML"),
    ("train empty", "config 'empty' cannot be read: Is a directory"),
    ("train tiny", "data.train is empty"),
    ("train tiny --data.train nowhere", "nowhere: there is no such file or folder"),
    ("config print tiny", "'print'"),
    ("train tiny --train.num_stps 3", "unknown key 'train.num_stps'; did you mean 'train.num_steps'?"),
    ("train tiny --num-steps 3", "unknown key 'num_steps'; did you mean 'train.num_steps'?"),
    ("train tiny --trian.seed=3", "unknown key 'trian'; did you mean 'train'?"),
    ("train tiny --resum", "unknown key 'resum'"),
    ("train tiny --train 5", "train is '5'"),
    ("train tiny extra", "'extra'"),
    ("train tiny --train.seed x", "train.seed is 'x'; input should be a valid integer"),
    ("train tiny --train.batch-size=x", "train.batch_size is 'x'"),
    ("train tiny --train.num_steps=0", "train.num_steps is 0; input should be greater than or equal to 1"),
    ("train tiny --optim.learning_rate -1", "optim.learning_rate is -1; input should be greater than 0"),
    ("train tiny --train.seed", "--train.seed has no value"),
    ("train tiny --model.backbone resnet", "model.backbone is 'resnet'; input should be 'vgg' or 'small'"),
    ("train tiny --model.use_dropout yes", "model.use_dropout is 'yes'"),
    ("train tiny --optim.no-nesterov false", "--optim.no_nesterov takes no value, 'false' is given"),
    ("train tiny --charset.characters aa", "charset has 'a' twice"),
    ("train tiny --model.class_num 3", "model.class_num is 3 but must be 37"),
    ("train tiny --data.ratios 0.5 x", "data.ratios.1 is 'x'"),
    ("config show tiny --data.ratios 1", "ratios has 1 numbers for 0 sources in train"),
    ("config show tiny --train.num_steps 5 --train.num-steps=7", "--train.num_steps is given twice"),
    ("config show tiny --optim.nesterov --optim.no_nesterov", "--optim.no_nesterov is given twice"),
    ("train tiny --data.train b.tsv --data.train c.tsv", "--data.train is given twice"),
    # Flags that are right are not blamed for another one.
    ("train tiny --data.train a b --data.ratios 1 2 --train.seed x", "flags: train.seed is 'x'; input should"),
]


@pytest.mark.parametrize(("line", "named"), CASES, ids=[line for line, _ in CASES])
def test_one_line_says_what_is_wrong(line: str, named: str, run: Run, workplace: Path) -> None:
    status, out, err = run(*line.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    command = line.split()[0]
    assert err.startswith("crnn: " if command in ("bogus", "--read") else f"crnn {command}: ")
    assert named in err


def test_a_wrong_setting_in_a_file_names_the_file_and_the_key(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlearning_rat = 1e-3\n[train]\nseed = 'one'\n")
    status, out, err = run("config", "show", path)
    assert (status, out) == (2, "")
    assert err == (
        f"crnn config: {path}: unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?; "
        "train.seed is 'one'; input should be a valid integer\n"
    )


def test_nothing_is_written_where_a_command_is_refused(run: Run, workplace: Path) -> None:
    before = sorted(workplace.rglob("*"))
    for line in ("train tiny --data.train words --train.seed x", "evaluate m words --report empty", "train tiny"):
        assert run(*line.split())[0] == 2
    assert sorted(workplace.rglob("*")) == before


def test_debug_adds_the_traceback_above_the_line(run: Run) -> None:
    status, out, err = run("read", "x.png", "--debug", "--model", "nope")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "crnn read: model 'nope' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)"


def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crnn.recognizer.load", interrupted)
    assert run("read", "x.png", "--model", "m") == (130, "", "")

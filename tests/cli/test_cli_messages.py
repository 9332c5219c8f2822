"""What a user reads when something is wrong: one line with what was given, what was expected, what to do; status 2."""

from __future__ import annotations

import re
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


COMMANDS = "read, train, evaluate, export, calibrate, lm, data, synth, config"
PRESETS = "crnn-small, crnn-vgg, modelzoo, tiny"

CASES = {
    # ---- commands
    "bogus": f"command 'bogus' is unknown; expected one of: {COMMANDS}",
    "--read": f"command '--read' is unknown; expected one of: {COMMANDS}",
    # ---- read: what is missing
    "read": "no image is given; expected files, folders, or - for a list of paths on stdin",
    "read 1.png --model nope": "model 'nope' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)",
    "read 1.png --model words": "words: a folder without best.safetensors or last.safetensors; expected a run folder",
    "read 1.png --model text": "text: not a safetensors file, or cut short (...); expected one written by crnn",
    "read empty --model m": "empty: no picture there; expected picture files, folders that hold files with a picture's "
    "suffix, or a path on each line of stdin for -",
    # ---- read: flags
    "read 1.png --model m --batch-size 0": "batch_size is 0; expected 1 or more",
    "read 1.png --model m --beam-width 0": "beam_width is 0; expected 1 or more",
    "read 1.png --model m --threads 0": "threads is 0; expected 1 or more, or none for the engine's own choice",
    "read 1.png --model m --device abacus": "...'abacus', which cannot be used here (...); use auto, cpu or an "
    "accelerator's name",
    "read 1.png --batch-size x": "--batch-size is 'x'; expected a whole number. See crnn read --help",
    "read 1.png --batch-size=1.5": "--batch-size is '1.5'; expected a whole number. See crnn read --help",
    "read 1.png --threads many": "--threads is 'many'; expected a whole number. See crnn read --help",
    "read 1.png --decode best": "--decode is 'best'; expected one of: auto, greedy, beam, lexicon. "
    "See crnn read --help",
    "read 1.png --engine tflite": "--engine is 'tflite'; expected one of: auto, torch, onnx, openvino. "
    "See crnn read --help",
    "read 1.png --beam-width": "--beam-width has no value; expected one behind it. See crnn read --help",
    "read 1.png --batchsize 3": "--batchsize 3: no such option; did you mean --batch-size? See crnn read --help",
    "read 1.png --foo 3": "--foo 3: no such option. See crnn read --help",
    "read 1.png --json yes": "yes: no such option. See crnn read --help",
    # ---- evaluate
    "evaluate": "no model is given; expected a weights file or a run folder, and the data behind it",
    "evaluate m": "no data is given; expected LMDB folders or list files",
    "export": "no model is given; expected a weights file, a run folder or a name, and the file to write",
    "export crnn-small": "no file to write is given; expected OUT.onnx behind the model",
    "export crnn-small a.txt": "a.txt: expected a file to write that ends in .onnx",
    "evaluate nope words": "model 'nope' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)",
    "evaluate m nowhere": "nowhere: there is no such file or folder; expected an LMDB folder or a list file. Check the "
    "path",
    "evaluate m words words": "2 sets are called 'words'; give each a name of its own with NAME=DATA",
    "evaluate m x=": "'x=' has no path after '='; expected NAME=PATH",
    "evaluate m words --protocol papers": "--protocol is 'papers'; expected one of: parseq, clovaai, modelzoo, lines. "
    "See crnn evaluate --help",
    "evaluate m words --charset 37": "--charset is '37'; expected one of: auto, 36, 62, 94. See crnn evaluate --help",
    "evaluate m words --protocol modelzoo --charset 94": "protocol modelzoo compares 36 characters, charset is 94; use "
    "36, or parseq",
    "evaluate m words --report no/r.html": "--report no/r.html: there is no such folder to write it in; expected a "
    "file in a folder that exists, such as report.html",
    "evaluate m words --report empty": "--report empty: is a folder; expected a file in a folder that exists, such as "
    "report.html",
    # ---- train and config: the source of the settings
    "train": f"the first argument is missing; expected CONFIG: a TOML file or a preset ({PRESETS})",
    "train --train.seed 3": f"the first argument is --train.seed; expected CONFIG: a TOML file or a preset ({PRESETS})",
    "train huge": f"config 'huge' is neither a file nor a preset; presets are: {PRESETS}",
    "train text": "text: not valid TOML: ...",
    "train empty": f"config 'empty' cannot be read: Is a directory; expected a TOML file or a preset ({PRESETS})",
    "train tiny": "data.train is empty; expected LMDB folders or list files to train on, or synth for rendered text "
    "(--data.train synth)",
    "train tiny --data.train nowhere": "nowhere: there is no such file or folder; expected an LMDB folder or a list "
    "file. Check the path",
    "config": f"config (nothing): expected 'crnn config show CONFIG'; presets are: {PRESETS}",
    "config print tiny": f"config print tiny: expected 'crnn config show CONFIG'; presets are: {PRESETS}",
    "config show": f"the first argument is missing; expected CONFIG: a TOML file or a preset ({PRESETS})",
    # ---- train and config: flags
    "train tiny --train.num_stps 3": "flags: unknown key 'train.num_stps'; did you mean 'train.num_steps'?",
    "train tiny --train.num_step 3": "flags: unknown key 'train.num_step'; did you mean 'train.num_steps'?",
    "train tiny --num-steps 3": "flags: unknown key 'num_steps'; did you mean 'train.num_steps'?",
    "train tiny --trian.seed=3": "flags: unknown key 'trian'; did you mean 'train'?",
    "train tiny --resum": "--resum: no such option; did you mean --resume?",
    "train tiny --checkpoint.save_checkpoint_path resume": "data.train is empty; expected LMDB folders or list files "
    "to train on, or synth for rendered text (--data.train synth)",
    "train tiny --result": "flags: unknown key 'result'; expected one of: model, image, charset, data, augment, synth, "
    "corpus, fonts, style, camera, objective, optim, "
    "train, eval, checkpoint",
    "train tiny --train 5": "flags: train is '5'; input should be a section of settings: [train]",
    "train tiny extra": "extra: no such option. See crnn train CONFIG --help",
    "train tiny --train.seed x": "flags: train.seed is 'x'; input should be a valid integer",
    "train tiny --train.batch-size=x": "flags: train.batch_size is 'x'; input should be a valid integer",
    "train tiny --train.num_steps=0": "flags: train.num_steps is 0; input should be greater than or equal to 1",
    "train tiny --optim.learning_rate -1": "flags: optim.learning_rate is -1; input should be greater than 0",
    "train tiny --train.seed": "--train.seed has no value; expected one behind it",
    "train tiny --model.backbone resnet": "flags: model.backbone is 'resnet'; input should be 'vgg' or 'small'",
    "train tiny --model.use_dropout yes": "--model.use_dropout takes no value, 'yes' is given; write "
    "--model.use_dropout, or --model.no_use_dropout for off",
    "train tiny --optim.no-nesterov false": "--optim.no_nesterov takes no value, 'false' is given; write "
    "--optim.nesterov, or --optim.no_nesterov for off",
    "train tiny --charset.characters aa": "flags: charset: charset has 'a' twice, at positions 0 and 1; remove one",
    "train tiny --model.class_num 3": "flags: model.class_num is 3 but must be 37: the charset has that many "
    "characters and the blank. Leave it out or correct it",
    "train tiny --data.ratios 0.5 x": "flags: data.ratios.1 is 'x'; input should be a valid number",
    "config show tiny --data.ratios 1": "flags: data: ratios has 1 numbers for 0 sources in train",
    # Flags that are right, together or alone, are not blamed for another one.
    "train tiny --data.train a b --data.ratios 1 2 --train.seed x": "flags: train.seed is 'x'; input should be a valid "
    "integer",
    "train tiny --model.class_num 4 --charset.characters 012 --train.warm_start 5 --optim.no_nesterov --train.seed x": (
        "flags: train.seed is 'x'; input should be a valid integer"
    ),
}


@pytest.mark.parametrize("line", CASES)
def test_one_line_says_what_is_wrong(line: str, run: Run, workplace: Path) -> None:
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    pattern = re.escape(CASES[line]).replace(re.escape("..."), ".+")
    assert re.fullmatch(rf"crnn {line.split()[0]}: {pattern}\n", err), err


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

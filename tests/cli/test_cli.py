"""The command line: help, completion, settings, training, exit status, and errors of one line."""

import os
import re
import signal
import subprocess
import sys
import tomllib

import pytest

import crnn
from crnn.model.checkpoint import save_weights
from crnn.model.crnn import build_model
from crnn.training.loop import TrainReport

QUICK = [
    "--train.num_steps", "3", "--train.batch_size", "4", "--train.device", "cpu", "--train.threads", "1",
    "--train.no_tensorboard", "--image.image_width", "32", "--model.hidden_size", "8", "--data.workers", "0",
]  # fmt: skip
"""Flags that make any preset of the small backbone train for three steps."""


# ---- help


def test_help_names_every_command(run):
    for arguments in ([], ["-h"], ["--help"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        commands = [
            "read",
            "serve",
            "page",
            "train",
            "evaluate",
            "compare",
            "import",
            "export",
            "push",
            "calibrate",
            "lm",
            "data",
            "synth",
            "config",
        ]
        assert re.findall(r"^  (\w+) ", out.partition("Commands:")[2], re.MULTILINE) == commands


def test_version(run):
    assert run("--version") == run("-V") == (0, f"crnn {crnn.__version__}\n", "")


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_told_otherwise(given, expected, run, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == expected


@pytest.mark.parametrize(
    ("words", "place", "answer"), [("crnn re", "1", "read"), ("crnn read --beam", "2", "--beam-width")]
)
def test_completion(words, place, answer, in_process):
    asked = {"_CRNN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    done = in_process("-m", "crnn", env=asked)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [answer], "")


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["read", "--help"], ["--model", "--decode {auto,greedy,beam,lexicon}", "--json", "crnn.load"]),
        (["help", "read"], ["crnn read [OPTIONS] IMAGE|FOLDER|-"]),
        (["evaluate", "--help"], ["MODEL", "[NAME=]DATA", "{parseq,clovaai,modelzoo,lines}", "--report"]),
        (["train", "--help"], ["--resume", "crnn-small", "--train.num_steps", "--optim.learning_rate"]),
        (["config", "show", "--help"], ["crnn config show [OPTIONS] CONFIG [--section.key VALUE ...]"]),
        (["data"], ["convert", "inspect", "lexicon", "mjsynth", "synthtext", "iiit5k"]),
        (["data", "inspect", "--help"], ["--max-fault-share", "--against OTHER"]),
        (["synth", "write", "--help"], ["DST [CONFIG] [--section.key VALUE ...]"]),
    ],
    ids=" ".join,
)
def test_help_of_each_command(arguments, flags, run):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    for flag in flags:
        assert flag in " ".join(out.split())
    assert not re.search(r"``|<str>|list\[", out)


def test_help_needs_no_torch(in_process):
    program = """
import sys
from crnn.cli import main
for line in ("--help", "--version", "read --help", "train --help", "evaluate --help", "config show tiny"):
    assert main(line.split()) == 0, line
    heavy = {"torch", "lmdb", "tensorboard", "onnxruntime", "openvino"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    done = in_process("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_torch_commands_say_what_to_install(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    for line in ("read x.png --engine torch", "evaluate m words --engine torch", "train tiny"):
        status, _, err = run(*line.split())
        assert (status, err.count("\n")) == (2, 1)
        assert "needs the package 'torch'. Install it with: pip install 'crnn[train]'" in err


# ---- errors


@pytest.fixture
def workplace(tmp_path, monkeypatch, small_config):
    """The current folder of a user: a set ``words``, weights ``m``, an empty folder, a file that is no weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "labels.tsv").write_text("1.png\tab\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no tensors here")
    config = small_config()
    save_weights(tmp_path / "m", build_model(config.model, config.image, 11, seed=0).state_dict(), config, {})
    return tmp_path


# The key as it was typed, the value, or the file.
CASES = [
    ("evaluate", "MODEL"),
    ("evaluate m", "DATA"),
    ("train --train.seed 3", "CONFIG"),
    ("bogus", "'bogus'"),
    ("--read", "--read"),
    ("read", "IMAGE"),
    ("read 1.png --model nope", "model 'nope' is no weights file, run folder or shipped name"),
    ("read empty --model m", "empty: no image there"),
    ("read 1.png --model m --beam-width 0", "beam_width is 0"),
    ("read 1.png --model m --device abacus", "'abacus'"),
    ("read 1.png --model m --decode lexicon", "decode is 'lexicon', and no lexicon is given"),
    ("read 1.png --model m --lexicon gone.txt", "gone.txt"),
    ("read 1.png --model m --explain no/where.png", "--explain no/where.png: there is no such folder"),
    ("read 1.png --model m --explain out.foo", "--explain out.foo: expected a name that ends in .png or .jpg or .jpeg"),
    ("read 1.png --model m --explain-font f.ttf", "--explain-font does nothing without --explain"),
    ("read 1.png --model m --decode greedy --beam-width 3", "decode 'greedy' and beam_width do not go together"),
    ("data inspect words --sheet out.psd", "--sheet out.psd: expected a name that ends in .png"),
    ("data inspect words --sheet-samples 3", "--sheet-samples does nothing without --sheet"),
    ("data inspect words --to list", "--to does nothing without --write"),
    ("evaluate m words --report r.pdf", "--report r.pdf: expected a name that ends in .html or .htm"),
    ("evaluate m words --lexicon full --decode lexicon --beam-width 3", "decode 'lexicon' and beam_width do not go"),
    ("read 1.png --decode best", "'best' is not one of 'auto', 'greedy', 'beam', 'lexicon'"),
    ("read 1.png --batchsize 3", "--batch-size"),
    ("evaluate m words --report empty", "--report empty: is a folder"),
    ("evaluate m --readings text", "DATA is missing behind the model m"),
    ("evaluate m words --readings text", "--readings text: exists already, and readings of the model m are to be writ"),
    ("evaluate m words --readings no/where.tsv", "--readings no/where.tsv: there is no such folder"),
    (
        "evaluate words --readings r.tsv",
        "--readings r.tsv: there is no such file to score, and words is no model, whose",
    ),
    ("evaluate words --readings text", "text:1: 'no tensors here' is no reading; expected path<TAB>text"),
    ("evaluate nowhere words --readings text", "nowhere: there is no such file or folder"),
    ("evaluate words --readings text --lm none", "--lm does nothing when scoring a file; leave it out"),
    ("evaluate words --readings text --engine onnx", "--engine does nothing when scoring a file"),
    ("evaluate words --readings text --like words", "words: a folder without best.safetensors"),
    ("evaluate m words --like m", "--like does nothing when reading with a model"),
    ("compare text text", "DATA"),
    ("compare gone text words", "gone: cannot be read: No such file or directory"),
    ("compare text text words --tsv out.csv", "--tsv out.csv: expected a name that ends in .tsv"),
    ("compare text text words --sheet out.psd", "--sheet out.psd: expected a name that ends in .png"),
    ("evaluate m words --lexicon 51", "lexicon '51' is neither 50, 1k or full nor a file"),
    ("evaluate m words --decode lexicon", "--decode lexicon reads with one --lexicon, 0 are given"),
    ("evaluate m words --lexicon-margin 1", "--lexicon-margin is given without --lexicon"),
    ("evaluate m words --lexicon full --lexicon-margin -1", "lexicon_margin is -1.0; expected a number, 0 or more"),
    ("train huge", "config 'huge' is neither a file nor a preset; expected a TOML file or a preset (crnn-small, "),
    ("train tiny", "data.train is empty"),
    ("config print tiny", "'print'"),
    ("train tiny --train.num_stps 3", "unknown key 'train.num_stps'; did you mean 'train.num_steps'?"),
    ("train tiny --resum", "No such option: --resum Did you mean --resume?"),
    ("train tiny --train 5", "train is '5'"),
    ("config show tiny --look.a 0 --look.b 1", "section [look] is now [style]"),
    ("train tiny extra", "'extra'"),
    ("train tiny --train.seed x", "train.seed is 'x'; input should be a valid integer"),
    ("train tiny --train.seed", "--train.seed has no value"),
    ("train tiny --optim.no-nesterov false", "optim.nesterov is (False, False)"),
    ("config show tiny --train.num_steps 5 --train.num-steps=7", "--train.num_steps is given twice"),
    # Flags that are right are not blamed for another one.
    ("train tiny --data.train a b --data.ratios 1 2 --train.seed x", "flags: train.seed is 'x'; input should"),
]


@pytest.mark.parametrize(("line", "named"), CASES, ids=[line for line, _ in CASES])
def test_one_line_says_what_is_wrong(line, named, run, workplace):
    before = sorted(workplace.rglob("*"))
    status, out, err = run(*line.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sorted(workplace.rglob("*")) == before
    command = line.split()[0]
    assert err.startswith("crnn: " if command in ("bogus", "--read") else f"crnn {command}: ")
    assert named in err


def test_a_list_of_numbers_can_be_empty(run):
    status, out, _ = run("config", "show", "tiny", "--corpus.length_weights", "[]")
    assert status == 0
    assert "length_weights = []" in out


EVIL = "a\x1b[31mb\nc\td\u202ee\u2028f"
SHOWN = r"a\x1b[31mb\nc\td\u202ee\u2028f"


@pytest.mark.parametrize(
    "line",
    [
        "read 1.png --model EVIL", "read EVIL --model m", "read 1.png --model m --lexicon EVIL", "evaluate EVIL words",
        "evaluate m EVIL", "export EVIL out.onnx", "calibrate EVIL words", "lm out EVIL", "data inspect EVIL",
        "data convert list EVIL out", "data lexicon EVIL out.txt", "synth preview EVIL/x.png", "config explain EVIL",
        "train EVIL", "train tiny --data.train EVIL", "evaluate words --readings EVIL", "compare EVIL EVIL words",
    ],
)  # fmt: skip
def test_names_in_errors_are_escaped(line, run, workplace):
    status, out, err = run(*(word.replace("EVIL", EVIL) for word in line.split()))
    assert (status, out) == (1 if line.startswith("read EVIL") else 2, "")
    assert SHOWN in err
    assert err.endswith("\n")
    assert err[:-1].isprintable()


def test_names_in_results_are_escaped(run, workplace):
    (workplace / "words.txt").write_text("one\ntwo\n")
    status, out, _ = run("lm", EVIL, "words.txt")
    assert (status, out.startswith(f"{SHOWN}: order")) == (0, True)
    status, out, _ = run("config", "show", "tiny", "--data.train", EVIL)
    assert all(line.isprintable() for line in out.splitlines())
    assert tomllib.loads(out)["data"]["train"] == [EVIL]


def test_an_error_is_short_whatever_it_quotes(run, workplace):
    status, out, err = run("config", "show", "tiny", "--train.seed", "9x" * 50_000)
    assert (status, out, len(err) < 1100) == (2, "", True)
    assert err.endswith("input should be a valid integer\n")


def test_a_wrong_setting_in_a_file_names_the_file_and_the_key(run, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlearning_rat = 1e-3\n[train]\nseed = 'one'\n")
    status, out, err = run("config", "show", path)
    assert (status, out) == (2, "")
    assert err == (
        f"crnn config: {path}: unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?; "
        "train.seed is 'one'; input should be a valid integer\n"
    )


def test_debug_adds_the_traceback_above_the_line(run):
    status, out, err = run("read", "x.png", "--debug", "--model", "nope")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "crnn read: model 'nope' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)"


def test_ctrl_c_ends_with_130(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("crnn.recognizer.load", interrupted)
    assert run("read", "x.png", "--model", "m") == (130, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_stdout_is_said_in_one_line(in_process):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = in_process(
            "-m", "crnn", "config", "show", "tiny", stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the output cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize(("closed", "status"), [("<&-", 0), (">&-", 2), ("2>&-", 0), ("<&- >&- 2>&-", 2)])
def test_closed_streams_have_no_traceback(closed, status):
    done = subprocess.run(
        f'"{sys.executable}" -m crnn config show tiny {closed}', shell=True, capture_output=True, text=True
    )
    line = "crnn config: the output cannot be written: Bad file descriptor; make room, or write elsewhere\n"
    assert (done.returncode, done.stderr) == (status, line if closed == ">&-" else "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_errors_that_nobody_takes_are_dropped(in_process):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = in_process("-m", "crnn", "--bogus", stdout=subprocess.PIPE, stderr=full, capture_output=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_working_folder_that_is_gone_is_said(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    expected = "crnn synth: the working folder is gone, or may not be entered; go to another one\n"
    assert run("synth", "preview", "x.png") == (2, "", expected)


def test_errors_of_the_system_are_one_line(run, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "closed/m")

    monkeypatch.setattr("crnn.recognizer.load", refused)
    expected = "crnn read: closed/m: Permission denied; check the path, and who may read and write there\n"
    assert run("read", "x.png") == (2, "", expected)


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(run, workplace, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    for line in ("read 1.png --explain e.png", "evaluate m words --report r.html", "lm out.lm words.txt"):
        status, out, err = run(*line.split())
        assert (status, out, "its folder may not be written" in err) == (2, "", True)


@pytest.mark.parametrize("amid", ["import", "work"])
def test_ctrl_c_amid_an_import_is_silent(amid, in_process, tmp_path):
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    program = f"""
import signal, sys
sys.path.insert(0, {str(tmp_path)!r})
import crnn.cli, crnn.__main__
def work():
    if {amid!r} == "import":
        import slow
    signal.raise_signal(signal.SIGINT)
crnn.cli._run = lambda *_: work()
sys.exit(crnn.__main__.main())
"""
    done = in_process("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_commands_are_quiet_when_their_reader_has_enough(trained_run):
    images = [str(trained_run.words.parent / "images")] * 20
    for arguments in (["read", *images, "--model", str(trained_run.folder)], ["config", "show", "tiny"], ["--help"]):
        with subprocess.Popen(
            [sys.executable, "-m", "crnn", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""},
        ) as process:  # fmt: skip
            if arguments[0] == "read":
                assert process.stdout.readline().endswith(b"\n")
            process.stdout.close()
            errors = process.stderr.read()
        assert all(b"passed over" in line for line in errors.splitlines())
        assert process.returncode == 0


# ---- train and config


def test_train_resume_and_refusal(run, word_list, tmp_path):
    words, folder = word_list(8, labels=["ab", "cd", "ef", "gh"]), tmp_path / "run"
    command = ["train", "tiny", "--data.train", words, *QUICK, "--checkpoint.save-checkpoint-path", folder]
    status, out, err = run(*command)
    assert (status, out) == (0, f"{folder}/last.safetensors: 3 steps\n")
    assert "4 samples, 3 steps" in err
    assert "no run to go on with" not in err
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert err == (f"crnn train: {folder} already holds a run; --resume it, or set checkpoint.save_checkpoint_path\n")
    status, out, err = run(*(5 if word == "3" else word for word in command), "--resume")
    assert (status, out) == (0, f"{folder}/last.safetensors: 5 steps\n")
    assert "going on from step 3" in err
    assert "train.num_steps: 3 -> 5" in err
    assert run("read", words.parent / "images" / "1.png", "--model", folder)[0] == 0
    command[-1] = tmp_path / "mistyped"
    assert f"{tmp_path}/mistyped has no run to go on with; a new one begins" in run(*command, "--resume")[2]


def test_train_says_how_good_and_how_it_was_stopped(run, monkeypatch, tmp_path):
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


def test_config_show_puts_flags_above_the_file_above_the_defaults(run, tmp_path):
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

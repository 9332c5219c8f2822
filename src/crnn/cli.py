"""The commands, thin: parse, call one function of the package, print.

Results go to stdout, all else to stderr. Exit status: 0 done, 1 a result is bad (an unreadable picture), 2 the input or
a setting is bad (one line; ``--debug`` adds the traceback), 128 + n ended by signal n.

Nothing is imported before a command needs it: ``crnn --help`` imports no torch, ``crnn read`` no settings of trainings.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from crnn.commands.terminal import require_torch
from crnn.errors import ConfigError, CrnnError

__all__ = ["main"]


def train_command(arguments: Sequence[str]) -> int:
    """``crnn train CONFIG [--section.key VALUE ...] [--resume]``: every setting is a flag."""
    from crnn.commands.config_flags import config_from

    for given in arguments:
        is_flag = given.startswith("--") and given != "--resume"  # a folder may be named resume
        if is_flag and difflib.get_close_matches(given, ["--resume"], cutoff=0.8):
            raise ConfigError(f"{given}: no such option; did you mean --resume?")
    config = config_from([a for a in arguments if a != "--resume"], "train")
    require_torch("training", "train")
    from crnn.train import train

    report = train(config, resume="--resume" in arguments)
    accuracy = "" if report.best_accuracy is None else f", best validation accuracy {100 * report.best_accuracy:.2f} %"
    if accuracy and report.best_step is not None:
        accuracy += f" at step {report.best_step}"
        accuracy += "" if report.best_step else " (nothing beat the weights that it began with; they are kept)"
    lost = "".join(f", pictures left out {count} times: {reason}" for reason, count in report.skipped.items())
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here; one speaks for all
        print(f"{report.weights}: {report.steps} steps{accuracy}{lost}")
    return 0 if report.stopped_by is None else 128 + report.stopped_by


def config_command(arguments: Sequence[str]) -> int:
    """``crnn config show CONFIG [--section.key VALUE ...]``: the resolved settings as TOML."""
    from crnn.commands.config_flags import config_from
    from crnn.config_file import dump_config, preset_names

    if arguments and arguments[0] in ("-h", "--help"):
        arguments = ["show", "--help"]
    if not arguments or arguments[0] != "show":
        raise ConfigError(
            f"config {' '.join(arguments) or '(nothing)'}: expected 'crnn config show CONFIG'; "
            f"presets are: {', '.join(preset_names())}"
        )
    print(dump_config(config_from(arguments[1:], "config show")), end="")
    return 0


def data_command(arguments: Sequence[str]) -> int:
    """``crnn data ...``."""
    from crnn.commands.arguments import parse_arguments
    from crnn.commands.data import data_command

    return data_command(arguments, parse_arguments)


def synth_command(arguments: Sequence[str]) -> int:
    """``crnn synth ...``."""
    from crnn.commands.synth import synth_command

    return synth_command(arguments)


def _with_tyro(name: str) -> Callable[[Sequence[str]], int]:
    """``NAME_command`` of ``crnn.commands.NAME``; it is found when it is called for: each imports a good deal."""

    def run(arguments: Sequence[str]) -> int:
        from crnn.commands.arguments import parse_arguments

        function = getattr(import_module(f"crnn.commands.{name}"), f"{name}_command")
        status: int = parse_arguments(function, arguments, prog=f"crnn {name}")
        return status

    return run


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "read": ("read pictures of words and short lines", _with_tyro("read")),
    "train": ("train a network", train_command),
    "evaluate": ("measure a model on benchmark sets", _with_tyro("evaluate")),
    "export": ("write a network as a file for engines", _with_tyro("export")),
    "calibrate": ("make the confidences of a model true", _with_tyro("calibrate")),
    "lm": ("make a character model from word lists", _with_tyro("lm")),
    "data": ("convert and inspect datasets", data_command),
    "synth": ("render text: look at it, or write it as a set", synth_command),
    "config": ("show the resolved settings of a preset or file", config_command),
}


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What stdout fails with where it goes to a full disk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status.
    """
    rest = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in rest
    rest = [a for a in rest if a != "--debug"]
    name = rest[0] if rest else "--help"
    _set_up_output(debug)
    try:
        status = _run(name, rest[1:])
        sys.stdout.flush()  # here, where a broken pipe is still understood
        return status
    except CrnnError as error:
        if debug:
            traceback.print_exc()
        print(f"crnn {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has enough
        _drop_output()
        return 128 + signal.SIGPIPE if name == "train" else 0  # a run was cut short, a list was not
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        _drop_output()
        print(
            f"crnn {name}: the output cannot be written: {error.strerror}; make room, or write elsewhere",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(name: str, arguments: Sequence[str]) -> int:
    if name == "--version":
        import crnn

        print(f"crnn {crnn.__version__}")
        return 0
    if name in ("-h", "--help"):
        print("usage: crnn COMMAND ...\n\nRead words from image crops, and train the CRNN that reads them.\n")
        print("\n".join(f"  {name:<10} {line}" for name, (line, _) in _COMMANDS.items()))
        print("\n'crnn COMMAND --help' explains each; --debug adds the traceback to an error.")
        return 0
    if name not in _COMMANDS:
        raise ConfigError(f"command {name!r} is unknown; expected one of: {', '.join(_COMMANDS)}")
    try:
        return _COMMANDS[name][1](arguments)
    except SystemExit as end:  # tyro has shown the help, or rich has lost its reader
        return end.code if isinstance(end.code, int) else 0


def _set_up_output(debug: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("crnn").setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged pictures are said in our own lines
    if not debug:
        # Warnings of libraries are for developers; what users must know is said in our own lines.
        warnings.simplefilter("ignore")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A file name may have bytes, and a reading characters, that the terminal's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let the interpreter end in silence: what stdout still holds would fail once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

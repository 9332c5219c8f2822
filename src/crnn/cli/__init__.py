"""The command line, thin: parse, call one function of the package, print.

Results go to stdout, all else to stderr. Exit status: 0 done, 1 a result is bad (an unreadable image), 2 the input or
a setting is bad (one line; ``--debug`` adds the traceback), 128 + n ended by signal n. Commands import what they need
when they run: ``crnn --help`` imports no torch.
"""

import errno
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from crnn.cli.arguments import add_command, command_group
from crnn.errors import CrnnError, printable
from crnn.terminal import complain, drop_output

__all__ = ["main"]

_COMMANDS = {
    "read": "Read text from images.",
    "serve": "Read over HTTP, with a page for people.",
    "page": "Write a page that reads in browsers.",
    "train": "Train a network.",
    "evaluate": "Measure a model, or readings of any program, on benchmark sets.",
    "compare": "Compare the readings of two programs, sample by sample.",
    "import": "Write another project's weights as a weights file.",
    "export": "Write a network as an ONNX file.",
    "push": "Upload a model to the Hugging Face Hub.",
    "calibrate": "Fit confidences on labelled images, and write them into the weights file.",
    "lm": "Learn a language from word lists.",
    "data": "Convert and inspect datasets.",
    "synth": "Render text: a sheet to look at, or a set.",
    "config": "Show and explain settings.",
}
_FUNCTIONS = {"import": "import_weights"}  # and modules, of commands whose name Python keeps for itself
_GROUPS = {"data": ("convert", "inspect", "lexicon"), "synth": ("preview", "write"), "config": ("show", "explain")}


def _app(wanted: str | None) -> typer.Typer:
    """Return the commands; those other than ``wanted`` with no more than a summary, unless it is ``None``."""
    app = command_group(
        "Read text from images of words and lines, and train the CRNN that reads it.",
        add_completion=True,
        epilog="'crnn COMMAND --help' or 'crnn help COMMAND' explains a command.",
    )

    def callback(
        version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
        _debug: Annotated[
            bool, typer.Option("--debug", help="Log more, and show the traceback of an error; anywhere in the line.")
        ] = False,
    ) -> None:
        if version:
            import crnn

            print(f"crnn {crnn.__version__}")
            raise typer.Exit

    app.callback(invoke_without_command=True)(callback)
    for name, summary in _COMMANDS.items():
        if wanted not in (name, None):
            app.command(name, help=summary)(lambda: None)
            continue
        function_name = _FUNCTIONS.get(name, name)
        module = import_module(f"crnn.cli.{function_name}")
        if name not in _GROUPS:
            add_command(app, getattr(module, function_name), name)
            continue
        group = command_group(module.HELP)
        for function in _GROUPS[name]:
            add_command(group, getattr(module, function))
        app.add_typer(group, name=name)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status.
    """
    # Before torch is loaded: on busy cores threads that wait for each other by spinning take a hundred times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    rest = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in rest
    rest = [argument for argument in rest if argument != "--debug"]
    if rest[:1] == ["help"]:
        rest = [*rest[1:], "--help"]
    command = next((argument for argument in rest if not argument.startswith("-")), "")
    name = f"crnn {command}" if command in _COMMANDS else "crnn"
    when_cut_short = 128 + signal.SIGPIPE if command == "train" else 0  # a run was cut short, a list was not
    try:
        _set_up_output(debug)
        status = _run(command, rest)
        sys.stdout.flush()  # here, where a broken pipe is still understood
        return status
    except typer.TyperException as error:  # of the command line
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        context = getattr(error, "ctx", None)  # not of every error
        path = context.command_path if context is not None else name
        message = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
        complain(f"{name}: {message}{'' if message.endswith('?') else '.'} See {path} --help")
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has enough
        drop_output(sys.stdout)
        return when_cut_short
    except (CrnnError, OSError) as error:
        if isinstance(error, OSError) and error.errno is None:  # of a library, with a text alone
            raise
        if debug:
            traceback.print_exc()
        complain(f"{name}: {_explained(error) if isinstance(error, OSError) else error}")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:  # 0: a completion was shown; else rich has lost its reader
        return when_cut_short if end.code else 0


def _explained(error: OSError) -> str:
    """Return the line for an error of the system, from any path or stream, that nobody else has explained."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, and who may read and write there"
    try:
        Path.cwd()
    except OSError:
        return "the working folder is gone, or may not be entered; go to another one"
    if error.errno in (errno.ENOSPC, errno.EBADF, errno.EIO):
        drop_output(sys.stdout)
        return f"the output cannot be written: {error.strerror}; make room, or write elsewhere"
    return f"{error.strerror}; --debug shows where"


def _run(command: str, arguments: list[str]) -> int:
    """Run a command by make_context and invoke; click's own ``main`` hides broken pipes and Ctrl-C."""
    completing = "_CRNN_COMPLETE" in os.environ
    group = typer.main.get_command(_app(None if completing else command))
    if completing:
        group.main(prog_name="crnn")  # answers the shell, and exits
    try:
        with group.make_context("crnn", arguments) as context:
            return group.invoke(context) or 0
    except typer.Exit as end:
        return end.exit_code


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


def _set_up_output(debug: bool) -> None:
    closed = sys.stdout is None
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # it is closed, and the first file that is opened would take its place
            setattr(sys, stream, open(os.devnull, mode))  # noqa: PTH123, SIM115
    if closed:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    Path.cwd()  # libraries end the process where it is gone
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("crnn").setLevel(logging.DEBUG if debug else logging.WARNING)
    if not debug:
        # Warnings of libraries are for developers; what users must know is said in our own lines.
        warnings.simplefilter("ignore")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A file name may have bytes, and a reading characters, that the terminal's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")

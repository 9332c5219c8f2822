"""The commands, thin: parse, call one function of the package, print.

Results go to stdout, all else to stderr. Exit status: 0 done, 1 a result is bad (an unreadable picture), 2 the input or
a setting is bad (one line; ``--debug`` adds the traceback), 128 + n ended by signal n.

Nothing heavy is imported before a command needs it: ``crnn --help`` imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from crnn.arguments import config_from, parse_arguments
from crnn.commands_data import data_command
from crnn.commands_synth import synth_command
from crnn.errors import ConfigError, CrnnError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from crnn.results import Evaluation

__all__ = ["main"]

_T = TypeVar("_T")

_PICTURE_SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip


def read(
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE|FOLDER|-")],
    model: str = "",
    decode: Literal["greedy", "beam"] = "greedy",
    beam_width: int = 10,
    engine: Literal["auto", "torch"] = "auto",
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 64,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Read pictures of words and short lines.

    Prints ``path<TAB>text<TAB>score`` for each, in order. In Python: ``crnn.load(model).read(images)``.

    Args:
        images: Files, folders (all pictures in them, sorted), or - for a list of paths on stdin.
        model: Weights file or run folder.
        decode: How texts are found: the best path, or a beam of prefixes.
        beam_width: Prefixes that the beam keeps.
        engine: What computes.
        device: auto, cpu, or an accelerator's name.
        precision: bf16 is faster where the device has it.
        batch_size: Pictures per forward pass.
        threads: Threads on the CPU; default: the engine's choice.
        json: One JSON object a line: image, text, score, characters; or image, error.
    """
    from crnn.recognizer import load

    if not images:
        raise ConfigError("no image is given; expected files, folders, or - for a list of paths on stdin")
    if not model:
        raise ConfigError(
            "--model is not given, and no weights ship with this version; expected a weights file or a run folder, "
            "such as 'crnn train' writes"
        )
    reader = load(
        model,
        engine=engine,
        device=device,
        precision=precision,
        threads=threads,
        batch_size=batch_size,
        decode=decode,
        beam_width=beam_width,
    )
    waiting: deque[str] = deque()  # paths whose readings are still to come

    def remembered() -> Iterator[str]:
        for path in _expand(images):
            waiting.append(path)
            yield path

    count = bad = 0
    for reading in reader.stream(remembered()):
        path = waiting.popleft()
        count += 1
        if isinstance(reading, ImageError):
            bad += 1
            if json:
                _print_json({"image": path, "error": str(reading)})
            else:
                print(f"crnn read: {reading}", file=sys.stderr)
        elif json:
            characters = [
                {"text": c.text, "score": c.score, "start": round(c.start, 1), "end": round(c.end, 1)}
                for c in reading.characters
            ]
            values = {"image": path, "text": reading.text, "score": reading.score, "characters": characters}
            _print_json(values)
        else:
            print(f"{path}\t{reading.text}\t{reading.score:.4f}", flush=True)
    if not count:
        raise ConfigError(
            f"{', '.join(images)}: no picture there; expected picture files, folders that hold files with a picture's "
            "suffix, or a path on each line of stdin for -"
        )
    return 1 if bad else 0


def train_command(arguments: Sequence[str]) -> int:
    """``crnn train CONFIG [--section.key VALUE ...] [--resume]``: every setting is a flag."""
    rest = [a for a in arguments if a != "--resume"]
    config = config_from(rest, "train")
    _require_torch("training", "train")
    from crnn.train import train

    report = train(config, resume="--resume" in arguments)
    accuracy = "" if report.best_accuracy is None else f", best validation accuracy {100 * report.best_accuracy:.2f} %"
    lost = "".join(f", {count} pictures left out: {reason}" for reason, count in report.skipped.items())
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here; one speaks for all
        print(f"{report.weights}: {report.steps} steps{accuracy}{lost}")
    return 0 if report.stopped_by is None else 128 + report.stopped_by


def evaluate_command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "",
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]DATA")] = (),
    protocol: Literal["parseq", "clovaai", "modelzoo"] = "parseq",
    charset: Literal["auto", "36", "62", "94"] = "auto",
    decode: Literal["greedy", "beam"] = "greedy",
    beam_width: int = 10,
    report: str = "",
    json: bool = False,
    engine: Literal["auto", "torch"] = "auto",
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 64,
    threads: int | None = None,
) -> int:
    """Measure a model on benchmark sets under a published protocol.

    In Python: ``from crnn.evaluate import evaluate``, then ``evaluate(crnn.load(model), data)``. Under ``torchrun``
    ranks share the work.

    Args:
        model: Weights file or run folder.
        data: LMDB folders and list files.
        protocol: Rules for labels and readings.
        charset: Characters that are compared; auto: 36, or the model's own where it is no set of the field.
        decode: How texts are found.
        beam_width: Prefixes that the beam keeps.
        report: Write a page that explains the result: worst errors, accuracy by length, confusions (OUT.html).
        json: Print one JSON object instead of the table.
        engine: What computes.
        device: auto, cpu, or an accelerator's name.
        precision: bf16 is faster where the device has it.
        batch_size: Pictures per forward pass; results do not depend on it.
        threads: Threads on the CPU; default: the engine's choice.
    """
    if not model:
        raise ConfigError("no model is given; expected a weights file or a run folder, and the data behind it")
    if not data:
        raise ConfigError("no data is given; expected LMDB folders or list files")
    if report and (Path(report).is_dir() or not Path(report).resolve().parent.is_dir()):
        why = "is a folder" if Path(report).is_dir() else "there is no such folder to write it in"
        raise ConfigError(f"--report {report}: {why}; expected a file in a folder that exists, such as report.html")
    _require_torch("evaluating", "torch")
    from crnn.distributed import start_ranks
    from crnn.evaluate import count_samples, evaluate
    from crnn.progress import counting_bar
    from crnn.recognizer import load

    with start_ranks(device) as ranks:
        reader = load(
            model,
            engine=engine,
            device=str(ranks.device),
            precision=precision,
            threads=threads,
            batch_size=batch_size,
            decode=decode,
            beam_width=beam_width,
        )
        total = -(-count_samples(data) // ranks.world_size)
        with counting_bar("reading", total, enabled=ranks.is_main) as progress:
            result = evaluate(
                reader, data, protocol=protocol, charset=charset, model=model, ranks=ranks, progress=progress
            )
        if not ranks.is_main:
            return 0
    if json:
        _print_json(result.as_dict())
    else:
        _print_table(result)
    for dataset in result.datasets:
        for line in dataset.warnings:
            print(f"crnn evaluate: {line}", file=sys.stderr)
    if report:
        from crnn.report import write_report

        write_report(Path(report), result, _stored_pictures(result))
        print(f"crnn evaluate: report written to {report}", file=sys.stderr)
    return 1 if any(dataset.unreadable for dataset in result.datasets) else 0


def config_command(arguments: Sequence[str]) -> int:
    """``crnn config show CONFIG [--section.key VALUE ...]``: the resolved settings as TOML."""
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


def _with_tyro(function: Callable[..., int], name: str) -> Callable[[Sequence[str]], int]:
    return lambda arguments: parse_arguments(function, arguments, prog=f"crnn {name}")


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "read": ("read pictures of words and short lines", _with_tyro(read, "read")),
    "train": ("train a network", train_command),
    "evaluate": ("measure a model on benchmark sets", _with_tyro(evaluate_command, "evaluate")),
    "data": ("convert and inspect datasets", lambda arguments: data_command(arguments, parse_arguments)),
    "synth": ("render text: look at it, or write it as a set", synth_command),
    "config": ("show the resolved settings of a preset or file", config_command),
}


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
    except SystemExit:  # tyro has shown the help
        return 0


def _set_up_output(debug: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("crnn").setLevel(logging.DEBUG if debug else logging.WARNING)
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


def _require_torch(purpose: str, extra: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", extra, purpose)


def _expand(images: Iterable[str]) -> Iterator[str]:
    """Paths of pictures from files, folders and ``-``."""
    for image in images:
        if image == "-":
            # As bytes: paths are not always text in the encoding of the terminal.
            yield from (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())
        elif Path(image).is_dir():
            others = []
            for path in sorted(p for p in Path(image).rglob("*") if p.is_file()):
                if path.suffix.lower() in _PICTURE_SUFFIXES:
                    yield str(path)
                else:
                    others.append(path.name)
            if others:
                shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
                print(f"crnn read: {image}: {len(others)} files passed over, not pictures: {shown}", file=sys.stderr)
        else:
            yield image


def _stored_pictures(result: Evaluation) -> Callable[[str, int], bytes | None]:
    """Finds the encoded picture of a sample by the name of its set and its place there."""
    from crnn.data.source import open_source

    stores = {dataset.name: open_source(dataset.path) for dataset in result.datasets}
    return lambda name, index: stores[name].image_bytes(index)


def _print_json(values: dict[str, Any]) -> None:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name with odd bytes, or a terminal that is not UTF-8: then as \u escapes
        text = json.dumps(values, allow_nan=False)
    print(text, flush=True)


def _print_table(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.model}, {result.title}", title_justify="left")
    for heading in ("dataset", "accuracy", "95 %", "1-NED", "CER", "samples", "skipped"):
        table.add_column(heading, justify="left" if heading in ("dataset", "skipped") else "right")
    for dataset in result.datasets:
        sums = dataset.sums
        low, high = sums.accuracy_interval
        table.add_row(
            dataset.name,
            f"{100 * sums.accuracy:.2f}",
            f"{100 * low:.2f} - {100 * high:.2f}",
            f"{100 * sums.one_minus_ned:.2f}",
            f"{100 * sums.cer:.2f}",
            str(sums.samples) + ("" if dataset.expected in (None, sums.samples) else f" of {dataset.expected}"),
            ", ".join(f"{reason}: {count}" for reason, count in dataset.skipped.items()) or "-",
        )
    if len(result.datasets) > 1:
        total = sum(dataset.sums.samples for dataset in result.datasets)
        table.add_section()
        table.add_row("mean", f"{100 * result.mean_accuracy:.2f}", "", "", "", "", "")
        table.add_row("combined", f"{100 * result.combined_accuracy:.2f}", "", "", "", str(total), "")
    console = Console(markup=False, emoji=False, highlight=False)  # names are names, whatever brackets they have
    console.width = max(console.width, 110)
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="", flush=True)

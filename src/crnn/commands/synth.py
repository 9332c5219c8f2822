"""``crnn synth preview`` and ``crnn synth write``: rendered text to look at, and for other tools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crnn.commands.config_flags import config_from
from crnn.commands.terminal import check_writable, require_torch
from crnn.errors import ConfigError

__all__ = ["synth_command"]

_HELP = """\
usage: crnn synth preview OUT.png [CONFIG] [--count 80] [--first 0] [--explain] [--section.key VALUE ...]
       crnn synth write DST [CONFIG] --count N [--first 0] [--to lmdb|list] [--shape natural|network]
                            [--format png|jpeg] [--section.key VALUE ...]

Rendered text, as 'crnn train CONFIG --data.train synth' makes it while it trains.

preview draws a sheet of samples, each with its label, and what was drawn where that is something else; --explain
shows how the samples come about instead, one in each row, stage by stage. write makes a set of them.

  CONFIG    a preset or a TOML file: charset, corpus, faces, look, camera (default: crnn-small)
  --count   samples
  --first   number of the first sample; a sample is the same in whatever set it is
  --to      an LMDB folder, or a folder of pictures with a list, labels.tsv
  --shape   natural: pictures have the proportions of the words; network: the size that the network sees
  --format  of the pictures

'crnn config show CONFIG' lists the settings; 'crnn train --help' explains them.
"""

_DEFAULT_CONFIG = "crnn-small"

_MAX_PREVIEW = 4_000  # a sheet of more is higher than most programs can show
_MAX_COUNT = 1_000_000_000
_MAX_FIRST = 1_000_000_000_000  # the words beside samples have the numbers behind


def synth_command(arguments: Sequence[str]) -> int:
    """``crnn synth preview|write ...``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    commands: dict[str, Callable[[Sequence[str]], int]] = {"preview": _preview, "write": _write}
    if arguments[0] not in commands:
        raise ConfigError(f"synth {arguments[0]}: expected 'crnn synth preview OUT.png' or 'crnn synth write DST'")
    if "-h" in arguments or "--help" in arguments:
        print(_HELP, end="")
        return 0
    return commands[arguments[0]](arguments[1:])


def _preview(arguments: Sequence[str]) -> int:
    own, rest = _own_options(arguments, {"count": None, "first": 0, "explain": False})
    target, config = _target_and_config(rest, "preview", "OUT.png")
    path = Path(target)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"{target}: expected a picture file to write, such as preview.png")
    check_writable("OUT", target, "preview.png")
    if own["count"] is None:
        own["count"] = 8 if own["explain"] else 80
    _check_numbers(own, _MAX_PREVIEW)
    require_torch("rendering text", "train")
    from crnn.synth.preview import explain_sheet, preview_sheet

    sheet = (explain_sheet if own["explain"] else preview_sheet)(config, own["count"], own["first"], _say)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # the disk, or a format that has no sheets as large
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{target}: cannot be written: {why}. Choose another file, or fewer samples") from error
    print(target)
    return 0


def _write(arguments: Sequence[str]) -> int:
    options = {
        "count": None,
        "first": 0,
        "to": ("lmdb", "list"),
        "shape": ("natural", "network"),
        "format": ("png", "jpeg"),
    }
    own, rest = _own_options(arguments, options)
    target, config = _target_and_config(rest, "write", "DST")
    if own["count"] is None:
        raise ConfigError("--count is not given; expected the number of samples to write")
    _check_numbers(own, _MAX_COUNT)
    require_torch("rendering text", "train")
    from crnn.progress import counting_bar
    from crnn.synth.sample_writer import write_samples

    with counting_bar("rendering", own["count"]) as progress:
        written = write_samples(
            config,
            target,
            own["count"],
            first=own["first"],
            to=own["to"],
            shape=own["shape"],
            encoding=own["format"],
            progress=progress,
            say=_say,
        )
    print(f"{target}: {written} samples written")
    return 0


def _target_and_config(arguments: Sequence[str], command: str, metavar: str) -> tuple[str, Any]:
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"synth {command}: {metavar} is not given; expected 'crnn synth {command} {metavar}'")
    rest = list(arguments[1:])
    if not rest or rest[0].startswith("-"):
        rest.insert(0, _DEFAULT_CONFIG)
    return arguments[0], config_from(rest, f"synth {command} {metavar}")


def _own_options(arguments: Sequence[str], options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of the command itself, and the rest, which are settings.

    Args:
        arguments: As typed.
        options: By name a default, whole number, ``None`` or truth value, or the possible values, the default first.
    """
    chosen = {name: default[0] if isinstance(default, tuple) else default for name, default in options.items()}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in options:
            rest.append(argument)
        elif isinstance(options[name], bool):
            if equals:
                raise ConfigError(f"--{name} takes no value, {value!r} is given")
            chosen[name] = True
        else:
            given = value if equals else next(waiting, None)
            if given is None:
                raise ConfigError(f"--{name} has no value; expected one behind it")
            chosen[name] = _value(name, given, options[name])
    return chosen, rest


def _value(name: str, given: str, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if given not in kind:
            raise ConfigError(f"--{name} is {given!r}; expected one of: {', '.join(kind)}")
        return given
    if not given.isdecimal():
        raise ConfigError(f"--{name} is {given!r}; expected a whole number, 0 or more")
    return int(given)


def _check_numbers(own: dict[str, Any], most: int) -> None:
    if not 1 <= own["count"] <= most:
        raise ConfigError(f"--count is {own['count']}; expected 1 to {most}")
    if own["first"] > _MAX_FIRST:
        raise ConfigError(f"--first is {own['first']}; expected 0 to {_MAX_FIRST}")


def _say(line: str) -> None:
    print(f"crnn synth: {line}", file=sys.stderr)

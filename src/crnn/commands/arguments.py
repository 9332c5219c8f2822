"""Arguments of commands: tyro, with what it says of a mistake in one line of our own form.

A command is a typed function whose docstring explains its options.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from crnn.errors import ConfigError

__all__ = ["parse_arguments"]

_T = TypeVar("_T")


def parse_arguments(kind: Callable[..., _T], arguments: Sequence[str], prog: str, **options: Any) -> _T:
    """tyro, with its boxed error brought to one line.

    Raises:
        ConfigError: The arguments are wrong.
    """
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed) if not _asks_help(arguments) else contextlib.nullcontext():
            call = tyro.cli(
                _deferred(kind) if not isinstance(kind, type) else kind,
                args=list(arguments),
                prog=prog,
                **options,
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        line = _in_one_line(boxed.getvalue())
        raise ConfigError(f"{line}{'' if line.endswith('?') else '.'} See {prog} --help") from None
    return call() if not isinstance(kind, type) else call  # type: ignore[no-any-return]


def _in_one_line(boxed: str) -> str:
    """What tyro says in a box, in our own form: what was given, what was expected."""
    text = " ".join(re.sub(r"[─│╭╮╰╯]|-{4,}|^[|+]|[|+]$", " ", boxed, flags=re.MULTILINE).split())
    if found := re.search(r"invalid choice (.+?) for argument '(.+?)'\. Expected one of \((.+?),?\)", text):
        return f"{found[2]} is {found[1]}; expected one of: {found[3].replace(chr(39), '')}"
    if found := re.search(r"Missing value for argument '(.+?)'", text):
        return f"{found[1]} has no value; expected one behind it"
    if found := re.search(r"Error parsing (\S+): .*?(?:from \[|: )('.*?').*Argument helptext: \S+ (\S+)", text):
        wanted = {"INT": "a whole number", "FLOAT": "a number"}.get(found[3].split("|")[-1], found[3])
        return f"{found[1]} is {found[2]}; expected {wanted}"
    if found := re.search(r"Unrecognized options: (.+?) (?:Perhaps you meant: (--[\w.-]+)|For full)", text):
        return f"{found[1].replace(', ', ' ')}: no such option" + (f"; did you mean {found[2]}?" if found[2] else "")
    return text.partition(" For full helptext")[0]


def _asks_help(arguments: Sequence[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


def _deferred(function: Callable[..., _T]) -> Callable[..., Callable[[], _T]]:
    """``function`` as one that only remembers its arguments: it runs after parsing, with its own stderr."""

    @functools.wraps(function)
    def remember(*positional: Any, **named: Any) -> Callable[[], _T]:
        return lambda: function(*positional, **named)

    return remember

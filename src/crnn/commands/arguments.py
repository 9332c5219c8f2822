"""Arguments of commands: tyro, with what it says of a mistake in one line of our own form.

A command is a typed function whose docstring explains its options.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from crnn.errors import ConfigError

__all__ = ["parse_arguments", "refuse_repeated"]

_T = TypeVar("_T")
_APPENDS = get_args(tyro.conf.UseAppendAction[int])[-1]


def parse_arguments(kind: Callable[..., _T], arguments: Sequence[str], prog: str, **options: Any) -> _T:
    """tyro, with its boxed error brought to one line.

    Raises:
        ConfigError: The arguments are wrong.
    """
    if not isinstance(kind, type):
        refuse_repeated(arguments, _lists_of(kind))
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


def refuse_repeated(arguments: Sequence[str], lists: Collection[str]) -> None:
    """Refuse a flag that takes several values and is given twice: the second would silently replace the first.

    Args:
        arguments: As typed.
        lists: Names of such flags, with ``_``.

    Raises:
        ConfigError: There is one.
    """
    flags = Counter(argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    for flag, count in flags.items():
        if count > 1 and flag[2:].replace("-", "_") in lists:
            raise ConfigError(f"{flag} is given {count} times; expected it once, with all its values: {flag} A B")


def _lists_of(function: Callable[..., Any]) -> set[str]:
    """Names of the options of a command that take several values at once, and not one each time they are given."""
    found = set()
    for name, hint in get_type_hints(function, include_extras=True).items():
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if get_origin(kind) is tuple and _APPENDS not in marks:
            found.add(name)
    return found


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

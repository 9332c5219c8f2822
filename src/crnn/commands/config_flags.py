"""``CONFIG [--section.key VALUE ...]``: a file of settings first, and any setting as a flag behind it."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from crnn.commands.arguments import parse_arguments, refuse_repeated
from crnn.config import Config
from crnn.config_file import load_config, parse_config, preset_names
from crnn.errors import ConfigError

__all__ = ["config_from"]


def config_from(arguments: Sequence[str], command: str) -> Config:
    """Settings from ``CONFIG [--section.key VALUE ...]``: the file first, then the flags on top of it."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: crnn {command} CONFIG [--section.key VALUE ...]{' [--resume]' if command == 'train' else ''}\n")
        print(f"CONFIG is a TOML file or a preset: {', '.join(preset_names())}. The settings, with their defaults:\n")
        return parse_arguments(Config, ["--help"], prog=f"crnn {command} CONFIG", use_underscores=True)
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(
            f"the first argument is {arguments[0] if arguments else 'missing'}; expected CONFIG: a TOML file or a "
            f"preset ({', '.join(preset_names())})"
        )
    base = load_config(arguments[0])
    flags = list(arguments[1:])
    refuse_repeated(flags, _lists_of(base))
    try:
        return parse_arguments(Config, flags, prog=f"crnn {command} CONFIG", use_underscores=True, default=base)
    except ConfigError:
        _explain_flags(flags, base)
        raise


def _lists_of(base: Config) -> set[str]:
    """The settings that are lists, as ``section.key``."""
    return {
        f"{section}.{key}"
        for section in type(base).model_fields
        for key, field in type(getattr(base, section)).model_fields.items()
        if get_origin(field.annotation) is tuple
    }


def _explain_flags(flags: Sequence[str], base: Config) -> None:
    """Say in our own words what is wrong with flags that tyro refused: the key, the value, the nearest name.

    Raises:
        ConfigError: If there is something to say.
    """
    groups: list[tuple[str, list[str]]] = []
    for flag in flags:
        if flag.startswith("--"):
            name, equals, text = flag[2:].partition("=")
            groups.append((name.replace("-", "_"), [text] if equals else []))
        elif groups:
            groups[-1][1].append(flag)
    values = base.model_dump(mode="json", exclude_none=True)
    for name, texts in groups:
        section, _, key = name.rpartition(".")
        fields = type(getattr(base, section)).model_fields if section in values else {}
        negated = key.removeprefix("no_")
        is_off = key not in fields and negated in fields
        key = negated if is_off else key
        kind = fields[key].annotation if key in fields else str
        if kind is bool and texts:
            raise ConfigError(
                f"--{name} takes no value, {texts[0]!r} is given; write --{section}.{key}, or --{section}.no_{key} "
                "for off"
            )
        if key in fields and kind is not bool and not texts:
            raise ConfigError(f"--{name} has no value; expected one behind it")
        items = [_from_text(text, kind) for text in texts] or [not is_off]
        if section in values:
            values[section][key] = items if isinstance(values[section].get(key), list) else items[0]
        else:
            values[name.partition(".")[0]] = items[0]
    parse_config(values, source="flags")


def _from_text(text: str, kind: Any) -> Any:
    """A flag's value as TOML would give it, or as it is where it is no TOML or the setting is a text."""
    if kind is not str and str not in get_args(kind):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"value = {text}")["value"]
    return text

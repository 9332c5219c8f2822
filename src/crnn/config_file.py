"""Settings to and from TOML, and one clear line for each setting that is wrong.

Precedence, and nothing else: the defaults of ``crnn.config`` < one TOML file (or a preset's name) < command-line flags
(``--section.key VALUE``, put on top by ``crnn.cli``).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tomli_w

from crnn.config import Config, ReaderConfig
from crnn.errors import ConfigError

__all__ = ["describe_errors", "dump_config", "load_config", "parse_config", "parse_reader_config", "preset_names"]

_Tree = TypeVar("_Tree", bound=ReaderConfig)


def preset_names() -> list[str]:
    """Names of the settings that ship with the package."""
    folder = resources.files("crnn") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_config(source: str | Path) -> Config:
    """Settings from a preset's name or a TOML file.

    Raises:
        ConfigError: There is no such preset or file, it is not TOML, or a setting is unknown or out of range; the
            message names the file and the key.
    """
    name = str(source)
    if name in preset_names():
        text = (resources.files("crnn") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
        except FileNotFoundError:
            raise ConfigError(
                f"config {name!r} is neither a file nor a preset; presets are: {', '.join(preset_names())}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config {name!r} cannot be read: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    return parse_config(values, source=name)


def parse_config(values: Mapping[str, Any], source: str = "settings") -> Config:
    """Settings from nested mappings, as TOML gives them.

    Raises:
        ConfigError: A setting is unknown or out of range; the message names ``source``, the key and the nearest name.
    """
    return _validate(Config, values, source)


def parse_reader_config(values: Mapping[str, Any], source: str) -> ReaderConfig:
    """The settings that a weights file carries.

    Raises:
        ConfigError: As for ``parse_config``.
    """
    return _validate(ReaderConfig, values, source)


def dump_config(config: ReaderConfig) -> str:
    """The settings as TOML, which ``parse_config`` reads back to an equal tree; those without a value are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _validate(kind: type[_Tree], values: Mapping[str, Any], source: str) -> _Tree:
    try:
        return kind.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(describe_errors(error, kind))) from None


def describe_errors(error: pydantic.ValidationError, kind: type[pydantic.BaseModel] = Config) -> Iterator[str]:
    """One line for each finding of pydantic, in our form: the key, what was given, what was expected."""
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"] if not str(part).startswith(("function-", "literal[")))
        if finding["type"] == "extra_forbidden":
            yield f"unknown key {key!r}; {_hint(key, kind)}"
        elif finding["type"] == "value_error":
            message = finding["msg"].removeprefix("Value error, ")
            yield f"{key}: {message}" if key else message
        elif finding["type"] == "tuple_type":
            yield f"{key} is {finding['input']!r}; input should be a list: [{finding['input']!r}]"
        elif finding["type"] == "model_type":
            yield f"{key} is {finding['input']!r}; input should be a section of settings: [{key}]"
        else:
            yield f"{key} is {finding['input']!r}; {finding['msg'][0].lower()}{finding['msg'][1:]}"


def _hint(key: str, kind: type[pydantic.BaseModel]) -> str:
    """What an unknown key may have meant: the same name elsewhere, a similar one beside it, a similar one elsewhere."""
    sections = {
        name: list(field.annotation.model_fields)
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel)
    }
    paths = {name: f"{section}.{name}" for section, names in reversed(sections.items()) for name in names}
    section, _, name = key.rpartition(".")
    beside = sections.get(section, list(sections))
    # Names are compared without their section, which would make all names of a section look alike.
    near = [paths[name]] if name in paths else []
    near += [f"{section}.{k}".removeprefix(".") for k in difflib.get_close_matches(name, beside, n=1)]
    near += [paths[k] for k in difflib.get_close_matches(name, paths, n=1, cutoff=0.8)]
    return f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(beside)}"

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
            text = Path(source).read_text(encoding="utf-8")
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
            known = _known_keys(kind)
            if "." in key:
                known = [k for k in known if "." in k]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            if not near:  # the right name under the wrong section
                near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
            section = key.split(".")[0] + "."
            names = ", ".join(k.removeprefix(section) for k in known if k.startswith(section)) or ", ".join(known)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of: {names}"
            yield f"unknown key {key!r}{hint}"
        elif finding["type"] == "value_error":
            message = finding["msg"].removeprefix("Value error, ")
            yield f"{key}: {message}" if key else message
        else:
            yield f"{key} is {finding['input']!r}; {finding['msg'][0].lower()}{finding['msg'][1:]}"


def _known_keys(kind: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            keys += [f"{prefix}{name}", *_known_keys(field.annotation, f"{prefix}{name}.")]
        else:
            keys.append(prefix + name)
    return keys

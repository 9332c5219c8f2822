"""Base class of the sections of the settings, and their errors."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar

import numpy as np
import pydantic
from pydantic import Field, model_validator

from crnn.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(pydantic.BaseModel):
    """A frozen section: unknown keys are refused, text is not converted to numbers, each field has a docstring."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True,
        protected_namespaces=(),
    )  # fmt: skip

    removed: ClassVar[Mapping[str, Any]] = {}
    """Settings of earlier versions and their defaults, the only values that files of old runs may give."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {k: v for k, v in values.items() if k not in cls.removed or v != cls.removed[k]}
        # TOML has arrays, the settings have tuples; strict mode would refuse the one for the other.
        return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


_Tree = TypeVar("_Tree", bound=pydantic.BaseModel)

_RENAMED = {"faces": "fonts", "look": "style"}  # sections of files written before this name


def checked_settings(kind: type[_Tree], values: Mapping[str, Any], source: str) -> _Tree:
    """Parse nested mappings, as TOML and JSON give them, to a tree of settings.

    A ``ConfigError`` names ``source``, the key and the nearest known one.
    """
    try:
        return kind.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_describe(error, kind))) from None


_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_call(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function: an unknown argument, or one that is not of its annotated type, is a ``ConfigError``.

    The function gets what was given, not converted. Numbers of numpy pass as those of Python.
    """
    names = list(inspect.signature(function).parameters)

    @functools.cache  # the first call makes it, not the import
    def check() -> Callable[..., None]:
        nothing = functools.wraps(function)(lambda *_args, **_kwargs: None)
        return pydantic.validate_call(config={"strict": True, "arbitrary_types_allowed": True})(nothing)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        try:
            check()(**{k: v.item() if isinstance(v, np.generic) else v for k, v in given.items()})
        except pydantic.ValidationError as error:
            lines: dict[str, str] = {}  # of each argument; the members of a union have one together
            for finding in error.errors():
                name, message = str(finding["loc"][0]), finding["msg"].replace("Input should be ", "expected ")
                if finding["type"] == "literal_error":
                    message = "expected one of: " + finding["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
                if name not in names:
                    lines[name] = no_such(name, names)
                elif name in lines:
                    lines[name] += " or " + message.removeprefix("expected ").removeprefix("one of: ")
                elif name in given:  # Python itself says which are missing
                    lines[name] = f"{name} is {given[name]!r:.100}; {message}"
            if lines:
                raise ConfigError("; ".join(lines.values())) from None
        return function(*args, **kwargs)

    return checked


def no_such(name: str, known: Iterable[str]) -> str:
    """Return the message on an unknown option, with the nearest known one."""
    known = [name for name in known if name not in ("self", "options")]  # nobody types ``**options``
    return f"{name}: no such option; {_suggestion(difflib.get_close_matches(name, known, n=1), known)}"


def _suggestion(near: list[str], known: list[str]) -> str:
    return f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(known)}"


def _describe(error: pydantic.ValidationError, kind: type[pydantic.BaseModel]) -> Iterator[str]:
    """Yield a line for each finding of pydantic: key, given value, expected value."""
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"] if not str(part).startswith(("function-", "literal[")))
        if finding["type"] == "extra_forbidden":
            if key in _RENAMED and _RENAMED[key] in kind.model_fields:
                yield f"section [{key}] is now [{_RENAMED[key]}]; rename it, its keys are the same"
            else:
                yield f"unknown key {key!r}; {_hint(key, kind)}"
        elif finding["type"] == "value_error":
            message = finding["msg"].removeprefix("Value error, ")
            yield f"{key}: {message}" if key else message
        elif finding["type"] == "tuple_type":
            yield f"{key} is {finding['input']!r:.200}; input should be a list: [{finding['input']!r:.200}]"
        elif finding["type"] == "model_type":
            yield f"{key} is {finding['input']!r:.200}; input should be a section of settings: [{key}]"
        else:
            yield f"{key} is {finding['input']!r:.200}; {finding['msg'][0].lower()}{finding['msg'][1:]}"


def _hint(key: str, kind: type[pydantic.BaseModel]) -> str:
    """Suggest a known key: nearly the same beside it, the same elsewhere, a similar one."""
    sections = {
        name: list(field.annotation.model_fields)
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel)
    }
    paths = {name: f"{section}.{name}" for section, names in reversed(sections.items()) for name in names}
    section, _, name = key.rpartition(".")
    beside = sections.get(section, list(sections))
    # Names are compared without their section, which would make all names of a section look alike.
    here = {key: f"{section}.{key}".removeprefix(".") for key in beside}
    near = [here[key] for key in difflib.get_close_matches(name, here, n=1, cutoff=0.9)]
    near += [paths[name]] if name in paths else []
    near += [here[key] for key in difflib.get_close_matches(name, here, n=1)]
    near += [paths[key] for key in difflib.get_close_matches(name, paths, n=1, cutoff=0.8)]
    return _suggestion(near, beside)

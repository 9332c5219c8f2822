"""Commands as Typer has them, from typed functions whose docstrings explain their options."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo, OptionInfo

from crnn.errors import ConfigError

if TYPE_CHECKING:
    from crnn.config.run import Config

CONFIG = Annotated[str, typer.Argument(metavar="CONFIG")]
"""A preset or a TOML file, as an argument."""


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """The engine that computes.

    Attributes:
        engine: What computes; auto: OpenVINO, else ONNX Runtime, else torch, by what is installed.
        device: auto, cpu, or the name of an accelerator, for torch.
        precision: bf16 and int8 are faster where the processor has them; int8 takes shipped or exported weights.
        batch_size: Images per forward pass; results do not depend on it.
        threads: Threads on the CPU; default: the engine's choice.
    """

    engine: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    device: str = "auto"
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    batch_size: int = 64
    threads: int | None = None


# Help for options of reading whose docstrings speak of Python.
_OPTION_HELP = {
    "lexicon": "File with the only words that there are, one a line.",
    "lm": "Language for the beam: auto, that of the weights; none; the name of one that ships, or a file of 'crnn lm'.",
    "lm_weight": "Factor of the log-probabilities of the language; default: 0.6.",
    "n_best": "Texts to find for each image; those after the best are part of --json.",
}

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"} | {
    "model": "MODEL", "config": "CONFIG", "explain": "OUT.png", "explain_font": "FONT", "sheet": "OUT.png",
    "sheet_font": "FONT", "report": "OUT.html", "out": "OUT", "lexicon": "FILE", "write": "DST", "like": "DATA",
    "images": "FOLDER", "root": "FOLDER", "share": "START:STOP", "variant": "NAME", "device": "NAME",
    "lm": "NAME|FILE", "path_column": "NAME", "label_column": "NAME", "allow": "CHARACTERS", "block": "CHARACTERS",
    "readings": "FILE",
}  # fmt: skip

# Options that say nothing unless another one is given.
_NEEDS = {
    "explain_font": "explain", "sheet": "detect", "sheet_samples": "sheet", "sheet_font": "sheet", "to": "write",
    "width": "runtime",
}  # fmt: skip


class _Command(TyperCommand):
    """A command that names ``--section.key VALUE`` in its usage, and the nearest option of a mistyped one."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p.metavar for p in self.params if p.param_type_name == "argument" and p.metavar]
        return ["[OPTIONS]", *arguments, *["[--section.key VALUE ...]"] * ctx.ignore_unknown_options]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        arguments = [(p.metavar, row[1]) for p, row in shown if row and p.param_type_name == "argument"]
        options = [row for p, row in shown if row and p.param_type_name == "option"]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        given = [p for p in self.params if ctx.get_parameter_source(p.name).name == "COMMANDLINE"]
        for parameter in given:
            needed = next((p for p in self.params if p.name == _NEEDS.get(parameter.name)), None)
            if needed is not None and needed not in given:
                ctx.fail(f"{parameter.opts[0]} does nothing without {needed.opts[0]}; expected both, or neither")
        for flag in ctx.args:  # of a command that takes settings: elsewhere Typer has refused it
            names = [name for parameter in self.params for name in parameter.opts if name.startswith("--")]
            if flag.startswith("--") and (near := difflib.get_close_matches(flag.partition("=")[0], names)):
                ctx.fail(f"No such option: {flag} Did you mean {near[0]}?")
        return rest


def command_group(help_text: str, **options: Any) -> typer.Typer:
    """Return an empty group of commands, with our style of help."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        **{"add_completion": False, **options},
    )


def add_command(app: typer.Typer, function: Callable[..., int], command: str | None = None) -> None:
    """Add a function, which returns the exit status, as the command of its name, or of another one.

    Its docstring is the help, its Args are those of the options. A parameter whose type is a dataclass stands for
    options of the names of its fields, which the Attributes of that class explain, but for those that are parameters
    themselves or named in a set beside the type. With a parameter ``ctx`` the command takes ``--section.key VALUE``,
    which are in ``ctx.args``.
    """
    hints = get_type_hints(function, include_extras=True)
    summary, described = _documented(function, "Args")
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    own = inspect.signature(function).parameters
    for name, parameter in own.items():
        kind, marks = _unmarked(hints[name])
        if not dataclasses.is_dataclass(kind):
            parameters.append(_parameter(name, hints[name], parameter.default, described))
            continue
        types, texts = get_type_hints(kind), _documented(kind, "Attributes")[1] | _OPTION_HELP
        hidden = {*own, *(marks[0] if marks else ())}
        fields = [field for field in dataclasses.fields(kind) if field.name not in hidden or field.name == name]
        groups[name] = kind, [field.name for field in fields]
        parameters += [_parameter(f.name, _simple(types[f.name], f.default), f.default, texts) for f in fields]

    def run(**values: Any) -> int:
        for group, (kind, names) in groups.items():
            values[group] = kind(**{name: values.pop(name) for name in names})
        return function(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if "ctx" in own else None
    help_text = summary.replace("``", "").replace(r"\b", "\b")  # \b is click's mark of lines that stay as they are
    app.command(command or function.__name__, cls=_Command, help=help_text, context_settings=settings)(run)


def _documented(what: Any, section: str) -> tuple[str, dict[str, str]]:
    """Return the docstring before a section, and the entries ``name: text`` of that section."""
    summary, _, entries = (inspect.getdoc(what) or "").partition(f"\n{section}:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", entries, flags=re.MULTILINE)
    return summary, {name: " ".join(text.replace("``", "").split()) for name, text in found}


def _unmarked(hint: Any) -> tuple[Any, list[Any]]:
    """Split an ``Annotated`` type into the type and its annotations."""
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return kind, marks


def _simple(kind: Any, default: Any) -> Any:
    """Return the type of the option for a field that takes more in Python."""
    if get_origin(kind) is Literal or kind in (bool, int, float, str) or {int, float} & set(get_args(kind)):
        return kind
    return str | None if default is None else str


def _parameter(name: str, kind: Any, default: Any, described: dict[str, str]) -> inspect.Parameter:
    plain, marks = _unmarked(kind)
    if plain is not typer.Context:
        mark = next((m for m in marks if isinstance(m, ArgumentInfo | OptionInfo)), None)
        if mark is None:
            # Without a name of its own a flag would get a --no- form.
            mark = typer.Option(f"--{name.replace('_', '-')}") if plain is bool else typer.Option()
        mark = copy.copy(mark)  # one mark may stand at several parameters
        mark.help = mark.help or described.get(name)
        if mark.metavar is None and plain is not bool:
            mark.metavar = _METAVARS.get(name) or _metavar(plain)
        kind = Annotated[plain, mark]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _metavar(kind: Any) -> str | None:
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    return _METAVARS.get(kind) or next(filter(None, map(_metavar, get_args(kind))), None)


# ---- settings: CONFIG --section.key VALUE ... ------------------------------------------------------------------------


def config_from(name: str, flags: Sequence[str], *, default: str = "") -> Config:
    """Load a preset or a TOML file, and put ``--section.key VALUE`` in the place of its settings.

    A list takes several values; a switch takes none, ``true`` or ``false``, and ``--section.no_key`` turns it off.
    Where CONFIG may be left out, the first flag stands in its place, and ``default`` is loaded.

    Raises:
        ConfigError: A setting is unknown, given twice, or its value is wrong.
    """
    from crnn.config.run import Config, load_config, parse_config, preset_names

    if default and name.startswith("--"):
        name, flags = default, [name, *flags]
    if name.startswith("-"):
        raise ConfigError(
            f"{name} is given before CONFIG; expected a preset ({', '.join(preset_names())}) or a TOML file"
        )
    values = load_config(name).model_dump(mode="json", exclude_none=True)
    given: dict[str, list[str]] = {}
    for flag in flags:
        if flag.startswith("--"):
            dotted, equals, text = flag[2:].partition("=")
            dotted = dotted.replace("-", "_")
            if dotted in given:
                raise ConfigError(f"--{dotted} is given twice; expected it once, a list as --{dotted} A B")
            texts = given[dotted] = [text] if equals else []
        elif given:
            texts.append(flag)
        else:
            raise ConfigError(f"{flag!r} is given behind CONFIG; expected --section.key VALUE")
    for dotted, texts in given.items():
        section, _, key = dotted.rpartition(".")
        kinds = get_type_hints(Config.model_fields[section].annotation) if section in Config.model_fields else {}
        if kinds.get(key.removeprefix("no_")) is bool:
            texts = [*texts, "false"] if key not in kinds else texts or ["true"]
            key = key.removeprefix("no_")
        if key in kinds and not texts:
            raise ConfigError(f"--{dotted} has no value; expected one behind it")
        kind = kinds.get(key)
        is_text = kind is str or str in get_args(kind)
        items = [text if is_text else _toml_value(text) for text in texts]
        if section not in Config.model_fields:
            values[dotted.partition(".")[0]] = " ".join(texts)  # refused by its name
        elif items == ["none"] and type(None) in get_args(kind):
            values[section].pop(key, None)
        else:
            is_list = get_origin(kind) is tuple or isinstance(values[section].get(key), list)
            if is_list and len(items) == 1 and isinstance(items[0], list):  # "[]"
                items = items[0]
            values[section][key] = items if is_list or len(items) != 1 else items[0]
    return parse_config(values, source="flags")


def _toml_value(text: str) -> Any:
    """Parse a value as TOML, or return the text where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text

"""``crnn config``: settings, resolved and explained."""

import textwrap
from typing import Annotated

import typer

from crnn.cli.arguments import CONFIG, config_from
from crnn.config.run import Config, dump_config, preset_names
from crnn.errors import ConfigError
from crnn.terminal import escaped

HELP = f"Show and explain settings. CONFIG is a TOML file or a preset: {', '.join(preset_names())}."


def show(ctx: typer.Context, config: CONFIG) -> int:
    """Print the resolved settings as TOML.

    CONFIG, with --section.key VALUE in the place of its settings; what is printed is a CONFIG itself.

    Args:
        ctx: Holds the settings.
        config: A TOML file or a preset: crnn-small, crnn-vgg, modelzoo, tiny.
    """
    print(escaped(dump_config(config_from(config, ctx.args))), end="")
    return 0


def explain(names: Annotated[list[str] | None, typer.Argument(metavar="[SECTION|SECTION.KEY] ...")] = None) -> int:
    """Print each setting with its default and what it does.

    Args:
        names: Sections or settings; default: all.
    """
    wanted = names or list(Config.model_fields)
    unknown = set(wanted)
    for section, field in Config.model_fields.items():
        for key, setting in field.annotation.model_fields.items():  # type: ignore[union-attr]
            if section not in wanted and f"{section}.{key}" not in wanted:
                continue
            unknown -= {section, f"{section}.{key}"}
            default = setting.get_default(call_default_factory=True)
            print(f"--{section}.{key} {_shown(default)}")
            print(
                textwrap.indent(
                    textwrap.fill(" ".join((setting.description or "").replace("``", "").split()), 96), "    "
                )
            )
    if unknown:
        sections = ", ".join(Config.model_fields)
        raise ConfigError(f"{', '.join(sorted(unknown))}: no such setting; expected section.key or one of: {sections}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "(none)"
    return "(none)" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

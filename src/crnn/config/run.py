"""Settings of a run, to and from TOML.

Precedence: defaults < one TOML file or preset < command-line flags (``--section.key VALUE``, see ``crnn.cli``).
"""

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import model_validator

from crnn.charset import check_own_form
from crnn.config.model import ReaderConfig
from crnn.config.section import checked_call, checked_settings
from crnn.config.synth import CameraConfig, CorpusConfig, FontConfig, StyleConfig, SynthConfig
from crnn.config.training import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from crnn.errors import ConfigError

_MAX_BYTES, _MAX_DOTS = 1 << 20, 200  # of a TOML file, and of one of its keys, of which ``tomllib`` takes the square
# Texts and comments. Unclosed ones count as closed: whatever the file holds, each byte is looked at once.
_QUOTED = re.compile(
    rb""""{3}(?:\\?.)*?(?:"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:\\[^\n]|[^"\n])*+"?|'[^'\n]*'?|#[^\n]*""", re.DOTALL
)
_PRESETS = Path(str(resources.files("crnn") / "presets"))


class Config(ReaderConfig):
    """All settings of a training run."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    synth: SynthConfig = SynthConfig()
    corpus: CorpusConfig = CorpusConfig()
    fonts: FontConfig = FontConfig()
    style: StyleConfig = StyleConfig()
    camera: CameraConfig = CameraConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _check_charset(self) -> Self:
        check_own_form(self.charset.charset(), self.charset.rules())  # weights files with such a charset are read
        return self


def preset_names() -> list[str]:
    """Return the names of the shipped settings, sorted."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


@checked_call
def load_config(source: str | Path) -> Config:
    """Load settings from a preset or a TOML file; ``ConfigError`` if that cannot be done."""
    name = str(source)
    path = _PRESETS / f"{name}.toml" if name in preset_names() else Path(source)
    expected = f"expected a TOML file or a preset ({', '.join(preset_names())})"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"config {name!r} is neither a file nor a preset; {expected}") from None
    except OSError as error:
        raise ConfigError(f"config {name!r} cannot be read: {error.strerror}; {expected}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{name}: has more than {_MAX_BYTES:,} bytes; {expected}")
    if any(key.count(b".") > _MAX_DOTS for key in re.split(rb"[^\w \t.-]+", _QUOTED.sub(b"_", content))):
        raise ConfigError(f"{name}: has a key with more than {_MAX_DOTS} dots; {expected}")
    try:
        values = tomllib.loads(content.decode("utf-8-sig"))  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {name!r} is no text: {error.reason}; {expected}") from error
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply; {expected}") from None
    except ValueError as error:  # also of whole numbers with thousands of digits
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    return parse_config(values, source=name)


def parse_config(values: Mapping[str, Any], source: str = "settings") -> Config:
    """Parse nested mappings, as TOML gives them; ``source`` is their origin for error messages."""
    return checked_settings(Config, values, source)


def dump_config(config: ReaderConfig) -> str:
    """Return settings as TOML for ``parse_config``; those without a value are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))

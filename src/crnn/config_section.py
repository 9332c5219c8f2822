"""What all sections of the settings share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field, model_validator

__all__ = ["Section", "Share"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(pydantic.BaseModel):
    """Frozen, unknown keys refused, no silent conversion of text to numbers, a docstring under each field."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    removed: ClassVar[Mapping[str, object]] = {}
    """Settings that earlier versions had, and the value at which each was off: with that value files are still read."""

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, values: Any) -> Any:
        # TOML has arrays, the settings have tuples; strict mode would refuse the one for the other.
        if isinstance(values, dict):
            kept = {k: v for k, v in values.items() if k not in cls.removed or v != cls.removed[k]}
            return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return values

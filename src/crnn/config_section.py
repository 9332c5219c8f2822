"""What all sections of the settings share."""

from __future__ import annotations

from typing import Annotated, Any

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

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        # TOML has arrays, the settings have tuples; strict mode would refuse the one for the other.
        if isinstance(values, dict):
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return values

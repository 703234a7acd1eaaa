"""Components by name with their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from cuvee.recipe.fields import Section


class Component(Section):
    """A component by name with its parameters, written ``name`` or ``{name: {parameters}}``."""

    name: str
    params: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            ((name, params),) = value.items()
            return {"name": name, "params": params or {}}
        return value


def _named(value: Any) -> Any:
    return Component.model_validate(value).model_dump() if isinstance(value, str | Mapping) else value


Merger = Annotated[Any, BeforeValidator(_named)]
"""A merger by name with its parameters, as plain data: ``{"name": "linear", "params": {}}``."""

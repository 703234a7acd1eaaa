"""Base models by path or with settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from cuvee.recipe.fields import Number, Section


class DeclaredBase(Section):
    """Size of a base model that is not at hand; `plan` computes with it, `run` refuses it.

    The shape (`layers`, `hidden`, `feed_forward`, `vocabulary`) makes the memory's arithmetic exact; it is guessed
    from the parameters otherwise.
    """

    parameters: Annotated[Number, Field(gt=0)]
    layers: Annotated[int, Field(ge=1)] | None = None
    hidden: Annotated[int, Field(ge=1)] | None = None
    feed_forward: Annotated[int, Field(ge=1)] | None = None
    vocabulary: Annotated[int, Field(ge=1)] | None = None


class BaseModelRef(Section):
    """A base model: hub id, folder, ``builtin:`` or ``fake:`` name, with its size when it is not at hand.

    Args:
        path: its name.
        declared: its size when it is not at hand.
        endpoint: a server that answers, {url, model, key_env ...}, instead of `path`; it can be judged, not trained.
    """

    path: str
    declared: DeclaredBase | None = None
    endpoint: Mapping[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, Mapping) and value.get("endpoint"):
            if len(value) > 1:
                raise ValueError("a base with an endpoint has no other keys")
            server = value["endpoint"] if isinstance(value["endpoint"], Mapping) else {}
            return {**value, "path": f"{server.get('model')} at {server.get('url')}"}
        return value

"""What mergers promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field, field_validator

if TYPE_CHECKING:
    pass
from cuvee.protocols.parameters import Params


class MergerParams(Params):
    """What every merger takes.

    Args:
        tensors: name patterns to parameters that differ there; a later pattern goes before an earlier one.
        dtype: what the result is written in; the models' own when None.
        compute: what sums are made in; rounded once when written.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ()

    tensors: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    compute: Literal["float32", "float64"] = "float32"

    @field_validator("tensors", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Take [pattern, values] pairs as well: in an id they keep the order, which means something."""
        if not isinstance(value, list | tuple):
            return value
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
            raise ValueError("is a mapping of name patterns to what differs there, such as {'*.mlp.*': {t: 0.3}}")
        return dict(value)


class Merger(Protocol):
    """Merges the same tensor of several models, a piece at a time (`merging.streaming.Piece`).

    `MODELS` is the least and the largest number of models (None: any), `ORDERED` whether their order matters,
    `Params.BY_TENSOR` which parameters may differ by tensor. One of adapters (`OF` is ``adapters``) has
    `combine(adapters, module, weights)` in place of `merge`. A module may have `looks(params)`, what it must see of
    all elements before; `whole_model(params)`, whether these look at the model as one vector; `EXTRAS`, what folder it
    needs beside each model; `RecipeParams`, what a recipe says of how the Fisher information for these is taken.
    """

    VERSION: int
    MODELS: tuple[int, int | None]
    ORDERED: bool
    Params: type[MergerParams]

    def needs_base(self, params: Any) -> bool: ...
    def merge(self, piece: Any, params: Any) -> Any: ...

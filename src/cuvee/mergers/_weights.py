"""The weight of each model, as most methods take it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cuvee.protocols import MergerParams, Params

Number = Annotated[float, Field(allow_inf_nan=False)]


class WeightedParams(MergerParams):
    """Args:
    weights: one number a model; all 1 when absent.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights",)

    weights: tuple[Number, ...] | None = None


def of(params: WeightedParams, count: int) -> tuple[float, ...]:
    """Return one weight for each of `count` models."""
    return params.weights or (1.0,) * count


def each(value: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """Return one value for each of `count` models: a single one stands for all."""
    return value if isinstance(value, tuple) else (value,) * count


class AdapterParams(Params):
    """Args:
    weights: one number an adapter, divided by their sum; all equal when absent.
    dtype: what the folded model is written in; the base's when None.
    """

    weights: tuple[Number, ...] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    @property
    def normalize(self) -> bool:
        """Weights of adapters are always divided by their sum."""
        return True

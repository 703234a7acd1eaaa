"""The weight of each model, as most methods take it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from cuvee.protocols import MergerParams

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

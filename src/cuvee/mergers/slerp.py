"""SLERP: between two models along the arc, tensor by tensor.

No paper of its own for models; Shoemake, Animating rotation with quaternion curves, 1985, as mergekit applies it:

    cos w = <a, b> / (|a| |b|)       theta = sin((1 - t) w) / sin w * a + sin(t w) / sin w * b

The tensor is taken as one vector; a and b enter with their own lengths. Where |cos w| > `threshold` the line stands for
the arc. t = 0 is the first model, t = 1 the second.

    merger: {slerp: {t: 0.5, tensors: {"*.mlp.*": {t: 0.3}}}}
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cuvee.mergers._weights import Number
from cuvee.protocols import MergerParams

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Look, Piece

VERSION = 1
MODELS = (2, 2)
ORDERED = True


class Params(MergerParams):
    """Args:
    t: how far along the arc, from the first model to the second.
    threshold: largest |cos| of an arc; above it a line.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("t",)

    t: Number = 0.5
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.9995


class _Products:
    """Squared lengths and the inner product of a tensor in two models, in float64."""

    def needed(self, found: tuple[Any, ...]) -> bool:
        return True

    def see(self, piece: Piece, params: Params) -> tuple[float, float, float]:
        first, second = (model.double() for model in piece.models)
        return float(first @ first), float(second @ second), float(first @ second)

    def add(self, total: tuple[float, ...], partial: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(x + y for x, y in zip(total, partial, strict=True))

    def end(self, total: tuple[float, float, float], params: Params, found: tuple[Any, ...]) -> tuple[float, float]:
        """Return what the two models are multiplied by, or (nan, t) for a line."""
        first, second, product = total
        length = math.sqrt(first) * math.sqrt(second)
        cosine = min(1.0, max(-1.0, product / length)) if length else 1.0
        if abs(cosine) > params.threshold:
            return math.nan, params.t
        angle = math.acos(cosine)
        return math.sin((1 - params.t) * angle) / math.sin(angle), math.sin(params.t * angle) / math.sin(angle)


def looks(params: Params) -> tuple[Look, ...]:
    """Return what must be known of a tensor first: the angle."""
    return (_Products(),)


def needs_base(params: Params) -> bool:
    """No base is looked at."""
    return False


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the point at `t`."""
    first, second = piece.models
    one, other = piece.found[0]
    if math.isnan(one):
        return first.lerp_(second, other)
    return first.mul_(one).add_(second, alpha=other)

"""Task vectors of a piece, and two ways to put them together: their sum, and the mean of what agrees in sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cuvee.mergers import _weights
from cuvee.mergers._weights import Number

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Piece


class TaskParams(_weights.WeightedParams):
    """Args:
    weights: one number a task vector; all 1 when absent.
    scale: the papers' lambda, what the merged task vector is multiplied by.
    normalize: divide by the sum of the weights.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights", "scale", "normalize")

    scale: Number = 1.0
    normalize: bool = False


def of(piece: Piece) -> list[Tensor]:
    """Return each model's difference from the base, (n,) each, in the memory of the models."""
    assert piece.base is not None
    return [model.sub_(piece.base) for model in piece.models]


def summed(piece: Piece, vectors: Sequence[Tensor], params: TaskParams) -> Tensor:
    """Return base + scale * sum_j w_j v_j, divided by the sum of the weights if asked for."""
    assert piece.base is not None
    weights = _weights.of(params, len(vectors))
    divisor = sum(weights) if params.normalize else 1.0
    found = piece.base
    for vector, weight in zip(vectors, weights, strict=True):
        found.add_(vector, alpha=params.scale * weight / divisor)
    return found


def agreeing(piece: Piece, vectors: Sequence[Tensor], params: TaskParams, zero: float = 1.0) -> Tensor:
    """Return base + scale * the sum of the entries that have the elected sign.

    The elected sign of an element is that of sum_j w_j v_j. With `normalize` the sum is divided by the weights of the
    entries that are in it, or by 1 where these add up to 0 but for rounding.

    Args:
        piece: the piece.
        vectors: sparse task vectors, (n,) each; overwritten.
        params: weights, scale, normalize.
        zero: the sign elected where the sum is 0.
    """
    assert piece.base is not None
    weights = _weights.of(params, len(vectors))
    total = vectors[0].new_zeros(len(vectors[0]))
    for vector, weight in zip(vectors, weights, strict=True):
        total.add_(vector.mul_(weight))
    # Products and comparisons in place are many times faster here than choosing by a mask.
    sign = (total.ge_(0) if zero > 0 else total.gt_(0)).mul_(2).sub_(1)
    found, divisor = sign.new_zeros(len(sign)), sign.new_zeros(len(sign))
    for vector, weight in zip(vectors, weights, strict=True):
        found.add_(vector.mul_(sign).clamp_(min=0))
        if params.normalize:
            divisor.add_(vector.gt_(0), alpha=weight)
    if params.normalize:
        cancelled = divisor.abs().lt_(1e-6 * sum(map(abs, weights)))
        found.div_(divisor.lerp_(cancelled, cancelled))  # by 1 where that is 1
    return piece.base.add_(found.mul_(sign), alpha=params.scale)

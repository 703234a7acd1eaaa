"""Linear: the weighted mean of the models' weights; with equal weights the uniform soup.

Wortsman et al., Model soups, arXiv 2203.05482; the merge of Disperse-Then-Merge, arXiv 2405.13432:

    theta = sum_j w_j theta_j / sum_j w_j

computed as theta_1 + sum_j (w_j / W)(theta_j - theta_1), so that equal models give that model bit for bit.
``normalize: false`` leaves the division out: theta = sum_j w_j theta_j.

    merger: {linear: {weights: [0.4, 0.3, 0.2, 0.1]}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cuvee.mergers import _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False


class Params(_weights.WeightedParams):
    """Args:
    weights: one number a model; all 1 when absent.
    normalize: divide by the sum of the weights.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights", "normalize")

    normalize: bool = True


def needs_base(params: Params) -> bool:
    """No base is looked at."""
    return False


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the mean."""
    weights = _weights.of(params, len(piece.models))
    first, *others = piece.models
    if not params.normalize:
        total = first * weights[0]
        for other, weight in zip(others, weights[1:], strict=True):
            total.add_(other, alpha=weight)
        return total
    whole = sum(weights)
    found = first.clone() if others else first
    for other, weight in zip(others, weights[1:], strict=True):
        found.add_(other.sub_(first), alpha=weight / whole)
    return found

"""Fisher merging: each parameter's mean weighted by how much each model's likelihood hangs on it.

Matena and Raffel, Merging Models with Fisher-Weighted Averaging, arXiv 2111.09832:

    theta = sum_j w_j F_j theta_j / sum_j w_j F_j        F_j at least `floor`, element by element

F_j is the diagonal of the Fisher information, a folder of safetensors with the model's tensor names beside each model.
``normalize: true`` divides each F_j by its length over the whole model first, so that no model outweighs the others.
In a recipe F_j is taken on rows that model j was trained on.

    cuvee merge fisher A B --fishers FA FB --out DIR
    runs: [{strategy: disperse_then_merge, merger: {fisher: {samples: 256}}}]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cuvee.mergers import _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Look, Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False
EXTRAS = "Fisher information"


class Params(_weights.WeightedParams):
    """Args:
    weights: one number a model, none negative: an element's weights must not cancel; all 1 when absent.
    floor: least Fisher information of an element.
    normalize: divide each model's Fisher information by its length.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights",)

    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    floor: Annotated[float, Field(gt=0)] = 1e-6
    normalize: bool = False


class RecipeParams(Params):
    """Args:
    samples: at most so many rows that a model was trained on, chosen by a hash of each.
    labels: ``sampled`` from the model, or the rows' own (``data``, the empirical Fisher).
    """

    samples: Annotated[int, Field(ge=1)] = 256
    labels: Literal["sampled", "data"] = "sampled"


class _Lengths:
    """The squared length of each model's Fisher information, in float64."""

    def needed(self, found: tuple[Any, ...]) -> bool:
        return True

    def see(self, piece: Piece, params: Params) -> list[float]:
        return [float(extra.double().square_().sum()) for extra in piece.extras]

    def add(self, total: list[float], partial: list[float]) -> list[float]:
        return [x + y for x, y in zip(total, partial, strict=True)]

    def end(self, total: list[float], params: Params, found: tuple[Any, ...]) -> list[float]:
        return [one**0.5 or 1.0 for one in total]


def looks(params: Params) -> tuple[Look, ...]:
    """Return what must be known first: lengths, if they are divided by."""
    return (_Lengths(),) if params.normalize else ()


def whole_model(params: Params) -> bool:
    """Lengths are those of the whole model."""
    return params.normalize


def needs_base(params: Params) -> bool:
    """No base is looked at."""
    return False


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the weighted mean, around the first model, so that equal models give that model bit for bit."""
    weights = _weights.of(params, len(piece.models))
    lengths = piece.found[0] if params.normalize else [1.0] * len(weights)
    shares = [
        extra.div_(length).clamp_(min=params.floor).mul_(weight)
        for extra, length, weight in zip(piece.extras, lengths, weights, strict=True)
    ]
    whole = sum(shares[1:], start=shares[0])
    first, *others = piece.models
    found = first.clone()
    for other, share in zip(others, shares[1:], strict=True):
        found.add_(other.sub_(first).mul_(share).div_(whole))
    return found

"""TIES: trim each task vector, elect a sign for each parameter, average what agrees with it.

Yadav et al., TIES-Merging, NeurIPS 2023, arXiv 2306.01708, section 4:

    trim      tau_j to its `density` largest magnitudes, the rest 0
    elect     gamma_d = sign(sum_j w_j tau_{j,d})
    merge     tau_d = sum of w_j tau_{j,d} with sign gamma_d / sum of their w_j        theta = theta_0 + scale * tau

Trimmed per tensor as mergekit does, or per model (``scope: model``) as the paper's code does. Where the sum is 0, the
sign is + (``zero: positive``, mergekit) or the one that most parameters have (``zero: majority``, the paper's code).
``normalize: false`` leaves the division out. At least one entry of a tensor is kept.

    merger: {ties: {density: 0.2, scale: 1.0}}

Example, density 1/2, base 0: [1, -2, .1, 3, 0, -.5], [2, 2, -.3, -1, .2, -.4], [-1, 1, .5, 2, -.2, .3] give
[1.5, 1.5, 0, 2.5, 0, 0].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cuvee.mergers import _task_vectors, _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Look, Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False
EXTRA_BYTES = 3 << 20
"""A look's counts of one model, those of two pieces that wait to be added, and the copy magnitudes are read from."""

Density = Annotated[float, Field(gt=0, le=1)]


class Params(_task_vectors.TaskParams):
    """Args:
    weights: one number a task vector; all 1 when absent.
    density: share of the entries that stays; one number, or one a model.
    scale: the paper's lambda.
    normalize: divide by the weights of the entries that agree.
    scope: trim each ``tensor``, or the ``model`` as one vector.
    zero: sign where the sum is 0: ``positive``, or that of the ``majority`` of the tensor's or model's parameters.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights", "scale", "normalize", "density")

    density: Density | tuple[Density, ...] = 0.2
    normalize: bool = True
    scope: Literal["tensor", "model"] = "tensor"
    zero: Literal["positive", "majority"] = "positive"

    @model_validator(mode="after")
    def _one_cut(self) -> Params:
        if self.scope == "model" and any("density" in changes for changes in self.tensors.values()):
            raise ValueError("scope: model cuts the whole model at one magnitude, so density cannot differ by tensor")
        return self

    def densities(self, count: int) -> tuple[float, ...]:
        """Return the density of each of `count` models."""
        return _weights.each(self.density, count)


class _Signs:
    """Counts elected signs: how many more are + than -."""

    def needed(self, found: tuple[Any, ...]) -> bool:
        return True

    def see(self, piece: Piece, params: Params) -> int:
        vectors = _trimmed(piece, params, piece.found)
        weights = _weights.of(params, len(vectors))
        total = vectors[0].mul_(weights[0])
        for vector, weight in zip(vectors[1:], weights[1:], strict=True):
            total.add_(vector, alpha=weight)
        return int(total.sign().long().sum())

    def add(self, total: int, partial: int) -> int:
        return total + partial

    def end(self, total: int, params: Params, found: tuple[Any, ...]) -> float:
        return 1.0 if total >= 0 else -1.0


def looks(params: Params) -> tuple[Look, ...]:
    """Return what must be known first: where each task vector is cut off, and the majority's sign."""
    from cuvee.merging import magnitudes

    cuts = () if _whole(params) else magnitudes.looks(params.compute)
    return (*cuts, *([_Signs()] if params.zero == "majority" else []))


def whole_model(params: Params) -> bool:
    """With ``scope: model`` the model is one vector."""
    return params.scope == "model"


def needs_base(params: Params) -> bool:
    """Task vectors are differences from the base."""
    return True


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the base plus the merged task vector."""
    majority = params.zero == "majority"
    vectors = _trimmed(piece, params, piece.found[:-1] if majority else piece.found)
    return _task_vectors.agreeing(piece, vectors, params, piece.found[-1] if majority else 1.0)


def _whole(params: Params) -> bool:
    return all(density == 1 for density in _weights.each(params.density, 1))


def _trimmed(piece: Piece, params: Params, found: tuple[Any, ...]) -> list[Tensor]:
    vectors = _task_vectors.of(piece)
    if not found:
        return vectors
    from cuvee.merging import magnitudes

    return magnitudes.trimmed(piece, vectors, found)

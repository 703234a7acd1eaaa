"""DARE: drop entries of a task vector by chance, and make up for it by scaling the rest.

Yu et al., Language Models are Super Mario, ICML 2024, arXiv 2311.03099, section 3: with drop rate p,
m ~ Bernoulli(1 - p), tau' = m * tau / (1 - p); `density` is 1 - p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cuvee.mergers import _task_vectors, _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Look, Piece

Density = Annotated[float, Field(gt=0, le=1)]


class DareParams(_task_vectors.TaskParams):
    """Args:
    weights: one number a task vector; all 1 when absent.
    density: probability that an entry stays; one number, or one a model.
    rescale: ``inverse``: divide by the density, as the paper; ``l1``: until the sum of magnitudes is as before, as
        mergekit; ``none``.
    scale: what the merged task vector is multiplied by.
    normalize: divide by the sum of the weights.
    seed: of the draws.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("weights", "scale", "normalize", "density")

    density: Density | tuple[Density, ...] = 0.5
    rescale: Literal["inverse", "l1", "none"] = "inverse"
    seed: int = 0


class _Sums:
    """Sums of magnitudes of each tensor in each model, before and after dropping, in float64."""

    def needed(self, found: tuple[Any, ...]) -> bool:
        return True

    def see(self, piece: Piece, params: DareParams) -> list[tuple[float, float]]:
        vectors = [vector.abs_() for vector in _task_vectors.of(piece)]
        before = [float(vector.double().sum()) for vector in vectors]
        after = [float(vector.double().sum()) for vector in dropped(piece, vectors, params)]
        return list(zip(before, after, strict=True))

    def add(self, total: list[tuple[float, float]], partial: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(a + c, b + d) for (a, b), (c, d) in zip(total, partial, strict=True)]

    def end(self, total: list[tuple[float, float]], params: DareParams, found: tuple[Any, ...]) -> list[float]:
        """Return what each model's entries are multiplied by."""
        return [before / after if min(before, after) >= 1e-7 else 1.0 for before, after in total]


def looks(params: DareParams) -> tuple[Look, ...]:
    """Return what must be known of a tensor first: sums of magnitudes, if they are kept."""
    return (_Sums(),) if params.rescale == "l1" else ()


def sparse(piece: Piece, params: DareParams) -> list[Tensor]:
    """Return each model's task vector with entries dropped and the rest scaled, (n,) each."""
    vectors = dropped(piece, _task_vectors.of(piece), params)
    densities = _weights.each(params.density, len(vectors))
    if params.rescale == "none":
        return vectors
    scales = piece.found[0] if params.rescale == "l1" else [1 / density for density in densities]
    return [
        vector if density == 1 else vector.mul_(scale)
        for vector, density, scale in zip(vectors, densities, scales, strict=True)
    ]


def dropped(piece: Piece, vectors: list[Tensor], params: DareParams) -> list[Tensor]:
    """Return the task vectors with entries set to 0 by chance, each model by draws of its own."""
    from cuvee.merging.noise import uniform

    for number, (vector, density) in enumerate(zip(vectors, _weights.each(params.density, len(vectors)), strict=True)):
        if density < 1:
            drawn = uniform(params.seed, "dare", piece.tensor, number, piece.start, len(vector))
            vector.mul_(drawn.lt_(density))
    return vectors

"""Parameter-selection merging: every single parameter from one of the models, drawn by chance; never averaged.

Ju et al., Mitigating Training Imbalance in LLM Fine-Tuning via Selective Parameter Merging, EMNLP 2024,
arXiv 2410.03743. For models trained on the same data in different orders:

    theta_d = theta_{i,d},  i ~ Categorical(p)                   for each parameter d by itself
    resample: where theta_{i,d} is still the base's value, i is drawn again among the models that moved

"Moved" is |theta_{i,d} - theta_{0,d}| > `tolerance`; uniform among those of a weight above 0; the base's
value where none moved (the paper's description leaves the last two open). The mean over seeds is the weighted mean of
the models where all have moved.

    merger: {selective: {seed: 0}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cuvee.mergers import _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False


class Params(_weights.WeightedParams):
    """Args:
    weights: one number a model, what the probabilities are in proportion to; all equal when absent.
    resample: draw again where the training did not move the parameter.
    tolerance: largest change that counts as none.
    seed: of the draws.
    """

    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    resample: bool = True
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0


def needs_base(params: Params) -> bool:
    """Only resampling looks at the base."""
    return params.resample


def merge(piece: Piece, params: Params) -> Tensor:
    """Return one model's value for every element."""
    count = len(piece.models)
    weights = _weights.of(params, count)
    from cuvee.merging.noise import uniform

    drawn = uniform(params.seed, "select", piece.tensor, 0, piece.start, len(piece.models[0]))
    found, below = piece.models[0].clone(), 0.0
    for number in range(1, count):
        below += weights[number - 1] / sum(weights)
        found = piece.models[number].where(drawn >= below, found)
    return _resampled(piece, found, params) if params.resample else found


def _resampled(piece: Piece, found: Tensor, params: Params) -> Tensor:
    """Replace values that are still the base's by those of a model that moved."""
    assert piece.base is not None
    still = (found - piece.base).abs_() <= params.tolerance
    if not bool(still.any()):
        return found
    # A model of weight 0 takes no part.
    moved = [
        (model - piece.base).abs_() > params.tolerance if weight else still.new_zeros(len(still))
        for model, weight in zip(piece.models, _weights.of(params, len(piece.models)), strict=True)
    ]
    many = sum(moved[1:], start=moved[0].to(found.dtype))
    from cuvee.merging.noise import uniform

    drawn = uniform(params.seed, "select again", piece.tensor, 0, piece.start, len(found))
    wanted = (drawn * many).floor_()  # the number of the model among those that moved
    passed = wanted.new_zeros(len(wanted))
    result = piece.base.where(still, found)
    for model, has in zip(piece.models, moved, strict=True):
        result = model.where(still & has & (passed == wanted), result)
        passed += has
    return result

"""WiSE-FT: a point on the line between the base and one model trained from it.

Wortsman et al., Robust fine-tuning of zero-shot models, arXiv 2109.01903:

    theta = (1 - alpha) theta_0 + alpha theta_1

alpha 0 is the base, alpha 1 the model, both bit for bit. The simplest way to trade what was learnt for what was known.

    merger: {wise_ft: {alpha: 0.5}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cuvee.mergers._weights import Number
from cuvee.protocols import MergerParams

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Piece

VERSION = 1
MODELS = (1, 1)
ORDERED = True


class Params(MergerParams):
    """Args:
    alpha: how far to go from the base to the model.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: Number = 0.5


def needs_base(params: Params) -> bool:
    """The base is one end of the line."""
    return True


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the point at `alpha`."""
    assert piece.base is not None
    return piece.base.lerp_(piece.models[0], params.alpha)

"""DARE in place of trimming, then the signs of TIES.

Yu et al., Language Models are Super Mario, arXiv 2311.03099, section 3.3; TIES: arXiv 2306.01708:

    theta = theta_0 + scale * the sum of those w_j tau'_j that have the elected sign

Random: report the spread over seeds. ``rescale: l1`` is mergekit's rule in place of the paper's; the two are equal in
expectation only.

    merger: {dare_ties: {density: 0.5, seed: 0}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuvee.mergers import _dare, _task_vectors

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Look, Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False


class Params(_dare.DareParams):
    """As `_dare.DareParams`."""


def looks(params: Params) -> tuple[Look, ...]:
    """Return what must be known of a tensor first."""
    return _dare.looks(params)


def needs_base(params: Params) -> bool:
    """Task vectors are differences from the base."""
    return True


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the base plus what agrees of the sparse task vectors."""
    return _task_vectors.agreeing(piece, _dare.sparse(piece, params), params)

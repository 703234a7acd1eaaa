"""Task arithmetic: the base plus the scaled sum of what each training changed.

Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089:

    tau_j = theta_j - theta_0        theta = theta_0 + scale * sum_j w_j tau_j

With scale = 1/K and equal weights it is the mean of the models. A negative weight takes a task away.
``normalize: true`` divides by the sum of the weights, as mergekit's switch of that name.

    merger: {task_arithmetic: {scale: 0.4}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuvee.mergers import _task_vectors

if TYPE_CHECKING:  # planning a merge imports no torch
    from torch import Tensor

    from cuvee.merging.streaming import Piece

VERSION = 1
MODELS = (1, None)
ORDERED = False


class Params(_task_vectors.TaskParams):
    """Args:
    weights: one number a task vector; all 1 when absent.
    scale: the paper's lambda.
    normalize: divide by the sum of the weights.
    """


def needs_base(params: Params) -> bool:
    """Task vectors are differences from the base."""
    return True


def merge(piece: Piece, params: Params) -> Tensor:
    """Return the base plus the sum of the task vectors."""
    return _task_vectors.summed(piece, _task_vectors.of(piece), params)

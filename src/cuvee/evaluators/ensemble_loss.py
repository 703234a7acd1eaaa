"""Ensemble loss: held-out loss of the mean of the next-token distributions of the models that were merged.

    p(y_t | x, y_<t) = 1/K sum_j p_j(y_t | x, y_<t)

The baseline of Fu et al., Disperse-Then-Merge, arXiv 2405.13432, which has the accuracy of such an ensemble beside the
merged model's: what a merge gives up, or does not, for a K-th of the cost. Theirs averages logits; the mean of
probabilities is an ensemble whose loss is never above the mean of its members' (Jensen). A model that is no merge is an
ensemble of one: its loss is that of `heldout_loss`, so that all runs are compared.

    evaluation: [heldout_loss, ensemble_loss]
"""

from __future__ import annotations

from typing import Literal

from cuvee import protocols
from cuvee.protocols import Grade, Likelihood

VERSION = 1
ANSWERS: Literal["score"] = "score"
ENSEMBLE = True
METRIC = "loss"
HIGHER_IS_BETTER = False


class Params(protocols.EvaluatorParams):
    """No parameters of its own."""


def grade(likelihood: Likelihood) -> Grade:
    """Return the mean loss of one row, weighted by its supervised tokens."""
    return Grade(likelihood.nll / likelihood.tokens, float(likelihood.tokens))

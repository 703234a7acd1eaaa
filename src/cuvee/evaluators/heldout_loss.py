"""Held-out loss: mean negative log-likelihood of the supervised tokens of rows that never train.

The held-out rows hang on the prompts alone, so they are the same items for every run and seed. One item is one
row: its score is the mean loss of its supervised tokens (nats), its weight their number, so that the weighted
mean is the loss per token.

No paper: the ordinary validation loss, kept per ability.

    evaluation: [heldout_loss, {heldout_loss: {items: 200, tokens: true}}]    # of the second every token's loss is kept
"""

from __future__ import annotations

from typing import Literal

from cuvee import protocols
from cuvee.protocols import Grade, Likelihood

VERSION = 1
ANSWERS: Literal["score"] = "score"
METRIC = "loss"
HIGHER_IS_BETTER = False


class Params(protocols.EvaluatorParams):
    """Measured at all stages unless said otherwise.

    Args:
        tokens: keep every supervised token with its loss as well; `token_falls` goes by them.
    """

    stages: Literal["all", "final"] = "all"
    tokens: bool = False


def grade(likelihood: Likelihood) -> Grade:
    """Return the mean loss of one row, weighted by its supervised tokens."""
    return Grade(likelihood.nll / likelihood.tokens, float(likelihood.tokens))

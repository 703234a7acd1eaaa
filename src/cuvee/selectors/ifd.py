"""IFD: rows whose instruction helps least to foresee their answer.

Li et al., From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection for Instruction Tuning
(paper: arXiv 2308.12032; code tianyi-lab/Cherry_LLM), and Li et al., Superfiltering (arXiv 2402.00530), where a small
model scores for a large one:

    IFD(x, y) = L(y | x) / L(y)                 mean losses a token          (Cherry)
    IFD(x, y) = exp(L(y | x) - L(y))            perplexities                 (Superfiltering)

The two ratios do not order rows alike. Rows above 1, where the instruction misleads, are refused; the largest of the
others are taken.

    select: {by: ifd, share: 0.1}
    select: {by: {ifd: {model: builtin:smollm2, ratio: perplexity}}, share: 0.1}
    losses 1.2 and 1.5  ->  0.8 of losses, 0.740818 of perplexities

An answer without its instruction stands behind the first token of its row; the answers of several turns are scored one
by one. So the same tokens count with and without the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.selectors import _losses, _model

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    model: who scores (`_model`); the run's base when absent.
    ratio: of ``loss`` or of ``perplexity``.
    largest: rows above it are refused; null refuses none.
    """

    model: _model.Scorer | None = None
    ratio: Literal["loss", "perplexity"] = "loss"
    largest: float | None = 1.0


def needs(pool: Pool, params: Params) -> Needs:
    """Return the losses with and without the instruction."""
    model, rows = _model.of(pool, params.model)
    return Needs({"conditioned": rows.score(model), "alone": rows.score(model, prompt=False)})


def identity(params: Params) -> dict[str, Any]:
    """Return what turns losses into scores."""
    return {"ratio": params.ratio, "largest": params.largest}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the IFD of every row; an answer whose loss alone is 0 has none."""
    conditioned, alone = _losses.mean(candidates, "conditioned"), _losses.mean(candidates, "alone")
    if params["ratio"] == "loss":
        scores = np.divide(conditioned, alone, out=np.full(len(alone), np.nan), where=alone != 0)
    else:
        scores = np.exp(conditioned - alone)
    refused = _losses.without(candidates, ("conditioned", "alone"))
    refused.append(("loss without the instruction is 0", alone == 0))
    if params["largest"] is not None:
        refused.append((f"IFD above {params['largest']}", scores > params["largest"]))
    return Judged(scores, refused, {"loss": conditioned, "loss_alone": alone})

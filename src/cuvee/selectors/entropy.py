"""Entropy: rows at whose answers a model is least, or most, certain of the next token, whatever the answer says.

    H(i) = 1/T sum_t H(p(. | x, y_<t)),   H(p) = -sum_v p_v log p_v        nats a supervised token

Uncertainty sampling over sequences (paper: Settles and Craven, An Analysis of Active Learning Strategies for Sequence
Labeling Tasks, EMNLP 2008, token entropy: the mean over the positions). The perplexity asks whether the answer
surprises, this whether any answer would.

    select: {by: entropy, share: 0.1}
    select: {by: {entropy: {band: middle, model: {run: all rows}}}, share: 1/2}
    odds [1/2, 1/2] and [1, 0] at two tokens  ->  H = (log 2 + 0) / 2 = 0.346574
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.selectors import _bands, _losses, _model

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    band: rows near an end or the middle of the entropies come first; absent: the entropy itself is the score.
    model: who predicts (`_model`); the run's base when absent.
    """

    band: _bands.Band | None = None
    model: _model.Scorer | None = None


def needs(pool: Pool, params: Params) -> Needs:
    """Return the losses of the answers with the entropies of the predictions."""
    model, rows = _model.of(pool, params.model)
    return Needs({"base": rows.score(model, entropy=True)})


def identity(params: Params) -> dict[str, Any]:
    """Return the band."""
    return {"band": params.band}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the mean entropy of every row, or how near it lies to its band."""
    found = candidates.evidence["base"]
    tokens, total = (np.asarray(found[name], np.float64) for name in ("tokens", "entropy"))
    entropy = np.divide(total, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)
    scores = entropy if params["band"] is None else _bands.nearness(entropy, params["band"])
    refused = [*_losses.without(candidates, ("base",)), ("entropy is no number", ~np.isfinite(entropy))]
    return Judged(scores, refused, {"entropy": entropy, "loss": _losses.mean(candidates, "base")})

"""Perplexity bands: rows of low, middle or high perplexity of the answer under a model.

Ankner et al., Perplexed by Perplexity (paper: arXiv 2405.20541), and Marion et al., When Less is More (arXiv
2309.04564), compare bands of perplexity. Theirs is the perplexity of whole texts, ours of the answer given its prompt.

    score = 1 - |r - c|,   r = share of rows with a lower loss (ties at their mean), c = 0, 1/2 or 1

So ``share: 1/2`` of the middle band keeps the rows from the first to the third quartile. Without a band the perplexity
itself is the score, for ``between`` and ``threshold``.

    select: {by: {perplexity: {band: middle}}, share: 1/2}
    select: {by: {perplexity: {band: null}}, threshold: 20, take: lowest}
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
    band: which rows come first; null: those of the highest perplexity.
    model: who scores (`_model`); the run's base when absent.
    """

    band: _bands.Band | None = "middle"
    model: _model.Scorer | None = None


def needs(pool: Pool, params: Params) -> Needs:
    """Return the losses of the answers."""
    model, rows = _model.of(pool, params.model)
    return Needs({"base": rows.score(model)})


def identity(params: Params) -> dict[str, Any]:
    """Return the band."""
    return {"band": params.band}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return how near each row lies to the middle of its band."""
    loss = _losses.mean(candidates, "base")
    refused = _losses.without(candidates, ("base",))
    scores = np.exp(loss) if params["band"] is None else _bands.nearness(loss, params["band"])
    return Judged(scores, refused, {"perplexity": np.exp(loss)})

"""The next token of each row, from its logits and one uniform draw.

A draw u picks the token at which the cumulative probability, in order of token ids, first exceeds u. One draw a token
suffices, it can be made anywhere (`decoding.uniform` hashes it), and rounding that moves a probability by 1e-6 changes
the pick only where u lies that close to a step: neighbours in a batch change a text no more than ties do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cuvee.engine.decoding import Decoding

ROWS = 16
"""Rows worked on at once: the copies in float64 stay small."""

NUCLEUS = 1024
"""Tokens looked at first for a nucleus; only where they do not reach top_p the whole row is sorted."""


def choose(logits: Tensor, draws: Sequence[float], settings: Decoding) -> Tensor:
    """Return the next token of each row, (rows,) int64.

    Args:
        logits: (rows, vocabulary).
        draws: one number in [0, 1) a row; not looked at where nothing is drawn.
        settings: temperature and top_p.
    """
    if settings.greedy:
        return logits.argmax(-1)
    uniform = torch.tensor(draws, dtype=torch.float64).to(logits.device)
    parts = zip(torch.split(logits, ROWS), torch.split(uniform, ROWS), strict=True)
    return torch.cat([_pick(probabilities(part, settings), u) for part, u in parts])


def probabilities(logits: Tensor, settings: Decoding) -> Tensor:
    """Return what is drawn from, (rows, vocabulary) float32, 0 outside the nucleus; a row's sum may be below 1."""
    scores = logits.float()
    # Less the largest first: a small temperature then makes zeros, never infinities.
    weights = torch.softmax((scores - scores.amax(-1, keepdim=True)) / settings.temperature, -1)
    return weights if settings.top_p >= 1 else _nucleus(weights, settings.top_p)


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens up to the one with which they reach `top_p` (Holtzman et al. 2020), ties with it."""
    ranked = weights.topk(min(NUCLEUS, weights.shape[-1])).values
    if bool((ranked.sum(-1) < top_p).any()):
        ranked = weights.sort(-1, descending=True).values
    before = ranked.cumsum(-1) - ranked
    least = ranked.masked_fill(before >= top_p, 1.0).amin(-1, keepdim=True)
    return weights.masked_fill(weights < least, 0.0)


def _pick(weights: Tensor, uniform: Tensor) -> Tensor:
    steps = weights.cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(steps, uniform[:, None] * steps[:, -1:], right=True)
    return place[:, 0].clamp_max(weights.shape[-1] - 1)

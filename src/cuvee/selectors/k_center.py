"""Diverse rows: the best by score that are not near one another (Deita), or a cover of the pool (k-center).

Liu et al., What Makes Good Data for Alignment? (paper: arXiv 2312.15685; code hkust-nlp/deita): rows in the order of
complexity x quality; a row is taken when its cosine to every row that is taken is at most 0.9.
Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach (arXiv 1708.00489): again and
again the row that is farthest from all that are taken.

    select: {by: {k_center: {scores: [{path: c.parquet}, {path: q.parquet, column: quality}]}}, count: 6000}
    select: {by: {k_center: {method: farthest}}, share: 0.05}

The score of a row is the product of its stored scores, 1 without any. ``farthest`` begins with the row of the best
score, ties by hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.selectors import _model, _nearest

VERSION = 1
SEEDED = False

NEAR = "near a row that is taken"


class Stored(protocols.Params):
    """One column of scores in a file, as in the selector `stored`."""

    path: str
    column: str = "score"
    missing: Literal["error", "drop"] = "error"


class Params(protocols.Params):
    """Args:
    method: ``filter`` by the largest cosine to a row that is taken, or ``farthest``.
    scores: stored scores that are multiplied.
    largest: cosine above which a row is too near, for ``filter``.
    model: whose hidden states are taken (`_model`); the run's base when absent.
    layer, pooling: as in `rds`.
    """

    method: Literal["filter", "farthest"] = "filter"
    scores: Sequence[Stored] = ()
    largest: Annotated[float, Field(gt=-1, le=1)] = 0.9
    model: _model.Scorer | None = None
    layer: int = -1
    pooling: Literal["weighted_mean", "mean", "last_token"] = "mean"


def needs(pool: Pool, params: Params) -> Needs:
    """Return the vectors of the rows, and the stored scores."""
    model, rows = _model.of(pool, params.model)
    found: dict[str, Any] = {"rows": rows.embed(model, {"layer": params.layer, "pooling": params.pooling})}
    for number, one in enumerate(params.scores):
        found[f"score{number}"] = pool.stored(one.path, one.column, one.missing)
    return Needs(found)


def identity(params: Params) -> dict[str, Any]:
    """Return how rows are chosen."""
    return {"method": params.method, **({"largest": params.largest} if params.method == "filter" else {})}


def ordered(params: Params) -> bool:
    """Return that rows are taken one after another, whatever the method."""
    return True


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the product of the scores of every row, and the order in which rows are taken."""
    scores = np.ones(len(candidates))
    for role, columns in candidates.evidence.items():
        if role.startswith("score"):
            scores = scores * np.asarray(columns["value"], np.float64)
    vectors = candidates.evidence["rows"]["vector"]
    refused = [("no score in the file", np.isnan(scores))]
    order = _nearest.by_hash(candidates)
    order = order[np.isfinite(scores[order])]
    order = order[np.argsort(-scores[order], kind="stable")]
    known = _nearest.known(vectors)
    refused.append((_nearest.NO_VECTOR, ~known))
    order = order[known[order]]
    items = _nearest.Ordered(vectors, order)
    wanted = len(order) if candidates.wanted is None else candidates.wanted
    if params["method"] == "farthest":
        return Judged(scores, refused, order=order[_farthest(items, wanted)])
    taken, near = _spread(items, params["largest"], wanted)
    too_near = np.zeros(len(candidates), np.bool_)
    too_near[order[near]] = True
    return Judged(scores, [*refused, (NEAR, too_near)], order=order[taken])


def _spread(items: Any, largest: float, wanted: int) -> tuple[list[int], list[int]]:
    """Return the items taken in order, none nearer to an earlier one than `largest`, and those passed over."""
    kept = np.empty((min(wanted, len(items)), items.shape[1]), np.float32)
    taken, near = list[int](), list[int]()
    for start in range(0, len(items), _nearest.BLOCK // 16):
        block = items[start : start + _nearest.BLOCK // 16]
        held = len(taken)
        close = (block @ kept[:held].T > largest).any(1) if held else np.zeros(len(block), np.bool_)
        among = block @ block.T > largest
        fresh: list[int] = []
        for at in range(len(block)):
            if len(taken) == wanted:
                return taken, near
            if close[at] or among[at, fresh].any():
                near.append(start + at)
            else:
                fresh.append(at)
                taken.append(start + at)
        kept[held : len(taken)] = block[fresh]
    return taken, near


def _farthest(items: Any, wanted: int) -> list[int]:
    """Return items in the order of the greedy k-center rule; of equally far ones the earlier."""
    if not len(items):
        return []
    taken = [0]
    nearest = np.full(len(items), -np.inf, np.float32)
    _nearer(items, nearest, 0)
    while len(taken) < min(wanted, len(items)):
        at = int(np.argmin(nearest))
        taken.append(at)
        _nearer(items, nearest, at)
    return taken


def _nearer(items: Any, nearest: Any, at: int) -> None:
    """Note for each item its cosine to the one now taken where that is the largest yet; what is taken is out."""
    query = items[at : at + 1]
    for part, found in _nearest.similarities(items, query):
        nearest[part] = np.maximum(nearest[part], found[:, 0])
    nearest[at] = np.inf

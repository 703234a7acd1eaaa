"""RDS+: rows that lie nearest to a target set, each target example choosing in its turn.

Ivison et al., Large-Scale Data Selection for Instruction Tuning (paper: arXiv 2503.01807; code
hamishivi/automated-instruction-selection):

    e(z) = normalised sum_i (i / sum_j j) h_i       last layer, all tokens
    one task:       the target examples take turns; each takes the nearest row that nobody has
    several tasks:  a row's similarity to a task is that to its nearest example; the tasks take turns

    select: {by: {rds: {target: {path: dev.jsonl}}}, count: 1000}
    select: {by: {rds: {targets: {math: {path: gsm8k_dev.jsonl}, code: {path: mbpp_dev.jsonl}}}}, share: 0.05}
    hidden states [[1, 0], [0, 1], [1, 1], [0, 0]]  ->  weights [.1, .2, .3, .4], vector [.624695, .780869]

The score of a row is its largest cosine to any target example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.selectors import _model, _nearest

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    target: a source (path, format ...) of examples like those one wants to be good at; or
    targets: several by name, each a task.
    model: whose hidden states are taken (`_model`); the run's base when absent.
    layer: -1 is the last, 0 the embeddings.
    pooling: of the hidden states over all tokens.
    choose: ``turns``, the paper's, or the ``highest`` similarity overall.
    """

    target: Mapping[str, Any] | None = None
    targets: Mapping[str, Mapping[str, Any]] | None = None
    model: _model.Scorer | None = None
    layer: int = -1
    pooling: Literal["weighted_mean", "mean", "last_token"] = "weighted_mean"
    choose: Literal["turns", "highest"] = "turns"

    @model_validator(mode="after")
    def _one_of_both(self) -> Params:
        if bool(self.target) == bool(self.targets):
            raise ValueError("needs exactly one of target ({path: ...}) and targets ({NAME: {path: ...}})")
        return self


def needs(pool: Pool, params: Params) -> Needs:
    """Return the vectors of the rows and of the target examples."""
    model, rows = _model.of(pool, params.model)
    how = {"layer": params.layer, "pooling": params.pooling}
    asked = params.targets or {"target": params.target or {}}
    targets = {name: rows.target(given).embed(model, how) for name, given in asked.items()}
    return Needs({"rows": rows.embed(model, how)}, targets)


def identity(params: Params) -> dict[str, Any]:
    """Return how rows are chosen by similarity."""
    return {"choose": params.choose}


def ordered(params: Params) -> bool:
    """Return whether rows are taken in turns: then no score decides."""
    return params.choose == "turns"


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the largest similarity of every row to any target, and the order in which rows are taken."""
    order = _nearest.by_hash(candidates)
    vectors = candidates.evidence["rows"]["vector"]
    items, known = _nearest.Ordered(vectors, order), _nearest.known(vectors)[order]
    tasks = {name: np.asarray(columns["vector"], np.float32) for name, columns in sorted(candidates.targets.items())}
    for name, vectors in tasks.items():
        _nearest.check_targets(items, vectors, name)
    nearest = {name: _largest(items, vectors) for name, vectors in tasks.items()}
    scores = np.full(len(candidates), np.nan)
    scores[order[known]] = np.max(list(nearest.values()), axis=0)[known]
    refused = [(_nearest.NO_VECTOR, np.isnan(scores))]
    if params["choose"] == "highest":
        return Judged(scores, refused)
    wanted = candidates.wanted if candidates.wanted is not None else int(known.sum())
    if len(tasks) == 1:
        (queries,) = tasks.values()
        first = 16 + 4 * wanted // max(1, len(queries))
        asking: list[Iterator[int]] = _nearest.preferences(items, queries, first)
    else:
        asking = [iter(np.argsort(-values, kind="stable").tolist()) for values in nearest.values()]
    taken = _nearest.in_turns([_only(known, one) for one in asking], wanted)
    return Judged(scores, refused, order=order[np.asarray(taken, np.int64)])


def _only(known: Any, places: Iterator[int]) -> Iterator[int]:
    return (place for place in places if known[place])


def _largest(items: Any, queries: Any) -> Any:
    """Return the largest cosine of every item to any query."""
    return np.concatenate([found.max(1) for _, found in _nearest.similarities(items, queries)])

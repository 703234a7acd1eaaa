"""LESS: rows whose gradient step, as Adam would take it, lowers the loss on a few target examples.

Xia et al., LESS: Selecting Influential Data for Targeted Instruction Tuning (paper: arXiv 2402.04333; code
princeton-nlp/LESS):

    warm-up: LoRA on a random 5 % of the pool, 4 epochs; adapter and moments kept at the end of each
    Inf(z, z') = sum_i w_i <f_i(z), f_i(z')>,   w_i the mean learning rate of epoch i, of sum 1
    score(z) = max over targets of the mean of Inf(z, z') over the target's examples

f are normalised random projections: of Adam's step for rows, of the plain gradient for target examples
(`engine/gradients.py`).

    select: {by: {less: {target: {path: dev.jsonl}}}, share: 0.05}
    select: {by: {less: {targets: {algebra: {path: a.jsonl}, geometry: {path: g.jsonl}}}}, share: 0.05}
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.recipe import Share
from cuvee.selectors import _nearest

VERSION = 1
SEEDED = False

WARM_UP = {"method": "lora", "epochs": 4, "schedule": "linear"}
"""Of the authors' scripts, besides rank 128, alpha 512, dropout 0.1 on queries, keys, values and outputs."""


class Params(protocols.Params):
    """Args:
    target: a source (path, format ...) of a few examples of what one wants to be good at; or
    targets: several by name, each a subtask.
    share: of the pool that the warm-up is trained on; null: all of it.
    reference: settings of the warm-up where they differ from the run's and from LoRA, 4 epochs, linear.
    dims: numbers of a feature.
    seed: of the projection.
    """

    target: Mapping[str, Any] | None = None
    targets: Mapping[str, Mapping[str, Any]] | None = None
    share: Annotated[Share, Field(gt=0, le=1)] | None = Fraction(1, 20)
    reference: Mapping[str, Any] = Field(default_factory=dict)
    dims: Annotated[int, Field(ge=8)] = 8192
    seed: int = 0

    @model_validator(mode="after")
    def _one_of_both(self) -> Params:
        if bool(self.target) == bool(self.targets):
            raise ValueError("needs exactly one of target ({path: ...}) and targets ({NAME: {path: ...}})")
        if self.reference.get("method", "lora") != "lora" or self.reference.get("optimiser", "adamw") != "adamw":
            raise ValueError("reference: LESS looks at LoRA factors and AdamW's steps; leave method and optimiser out")
        return self


def needs(pool: Pool, params: Params) -> Needs:
    """Return the features of rows and target examples at the end of each epoch of the warm-up."""
    model = pool.trained({**WARM_UP, **params.reference}, params.share)
    asked = params.targets or {"target": params.target or {}}
    pools = {name: pool.target(given) for name, given in asked.items()}
    rows, targets = dict[str, Any](), dict[str, Any]()
    for epoch in range(1, int(model.training.params["epochs"]) + 1):
        how = {"epoch": epoch, "dims": params.dims, "seed": params.seed}
        rows[f"epoch{epoch}"] = pool.gradients(model, {**how, "adam": True})
        for name, one in pools.items():
            targets[f"epoch{epoch}.{name}"] = one.gradients(model, {**how, "adam": False})
    return Needs(rows, targets)


def identity(params: Params) -> dict[str, Any]:
    """Return nothing: the features are evidence."""
    return {}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the influence of every row."""
    rates = {role: float(columns["weight"][0]) for role, columns in candidates.evidence.items()}
    total = sum(rates.values())
    names = sorted({role.partition(".")[2] for role in candidates.targets})
    found = {name: np.zeros(len(candidates)) for name in names}
    for epoch, columns in sorted(candidates.evidence.items()):
        means = [_mean(candidates.targets[f"{epoch}.{name}"]) for name in names]
        for name, mean in zip(names, means, strict=True):
            _nearest.check_targets(columns["vector"], mean[None], name)
        for part, values in _nearest.similarities(columns["vector"], np.stack(means)):
            for number, name in enumerate(names):
                found[name][part] += rates[epoch] / total * values[:, number]
    scores = np.max(list(found.values()), axis=0)
    return Judged(scores, [(_nearest.NO_VECTOR, ~np.isfinite(scores))])


def _mean(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the mean feature of a target's examples: products with it are mean products."""
    mean: NDArray[np.float32] = np.asarray(columns["vector"], np.float32).mean(axis=0)
    return mean

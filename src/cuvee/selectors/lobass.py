"""LoBaSS / DavIR: rows of whose loss the model can still learn away the largest share.

Zhou et al., LoBaSS: Gauging Learnability in Supervised Fine-tuning Data, later DavIR: Data Selection via Implicit
Reward for Large Language Models (paper: arXiv 2310.13008, section 3.4):

    L_m(i) = -(1 / T_i) sum_t log p_m(y_t | x, y_<t)
    S(i) = (L_base(i) - L_ref(i)) / L_base(i) = 1 - L_ref(i) / L_base(i)

`ref` is the base fine-tuned on the whole pool; the selection then trains the base anew. The share makes S the same for
sums and means of tokens; S <= 1, and S < 0 where fine-tuning made a row worse.

    select: {by: lobass, share: 0.06}
    L_base = [2, 1, 4, .5], L_ref = [1, .8, 3, .6]  ->  S = [.5, .2, .25, -.2]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.recipe import Share
from cuvee.selectors import _losses

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    score: ``relative``, the paper's; ``difference`` of mean losses (its ablation, RHO-LM) or of ``sum`` losses.
    prior: ``seen``, the paper's: the reference was trained on the row. ``heldout``: on other rows only, by as many
        references as `folds`.
    folds: of the prompts, for ``heldout``.
    reference: settings of the reference's training where they differ from the run's.
    share: of the pool that the reference of ``seen`` is trained on; all when absent.
    largest_base, largest_reference: rows with a larger mean loss are refused as too hard.
    smallest_base: rows with a smaller mean loss are refused as known.
    """

    score: Literal["relative", "difference", "sum"] = "relative"
    prior: Literal["seen", "heldout"] = "seen"
    folds: Annotated[int, Field(ge=2, le=20)] = 2
    reference: Mapping[str, Any] = Field(default_factory=dict)
    share: Annotated[Share, Field(gt=0, le=1)] | None = None
    largest_base: float | None = None
    largest_reference: float | None = None
    smallest_base: float | None = None

    @model_validator(mode="after")
    def _of_its_prior(self) -> Params:
        if self.prior == "heldout" and self.share is not None:
            raise ValueError("share is of the one reference of prior: seen; with prior: heldout say folds")
        if self.prior == "seen" and "folds" in self.model_fields_set:
            raise ValueError("folds are of prior: heldout; say that beside it, or leave folds out")
        return self


def needs(pool: Pool, params: Params) -> Needs:
    """Return the losses under the base and under the reference."""
    rows: dict[str, Any] = {"base": pool.score(pool.base)}
    if params.prior == "seen":
        rows["reference"] = pool.score(pool.trained(params.reference, params.share))
    else:
        for number, scores in enumerate(pool.folded(params.folds, params.reference)):
            rows[f"reference{number}"] = scores
    return Needs(rows)


def identity(params: Params) -> dict[str, Any]:
    """Return what turns losses into scores."""
    names = ("score", "largest_base", "largest_reference", "smallest_base")
    return {name: getattr(params, name) for name in names if getattr(params, name) is not None}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return S of every row.

    A row with a base loss of 0 has nothing left to be learnt and no S: it is refused.
    """
    candidates = _joined(candidates)
    base, reference = _losses.mean(candidates, "base"), _losses.mean(candidates, "reference")
    refused = _losses.without(candidates, ("base", "reference"))
    refused.append(("base loss is 0", base == 0))
    for name, losses, too in (
        ("largest_base", base, np.greater),
        ("largest_reference", reference, np.greater),
        ("smallest_base", base, np.less),
    ):
        if params.get(name) is not None:
            refused.append((f"{name} {params[name]}", too(losses, params[name])))
    columns = {"loss_base": base, "loss_reference": reference}
    return Judged(_score(candidates, base, reference, params["score"]), refused, columns)


def _score(candidates: Candidates, base: Any, reference: Any, kind: str) -> Any:
    if kind == "sum":
        return candidates.evidence["base"]["nll"] - candidates.evidence["reference"]["nll"]
    if kind == "difference":
        return base - reference
    return 1 - np.divide(reference, base, out=np.full(len(base), np.nan), where=base != 0)


def _joined(candidates: Candidates) -> Candidates:
    """Put the folds' references together: each row was scored by the one that has not seen it."""
    if "reference" in candidates.evidence:
        return candidates
    folds = [columns for role, columns in candidates.evidence.items() if role.startswith("reference")]
    names = ("nll", "tokens")
    joined = {name: np.full(len(candidates), np.nan) for name in names}
    for columns in folds:
        seen = ~np.isnan(columns["tokens"])
        for name in names:
            joined[name][seen] = columns[name][seen]
    return replace(candidates, evidence={"base": candidates.evidence["base"], "reference": joined})

"""Leakage: whether a model has seen a benchmark, by the order of options and by what the training sources hold.

Option order ("Training on the Benchmark Is Not All You Need", arXiv 2409.01790), from the evaluator `option_order`:

    scenario a    items whose published order is first among m: by chance 1/m of them. The p value is that of the sum
                  of independent coins of 1/m_i each (a binomial where all m are equal), one-sided and exact. The mean
                  rank, 0 for first to 1 for last and 1/2 by chance, has more power where an item is known only partly.
    scenario b    any order may have leaked. The published thresholds flag 28 to 63 % of clean items, so that only a
                  comparison is shown: items that stand out further than all but `alpha` of the base model's own. The
                  threshold is the conformal quantile, number ceil((1 - alpha) (n + 1)) of n, so that a model that is
                  like the base exceeds it on at most `alpha` of its items on average. The p value is the exact
                  McNemar test of the items only one of the two exceeds it on.

N-gram overlap: scores of items whose text the training sources hold (`overlap` of the preflight) beside those of the
others, for every benchmark that was compared.

    evaluation: [{option_order: {path: mmlu_test.jsonl, stages: all}}]      # the base model is the control
    analyses: [scores, leakage]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cuvee import protocols
from cuvee.analyses import _results
from cuvee.analyses._stats import mcnemar_p, wilson
from cuvee.protocols import Result, Table

VERSION = 1

Floats = NDArray[np.float64]

HELD = "held_by_sources"
"""Column of results: whether a training source holds the item's text; None where nobody looked."""


UNCHECKED = "not checked"


class Params(protocols.Params):
    """Args:
    alpha: share of the control's items that may stand out further than the threshold of scenario b.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


def table(results: Sequence[Result], params: Params) -> Sequence[Table]:
    """Return option order by model, and scores with and without items that the sources hold; none where unmeasured."""
    ordered = [result for result in results if {"rank", "orders", "outlier"} <= result.extra.keys()]
    found = []
    if ordered:
        found.append(_orders(ordered, params.alpha))
    rows = list(_overlaps(results))
    if rows:
        found.append(_overlap_table(rows))
    return found


# ------------------------------------------------------------------------------------------------- option order


def _orders(results: Sequence[Result], alpha: float) -> Table:
    rows = []
    seen: set[tuple[str, str]] = set()
    for result in results:
        if (result.stage_id, result.evaluator) in seen:
            continue  # runs share models
        seen.add((result.stage_id, result.evaluator))
        rows.append({**_scenario_a(result), **_scenario_b(result, _control(result, results), alpha)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    notes = [
        "By chance the published order is first on the expected number of items, and the mean rank is 0.5. p is "
        "one-sided and exact; that of the mean rank is by its normal approximation.",
        "A benchmark with habits of its own (numbers in order, 'all of the above' last) prefers its order under every "
        "model: look at what a model adds to its base.",
    ]
    if all(_control(result, results) is None for result in results):
        notes.append(
            "Scenario b (any order may have leaked) is not shown: without a control it flags 28 to 63 % of items that "
            "nobody has seen. stages: all measures the base model, which is the control."
        )
    else:
        notes.append(f"Standing out: items whose likeliest order exceeds what {alpha:.0%} of the base model's exceed.")
    return Table("Leakage: order of the options", columns, rows, notes)


def _scenario_a(result: Result) -> dict[str, Any]:
    orders = np.asarray(result.extra["orders"], float)
    ranks = np.asarray(result.extra["rank"], float)
    hits, n = int(sum(result.scores)), len(orders)
    low, high = wilson(hits, n)
    position, p_rank = mean_rank(ranks, orders)
    return {
        "run": result.run.name if result.stage else _results.BASE,
        "model": result.stage_label,
        "benchmark": f"{result.evaluator} ({result.ability})",
        "published order first": f"{hits}/{n} = {hits / n:.1%} (95 % {low:.1%} to {high:.1%})",
        "by chance": f"{(1 / orders).sum():.1f} = {(1 / orders).mean():.1%}",
        "p": p_value(hits, 1 / orders),
        "mean rank": round(position, 3),
        "p of the mean rank": p_rank,
    }


def p_value(hits: int, chances: Floats) -> float:
    """Return the chance of `hits` or more heads among independent coins, (n,): exact, by convolution."""
    if hits <= 0:
        return 1.0
    law = np.zeros(len(chances) + 1)
    law[0] = 1.0
    for number, chance in enumerate(chances, 1):
        law[1 : number + 1] = law[1 : number + 1] * (1 - chance) + law[:number] * chance
        law[0] *= 1 - chance
    return float(min(1.0, law[hits:].sum()))


def mean_rank(ranks: Floats, orders: Floats) -> tuple[float, float]:
    """Return the mean of rank / (orders - 1), and the one-sided p that it is so small where ranks are uniform."""
    places = ranks / (orders - 1)
    # A uniform number of 0, 1 ... m - 1 over m - 1 has the variance (m + 1) / (12 (m - 1)).
    spread = math.sqrt(float(((orders + 1) / (12 * (orders - 1))).sum())) / len(orders)
    mean = float(places.mean())
    return mean, 0.5 * math.erfc((0.5 - mean) / spread / math.sqrt(2))


def _control(result: Result, results: Sequence[Result]) -> Result | None:
    """Return the base model's result for the same items."""
    for other in results:
        same = (other.run.base, other.evaluator, other.ability) == (result.run.base, result.evaluator, result.ability)
        if same and other.stage == 0 and result.stage > 0 and list(other.items) == list(result.items):
            return other
    return None


def _scenario_b(result: Result, control: Result | None, alpha: float) -> dict[str, Any]:
    if control is None:
        return {}
    limit = threshold(np.asarray(control.extra["outlier"], float), alpha)
    own = np.asarray(result.extra["outlier"], float) > limit
    base = np.asarray(control.extra["outlier"], float) > limit
    return {
        "stands out": f"{int(own.sum())}/{len(own)} = {own.mean():.1%}",
        "base stands out": f"{int(base.sum())}/{len(base)} = {base.mean():.1%}",
        "p against the base": mcnemar_p(int((own & ~base).sum()), int((base & ~own).sum())),
    }


def threshold(control: Floats, alpha: float) -> float:
    """Return what a new item of the control's kind exceeds with a chance of at most `alpha`; infinite for few items."""
    number = math.ceil((1 - alpha) * (len(control) + 1))
    return float(np.sort(control)[number - 1]) if number <= len(control) else math.inf


# ------------------------------------------------------------------------------------------------------ overlap


def _overlaps(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield the score of each final model on items that the sources hold, and on the others; also where none is."""
    for result in results:
        if not result.final or HELD not in result.extra or "rank" in result.extra:
            continue
        checked = all(one is not None for one in result.extra[HELD])
        held = np.asarray(result.extra[HELD], bool)
        scores, weights = np.asarray(result.scores, float), np.asarray(result.weights, float)
        scale = _results.scale(result.metric, result.higher_is_better)
        yield {
            "run": result.run.name,
            "benchmark": f"{result.evaluator} ({result.ability})",
            "metric": scale.short,
            "items held by the sources": f"{int(held.sum())}/{len(held)}" if checked else UNCHECKED,
            "score on them": _mean(scores[held], weights[held], scale) if checked else "",
            "score on the others": _mean(scores[~held], weights[~held], scale) if checked else "",
            "score on all": _mean(scores, weights, scale),
        }


def _mean(scores: Floats, weights: Floats, scale: _results.Scale) -> str:
    return scale.text(np.average(scores, weights=weights)) if weights.sum() > 0 else ""


def _overlap_table(rows: Sequence[dict[str, Any]]) -> Table:
    notes = ["Held: the overlap rule of the preflight finds the item in a row that may train (equal, contained, near)."]
    if any(row["items held by the sources"] == UNCHECKED for row in rows):
        notes.append(
            "Not checked: the preflight has not compared the sources with these items, so nothing is known of them."
        )
    return Table("Leakage: items that the training sources hold", list(rows[0]), rows, notes)

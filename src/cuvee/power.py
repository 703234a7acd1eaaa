"""What differences between two runs the planned items and seeds can show, and what a wished one would need.

A comparison of two models on the same n items has the standard error sqrt(v / n + 2 s^2 / S): v the variance of an
item's difference, s the standard deviation that another seed gives a run's mean, S seeds. A two-sided test at level
alpha finds a true difference d with power 0.8 when d = (z(1 - alpha/2) + z(0.8)) SE.

v and s are measured on what the store holds of the plan. Before that, for scores of 0 and 1, a fifth of the items is
assumed to change (v = 0.2), as between strategies in Dong et al. (arXiv 2310.05492); a loss has no such rule, and says
that it is unknown. s is unknown until two seeds of a run are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee.cost import Costs
from cuvee.errors import UsageError
from cuvee.plan import Evaluated, Plan
from cuvee.stage import Stage
from cuvee.store import Store

LEVEL, POWER = 0.05, 0.8

CHANGED = 0.2
"""Assumed share of 0/1 items that differ between two models."""

LEAST_WISH = 1e-6
"""Least difference that can be wished for: no benchmark has the items for a smaller one."""

MODELS = 12
"""Models of which the variance is measured: enough for a median."""

Key = tuple[str, str, str]
"""Evaluator, ability, metric."""


@dataclass(frozen=True)
class Power:
    """What one evaluator can show on one ability; in the metric's own unit (0.02 is two points of accuracy).

    Args:
        evaluator, ability, metric: what is measured.
        items: planned; questions, however many turns and verdicts each has. None where nothing tells yet how many.
        variance: of an item's difference between two models; None where it is unknown.
        basis: where it comes from, in words.
        seed_sd: standard deviation between seeds of one run; None where it is unknown.
        smallest: difference found four times in five by one comparison at 5 %; None where unknown.
        smallest_corrected: the same when corrected for all pairs of runs.
        needed_items, needed_seeds: for the wished difference by one comparison; None where none is wished or known.
    """

    evaluator: str
    ability: str
    metric: str
    items: int | None
    variance: float | None
    basis: str
    seed_sd: float | None
    smallest: float | None
    smallest_corrected: float | None
    needed_items: int | None = None
    needed_seeds: int | None = None


def reach(level: float = LEVEL, power: float = POWER) -> float:
    """Return how many standard errors a true difference must be, to be found with `power` at `level`."""
    return NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)


def describe(plan: Plan, costs: Costs, store: Store, detect: float | None = None) -> dict[str, Any]:
    """Return what a plan can show as plain data, one entry an evaluator and ability.

    Args:
        detect: a wished difference, in the metric's own unit.

    Raises:
        UsageError: no number of items shows such a difference.
    """
    _check_wish(plan, detect)
    runs = len({run.info.name for run in plan.runs})
    pairs, seeds = runs * (runs - 1) // 2, len(plan.located.recipe.seeds)
    grouped: dict[Key, list[Evaluated]] = {}
    for item in plan.evaluated:
        if item.final:
            grouped.setdefault((item.evaluator, item.ability, item.metric), []).append(item)
    found = []
    for key, members in grouped.items():
        items = _items(_replies(members[0]), costs)
        found.append(_power(key, items, *_measured(members, store), pairs, seeds, detect))
    return {
        "level": LEVEL,
        "power": POWER,
        "comparisons": pairs,
        "seeds": seeds,
        "detect": detect,
        "measures": [asdict(each) for each in found] if pairs else [],
    }


def _check_wish(plan: Plan, detect: float | None) -> None:
    """Refuse what is no difference, and what no two shares of solved items can differ by."""
    if detect is None:
        return
    if not (math.isfinite(detect) and detect >= LEAST_WISH):
        raise UsageError(f"--detect {detect:g} is no difference that can be shown; {LEAST_WISH:g} is the least")
    if detect > 1 and plan.evaluated and all(_counted(item.metric) for item in plan.evaluated):
        raise UsageError(
            f"--detect {detect:g}: a share of solved items cannot change by more than 1; say {detect / 100:g} for "
            f"{detect:g} points"
        )


def _counted(metric: str) -> bool:
    """Whether the metric is a share of items that are solved."""
    return metric == "accuracy" or metric.startswith("pass")


def _replies(item: Evaluated) -> Stage:
    """Return the stage whose rows are the items: a judge is asked several times about a reply."""
    answers = item.grade.one("answers")
    return answers.one("answers") if answers.kind == "judge" else answers


def _items(stage: Stage, costs: Costs) -> int | None:
    """Return the planned items; None for a task of the harness whose documents nobody has counted yet."""
    size = costs.sizes[stage.id]
    return None if stage.kind == "harness" and not size.rows_exact else size.rows


def _power(
    key: Key,
    items: int | None,
    variance: float | None,
    models: int,
    seed_sd: float | None,
    pairs: int,
    seeds: int,
    detect: float | None,
) -> Power:
    basis = f"measured on {models} models"
    if variance is None:
        counted = _counted(key[2])
        variance = CHANGED if counted else None
        basis = f"assumed: {CHANGED:.0%} of the items change" if counted else "until two models are measured"
    luck = 2 * (seed_sd or 0.0) ** 2 / seeds
    if variance is None:
        return Power(*key, items, None, basis, seed_sd, None, None)
    needed: tuple[int | None, int | None] = (None, None)
    if detect and not (_counted(key[2]) and detect > 1):
        # A difference of d between shares of solved items needs at least that share of them to change.
        needed = _needed(detect, max(variance, detect) if _counted(key[2]) else variance, seed_sd, items, seeds)
    if items is None:
        return Power(*key, None, variance, basis, seed_sd, None, None, *needed)
    error = math.sqrt(variance / max(1, items) + luck)
    return Power(
        *key,
        items,
        variance,
        basis,
        seed_sd,
        reach() * error,
        reach(LEVEL / max(1, pairs)) * error,
        *needed,
    )


def _needed(detect: float, variance: float, seed_sd: float | None, items: int | None, seeds: int) -> tuple[int, int]:
    """Return items and seeds for a wished difference: more items where they suffice, else more seeds for these items.

    Where neither alone is enough, the luck of seeds makes up half of the variance that is allowed.
    """
    allowed, luck = (detect / reach()) ** 2, 2 * (seed_sd or 0.0) ** 2
    if luck / seeds < allowed:
        return math.ceil(variance / (allowed - luck / seeds)), seeds
    if items and variance / items < allowed:
        return items, math.ceil(luck / (allowed - variance / items))
    return math.ceil(2 * variance / allowed), math.ceil(2 * luck / allowed)


def _measured(members: Sequence[Evaluated], store: Store) -> tuple[float | None, int, float | None]:
    """Return the variance of an item's difference, of how many models, and the spread between seeds, as stored."""
    there = {item.grade.id: item for item in members if store.has("grade", item.grade.id)}
    shown = list(there.values())[:MODELS]
    scores = [_scores(item, store) for item in shown]
    variances = [v for old, new in pairwise(scores) if (v := _variance(old, new)) is not None]
    by_run: dict[tuple[str, str], list[float]] = {}
    for item, one in zip(shown, scores, strict=True):
        mean = float(one.weights @ one.values / one.weights.sum())
        by_run.setdefault((item.run.base, item.run.name), []).append(mean)
    spreads = [float(np.var(means, ddof=1)) for means in by_run.values() if len(means) > 1]
    spread = math.sqrt(float(np.mean(spreads))) if spreads else None
    return (float(np.median(variances)) if variances else None), len(shown), spread


@dataclass(frozen=True)
class Scores:
    """A result: names, (n,) scores and weights, the number (n,) of each row's cluster, and how many items they are."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    clusters: NDArray[np.int64]
    items: int


def _scores(item: Evaluated, store: Store) -> Scores:
    import pyarrow.parquet as pq

    names = ("item", "score", "weight")
    table = pq.read_table(store.path("grade", item.grade.id) / "results.parquet")
    columns: Mapping[str, list[Any]] = table.select([*names, *{"cluster"} & set(table.column_names)]).to_pydict()
    values = np.array([math.nan if each is None else each for each in columns["score"]], dtype=np.float64)
    rows = tuple(columns["item"])
    judged = item.grade.one("answers").kind == "judge"
    clusters = np.unique(columns.get("cluster", rows), return_inverse=True)[1].astype(np.int64)
    # A judged question has a row a turn.
    items = len({name.partition("/")[0] for name in rows}) if judged else len(rows)
    return Scores(rows, values, np.array(columns["weight"], dtype=np.float64), clusters, items)


def _variance(old: Scores, new: Scores) -> float | None:
    """Return n items times the squared standard error of a paired difference, rows of one cluster being one draw.

    None for other items or no difference.
    """
    if old.names != new.names or old.clusters.max(initial=0) < 1:
        return None
    weights, moves = old.weights, new.values - old.values
    if not np.isfinite(moves).all() or not weights.sum() > 0 or not moves.any():
        return None
    spread = np.bincount(old.clusters, weights * (moves - weights @ moves / weights.sum()))
    n = len(spread)
    return float(old.items * n / (n - 1) * (spread @ spread) / weights.sum() ** 2)

"""Which run is best over all abilities, what the tests can say about it, and what it costs.

The rule, in one place:

    measures   one evaluator an ability: of the metric that covers most abilities (or the one asked for)
    overall    unweighted mean over abilities of the run's mean on each, averaged over seeds
    leader     the run with the best overall; the base model takes part
    tests      one ability: exact McNemar test for 0/1 scores of one seed; else sign flips of the paired
               differences, item by item, over several abilities studentised; intervals by bootstrap
    better     Holm-corrected p < 0.05 over *all* pairs of runs, and the same sign in every seed. All pairs,
               because the leader was picked by the same numbers: correcting its own pairs alone would claim
               differences among equal runs far more often than 5 % of the time.
    costs      on each ability the leader against the best run for it, Holm-corrected over the leader's
               comparisons with every other run on every ability
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from cuvee.analyses._bootstrap import draws_interval, resampled_means
from cuvee.analyses._chance import Floats, draws_for, stream
from cuvee.analyses._results import BASE, LEVEL, Measure, measures, same_models
from cuvee.analyses._stats import (
    Comparison,
    Sample,
    compare_all,
    estimate,
    holm,
    seed_differences,
    unit_of,
)
from cuvee.analyses._studentised import Stratum, studentised_flips
from cuvee.protocols import Result

Samples = Mapping[str, Mapping[Measure, Sample]]
"""By run and measure."""


@dataclass(frozen=True)
class Against:
    """One run against the leader: `leader - run`, its corrected p, whether it is a difference."""

    run: str
    comparison: Comparison
    p: float
    alpha: float

    @property
    def differs(self) -> bool:
        """Whether the difference counts as one."""
        return self.p < LEVEL and self.comparison.one_direction


@dataclass(frozen=True)
class Cost:
    """The leader on one measure against the best run for it; `against` is None when none is better.

    `tied` is whether another run is as good.
    """

    measure: Measure
    value: float
    best: str
    best_value: float
    against: Against | None
    tied: bool = False

    @property
    def paid(self) -> bool:
        """Whether a cost was found."""
        return self.against is not None and self.against.differs


@dataclass(frozen=True)
class Standing:
    """One run's overall: mean over abilities, standard error over items, spread over seeds."""

    run: str
    overall: float
    se: float | None
    seed_sd: float | None
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """Standings from best to worst, the others against the first, what the first one costs.

    `same` are runs that have no standing of their own, since their models are those of another run; `trained` are the
    supervised tokens of each run's trainings, all epochs, as far as they are known.
    """

    measures: tuple[Measure, ...]
    standings: tuple[Standing, ...] = ()
    others: tuple[Against, ...] = ()
    costs: tuple[Cost, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    pairs: int = 0
    metric: str = "auto"
    passed_over: str = ""
    same: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, float] = field(default_factory=dict)

    @property
    def leader(self) -> str:
        """Name of the leading run."""
        return self.standings[0].run

    @property
    def all_equal(self) -> bool:
        """Whether there are several runs, and all have the same overall."""
        return len(self.standings) > 1 and len({each.overall for each in self.standings}) == 1


def judge(results: Sequence[Result], samples: Samples, *, metric: str, resamples: int, seed: int) -> Verdict:
    """Return the verdict on the final models of one base model.

    Args:
        results: of one base model.
        samples: final models' samples by run and measure, the base as `BASE`.
        metric: ``auto`` or the metric to judge by.
        resamples, seed: of the bootstrap and the permutations.
    """
    known = measures(result for result in results if result.final)
    same = same_models(results)
    samples = {run: by for run, by in samples.items() if run not in same}
    chosen = primary(known, metric)
    complete, left_out = _complete(samples, chosen)
    passed_over = ""
    if metric == "auto" and chosen and _all_equal(complete):
        # Every run scored the same on every ability (all zero, say): that metric says nothing, another may.
        others = [measure for measure in known if measure.metric != chosen[0].metric]
        if others and not _all_equal(_complete(samples, primary(others))[0]):
            passed_over = chosen[0].metric
            chosen = primary(others)
            complete, left_out = _complete(samples, chosen)
    if not chosen or not complete:
        return Verdict(chosen, left_out=left_out, metric=metric, same=same)
    order, standings, p_values, comparisons = _ranked(complete, chosen, resamples, seed)
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    alpha = LEVEL / max(1, len(p_values))
    leader = order[0]
    against = [Against(run, comparisons[run], corrected[leader, run], alpha) for run in order[1:]]
    costs = _costs(leader, samples, every_ability(known, chosen), resamples, seed)
    return Verdict(
        chosen,
        tuple(standings),
        tuple(against),
        tuple(costs),
        left_out,
        len(p_values),
        metric,
        passed_over,
        same,
        _trained(results),
    )


def _trained(results: Sequence[Result]) -> dict[str, float]:
    """Supervised tokens of each run's trainings, all epochs, averaged over seeds."""
    found: dict[str, dict[int, int]] = {}
    for run in (result.run for result in results if result.final and result.run.trainings):
        found.setdefault(run.name, {})[run.seed] = sum(training.supervised_tokens for training in run.trainings)
    return {run: float(np.mean(list(by_seed.values()))) for run, by_seed in found.items()}


def _all_equal(complete: Mapping[str, Sequence[Sample]]) -> bool:
    """Return whether no run differs from another on any ability's mean."""
    means = {tuple(round(estimate(part).value, 12) for part in parts) for run, parts in complete.items() if run != BASE}
    return len(means) <= 1 and len(complete) > 1


def primary(known: Sequence[Measure], metric: str = "auto") -> tuple[Measure, ...]:
    """Return one measure an ability, all of one metric: the first evaluator of each ability that has it.

    ``auto`` takes the metric that covers most abilities, among equals accuracy before loss: a verdict on balance
    must not go by the one ability that happens to have an accuracy.
    """
    if metric == "auto":
        covered: dict[str, set[str]] = {}
        for measure in known:
            covered.setdefault(measure.metric, set()).add(measure.ability)
        order = ["accuracy", "loss", *covered]
        metric = min(covered, key=lambda name: (-len(covered[name]), order.index(name)), default="")
    by_ability: dict[str, Measure] = {}
    for measure in known:
        if measure.metric == metric:
            by_ability.setdefault(measure.ability, measure)
    first = next(iter(by_ability.values()), None)
    same = (m for m in by_ability.values() if first and m.higher_is_better == first.higher_is_better)
    return tuple(same)


def every_ability(known: Sequence[Measure], chosen: Sequence[Measure]) -> list[Measure]:
    """Return the chosen measures, and for abilities without one the first measure there is."""
    by_ability = {measure.ability: measure for measure in chosen}
    for measure in known:
        by_ability.setdefault(measure.ability, measure)
    return list(by_ability.values())


def _complete(samples: Samples, chosen: Sequence[Measure]) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Runs that have every chosen measure on the items most runs have, and why the others are left out."""
    usual = {measure: _usual_items(samples, measure) for measure in chosen}
    complete: dict[str, list[Sample]] = {}
    left_out: dict[str, str] = {}
    for run, by in samples.items():
        missing = [f"{m.evaluator} on {m.ability}" for m in chosen if m not in by]
        other = [f"{m.evaluator} on {m.ability}" for m in chosen if m in by and _key(by[m]) != usual[m]]
        if missing:
            left_out[run] = f"has no {', '.join(missing)}"
        elif other:
            left_out[run] = f"was measured on other items than most runs in {', '.join(other)}"
        else:
            complete[run] = [by[measure] for measure in chosen]
    return complete, left_out


def _key(of: Sample) -> tuple[tuple[str, ...], bytes]:
    return of.items, of.weights.tobytes()


def _usual_items(samples: Samples, measure: Measure) -> tuple[tuple[str, ...], bytes] | None:
    seen = Counter(_key(by[measure]) for by in samples.values() if measure in by)
    return seen.most_common(1)[0][0] if seen else None


# ------------------------------------------------------------------------------------------------- overall


def _ranked(
    complete: Mapping[str, Sequence[Sample]], chosen: Sequence[Measure], resamples: int, seed: int
) -> tuple[list[str], list[Standing], dict[tuple[str, str], float], dict[str, Comparison]]:
    """Runs from best to worst, their standings, the p of every pair `(better, worse)`, the leader against each."""
    overall = {run: float(np.mean([s.value for s in parts])) for run, parts in complete.items()}
    # Stable: of equal runs the earlier in the recipe comes first, a trained one before the base.
    order = sorted((run for run in overall if run != BASE), key=lambda run: overall[run])
    if chosen[0].higher_is_better:
        order = sorted(order, key=lambda run: -overall[run])
    order = _with_base(order, overall, chosen[0].higher_is_better)
    names = list(combinations(order, 2))
    draws = _overall_draws([complete[run] for run in order], resamples, seed)
    by_seed = {run: _overall_by_seed(complete[run]) for run in order}
    standings = [_standing(run, overall[run], draws[:, column], by_seed[run]) for column, run in enumerate(order)]
    leader = order[0]
    if len(chosen) == 1:
        compared = compare_all(
            [(complete[a][0], complete[b][0]) for a, b in names],
            resamples=draws_for(len(names), resamples),
            seed=seed,
        )
        by_pair = dict(zip(names, compared, strict=True))
        p_values = {pair: both.p for pair, both in by_pair.items()}
        return order, standings, p_values, {run: by_pair[leader, run] for run in order[1:]}
    column_of = {run: column for column, run in enumerate(order)}
    columns = [(column_of[a], column_of[b]) for a, b in names]
    found = _overall_p([complete[run] for run in order], columns, draws_for(len(names), resamples), seed)
    p_values = dict(zip(names, found, strict=True))
    comparisons = {}
    for run in order[1:]:
        low, high, se = draws_interval(draws[:, 0] - draws[:, column_of[run]])
        n = sum(len(part.items) for part in complete[leader])
        seeds = seed_differences(by_seed[leader], by_seed[run])
        unit = min(unit_of(*parts) for parts in zip(complete[leader], complete[run], strict=True)) / len(chosen)
        difference = overall[leader] - overall[run]
        p = p_values[leader, run]
        comparisons[run] = Comparison(difference, low, high, p, se, n, "permutation", None, seeds, unit)
    return order, standings, p_values, comparisons


def _with_base(order: list[str], overall: Mapping[str, float], higher: bool) -> list[str]:
    if BASE not in overall:
        return order
    ahead = [r for r in order if (overall[r] >= overall[BASE] if higher else overall[r] <= overall[BASE])]
    return [*ahead, BASE, *(run for run in order if run not in ahead)]


def _overall_draws(complete: Sequence[Sequence[Sample]], resamples: int, seed: int) -> Floats:
    """Bootstrap draws of each run's overall, (resamples, runs): items resampled within each ability."""
    total = np.zeros((resamples, len(complete)))
    for parts in zip(*complete, strict=True):
        columns = np.stack([part.scores for part in parts], axis=1)
        total += resampled_means(columns, parts[0].weights, resamples, stream(seed, parts[0].items))
    return np.asarray(total / len(complete[0]), dtype=np.float64)


def _overall_p(
    complete: Sequence[Sequence[Sample]], pairs: Sequence[tuple[int, int]], draws: int, seed: int
) -> list[float]:
    """The p of each pair of runs: signs of items flipped within each ability, which counts as one of all."""
    strata = [
        Stratum(np.stack([part.scores for part in parts], axis=1), parts[0].weights, stream(seed, parts[0].items))
        for parts in zip(*complete, strict=True)
    ]
    return studentised_flips(strata, pairs, draws)


def _overall_by_seed(parts: Sequence[Sample]) -> dict[int, float]:
    """Overall of each seed that every ability has; a single seed stands for itself."""
    common = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    values = [dict(zip(part.seeds, part.seed_values.tolist(), strict=True)) for part in parts]
    return {seed: float(np.mean([by[seed] for by in values])) for seed in common}


def _standing(run: str, overall: float, draws: Floats, by_seed: Mapping[int, float]) -> Standing:
    se = float(draws.std(ddof=1))
    spread = float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None
    return Standing(run, overall, se if np.isfinite(se) else None, spread, max(1, len(by_seed)))


# --------------------------------------------------------------------------------------------------- costs


def _costs(leader: str, samples: Samples, by: Iterable[Measure], resamples: int, seed: int) -> list[Cost]:
    asked = [
        (measure, run)
        for measure in by
        if measure in samples[leader]
        for run in samples
        if run != leader and measure in samples[run] and _key(samples[run][measure]) == _key(samples[leader][measure])
    ]
    pairs = [(samples[leader][measure], samples[run][measure]) for measure, run in asked]
    compared = compare_all(pairs, resamples=draws_for(len(pairs), resamples), seed=seed)
    corrected = holm([each.p for each in compared])
    alpha = LEVEL / max(1, len(pairs))
    against = {
        (measure, run): Against(run, each, p, alpha)
        for (measure, run), each, p in zip(asked, compared, corrected, strict=True)
    }
    return [_cost(measure, leader, samples, against) for measure in dict.fromkeys(m for m, _ in asked)]


def _cost(measure: Measure, leader: str, samples: Samples, against: Mapping[tuple[Measure, str], Against]) -> Cost:
    value = samples[leader][measure].value
    rivals = {run: samples[run][measure].value for m, run in against if m == measure}
    sign = 1 if measure.higher_is_better else -1
    best = max(rivals, key=lambda run: sign * rivals[run])
    if sign * rivals[best] <= sign * value:
        return Cost(measure, value, leader, value, None, tied=rivals[best] == value)
    return Cost(measure, value, best, rivals[best], against[measure, best])

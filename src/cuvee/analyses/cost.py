"""Score against cost: what each run's trainings took, and which runs are beaten by one that took less.

No paper: Dong et al. (arXiv 2310.05492) compare strategies that see different amounts of data; this shows how much.
Tokens, steps and seconds are those that the trainings stored. A run counts as beaten when another took no more
supervised tokens and is better overall by the paired test of the verdict.

    analyses: [cost]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cuvee.analyses import _results, _verdict, _verdict_words
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import BASE, LEVEL, Measure
from cuvee.analyses._verdict import Verdict
from cuvee.protocols import Figure, Result, RunInfo, Table

VERSION = 1


class Params(Resampled):
    """Of the resampling alone."""


@dataclass(frozen=True)
class Spent:
    """What a run's trainings took, all stages and epochs, averaged over seeds."""

    trainings: int
    shared: int
    rows: float
    steps: float
    supervised_tokens: float
    total_tokens: float
    seconds: float


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the runs from the cheapest to the dearest."""
    names = _results.bases(results)
    tables = [
        _of_base([r for r in results if r.run.base == base], params, _results.titled(TITLE, base, len(names) > 1))
        for base in names
    ]
    return tables or [Table(TITLE, ["run"], [], ["Nothing to show: no final model is measured."])]


TITLE = "Score against cost"


def spent(own: Sequence[Result]) -> dict[str, Spent]:
    """Return what each run took; runs with an unfinished or undescribed training are left out."""
    infos: dict[str, dict[int, RunInfo]] = {}
    for result in own:
        if result.final and result.run.trainings:
            infos.setdefault(result.run.name, {})[result.run.seed] = result.run
    used: dict[str, set[str]] = {}
    for name, by_seed in infos.items():
        for info in by_seed.values():
            for training in info.trainings:
                used.setdefault(training.id, set()).add(name)
    return {name: _spent(list(by_seed.values()), used) for name, by_seed in infos.items()}


def _spent(members: Sequence[RunInfo], used: Mapping[str, set[str]]) -> Spent:
    trainings = [info.trainings for info in members]
    return Spent(
        len(trainings[0]),
        sum(len(used[training.id]) > 1 for training in trainings[0]),
        fmean(sum(t.epochs * p.rows for t in each for p in t.portions) for each in trainings),
        *(
            fmean(sum(getattr(t, name) for t in each) for each in trainings)
            for name in ("steps", "supervised_tokens", "total_tokens", "seconds")
        ),
    )


def _of_base(own: Sequence[Result], params: Params, title: str) -> Table:
    took = spent(own)
    samples = _results.final_samples(own)
    found = _verdict.judge(own, samples, metric="auto", resamples=params.resamples, seed=params.seed)
    overall = {each.run: each for each in found.standings}
    overall |= {run: overall[owner] for run, owner in found.same.items() if owner in overall}
    if not took:
        return Table(title, ["run"], [], ["Nothing to show: no run says what its trainings took."])
    to = found.measures[0].scale if found.standings else None
    rows = []
    for run in sorted(took, key=lambda name: took[name].supervised_tokens):
        cost, standing = took[run], overall.get(run)
        rows.append(
            {
                "run": run,
                "trainings": cost.trainings,
                "of them shared": cost.shared,
                "rows": round(cost.rows),
                "supervised tokens": round(cost.supervised_tokens),
                "tokens": round(cost.total_tokens),
                "steps": round(cost.steps),
                "seconds": round(cost.seconds, 1),
                f"overall ({to.short})" if to else "overall": to and standing and standing.overall * to.factor,
                "beaten by": _beaten(run, took, found) if standing else "not judged",
            }
        )
    return Table(title, list(rows[0]), rows, _notes(found), _figures(took, found, title))


def _beaten(run: str, took: Mapping[str, Spent], found: Verdict) -> str | None:
    """Return the leader where it took no more than a run and is better than it."""
    against = next((each for each in found.others if each.run == found.same.get(run, run)), None)
    if against is None or found.leader == BASE or found.leader not in took:
        return None
    cheaper = took[found.leader].supervised_tokens <= took[run].supervised_tokens
    return found.leader if cheaper and against.p < LEVEL and against.differs else None


def _notes(found: Verdict) -> list[str]:
    return [
        "Each run as if it had trained alone: all its stages and epochs, averaged over seeds. Seconds are those of the "
        "machine at the time; tokens are exact.",
        "Runs that see more tokens are not compute-matched: a better score may be the price of more training. 'Beaten "
        "by' names the leading run where it took no more supervised tokens and is better by the verdict's test.",
        *([] if found.standings else [_verdict_words.conclusion(found)]),
    ]


def _figures(took: Mapping[str, Spent], found: Verdict, title: str) -> list[Figure]:
    shown = [each for each in found.standings if each.run in took]
    if len(shown) < 2:
        return []
    to = found.measures[0].scale
    series: dict[str, list[Mapping[str, Any]]] = {}
    for each in shown:
        reach = 1.96 * each.se if each.se is not None else None
        series[each.run] = [
            {
                "x": took[each.run].supervised_tokens,
                "y": each.overall * to.factor,
                "low": None if reach is None else (each.overall - reach) * to.factor,
                "high": None if reach is None else (each.overall + reach) * to.factor,
            }
        ]
    measures: Sequence[Measure] = found.measures
    y_label = f"overall {measures[0].metric} ({to.label})"
    return [Figure("points", title, "supervised tokens, all stages and epochs", y_label, series, "log")]

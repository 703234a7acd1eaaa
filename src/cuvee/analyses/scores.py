"""Scores: which strategy is best over all abilities, what that costs, and every run's score on every ability.

Dong et al., arXiv 2310.05492, section 3.5 and table 1 (strategies against GSM8K, HumanEval, MT-Bench), with
what that table lacks: counts, standard errors and paired tests. HumanEval's 164 items make the paper's 14.63
to 17.68 a difference of five problems.

    analyses: [scores]
    analyses: [{scores: {metric: loss}}]

The verdict's rule is stated in `_verdict`; tests and intervals in `_stats`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cuvee.analyses import _results, _verdict, _verdict_words
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import BASE, Panel, Scale
from cuvee.analyses._stats import Estimate, estimate
from cuvee.analyses._verdict import Against, Cost, Samples, Standing, Verdict
from cuvee.errors import UsageError
from cuvee.protocols import Figure, Result, Table

VERSION = 2

BEST = " ★"
"""Marks the best number of a column."""


class Params(Resampled):
    """Args:
    metric: what the verdict goes by: ``auto`` is accuracy if any run has one, else loss.
    """

    metric: Literal["auto", "accuracy", "loss"] = "auto"


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the verdict, its costs and the scores; last all scores as numbers.

    Raises:
        UsageError: the verdict is to go by a metric that nothing was measured by.
    """
    names = _results.bases(results)
    there = list(dict.fromkeys(result.metric for result in results))
    if there and params.metric not in ("auto", *there):
        raise UsageError(
            f"the verdict is to go by {params.metric}, and the results have {_results.listed(there)}; "
            f"set metric: auto or {' or '.join(there)}, or add an evaluator of {params.metric}"
        )
    if not results:
        return [Table("Verdict", ["run"], [], ["No verdict: no final model has been evaluated."], answers=1)]
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        samples = _results.final_samples(own)
        found = _verdict.judge(own, samples, metric=params.metric, resamples=params.resamples, seed=params.seed)
        several = len(names) > 1
        tables.append(_verdict_table(found, _unmeasured(own), _results.titled("Verdict", base, several)))
        if found.costs and not found.all_equal:
            tables.append(_cost_table(found, _results.titled("What the leading run costs", base, several)))
        for panel in _results.panels(result for result in own if result.final or result.stage == 0):
            title = _results.titled(f"Scores: {panel.title}", base, several)
            tables.append(_panel_table(panel, samples, title))
    return [*tables, _numbers(results, names)]


# ------------------------------------------------------------------------------------------------- verdict


def _unmeasured(own: Sequence[Result]) -> list[str]:
    """Name the abilities that runs were trained on and no evaluator asks about: what they lose is not seen."""
    seen = {result.ability for result in own}
    trained = {portion.ability for of in own for training in of.run.trainings for portion in training.portions}
    missing = sorted(trained - seen)
    if not missing:
        return []
    return [f"Trained on and measured by nothing: {', '.join(missing)}. What a run gains or loses there is not seen."]


def _verdict_table(found: Verdict, unmeasured: Sequence[str], title: str) -> Table:
    notes = [_verdict_words.conclusion(found), *unmeasured, *_verdict_words.reservations(found)]
    if not found.standings:
        return Table(title, ["run"], [], notes, answers=1)
    to = found.measures[0].scale
    seeds = any(each.seed_sd is not None for each in found.standings)
    against = {each.run: each for each in found.others}
    rows = []
    for each in found.standings:
        rows.append(_standing_row(each, against.get(each.run), to))
        rows += [_twin_row(rows[-1], run, each) for run, owner in found.same.items() if owner == each.run]
    if found.all_equal:
        rows[0]["reading"] = "as good as the others"
    columns = [name for name in rows[0] if seeds or not name.startswith("SD between seeds")]
    return Table(title, columns, [{name: row[name] for name in columns} for row in rows], notes, answers=1)


def _standing_row(standing: Standing, against: Against | None, to: Scale) -> dict[str, Any]:
    both = against.comparison if against else None
    return {
        "run": standing.run,
        f"overall ({to.short})": standing.overall * to.factor,
        f"standard error ({to.unit})": _results.in_unit(standing.se or None, to),
        f"SD between seeds ({to.unit})": _results.in_unit(standing.seed_sd, to),
        f"difference: leader minus run ({to.unit})": both and _results.in_unit(both.difference, to),
        f"low ({to.unit})": both and _results.in_unit(both.low, to),
        f"high ({to.unit})": both and _results.in_unit(both.high, to),
        "p (Holm)": against and against.p,
        f"smallest visible ({to.unit})": both and against and _results.in_unit(both.smallest(against.alpha), to),
        "reading": _reading(against),
    }


_OWN = ("run", "overall", "standard error", "SD between seeds")
"""Columns about a run's own models; the others are about a comparison."""


def _twin_row(row: Mapping[str, Any], run: str, of: Standing) -> dict[str, Any]:
    """The row of a run that has another run's models: its numbers, and no comparison of its own."""
    own = {name: value if name.startswith(_OWN) else None for name, value in row.items()}
    return own | {"run": run, "reading": f"the same model as {of.run}"}


def _reading(against: Against | None) -> str:
    if against is None:
        return "leads"
    return "leader is better" if against.differs else "not separable"


def _cost_table(found: Verdict, title: str) -> Table:
    """The leader on each ability against the best run for it; numbers as text, for scales may differ."""
    notes = [
        "On each ability the leading run against the best run for it, on the same items; exact McNemar test "
        "for 0/1 scores of one seed, paired permutation test otherwise; p Holm-corrected over the leader's "
        "comparisons with every other run on every ability.",
        "A difference below the smallest visible one would be missed more than one time in five.",
    ]
    rows = [_cost_row(cost, found.leader) for cost in found.costs]
    return Table(title, list(rows[0]), rows, notes)


def _cost_row(cost: Cost, leader: str) -> dict[str, Any]:
    to, against = cost.measure.scale, cost.against
    both = against.comparison if against else None
    return {
        "ability": cost.measure.ability,
        "measured by": f"{cost.measure.evaluator} ({to.short})",
        f"leader: {leader}": to.text(cost.value),
        "best run": cost.best,
        "its score": to.text(cost.best_value),
        "leader minus best": both and to.signed(both.difference),
        "95 % interval": both and f"{to.signed(both.low)}..{to.signed(both.high)}",
        "p (Holm)": against and against.p,
        "smallest visible": both and against and to.text(both.smallest(against.alpha)),
        "reading": _cost_reading(cost),
    }


def _cost_reading(cost: Cost) -> str:
    if cost.against is None:
        return "as good as any" if cost.tied else "is the best run"
    return "a cost" if cost.paid else "no cost seen"


# -------------------------------------------------------------------------------------------------- scores


def _panel_table(panel: Panel, samples: Samples, title: str) -> Table:
    to = panel.scale
    cells = {
        run: {m: estimate(by[m]) for m in panel.measures if m in by}
        for run, by in samples.items()
        if any(m in by for m in panel.measures)
    }
    header = {m: f"{panel.column(m)} ({to.short})" for m in panel.measures}
    rows = []
    for run, by in cells.items():
        row: dict[str, Any] = {"run": run}
        for m, name in header.items():
            values = [each[m].value for each in cells.values() if m in each]
            best = m in by and by[m].value == _best(values, to) and (len(values) == 1 or min(values) < max(values))
            row[name] = _results.cell(by[m], to) + (BEST if best else "") if m in by else "not measured"
        rows.append(row)
    return Table(title, ["run", *header.values()], rows, _panel_notes(panel, samples), [_figure(panel, cells, title)])


def _best(values: Sequence[float], to: Scale) -> float:
    return max(values) if to.higher_is_better else min(values)


def _panel_notes(panel: Panel, samples: Samples) -> list[str]:
    notes = [
        "Value ± standard error over items (m/n). The star marks the best number of a column and is no "
        f"claim: see the verdict. Bars in the figure are 95 % intervals. Unit: {panel.scale.label}."
    ]
    for m in panel.measures:
        sizes = {(by[m].measured, by[m].full_size) for by in samples.values() if m in by}
        notes.extend(
            f"{m.evaluator} on {m.ability}: {n} of the benchmark's {full} items were measured; not comparable with "
            "published scores."
            for n, full in sorted(sizes)
            if n < full
        )
        clusters = {(by[m].measured, len(by[m].items)) for by in samples.values() if m in by}
        notes.extend(
            f"{m.evaluator} on {m.ability}: {n} items are {units} different questions; standard errors and tests go "
            "over the questions."
            for n, units in sorted(clusters)
            if units < n
        )
        if len({by[m].items for by in samples.values() if m in by}) > 1:
            notes.append(
                f"{m.evaluator} on {m.ability}: the runs were not measured on the same items, so their numbers are "
                "not compared; give the evaluation equal settings for all."
            )
    if any(len(by[m].seeds) > 1 for by in samples.values() for m in panel.measures if m in by):
        notes.append(
            "Several seeds: scores are averaged item by item; counts are m of seeds x items; the spread "
            "between seeds is in the table of numbers."
        )
    return notes


def _figure(panel: Panel, cells: dict[str, dict[_results.Measure, Estimate]], title: str) -> Figure:
    series = {
        run: [_results.point(panel.column(m), by[m], panel.scale) for m in panel.measures if m in by]
        for run, by in cells.items()
    }
    y_label = f"{panel.measures[0].metric} ({panel.scale.label})"
    return Figure("points", title, "ability", y_label, series)


def _numbers(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Every final score as plain numbers in the metric's own unit, one row a base, run and measure."""
    rows = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        for run, by in _results.final_samples(own).items():
            for m, of in by.items():
                found = estimate(of)
                rows.append(
                    {
                        "base": base,
                        "run": run,
                        "evaluator": m.evaluator,
                        "ability": m.ability,
                        "metric": m.metric,
                        "better": "higher" if m.higher_is_better else "lower",
                        "value": found.value,
                        "standard error": found.se,
                        "from (95 %)": found.low,
                        "to (95 %)": found.high,
                        "items": found.n,
                        "of": of.full_size,
                        "solved": found.hits,
                        "seeds": found.seeds,
                        "SD between seeds": found.seed_sd,
                        "without an answer": _without_answer(own, run, m),
                        "cut": _counted(own, run, m, "cut"),
                        "isolated": _isolated(own, run, m),
                    }
                )
    notes = [
        "Accuracies here are fractions of 1. Standard error and interval are over items: binomial with "
        "Wilson's interval for 0/1 scores of one seed, ratio estimator with t interval otherwise. 'Without "
        "an answer' counts replies from which no answer could be read; they score 0. 'Cut' counts replies that "
        "reached max_new_tokens."
    ]
    if any(row["isolated"] is False for row in rows):
        notes.append("Where 'isolated' is False the code that the model wrote ran WITHOUT a sandbox.")
    return Table("All scores as numbers", list(rows[0]), rows, notes)


def _without_answer(own: Sequence[Result], run: str, measure: _results.Measure) -> int | None:
    """Replies from which no answer could be read, summed over seeds; None where the evaluator does not say."""
    members = [result for result in _members(own, run, measure) if "extracted" in result.extra]
    if members:
        return sum(not each for result in members for each in result.extra["extracted"])
    return _counted(own, run, measure, "unread")


def _counted(own: Sequence[Result], run: str, measure: _results.Measure, column: str) -> int | None:
    """Return a column that counts replies, summed over items and seeds; None where there is none."""
    members = [result.extra[column] for result in _members(own, run, measure) if column in result.extra]
    return sum(int(each) for values in members for each in values) if members else None


def _isolated(own: Sequence[Result], run: str, measure: _results.Measure) -> bool | None:
    """Return whether all code ran in a sandbox; None where none ran."""
    members = [result.extra["isolated"] for result in _members(own, run, measure) if "isolated" in result.extra]
    return all(each for values in members for each in values) if members else None


def _members(own: Sequence[Result], run: str, measure: _results.Measure) -> list[Result]:
    """Return a run's final results on one measure, or the base's, which is the same for all runs."""
    base = [result for result in own if result.stage == 0 and _results.measure_of(result) == measure]
    if run == BASE:
        return base[:1]
    return [r for r in own if r.final and r.run.name == run and _results.measure_of(r) == measure]

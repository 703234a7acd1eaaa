"""Strategy table: every run on every ability with counts and intervals, and the paired difference to one of them.

Dong et al., arXiv 2310.05492, table 1, with what it lacks: m/n, 95 % intervals, and for each cell whether it differs
from the reference on the same items.

    analyses: [strategy_table]
    analyses: [{strategy_table: {reference: mixed_sequential}}]
    analyses: [{strategy_table: {references: {multi_task count=100: multi_task share=1/4}}}]    # pairs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from cuvee.analyses import _results
from cuvee.analyses._paired import LEGEND, SIGNS, Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import BASE, Measure, Panel
from cuvee.analyses._stats import Estimate, Sample, estimate
from cuvee.errors import UsageError, did_you_mean
from cuvee.protocols import Figure, Result, Table

VERSION = 1


class Params(Resampled):
    """Args:
    reference: name of the run that others are compared with; the first multi-task run, else the first run.
    references: for runs that are compared with another one, its name by theirs.
    """

    reference: str | None = None
    references: Mapping[str, str] = Field(default_factory=dict)


Samples = Mapping[str, Mapping[Measure, Sample]]
Tests = Mapping[tuple[str, Measure], Tested]


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model and panel of measures one table.

    Raises:
        UsageError: the reference is no run.
    """
    names = _results.bases(results)
    runs = _results.runs(results)
    if params.reference is not None and params.reference not in runs:
        raise UsageError(f"there is no run '{params.reference}'.{did_you_mean(params.reference, runs)}")
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        tables += _of_base(own, params, base, len(names) > 1)
    return tables or [Table("Strategies by ability", ["run"], [], ["Nothing to show: no final model is measured."])]


def _of_base(own: Sequence[Result], params: Params, base: str, several: bool) -> list[Table]:
    samples = _results.final_samples(own)
    if not set(samples) - {BASE}:
        return []
    reference = params.reference or _reference(own, samples)
    against = {run: params.references.get(run, reference) for run in samples}
    pairs = {
        (run, measure): (measure, of, samples[against[run]][measure])
        for run, by in samples.items()
        for measure, of in by.items()
        if run != against[run] and measure in samples.get(against[run], {})
    }
    tests, refused = tested(pairs, params.resamples, params.seed)
    finals = [result for result in own if result.final or result.stage == 0]
    made = []
    for panel in _results.panels(finals):
        title = _results.titled(f"Strategies by ability: {panel.title}", base, several)
        made.append(_panel(panel, samples, tests, refused, against, title))
    absent = [name for pair in params.references.items() for name in pair if name not in samples]
    if absent and made:
        note = f"Not measured, so nothing is compared with it: {', '.join(dict.fromkeys(absent))}."
        made[0] = replace(made[0], notes=[*made[0].notes, note])
    return made


def _reference(own: Sequence[Result], samples: Samples) -> str:
    runs = [run for name, run in _results.runs(own).items() if name in samples and run.strategy != "untrained"]
    whole = [run.name for run in runs if run.strategy == "multi_task"]
    return next(iter([*whole, *(run.name for run in runs), *samples]))


def _panel(
    panel: Panel,
    samples: Samples,
    tests: Tests,
    refused: Sequence[tuple[str, Measure]],
    against: Mapping[str, str],
    title: str,
) -> Table:
    rows: list[dict[str, Any]] = []
    to = panel.scale
    several = len(set(against.values())) > 1
    other = "the run it is set against" if several else next(iter(against.values()))
    for run, by in samples.items():
        if not any(measure in by for measure in panel.measures):
            continue
        row: dict[str, Any] = {"run": run}
        if several:
            row["set against"] = against[run] if against[run] != run else None
        for measure in panel.measures:
            name = panel.column(measure)
            row[f"{name} ({to.short})"] = _score(estimate(by[measure]), to) if measure in by else "not measured"
            row[f"{name}: minus {other}"] = _difference(tests.get((run, measure)), run == against[run])
        rows.append(row)
    notes = [
        f"Score, 95 % interval, m/n; then the difference to {other} with its 95 % interval: {LEGEND} Unit: {to.label}.",
        test_note(len(tests)),
        *(f"{run}, {m.ability}: other items than {against[run]}; not compared." for run, m in refused),
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(title, columns, rows, notes, _figures(panel, samples, tests, other, title))


def _score(of: Estimate, to: _results.Scale) -> str:
    span = "" if of.low is None or of.high is None else f" ({to.text(of.low)}..{to.text(of.high)})"
    return f"{to.text(of.value)}{span}, {_results.count(of)}"


def _difference(test: Tested | None, is_reference: bool) -> str | None:
    if test is None:
        return "reference" if is_reference else None
    to, both = test.measure.scale, test.comparison
    return f"{to.signed(both.difference)} ({to.signed(both.low)}..{to.signed(both.high)}) {SIGNS[test.reading]}"


def _figures(panel: Panel, samples: Samples, tests: Tests, reference: str, title: str) -> list[Figure]:
    """The differences as a matrix: runs by ability, in the unit of the panel."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for run in samples:
        points: list[Mapping[str, Any]] = [
            {"x": panel.column(m), "y": tests[run, m].comparison.difference * panel.scale.factor}
            for m in panel.measures
            if (run, m) in tests
        ]
        if points:
            series[run] = points
    if not series:
        return []
    return [Figure("matrix", f"{title}, minus {reference}", "ability", f"difference ({panel.scale.unit})", series)]

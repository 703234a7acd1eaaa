"""k sweep: how much replay of the special sources DMT's second stage needs.

Dong et al., arXiv 2310.05492, section 4.3 and table 5: from k = 0 (which is mixed sequential training) to
1/256 both special and general abilities gain; from 1/256 to 1/4 they trade off; k has to be tuned. This
draws every ability against k with intervals, tests each k against k = 0 on the same items, and shows
multi-task training as a line.

    analyses: [k_sweep]     # runs: dmt with a list of k; mixed_sequential for k = 0; multi_task for the line
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field

from cuvee import canonical, protocols
from cuvee.analyses import _results
from cuvee.analyses._results import LEVEL, Measure, Panel
from cuvee.analyses._stats import RESAMPLES, Comparison, Sample, compare_all, estimate, holm
from cuvee.protocols import Figure, Result, RunInfo, Table

VERSION = 1


SIGNS = {"better than k = 0": "▲", "worse than k = 0": "▼", "not separable from k = 0": "·"}


class Params(protocols.Params):
    """Args:
    resamples: bootstrap resamples.
    seed: of the bootstrap.
    """

    resamples: Annotated[int, Field(ge=2000)] = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in k alone: run name by k, and the run that draws the reference line."""

    runs: Mapping[Fraction, str]
    reference: str | None


@dataclass(frozen=True)
class Gain:
    """One k against k = 0 on one measure."""

    comparison: Comparison
    p: float
    smallest: float
    reading: str


Samples = Mapping[str, Mapping[Measure, Sample]]
Gains = Mapping[tuple[Measure, Fraction], Gain]


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model and sweep an overview a panel (k by ability), then every comparison."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        found = sweeps(list(_results.runs(own).values()))
        for number, sweep in enumerate(found, 1):
            title = "DMT: scores against k" + (f", sweep {number}" if len(found) > 1 else "")
            tables += _sweep_tables(sweep, own, params, _results.titled(title, base, len(names) > 1))
    why = "No k sweep: the recipe has no `dmt` run that was evaluated. Add {strategy: dmt, k: [1/16, 1]}."
    return tables or [Table("DMT: scores against k", ["k"], [], [why])]


def share(value: Any) -> Fraction:
    """Return k as a fraction; runs give a Fraction, stored recipes the text ``1/256``."""
    return Fraction(str(value))


def sweeps(runs: Sequence[RunInfo]) -> list[Sweep]:
    """Group dmt runs that differ in k alone; add mixed sequential of equal parameters as k = 0."""
    groups: dict[str, dict[Fraction, str]] = {}
    for run in runs:
        if run.strategy == "dmt":
            groups.setdefault(_rest(run), {}).setdefault(share(run.params["k"]), run.name)
    for run in runs:
        if run.strategy == "mixed_sequential" and _rest(run) in groups:
            groups[_rest(run)].setdefault(Fraction(0), run.name)
    reference = next((run.name for run in runs if run.strategy == "multi_task"), None)
    return [Sweep(dict(sorted(by_k.items())), reference) for by_k in groups.values()]


def _rest(run: RunInfo) -> str:
    return canonical.text({name: value for name, value in run.params.items() if name != "k"})


def _sweep_tables(sweep: Sweep, own: Sequence[Result], params: Params, title: str) -> list[Table]:
    wanted = {*sweep.runs.values(), sweep.reference}
    finals = [result for result in own if result.final and result.run.name in wanted]
    samples = _results.final_samples(finals)
    gains, refused = _gains(sweep, samples, _results.measures(finals), params)
    rows = [
        _row(k, run, measure, samples[run][measure], gains.get((measure, k)) if k is not None else None)
        for measure in _results.measures(finals)
        for k, run in [*sweep.runs.items(), (None, sweep.reference)]
        if run and measure in samples.get(run, {})
    ]
    if not rows:
        return [Table(title, ["k"], [], ["Nothing to show: the runs of the sweep have not been evaluated."])]
    overviews = [_overview(panel, sweep, samples, gains, title) for panel in _results.panels(finals)]
    return [
        *overviews,
        Table(f"{title}, every comparison", list(rows[0]), rows, [*_notes(sweep, gains), *refused]),
    ]


def _overview(panel: Panel, sweep: Sweep, samples: Samples, gains: Gains, title: str) -> Table:
    """One row a k, one column an ability: the score with a sign for its difference to k = 0."""
    header = {measure: f"{panel.column(measure)} ({panel.scale.short})" for measure in panel.measures}
    rows = [
        {"k": "reference" if k is None else str(k), "run": run, **_cells(header, samples[run], gains, k)}
        for k, run in [*sweep.runs.items(), (None, sweep.reference)]
        if run and run in samples
    ]
    notes = [_sentence(m, gains) for m in panel.measures if any(m == each for each, _ in gains)]
    notes.append("▲ better, ▼ worse than k = 0 (Holm-corrected p < 0.05), · not separable. Value ± standard error.")
    figure = _figure(panel, sweep, samples, title)
    return Table(f"{title}: {panel.title}", ["k", "run", *header.values()], rows, notes, [figure])


def _cells(
    header: Mapping[Measure, str], by: Mapping[Measure, Sample], gains: Gains, k: Fraction | None
) -> dict[str, str]:
    cells = {}
    for measure, name in header.items():
        gain = gains.get((measure, k)) if k is not None else None
        sign = f" {SIGNS[gain.reading]}" if gain else ""
        known = measure in by
        cells[name] = _results.cell(estimate(by[measure]), measure.scale) + sign if known else "not measured"
    return cells


def _gains(sweep: Sweep, samples: Samples, measures: Sequence[Measure], params: Params) -> tuple[Gains, list[str]]:
    """Compare every k with k = 0, corrected over all measures and k."""
    start = samples.get(sweep.runs.get(Fraction(0), ""), {})
    kept, refused = {}, []
    for measure in measures:
        for k, run in sweep.runs.items():
            if k == 0 or measure not in start or measure not in samples.get(run, {}):
                continue
            new, old = samples[run][measure], start[measure]
            if new.items == old.items and (new.weights == old.weights).all():
                kept[measure, k] = (new, old)
            else:
                refused.append(f"{run}, {measure.ability}: other items than k = 0; not compared.")
    compared = compare_all(list(kept.values()), resamples=max(params.resamples, 80 * len(kept)), seed=params.seed)
    corrected = holm([each.p for each in compared])
    alpha = LEVEL / max(1, len(kept))
    return {
        key: Gain(each, p, each.smallest(alpha), _reading(each, p, key[0]))
        for key, each, p in zip(kept, compared, corrected, strict=True)
    }, refused


def _reading(both: Comparison, p: float, measure: Measure) -> str:
    if p >= LEVEL or not both.one_direction:
        return "not separable from k = 0"
    return "better than k = 0" if measure.scale.better(both.difference) else "worse than k = 0"


def _row(k: Fraction | None, run: str, measure: Measure, of: Sample, gain: Gain | None) -> dict[str, Any]:
    to, both = measure.scale, gain.comparison if gain else None
    return {
        "ability": measure.ability,
        "evaluator": measure.evaluator,
        "unit": to.short,
        "k": "reference" if k is None else str(k),
        "run": run,
        "score": _results.cell(estimate(of), to),
        "difference to k = 0": both and to.signed(both.difference),
        "95 % interval": both and f"{to.signed(both.low)}..{to.signed(both.high)}",
        "p (Holm)": gain and gain.p,
        "smallest visible": gain and to.text(gain.smallest),
        "reading": gain.reading if gain else "start" if k == 0 else "",
    }


def _notes(sweep: Sweep, gains: Gains) -> list[str]:
    if Fraction(0) not in sweep.runs:
        return ["There is no k = 0 to compare with: add {strategy: mixed_sequential} with the same parameters."]
    return [
        f"k = 0 is mixed sequential training ({sweep.runs[Fraction(0)]}). Each k is compared with it on the "
        "same items; exact McNemar test for 0/1 scores of one seed, paired bootstrap otherwise; p "
        f"Holm-corrected over all {len(gains)} comparisons; intervals are 95 % each, uncorrected.",
        "A true difference below the smallest visible one would be missed more than one time in five.",
    ]


def _sentence(measure: Measure, gains: Gains) -> str:
    """Which k did something, in one sentence for one measure."""
    words = []
    for reading in ("better than k = 0", "worse than k = 0", "not separable from k = 0"):
        ks = [str(k) for (m, k), gain in gains.items() if m == measure and gain.reading == reading]
        words += [f"{reading} at {', '.join(ks)}"] if ks else []
    return f"{measure.ability} ({measure.evaluator}): {'; '.join(words)}."


def _figure(panel: Panel, sweep: Sweep, samples: Samples, title: str) -> Figure:
    """Each ability against k; the reference run as a level line in the ability's colour (`x` is None)."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for measure in panel.measures:
        name = panel.column(measure)
        series[name] = [
            _results.point(float(k), estimate(samples[run][measure]), panel.scale)
            for k, run in sweep.runs.items()
            if measure in samples.get(run, {})
        ]
        level = samples.get(sweep.reference or "", {}).get(measure)
        if level is not None:
            line = _results.point(None, estimate(level), panel.scale)
            series[f"{name}, {sweep.reference}"] = [{**line, "like": name}]
    y_label = f"{panel.measures[0].metric} ({panel.scale.label})"
    return Figure(
        "points",
        f"{title}: {panel.title}",
        "k (share replayed; 0 is mixed sequential)",
        y_label,
        {name: points for name, points in series.items() if points},
        "log",
    )

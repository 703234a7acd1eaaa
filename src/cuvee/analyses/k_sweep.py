"""k sweep: how much replay of the special sources DMT's second stage needs.

Dong et al., arXiv 2310.05492, section 4.3 and table 5: from k = 0 (which is mixed sequential training) to
1/256 both special and general abilities gain; from 1/256 to 1/4 they trade off; k has to be tuned. This
draws every ability against k with intervals, tests each k against k = 0 on the same items, and shows
multi-task training as a line. Runs are compared only with runs of equal training settings: a `dmt` run with
settings of its own belongs to a sweep of its own.

    analyses: [k_sweep]     # runs: dmt with a list of k; mixed_sequential for k = 0; multi_task for the line
    analyses: [{k_sweep: {weights: {general: 2, math: 1}}}]     # what the recommended k goes by
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field

from cuvee import canonical
from cuvee.analyses import _results, _verdict
from cuvee.analyses._chance import draws_for
from cuvee.analyses._knee import Choice, Knee, knee
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import LEVEL, Measure, Panel
from cuvee.analyses._stats import Comparison, Sample, compare_all, estimate, holm
from cuvee.protocols import NOTHING_SELECTED, Figure, Result, RunInfo, Table

VERSION = 3

SEEDS = "seeds disagree"
SIGNS = {"better than k = 0": "▲", "worse than k = 0": "▼", "not separable from k = 0": "·", SEEDS: "≠"}


class Params(Resampled):
    """Args:
    weights: what each ability counts for in the recommended k; 1 where it is not named.
    """

    weights: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in k alone: run name by k, and the run that draws the reference line.

    Args:
        runs: by k.
        reference: the multi-task run with the same training settings.
        settings: what all of them share, for people.
        notes: what belongs here and is not shown, and why.
    """

    runs: Mapping[Fraction, str]
    reference: str | None
    settings: str = ""
    notes: tuple[str, ...] = ()


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
            if len(found) > 1:
                sweep = replace(sweep, notes=(f"This sweep: {sweep.settings}.", *sweep.notes))
            tables += _sweep_tables(sweep, own, params, _results.titled(title, base, len(names) > 1))
    why = "No k sweep: the recipe has no `dmt` run that was evaluated. Add {strategy: dmt, k: [1/16, 1]}."
    return tables or [Table("DMT: scores against k", ["k"], [], [why])]


def share(value: Any) -> Fraction:
    """Return k as a fraction; runs give a Fraction, stored recipes the text ``1/256``."""
    return Fraction(str(value))


def sweeps(runs: Sequence[RunInfo]) -> list[Sweep]:
    """Group dmt runs that differ in k alone; add mixed sequential of equal parameters and training as k = 0.

    A run that could belong to a sweep and does not is named in the notes of the sweeps.
    """
    groups: dict[str, list[RunInfo]] = {}
    for run in runs:
        if run.strategy == "dmt":
            groups.setdefault(_rest(run), []).append(run)
    starts = [run for run in runs if run.strategy == "mixed_sequential"]
    # A dmt run with k = 0 is mixed sequential, and goes first.
    found = [
        _sweep([*members, *(run for run in starts if _rest(run) == rest)], runs) for rest, members in groups.items()
    ]
    lost = [
        f"{run.name} is k = 0 of no sweep: no dmt run shares its {_settings(run)}."
        for run in starts
        if _rest(run) not in groups
    ]
    trained = {(_training(members[0]), members[0].selection) for members in groups.values()}
    lost += [
        f"{run.name} is the reference of no sweep: no dmt run shares its {_settings(run)}."
        for run in runs
        if _is_whole(run) and (_training(run), run.selection) not in trained
    ]
    return [replace(sweep, notes=(*sweep.notes, *lost)) for sweep in found]


def _sweep(members: Sequence[RunInfo], runs: Sequence[RunInfo]) -> Sweep:
    """One sweep; of several runs with equal k the first, and of several references the first."""
    by_k: dict[Fraction, str] = {}
    notes = []
    for run in members:
        k = share(run.params.get("k", 0))
        if by_k.setdefault(k, run.name) != run.name:
            notes.append(f"{run.name} is not shown: {by_k[k]} has the same k and the same settings.")
    same = (_training(members[0]), members[0].selection)
    equal = [run.name for run in runs if _is_whole(run) and (_training(run), run.selection) == same]
    notes += [f"{name} is not shown: {equal[0]} is the reference." for name in equal[1:]]
    if not equal and any(_is_whole(run) for run in runs):
        notes.append("There is no reference line: no multi_task run has the training settings of this sweep.")
    return Sweep(dict(sorted(by_k.items())), equal[0] if equal else None, _settings(members[0]), tuple(notes))


def _is_whole(run: RunInfo) -> bool:
    """Whether a run is multi-task training on everything."""
    part = share(run.params.get("share", 1)) != 1 or run.params.get("count") is not None
    own = run.select not in ("", NOTHING_SELECTED)
    return run.strategy == "multi_task" and not part and not run.sources and not own


def _rest(run: RunInfo) -> str:
    """Everything of a run but k."""
    rest = {name: value for name, value in run.params.items() if name != "k"}
    return canonical.text([rest, _training(run), str(dict(run.sources)), run.selection])


def _training(run: RunInfo) -> str:
    """A run's own training settings; 2e-5 as text and as a number are one."""
    return canonical.text({name: _number(value) for name, value in run.training.items()})


def _number(value: Any) -> Any:
    """A number as a float, also where it is written as text (YAML reads 2e-5 so); other values as they are."""
    if isinstance(value, bool):
        return value
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError, OverflowError):
        return value


def _settings(run: RunInfo) -> str:
    """Parameters and training settings in words: ``general=general, training as in the recipe``."""
    words = [f"{name}={value}" for name, value in run.params.items() if name != "k"]
    own = ", ".join(f"{name}={value}" for name, value in run.training.items())
    return ", ".join([*words, f"training with {own}" if own else "training as in the recipe"])


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
        why = "Nothing to show: the runs of the sweep have not been evaluated."
        return [Table(title, ["k"], [], [why, *sweep.notes])]
    unmeasured = [
        f"{run} (k = {k}) is not shown: its final model is not measured."
        for k, run in sweep.runs.items()
        if run not in samples
    ]
    notes = [*sweep.notes, *unmeasured, *refused]
    overviews = [_overview(panel, sweep, samples, gains, title) for panel in _results.panels(finals)]
    if notes and overviews:
        overviews[0] = replace(overviews[0], notes=[*overviews[0].notes, *notes])
    chosen = _which(sweep, samples, _results.measures(finals), params, title)
    return [
        *overviews,
        *chosen,
        Table(f"{title}, every comparison", list(rows[0]), rows, [*_notes(sweep, gains), *notes]),
    ]


def _which(sweep: Sweep, samples: Samples, measures: Sequence[Measure], params: Params, title: str) -> list[Table]:
    """Which k to take under the user's weights: the smallest within one standard error of the best."""
    if len(sweep.runs) < 2:
        return []
    primary = _verdict.primary(measures)
    found = knee(sweep.runs, samples, primary, params.weights, params.resamples, params.seed)
    unknown = sorted(set(params.weights) - {measure.ability for measure in primary})
    notes = [_recommendation(found), *(f"A weight is given for {name}, which is not measured." for name in unknown)]
    rows = [_choice_row(each, found) for each in found.choices]
    return [Table(f"{title}: which k", list(rows[0]) if rows else ["k"], rows, notes, answers=1)]


def _recommendation(found: Knee) -> str:
    shares = ", ".join(f"{name} {weight:g}" for name, weight in found.weights.items())
    if found.recommended is None:
        return f"No k is recommended: {found.refusal}."
    best = found.best
    head = f"k = {found.recommended} is recommended"
    within = "within one standard error of the paired difference"
    if found.recommended == best:
        why = f"the best by weighted score, and no smaller k is {within}"
    else:
        why = f"the smallest k {within} to the best ({best})"
    return (
        f"{head}: {why}. Weights: {shares}; by "
        f"{found.measures[0].metric}. 'Best in' is how often a k comes first among the draws; a choice, not a test."
    )


def _choice_row(each: Choice, found: Knee) -> dict[str, Any]:
    to = found.measures[0].scale
    known = each.low is not None and each.high is not None and each.behind > 0
    return {
        "k": str(each.k),
        f"weighted score ({to.short})": to.text(each.value),
        f"behind the best ({to.unit})": to.text(each.behind),
        "95 % interval": f"{to.signed(each.low or 0.0)}..{to.signed(each.high or 0.0)}" if known else None,
        "standard error": to.text(each.se),
        "best in": f"{each.best_in:.0%}",
        "reading": "recommended" if each.k == found.recommended else "",
    }


def _overview(panel: Panel, sweep: Sweep, samples: Samples, gains: Gains, title: str) -> Table:
    """One row a k, one column an ability: the score with a sign for its difference to k = 0."""
    header = {measure: f"{panel.column(measure)} ({panel.scale.short})" for measure in panel.measures}
    rows = [
        {"k": "reference" if k is None else str(k), "run": run, **_cells(header, samples[run], gains, k)}
        for k, run in [*sweep.runs.items(), (None, sweep.reference)]
        if run and run in samples
    ]
    found = [_sentence(m, gains) for m in panel.measures if any(m == each for each, _ in gains)]
    notes = [
        *found,
        "▲ better, ▼ worse than k = 0 (Holm-corrected p < 0.05), ≠ seeds disagree on the sign, · not separable. "
        "Value ± standard error.",
    ]
    figure = _figure(panel, sweep, samples, title)
    return Table(f"{title}: {panel.title}", ["k", "run", *header.values()], rows, notes, [figure], len(found))


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
    compared = compare_all(list(kept.values()), resamples=draws_for(len(kept), params.resamples), seed=params.seed)
    corrected = holm([each.p for each in compared])
    alpha = LEVEL / max(1, len(kept))
    return {
        key: Gain(each, p, each.smallest(alpha), _reading(each, p, key[0]))
        for key, each, p in zip(kept, compared, corrected, strict=True)
    }, refused


def _reading(both: Comparison, p: float, measure: Measure) -> str:
    if p >= LEVEL:
        return "not separable from k = 0"
    if not both.one_direction:
        return SEEDS
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
        return [
            "There is no k = 0 to compare with: add {strategy: mixed_sequential} with the same parameters and "
            "the same training settings."
        ]
    return [
        f"k = 0 is mixed sequential training ({sweep.runs[Fraction(0)]}). Each k is compared with it on the "
        "same items; exact McNemar test for 0/1 scores of one seed, paired permutation test otherwise; p "
        f"Holm-corrected over all {len(gains)} comparisons; intervals are 95 % each, over items, uncorrected; with "
        "several seeds a difference has to keep its sign in each.",
        "A true difference below the smallest visible one would be missed more than one time in five.",
    ]


def _sentence(measure: Measure, gains: Gains) -> str:
    """Which k did something, in one sentence for one measure."""
    words = []
    for reading in SIGNS:
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

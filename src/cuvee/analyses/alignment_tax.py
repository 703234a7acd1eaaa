"""Alignment tax: what an ability gains while a run is trained, and what of it the rest of the training takes back.

Fu et al., arXiv 2405.13432, pilot study: along instruction tuning benchmarks rise on the first rows, then fall. Here
every point is compared with the base on the same items, and what chance explains is told apart.

    x = trained steps / steps of all the run's trainings        the base is 0, the final model 1
    gain = best - base        tax = best - final        best: the highest mean of all points, the base included

    training: {marks: [1/10, 1/4, 1/2]}, evaluation: [{arc: {stages: all}}], analyses: [alignment_tax]

A best point is chosen by looking, so its own interval would promise too much. For a gain and a tax there are intervals
of the differences d_j of all m other points at level 1 - 0.05 / m (Bonferroni), which hold together; the true largest
difference then lies between the largest lower and the largest upper end, and is 0 at least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cuvee.analyses import _loss_ratio, _results
from cuvee.analyses._bootstrap import resampled_means
from cuvee.analyses._chance import draws_for, stream
from cuvee.analyses._draws import FEWEST_ITEMS
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import LEVEL, Measure
from cuvee.analyses._stats import Comparison, Sample, bonett_price, comparable, compare_all, estimate, holm
from cuvee.errors import UsageError
from cuvee.protocols import Figure, Result, Table

VERSION = 1
MARKS = True

TITLE = "Alignment tax"
Ends = tuple[float, float]


class Params(Resampled):
    """Of the resampling alone."""


@dataclass(frozen=True, eq=False)
class Point:
    """A model on a run's way: `done` is the share of the run's training behind it, `key` names it in any run."""

    done: float
    label: str
    sample: Sample
    key: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Curve:
    """One run on one measure, its points in order: the base first where it was measured, the final model last.

    `merged` says that several trainings lie side by side behind a point, so that there is no one way to it.
    """

    run: str
    measure: Measure
    points: tuple[Point, ...]
    merged: bool = False

    @property
    def base(self) -> Point | None:
        """The untrained model, if it was measured."""
        return self.points[0] if self.points[0].done == 0 else None

    @property
    def best(self) -> Point:
        """The point with the best mean; of equal ones the last, so that no tax is seen where there is none."""
        sign = 1 if self.measure.higher_is_better else -1
        return max(reversed(self.points), key=lambda point: sign * point.sample.value)


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model what every run gains and pays on every ability, and all points with their tests."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        tables += _of_base(own, params, f", base model {base}" if len(names) > 1 else "")
    return tables or [Table(TITLE, ["run"], [], ["Nothing to compare: there are no results."])]


def _of_base(own: Sequence[Result], params: Params, where: str) -> list[Table]:
    curves, missing = _curves(own)
    if not curves:
        why = "Nothing to compare: no run has its final model measured together with its base or a mark."
        return [Table(TITLE + where, ["run"], [], [why, *missing])]
    changes, corrected = _changes(curves, params)
    rows = [_row(curve, params) for curve in curves]
    taxed = _taxed(rows)
    summary = [*taxed, *_thin(curves), *missing]
    figures = [
        _figure(measure, [curve for curve in curves if curve.measure == measure and curve.base], changes, where)
        for measure in dict.fromkeys(curve.measure for curve in curves if curve.base)
    ]
    points = [row for curve in curves for row in _point_rows(curve, changes, corrected)]
    ratios = _loss_ratio.table((result.run for result in own), _falls(curves), where)
    return [
        Table(TITLE + where, _columns(rows, ("SD between seeds",)), rows, [*summary, *_SAID], figures, len(taxed)),
        Table(f"{TITLE}: all points{where}", list(points[0]), points, _points_said(len(changes))),
        *ratios,
    ]


# ---------------------------------------------------------------------------------------------------- curves


def _curves(own: Sequence[Result]) -> tuple[list[Curve], list[str]]:
    """Return each run's curve on each measure, and what cannot be shown."""
    grouped: dict[tuple[str, Measure], dict[tuple[int, Fraction], list[Result]]] = {}
    for result in own:
        place = (result.stage, result.fraction if result.stage else Fraction(0))
        grouped.setdefault((result.run.name, _results.measure_of(result)), {}).setdefault(place, []).append(result)
    curves, missing = [], []
    alone: dict[Measure, list[str]] = {}
    for (run, measure), by_place in grouped.items():
        if max(by_place)[0] == 0:
            continue  # a run that trains nothing
        if len(by_place) == 1:
            alone.setdefault(measure, []).append(run)
            continue
        curve, left_out = _curve(run, measure, by_place)
        missing += [f"{run}, {measure.evaluator} on {measure.ability}: {why}." for why in left_out]
        if curve is not None:
            curves.append(curve)
    for measure, runs in alone.items():
        what = f"{measure.evaluator} on {measure.ability}"
        missing.append(
            f"{what} is measured at one model only of {_results.listed(runs)}; `stages: all` measures the rest."
        )
    return curves, missing


def _curve(
    run: str, measure: Measure, by_place: Mapping[tuple[int, Fraction], list[Result]]
) -> tuple[Curve | None, list[str]]:
    last = max(by_place)
    finals = [result for result in by_place[last] if result.final]
    if not finals:
        return None, ["the final model is not measured, so there is no tax to tell"]
    try:
        end = _point(1.0, finals)
    except UsageError as error:
        return None, [str(error)]
    points, left_out = [], []
    for place in sorted(set(by_place) - {last}):
        label = "the base" if place[0] == 0 else f"stage {place[0]} at {place[1]}"
        try:
            # The base is the same model at every seed.
            members = by_place[place][:1] if place[0] == 0 else by_place[place]
            point = _point(_results.share_done(finals[0].run, last[0], place), members)
            comparable(point.sample, end.sample)
        except UsageError as error:
            left_out.append(f"{label} is left out: {error}")
            continue
        if place[0] and point.sample.seeds != end.sample.seeds:
            left_out.append(f"{label} is left out: it is measured at other seeds than the final model")
            continue
        points.append(point)
    if not points or points[0].done:
        left_out.append("the base is not measured, so there are no differences to it")
    merged = len(finals[0].run.trainings) > last[0]
    return (Curve(run, measure, (*points, end), merged) if points else None), left_out


def _point(done: float, members: Sequence[Result]) -> Point:
    first = members[0]
    key = tuple(sorted(r.stage_id or f"{r.run.name} {r.run.seed} {r.stage} {r.fraction}" for r in members))
    label = "base" if first.stage == 0 else first.stage_label
    return Point(done, label, _results.seeds_joined(members), key)


def _falls(curves: Sequence[Curve]) -> dict[str, dict[float, dict[int, list[float]]]]:
    """Return by run, place and seed how far the loss on each ability has fallen below the base's."""
    found: dict[str, dict[float, dict[int, list[float]]]] = {}
    for curve in curves:
        if curve.measure.metric != "loss" or curve.base is None:
            continue
        for point in curve.points[1:]:
            by_seed = found.setdefault(curve.run, {}).setdefault(point.done, {})
            for seed, value in zip(point.sample.seeds, point.sample.seed_values, strict=True):
                by_seed.setdefault(seed, []).append(curve.base.sample.value - float(value))
    return found


# --------------------------------------------------------------------------------------------- differences


Key = tuple[Measure, tuple[str, ...], tuple[str, ...]]


def _changes(curves: Sequence[Curve], params: Params) -> tuple[dict[Key, Comparison], dict[Key, float]]:
    """Compare each different model with its base once; return also the corrected p of each."""
    different: dict[Key, tuple[Sample, Sample]] = {}
    for curve in curves:
        for point in curve.points[1:] if curve.base else ():
            different[_key(curve, point)] = (point.sample, curve.points[0].sample)
    asked = list(different.values())
    compared = compare_all(asked, resamples=draws_for(len(asked), params.resamples), seed=params.seed)
    corrected = holm([each.p for each in compared])
    return dict(zip(different, compared, strict=True)), dict(zip(different, corrected, strict=True))


def _key(curve: Curve, point: Point) -> Key:
    return curve.measure, curve.points[0].key, point.key


def largest(curve: Curve, to: Point, params: Params) -> Ends | None:
    """Return the interval of the true difference between the best of a curve's points and the point `to`, 0 at least.

    None where there are too few items for an interval far out in the tails.
    """
    others = [point for point in curve.points if point is not to]
    if len(to.sample.items) < FEWEST_ITEMS:
        return None
    sign = 1 if curve.measure.higher_is_better else -1
    lows, highs = zip(*_together([p.sample for p in others], to.sample, sign, params), strict=True)
    return max(0.0, *lows), max(0.0, *highs)


def _together(news: Sequence[Sample], old: Sample, sign: int, params: Params) -> Iterator[Ends]:
    """Yield intervals of the differences `new - old` (turned round where less is better) that all hold together."""
    level = 1 - LEVEL / len(news)
    moves = np.stack([sign * (new.scores - old.scores) for new in news], axis=1)
    draws = None
    for place, new in enumerate(news):
        if new.zero_one and old.zero_one and len(new.seeds) == len(old.seeds) == 1:
            yield bonett_price(int((moves[:, place] > 0).sum()), int((moves[:, place] < 0).sum()), len(moves), level)
            continue
        if draws is None:
            # Beyond each end there must be draws enough to tell where it is.
            resamples = max(params.resamples, 400 * len(news))
            draws = resampled_means(moves, old.weights, resamples, stream(params.seed, old.items))
        low, high = np.quantile(draws[:, place], [(1 - level) / 2, (1 + level) / 2]).tolist()
        yield low, high


# ------------------------------------------------------------------------------------------- what is shown


_SAID = (
    "Gain is best minus base, tax best minus final; both in the direction that is better, and 0 where no point is "
    "better than the base or the final model. Their 95 % intervals allow for the best point being chosen by looking "
    f"(Bonferroni over the run's other points); there are none for fewer than {FEWEST_ITEMS} items.",
    "Intervals are over items; another training would differ by the luck of its seed as well. What lies between the "
    "measured points is not known.",
)


def _row(curve: Curve, params: Params) -> dict[str, Any]:
    to, best, final, base = curve.measure.scale, curve.best, curve.points[-1], curve.base
    end = estimate(final.sample)
    tax = largest(curve, final, params)
    return {
        "run": curve.run,
        "ability": curve.measure.ability,
        "evaluator": curve.measure.evaluator,
        "unit": to.short,
        "points": len(curve.points),
        "largest gain": None if base is None else to.text(abs(best.sample.value - base.sample.value)),
        "gain, 95 % interval": None if base is None else _span(largest(curve, base, params), curve),
        "reached at": f"{best.done:.3g} ({best.label})",
        "best": to.text(best.sample.value),
        "final": _results.cell(end, to),
        "SD between seeds": None if end.seed_sd is None else to.text(end.seed_sd),
        "tax": to.text(abs(best.sample.value - final.sample.value)),
        "tax, 95 % interval": _span(tax, curve),
        "verdict": _verdict(curve, tax),
    }


def _span(ends: Ends | None, curve: Curve) -> str | None:
    to = curve.measure.scale
    return None if ends is None else f"{to.text(ends[0])}..{to.text(ends[1])}"


def _verdict(curve: Curve, tax: Ends | None) -> str:
    """A tax is one that chance does not explain and that every seed has paid."""
    if tax is None or tax[0] <= 0:
        return "no tax seen"
    best, final = curve.best.sample, curve.points[-1].sample
    sign = 1 if curve.measure.higher_is_better else -1
    everywhere = bool((sign * (best.seed_values - final.seed_values) > 0).all())
    return "tax" if everywhere else "seeds differ"


def _columns(rows: Sequence[Mapping[str, Any]], optional: Sequence[str]) -> list[str]:
    return [name for name in rows[0] if name not in optional or any(row[name] is not None for row in rows)]


def _taxed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    paid = [row for row in rows if row["verdict"] == "tax"]
    told = [
        f"{row['run']} pays {row['tax']} {row['unit'][:-2]} of {row['ability']} ({row['evaluator']}): best at "
        f"{row['reached at']}."
        for row in paid
    ]
    return told or ["No run was seen to pay a tax on any ability."]


def _thin(curves: Sequence[Curve]) -> list[str]:
    bare = [curve for curve in curves if len(curve.points) - bool(curve.base) < 2]
    thin = list(dict.fromkeys(curve.run for curve in bare if not curve.merged))
    merged = list(dict.fromkeys(curve.run for curve in bare if curve.merged))
    told = []
    if thin:
        whose = "their ways" if len(thin) > 1 else "its way"
        remedy = "training: {marks: [1/4, 1/2, 3/4]} and `stages: all` in an evaluator measure it"
        told.append(f"{_results.listed(thin)}: nothing on {whose} to the final model is measured; {remedy}.")
    if merged:
        verb = "are" if len(merged) > 1 else "is"
        told.append(
            f"{_results.listed(merged)} {verb} merged of several trainings, which have no way in common: only the end "
            "is a point, to be set against the other runs' ways and ends."
        )
    return told


def _point_rows(
    curve: Curve, changes: Mapping[Key, Comparison], corrected: Mapping[Key, float]
) -> Iterator[dict[str, Any]]:
    to = curve.measure.scale
    for point in curve.points:
        change = changes.get(_key(curve, point)) if curve.base and point.done else None
        known = change is not None and np.isfinite(change.low)
        yield {
            "run": curve.run,
            "ability": curve.measure.ability,
            "evaluator": curve.measure.evaluator,
            "done": f"{point.done:.3g}",
            "model": point.label,
            "unit": to.short,
            "score": _results.cell(estimate(point.sample), to),
            "change to the base": change and to.signed(change.difference),
            "95 % interval": f"{to.signed(change.low)}..{to.signed(change.high)}" if change and known else None,
            "p (Holm)": corrected[_key(curve, point)] if change and known else None,
        }


def _points_said(comparisons: int) -> list[str]:
    return [
        "`done` is the share of the run's training steps. Change is to the base model on the same items: exact "
        "McNemar test for 0/1 scores of one seed, paired permutation test otherwise. Intervals are 95 % each, "
        f"uncorrected; p is Holm-corrected over the {comparisons} different models of this table.",
    ]


def _figure(measure: Measure, curves: Sequence[Curve], changes: Mapping[Key, Comparison], where: str) -> Figure:
    to = measure.scale
    series: dict[str, list[dict[str, Any]]] = {}
    for curve in curves:
        # A line from the base to a merged model would show a way that there is not.
        series[curve.run] = [] if curve.merged else [{"x": 0.0, "y": 0.0, "low": None, "high": None}]
        for point in curve.points[1:]:
            change = changes[_key(curve, point)]
            low, high = _results.in_unit(change.low, to), _results.in_unit(change.high, to)
            series[curve.run].append({"x": point.done, "y": change.difference * to.factor, "low": low, "high": high})
    title = f"{measure.ability} along the training ({measure.evaluator}){where}"
    y_label = f"{measure.metric}, change to the base ({to.label})"
    return Figure("points", title, "share of the run's training steps", y_label, series, "linear")

"""Scaling: how each ability grows with its data, by which law, and from where on more bought nothing measurable.

Dong et al., arXiv 2310.05492, section 3.2 and figure 2 (RQ1): mathematics keeps improving with data, general ability
comes with about a thousand rows and then hardly moves. They draw single runs; here each curve has a logarithmic and a
power law with bootstrap bands, and every pair of amounts a paired test.

    analyses: [scaling]     # runs: {strategy: single, source: [math], share: [1, 1/4, 1/16, 1/64]}
    analyses: [scaling, {scaling: {against: tokens}}]

A curve is made of runs of one training that differ in amount alone. Plateau: the least amount that no larger one is
measurably better than (Holm over all pairs of the table); with it stands what gain could have been missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from cuvee.analyses import _results
from cuvee.analyses._amounts import AmountCurve, Seen, curves, seen
from cuvee.analyses._draws import Cloud, cloud, interval, unmoved
from cuvee.analyses._fits import Fit, fit
from cuvee.analyses._paired import BETTER, Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import Measure
from cuvee.analyses._stats import Sample, estimate
from cuvee.protocols import Figure, Result, Table

VERSION = 1

ASK = (
    "Nothing to draw: no ability was trained on at two amounts or more by runs that differ in amount alone. Add "
    "{strategy: single, source: math, share: [1, 1/4, 1/16]}."
)


class Params(Resampled):
    """Args:
    against: what the laws and figures have below: the ability's ``rows``, or its supervised ``tokens``.
    """

    against: Literal["rows", "tokens"] = "rows"


@dataclass(frozen=True, eq=False)
class Scaled:
    """One curve on one measure: laws, tests between its amounts, the plateau; `still` are the places of amounts at
    which every item has the same score."""

    measure: Measure
    curve: AmountCurve
    samples: Sequence[Sample]
    fits: Mapping[str, Fit]
    steps: Mapping[tuple[int, int], Tested]
    refusal: str = ""
    still: tuple[int, ...] = ()
    against: str = "rows"

    def amount(self, point: Seen) -> float:
        """Return how much of the ability's data a run saw, as the laws count it."""
        ability = self.curve.ability
        return point.tokens_of(ability) if self.against == "tokens" else point.rows_of(ability)

    @property
    def best(self) -> Fit | None:
        """The law that is less off at a point it was not fitted to."""
        return min(self.fits.values(), key=lambda each: each.error, default=None)

    @property
    def plateau(self) -> int | None:
        """Place of the least amount that no larger one is measurably better than; None without tests."""
        last = len(self.curve.points) - 1
        if not self.steps:
            return None
        for i in range(last + 1):
            if not any(self.steps[i, j].reading == BETTER for j in range(i + 1, last + 1) if (i, j) in self.steps):
                return i
        return last

    def missed(self, place: int) -> float | None:
        """Return the largest gain beyond an amount that its intervals leave possible, as an improvement."""
        ends = [self.steps[i, j].gain_ends[1] for i, j in self.steps if i == place]
        return max(ends) if ends else None


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the curves with their laws and plateaus, then every point."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        tables += _of_base(own, params, base, len(names) > 1)
    return tables or [Table("Scaling with data", ["ability"], [], [ASK])]


def scaled(own: Sequence[Result], params: Params) -> list[Scaled]:
    """Return every curve of one base model on every measure of its ability."""
    samples = _results.final_samples(own)
    points = seen(own)
    found: list[tuple[Measure, AmountCurve, list[Sample]]] = []
    clouds: dict[Measure, Cloud] = {}
    for measure in _results.measures(result for result in own if result.final):
        kept = [point for point in points if measure in samples.get(point.run, {})]
        drawn = curves(kept, measure.ability)
        if not drawn:
            continue
        runs = dict.fromkeys(point.run for curve in drawn for point in curve.points)
        clouds[measure] = cloud({run: samples[run][measure] for run in runs}, params.resamples, params.seed)
        found += [(measure, curve, [samples[p.run][measure] for p in curve.points]) for curve in drawn]
    pairs = {
        (number, i, j): (measure, members[j], members[i])
        for number, (measure, _, members) in enumerate(found)
        for i, j in combinations(range(len(members)), 2)
    }
    tests, _ = tested(pairs, params.resamples, params.seed)
    return [
        _fitted(Scaled(m, curve, members, {}, _of(number, tests), against=params.against), clouds[m])
        for number, (m, curve, members) in enumerate(found)
    ]


def _of(number: int, tests: Mapping[tuple[int, int, int], Tested]) -> dict[tuple[int, int], Tested]:
    return {key[1:]: test for key, test in tests.items() if key[0] == number}


def _fitted(bare: Scaled, of: Cloud) -> Scaled:
    if of.refusal:
        return replace(bare, refusal=of.refusal)
    places = [place for place, point in enumerate(bare.curve.points) if point.run in of.values]
    measured = [bare.curve.points[place] for place in places]
    values, draws = of.take([point.run for point in measured])
    x = np.array([bare.amount(point) for point in measured])
    fits = {law: found for law in ("logarithmic", "power") if (found := fit(law, x, values, draws))}
    still = tuple(place for place, stays in zip(places, unmoved(draws), strict=True) if stays)
    return replace(bare, fits={law: f.without_noise() if still else f for law, f in fits.items()}, still=still)


# ------------------------------------------------------------------------------------------------- tables


def _of_base(own: Sequence[Result], params: Params, base: str, several: bool) -> list[Table]:
    every = scaled(own, params)
    what = "supervised tokens" if params.against == "tokens" else "data"
    title = _results.titled(f"Scaling with {what}", base, several)
    if not every:
        return [Table(title, ["ability"], [], [ASK, *missing(own)])]
    measures = dict.fromkeys(each.measure for each in every)
    figures = [_figure([each for each in every if each.measure == m], base, several) for m in measures]
    rows = [_row(each) for each in every]
    points = [_point(each, place) for each in every for place in range(len(each.curve.points))]
    tests = sum(len(each.steps) for each in every)
    return [
        Table(
            title,
            list(rows[0]),
            rows,
            [*_sentences(every), *_notes(every, tests), *missing(own)],
            figures,
            answers=len(every),
        ),
        Table(f"{title}, every amount", list(points[0]), points, ["Rows and tokens of one epoch, without repeats."]),
    ]


def missing(own: Sequence[Result]) -> list[str]:
    """Return a sentence where runs are left out because their trainings are not all finished or not described."""
    runs = {r.run.name for r in own if r.final and r.stage and not r.run.trainings}
    return [f"{len(runs)} runs do not say what they were trained on and are left out."] if runs else []


def _row(each: Scaled) -> dict[str, Any]:
    to, curve = each.measure.scale, each.curve
    log, power = each.fits.get("logarithmic"), each.fits.get("power")
    tokens = [point.tokens_of(curve.ability) for point in curve.points]
    return {
        "ability": curve.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "trained": curve.label,
        "amounts": len(curve.points),
        "rows": f"{curve.rows[0]:,.0f} to {curve.rows[-1]:,.0f}",
        "supervised tokens": f"{tokens[0]:,.0f} to {tokens[-1]:,.0f}",
        "per doubling": _with_interval(log, 1, to.signed),
        "exponent": _with_interval(power, 2, "{:.2f}".format),
        "tends to": _with_interval(power, 0, to.text),
        "off by, logarithmic": None if log is None or not np.isfinite(log.error) else to.text(log.error),
        "off by, power": None if power is None or not np.isfinite(power.error) else to.text(power.error),
        "plateau": plateau_words(each),
    }


def _with_interval(found: Fit | None, column: int, text: Any) -> str | None:
    if found is None:
        return None
    if found.law == "power" and not found.determined:
        return "not determined by these amounts" if column else None
    if not found.holds:
        return f"{text(found.parameters[column])} (law does not hold)"
    low, high = interval(found.draws[:, column])
    if low is None or high is None:
        return None if found.law == "power" else str(text(found.parameters[column]))
    return f"{text(found.parameters[column])} ({text(low)}..{text(high)})"


def plateau_words(each: Scaled) -> str:
    """Return from where on more data bought nothing measurable, and what could have been missed."""
    place, curve, to = each.plateau, each.curve, each.measure.scale
    if place is None:
        return "not tested"
    if place == len(curve.points) - 1:
        return "none, the largest amount is still better than the one before"
    could = each.missed(place)
    more = f", a gain of {to.text(max(0.0, could))} {to.unit} not ruled out" if could is not None else ""
    start = f"from {curve.rows[place]:,.0f} rows" if place else "no amount is better than the least"
    return f"{start}{more}"


def _sentences(every: Sequence[Scaled]) -> list[str]:
    words = []
    for each in every:
        who = f"{each.curve.ability} {each.curve.label} ({each.measure.evaluator})"
        log, to = each.fits.get("logarithmic"), each.measure.scale
        if log is not None:
            ends = interval(log.draws[:, 1]) if log.holds else (None, None)
            known = ends[0] is not None and ends[1] is not None
            span = (
                f", 95 % {to.signed(ends[0] or 0.0)}..{to.signed(ends[1] or 0.0)}"
                if known
                else " on average, no straight line"
            )
            span += f" (no interval: {_still(each)})" if each.still else ""
            gain = f"{to.signed(float(log.parameters[1]))} {to.unit} a doubling{span}; "
        else:
            gain = f"no law is fitted: {each.refusal or _few(each)}; "
        words.append(f"{who}: {gain}plateau: {plateau_words(each)}.")
    return words


def _still(each: Scaled) -> str:
    """Say at which amounts every item has the same score."""
    at = ", ".join(f"{each.curve.rows[place]:,.0f}" for place in each.still)
    return f"at {at} rows every item has the same score"


def _few(each: Scaled) -> str:
    if len(each.curve.points) < 3:
        return f"{len(each.curve.points)} amounts are too few"
    return "all amounts have the same score"


def _notes(every: Sequence[Scaled], tests: int) -> list[str]:
    seeds, x = min(len(of.seeds) for each in every for of in each.samples), every[0].against
    luck = (
        "One seed: bands hold what other items would have given, not what another training would."
        if seeds == 1
        else f"{seeds} seeds: bands hold what other items and other trainings would have given."
    )
    return [
        f"Logarithmic: score = a + b log2({x}), b is the gain per doubling. Power: score = a + s {x}^-exponent, a is "
        "what it tends to. 'Off by' is the root mean square error at each amount when the law is fitted to the others; "
        "the figure draws the law that is less off.",
        "A law does not hold where the points are further off it than their noise allows (p < 0.01): it is drawn "
        "without a band, and its numbers have no interval. They follow another law, or the luck of single trainings.",
        luck,
        test_note(tests),
    ]


def _point(each: Scaled, place: int) -> dict[str, Any]:
    to, point = each.measure.scale, each.curve.points[place]
    found, before = estimate(each.samples[place]), each.steps.get((place - 1, place))
    return {
        "ability": each.curve.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "trained": each.curve.label,
        "run": point.run,
        "rows": round(point.rows_of(each.curve.ability)),
        "supervised tokens": round(point.tokens_of(each.curve.ability)),
        "all rows": round(sum(point.rows.values())),
        "epochs": point.info.trainings[0].epochs,
        "score": _results.cell(found, to),
        **(before.columns("change from the amount before") if before else {}),
    } | ({} if before else dict.fromkeys(_CHANGE))


_CHANGE = ("change from the amount before", "95 % interval", "p (Holm)", "smallest visible", "reading")


def _figure(members: Sequence[Scaled], base: str, several: bool) -> Figure:
    """Scores against rows with error bars, and the better law of each curve with its band."""
    measure = members[0].measure
    to = measure.scale
    series: dict[str, list[Mapping[str, Any]]] = {}
    for each in members:
        name = each.curve.label
        series[name] = [
            _results.point(each.amount(point), estimate(of), to)
            for point, of in zip(each.curve.points, each.samples, strict=True)
        ]
        if each.best is not None:
            series[f"{name}, {each.best.law} law"] = band(each, each.best, name)
    tokens = members[0].against == "tokens"
    x = "supervised tokens" if tokens else "rows"
    data = "its supervised tokens" if tokens else "its data"
    title = _results.titled(f"{measure.ability} against {data} ({measure.evaluator})", base, several)
    y_label = f"{measure.metric} ({to.label})"
    return Figure("points", title, f"{x} of {measure.ability}, one epoch", y_label, series, "log")


def band(each: Scaled, found: Fit, like: str) -> list[Mapping[str, Any]]:
    """Return a law as points of a line with its 95 % band, in the colour of the series it belongs to."""
    to, points = each.measure.scale, each.curve.points
    xs = np.geomspace(each.amount(points[0]), each.amount(points[-1]), 41)
    middle, draws = found.at(xs)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    flat = bool((low == high).all()) or not found.holds
    return [
        {
            "x": float(x),
            "y": float(y) * to.factor,
            "low": None if flat else float(a) * to.factor,
            "high": None if flat else float(b) * to.factor,
            "like": like,
            "band": True,
        }
        for x, y, a, b in zip(xs, middle, low, high, strict=True)
    ]

"""Interpolation: the score along the straight line between two models, and whether a barrier stands between them.

    theta(t) = (1 - t) theta_0 + t theta_1        barrier(t) = L(theta(t)) - [(1 - t) L(theta_0) + t L(theta_1)]

Frankle et al., arXiv 1912.05671, section 2; theirs is the largest barrier over t, here each t is tested against the
line between the ends' scores, on the same items, and corrected for the others.

    runs: [{strategy: interpolation, between: portions, t: [0, 1/4, 1/2, 3/4, 1]}], analyses: [interpolation]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cuvee.analyses import _results
from cuvee.analyses._paired import WORSE, Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import Measure
from cuvee.analyses._stats import Sample, comparable, estimate
from cuvee.errors import UsageError
from cuvee.protocols import Figure, Result, Table

VERSION = 1
STRATEGY = "interpolation"
TITLE = "Interpolation"


class Params(Resampled):
    """Of the resampling alone."""


@dataclass(frozen=True, eq=False)
class Line:
    """One straight line on one measure: the samples by t, ascending."""

    name: str
    measure: Measure
    points: Mapping[Fraction, Sample]

    def chord(self, t: Fraction) -> Sample | None:
        """Return what the ends' scores, weighted as the weights are, say of each item; None without both ends."""
        if not {Fraction(0), Fraction(1)} <= set(self.points):
            return None
        first, last = self.points[Fraction(0)], self.points[Fraction(1)]
        between = (1 - float(t)) * first.by_seed + float(t) * last.by_seed
        return replace(first, by_seed=between, name="the line between the ends' scores", hits=None, trials=None)


Key = tuple[str, Measure, Fraction]


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base the scores along every line, each inner point against the line between its ends' scores."""
    own = [result for result in results if result.final and result.run.strategy == STRATEGY]
    if not own:
        remedy = "runs: [{strategy: interpolation, between: portions, t: [0, 1/4, 1/2, 3/4, 1]}] makes one"
        return [Table(TITLE, ["line"], [], [f"No model on a line between two is measured; {remedy}."])]
    names = _results.bases(own)
    return [
        _of_base([one for one in own if one.run.base == base], params, _results.titled(TITLE, base, len(names) > 1))
        for base in names
    ]


def _of_base(own: Sequence[Result], params: Params, title: str) -> Table:
    lines, left_out = _lines(own)
    pairs = {
        (line.name, line.measure, t): (line.measure, line.points[t], chord)
        for line in lines
        for t in line.points
        if 0 < t < 1 and (chord := line.chord(t)) is not None
    }
    found, _ = tested(pairs, params.resamples, params.seed)
    rows = [_row(line, t, found.get((line.name, line.measure, t))) for line in lines for t in line.points]
    figures = [
        _figure(measure, [line for line in lines if line.measure == measure], title)
        for measure in dict.fromkeys(line.measure for line in lines)
    ]
    notes = [*_said(lines, found), *left_out]
    notes += [test_note(len(found))] if found else []
    return Table(title, list(rows[0]), rows, notes, figures, answers=len(lines))


def _lines(own: Sequence[Result]) -> tuple[list[Line], list[str]]:
    grouped: dict[tuple[str, Measure], dict[Fraction, list[Result]]] = {}
    for result in own:
        name = re.sub(r" t=\S+", "", result.run.name)
        places = grouped.setdefault((name, _results.measure_of(result)), {})
        places.setdefault(Fraction(result.run.params["t"]), []).append(result)
    lines, left_out = [], []
    for (name, measure), places in grouped.items():
        points: dict[Fraction, Sample] = {}
        for t in sorted(places):
            try:
                sample = _results.seeds_joined(places[t])
                first = next(iter(points.values()), sample)
                comparable(sample, first)
                if sample.seeds != first.seeds:
                    raise UsageError("it is measured at other seeds")
                points[t] = sample
            except UsageError as error:
                left_out.append(f"{name} at {t}, {measure.evaluator} on {measure.ability}, is left out: {error}.")
        lines.append(Line(name, measure, points))
    return lines, left_out


def _row(line: Line, t: Fraction, against: Tested | None) -> dict[str, Any]:
    to = line.measure.scale
    empty = dict.fromkeys(("to the ends' line", "95 % interval", "p (Holm)", "smallest visible", "reading"))
    return {
        "line": line.name,
        "ability": line.measure.ability,
        "evaluator": line.measure.evaluator,
        "t": str(t),
        "unit": to.short,
        "score": _results.cell(estimate(line.points[t]), to),
        **(against.columns("to the ends' line") if against else empty),
    }


def _said(lines: Sequence[Line], found: Mapping[Key, Tested]) -> list[str]:
    told = []
    for line in lines:
        own = {t: found[line.name, line.measure, t] for t in line.points if (line.name, line.measure, t) in found}
        where = f"{line.name}, {line.measure.ability} ({line.measure.evaluator})"
        barriers = {t: one for t, one in own.items() if one.reading == WORSE}
        if barriers:
            t, worst = min(barriers.items(), key=lambda one: one[1].gain)
            to = line.measure.scale
            told.append(f"{where}: a barrier of {to.text(abs(worst.gain))} {to.unit}, at t = {t}.")
        elif own:
            told.append(f"{where}: no barrier is seen.")
        else:
            told.append(f"{where}: a barrier needs t = 0, t = 1 and a point between them.")
    return told


def _figure(measure: Measure, lines: Sequence[Line], title: str) -> Figure:
    to = measure.scale
    series = {
        line.name: [_results.point(float(t), estimate(sample), to) for t, sample in line.points.items()]
        for line in lines
    }
    label = f"{measure.metric} ({to.label})"
    heading = f"{title}: {measure.ability} between two models ({measure.evaluator})"
    return Figure("points", heading, "t", label, series, "linear")

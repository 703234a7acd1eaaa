"""Conflicts: an ability trained alone against mixed with others, at the same rows of its own.

Dong et al., arXiv 2310.05492, section 3.3 and figure 3 (RQ2): mixing helps when data is scarce and hurts when it is
plentiful. Each mixed run is compared with the run of the ability alone that saw as many of its rows. The crossing
point is where the line

    score mixed - score alone = a + b ln(rows)

passes 0; its interval are the amounts at which the line's bootstrap interval holds 0 (Fieller 1954, by draws), so an
interval that has no end says that these runs do not bound it.

    analyses: [conflicts]   # runs: single at some shares of each source, and multi_task at the same shares
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cuvee.analyses import _results
from cuvee.analyses._amounts import AmountCurve, Seen, curves, seen, setting
from cuvee.analyses._chance import Floats
from cuvee.analyses._draws import cloud, interval, unmoved
from cuvee.analyses._fits import MISFIT, line, misfit, weights_of
from cuvee.analyses._paired import APART, BETTER, LEGEND, SIGNS, UNSEEN, WORSE, Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import Measure
from cuvee.analyses._stats import Sample, estimate
from cuvee.protocols import Figure, Result, Table

VERSION = 1

ASK = (
    "Nothing to compare: no ability was trained alone and mixed with others at the same number of its rows. Add "
    "{strategy: single, source: [...], share: [1, 1/4]} and {strategy: multi_task, share: [1, 1/4]}."
)

NEARLY = 0.02
"""How far two amounts may differ and still count as the same."""


class Params(Resampled):
    """Of the resampling alone."""


@dataclass(frozen=True)
class Crossing:
    """Where mixing stops helping, in rows of the ability.

    Args:
        slope: change of (mixed - alone) with each doubling, as an improvement; below 0 where more data turns against.
        slope_ends: its 95 % interval.
        at: the rows where the line passes 0; None where it does so far outside the amounts.
        low, high: ends of the interval; None where these runs set no end.
        turns: whether the slope's interval leaves out 0.
        holds: whether noise explains how far the points are off the line; where it does not, there is no interval.
        between: the first two neighbouring amounts between which the difference changes its sign.
    """

    slope: float
    slope_ends: tuple[float, float]
    at: float | None
    low: float | None
    high: float | None
    turns: bool
    holds: bool = True
    between: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Conflict:
    """One ability on one measure: mixed against alone along the amounts."""

    measure: Measure
    mixed: AmountCurve
    pairs: tuple[tuple[Seen, Seen], ...]
    tests: tuple[Tested, ...]
    crossing: Crossing | None
    samples: tuple[tuple[Sample, Sample], ...]
    refusal: str = ""

    @property
    def rows(self) -> list[float]:
        """Rows of the ability along the pairs."""
        return [alone.rows_of(self.measure.ability) for alone, _ in self.pairs]

    @property
    def reading(self) -> str:
        """What mixing does at the least and at the largest amount."""
        first, last = self.tests[0].reading, self.tests[-1].reading
        if len(self.tests) == 1:
            return {BETTER: "mixing helps", WORSE: "mixing hurts"}.get(first, first)
        if first == BETTER and last == WORSE:
            return "helps when scarce, hurts when plentiful"
        words = {BETTER: "helps", WORSE: "hurts", UNSEEN: "nothing seen", APART: "seeds disagree"}
        return f"{words[first]} at the least amount, {words[last]} at the largest"


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the conflicts by ability, then every pair of runs."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        tables += _of_base(own, params, base, len(names) > 1)
    return tables or [Table("Alone against mixed", ["ability"], [], [ASK])]


@dataclass(frozen=True)
class _Match:
    measure: Measure
    mixed: AmountCurve
    pairs: list[tuple[Seen, Seen]] = field(default_factory=list)


def conflicts(own: Sequence[Result], params: Params) -> list[Conflict]:
    """Return the conflicts of one base model: every mixed curve that has runs alone beside it."""
    samples = _results.final_samples(own)
    points = seen(own)
    matches: list[_Match] = []
    for measure in _results.measures(result for result in own if result.final):
        kept = [point for point in points if measure in samples.get(point.run, {})]
        matches += _matches(kept, measure)
    pairs = {
        (number, place): (match.measure, samples[mixed.run][match.measure], samples[alone.run][match.measure])
        for number, match in enumerate(matches)
        for place, (alone, mixed) in enumerate(match.pairs)
    }
    tests, refused = tested(pairs, params.resamples, params.seed)
    found = []
    for number, match in enumerate(matches):
        places = [place for place in range(len(match.pairs)) if (number, place) not in refused]
        if places:
            kept_pairs = tuple(match.pairs[place] for place in places)
            found.append(_conflict(match, kept_pairs, tuple(tests[number, place] for place in places), samples, params))
    return found


def _matches(points: Sequence[Seen], measure: Measure) -> list[_Match]:
    """Pair each run of a mixed curve with the run alone that saw as many rows of the ability."""
    ability = measure.ability
    singles = [point for point in points if point.is_single and point.rows_of(ability)]
    found = []
    for curve in curves(points, ability, least=1):
        if curve.points[0].is_single:
            continue
        pairs = []
        for mixed in curve.points:
            alone = [one for one in singles if _alike(one, mixed, ability)]
            if alone:
                pairs.append((min(alone, key=lambda one: abs(one.rows_of(ability) - mixed.rows_of(ability))), mixed))
        if pairs:
            found.append(_Match(measure, curve, pairs))
    return found


def _alike(alone: Seen, mixed: Seen, ability: str) -> bool:
    """Whether a run alone saw as much of the ability, under the same training settings."""
    ours, theirs = alone.rows_of(ability), mixed.rows_of(ability)
    chosen = alone.info.selection == mixed.info.selection or not (alone.info.select or mixed.info.select)
    plain = chosen and not any(map(_filters, (alone, mixed)))
    same = setting(alone.info) == setting(mixed.info) or (
        plain and dict(alone.info.training) == dict(mixed.info.training)
    )
    return same and abs(ours - theirs) <= NEARLY * max(ours, theirs)


def _filters(point: Seen) -> bool:
    return any(change.get("drop") or change.get("keep") for change in point.info.sources.values())


def _conflict(
    match: _Match,
    pairs: tuple[tuple[Seen, Seen], ...],
    tests: tuple[Tested, ...],
    samples: Mapping[str, Mapping[Measure, Sample]],
    params: Params,
) -> Conflict:
    measure = match.measure
    runs = dict.fromkeys(point.run for pair in pairs for point in pair)
    of = cloud({run: samples[run][measure] for run in runs}, params.resamples, params.seed)
    both = tuple((samples[alone.run][measure], samples[mixed.run][measure]) for alone, mixed in pairs)
    crossing = None
    refusal = of.refusal
    if not refusal and len(pairs) >= 3:
        sign = 1 if measure.higher_is_better else -1
        old, old_draws = of.take([alone.run for alone, _ in pairs])
        new, new_draws = of.take([mixed.run for _, mixed in pairs])
        rows = np.array([alone.rows_of(measure.ability) for alone, _ in pairs])
        still = unmoved(new_draws - old_draws)
        if still.any():
            refusal = (
                f"at {rows[still][0]:,.0f} rows the difference is the same on every item, so its noise is not known"
            )
        else:
            crossing = crossing_of(rows, sign * (new - old), sign * (new_draws - old_draws))
    elif not refusal:
        several = "amounts are" if len(pairs) > 1 else "amount is"
        refusal = f"{len(pairs)} {several} too few for a crossing point (3 are needed)"
    return Conflict(measure, match.mixed, pairs, tests, crossing, both, refusal)


def crossing_of(rows: Floats, gains: Floats, draws: Floats) -> Crossing | None:
    """Return where a line through gains against ln(rows) passes 0, with the interval by inversion of its band.

    Args:
        rows: amounts, ascending, (m,).
        gains: mixed minus alone, positive where mixing helps, (m,).
        draws: of the gains, (resamples, m).
    """
    if float(np.ptp(draws)) == 0:
        return None
    u, weights = np.log2(rows), weights_of(draws)
    one, lines = line(u, gains[None, :], weights)[0][0], line(u, draws, weights)[0]
    ends = interval(lines[:, 1])
    if ends[0] is None or ends[1] is None:
        return None
    turns = ends[0] > 0 or ends[1] < 0

    def refit(ys: Floats) -> Floats:
        found = line(u, ys, weights)[0]
        return np.asarray(found[:, :1] + found[:, 1:] * u, dtype=np.float64)

    p = misfit(gains, refit(gains[None, :])[0], draws, weights, refit)
    changes = [(float(a), float(b)) for a, b, x, y in zip(rows, rows[1:], gains, gains[1:], strict=False) if x * y < 0]
    between = changes[0] if changes else None
    if p < MISFIT:
        return Crossing(float(one[1]), (ends[0], ends[1]), None, None, None, turns, False, between)
    span = float(u[-1] - u[0])
    root = float(-one[0] / one[1]) if one[1] else float("inf")
    at = float(2.0**root) if abs(root - float(u.mean())) <= 1.5 * span else None
    grid = np.linspace(u[0] - span, u[-1] + span, 601)
    low, high = np.quantile(lines[:, :1] + lines[:, 1:] * grid, [0.025, 0.975], axis=0)
    holds = (low <= 0) & (high >= 0)
    first, last = (None, None)
    if turns and holds.any():
        inside = np.flatnonzero(holds)
        first = None if holds[0] else float(2.0 ** grid[inside[0]])
        last = None if holds[-1] else float(2.0 ** grid[inside[-1]])
    return Crossing(float(one[1]), (ends[0], ends[1]), at if turns else None, first, last, turns, True, between)


# ------------------------------------------------------------------------------------------------- tables


def _of_base(own: Sequence[Result], params: Params, base: str, several: bool) -> list[Table]:
    found = conflicts(own, params)
    title = _results.titled("Alone against mixed", base, several)
    if not found:
        return [Table(title, ["ability"], [], [ASK])]
    rows = [_row(each) for each in found]
    pairs = [_pair(each, place) for each in found for place in range(len(each.pairs))]
    figures = [_figure(each, base, several) for each in found if len(each.pairs) > 1]
    tests = sum(len(each.tests) for each in found)
    sentences = [*_curve_sentences(found), *_single_sentences(found)]
    notes = [
        *sentences,
        "Mixed runs see the same rows of the ability and those of the other sources besides: equal in this ability's "
        "data, not in compute.",
        "The crossing point is where a straight line through (mixed minus alone) against log2(rows) passes 0, and its "
        "interval are the amounts where the line's 95 % band holds 0. It is given only where the slope differs from 0. "
        "Where the points are further off the line than their noise allows (p < 0.01), only the amounts between which "
        "the sign changes are given.",
        LEGEND,
        test_note(tests),
    ]
    return [
        Table(title, list(rows[0]), rows, notes, figures, answers=len(sentences)),
        Table(f"{title}, every pair", list(pairs[0]), pairs),
    ]


def _row(each: Conflict) -> dict[str, Any]:
    to, crossing = each.measure.scale, each.crossing
    first, last = each.tests[0], each.tests[-1]
    return {
        "ability": each.measure.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "mixed": each.mixed.label,
        "amounts": len(each.pairs),
        "least rows": round(each.rows[0]),
        "difference at the least": f"{to.signed(first.comparison.difference)} {SIGNS[first.reading]}",
        "largest rows": round(each.rows[-1]),
        "difference at the largest": f"{to.signed(last.comparison.difference)} {SIGNS[last.reading]}",
        "gain per doubling": crossing and _gain(crossing.slope, to) + _span(crossing, to),
        "crossing (rows)": crossing_words(crossing),
        "reading": each.reading,
    }


def _gain(value: float, to: _results.Scale) -> str:
    return f"{value * to.factor + 0.0:+.{to.digits}f}"


def _span(crossing: Crossing, to: _results.Scale) -> str:
    if not crossing.holds:
        return " on average"
    return f" ({_gain(crossing.slope_ends[0], to)}..{_gain(crossing.slope_ends[1], to)})"


def crossing_words(crossing: Crossing | None) -> str | None:
    """Return the crossing point with its interval, as far as there is one."""
    if crossing is None:
        return None
    if not crossing.turns:
        return "none seen"
    if not crossing.holds:
        where = crossing.between
        return f"between {where[0]:,.0f} and {where[1]:,.0f}, no straight line" if where else "no straight line"
    low = "no lower end" if crossing.low is None else f"{crossing.low:,.0f}"
    high = "no upper end" if crossing.high is None else f"{crossing.high:,.0f}"
    at = "outside these amounts" if crossing.at is None else f"{crossing.at:,.0f}"
    return f"{at} ({low}..{high})"


def _curve_sentences(found: Sequence[Conflict]) -> list[str]:
    """A sentence a curve of several amounts."""
    curves = [each for each in found if len(each.tests) > 1]
    return [f"{each.measure.ability} ({each.measure.evaluator}): {_sentence(each)}" for each in curves]


def _single_sentences(found: Sequence[Conflict]) -> list[str]:
    """A sentence a measure about all comparisons at one amount only."""
    words = []
    for measure in dict.fromkeys(each.measure for each in found):
        seen = Counter(each.reading for each in found if each.measure == measure and len(each.tests) == 1)
        count = seen.total()
        if count:
            many = "compared at one amount alone" if count == 1 else f"compared {count} times at one amount each"
            counted = ", ".join(f"{reading} ({times})" if count > 1 else reading for reading, times in seen.items())
            words.append(f"{measure.ability} ({measure.evaluator}), {many}: {counted}.")
    return words


def _sentence(each: Conflict) -> str:
    found = crossing_words(each.crossing)
    tail = f"; crossing (rows): {found}" if each.crossing and each.crossing.turns else ""
    why = f"; no crossing point: {each.refusal}" if each.refusal else ""
    return f"{each.reading}{tail}{why}."


def _pair(each: Conflict, place: int) -> dict[str, Any]:
    (alone, mixed), to = each.pairs[place], each.measure.scale
    old, new = each.samples[place]
    return {
        "ability": each.measure.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "rows": round(each.rows[place]),
        "supervised tokens": round(alone.tokens_of(each.measure.ability)),
        "alone": alone.run,
        "score alone": _results.cell(estimate(old), to),
        "mixed": mixed.run,
        "all rows of mixed": round(sum(mixed.rows.values())),
        "score mixed": _results.cell(estimate(new), to),
        **each.tests[place].columns("mixed minus alone"),
    }


def _figure(each: Conflict, base: str, several: bool) -> Figure:
    measure, to = each.measure, each.measure.scale
    points = zip(each.rows, each.samples, strict=True)
    both = [(x, estimate(old), estimate(new)) for x, (old, new) in points]
    series = {
        "alone": [_results.point(x, old, to) for x, old, _ in both],
        each.mixed.label: [_results.point(x, new, to) for x, _, new in both],
    }
    title = _results.titled(f"{measure.ability}: alone and mixed ({measure.evaluator})", base, several)
    y_label = f"{measure.metric} ({to.label})"
    return Figure("points", title, f"rows of {measure.ability}, one epoch", y_label, series, "log")

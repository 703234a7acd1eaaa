"""Ratio effect: does an ability follow the amount of its own data, or the ratio between its data and the rest?

Dong et al., arXiv 2310.05492, section 3.4 and table 4 (RQ3), hold one side fixed and let the other grow: general data
fixed, special data fixed, and a small general set fixed. Their reading is that the amount matters and the ratio hardly.
In each such setup the side that grows shows what an ability's own amount does; the side that is held shows what the
ratio alone does to it. Both are measured as the mean change per doubling of what grows, from its least amount to its
most: a number that needs no law. A straight line against log2(rows) is fitted besides, and shown where it holds.

    analyses: [ratio_effect]    # runs: ratio with a list of special_share, and one with a list of general_share
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuvee import canonical
from cuvee.analyses import _results
from cuvee.analyses._amounts import Seen, seen, setting
from cuvee.analyses._chance import Floats
from cuvee.analyses._draws import Cloud, cloud, interval, unmoved
from cuvee.analyses._fits import Fit, fit
from cuvee.analyses._paired import LEGEND, SIGNS, Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import Measure
from cuvee.analyses._stats import Sample, estimate
from cuvee.protocols import Figure, Result, Table

VERSION = 1

ASK = (
    "Nothing to compare: no side was held fixed while the other grew over three amounts or more. Add "
    "{strategy: ratio, general: general, special_share: [1, 1/4, 1/16]} and the same with general_share."
)


class Params(Resampled):
    """Args:
    general: name of the general source; taken from the runs' own parameters when absent.
    """

    general: str | None = None


@dataclass(frozen=True)
class Setup:
    """Runs in which one side is held and the other grows.

    Args:
        held: ``general`` or ``special``.
        amount: rows of the side that is held.
        points: from the least of the other side to the most.
        general: the general source.
    """

    held: str
    amount: float
    points: tuple[Seen, ...]
    general: str

    @property
    def grown(self) -> list[float]:
        """Rows of the side that grows."""
        return [_sides(point, self.general)[self.held != "general"] for point in self.points]

    @property
    def title(self) -> str:
        """What is held, in words."""
        other = "special" if self.held == "general" else "general"
        return f"{self.amount:,.0f} {self.held} rows held, {other} grows"


@dataclass(frozen=True, eq=False)
class Effect:
    """One setup on one measure: what the side that grows does.

    Args:
        own: whether the side that grows is the ability's own.
        mean: change per doubling from the least amount to the most; None where there is no right to an interval.
        draws: of the mean, (resamples,).
        fitted: straight line against log2(rows).
    """

    measure: Measure
    setup: Setup
    own: bool
    mean: float | None
    draws: Floats
    fitted: Fit | None
    test: Tested | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Contrast:
    """One ability: how much more its own amount does than the ratio, per doubling.

    Args:
        measure: the ability's.
        own, ratio: size of the mean change per doubling of its own data, and of the other side's.
        difference: own minus ratio.
        low, high: its 95 % interval.
    """

    measure: Measure
    own: float
    ratio: float
    difference: float
    low: float
    high: float

    @property
    def reading(self) -> str:
        """Which of both does more."""
        return "amount" if self.low > 0 else "ratio" if self.high < 0 else "not separable"


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the contrast of both effects by ability, then every setup."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        tables += _of_base(own, params, base, len(names) > 1)
    return tables or [Table("Amount or ratio", ["ability"], [], [ASK])]


def general_of(own: Sequence[Result], asked: str | None) -> str | None:
    """Return the general source: the one asked for, else the one that the runs' strategies name."""
    named = (result.run.params.get("general") for result in own)
    return asked or next((str(name) for name in named if name), None)


def setups(points: Sequence[Seen], general: str, least: int = 3) -> list[Setup]:
    """Return every group of runs in which one side has equal rows and the other at least so many amounts."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for point in points:
        special, common = _sides(point, general)
        if special and common:
            own = canonical.text([setting(point.info), sorted(point.rows)])
            rest = [point.rows[name] for name in sorted(point.rows) if name != general]
            groups.setdefault(("general", f"{common} {own}"), []).append(point)
            groups.setdefault(("special", f"{rest} {own}"), []).append(point)
    found = []
    for (held, _), members in groups.items():
        place = 0 if held == "general" else 1
        by_amount = {_sides(point, general)[place]: point for point in reversed(members)}
        ordered = tuple(by_amount[amount] for amount in sorted(by_amount))
        if len(ordered) >= least:
            found.append(Setup(held, _sides(ordered[0], general)[1 - place], ordered, general))
    return found


def _sides(point: Seen, general: str) -> tuple[float, float]:
    """Return the rows of the special sources and of the general one."""
    common = point.rows.get(general, 0.0)
    return sum(point.rows.values()) - common, common


def effects(own: Sequence[Result], params: Params) -> list[Effect]:
    """Return what each setup of one base model does to each ability."""
    general = general_of(own, params.general)
    samples = _results.final_samples(own)
    points = seen(own) if general else []
    drafts: list[tuple[Measure, Setup, Cloud]] = []
    for measure in _results.measures(result for result in own if result.final):
        kept = [point for point in points if measure in samples.get(point.run, {})]
        found = [s for s in setups(kept, general or "") if any(p.rows_of(measure.ability) for p in s.points)]
        runs = dict.fromkeys(point.run for each in found for point in each.points)
        if runs:
            drawn = cloud({run: samples[run][measure] for run in runs}, params.resamples, params.seed)
            drafts += [(measure, each, drawn) for each in found]
    pairs = {
        number: (m, samples[each.points[-1].run][m], samples[each.points[0].run][m])
        for number, (m, each, _) in enumerate(drafts)
    }
    tests, _ = tested(pairs, params.resamples, params.seed)
    return [
        _effect(measure, each, drawn, tests.get(number), [samples[p.run][measure] for p in each.points])
        for number, (measure, each, drawn) in enumerate(drafts)
    ]


def _effect(measure: Measure, each: Setup, of: Cloud, test: Tested | None, members: Sequence[Sample]) -> Effect:
    teaches_general = each.points[0].abilities.get(each.general) == measure.ability
    own = teaches_general == (each.held == "special")
    if of.refusal or of.left_out:
        return Effect(measure, each, own, None, np.empty(0), None, test, tuple(members))
    values, draws = of.take([point.run for point in each.points])
    fitted = fit("logarithmic", np.array(each.grown), values, draws)
    if fitted and unmoved(draws).any():
        fitted = fitted.without_noise()
    if unmoved(draws[:, [0, -1]]).any():
        return Effect(measure, each, own, None, np.empty(0), fitted, test, tuple(members))
    doublings = float(np.log2(each.grown[-1] / each.grown[0]))
    mean, drawn = (values[-1] - values[0]) / doublings, (draws[:, -1] - draws[:, 0]) / doublings
    return Effect(measure, each, own, float(mean), drawn, fitted, test, tuple(members))


def contrasts(found: Sequence[Effect]) -> list[Contrast]:
    """Return for each measure with both kinds of setup how much more the own amount does than the ratio."""
    contrasted = []
    for measure in dict.fromkeys(each.measure for each in found):
        of = [each for each in found if each.measure == measure and each.mean is not None]
        own, ratio = (_most_held([each for each in of if each.own == kind]) for kind in (True, False))
        if not own or not ratio:
            continue
        means = [float(np.mean([each.mean for each in kind])) for kind in (own, ratio)]
        sizes = [abs(mean) for mean in means]
        # Signed as the mean is: folded one by one, draws about 0 would all be above it.
        draws = [
            np.sign(mean) * np.mean([each.draws for each in kind], axis=0)
            for mean, kind in zip(means, (own, ratio), strict=True)
        ]
        low, high = interval(draws[0] - draws[1])
        if low is not None and high is not None:
            contrasted.append(Contrast(measure, sizes[0], sizes[1], sizes[0] - sizes[1], low, high))
    return contrasted


def _most_held(of: Sequence[Effect]) -> list[Effect]:
    """Return the setups that hold most rows: the papers' full sets. Of few rows held, other rows move far more."""
    most = max((each.setup.amount for each in of), default=0.0)
    return [each for each in of if each.setup.amount == most]


# ------------------------------------------------------------------------------------------------- tables


def _of_base(own: Sequence[Result], params: Params, base: str, several: bool) -> list[Table]:
    found = effects(own, params)
    title = _results.titled("Amount or ratio", base, several)
    if not found:
        return [Table(title, ["ability"], [], [ASK])]
    known = contrasts(found)
    rows = [_contrast_row(each) for each in known]
    sentences = [*(_sentence(each) for each in known), *_without_contrast(found, known)]
    notes = [
        *sentences,
        "Size of the mean change per doubling from the least amount to the most: of the ability's own rows while the "
        "others are held (amount), and of the others' rows while its own are held (ratio). Of several setups of a kind "
        "the one that holds most rows counts here; all stand in the table below.",
        "Intervals are 95 %, from a bootstrap over items"
        + (" (one seed: another training could give something else)." if _one_seed(found) else " and seeds."),
    ]
    every = [_effect_row(each) for each in found]
    columns = list(rows[0]) if rows else ["ability"]
    figures = _figures(found, base, several)
    return [
        Table(title, columns, rows, notes, answers=len(sentences)),
        Table(f"{title}, every setup", list(every[0]), every, [LEGEND, test_note(len(every))], figures),
    ]


def _one_seed(found: Sequence[Effect]) -> bool:
    return any(len(of.seeds) == 1 for each in found for of in each.samples)


def _sentence(each: Contrast) -> str:
    to = each.measure.scale
    words = {
        "amount": "the amount of its own data does more than the ratio",
        "ratio": "the ratio does more than the amount of its own data",
        "not separable": "amount and ratio cannot be told apart",
    }
    return (
        f"{each.measure.ability} ({each.measure.evaluator}): {words[each.reading]} (amount minus ratio "
        f"{to.signed(each.difference)} {to.unit} a doubling, {to.span(each.low, each.high)})."
    )


def _without_contrast(found: Sequence[Effect], known: Sequence[Contrast]) -> list[str]:
    """A sentence an ability without a contrast: which kind of setup it lacks."""
    words = []
    for measure in dict.fromkeys(e.measure for e in found if all(e.measure != c.measure for c in known)):
        own, other = (any(e.own == kind for e in found if e.measure == measure) for kind in (True, False))
        why = (
            "at an end of one of them every item has the same score, or the items are too few"
            if own and other
            else "it needs runs in which its own data grows, and runs in which the others' grows"
        )
        words.append(f"{measure.ability} ({measure.evaluator}): no contrast; {why}.")
    return words


def _contrast_row(each: Contrast) -> Mapping[str, Any]:
    to = each.measure.scale
    return {
        "ability": each.measure.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "own amount, per doubling": to.text(each.own),
        "ratio, per doubling": to.text(each.ratio),
        "amount minus ratio": to.signed(each.difference),
        "95 % interval": f"{to.signed(each.low)}..{to.signed(each.high)}",
        "what does more": each.reading,
    }


def _effect_row(each: Effect) -> Mapping[str, Any]:
    to, fitted = each.measure.scale, each.fitted
    low, high = interval(fitted.draws[:, 1]) if fitted and fitted.holds else (None, None)
    span = f" ({to.signed(low)}..{to.signed(high)})" if low is not None and high is not None else ""
    if fitted and not fitted.holds:
        span = " (does not hold)"
    first, last = estimate(each.samples[0]), estimate(each.samples[-1])
    change = f"{to.signed(each.test.comparison.difference)} {SIGNS[each.test.reading]}" if each.test else None
    return {
        "setup": each.setup.title,
        "ability": each.measure.ability,
        "evaluator": each.measure.evaluator,
        "unit": to.short,
        "what grows is": "its own data" if each.own else "the others' data",
        "rows that grow": f"{each.setup.grown[0]:,.0f} to {each.setup.grown[-1]:,.0f}",
        "per doubling": None if each.mean is None else to.signed(each.mean),
        "by a straight line": None if fitted is None else f"{to.signed(float(fitted.parameters[1]))}{span}",
        "at the least": _results.cell(first, to),
        "at the most": _results.cell(last, to),
        "change": change,
        "p (Holm)": each.test and each.test.p,
    }


def _figures(found: Sequence[Effect], base: str, several: bool) -> list[Figure]:
    """One figure a setup and evaluator scale: every ability against what grows."""
    figures = []
    for title in dict.fromkeys(each.setup.title for each in found):
        members = [each for each in found if each.setup.title == title]
        for panel in {(e.measure.evaluator, e.measure.metric): None for e in members}:
            shown = [e for e in members if (e.measure.evaluator, e.measure.metric) == panel]
            to = shown[0].measure.scale
            series = {
                e.measure.ability: [
                    _results.point(x, estimate(of), to) for x, of in zip(e.setup.grown, e.samples, strict=True)
                ]
                for e in shown
            }
            name = _results.titled(f"{title} ({panel[0]})", base, several)
            figures.append(Figure("points", name, "rows that grow", f"{panel[1]} ({to.label})", series, "log"))
    return figures

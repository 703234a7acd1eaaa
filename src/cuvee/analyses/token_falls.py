"""Which tokens a training learns: those whose loss falls most between two points of it, and how frequent they are.

Fu et al., arXiv 2405.13432, pilot study: at a tenth of the data the tokens whose loss has fallen most are common words,
at nine tenths rare ones of the data itself, which they read as learning by heart. Theirs is a figure of words, of which
rows could not be read; here tokens are grouped by how often they occur among the measured ones, and each group's fall
has an interval.

    fall(c; s, t) = sum over tokens of class c of [loss at s - loss at t] / tokens of class c

    classes   the most frequent tokens that make up a third of all, the next third, the rest
    s, t      neighbouring points: base, marks, ends of trainings

    training: {marks: [1/16, 1/4]}, evaluation: [{heldout_loss: {tokens: true}}], analyses: [token_falls]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cuvee import protocols
from cuvee.analyses import _results
from cuvee.analyses._bootstrap import resampled_ratios
from cuvee.analyses._chance import RESAMPLES, stream
from cuvee.analyses._draws import FEWEST_ITEMS
from cuvee.protocols import Figure, Result, Table

VERSION = 1
MARKS = True

TITLE = "Tokens whose loss falls"
CLASSES = ("frequent", "middle", "rare")
DRAWN = 6
"""Ways with a figure and tokens of their own; more would bury the rest of the report."""

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Place = tuple[int, Fraction]


class Params(protocols.Params):
    """Args:
    runs: names of the runs to look at; all that are measured token by token.
    tokens: shown for each step of a run.
    fewest: rows that must have a token for it to be shown by itself: what one row has is that row's luck.
    resamples: of the bootstrap.
    seed: of it.
    """

    runs: tuple[str, ...] | None = None
    tokens: Annotated[int, Field(ge=1, le=100)] = 10
    fewest: Annotated[int, Field(ge=1)] = 5
    resamples: Annotated[int, Field(ge=2000)] = RESAMPLES
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Way:
    """One run's way from its base to its end on the held-out tokens of one ability.

    Args:
        run, ability: names.
        items: ids of the rows.
        row: number of each token's row, (tokens,).
        texts: the different tokens.
        kind: number of each token in `texts`, (tokens,).
        points: share of the run's steps that is done, name, and the loss of each token (nats), by the order of steps.
    """

    run: str
    ability: str
    items: Sequence[str]
    row: Numbers
    texts: Sequence[str]
    kind: Numbers
    points: Sequence[tuple[float, str, Floats]]

    @cached_property
    def classes(self) -> Numbers:
        """The class of each token: which third it lies in when tokens are put in order of frequency, (tokens,)."""
        times = np.bincount(self.kind, minlength=len(self.texts))
        # Of equally frequent tokens the text decides, so that the order of rows does not.
        order = sorted(range(len(times)), key=lambda one: (-times[one], self.texts[one]))
        middle = np.cumsum(times[order]) - times[order] / 2
        found = np.empty(len(times), np.int64)
        found[order] = np.minimum(middle * len(CLASSES) / times.sum(), len(CLASSES) - 1).astype(np.int64)
        return found[self.kind]


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base how far the loss of frequent and rare tokens falls at each step, and on which tokens."""
    own = [one for one in results if {"losses", "texts"} <= one.extra.keys()]
    if not own:
        remedy = "`heldout_loss: {tokens: true}` in `evaluation` keeps the loss of every token"
        return [Table(TITLE, ["run"], [], [f"Nothing is measured token by token; {remedy}."])]
    names = _results.bases(own)
    tables: list[Table] = []
    for base in names:
        of = [one for one in own if one.run.base == base]
        tables += _of_base(of, params, f", base model {base}" if len(names) > 1 else "")
    return tables


def _of_base(own: Sequence[Result], params: Params, where: str) -> list[Table]:
    ways, missing = _ways(own, params)
    if not ways:
        why = "Nothing to compare: no run is measured at two points of its way."
        return [Table(TITLE + where, ["run"], [], [why, *missing])]
    steps = [row for way in ways for row in _steps(way, params)]
    missing += [
        f"{way.run} on {way.ability}: one or two tokens are nearly all there is, so there are no classes."
        for way in ways
        if len(set(way.classes.tolist())) < len(CLASSES)
    ]
    drawn = ways[:DRAWN]
    shown = [row for way in drawn for row in _tokens(way, params)]
    if len(ways) > DRAWN:
        missing.append(
            f"Figures and single tokens are of the first {DRAWN} of {len(ways)} ways; `runs: [...]` chooses others."
        )
    return [
        Table(
            TITLE + where, list(steps[0]), steps, [*_said(own), *missing], [_figure(w, params, where) for w in drawn]
        ),
        Table(f"{TITLE} most{where}", list(shown[0]) if shown else ["run"], shown, _tokens_said(params)),
    ]


# ------------------------------------------------------------------------------------------------- ways


def _ways(own: Sequence[Result], params: Params) -> tuple[list[Way], list[str]]:
    """Return each run's way on each ability, and what cannot be shown."""
    names = {one.run.name for one in own}
    missing = [f"There is no run '{name}' measured token by token." for name in params.runs or () if name not in names]
    grouped: dict[tuple[str, str, str], dict[Place, list[Result]]] = {}
    for one in own:
        if params.runs is None or one.run.name in params.runs:
            place = (one.stage, one.fraction if one.stage else Fraction(0))
            key = (one.run.name, one.ability, one.evaluator)
            grouped.setdefault(key, {}).setdefault(place, []).append(one)
    ways = []
    for (run, ability, _), places in grouped.items():
        way, left_out = _way(run, ability, places)
        missing += [f"{run} on {ability}: {why}." for why in left_out]
        if len(way.points) > 1:
            ways.append(way)
    return ways, missing


def _way(run: str, ability: str, places: Mapping[Place, Sequence[Result]]) -> tuple[Way, list[str]]:
    order = sorted(places)
    first = places[order[0]][0]
    row = np.repeat(np.arange(len(first.items)), [len(losses) for losses in first.extra["losses"]])
    texts, kind = np.unique(np.array(list(chain(*first.extra["texts"])), object), return_inverse=True)
    seeds = {one.run.seed for one in places[order[-1]]}
    points, left_out = [], []
    for place in order:
        # The base is the same model at every seed.
        members = _by_seed(places[place] if place[0] else places[place][:1])
        label = members[0].stage_label if place[0] else "base"
        if any(one.items != first.items or one.extra["texts"] != first.extra["texts"] for one in members):
            left_out.append(f"{label} is left out: it is measured on other tokens")
            continue
        if place[0] and {one.run.seed for one in members} != seeds:
            left_out.append(f"{label} is left out: it is measured at other seeds than the last point")
            continue
        stacked = np.array([list(chain(*one.extra["losses"])) for one in members], np.float64)
        losses: Floats = stacked.mean(axis=0)
        if not np.isfinite(losses).all():
            left_out.append(f"{label} is left out: its losses are not numbers")
            continue
        points.append((_results.share_done(members[0].run, order[-1][0], place), label, losses))
    return Way(run, ability, first.items, row, texts.tolist(), kind, points), left_out


def _by_seed(members: Sequence[Result]) -> list[Result]:
    return list({one.run.seed: one for one in reversed(members)}.values())


# ------------------------------------------------------------------------------------------------- falls


Fall = tuple[float, float, float]
"""Mean, lower and upper end of the 95 % interval; ends are NaN where there are too few rows."""


def falls(way: Way, changes: Sequence[Floats], params: Params) -> list[list[Fall] | None]:
    """Return the mean of each change of the tokens' losses over each class, and of the last class less the first.

    All are resampled together, so that classes may be subtracted.

    Args:
        way: whose tokens.
        changes: of each token's loss, (tokens,) each.
        params: of the bootstrap.

    Returns:
        One entry a change: the classes' and the difference; None where a class has no token.
    """
    rows, classes = len(way.items), len(CLASSES)
    places = way.row * classes + way.classes
    weights = np.bincount(places, minlength=rows * classes).reshape(rows, classes).astype(np.float64)
    if not weights.any(axis=0).all():
        return [None] * len(changes)
    each = [np.bincount(places, weights=one, minlength=rows * classes).reshape(rows, classes) for one in changes]
    sums = np.stack(each, axis=2).astype(np.float64)
    draws = resampled_ratios(sums, weights, params.resamples, stream(params.seed, way.items))
    means = sums.sum(axis=0) / weights.sum(axis=0)[:, None]
    draws = np.concatenate([draws, draws[:, -1:] - draws[:, :1]], axis=1)
    means = np.concatenate([means, means[-1:] - means[:1]])
    # A class of few rows hangs on these, however many others there are.
    if (weights > 0).sum(axis=0).min() < FEWEST_ITEMS:
        low = high = np.full(means.shape, np.nan)
    else:
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    found = np.stack([means, low, high], axis=2)
    return [[(float(m), float(a), float(b)) for m, a, b in found[:, one]] for one in range(len(changes))]


def _steps(way: Way, params: Params) -> Iterator[dict[str, Any]]:
    pairs = list(pairwise(way.points))
    changes = [before - after for (*_, before), (*_, after) in pairs]
    for ((_, start, _), (_, end, _)), change, found in zip(pairs, changes, falls(way, changes, params), strict=True):
        cells = [_cell(one) for one in found] if found else [None] * (len(CLASSES) + 1)
        yield {
            "run": way.run,
            "ability": way.ability,
            "from": start,
            "to": end,
            "tokens": len(way.kind),
            "fall of all": f"{float(change.mean()):+.3f}",
            **{f"fall of {name}": cell for name, cell in zip(CLASSES, cells, strict=False)},
            "rare less frequent": cells[-1],
        }


def _cell(found: Fall) -> str:
    mean, low, high = found
    return f"{mean:+.3f}" if np.isnan(low) else f"{mean:+.3f} ({low:+.3f}..{high:+.3f})"


def _tokens(way: Way, params: Params) -> Iterator[dict[str, Any]]:
    """Yield the tokens whose loss falls most at each step, of those that enough rows have."""
    times = np.bincount(way.kind, minlength=len(way.texts))
    in_rows = np.bincount(np.unique(np.stack([way.kind, way.row]), axis=1)[0], minlength=len(way.texts))
    names = dict(zip(way.kind.tolist(), way.classes.tolist(), strict=True))
    for (_, start, before), (_, end, after) in pairwise(way.points):
        old, new = (np.bincount(way.kind, weights=losses) / times for losses in (before, after))
        able = np.flatnonzero((in_rows >= params.fewest) & (old > new))
        for one in able[np.argsort(new[able] - old[able], kind="stable")][: params.tokens].tolist():
            yield {
                "run": way.run,
                "ability": way.ability,
                "from": start,
                "to": end,
                "token": repr(way.texts[one]),
                "class": CLASSES[names[one]],
                "times": int(times[one]),
                "rows": int(in_rows[one]),
                "loss before": f"{old[one]:.3f}",
                "after": f"{new[one]:.3f}",
                "fall": f"{old[one] - new[one]:.3f}",
            }


# ------------------------------------------------------------------------------------------- what is shown


def _said(own: Sequence[Result]) -> Iterator[str]:
    yield (
        "Falls are in nats a token, of held-out rows, which none of these trainings has seen. Frequent, middle and "
        "rare tokens are about a third of the measured tokens each, by how often they occur among them. Rare tokens "
        "have more to lose from the start: it is the change along the way that tells."
    )
    yield (
        "Intervals are 95 % each, from rows resampled with replacement; classes are kept as they are. There are none "
        f"for fewer than {FEWEST_ITEMS} rows with tokens of each class."
    )
    if len({one.run.seed for one in own}) > 1:
        yield "A token's loss is its mean over seeds; what another training would change is not in the intervals."


def _tokens_said(params: Params) -> list[str]:
    return [
        f"The {params.tokens} tokens with the largest mean fall of each step, of those that occur in at least "
        f"{params.fewest} rows. They are the largest by luck too: the classes have intervals, single tokens do not."
    ]


def _figure(way: Way, params: Params, where: str) -> Figure:
    start = way.points[0][2]
    series: dict[str, list[dict[str, Any]]] = {name: [] for name in CLASSES}
    every = falls(way, [losses - start for *_, losses in way.points], params)
    for (done, *_), found in zip(way.points, every, strict=True):
        for name, (mean, *ends) in zip(CLASSES, found or (), strict=False):
            low, high = (None if not done or np.isnan(end) else end for end in ends)
            series[name].append({"x": done, "y": mean, "low": low, "high": high})
    title = f"{way.run}: {way.ability} by how frequent tokens are{where}"
    y_label = f"loss, change to {way.points[0][1]} (nats/token)"
    return Figure("points", title, "share of the run's training steps", y_label, series, "linear")

"""The verdict in sentences, claiming no more than its tests say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cuvee.analyses._results import BASE, LEVEL, Scale, listed
from cuvee.analyses._verdict import Against, Cost, Standing, Verdict

UNEQUAL = 1.1
"""Ratio of trained tokens from which two runs are not called matched in compute."""


def conclusion(verdict: Verdict) -> str:
    """Return the verdict in one sentence, claiming no more than the tests say."""
    if not verdict.standings:
        return "No verdict: " + (_why(verdict) or "no final model has been evaluated") + "."
    to = verdict.measures[0].scale
    best = verdict.standings[0].overall
    if verdict.all_equal:
        return f"No run leads: all have the same overall ({to.text(best)} {to.unit})."
    if not verdict.others:
        return (
            f"{verdict.leader} is the only run that can be judged (overall {to.text(best)} {to.unit}), so there is "
            "nothing to compare it with."
        )
    head = f"{verdict.leader} leads (overall {to.text(best)} {to.unit})"
    words = [head, *_against(verdict.others, to, verdict.pairs), *_compute_words(verdict), _cost_words(verdict.costs)]
    return "; ".join(words) + "."


def _compute_words(verdict: Verdict) -> list[str]:
    """Say where the leader was trained on more or less than the run that comes nearest."""
    ours, theirs = (verdict.trained.get(run, 0.0) for run in (verdict.leader, verdict.others[0].run))
    if not ours or not theirs or 1 / UNEQUAL < ours / theirs < UNEQUAL:
        return []
    return [f"it trained on {ours / theirs:.2g} times the tokens of {verdict.others[0].run}"]


def _why(verdict: Verdict) -> str:
    if not verdict.measures and verdict.metric != "auto":
        return f"no final model has been measured by {verdict.metric}, which the verdict was to go by"
    return "; ".join(f"{run} {reason}" for run, reason in verdict.left_out.items())


def _although(each: Against, pairs: int) -> str:
    """Why a difference whose own interval leaves out 0 is none; empty where it does not."""
    both = each.comparison
    if both.low <= 0 <= both.high:
        return ""
    return ", one seed against it" if each.p < LEVEL else f" before the correction for {pairs} pairs"


def _against(others: Sequence[Against], to: Scale, pairs: int) -> list[str]:
    tied = [each for each in others if not each.differs]
    beaten = [each.run for each in others if each.differs]
    words = []
    if tied:
        shown = [f"{each.run} (difference {_difference(each, to)}{_although(each, pairs)})" for each in tied[:2]]
        shown += [f"{len(tied) - 2} more"] if len(tied) > 2 else []
        words.append(f"not separable from {listed(shown)}")
    if beaten and tied:
        words.append(f"better than {listed(beaten, most=5)}")
    elif beaten:
        words.append("better than every other run" if len(beaten) > 1 else f"better than {beaten[0]}")
        words[-1] += f" (nearest: {others[0].run}, difference {_difference(others[0], to)})"
    else:
        words.append("better than none of them")
    return words


def _difference(each: Against, to: Scale) -> str:
    both = each.comparison
    return f"{to.signed(both.difference)} {to.unit}, {to.span(both.low, both.high)}"


def _cost_words(costs: Sequence[Cost]) -> str:
    paid = [cost for cost in costs if cost.paid]
    if not paid:
        return "costs: none seen on any ability" if costs else "costs: nothing to compare"
    return "costs: " + ", ".join(
        f"{cost.measure.ability} {_difference(cost.against, cost.measure.scale)} "
        f"against {cost.best}, the best run for {cost.measure.ability}"
        for cost in paid
        if cost.against
    )


def reservations(verdict: Verdict) -> list[str]:
    """Return what limits the verdict: rule, smallest visible difference, seeds, what is left out or counted once."""
    if not verdict.standings:
        return []
    to = verdict.measures[0].scale
    parts = ", ".join(f"{m.ability} ({m.evaluator})" for m in verdict.measures)
    words = [f"Overall is the unweighted mean over abilities of {verdict.measures[0].metric}: {parts}."]
    if verdict.passed_over:
        words.append(f"Not by {verdict.passed_over}: all runs have the same {verdict.passed_over} on every ability.")
    unseen = [cost.measure for cost in verdict.costs if cost.measure not in verdict.measures]
    if unseen:
        names = ", ".join(f"{m.ability} ({m.evaluator}, {m.metric})" for m in unseen)
        words.append(f"Not in the overall, because on another scale, but among the costs: {names}.")
    if verdict.others:
        words.append(_test_words(verdict))
        smallest = sorted(each.comparison.smallest(each.alpha) for each in verdict.others)
        span = " to ".join(dict.fromkeys([to.text(smallest[0]), to.text(smallest[-1])]))
        if np.isfinite(smallest[-1]):
            words.append(
                f"With these items and this correction, true differences in overall below {span} {to.unit} "
                "(by pair) would be missed more than one time in five; 'not separable' does not mean equal."
            )
    words.append(_seed_words(verdict.standings))
    words.extend(_same_words(verdict.same))
    words.extend(f"{run} is not in the verdict: it {reason}." for run, reason in verdict.left_out.items())
    return words


def _same_words(same: Mapping[str, str]) -> list[str]:
    by_owner: dict[str, list[str]] = {}
    for run, owner in same.items():
        by_owner.setdefault(owner, []).append(run)
    return [f"{listed(runs, most=5)}: the same model as {owner}, compared once." for owner, runs in by_owner.items()]


def _test_words(verdict: Verdict) -> str:
    exact = verdict.others[0].comparison.method == "mcnemar"
    flips = "signs of items flipped within each ability" + (", studentised" if len(verdict.measures) > 1 else "")
    test = "exact McNemar test" if exact else f"paired permutation test ({flips})"
    drawn = "" if exact else ", from a bootstrap"
    interval = f"intervals are 95 % each{drawn}, uncorrected; the reading goes by p"
    return (
        f"Differences are the leader minus the run on the same items; {test}; p Holm-corrected over all "
        f"{verdict.pairs} pairs of runs, because the leader was picked by the same numbers; {interval}."
    )


def _seed_words(standings: Sequence[Standing]) -> str:
    counts = sorted({each.seeds for each in standings if each.run != BASE})
    if not counts or counts[-1] == 1:
        return (
            "One seed a run: the intervals cover the choice of test items, not the luck of another training, "
            "so the verdict is about these models."
        )
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{seeds} seeds a run, averaged item by item; the spread between seeds is shown apart and is no part "
        "of the intervals; a difference also has to keep its sign in every seed to count."
    )

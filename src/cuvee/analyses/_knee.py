"""Which k to take: the weighted score along a sweep, and the smallest k that is as good as the best within noise.

The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3): of all k whose
weighted score is within one standard error of the best one's, the smallest. The standard error is that of the paired
difference to the best, from draws that resample items within each ability (and seeds, where there are several).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from cuvee.analyses._chance import Floats
from cuvee.analyses._draws import Cloud, cloud, interval
from cuvee.analyses._results import Measure
from cuvee.analyses._stats import Sample


@dataclass(frozen=True)
class Choice:
    """One k: its weighted score, how far it is behind the best, and how often it is the best among the draws."""

    k: Fraction
    value: float
    behind: float
    se: float
    low: float | None
    high: float | None
    best_in: float


@dataclass(frozen=True)
class Knee:
    """The choices in order of k, and the recommended one; `refusal` says why there is none."""

    measures: tuple[Measure, ...]
    weights: Mapping[str, float]
    choices: tuple[Choice, ...] = ()
    recommended: Fraction | None = None
    refusal: str = ""

    @property
    def best(self) -> Fraction:
        """The k of the best weighted score."""
        return min(self.choices, key=lambda each: each.behind).k


def knee(
    runs: Mapping[Fraction, str],
    samples: Mapping[str, Mapping[Measure, Sample]],
    measures: Sequence[Measure],
    weights: Mapping[str, float],
    resamples: int,
    seed: int,
) -> Knee:
    """Return the knee of a sweep.

    Args:
        runs: by k.
        samples: final models' by run and measure.
        measures: one an ability, all of one metric.
        weights: by ability; 1 for those that are not named; what has 0 is not looked at.
    """
    share = {m.ability: float(weights.get(m.ability, 1.0)) for m in measures}
    chosen = tuple(m for m in measures if share[m.ability] > 0)
    there = {k: run for k, run in runs.items() if all(m in samples.get(run, {}) for m in chosen)}
    total = sum(share.values())
    if len(there) < 2 or total <= 0:
        why = "no ability has a weight" if total <= 0 else "fewer than two k are measured on every ability"
        return Knee(chosen, share, refusal=why)
    clouds = [cloud({run: samples[run][m] for run in there.values()}, resamples, seed) for m in chosen]
    whys = {m: of.refusal or _other_items(of) for m, of in zip(chosen, clouds, strict=True)}
    out = "; weights: {{{}: 0}} leaves it out" if len(chosen) > 1 else ""
    why = next((f"{m.ability} by {m.evaluator}: {each}{out.format(m.ability)}" for m, each in whys.items() if each), "")
    if why:
        return Knee(chosen, share, refusal=why)
    sign = 1 if chosen[0].higher_is_better else -1
    parts = [of.take(list(there.values())) for of in clouds]
    scaled = [sign * share[m.ability] / total for m in chosen]
    values = np.sum([w * v for w, (v, _) in zip(scaled, parts, strict=True)], axis=0)
    draws = np.sum([w * d for w, (_, d) in zip(scaled, parts, strict=True)], axis=0)
    choices = _choices(list(there), values, draws, sign)
    near = [each.k for each in choices if each.behind <= each.se]
    return Knee(chosen, share, choices, min(near))


def _other_items(of: Cloud) -> str:
    return f"{', '.join(of.left_out)} measured on other items" if of.left_out else ""


def _choices(ks: Sequence[Fraction], values: Floats, draws: Floats, sign: int) -> tuple[Choice, ...]:
    best = int(values.argmax())
    wins = np.bincount(draws.argmax(axis=1), minlength=len(ks)) / len(draws)
    found = []
    for place, k in enumerate(ks):
        behind = draws[:, best] - draws[:, place]
        low, high = interval(behind)
        gap = float(values[best] - values[place])
        found.append(
            Choice(k, sign * float(values[place]), gap, float(behind.std(ddof=1)), low, high, float(wins[place]))
        )
    return tuple(found)

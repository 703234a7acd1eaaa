"""What a finding is tested on: one base model's results in order, and the questions asked of a difference.

    rises(test)        is it an improvement?       supported: measurably better
                                                   contradicted: worse, or an improvement of `margin` is ruled out
    falls(test)        is it a loss?              the same the other way round
    stays(test)        is it none that matters?    supported: an improvement of `margin` is ruled out
                                                   contradicted: measurably better

All go by the comparison's own 95 % interval and p, without correction for the other findings: each is a question of
its own. What lies between is undecided, and `needed` says how many items would decide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist

import numpy as np

from cuvee.analyses import _results, _verdict, conflicts, ratio_effect, scaling
from cuvee.analyses._paired import Tested
from cuvee.analyses._results import BASE, LEVEL, Measure
from cuvee.analyses._stats import Sample, compare
from cuvee.protocols import Result, RunInfo

SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTED = "supported", "contradicted", "undecided", "not tested"

POWER = 0.8


@dataclass(frozen=True)
class Outcome:
    """What the runs say about a finding.

    Args:
        about: the ability, or what else it is about.
        verdict: one of the four words above.
        effect: the difference the verdict goes by, in words with its unit.
        interval: its 95 % interval, in words.
        items: that were measured.
        needed: what would decide it; empty where it is decided.
    """

    about: str
    verdict: str
    effect: str = ""
    interval: str = ""
    items: int | None = None
    needed: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One base model's results.

    Args:
        own: its results.
        margin: the least improvement that matters, in the metric's own unit (0.01 is a point of accuracy).
        general: name of the general source; None takes what the runs' strategies name.
        resamples, seed: of bootstrap and permutations.
    """

    own: Sequence[Result]
    margin: float
    general: str | None
    resamples: int
    seed: int
    _tests: dict[tuple[int, int], Tested] = field(default_factory=dict)

    @cached_property
    def samples(self) -> dict[str, dict[Measure, Sample]]:
        """Final models' samples by run and measure."""
        return _results.final_samples(self.own)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """One measure an ability, all of the metric that covers most abilities."""
        return _verdict.primary(_results.measures(result for result in self.own if result.final))

    @cached_property
    def general_source(self) -> str | None:
        """The general source's name."""
        return ratio_effect.general_of(self.own, self.general)

    @cached_property
    def general_ability(self) -> str | None:
        """What the general source teaches, as far as the runs say; else its own name where that is measured."""
        portions = (p for r in self.own for training in r.run.trainings for p in training.portions)
        found = next((p.ability for p in portions if p.source == self.general_source), None)
        named = [m.ability for m in self.measures if m.ability == self.general_source]
        return found or next(iter(named), None)

    @cached_property
    def special(self) -> list[Measure]:
        """Measures of the special abilities; all where no source is called general."""
        return [m for m in self.measures if m.ability != self.general_ability]

    @cached_property
    def common(self) -> Measure | None:
        """The measure of general ability."""
        return next((m for m in self.measures if m.ability == self.general_ability), None)

    @cached_property
    def scaled(self) -> list[scaling.Scaled]:
        """Curves of abilities trained alone, by the primary measures."""
        every = scaling.scaled(self.own, scaling.Params(resamples=self.resamples, seed=self.seed))
        return [each for each in every if each.measure in self.measures and each.curve.points[0].is_single]

    @cached_property
    def conflicts(self) -> list[conflicts.Conflict]:
        """Abilities alone against mixed."""
        every = conflicts.conflicts(self.own, conflicts.Params(resamples=self.resamples, seed=self.seed))
        return [each for each in every if each.measure in self.measures]

    @cached_property
    def contrasts(self) -> list[ratio_effect.Contrast]:
        """Amount against ratio by ability."""
        params = ratio_effect.Params(general=self.general, resamples=self.resamples, seed=self.seed)
        return [c for c in ratio_effect.contrasts(ratio_effect.effects(self.own, params)) if c.measure in self.measures]

    def runs(self, *strategies: str) -> list[RunInfo]:
        """Return the measured runs of some strategies, in the order of the recipe."""
        found = _results.runs(result for result in self.own if result.final)
        return [run for run in found.values() if run.strategy in strategies and run.name != BASE]

    def sample(self, run: RunInfo, measure: Measure) -> Sample | None:
        """Return a run's final sample."""
        return self.samples.get(run.name, {}).get(measure)

    def after(self, run: RunInfo, stage: int, measure: Measure) -> Sample | None:
        """Return the sample of a run after one of its trainings, seeds joined."""
        members = [
            r for r in self.own if r.run.name == run.name and r.stage == stage and _results.measure_of(r) == measure
        ]
        return _results.seeds_joined(members) if members else None

    def test(self, measure: Measure, new: Sample | None, old: Sample | None) -> Tested | None:
        """Compare two samples; None where one is missing or they are of different items."""
        if new is None or old is None or new.items != old.items or (new.weights != old.weights).any():
            return None
        key = (id(new), id(old))
        if key not in self._tests:
            both = compare(new, old, resamples=self.resamples, seed=self.seed)
            self._tests[key] = Tested(measure, both, both.p, both.smallest())
        return self._tests[key]

    def rises(self, test: Tested) -> str:
        """Return whether a difference is an improvement."""
        if _is_seen(test):
            return SUPPORTED if test.gain > 0 else CONTRADICTED
        return CONTRADICTED if test.gain_ends[1] < self.margin else UNDECIDED

    def falls(self, test: Tested) -> str:
        """Return whether a difference is a loss."""
        if _is_seen(test):
            return SUPPORTED if test.gain < 0 else CONTRADICTED
        return CONTRADICTED if test.gain_ends[0] > -self.margin else UNDECIDED

    def stays(self, test: Tested) -> str:
        """Return whether a difference is no improvement that matters."""
        if test.gain_ends[1] < self.margin:
            return SUPPORTED
        return CONTRADICTED if _is_seen(test) and test.gain > 0 else UNDECIDED

    def outcome(self, about: str, verdict: str, test: Tested) -> Outcome:
        """Return an outcome that goes by one difference."""
        to, (low, high) = test.measure.scale, test.gain_ends
        effect = f"{_signed(test.gain, to)} {to.unit}"
        interval = f"{_signed(low, to)}..{_signed(high, to)}"
        needed = self.needed(test) if verdict == UNDECIDED else ""
        return Outcome(about, verdict, effect, interval, test.comparison.n, needed)

    def needed(self, test: Tested) -> str:
        """Return how many items would show an effect as large as the one seen, or rule out one of `margin`."""
        both = test.comparison
        reach = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)
        wished = max(abs(test.gain), self.margin)
        if not np.isfinite(both.se) or not both.se > 0:
            return "more items"
        items = int(np.ceil(both.n * (reach * both.se / wished) ** 2))
        seeds = "" if len(both.by_seed) > 1 else "; and a second seed, for another training's luck"
        return f"about {max(items, both.n + 1):,} items instead of {both.n:,}{seeds}"

    def together(self, about: str, parts: Iterable[tuple[str, str, Tested | None]]) -> Outcome:
        """Return one outcome of several conditions `(name, verdict, difference)` that must all hold."""
        known = [(name, verdict, test) for name, verdict, test in parts if test is not None]
        verdicts = [verdict for _, verdict, _ in known]
        verdict = (
            CONTRADICTED
            if CONTRADICTED in verdicts
            else SUPPORTED
            if verdicts and set(verdicts) == {SUPPORTED}
            else UNDECIDED
        )
        outcomes = [(name, self.outcome(about, each, test)) for name, each, test in known]
        needed = "; ".join(f"{name}: {o.needed}" for name, o in outcomes if o.needed) if verdict == UNDECIDED else ""
        return Outcome(
            about,
            verdict,
            "; ".join(f"{name} {o.effect}" for name, o in outcomes),
            "; ".join(o.interval for _, o in outcomes),
            min((o.items for _, o in outcomes if o.items is not None), default=None),
            needed,
        )


def _is_seen(test: Tested) -> bool:
    return test.comparison.p < LEVEL and test.comparison.one_direction


def _signed(gain: float, to: _results.Scale) -> str:
    """A gain in the unit, positive where it is an improvement, whatever the metric's direction."""
    return f"{gain * to.factor + 0.0:+.{to.digits}f}"

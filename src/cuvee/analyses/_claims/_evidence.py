"""What a finding is tested on: one base model's results in order, and the questions asked of a difference.

    rises(test)        is it an improvement?       supported: measurably better
                                                   contradicted: worse, or an improvement of `margin` is ruled out
    falls(test)        is it a loss?              the same the other way round
    stays(test)        is it none that matters?    supported: an improvement of `margin` is ruled out
                                                   contradicted: measurably better

All go by the comparison's own 95 % interval and p, without correction for the other findings: each is a question of
its own. What lies between is undecided, and `needed` says how many items would decide it. A finding about every ability
is not supported while an ability that the runs were trained on is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    _tests: dict[tuple[Sample, Sample], Tested] = field(default_factory=dict)

    @cached_property
    def samples(self) -> dict[str, dict[Measure, Sample]]:
        """Final models' samples by run and measure."""
        return _results.final_samples(self.own)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """One measure an ability: of the metric that covers most abilities, else the first there is."""
        known = _results.measures(result for result in self.own if result.final)
        return tuple(_verdict.every_ability(known, _verdict.primary(known)))

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
        """Return the measured runs of some strategies, in the order of the recipe, those with equal models once."""
        found = _results.runs(result for result in self.own if result.final)
        own = [run for run in found.values() if run.strategy in strategies and run.name != BASE]
        same = _results.same_models(r for r in self.own if r.run.strategy in strategies)
        return [run for run in own if run.name not in same]

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
        key = (new, old)  # the samples themselves: the address of one that is gone may be another's
        if key not in self._tests:
            both = compare(new, old, resamples=self.resamples, seed=self.seed)
            self._tests[key] = Tested(measure, both, both.p, both.smallest())
        return self._tests[key]

    def stages(self, run: RunInfo, stage: int, measure: Measure) -> Tested | None:
        """Compare a run's final model with itself after one of its trainings, by the first measure of the ability that
        has both, the given one first."""
        others = [m for m in _results.measures(self.own) if m.ability == measure.ability]
        found = (self.test(m, self.sample(run, m), self.after(run, stage, m)) for m in (measure, *others))
        return next((test for test in found if test is not None), None)

    def everywhere(
        self, about: str, new: RunInfo, old: RunInfo, question: Callable[[Measure, Tested], str]
    ) -> list[Outcome]:
        """Return the outcome of a question that two runs have to answer on every ability they were trained on.

        Args:
            question: the verdict on one ability, such as `rises`.

        Returns:
            One outcome; none where the runs have no ability in common.
        """
        tests = {m: self.test(m, self.sample(new, m), self.sample(old, m)) for m in self.measures}
        parts = [(m.ability, question(m, test), test) for m, test in tests.items() if test is not None]
        taught = {p.ability for run in (new, old) for t in run.trainings for p in t.portions if p.rows}
        absent = sorted(({m.ability for m in self.measures} | taught) - {ability for ability, _, _ in parts})
        return [self.together(about, parts, absent)] if parts else []

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
        if both.p < LEVEL and not both.one_direction:
            return f"more seeds: of {len(both.by_seed)} some contradict the sign of the others"
        if both.moved == 0:
            return "other items, or another evaluator such as the loss: both score the same on every item"
        reach = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)
        wished = max(abs(test.gain), self.margin)
        if not np.isfinite(both.se) or not both.se > 0:
            return "more items"
        items = int(np.ceil(both.n * (reach * both.se / wished) ** 2))
        seeds = "" if len(both.by_seed) > 1 else "; and a second seed, for another training's luck"
        return f"about {max(items, both.n + 1):,} items instead of {both.n:,}{seeds}"

    def together(self, about: str, parts: Sequence[tuple[str, str, Tested]], absent: Iterable[str] = ()) -> Outcome:
        """Return one outcome of several conditions `(name, verdict, difference)` that must all hold.

        Args:
            absent: abilities that the conditions should be about and that no difference was measured on.
        """
        outcomes = [(name, self.outcome(about, verdict, test)) for name, verdict, test in parts]
        needs = [f"{name}: {each.needed}" for name, each in outcomes if each.needed]
        needs += [f"{name} has to be measured, on the same items in both runs" for name in absent]
        verdicts = {verdict for _, verdict, _ in parts}
        verdict = CONTRADICTED if CONTRADICTED in verdicts else UNDECIDED if needs else SUPPORTED
        return Outcome(
            about,
            verdict,
            "; ".join(f"{name} {each.effect}" for name, each in outcomes),
            "; ".join(each.interval for _, each in outcomes),
            min((each.items for _, each in outcomes if each.items is not None), default=None),
            "; ".join(needs) if verdict == UNDECIDED else "",
        )


def _is_seen(test: Tested) -> bool:
    return test.comparison.p < LEVEL and test.comparison.one_direction


def _signed(gain: float, to: _results.Scale) -> str:
    """A gain in the unit, positive where it is an improvement, whatever the metric's direction."""
    return f"{gain * to.factor + 0.0:+.{to.digits}f}"

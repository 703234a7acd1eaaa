"""Results put in order for the analyses: which measures there are, which runs, how numbers are written.

A *measure* is one evaluator on one ability. A *panel* is a set of measures on one scale, shown side by side:
an evaluator with several abilities is its own panel; evaluators of one ability each (GSM8K, HumanEval) share
one when metric and direction agree, which gives the strategy table of Dong et al. (arXiv 2310.05492, table
1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cuvee.analyses._stats import Estimate, Sample, sample
from cuvee.protocols import Result, RunInfo

BASE = "base (untrained)"
"""Name of the row that shows the base model."""

LEVEL = 0.05
"""Corrected p below which a difference is called one."""


@dataclass(frozen=True)
class Scale:
    """How numbers of one metric are written.

    Args:
        unit: ``points`` (of a hundred), ``nats/token`` ...
        factor: from the metric's own numbers to the unit.
        digits: after the decimal point.
        higher_is_better: the direction.
    """

    unit: str
    factor: float
    digits: int
    higher_is_better: bool

    @property
    def short(self) -> str:
        """Unit and an arrow for the direction, for headers: ``points ↑``."""
        return f"{self.unit} {'↑' if self.higher_is_better else '↓'}"

    @property
    def label(self) -> str:
        """Unit and direction in words, for axes and notes."""
        return f"{self.unit}, {'↑ higher' if self.higher_is_better else '↓ lower'} is better"

    def text(self, value: float) -> str:
        """Return a value in the unit's digits."""
        return f"{value * self.factor:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """Return a difference in the unit's digits, always with its sign."""
        return f"{value * self.factor + 0.0:+.{self.digits}f}"

    def span(self, low: float, high: float) -> str:
        """Return an interval of differences."""
        return f"95 % {self.signed(low)}..{self.signed(high)}"

    def better(self, difference: float) -> bool:
        """Whether a difference `new - old` is an improvement."""
        return difference > 0 if self.higher_is_better else difference < 0


def scale(metric: str, higher_is_better: bool) -> Scale:
    """Return how a metric is written: accuracies and win rates in points, losses in nats a token, others plain."""
    if metric in ("accuracy", "win_rate") or metric.startswith("pass"):
        return Scale("points", 100.0, 1, higher_is_better)
    if metric == "loss":
        return Scale("nats/token", 1.0, 3, higher_is_better)
    return Scale(metric, 1.0, 2, higher_is_better)


@dataclass(frozen=True)
class Measure:
    """One evaluator on one ability."""

    evaluator: str
    ability: str
    metric: str
    higher_is_better: bool

    @property
    def scale(self) -> Scale:
        """How its numbers are written."""
        return scale(self.metric, self.higher_is_better)


@dataclass(frozen=True)
class Panel:
    """Measures on one scale, shown side by side."""

    measures: tuple[Measure, ...]

    @property
    def title(self) -> str:
        """Metric and evaluators."""
        return f"{self.measures[0].metric} ({', '.join(dict.fromkeys(m.evaluator for m in self.measures))})"

    @property
    def scale(self) -> Scale:
        """How its numbers are written."""
        return self.measures[0].scale

    def column(self, measure: Measure) -> str:
        """Name of a measure's column: the ability, with the evaluator where several share the panel."""
        several = len({m.evaluator for m in self.measures}) > 1
        return f"{measure.ability} ({measure.evaluator})" if several else measure.ability


def measure_of(result: Result) -> Measure:
    """Return the measure a result belongs to."""
    return Measure(result.evaluator, result.ability, result.metric, result.higher_is_better)


def measures(results: Iterable[Result]) -> list[Measure]:
    """Return the measures of results, in order of appearance."""
    return list(dict.fromkeys(measure_of(result) for result in results))


def panels(results: Iterable[Result]) -> list[Panel]:
    """Return the panels of results, in order of appearance."""
    by_evaluator: dict[tuple[str, str, bool], list[Measure]] = {}
    for each in measures(results):
        by_evaluator.setdefault((each.evaluator, each.metric, each.higher_is_better), []).append(each)
    grouped: dict[tuple[str, ...], list[Measure]] = {}
    for (evaluator, metric, higher), members in by_evaluator.items():
        key = (metric, str(higher)) if len(members) == 1 else (metric, str(higher), evaluator)
        grouped.setdefault(key, []).extend(members)
    return [Panel(tuple(members)) for members in grouped.values()]


def bases(results: Iterable[Result]) -> list[str]:
    """Return the base models of results, in order of appearance."""
    return list(dict.fromkeys(result.run.base for result in results))


def runs(results: Iterable[Result]) -> dict[str, RunInfo]:
    """Return the runs of results by name; of several seeds the first."""
    found: dict[str, RunInfo] = {}
    for result in results:
        found.setdefault(result.run.name, result.run)
    return found


def base_samples(results: Iterable[Result]) -> dict[Measure, Sample]:
    """Return the base model's samples: stage 0, the same for every run and seed, taken once."""
    found: dict[Measure, Sample] = {}
    for result in results:
        if result.stage == 0 and measure_of(result) not in found:
            found[measure_of(result)] = sample([result])
    return found


def seeds_joined(results: Iterable[Result]) -> Sample:
    """Join results of one model by seed; a seed that comes twice counts once."""
    by_seed: dict[int, Result] = {}
    for result in results:
        by_seed.setdefault(result.run.seed, result)
    return sample([by_seed[seed] for seed in sorted(by_seed)])


def same_models(results: Iterable[Result]) -> dict[str, str]:
    """Return, for each run whose final models are those of an earlier run in every seed, that run.

    Equal models are one stage of the graph, so that their grades are one stage too.
    """
    graded: dict[str, set[tuple[int, str]]] = {}
    for result in results:
        if result.final:
            graded.setdefault(result.run.name, set()).add((result.run.seed, result.stage_id))
    first: dict[frozenset[tuple[int, str]], str] = {}
    owners = {run: first.setdefault(frozenset(ids), run) for run, ids in graded.items() if all(id for _, id in ids)}
    return {run: owner for run, owner in owners.items() if run != owner}


def final_samples(results: Sequence[Result]) -> dict[str, dict[Measure, Sample]]:
    """Return the final models' samples by run and measure, seeds joined, the base as the row `BASE`."""
    found: dict[str, dict[Measure, list[Result]]] = {}
    for result in results:
        if result.final:
            found.setdefault(result.run.name, {}).setdefault(measure_of(result), []).append(result)
    joined = {run: {m: seeds_joined(rs) for m, rs in by.items()} for run, by in found.items()}
    base = base_samples(results)
    return {BASE: base, **joined} if base else joined


def share_done(run: RunInfo, stages: int, place: tuple[int, Fraction]) -> float:
    """Return the share of a run's steps that is done; trainings count alike where their steps are not known.

    Args:
        run: whose.
        stages: how many trainings it has.
        place: number of the training, 0 for the base, and the share of it that is done.
    """
    steps = [training.steps for training in run.trainings]
    if len(steps) != stages or not sum(steps):
        steps = [1] * stages
    stage, fraction = place
    return float((sum(steps[: stage - 1]) + fraction * steps[stage - 1]) / sum(steps)) if stage else 0.0


def count(of: Estimate) -> str:
    """Return m/n for 0/1 scores, the number of items otherwise."""
    if of.hits is None:
        return f"{of.n} items"
    return f"{of.hits}/{of.trials}" if of.seeds == 1 else f"{of.hits}/{of.seeds}x{of.n}"


def cell(of: Estimate, to: Scale) -> str:
    """Return an estimate as a table's cell: value, standard error, m/n.

    Items that all have one score do not say how far their mean is off: no error stands there, rather than 0.
    """
    se = "" if not of.se else f" ± {to.text(of.se)}"
    return f"{to.text(of.value)}{se} ({count(of)})"


def point(x: object, of: Estimate, to: Scale) -> Mapping[str, object]:
    """Return an estimate as a figure's point, in display units."""
    ends = {"low": of.low, "high": of.high}
    bars = {name: None if end is None else end * to.factor for name, end in ends.items()}
    return {"x": x, "y": of.value * to.factor, **bars}


def in_unit(value: float | None, to: Scale) -> float | None:
    """Return a number in display units."""
    return None if value is None or value in (float("inf"), float("-inf")) else value * to.factor


def titled(text: str, base: str, several: bool) -> str:
    """Return a title, with the base model's name where there are several."""
    return f"{text}, base model {base}" if several else text


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names joined for a sentence: ``a, b and c``, or ``a, b and 4 more``."""
    shown = list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else ""

"""Synthetic items with a known truth: models whose accuracies are given, and results of runs that follow given laws.

An item is right when its uniform draw lies below the model's accuracy. With chance `shared` the draw is the item's own
(its difficulty, equal for all models), else the model's, so that models agree on items as real ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cuvee.analyses._chance import Floats
from cuvee.analyses._stats import Sample
from cuvee.protocols import Portion, Result, RunInfo, TrainingInfo


def scores(accuracies: Sequence[float], items: int, random: np.random.Generator, shared: float = 0.6) -> Floats:
    """Return 0/1 scores, (models, items)."""
    difficulty = random.random(items)
    own = random.random((len(accuracies), items))
    draws = np.where(random.random((len(accuracies), items)) < shared, difficulty, own)
    return (draws < np.asarray(accuracies)[:, None]).astype(float)


def samples(
    accuracies: Sequence[float],
    items: int,
    random: np.random.Generator,
    seeds: int = 1,
    seed_sd: float = 0.0,
    shared: float = 0.6,
) -> list[Sample]:
    """Return one sample a model; each seed is a training of its own with luck of `seed_sd`."""
    level = np.repeat(np.asarray(accuracies), seeds) + seed_sd * random.standard_normal(len(accuracies) * seeds)
    drawn = scores(np.clip(level, 0, 1).tolist(), items, random, shared).reshape(len(accuracies), seeds, items)
    names = tuple(f"{i:05d}" for i in range(items))
    return [Sample(names, by, np.ones(items), tuple(range(seeds)), items, measured=items) for by in drawn]


def run(
    name: str,
    rows: Mapping[str, int],
    *,
    strategy: str = "single",
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    training: Mapping[str, object] | None = None,
) -> RunInfo:
    """Return a run of one training on so many rows of each source, whose ability has its name; 20 tokens a row."""
    portions = tuple(Portion(source, source, n, 20 * n, 4096) for source, n in rows.items())
    total = sum(rows.values())
    info = TrainingInfo(f"train-{name}-{seed}", 1, total, 20 * total, 40 * total, 1.0, portions)
    return RunInfo(name, strategy, dict(params or {}), "tiny", seed, dict(training or {}), trainings=(info,))


def results(runs: Sequence[tuple[RunInfo, Mapping[str, float]]], items: int, seed: int = 0) -> list[Result]:
    """Return the final results of runs with these accuracies by ability."""
    found = []
    for ability in dict.fromkeys(name for _, by in runs for name in by):
        members = [(info, by[ability]) for info, by in runs if ability in by]
        random = np.random.default_rng([seed, sum(map(ord, ability))])
        drawn = scores([level for _, level in members], items, random)
        for (info, _), line in zip(members, drawn, strict=True):
            found.append(result(info, ability, line.tolist()))
    return found


def result(info: RunInfo, ability: str, line: Sequence[float], stage: int = 1, final: bool = True) -> Result:
    """Return one result of 0/1 scores."""
    return Result(
        run=info,
        stage=stage,
        stage_label=ability,
        final=final,
        evaluator="exact_answer",
        metric="accuracy",
        ability=ability,
        higher_is_better=True,
        items=[f"{ability}-{i:05d}" for i in range(len(line))],
        scores=list(line),
        weights=[1.0] * len(line),
        full_size=len(line),
        stage_id=f"{info.name}-{info.seed}-{stage}-{ability}",
    )

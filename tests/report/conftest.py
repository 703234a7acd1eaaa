"""A realistic, synthetic experiment: a base, four strategies, five k, three abilities, one report."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from cuvee.analyses import forgetting, k_sweep, scores
from cuvee.protocols import Result, RunInfo
from cuvee.report.data import ReportData

SIZES = {"math": 600, "code": 164, "general": 400}

RUNS: dict[str, tuple[str, dict[str, object], list[tuple[str, dict[str, float]]]]] = {
    "multi_task": (
        "multi_task",
        {},
        [("math + code + general", {"math": 0.47, "code": 0.15, "general": 0.58})],
    ),
    "sequential": (
        "sequential",
        {"order": ["code", "math", "general"]},
        [
            ("code", {"math": 0.04, "code": 0.18, "general": 0.43}),
            ("math", {"math": 0.49, "code": 0.12, "general": 0.25}),
            ("general", {"math": 0.31, "code": 0.16, "general": 0.57}),
        ],
    ),
    "mixed_sequential": (
        "mixed_sequential",
        {"general": "general"},
        [
            ("math + code", {"math": 0.49, "code": 0.18, "general": 0.3}),
            ("general", {"math": 0.33, "code": 0.15, "general": 0.60}),
        ],
    ),
}
for _k, _final in zip(
    ("1/256", "1/64", "1/16", "1/4", "1"),
    ((0.42, 0.18, 0.61), (0.43, 0.16, 0.60), (0.43, 0.15, 0.58), (0.48, 0.13, 0.57), (0.46, 0.14, 0.56)),
    strict=True,
):
    RUNS[f"dmt k={_k}"] = (
        "dmt",
        {"general": "general", "k": Fraction(_k)},
        [
            RUNS["mixed_sequential"][2][0],
            (f"general + {_k} special", dict(zip(SIZES, _final, strict=True))),
        ],
    )


def _result(
    run: RunInfo, stage: int, label: str, final: bool, evaluator: str, ability: str, level: float, key: str
) -> Result:
    """Items share their difficulty over all models, so that pairing has something to gain."""
    n = SIZES[ability]
    accuracy = evaluator == "exact_answer"
    hard = np.random.default_rng([1, list(SIZES).index(ability)]).random(n)
    noise = np.random.default_rng([2, sum(map(ord, key + ability + evaluator)), run.seed]).random(n)
    if accuracy:
        values = (0.75 * hard + 0.25 * noise < level).astype(float)
        weights = np.ones(n)
    else:
        values = 0.6 + 1.5 * (1 - level) + 0.4 * hard + 0.15 * noise
        weights = np.random.default_rng([3, list(SIZES).index(ability)]).integers(20, 400, n).astype(float)
    return Result(
        run=run,
        stage=stage,
        stage_label=label,
        final=final,
        evaluator=evaluator,
        metric="accuracy" if accuracy else "loss",
        ability=ability,
        higher_is_better=accuracy,
        items=[f"{ability}-{i}" for i in range(n)],
        scores=values.tolist(),
        weights=weights.tolist(),
        full_size=1319 if ability == "math" else n,
        extra={"extracted": [bool(v > 0.02) for v in noise]} if accuracy else {},
        stage_id=f"{evaluator}-{ability}-{key}-{run.seed}",
    )


@pytest.fixture(scope="session")
def make_results() -> Callable[..., list[Result]]:
    """Return a maker of the experiment's results: ``make_results(seeds=(0,), base="llama-7b")``."""

    def make(seeds: tuple[int, ...] = (0,), base: str = "llama-7b") -> list[Result]:
        found = []
        for seed in seeds:
            for name, (strategy, params, stages) in RUNS.items():
                run = RunInfo(name, strategy, params, base, seed)
                untrained = ("base", {"math": 0.05, "code": 0.1, "general": 0.2})
                for stage, (label, levels) in enumerate([untrained, *stages]):
                    final = stage == len(stages)
                    key = "base" if stage == 0 else f"{name}-{stage}"
                    if strategy in ("dmt", "mixed_sequential") and stage == 1:
                        key = "special"
                    for evaluator in ("exact_answer", "heldout_loss"):
                        if evaluator == "heldout_loss" or final or stage == 0:
                            found += [
                                _result(run, stage, label, final, evaluator, ability, level, key)
                                for ability, level in levels.items()
                            ]
        return found

    return make


def _curve(steps: int, start: float, end: float, seed: int) -> list[tuple[int, float]]:
    noise = np.random.default_rng(seed).normal(0, 0.04, steps)
    return [(i + 1, float(end + (start - end) * np.exp(-4 * i / steps) + noise[i])) for i in range(steps)]


@pytest.fixture(scope="session")
def make_report(make_results: Callable[..., list[Result]]) -> Callable[..., ReportData]:
    """Return a maker of the whole experiment as report data."""

    def make(seeds: tuple[int, ...] = (0,)) -> ReportData:
        results = make_results(seeds)
        tables = {
            "scores": scores.table(results, scores.Params(resamples=2000)),
            "forgetting": forgetting.table(results, forgetting.Params(resamples=2000)),
            "k_sweep": k_sweep.table(results, k_sweep.Params(resamples=2000)),
        }
        stages = [
            {
                "short": f"train-{i:016x}",
                "kind": "train",
                "label": "math + code" if i == 3 else f"stage of {name}",
                "runs": [name] if i != 3 else [n for n in RUNS if "dmt" in n or "mixed" in n],
                "finished": i % 2 == 0,
                "seconds": 312.4 + 77 * i,
                "cpu_seconds": 1200.0 + i,
                "rows": 12_345 + i,
                "supervised_tokens": 2_345_678 + i,
                "total_tokens": 4_345_678,
                "steps": 289,
                "id": f"{i:064x}",
            }
            for i, name in enumerate(["multi_task", "sequential", "sequential", "mixed_sequential", *RUNS])
        ]
        return ReportData(
            title="Four strategies on math, code and general",
            recipe_text="base: llama-7b\nruns:\n  - {strategy: dmt, general: general, k: [1/256, 1/4, 1]}\n",
            created="2026-09-01 12:00",
            tables=tables,
            stages=stages,
            costs={
                "trainings": 11,
                "trainings_if_alone": 16,
                "seconds": 5230.0,
                "seconds_if_alone": 9120.0,
                "supervised_tokens": 25_000_000,
                "supervised_tokens_if_alone": 41_000_000,
            },
            curves={name: _curve(200 + 37 * i, 2.4, 0.9 + 0.03 * i, i) for i, name in enumerate(RUNS)},
            source_curves={"multi_task": {s: _curve(700, 2.2, 0.7 + 0.2 * i, 20 + i) for i, s in enumerate(SIZES)}},
            versions={"cuvee": "0.1.0", "torch": "2.9.0"},
        )

    return make


@pytest.fixture(scope="session")
def report(make_report: Callable[..., ReportData]) -> ReportData:
    """One seed."""
    return make_report()

"""Results small enough to read: ``result("dmt", "math", "1101")`` is four items, three of them right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cuvee.protocols import Result, RunInfo


def build(
    run: str,
    ability: str,
    scores: str | Sequence[float],
    *,
    stage: int = 1,
    final: bool = True,
    evaluator: str = "exact_answer",
    seed: int = 0,
    base: str = "tiny",
    strategy: str = "",
    params: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    items: Sequence[str] | None = None,
    full_size: int = 0,
    training: Mapping[str, Any] | None = None,
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> Result:
    values = [float(score) for score in scores]
    loss = "loss" in evaluator
    return Result(
        run=RunInfo(run, strategy or run.split()[0], params or {}, base, seed, training or {}),
        stage=stage,
        stage_label=ability if stage else "base",
        final=final and stage > 0,
        evaluator=evaluator,
        metric="loss" if loss else "accuracy",
        ability=ability,
        higher_is_better=not loss,
        items=items or [f"{ability}-{i:05d}" for i in range(len(values))],
        scores=values,
        weights=weights or [1.0] * len(values),
        full_size=full_size or len(values),
        extra=extra or {},
        stage_id=f"{evaluator}-{ability}-{'base' if stage == 0 else f'{run}-{seed}-{stage}'}",
    )


@pytest.fixture(scope="session")
def result() -> Callable[..., Result]:
    """Return the maker of small results."""
    return build

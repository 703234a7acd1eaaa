"""What evaluators share whose judge compares two replies: see `mt_bench_pairs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cuvee.evaluators import _judge, _verdicts
from cuvee.protocols import Grade, Verdict

HEAD: tuple[Literal["judge"], str, bool] = ("judge", "win_rate", True)
"""ANSWERS, METRIC and HIGHER_IS_BETTER."""


def judge_params(params: Any) -> Mapping[str, Any]:
    """Return what decides the verdicts."""
    return _judge.judge_params(params, "pair")


def combine(reference: str, verdicts: Sequence[Verdict]) -> Grade | None:
    """Return how far the reply is preferred; None where no repeat has its verdicts."""
    return _judge.with_category(reference, _verdicts.preference(verdicts))

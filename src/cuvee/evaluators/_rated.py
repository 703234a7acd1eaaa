"""What evaluators share whose judge rates one reply at a time: see `mt_bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cuvee.evaluators import _judge, _verdicts
from cuvee.protocols import Conversation, Grade, Question, Verdict

HEAD: tuple[Literal["judge"], str, bool, bool] = ("judge", "rating", True, False)
"""ANSWERS, METRIC, HIGHER_IS_BETTER and COMPARES."""


def judge_params(params: _judge.Params) -> Mapping[str, Any]:
    """Return what decides the verdicts."""
    return _judge.judge_params(params, "single")


def questions(
    asked: Sequence[Conversation],
    others: Sequence[Conversation] | None,
    params: Mapping[str, Any],
    where: Mapping[str, Any],
) -> list[Question]:
    """Return a question to the judge for each turn of each item."""
    return _judge.Asker("single", params, where).questions(asked, None)


def combine(reference: str, verdicts: Sequence[Verdict]) -> Grade | None:
    """Return the mean rating of one reply; None where no verdict could be read."""
    return _judge.with_category(reference, _verdicts.mean_rating(verdicts))

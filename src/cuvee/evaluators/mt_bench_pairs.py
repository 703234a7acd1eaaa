"""MT-Bench by comparison: a judge says which of two models replies better, asked in both orders.

Zheng et al., arXiv 2306.05685, section 3.1 (pairwise comparison) and 3.4 (position bias); prompts and rules as in
FastChat's `llm_judge`. A reply wins when it is preferred in both orders; two ties are a tie; orders that disagree are
`inconsistent` and count as a tie. The score of an item is 1, 0.5 or 0, its mean FastChat's `win_rate_adjusted`.
`first_preferred` counts the verdicts for whatever stood first: of a judge without position bias it is half of those
that are no ties.

    evaluation: [{mt_bench_pairs: {path: mt_bench, judge: gpt-4}}]                       # each run against its base
    evaluation: [{mt_bench_pairs: {path: mt_bench, judge: gpt-4, against: multi_task}}]  # each run against that one
    evaluation: [{mt_bench_pairs: {path: mt_bench, judge: gpt-4, against: gpt-3.5-turbo.jsonl}}]

Any file of questions with one or two turns will do, such as Vicuna's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cuvee.evaluators import _compared, _judge
from cuvee.protocols import Conversation, Question

VERSION = 1
REQUEST_VERSION = 1
JUDGE_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER = _compared.HEAD
COMPARES = True
ABILITY = "general"
SIZE = 80
"""Questions of the benchmark."""

TURNS = 2
SOURCE = _judge.SOURCE


class Params(_judge.PairParams):
    """As `_judge.PairParams`."""


request, request_params, judge_files = _judge.request, _judge.request_params, _judge.judge_files
grade_params, read = _judge.grade_params, _judge.read
judge_params, combine = _compared.judge_params, _compared.combine


def with_files(params: Params, folder: Path) -> Params:
    """Return the parameters with whole paths of questions, prompts, references and the other answers.

    Raises:
        DataError: one is missing, or does not hold what is needed.
    """
    found: Params = _judge.with_files(params, folder, _judge.MT_BENCH, "pair")
    return found


def questions(
    asked: Sequence[Conversation],
    others: Sequence[Conversation] | None,
    params: Mapping[str, Any],
    where: Mapping[str, Any],
) -> list[Question]:
    """Return the questions to the judge for each turn of each item: one an order."""
    return _judge.Asker("pair", params, where).questions(asked, others)

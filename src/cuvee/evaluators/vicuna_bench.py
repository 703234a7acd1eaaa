"""Vicuna's 80 single-turn questions in nine categories, each reply rated from 1 to 10 by a judge.

The questions of the Vicuna announcement (Chiang et al., 2023), judged as in Zheng et al., arXiv 2306.05685 (FastChat,
`llm_judge --bench-name vicuna_bench`). FastChat has no references for them, so mathematics and coding are judged
without, unless `with_reference` names categories and `references` a file.

    evaluation: [{vicuna_bench: {path: FastChat/fastchat/llm_judge/data/vicuna_bench, judge: gpt-4}}]
"""

from __future__ import annotations

from pathlib import Path

from cuvee.evaluators import _judge, _rated

VERSION = 1
REQUEST_VERSION = 1
JUDGE_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER, COMPARES = _rated.HEAD
ABILITY = "general"
SIZE = 80
"""Questions of the benchmark."""

TURNS = 1
SOURCE = _judge.SOURCE

QUESTIONS = ("vicuna_bench_questions.jsonl", "vicuna_bench/question.jsonl", "question.jsonl", "questions.jsonl")


class Params(_judge.Params):
    """As `_judge.Params`, without references unless asked for."""

    with_reference: tuple[str, ...] = ()


request, request_params, judge_files = _judge.request, _judge.request_params, _judge.judge_files
grade_params, read = _judge.grade_params, _judge.read
judge_params, questions, combine = _rated.judge_params, _rated.questions, _rated.combine


def with_files(params: Params, folder: Path) -> Params:
    """Return the parameters with whole paths of questions, prompts and references.

    Raises:
        DataError: one is missing, or does not hold what is needed.
    """
    found: Params = _judge.with_files(params, folder, QUESTIONS, "single")
    return found

"""MT-Bench: 80 questions of two turns, each reply rated from 1 to 10 by a judge.

Zheng et al., arXiv 2306.05685; files, prompts, temperatures and expressions as in FastChat's `llm_judge`, which Dong et
al., arXiv 2310.05492, use (the mean of three runs of the judge: `repeats: 3`). The second turn is asked with the
model's own first reply before it. The judge sees the first turn alone, then both with the word to look at the second;
for mathematics, reasoning and coding with GPT-4's reference. An item of the results is one turn of one question, 160
in all, and the mean goes over them; the turns of a question are one unit in standard errors and tests.

    evaluation: [{mt_bench: {path: FastChat/fastchat/llm_judge/data/mt_bench, judge: gpt-4}}]
    evaluation: [{mt_bench: {path: mt_bench, judge: {openai: gpt-4, repeats: 3}}}]
    evaluation: [{mt_bench: {path: data, judge: {model: ./judge-model, temperature: 0.7, repeats: 3}}}]

How verdicts are read, and what becomes of those that cannot be, is stated in `_verdicts`. What differs from the
published code: replies are written in the model's own chat template (FastChat picks one by the model's name, and a
model it does not know gets a prompt with a built-in example), and each draw hangs on seed, question and position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cuvee.evaluators import _judge, _verdicts
from cuvee.protocols import Conversation, Grade, Question, Verdict

VERSION = 1
REQUEST_VERSION = 1
JUDGE_VERSION = 1
ANSWERS: Literal["judge"] = "judge"
METRIC = "rating"
HIGHER_IS_BETTER = True
COMPARES = False
ABILITY = "general"
SIZE = 80
"""Questions of the benchmark."""

TURNS = 2
SOURCE = {"format": "question", "columns": {}, "kept": ("category", "question_id"), "questions": True}
"""How the file's rows are read."""

QUESTIONS = ("mt_bench_questions.jsonl", "mt_bench/question.jsonl", "question.jsonl", "questions.jsonl")


class Params(_judge.Params):
    """As `_judge.Params`."""


request = _judge.request
request_params = _judge.request_params
judge_files = _judge.judge_files
grade_params = _judge.grade_params
read = _judge.read


def with_files(params: Params, folder: Path) -> Params:
    """Return the parameters with whole paths of questions, prompts and references.

    Raises:
        DataError: one is missing, or does not hold what is needed.
    """
    found: Params = _judge.with_files(params, folder, QUESTIONS, "single")
    _judge.need_references(found)
    return found


def judge_params(params: Params) -> Mapping[str, Any]:
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

"""AlpacaEval-style pairs: a judge says whether the model's reply or the file's reference answer is better.

Li et al., AlpacaEval, 2023; Dubois et al., arXiv 2305.14387. An item is an instruction with the answer of a reference
model (``{"instruction": ..., "output": ..., "dataset": ...}``: text-davinci-003's in the first release). Its score is 1
where the model's reply is preferred, 0 where the reference is, 0.5 for a tie; the mean is the win rate. As published
each pair is asked once in an order drawn for it; `order: both` asks twice, and verdicts that change with the order are
ties.

    evaluation: [{alpaca_eval: {path: alpaca_eval.json, prompts: judge_prompts.jsonl, judge: gpt-4}}]

What differs: the judge is asked with the pairwise prompt of your file (``pair-v2`` of FastChat, say) and not with
AlpacaEval's own annotators, so win rates are not those of its leaderboard; lengths are not controlled for. Replies are
greedy unless `temperature` says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cuvee.evaluators import _compared, _judge
from cuvee.protocols import Conversation, Question, Request
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
JUDGE_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER = _compared.HEAD
COMPARES = False
ABILITY = "general"
SIZE = 805
"""Instructions of the benchmark."""

TURNS = 1
SOURCE = {"format": "alpaca", "columns": {}, "kept": ("dataset",)}
"""How the file's rows are read."""

QUESTIONS = ("alpaca_eval.json", "alpaca_eval.jsonl", "alpaca_eval_instructions.jsonl")


class Params(_judge.Params):
    """As `_judge.Params`.

    Args:
        order: ``random`` asks once, in an order drawn for each item; ``both`` twice with the replies swapped.
    """

    with_reference: tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    order: Literal["random", "both"] = "random"


request_params, judge_files = _judge.request_params, _judge.judge_files
grade_params, read = _judge.grade_params, _judge.read
judge_params, combine = _compared.judge_params, _compared.combine


def with_files(params: Params, folder: Path) -> Params:
    """Return the parameters with whole paths of instructions and prompts.

    Raises:
        DataError: one is missing, or does not hold what is needed.
    """
    found: Params = _judge.with_files(params, folder, QUESTIONS, "pair")
    return found


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the instruction; the file's answer is what the reply is compared with."""
    answer = example.messages[len(example.prompt)].content
    category = str(example.extra["dataset"])
    about = {"question_id": example.id, "category": category, "other": answer}
    temperature = _judge.temperature_of(category, params)
    return Request(example.id, example.prompt, json.dumps(about), solution=answer, temperature=temperature)


def questions(
    asked: Sequence[Conversation],
    others: Sequence[Conversation] | None,
    params: Mapping[str, Any],
    where: Mapping[str, Any],
) -> list[Question]:
    """Return the question to the judge for each item, or two."""
    answers = [
        Conversation(one.item, one.reference, one.turns, (_judge.about(one.reference)["other"],)) for one in asked
    ]
    return _judge.Asker("pair", params, where).questions(asked, answers)

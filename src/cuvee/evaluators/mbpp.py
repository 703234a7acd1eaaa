"""MBPP: small Python tasks with three tests each, judged by running them in a sandbox.

Austin et al., arXiv 2108.07732. The usual test items are those with `task_id` 11 to 510; `tasks: all` takes every row
of the file. The request shows the task and its tests, as published. Scores are pass@k as in `humaneval`.

    evaluation: [{mbpp: {path: mbpp.jsonl}}]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cuvee.evaluators import _benchmark, _code, _execution
from cuvee.protocols import Grade, Request, Response
from cuvee.sandbox import Limits, Program
from cuvee.values import Example, Message

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["generate"] = "generate"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
ABILITY = "code"
SIZE = 500
"""Test items of the benchmark."""

SOURCE = {
    "format": "prompt_completion",
    "columns": {"prompt": "text", "completion": "code"},
    "kept": ("task_id", "test_list", "test_setup_code"),
}
"""How the file's rows are read: an example, and the columns that the judge needs."""

TESTED = range(11, 511)
LIMITS = Limits(cpu_seconds=10, wall_seconds=30.0)
"""One published solution takes three seconds."""


class Params(_execution.Params):
    """Args:
    tasks: ``test`` takes the published test items, ``all`` every row of the file.
    """

    tasks: Literal["test", "all"] = "test"


grade_params = _execution.grade_params


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the replies, and which tasks are asked."""
    return {**_benchmark.decoding(params), "tasks": params.tasks}


def request(example: Example, params: Mapping[str, Any]) -> Request | None:
    """Return the task as a request; None for one that is no test item."""
    extra = example.extra
    if params["tasks"] == "test" and extra["task_id"] not in TESTED:
        return None
    code = example.messages[-1].content
    asked = (Message("user", _code.mbpp_question(example.messages[0].content, extra["test_list"])),)
    data = {"tests": extra["test_list"], "setup": extra["test_setup_code"], "code": code}
    return Request(example.id, asked, json.dumps(data), solution=f"```python\n{code}\n```")


def grade_many(
    asked: Sequence[tuple[Request, Sequence[Response]]], params: Mapping[str, Any], workers: int
) -> list[Grade]:
    """Run all replies to all tasks and return one grade a task."""
    return _execution.grade_many(asked, params, workers, _program, LIMITS)


def _program(request: Request, reply: str) -> tuple[Program, str]:
    data = json.loads(request.reference)
    entry = _code.entry_point("\n".join(data["tests"]), data["code"])
    completed = _code.completion("", reply, entry)
    return _code.mbpp(completed.text, data["tests"], data["setup"], data["code"]), completed.rule

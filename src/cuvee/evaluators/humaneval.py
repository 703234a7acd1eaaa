"""HumanEval: Python functions completed from signature and docstring, judged by running tests in a sandbox.

Chen et al., arXiv 2107.03374. An item is a problem; its score is pass@k, estimated without bias from the replies
drawn (`_pass_at_k`). How a chat reply becomes a program is stated in `_code`; the published harness has no such step,
since it was made for models that continue the prompt. How programs are run, and which cheats remain, is stated in
`cuvee.sandbox`. The published limit is 3 seconds a program; here it is CPU time, so that verdicts do not hang on the
machine's load.

    evaluation: [{humaneval: {path: HumanEval.jsonl.gz}}]
    evaluation: [{humaneval: {path: HumanEval.jsonl.gz, samples: 20, temperature: 0.8, k: 10, name: pass@10}}]
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
SIZE = 164
"""Problems of the benchmark."""

SOURCE = {
    "format": "prompt_completion",
    "columns": {"prompt": "prompt", "completion": "canonical_solution"},
    "kept": ("test", "entry_point"),
}
"""How the file's rows are read: an example, and the columns that the judge needs."""

LIMITS = Limits(cpu_seconds=3, wall_seconds=10.0)


class Params(_execution.Params):
    """As `_execution.Params`."""


request_params = _benchmark.decoding
grade_params = _execution.grade_params


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the problem as a request to a chat model."""
    prompt, solution = example.messages[0].content, example.messages[-1].content
    data = {"prompt": prompt, "test": example.extra["test"], "entry_point": example.extra["entry_point"]}
    asked = (Message("user", _code.humaneval_question(prompt)),)
    return Request(example.id, asked, json.dumps(data), solution=f"```python\n{prompt}{solution}\n```")


def grade_many(
    asked: Sequence[tuple[Request, Sequence[Response]]], params: Mapping[str, Any], workers: int
) -> list[Grade]:
    """Run all replies to all problems and return one grade a problem."""
    return _execution.grade_many(asked, params, workers, _program, LIMITS)


def _program(request: Request, reply: str) -> tuple[Program, str]:
    data = json.loads(request.reference)
    completed = _code.completion(data["prompt"], reply, data["entry_point"])
    return _code.humaneval(data["prompt"], data["test"], data["entry_point"], completed.text), completed.rule

"""HumanEval+: HumanEval's problems with many more inputs, compared with the reference solution, in a sandbox.

Liu et al., arXiv 2305.01210. The request is HumanEval's; a reply must answer the original and the further inputs as
the reference does (`_plus`, `_code`). The file is EvalPlus' release (`HumanEvalPlus.jsonl`), with the columns task_id,
prompt, canonical_solution, entry_point, base_input, plus_input and atol. Its early development form has the original
inputs only, in other columns, and is refused: `humaneval` judges by those.

    evaluation: [{humaneval_plus: {path: HumanEvalPlus.jsonl.gz}}]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from cuvee.evaluators import _benchmark, _code, _execution, _plus
from cuvee.protocols import Request
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
    "kept": _plus.KEPT,
}
"""How the file's rows are read: an example, and the columns that the judge needs."""


class Params(_execution.Params):
    """As `_execution.Params`."""


request_params = _benchmark.decoding
grade_params = _execution.grade_params
grade_many = _plus.grade_many


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the problem as a request to a chat model."""
    prompt, solution = example.messages[0].content, example.messages[-1].content
    data = {
        "prompt": prompt,
        "reference": prompt + solution,
        "entry": example.extra["entry_point"],
        "inputs": _plus.inputs_of(example, "HumanEval+"),
        "atol": example.extra["atol"],
    }
    asked = (Message("user", _code.humaneval_question(prompt)),)
    return Request(example.id, asked, json.dumps(data), solution=f"```python\n{prompt}{solution}\n```")

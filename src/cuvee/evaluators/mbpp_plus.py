"""MBPP+: MBPP's tasks with many more inputs, compared with the reference solution, in a sandbox.

Liu et al., arXiv 2305.01210. The request is MBPP's (Austin et al., arXiv 2108.07732), with the file's assertions; a
reply must answer the original and the further inputs as the reference does (`_plus`, `_code`). The file is EvalPlus'
release (`MbppPlus.jsonl`). JSON has lists where some tasks take tuples, sets or complex numbers: `SHAPES` names those
tasks and what becomes of their inputs, as in the release's own reader (EvalPlus, data/mbpp.py).

    evaluation: [{mbpp_plus: {path: MbppPlus.jsonl}}]
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
SIZE = 399
"""Tasks of the release that the conversions are made for; later releases have fewer."""

SOURCE = {
    "format": "prompt_completion",
    "columns": {"prompt": "prompt", "completion": "canonical_solution"},
    "kept": (*_plus.KEPT, "assertion"),
}
"""How the file's rows are read: an example, and the columns that the judge needs."""

SHAPES: Mapping[str, tuple[int, ...]] = {
    "[tuple(x) for x in a]": (
        *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630),
        *(726, 740, 744, 809),
    ),
    "[[tuple(y) for y in x] for x in a]": (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    "[[tuple(y) for y in a[0]], a[1]]": (75, 413, 444, 753),
    "[a[0], tuple(a[1])]": (106, 750),
    "[[set(x) if isinstance(x, list) and x else {} for x in a[0]]]": (115,),
    "[float(a[0]), complex(a[1])]": (124,),
    "[tuple(a[0]), a[1]]": (250, 405, 446, 617, 720, 763, 808),
    "[tuple(tuple(y) for y in x) for x in a]": (259, 401, 445),
    "[tuple(tuple(y) if isinstance(y, list) else y for y in a[0])]": (278,),
    "[tuple(a[0]), a[1], a[2]]": (307,),
    "[{key: tuple(value) for key, value in a[0].items()}, *a[1:]]": (722,),
    "[complex(a[0])]": (252,),
    "frozen(a)": (580, 615, 791),
}
"""What becomes of a call's arguments `a`, by task."""

FROZEN = "frozen = lambda a: tuple(map(frozen, a)) if isinstance(a, list) else a\n"


class Params(_execution.Params):
    """As `_execution.Params`."""


request_params = _benchmark.decoding
grade_params = _execution.grade_params
grade_many = _plus.grade_many


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the task as a request; its assertions are shown."""
    extra, code = example.extra, example.messages[-1].content
    text = example.messages[0].content.strip().strip("'\"").strip()
    tests = [line for line in extra["assertion"].strip().split("\n") if line]
    data = {
        "prompt": "",
        "reference": code,
        "entry": extra["entry_point"],
        "inputs": _plus.inputs_of(example, "MBPP+"),
        "atol": extra["atol"],
        "reshape": reshape(str(extra["task_id"])),
    }
    asked = (Message("user", _code.mbpp_question(text, tests)),)
    return Request(example.id, asked, json.dumps(data), solution=f"```python\n{code}\n```")


def reshape(task: str) -> str:
    """Return the source of `reshape` for a task such as ``Mbpp/2``."""
    number = int(task.rpartition("/")[2])
    shape = next((shape for shape, tasks in SHAPES.items() if number in tasks), None)
    return _code.AS_IT_IS if shape is None else f"{FROZEN}reshape = lambda a: {shape}"

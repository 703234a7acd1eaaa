"""What HumanEval+ and MBPP+ share: a reply is right where it answers every input as the reference solution does.

Liu et al., arXiv 2305.01210. Inputs are those of the original tests (`base_input`) and the further ones
(`plus_input`). How answers are compared is stated in `_code`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuvee import sandbox
from cuvee.evaluators import _benchmark, _code, _execution
from cuvee.protocols import Grade, Request, Response
from cuvee.sandbox import Limits, Program
from cuvee.values import Example

KEPT = ("task_id", "entry_point", "base_input", "plus_input", "atol")
LIMITS = Limits(cpu_seconds=20, wall_seconds=60.0)
"""Hundreds of inputs a program, each run twice."""


def inputs_of(example: Example, benchmark: str) -> list[Any]:
    """Return all inputs of a row.

    Raises:
        DataError: the row holds no inputs; it is of another file.
    """
    # A task without further inputs has an empty mapping there.
    base, plus = (example.extra[name] or [] for name in ("base_input", "plus_input"))
    if not isinstance(base, list) or not isinstance(plus, list) or not base + plus:
        raise _benchmark.not_this(example, "base_input and plus_input hold no inputs", benchmark)
    return base + plus


def grade_many(
    asked: Sequence[tuple[Request, Sequence[Response]]], params: Mapping[str, Any], workers: int
) -> list[Grade]:
    """Run all replies on all inputs and return one grade an item, with how many of its inputs judged nothing."""
    grades = _execution.grade_many(asked, params, workers, _program, LIMITS)
    tasks = [json.loads(request.reference) for request, _ in asked]
    left_out = _skipped(tasks, params, workers)
    return [
        replace(grade, extra={**grade.extra, "inputs": len(task["inputs"]), "inputs_skipped": skipped})
        for grade, task, skipped in zip(grades, tasks, left_out, strict=True)
    ]


def _program(request: Request, reply: str) -> tuple[Program, str]:
    task = json.loads(request.reference)
    completed = _code.completion(task["prompt"], reply, task["entry"])
    code = task["prompt"] + completed.text
    reshape = task.get("reshape", _code.AS_IT_IS)
    return (
        _code.against_reference(code, task["reference"], task["entry"], task["inputs"], task["atol"], reshape),
        completed.rule,
    )


def _skipped(tasks: Sequence[Mapping[str, Any]], params: Mapping[str, Any], workers: int) -> list[int | None]:
    """Return how many inputs of each task the reference cannot take; None where that did not come out."""
    programs = [
        _code.skipped(task["reference"], task["entry"], task["inputs"], task.get("reshape", _code.AS_IT_IS))
        for task in tasks
    ]
    verdicts = sandbox.run_many(programs, LIMITS, workers=workers, unsafe=params.get("sandbox") is False)
    found = [re.fullmatch(r"AssertionError: skipped (\d+)", verdict.detail) for verdict in verdicts]
    return [int(match[1]) if match else None for match in found]

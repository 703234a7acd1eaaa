"""What is asked of every evaluator that generates: its own solution scores full, nothing scores nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cuvee import components, judging
from cuvee.errors import StageFailed
from cuvee.protocols import Grade, Request, Response
from cuvee.runtime import Runtime
from cuvee.values import Example, Message

TEST = "def check(candidate):\n    assert candidate(1) == 2\n"
HUMANEVAL = ("def inc(x):\n    '''Add one.'''\n", "    return x + 1\n")
INPUTS = {"base_input": [[1]], "plus_input": [[2], ["raises"]], "atol": 0, "entry_point": "inc"}
CODE = "def inc(x):\n    return x + 1\n"
ROWS: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "exact_answer": (("1 + 1?", "#### 2"), {}),
    "gsm8k": (("1 + 1?", "1 + 1 = 2\n#### 2"), {}),
    "ifeval": (
        ("Say something with a fruit in it.", "An apple."),
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["apple"]}]},
    ),
    "humaneval": (HUMANEVAL, {"task_id": "HumanEval/0", "test": TEST, "entry_point": "inc"}),
    "humaneval_plus": (HUMANEVAL, {"task_id": "HumanEval/0", **INPUTS}),
    "mbpp": (("Add one.", CODE), {"task_id": 11, "test_list": ["assert inc(1) == 2"], "test_setup_code": ""}),
    "mbpp_plus": (("'''\nAdd one.\n'''", CODE), {"task_id": "Mbpp/11", "assertion": "assert inc(1) == 2", **INPUTS}),
}


def generating() -> list[str]:
    names = components.names("evaluators")
    return [name for name in names if components.find("evaluators", name).ANSWERS == "generate"]


def asked(name: str) -> tuple[Any, Any, Request]:
    module = components.find("evaluators", name)
    (question, answer), extra = ROWS[name]
    params = module.Params(**({"path": "x"} if "path" in module.Params.model_fields else {}))
    row = Example((Message("user", question), Message("assistant", answer)), (), "x.jsonl", 1, extra=extra)
    return module, params, module.request(row, module.request_params(params))


def graded(module: Any, params: Any, request: Request, text: str) -> Grade:
    """Grade as the grade stage does: what was stored of a request is its reference."""
    stored, replies = Request(request.item, (), request.reference), [Response(text, "stop")]
    if hasattr(module, "grade_many"):
        (grade,) = module.grade_many([(stored, replies)], module.grade_params(params), 1)
        return grade
    return module.grade(stored, replies, module.grade_params(params))


def test_every_evaluator_that_generates_is_tested_here() -> None:
    assert generating() == sorted(ROWS)


@pytest.mark.parametrize("name", generating())
def test_its_own_solution_scores_full_and_nothing_scores_nothing(name: str) -> None:
    module, params, request = asked(name)
    assert graded(module, params, request, request.solution or request.reference).score == 1.0
    for text in ("", "I do not know.", "\x00", "\ud800"):
        assert graded(module, params, request, text).score == 0.0


@pytest.mark.parametrize("name", generating())
def test_a_request_shows_no_solution_and_names_its_item(name: str) -> None:
    _, _, request = asked(name)
    assert request.item
    assert ROWS[name][0][1].strip() not in request.messages[-1].content


@pytest.mark.parametrize("name", generating())
def test_a_request_that_failed_raises_and_is_no_wrong_answer(name: str, tmp_path: Path) -> None:
    module, params, request = asked(name)
    columns = {"item": [request.item], "reference": [request.reference], "text": [None], "finish": ["stop"]}
    judging.write_table(tmp_path / judging.RESPONSES, columns)
    with pytest.raises(StageFailed, match="has no answer; a request that failed is no wrong answer"):
        judging._grades(module, tmp_path, module.grade_params(params), Runtime())

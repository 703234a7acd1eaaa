"""HumanEval, MBPP and their plus versions as evaluators: pass@k by item, odd replies, isolation, skipped inputs."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from cuvee import sandbox
from cuvee.errors import DataError, RecipeError
from cuvee.evaluators import _code, _execution, humaneval, humaneval_plus, mbpp, mbpp_plus
from cuvee.protocols import Grade, Request, Response
from cuvee.recipe import validate
from cuvee.sandbox import SandboxUnavailable, runner
from cuvee.values import Example, Message

PROMPT, BODY = "def inc(x):\n    '''Add one.'''\n", "    return x + 1\n"
TEST = "def check(candidate):\n    assert candidate(1) == 2\n"
RIGHT, WRONG = f"```python\n{PROMPT}{BODY}```", "```python\ndef inc(x):\n    return x\n```"


def problem(name: str = "one") -> Request:
    return Request(name, (), json.dumps({"prompt": PROMPT, "test": TEST, "entry_point": "inc"}))


def graded(*texts: str, k: int = 1, **params: Any) -> Grade:
    replies = [Response(text, "stop") for text in texts]
    return humaneval.grade_many([(problem(), replies)], {"k": k, **params}, 2)[0]


def row(answer: str, extra: dict[str, Any], question: str = PROMPT) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), (), "f.jsonl", 3, extra=extra)


def test_the_score_of_an_item_is_pass_at_k() -> None:
    one, two = graded(RIGHT, WRONG, RIGHT, WRONG), graded(RIGHT, WRONG, WRONG, WRONG, k=2)
    assert (one.score, one.extra["passed"], one.extra["replies"]) == (0.5, 2, 4)
    assert two.score == 0.5
    assert graded(WRONG, WRONG).score == 0.0
    assert one.extra["isolated"] is True


def test_items_keep_their_own_replies() -> None:
    asked = [(problem("a"), [Response(RIGHT, "stop")]), (problem("b"), [Response(WRONG, "length")])]
    first, second = humaneval.grade_many(asked, {"k": 1}, 2)
    assert (first.score, first.extra["outcome"], first.extra["cut"]) == (1.0, "passed", 0)
    assert (second.score, second.extra["outcome"], second.extra["cut"]) == (0.0, "failed", 1)
    assert "AssertionError" in second.extra["detail"]


def test_without_a_sandbox_the_results_say_so_and_the_grading_is_another_one() -> None:
    grade = graded(RIGHT, sandbox=False)
    assert (grade.score, grade.extra["isolated"]) == (1.0, False)
    safe, unsafe = humaneval.Params(path="x"), humaneval.Params(path="x", sandbox=False)
    assert _execution.grade_params(safe) == {"k": 1}
    assert _execution.grade_params(unsafe) == {"k": 1, "sandbox": False}


def test_where_programs_cannot_be_isolated_grading_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_found", lambda: (None, "bwrap is not installed"))
    with pytest.raises(SandboxUnavailable, match=r"bwrap is not installed. Install `pip install 'cuvee\[sandbox\]'`"):
        graded(RIGHT)
    assert graded(RIGHT, sandbox=False).score == 1.0


LONG = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "x" * LONG,
        "def inc(x):\n    return x\n" + "prose (\n" * (LONG // 8),
        "def inc(x):\n    return x\n" + "more prose here\n" * (LONG // 16),
        "    return x\n" + "def f():\n" * (LONG // 9),
        "```python\n" * (LONG // 10),
        "(" * LONG,
        "def inc(x):\n" * (LONG // 12),
        "    '''\n" * (LONG // 8),
    ],
    ids=["one word", "open brackets", "prose", "functions", "fences", "brackets", "heads", "quotes"],
)
def test_a_reply_of_a_megabyte_is_read_in_seconds_and_counted(text: str) -> None:
    begin = time.process_time()
    _code.completion(PROMPT, text, "inc")
    assert time.process_time() - begin < 10
    grade = graded(text)
    assert (grade.score, grade.extra["shortened"]) == (0.0, 1)


def test_right_code_before_a_megabyte_of_prose_is_found() -> None:
    assert graded(f"{PROMPT}{BODY}\nThis adds one.\n" + "It really does.\n" * 60_000).score == 1.0


def test_the_longest_code_is_what_cutting_line_by_line_finds() -> None:
    draw = random.Random(0)
    pieces = [
        "x = 1",
        "def f():",
        "    return (",
        "    )",
        "'''",
        "prose it is",
        "print(1)",
        "",
        "if x:",
        "  y = 2",
        "]",
    ]
    for _ in range(400):
        lines = [draw.choice(pieces) for _ in range(draw.randrange(1, 12))]
        by_line = next(text for end in range(len(lines), -1, -1) if _code._parses(text := "\n".join(lines[:end])))
        assert _code._longest_code(lines) == by_line, lines


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"k": 2}, "k: 2 needs as many samples; there are 1: samples: 2 or more"),
        ({"k": 0}, "greater than or equal to 1"),
        ({"sandbx": False}, "unknown key 'sandbx'. Did you mean 'sandbox'?"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told.replace("?", r"\?")):
        validate(humaneval.Params, {"path": "x", **params})


def test_mbpp_asks_the_published_test_items_unless_all_are_asked_for() -> None:
    def task(number: int) -> Example:
        extra = {"task_id": number, "test_list": ["assert inc(1) == 2"], "test_setup_code": ""}
        return row(PROMPT + BODY, extra, "Add one.")

    asked = [n for n in (1, 10, 11, 510, 511, 974) if mbpp.request(task(n), {"tasks": "test"})]
    assert asked == [11, 510]
    assert mbpp.request(task(974), {"tasks": "all"})


PLUS = {"base_input": [[1]], "plus_input": [[2], ["raises"]], "atol": 0, "entry_point": "inc", "task_id": "Mbpp/8"}


def test_a_plus_task_needs_every_input_right_and_counts_those_that_judge_nothing() -> None:
    request = humaneval_plus.request(row(BODY, PLUS), {})
    special = "def inc(x):\n    return 2 if x == 1 else 0\n"
    asked = [(request, [Response(text, "stop")]) for text in (RIGHT, special)]
    right, wrong = humaneval_plus.grade_many(asked, {"k": 1}, 2)
    assert (right.score, right.extra["inputs"], right.extra["inputs_skipped"]) == (1.0, 3, 1)
    assert (wrong.score, wrong.extra["outcome"]) == (0.0, "failed")
    assert "differs at [2]" in wrong.extra["detail"]


def test_a_plus_file_without_inputs_is_an_error_with_its_line() -> None:
    with pytest.raises(DataError, match=r"f.jsonl:3: base_input and plus_input hold no inputs; is this HumanEval\+\?"):
        humaneval_plus.request(row(BODY, {**PLUS, "base_input": [], "plus_input": {}}), {})


@pytest.mark.parametrize(
    ("task", "arguments", "taken"),
    [
        ("Mbpp/2", [[1], [2]], [(1,), (2,)]),
        ("Mbpp/63", [[[1, 2]]], [[(1, 2)]]),
        ("Mbpp/115", [[[1], []]], [[{1}, {}]]),
        ("Mbpp/124", ["0", "1j"], [0.0, 1j]),
        ("Mbpp/278", [[1, [2, 3]]], [(1, (2, 3))]),
        ("Mbpp/722", [{"a": [1]}, 2], [{"a": (1,)}, 2]),
        ("Mbpp/580", [[1, [2]]], ((1, (2,)),)),
        ("Mbpp/8", [[1]], [[1]]),
    ],
)
def test_inputs_of_mbpp_plus_become_what_the_tasks_take(task: str, arguments: Any, taken: Any) -> None:
    world: dict[str, Any] = {}
    exec(mbpp_plus.reshape(task), world)
    assert world["reshape"](arguments) == taken


def test_a_model_that_never_stops_computing_is_a_counted_failure() -> None:
    begin = time.monotonic()
    verdict = sandbox.run("while True: pass", sandbox.Limits(cpu_seconds=1, wall_seconds=5))
    assert verdict.outcome == "timeout"
    assert time.monotonic() - begin < 30

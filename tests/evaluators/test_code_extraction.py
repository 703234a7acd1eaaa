"""What of a reply is code, by the stated rules, and which program it becomes."""

from __future__ import annotations

import ast
import textwrap

import pytest

from cuvee import sandbox
from cuvee.errors import UsageError
from cuvee.evaluators import _code
from cuvee.evaluators._code import completion

PROMPT = "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    '''Sum.'''\n"
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
WHOLE = "def total(xs: List[int]) -> int:\n    '''Sum.'''\n    return sum(xs)\n"

# Name of the case, reply, rule that applies.
RIGHT = [
    ("a body", "    return sum(xs)\n", "body"),
    ("a body without its indentation", "result = 0\nfor x in xs:\n    result += x\nreturn result", "body"),
    ("a body and the next function", "    return sum(xs)\n\n\ndef other():\n    return (\n", "body"),
    ("a body and usage", "    return sum(xs)\n\nprint(total([1]))\nassert total([]) == 1\n", "body"),
    ("a body and prose", "    return sum(xs)\n\nThis adds all numbers.\n", "body"),
    ("a body and the end of a fence", "    return sum(xs)\n```\nDone.", "body"),
    ("a body with text at the margin", "    text = '''\nat the margin\n'''\n    return sum(xs)\n", "body"),
    ("the function", WHOLE, "bare function"),
    ("the prompt again", PROMPT + "    return sum(xs)\n", "bare function"),
    ("prose around the function", f"Sure, here it is:\n\n{WHOLE}\nIt adds all numbers.\n", "bare function"),
    ("prose that starts like code", f"from the above it follows:\n\n{WHOLE}\nimport this, they say\n", "bare function"),
    ("a fenced function", f"Sure:\n\n```python\n{WHOLE}```\nDone!", "fenced function"),
    ("a fence without language", f"```\n{WHOLE}```", "fenced function"),
    ("a fence that is not closed", f"```python\n{WHOLE}", "fenced function"),
    ("a fence of tildes", f"~~~ py\n{WHOLE}~~~", "fenced function"),
    ("an indented fence", textwrap.indent(f"```python\n{WHOLE}```", "  "), "fenced function"),
    ("line ends of another system", f"```python\n{WHOLE}```".replace("\n", "\r\n"), "fenced function"),
    ("usage before the function", f"```python\ntotal([1])\n```\n```python\n{WHOLE}```", "fenced function"),
    ("a second version", f"```python\n{WHOLE}```\n```python\n{WHOLE.replace('sum(xs)', '0')}```", "fenced function"),
    ("a shell block first", f"```bash\npip install x\n```\n```python\n{WHOLE}```", "fenced function"),
    ("output after it", f"```python\n{WHOLE}```\n```text\ndef total(\n```", "fenced function"),
    ("its own imports and helpers", "```python\nfrom functools import reduce\ndef add(a, b):\n    return a + b\n\n"
     "def total(xs):\n    return reduce(add, xs, 0)\n```", "fenced function"),
    ("a fenced body", "```python\n    return sum(xs)\n```", "fenced body"),
    ("a fenced body without indentation", "Put this there:\n```python\nreturn sum(xs)\n```", "fenced body"),
    ("a fence inside a longer fence", f"````text\n```python\nx\n```\n````\n```python\n{WHOLE}```", "fenced function"),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "rule"), [case[1:] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_the_code_is_found_in(reply: str, rule: str) -> None:
    found = completion(PROMPT, reply, "total")
    assert found.rule == rule
    ast.parse(PROMPT + found.text)


def test_what_was_found_passes_the_tests() -> None:
    programs = [
        _code.humaneval(PROMPT, TEST, "total", completion(PROMPT, reply, "total").text) for _, reply, _ in RIGHT
    ]
    verdicts = sandbox.run_many(programs)
    assert [
        (case[0], verdict.detail) for case, verdict in zip(RIGHT, verdicts, strict=True) if not verdict.passed
    ] == []


@pytest.mark.parametrize(
    "reply", ["", "I cannot do that.", "```python\n```", "    pass", "def other():\n    return 3", "```"]
)
def test_a_reply_without_the_function_does_not_pass(reply: str) -> None:
    program = _code.humaneval(PROMPT, TEST, "total", completion(PROMPT, reply, "total").text)
    assert not sandbox.run(program).passed


def test_an_example_call_that_raises_fails_the_program() -> None:
    found = completion(PROMPT, f"```python\n{WHOLE}\nassert total([1]) == 2\n```", "total")
    assert sandbox.run(_code.humaneval(PROMPT, TEST, "total", found.text)).outcome == "failed"


TWO = (
    "def encode(s: str) -> str:\n    return s[::-1]\n\n\ndef decode(s: str) -> str:\n    '''Undo encode.'''\n"
)  # fmt: skip
TWO_TEST = "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'\n"


@pytest.mark.parametrize(
    "reply", ["    return s[::-1]\n", TWO + "    return s[::-1]\n", "def decode(s):\n    return encode(s)\n"]
)
def test_a_prompt_of_two_functions_keeps_both(reply: str) -> None:
    assert sandbox.run(_code.humaneval(TWO, TWO_TEST, "decode", completion(TWO, reply, "decode").text)).passed


def test_a_helper_of_the_prompt_cannot_be_made_kinder() -> None:
    reply = "def encode(s):\n    return s\ndef decode(s):\n    return s\n"
    assert not sandbox.run(_code.humaneval(TWO, TWO_TEST, "decode", completion(TWO, reply, "decode").text)).passed


REFERENCE = """import math
class Pair:
\tdef __init__(self, a):
\t\tself.a = a
def helper(x):
\treturn x
def largest(pairs):
\treturn max(helper(p.a) for p in pairs)""".replace("\n", "\r\n")
TESTS = ["assert largest([Pair(1), Pair(2)]) == 2", "assert math.isclose(largest([one]), 1)"]


def test_mbpp_tests_take_what_the_reference_defines_and_its_setup_comes_after_the_code() -> None:
    program = _code.mbpp(REFERENCE, TESTS, "one = Pair(1)\r\n", REFERENCE)
    assert program.names == ("math", "Pair", "largest")
    assert sandbox.run(program).passed
    assert _code.entry_point("\n".join(TESTS), REFERENCE) == "largest"


def test_mbpp_tests_of_a_function_named_like_a_builtin_use_the_programs() -> None:
    reference = "def max(a, b):\n    return a if a > b else b\n"
    assert sandbox.run(_code.mbpp(reference, ["assert max(1, 2) == 2"], "", reference)).passed
    cheat = "def max(a, b):\n    return a\ndef set(x):\n    return 1\n"
    assert not sandbox.run(_code.mbpp(cheat, ["assert set([max(1, 2)]) == set([2])"], "", reference)).passed


def test_the_request_shows_the_tests() -> None:
    asked = _code.mbpp_question("Write a function.", TESTS)
    assert asked.startswith("You are an expert Python programmer, and here is your task: Write a function. Your code")
    assert asked.endswith("pass these tests:\n\n" + "\n".join(TESTS))
    assert PROMPT.rstrip() in _code.humaneval_question(PROMPT)


def test_code_is_compared_with_a_reference_on_inputs() -> None:
    reference = "def half(xs):\n    return [x / 2 for x in xs]\n"
    near = "def half(xs):\n    return [x * 0.5000000001 for x in xs]\n"
    far = "def half(xs):\n    return [x * 0.51 for x in xs]\n"
    inputs = [[[1.0, 3.0]], [[]], ["raises"]]
    assert sandbox.run(_code.against_reference(near, reference, "half", inputs)).passed
    assert "differs at [[1.0, 3.0]]" in sandbox.run(_code.against_reference(far, reference, "half", inputs)).detail
    assert sandbox.run(_code.against_reference(far, reference, "half", inputs, atol=0.1)).passed
    assert "at every input" in sandbox.run(_code.against_reference(near, reference, "half", [["raises"]])).detail


def test_integers_must_be_equal_and_types_of_sequences_too() -> None:
    reference = "def f(x):\n    return (x,)\n"
    assert not sandbox.run(_code.against_reference("def f(x):\n    return [x]\n", reference, "f", [[1]])).passed
    assert not sandbox.run(
        _code.against_reference("def f(x):\n    return (x + 1,)\n", reference, "f", [[10**9]])
    ).passed


def test_an_object_of_the_reference_asks_for_something() -> None:
    reference = "import re\ndef f(x):\n    return re.search('a', x)\n"
    assert sandbox.run(_code.against_reference(reference, reference, "f", [["a"], ["b"]])).passed
    assert not sandbox.run(_code.against_reference("def f(x):\n    return None\n", reference, "f", [["a"]])).passed


def test_a_task_without_tests_is_the_users_fault() -> None:
    with pytest.raises(UsageError):
        sandbox.run(sandbox.Program("x = 1", "("))

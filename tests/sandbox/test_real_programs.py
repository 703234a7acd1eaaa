"""Published programs get their published verdicts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuvee import sandbox
from cuvee.evaluators import _code
from cuvee.evaluators._pass_at_k import mean_pass_at_k
from cuvee.sandbox import Limits, Program, Verdict

pytestmark = pytest.mark.real

AMPLE = Limits(cpu_seconds=20, wall_seconds=60)  # MBPP 123 takes 3 CPU seconds

Row = dict[str, Any]
Rows = Callable[[str], list[Row]]


@pytest.fixture
def rows(shared: Path) -> Rows:
    """Read one of the shared files of programs."""

    def read(name: str) -> list[Row]:
        with gzip.open(shared / "data" / "code" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    return read


def humaneval(row: Row, completed: str) -> Program:
    return _code.humaneval(row["prompt"], row["test"], row["entry_point"], completed)


def failures(given: list[Row], verdicts: list[Verdict]) -> list[str]:
    return [row["task_id"] for row, verdict in zip(given, verdicts, strict=True) if not verdict.passed]


def test_all_canonical_solutions_of_humaneval_pass(rows: Rows) -> None:
    problems = rows("humaneval")
    verdicts = sandbox.run_many([humaneval(row, row["canonical_solution"]) for row in problems])
    assert (len(verdicts), failures(problems, verdicts)) == (164, [])


def test_no_empty_body_passes_humaneval(rows: Rows) -> None:
    verdicts = sandbox.run_many([humaneval(row, "    pass") for row in rows("humaneval")])
    assert Counter(verdict.outcome for verdict in verdicts) == {"failed": 164}


# The six example samples of the HumanEval harness (openai/human-eval, data/example_samples.jsonl), pass@1 0.5.
EXAMPLES = [
    "    import subprocess\n    subprocess.check_output('rm -rf tmp')",
    "    import time\n    time.sleep(10)\n    return 1",
    "    return input('enter a number')",
    "    return 1",
    "  return 1",
    "\treturn 1",
]


def test_the_harness_own_example_scores_one_half() -> None:
    test = "def check(candidate):\n    assert candidate() == 1"
    programs = [_code.humaneval("def return1():\n", test, "return1", sample) for sample in EXAMPLES]
    verdicts = sandbox.run_many(programs, Limits(wall_seconds=3))
    assert [verdict.outcome for verdict in verdicts] == ["failed", "timeout", "failed", "passed", "passed", "passed"]
    assert mean_pass_at_k([(6, sum(verdict.passed for verdict in verdicts))], 1) == 0.5


def test_every_sample_of_wizardcoder_gets_the_verdict_that_was_observed(rows: Rows) -> None:
    problems = {row["task_id"]: row for row in rows("humaneval")}
    samples = rows("humaneval_samples_wizardcoder15b")
    verdicts = sandbox.run_many([humaneval(problems[row["task_id"]], row["completion"]) for row in samples])
    observed = [row["observed_result"] for row in samples]
    assert [verdict.passed for verdict in verdicts] == [result == "passed" for result in observed]
    assert sum(verdict.passed for verdict in verdicts) == 98
    published = [row["result"].removeprefix("failed: ").replace("<string>", "<program>") for row in samples]
    said = [(verdict.detail, text) for verdict, text in zip(verdicts, published, strict=True) if not verdict.passed]
    assert [pair for pair in said if pair[1] not in pair[0]] == []


def test_replies_of_wizardcoder_are_read_as_its_authors_read_them(rows: Rows) -> None:
    problems = {row["task_id"]: row for row in rows("humaneval")}
    samples = rows("humaneval_samples_wizardcoder15b")
    programs, rules = [], Counter[str]()
    for row in samples:
        problem = problems[row["task_id"]]
        reply = row["all_code"].partition("### Response:")[2]
        found = _code.completion(problem["prompt"], reply, problem["entry_point"])
        rules[found.rule] += 1
        programs.append(humaneval(problem, found.text))
    verdicts = sandbox.run_many(programs)
    differ = [row["task_id"] for row, verdict in zip(samples, verdicts, strict=True) if verdict.passed != row["passed"]]
    assert differ == []
    assert rules == {"fenced function": 164}


def test_all_solutions_of_mbpp_pass(rows: Rows) -> None:
    tasks = rows("mbpp")
    programs = [_code.mbpp(row["code"], row["test_list"], row["test_setup_code"], row["code"]) for row in tasks]
    verdicts = sandbox.run_many(programs, AMPLE)
    assert (len(verdicts), failures(tasks, verdicts)) == (974, [])


def test_sanitized_mbpp_of_codet_passes_where_its_solutions_fit_its_prompts(rows: Rows) -> None:
    """In this file 243 solutions do not follow their prompt's indentation, and 4 do not hold what the tests use."""
    tasks = rows("mbpp_sanitized_codet")
    split = [
        Program(row["prompt"] + row["canonical_solution"], f"{row['test']}\ncheck({row['entry_point']})")
        for row in tasks
    ]
    whole = [f"{program.code}\n{program.tests}" for program in split]
    apart, together = sandbox.run_many(split, AMPLE), sandbox.run_many(whole, AMPLE)
    differ = [
        row["task_id"] for row, one, other in zip(tasks, apart, together, strict=True) if one.passed != other.passed
    ]
    assert differ == ["MbppEval/126"], "its function is named sum, which tests take only where they name it"
    kinds = Counter(verdict.detail.partition(":")[0] for verdict in together)
    assert kinds == {"IndentationError": 200, "": 180, "TabError": 43, "NameError": 3, "RecursionError": 1}


def test_mbpp_plus_solutions_pass_their_assertions_but_for_faults_of_the_file(rows: Rows) -> None:
    tasks = rows("mbpp_plus")
    programs = [
        _code.mbpp(row["canonical_solution"], [row["assertion"]], "", row["canonical_solution"]) for row in tasks
    ]
    whole = [f"{row['canonical_solution']}\n{row['assertion']}" for row in tasks]
    wrong = ["Mbpp/120", "Mbpp/164", "Mbpp/295", "Mbpp/442", "Mbpp/574"]
    assert failures(tasks, sandbox.run_many(programs, AMPLE)) == wrong
    assert failures(tasks, sandbox.run_many(whole, AMPLE)) == wrong, "as in one plain process"


def test_mbpp_plus_solutions_equal_themselves_where_json_holds_what_they_take(rows: Rows) -> None:
    tasks = rows("mbpp_plus")
    programs = []
    for row in tasks:
        code = row["canonical_solution"]
        programs.append(_code.against_reference(code, code, row["entry_point"], row["base_input"], row["atol"]))
    needs_tuples = ["Mbpp/106", "Mbpp/124", "Mbpp/580", "Mbpp/720"]
    assert failures(tasks, sandbox.run_many(programs, AMPLE)) == needs_tuples


def test_canonical_solutions_of_humaneval_equal_most_references_of_the_development_file(rows: Rows) -> None:
    """Of that file 4 references are no whole program, 3 raise at every input, and 2 answer otherwise."""
    not_whole = {"HumanEval/67", "HumanEval/94", "HumanEval/115", "HumanEval/137"}
    raising, other = ["HumanEval/99", "HumanEval/129", "HumanEval/144"], ["HumanEval/20", "HumanEval/32"]
    both = zip(rows("humaneval"), rows("humaneval_plus_dev"), strict=True)
    pairs = [(row, plus) for row, plus in both if row["task_id"] not in not_whole]
    programs = [
        _code.against_reference(
            row["prompt"] + row["canonical_solution"],
            plus["prompt"] + plus["reference"],
            plus["entry_point"],
            plus["base_input"],
        )
        for row, plus in pairs
    ]
    assert failures([row for row, _ in pairs], sandbox.run_many(programs)) == [*other, *raising]

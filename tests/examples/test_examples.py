"""Every example is planned; what can run here is run, and run again with nothing executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cuvee.recipe import load
from tests.conftest import Cuvee

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
NEEDS_FILES = {
    "paper.yaml": "declared sizes",
    "seven_b.yaml": "declared sizes",
    "real.yaml": "hub files",
    "evaluate.yaml": "benchmark files",
}
TRAININGS = {
    "clean.yaml": (1, 1),
    "evaluate.yaml": (0, 0),
    "held.yaml": (6, 6),
    "knowledge.yaml": (1, 1),
    "judged.yaml": (3, 3),
    "disperse_then_merge.yaml": (23, 11),
    "select.yaml": (51, 36),
    "seven_b.yaml": (3, 3),
}


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.name != "real.yaml"], ids=lambda p: p.name)
def test_it_plans(cuvee: Cuvee, place: Path, path: Path) -> None:
    _copy(path, place)
    view = json.loads(cuvee("plan", path.name, "--json").stdout)
    asked = (view["totals"]["trainings_alone"], view["totals"]["trainings"])
    assert asked == TRAININGS.get(path.name, (16, 11))


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.name not in NEEDS_FILES], ids=lambda p: p.name)
def test_it_runs_with_the_fake_engine_and_then_executes_nothing(cuvee: Cuvee, place: Path, path: Path) -> None:
    _copy(path, place)
    small = [f"sources.{name}.amount={{count: 300}}" for name in _sources(path) if name != "mixed"]
    small = ["seeds=0", "training.epochs=1", "heldout=0.95"] if path.name == "select.yaml" else small
    first = json.loads(cuvee("run", path.name, "--fake", "--json", *small).stdout)
    assert first["failed"] == {}
    assert Path(place / first["report"]).is_file()
    again = json.loads(cuvee("run", path.name, "--fake", "--json", *small).stdout)
    assert again["executed"] == []


def _copy(path: Path, place: Path) -> None:
    """Copy a recipe with the folder of its files."""
    shutil.copy(path, place)
    if path.with_suffix("").is_dir():
        shutil.copytree(path.with_suffix(""), place / path.stem)


def _sources(path: Path) -> list[str]:
    return list(load(path).recipe.sources)


def test_the_papers_setting_has_the_papers_sizes(cuvee: Cuvee, place: Path) -> None:
    shutil.copy(EXAMPLES[0].parent / "paper.yaml", place)
    view = json.loads(cuvee("plan", "paper.yaml", "--json").stdout)
    stages = {stage["id"]: stage for stage in view["stages"]}
    runs = {run["name"]: stages[run["models"][-1]] for run in view["runs"]}
    assert runs["multi_task"]["rows"] == 3 * (110_142 + 20_022 + 86_060)
    assert runs["dmt k=1/256"]["rows"] == 3 * (86_060 + 430 + 78)
    assert runs["dmt k=1/64"]["rows"] == 3 * 88_092
    assert runs["dmt k=1"]["rows"] == runs["multi_task"]["rows"]
    assert all(stage["rows_exact"] for stage in runs.values())


def test_real_example_names_the_remedy_when_a_file_cannot_be_had(cuvee: Cuvee, place: Path) -> None:
    shutil.copy(EXAMPLES[0].parent / "real.yaml", place)
    found = cuvee("plan", "real.yaml", "base=fake:x")
    assert found.returncode == 2
    assert "sources.math.path" in found.stderr
    assert "Traceback" not in found.stderr


def test_all_experiments_of_the_paper_share_what_is_equal(cuvee: Cuvee, place: Path) -> None:
    shutil.copy(EXAMPLES[0].parents[1] / "recipes" / "paper" / "dmt.yaml", place)
    view = json.loads(cuvee("plan", "dmt.yaml", "--json").stdout)
    assert (view["totals"]["trainings_alone"], view["totals"]["trainings"]) == (51, 40)
    stages = {stage["id"]: stage for stage in view["stages"]}
    rows = {run["name"]: stages[run["models"][-1]]["rows"] // 3 for run in view["runs"]}
    assert [rows[f"single source={name} share=1/256"] for name in ("math", "code", "general")] == [430, 78, 336]
    assert rows["multi_task share=1/4"] == 54_055
    assert view["totals"]["trained_tokens"] < view["totals"]["trained_tokens_alone"]

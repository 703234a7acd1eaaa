"""Every study is a recipe that plans, on what ships with cuvee and on a user's own sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuvee import cost, planner, studies
from cuvee.analyses._claims.average_suffices import merger
from cuvee.errors import UsageError
from cuvee.pins import Pins
from cuvee.plan import Plan
from cuvee.recipe import Located, Recipe, parse, validate
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee

MINE = """\
# my recipe
base: fake:mine
sources:
  sums: {path: "builtin:math", ability: sums, amount: {count: 300}}     # mine
  chat: {path: "builtin:general", ability: general, amount: {count: 400}}
training: {epochs: 2, batch_size: 4, max_length: 256}
# what I ran before
runs:
  - {strategy: multi_task}
analyses: [scores]
evaluation:
  - {heldout_loss: {items: 20}}
"""


def planned(text: str, folder: Path) -> Plan:
    data, lines = parse(text, "study.yaml")
    located = Located(validate(Recipe, data, lines=lines), folder)
    return planner.make(located, Pins(folder / "pins.json", folder / "recipe.lock"))


@pytest.mark.parametrize("name", [name for name in studies.STUDIES if name != "equal_amount"])
def test_it_plans_on_a_users_own_sources(name: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(MINE, encoding="utf-8")
    text = studies.write(name, studies.head(tmp_path / "my.yaml"))
    plan = planned(text, tmp_path)
    assert plan.runs
    assert plan.located.recipe.training.epochs == 2
    assert {run.info.base for run in plan.runs} == {"fake:mine"}
    assert text.count("\nruns:") == 1
    assert "what I ran before" not in text


def test_the_amounts_are_the_papers(tmp_path: Path) -> None:
    plan = planned(studies.write("amount", studies.head(None)), tmp_path)
    assert len(plan.runs) == 3 * 5
    assert {str(run.info.params["share"]) for run in plan.runs} == {"1", "1/4", "1/16", "1/64", "1/256"}


def test_the_ratios_have_three_setups_that_meet_in_two_runs(tmp_path: Path) -> None:
    plan = planned(studies.write("ratio", studies.head(None)), tmp_path)
    assert plan.trainings_alone == 15
    assert len({run.models[0].training.id for run in plan.runs}) == 13


def test_all_studies_of_dmt_share_what_is_equal(tmp_path: Path) -> None:
    plan = planned(studies.write("dmt", studies.head(None)), tmp_path)
    shared = {model.training.id for run in plan.runs for model in run.models}
    assert (plan.trainings_alone, len(shared)) == (51, 40)


def test_without_tagged_sets_each_share_against_the_same_share(tmp_path: Path) -> None:
    plan = planned(studies.write("without_tagged", studies.head(None)), tmp_path)
    (asked,) = (one.params for one in plan.located.recipe.analyses if one.name == "strategy_table")
    names = {run.info.name for run in plan.runs}
    assert len(asked["references"]) == 5
    assert {*asked["references"], *asked["references"].values()} == names


def test_without_tagged_judges_both_variants_on_the_same_items(tmp_path: Path) -> None:
    plan = planned(studies.write("without_tagged", studies.head(None)), tmp_path)
    by_run = {run.info.name: run for run in plan.runs}
    plain, tagged = by_run["multi_task share=1"], by_run["without tagged share=1"]
    hows = [stage.one("data").params["parts"] for stage in (plain.models[0].training, tagged.models[0].training)]
    assert not any("drop" in how for how in hows[0])
    assert sum("drop" in how for how in hows[1]) == 1
    answers = {
        item.run.name: item.grade.one("answers").params
        for item in plan.evaluated
        if item.final and item.ability == "general" and item.evaluator == "exact_answer"
    }
    assert answers[plain.info.name] == answers[tagged.info.name]
    assert len(plan.taggings) == 1


def test_equal_amounts_have_as_many_rows_as_equal_proportions(tmp_path: Path) -> None:
    head = studies.Head(
        "base: x", {"a": {}, "b": {}, "general": {}}, "general", {"a": 6400, "b": 3200, "general": 3200}
    )
    text = studies.write("equal_amount", head)
    assert "count: [1066, 266, 66]" in text
    (table, *_) = parse(text)[0]["analyses"]
    assert table["strategy_table"]["references"]["multi_task count=66"] == "multi_task share=1/64"
    lopsided = studies.Head("base: x", {"a": {}, "general": {}}, "general", {"a": 64000, "general": 3})
    with pytest.raises(UsageError, match="the smallest source has 3 of 64,003 rows"):
        studies.write("equal_amount", lopsided)


@pytest.mark.parametrize("name", ["amount", "mixing", "ratio", "strategies", "k_sweep", "without_tagged", "dmt"])
def test_shares_that_would_leave_a_small_source_without_a_row_are_left_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(MINE.replace("count: 300", "count: 90"), encoding="utf-8")
    head = studies.counted(studies.head(tmp_path / "my.yaml"), tmp_path, Store(tmp_path / "store"))
    text = studies.write(name, head)
    assert head.shares == ["1", "1/4", "1/16", "1/64"]
    assert "# Of the paper's shares 1/256 left out: sums has about 90 rows." in text
    assert "1/256" not in text.split("runs:")[1]
    plan = planned(text, tmp_path)
    assert cost.estimate(plan, Store(tmp_path / "store"), Runtime(tmp_path / "store")).todo


def test_rows_are_selected_from_whole_sources(tmp_path: Path) -> None:
    text = studies.write("selection", studies.head(None))
    assert "amount" not in text.replace("before any amount", "")
    (tmp_path / "my.yaml").write_text(MINE.replace("amount: {count: 300}", "").replace("amount: {count: 400}", ""))
    assert 'sums: {path: "builtin:math"' in studies.write("selection", studies.head(tmp_path / "my.yaml"))


def test_a_study_needs_no_runs_of_the_recipe_that_it_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(MINE.replace("runs:\n  - {strategy: multi_task}\n", ""), encoding="utf-8")
    assert planned(studies.write("amount", studies.head(tmp_path / "my.yaml")), tmp_path).runs
    (tmp_path / "my.yaml").write_text(MINE.replace("epochs: 2", "epoch: 2"), encoding="utf-8")
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        studies.head(tmp_path / "my.yaml")


def test_the_mergers_of_a_planned_run_are_known_to_the_findings(tmp_path: Path) -> None:
    plan = planned(studies.write("disperse", studies.head(None)), tmp_path)
    assert [merger(run.info) for run in plan.runs[-4:]] == ["linear", "ties", "task_arithmetic", "dare_linear"]


def test_one_source_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="name a second one"):
        studies.write("mixing", studies.Head("base: x", {"a": {}}, "a", {}))


def test_names_that_yaml_would_read_otherwise_are_quoted() -> None:
    text = studies.write("amount", studies.Head("base: x", {"on, off": {}, "1": {}}, "1", {}))
    assert parse(text)[0]["runs"][0]["source"] == ["on, off", "1"]


def test_the_command_writes_a_study_and_refuses_what_it_cannot(cuvee: Cuvee, place: Path) -> None:
    (place / "my.yaml").write_text(MINE, encoding="utf-8")
    assert cuvee("init", "--study", "equal_amount", "--from", "my.yaml").returncode == 0
    assert "multi_task, count: [" in (place / "equal_amount.yaml").read_text(encoding="utf-8")
    wrong = cuvee("init", "--study", "mixin", "x.yaml")
    assert wrong.returncode == 2
    assert "Did you mean 'mixing'" in wrong.stderr
    far = cuvee("init", "--study", "mixing", "--from", "my.yaml", "deep/x.yaml")
    assert far.returncode == 2
    assert "write the study there: x.yaml" in far.stderr
    assert "Did you mean 'chat'" in cuvee("init", "--study", "ratio", "--from", "my.yaml", "--general", "cat").stderr


def test_a_run_may_change_only_sources_that_there_are(tmp_path: Path) -> None:
    text = MINE.replace("{strategy: multi_task}", "{strategy: multi_task, sources: {sum: {}}}")
    with pytest.raises(UsageError, match="Did you mean 'sums'"):
        planned(text, tmp_path)


def test_a_run_may_use_some_of_the_sources(tmp_path: Path) -> None:
    change = "{strategy: multi_task, sources: {sums: {amount: {count: 100}}}}"
    plan = planned(MINE.replace("{strategy: multi_task}", change), tmp_path)
    (how,) = plan.runs[0].models[0].training.one("data").params["parts"]
    assert how["amounts"] == [{"count": 100}]
    assert {item.ability for item in plan.evaluated} == {"sums", "general"}

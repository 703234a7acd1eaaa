"""Hidden states that an analysis asks for: in the plan, on rows that nobody trains on, once."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cuvee import needs, planner, recipe, representing
from cuvee.analyses import representations
from cuvee.errors import RecipeError
from cuvee.pins import Pins
from cuvee.store import Store

BASE: dict[str, Any] = {
    "base": "fake:small",
    "sources": {name: {"path": f"builtin:{name}", "ability": name} for name in ("math", "general")},
    "heldout": "1/20",
    "runs": [
        {"strategy": "multi_task"},
        {"strategy": "mixed_sequential", "general": "general"},
        {"strategy": "dmt", "general": "general", "k": "1/4"},
    ],
    "seeds": [0, 1],
}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., planner.Plan]:
    def make(*analyses: Any, **changes: Any) -> planner.Plan:
        data = {**BASE, "analyses": list(analyses), **changes}
        located = recipe.Located(recipe.validate(recipe.Recipe, data), tmp_path)
        return planner.make(located, Pins(tmp_path / "pins.json", tmp_path / "recipe.lock"))

    return make


def asked(of: planner.Plan) -> list[Any]:
    return [stage for stage in of.stages if stage.kind == "embed"]


def test_the_plan_holds_base_and_final_models_of_one_seed_on_every_source(plan: Callable[..., planner.Plan]) -> None:
    found = plan({"representations": {"rows": 50}})
    assert {(s.one("model").kind, s.one("data").label) for s in asked(found)} == {
        (kind, source) for kind in ("base", "train") for source in ("math", "general")
    }
    assert len(asked(found)) == 4 * 2
    assert {s.id for s in asked(found)} <= {s.id for s in needs.wanted(found, Store(Path("none")))}
    assert all(found.runs_of[s.id] for s in asked(found))
    assert plan("scores").represented == ()


def test_layers_and_poolings_are_stages_of_their_own_and_the_same_question_is_asked_once(
    plan: Callable[..., planner.Plan],
) -> None:
    one = {"representations": {"runs": ["multi_task"], "layers": [0, -1]}}
    more = {"representations": {"runs": ["multi_task"], "layers": [-1], "pooling": ["mean", "last_token"]}}
    ways = {(s.params["layer"], s.params["pooling"]) for s in asked(plan(one, more))}
    assert ways == {(0, "mean"), (-1, "mean"), (-1, "last_token")}
    assert len(asked(plan(one, more))) == 3 * 2 * 2


def test_no_row_that_is_looked_at_is_trained_on(plan: Callable[..., planner.Plan]) -> None:
    found = plan({"representations": {"runs": ["multi_task"]}})
    pool = asked(found)[0].one("data").params
    assert pool["parts"][0]["amounts"] == [{"items": {"of": Fraction(1, 20), "most": 200}}]
    assert pool["heldout"] == 0
    assert {one.one("data").params["heldout"] for one in found.stages if one.kind == "train"} == {Fraction(1, 20)}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"runs": ["multitask"]}, "there is no run 'multitask'. Did you mean 'multi_task'?"),
        ({"run_seed": 7}, "there is no seed 7"),
        ({"layer": 3}, "unknown key 'layer'. Did you mean 'layers'?"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_trained(
    plan: Callable[..., planner.Plan], params: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match="representations") as caught:
        plan({"representations": params})
    assert said in str(caught.value)


def test_more_runs_than_can_be_seen_side_by_side_must_be_named(plan: Callable[..., planner.Plan]) -> None:
    runs = [{"strategy": "multi_task", "share": [f"1/{n}" for n in range(1, 11)]}]
    with pytest.raises(RecipeError, match="there are 10; name at most 8"):
        plan("representations", runs=runs)


def test_hidden_states_that_are_not_there_yet_are_told_and_do_not_stop_the_report(
    plan: Callable[..., planner.Plan], tmp_path: Path
) -> None:
    found = plan({"representations": {"runs": ["multi_task"]}})
    params = representations.Params(runs=("multi_task",))
    gathered = representing.gather(found, Store(tmp_path / "empty"), params)
    assert [one.missing for one in gathered] == ["its hidden states on math, general are not there"] * 2
    (table,) = representations.table(gathered, params)
    assert not table.rows
    assert any("multi_task" in note and "not there" in note for note in table.notes)

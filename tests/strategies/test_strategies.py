"""Strategies are pure functions to graphs; equal work coincides."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from cuvee import components
from cuvee.errors import RecipeError
from cuvee.planner import Settings
from cuvee.protocols import Ingredient
from cuvee.recipe import Training
from cuvee.stage import Base, Stage, base, load, render, walk

SETTINGS = Settings(Training(), Fraction(1, 50), 0, 0)
BASE: Base = base("folder", 1, {"files": {}}, label="base", locate={})


def ingredient(name: str, **how: Any) -> Ingredient:
    source = load("local", 1, {"files": [name]}, label=name, locate={"path": f"/data/{name}"})
    return Ingredient(name, name, render(source, BASE, Training().rendering()), how)


SOURCES = {name: ingredient(name) for name in ("math", "code", "general")}


def planned(strategy: str, sources: dict[str, Ingredient] = SOURCES, **params: Any) -> Stage:
    module = components.find("strategies", strategy)
    return module.plan(sources, BASE, SETTINGS, module.Params(**params))  # type: ignore[no-any-return]


def trainings(*finals: Stage) -> list[Stage]:
    return [stage for stage in walk(finals) if stage.kind == "train"]


def dmt(k: str) -> Stage:
    return planned("dmt", general="general", k=k)


def test_each_strategy_has_its_number_of_trainings() -> None:
    assert len(trainings(planned("multi_task"))) == 1
    assert len(trainings(planned("sequential", order=("code", "math", "general")))) == 3
    assert len(trainings(planned("sequential", order=(("code", "math"), "general")))) == 2
    assert len(trainings(planned("mixed_sequential", general="general"))) == 2
    assert len(trainings(dmt("1/256"))) == 2


def test_dmt_with_k_zero_is_mixed_sequential() -> None:
    assert dmt("0").id == planned("mixed_sequential", general="general").id


def test_two_grouped_stages_in_sequence_are_mixed_sequential() -> None:
    grouped = planned("sequential", order=(("code", "math"), "general"))
    assert grouped.id == planned("mixed_sequential", general="general").id


def test_all_k_share_the_first_stage() -> None:
    finals = [dmt(k) for k in ("1/256", "1/64", "1/16", "1/4", "1")]
    assert len(trainings(*finals)) == 6


def test_sixteen_trainings_alone_are_eleven_in_the_graph() -> None:
    finals = [
        planned("multi_task"),
        planned("sequential", order=("code", "math", "general")),
        planned("mixed_sequential", general="general"),
        *(dmt(k) for k in ("1/256", "1/64", "1/16", "1/4", "1")),
    ]
    assert sum(len(trainings(final)) for final in finals) == 16
    assert len(trainings(*finals)) == 11
    assert len(trainings(*finals, dmt("0"))) == 11


def test_the_order_and_the_names_of_sources_change_no_id() -> None:
    turned = dict(reversed(SOURCES.items()))
    assert planned("multi_task", turned).id == planned("multi_task").id
    renamed = {"maths": SOURCES["math"], "code": SOURCES["code"], "general": SOURCES["general"]}
    assert planned("multi_task", renamed).id == planned("multi_task").id


def test_replay_is_a_share_of_what_the_source_was_reduced_to() -> None:
    sources = {**SOURCES, "math": ingredient("math", amounts=[{"count": 500}])}
    module = components.find("strategies", "dmt")
    final = module.plan(sources, BASE, SETTINGS, module.Params(general="general", k="1/4"))
    amounts = [how.get("amounts") for how in final.one("data").identity["params"]["parts"]]
    expected = [None, [{"count": 500}, {"share": "1/4"}], [{"share": "1/4"}]]
    assert sorted(amounts, key=str) == sorted(expected, key=str)


def test_a_whole_mixture_does_not_depend_on_the_seed_but_its_training_does() -> None:
    module = components.find("strategies", "multi_task")
    other = module.plan(SOURCES, BASE, Settings(Training(), Fraction(1, 50), 0, 1), module.Params())
    first = planned("multi_task")
    assert other.one("data").id == first.one("data").id
    assert other.id != first.id


def test_where_data_lies_is_no_part_of_an_id() -> None:
    one = load("local", 1, {"files": ["h"]}, label="a", locate={"path": "/a"})
    other = load("local", 1, {"files": ["h"]}, label="b", locate={"path": "/b"})
    assert one.id == other.id


@pytest.mark.parametrize(
    ("strategy", "params", "message"),
    [
        ("mixed_sequential", {"general": "genral"}, "Did you mean 'general'?"),
        ("dmt", {"general": "x", "k": "1/4"}, "there is no source 'x'"),
        ("sequential", {"order": ("code", "math")}, "must name every source once"),
        ("sequential", {"order": ("code", "math", "math", "general")}, "must name every source once"),
        ("sequential", {"order": ("code", "maths", "general")}, "Did you mean 'math'?"),
    ],
)
def test_wrong_parameters_say_what_is_possible(strategy: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        planned(strategy, **params)

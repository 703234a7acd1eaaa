"""Strategies are pure functions to graphs; equal work coincides."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from cuvee import components
from cuvee.errors import RecipeError
from cuvee.plan import Settings
from cuvee.protocols import Ingredient
from cuvee.recipe import Training
from cuvee.stage import Base, Merged, Stage, base, load, merge, render, walk

SETTINGS = Settings(Training(), Fraction(1, 50), 0, 0)
BASE: Base = base("folder", 1, {"files": {}}, label="base", locate={})


def ingredient(name: str, **how: Any) -> Ingredient:
    source = load("local", 1, {"files": [name]}, label=name, locate={"path": f"/data/{name}"})
    return Ingredient(name, name, render(source, BASE, Training().rendering()), how)


OLD = ingredient("old")
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


def staged(strategy: str, *stages: dict[str, Any], **params: Any) -> Stage:
    settings = Settings(Training.model_validate({"epochs": 2, "stages": stages}), Fraction(1, 50), 0, 0)
    module = components.find("strategies", strategy)
    return module.plan(SOURCES, BASE, settings, module.Params(**params))  # type: ignore[no-any-return]


def test_each_training_of_several_may_have_settings_of_its_own() -> None:
    both = trainings(staged("dmt", {}, {"learning_rate": 1e-5, "schedule": "linear"}, general="general", k="1/4"))
    first, second = (stage.identity["params"] for stage in both)
    assert (first["learning_rate"], first["schedule"], first["epochs"]) == (2e-5, "cosine", 2)
    assert (second["learning_rate"], second["schedule"], second["epochs"]) == (1e-5, "linear", 2)
    alone = Settings(Training(epochs=2), Fraction(1, 50), 0, 0)
    module = components.find("strategies", "dmt")
    plain = module.plan(SOURCES, BASE, alone, module.Params(general="general", k="1/4"))
    assert trainings(plain)[0].id == both[0].id, "a training without settings of its own is the same as ever"
    assert staged("dmt", {}, {}, general="general", k="1/4").id == plain.id
    three = [{"epochs": number} for number in (1, 2, 3)]
    found = trainings(staged("sequential", *three, order=("code", "math", "general")))
    assert [stage.identity["params"]["epochs"] for stage in found] == [1, 2, 3]
    found = trainings(staged("mixed_sequential", {"optimiser": "sgd"}, {}, general="general"))
    assert [stage.identity["params"].get("optimiser") for stage in found] == ["sgd", None]


def test_settings_for_another_number_of_trainings_are_refused() -> None:
    with pytest.raises(RecipeError, match="have 1 entry, and this run has 2 trainings"):
        staged("dmt", {"epochs": 1}, general="general", k="1/4")
    with pytest.raises(RecipeError, match="strategies of several trainings"):
        staged("multi_task", {"epochs": 1})
    with pytest.raises(ValueError, match=r"stages.1: decay is for schedule: wsd"):
        Training.model_validate({"stages": [{}, {"decay": 0.5}]})


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


class TestDisperseThenMerge:
    def test_it_trains_one_model_a_portion_from_the_base_and_merges_them(self) -> None:
        final = planned("disperse_then_merge", portions=4)
        assert isinstance(final, Merged)
        members = final.inputs["models"]
        assert (len(members), final.component) == (4, "linear")
        assert [stage.id for stage in trainings(final)] != []
        assert {member.one("model").id for member in members} == {BASE.id}
        assert final.start.id == BASE.id
        cuts = {
            (how["amounts"][0]["portion"]["number"], how["amounts"][0]["portion"]["of"])
            for member in members
            for how in member.one("data").identity["params"]["parts"]
        }
        assert cuts == {(number, 4) for number in range(4)}

    def test_every_model_is_trained_as_vanilla_would_be(self) -> None:
        vanilla = planned("multi_task").identity["params"]
        members = planned("disperse_then_merge").inputs["models"]
        assert all(member.identity["params"] == vanilla for member in members)

    def test_another_merger_shares_the_trainings(self) -> None:
        finals = [
            planned("disperse_then_merge", merger=name) for name in ("linear", "ties", {"ties": {"density": 0.5}})
        ]
        assert len(trainings(*finals)) == 4
        assert len({final.id for final in finals}) == 3
        assert [final.inputs.get("base", ()) != () for final in finals] == [False, True, True]

    def test_names_and_order_of_sources_change_no_id(self) -> None:
        turned = dict(reversed(SOURCES.items()))
        assert planned("disperse_then_merge", turned).id == planned("disperse_then_merge").id

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"merger": "liner"}, "merger: there is no 'liner' in mergers. Did you mean 'linear'?"),
            ({"merger": {"linear": {"weight": [1]}}}, "unknown key 'weight'"),
            ({"merger": {"linear": {"weights": [1, 2]}}}, "weights has 2 values for 4 models"),
            ({"merger": "slerp"}, "merges exactly 2 models, got 4"),
        ],
    )
    def test_a_wrong_merger_is_refused_when_planned(self, params: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=re.escape(message)):
            planned("disperse_then_merge", portions=4, **params)


class TestReplay:
    """What is mixed into every training is shared out among models that share a run's tokens."""

    SETTINGS = replace(
        SETTINGS, values=Training.model_validate({"replay": {"source": "old", "share": "1/2"}}), sources={"old": OLD}
    )

    def replayed(self, strategy: str, **params: Any) -> list[list[Any]]:
        module = components.find("strategies", strategy)
        final = module.plan(SOURCES, BASE, self.SETTINGS, module.Params(**params))
        hows = [member.one("data").identity["params"]["parts"] for member in final.inputs["models"]]
        return sorted((how["amounts"] for parts in hows for how in parts if len(how["amounts"]) > 1), key=str)

    def test_each_portion_has_its_portion_of_it(self) -> None:
        cuts = [{"portion": {"number": number, "of": 2, "sizes": "equal"}} for number in (0, 1)]
        assert self.replayed("disperse_then_merge", portions=2) == [[{"share": "1/2"}, cut] for cut in cuts]

    def test_each_member_of_a_soup_draws_its_share_of_it(self) -> None:
        draws = [{"drawn": {"number": number, "share": "1/2"}} for number in (0, 1)]
        assert self.replayed("uniform_soup", learning_rates=(1, 2)) == [[{"share": "1/2"}, one] for one in draws]


class TestUniformSoup:
    def test_members_differ_in_their_rows_and_learning_rates_and_begin_at_the_base(self) -> None:
        final = planned("uniform_soup", learning_rates=(0.5, 2))
        members = {member.params["learning_rate"]: member for member in final.inputs["models"]}
        assert final.component == "linear"
        assert {member.one("model").id for member in members.values()} == {BASE.id}
        drawn = {
            rate: [how["amounts"] for how in member.one("data").identity["params"]["parts"]]
            for rate, member in members.items()
        }
        assert drawn == {
            1e-5: [[{"drawn": {"number": 0, "share": "1/2"}}]] * 3,
            4e-5: [[{"drawn": {"number": 1, "share": "1/2"}}]] * 3,
        }

    def test_on_all_of_the_data_the_member_at_the_runs_learning_rate_is_multi_task(self) -> None:
        members = planned("uniform_soup", learning_rates=(0.5, 1), share=1).inputs["models"]
        assert planned("multi_task").id in {member.id for member in members}
        assert len({member.one("data").id for member in members}) == 1

    def test_members_that_differ_in_nothing_are_refused(self) -> None:
        with pytest.raises(ValueError, match="with share: 1 models differ in nothing else"):
            planned("uniform_soup", learning_rates=(1, 1), share=1)


class TestInterpolation:
    def test_all_points_of_a_line_share_its_ends(self) -> None:
        for between, ends in (("base", 1), ("portions", 2), ("orders", 2), (("math", "code"), 2)):
            finals = [planned("interpolation", between=between, t=t) for t in ("0", "1/4", "1")]
            assert len(trainings(*finals)) == ends
            assert len({final.id for final in finals}) == 3

    def test_the_ends_are_those_of_other_strategies(self) -> None:
        orders = planned("interpolation", between="orders").inputs["models"]
        assert {one.id for one in orders} == {one.id for one in planned("data_orders", orders=2).inputs["models"]}
        portions = planned("interpolation", between="portions").inputs["models"]
        assert {one.id for one in portions} == {
            one.id for one in planned("disperse_then_merge", portions=2).inputs["models"]
        }

    def test_weights_go_with_the_models_and_the_base_is_where_t_is_0(self) -> None:
        final = planned("interpolation", between=("math", "code"), t="1/4")
        weights = dict(zip([one.label for one in final.inputs["models"]], final.params["weights"], strict=True))
        assert weights == {"math": 0.75, "code": 0.25}
        from_base = planned("interpolation", t="1/4")
        assert (from_base.component, from_base.params["alpha"], from_base.one("base").id) == ("wise_ft", 0.25, BASE.id)

    def test_a_source_that_is_not_there_is_named(self) -> None:
        with pytest.raises(RecipeError, match="Did you mean 'math'"):
            planned("interpolation", between=("maths", "code"))


class TestDataOrders:
    def test_the_first_order_is_multi_tasks_and_all_have_the_same_data(self) -> None:
        final = planned("data_orders", orders=3)
        members = final.inputs["models"]
        assert planned("multi_task").id in {member.id for member in members}
        assert len({member.one("data").id for member in members}) == 1
        assert len({member.id for member in members}) == 3
        assert final.component == "selective"

    def test_more_orders_go_on_from_the_same_ones(self) -> None:
        two, three = (planned("data_orders", orders=number).inputs["models"] for number in (2, 3))
        assert {member.id for member in two} < {member.id for member in three}


class TestMergeStage:
    def models(self) -> list[Stage]:
        return list(planned("disperse_then_merge", portions=3).inputs["models"])

    def test_the_order_of_models_is_no_part_of_the_id_and_weights_go_with_them(self) -> None:
        one, two, three = self.models()
        params = {"weights": [1.0, 2.0, 3.0], "tensors": {"*": {"weights": [4.0, 5.0, 6.0]}}}
        turned = {"weights": [3.0, 1.0, 2.0], "tensors": {"*": {"weights": [6.0, 4.0, 5.0]}}}
        first = merge([one, two, three], "linear", 1, params, ordered=False)
        assert merge([three, one, two], "linear", 1, turned, ordered=False).id == first.id
        assert merge([three, one, two], "linear", 1, params, ordered=False).id != first.id

    def test_the_order_of_patterns_is_part_of_the_id(self) -> None:
        rules = {"a*": {"t": 0.1}, "b*": {"t": 0.2}}
        one, two = (
            merge(self.models()[:2], "slerp", 1, {"tensors": tensors})
            for tensors in (rules, dict(reversed(rules.items())))
        )
        assert one.id != two.id

"""What a plan can show before anything is trained, and after some of it is measured."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cuvee import cost, planner, power
from cuvee.pins import Pins
from cuvee.recipe import Located, Recipe, validate
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee


def test_the_needed_items_find_the_wished_difference_four_times_in_five() -> None:
    variance, wished = 0.2, 0.05
    items, seeds = power._needed(wished, variance, None, 100, 1)
    assert seeds == 1
    random = np.random.default_rng(0)
    error = math.sqrt(variance / items)
    found = np.abs(random.normal(wished, error, 20_000)) > 1.959964 * error
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_the_luck_of_seeds_asks_for_seeds() -> None:
    items, seeds = power._needed(0.02, 0.2, 0.01, 100, 1)
    assert seeds == 8
    error = math.sqrt(0.2 / items + 2 * 0.01**2 / seeds)
    assert power.reach() * error == pytest.approx(0.02, rel=0.01)


def test_where_the_planned_items_suffice_only_seeds_are_asked_for() -> None:
    """Without any luck of seeds 79 items would do: asking for fewer of them, and for more seeds, helps nobody."""
    items, seeds = power._needed(0.05, 0.01, 0.03, 79, 1)
    assert (items, seeds) == (79, math.ceil(2 * 0.03**2 / ((0.05 / power.reach()) ** 2 - 0.01 / 79)))
    error = math.sqrt(0.01 / items + 2 * 0.03**2 / seeds)
    assert power.reach() * error <= 0.05


def test_a_large_difference_needs_as_many_items_to_change() -> None:
    half = power._power(("quiz", "math", "accuracy"), 200, None, 0, None, 1, 1, 0.5)
    assert half.needed_items == math.ceil(0.5 * (power.reach() / 0.5) ** 2)
    assert power._power(("quiz", "math", "accuracy"), 200, None, 0, None, 1, 1, 2.0).needed_items is None
    assert power._power(("quiz", "math", "loss"), 200, 0.1, 2, None, 1, 1, 2.0).needed_items == 1


@pytest.mark.parametrize("wish", [math.nan, math.inf, 1e-9])
def test_a_wish_that_no_items_show_is_refused(cuvee: Cuvee, place: Path, wish: float) -> None:
    refused = cuvee("plan", "r.yaml", "--detect", str(wish))
    assert refused.returncode == 2
    assert "is no difference that can be shown" in refused.stderr


def test_the_items_of_a_judged_evaluator_are_questions_however_often_the_judge_is_asked(place: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "examples" / "judged", place / "judged")
    judge = {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "judge"}, "repeats": 5}
    rated = {"mt_bench": {"path": "judged", "judge": judge, "stages": "final"}}
    data = {
        "base": "fake:base",
        "sources": {"sums": {"path": "builtin:math", "ability": "math"}},
        "training": {"template": "plain"},
        "runs": [{"strategy": "multi_task"}, {"strategy": "untrained"}],
        "evaluation": [rated],
    }
    plan = planner.make(Located(validate(Recipe, data), place), Pins(place / "pins.json", place / "recipe.lock"))
    store = Store(place / ".cuvee")
    found = power.describe(plan, cost.estimate(plan, store, Runtime(store=store.folder)), store)
    assert [each["items"] for each in found["measures"]] == [8]


def test_turns_of_a_question_that_move_together_are_one_draw() -> None:
    random = np.random.default_rng(0)
    moves = random.normal(size=200)

    def scores(turns: int, values: NDArray[np.float64]) -> power.Scores:
        names = tuple(f"{n}/{turn}" for n in range(200) for turn in range(turns))
        return power.Scores(
            names, np.repeat(values, turns), np.ones(200 * turns), np.repeat(np.arange(200), turns), items=200
        )

    once, twice = (power._variance(scores(turns, 0 * moves), scores(turns, moves)) for turns in (1, 2))
    assert once == pytest.approx(moves.var(ddof=1))
    assert twice == pytest.approx(once)


def test_a_plan_says_what_it_can_show(cuvee: Cuvee, place: Path) -> None:
    before = json.loads(cuvee("plan", "r.yaml", "--json", "--detect", "0.02").stdout)["power"]
    by = {(each["evaluator"], each["ability"]): each for each in before["measures"]}
    answers, loss = by["exact_answer", "math"], by["heldout_loss", "math"]
    assert before["comparisons"] == 6
    assert answers["basis"] == "assumed: 20% of the items change"
    assert answers["smallest"] == pytest.approx(2.8016 * math.sqrt(0.2 / answers["items"]), rel=1e-3)
    assert answers["smallest_corrected"] > answers["smallest"]
    assert answers["needed_items"] == 3925
    assert loss["smallest"] is None
    assert "0.02 needs 3,925 items" in cuvee("plan", "r.yaml", "--detect", "0.02").stdout
    assert cuvee("run", "r.yaml", "--no-report").returncode == 0
    after = json.loads(cuvee("plan", "r.yaml", "--json").stdout)["power"]
    measured = [each for each in after["measures"] if each["evaluator"] == "heldout_loss"]
    assert all(each["basis"].startswith("measured on") for each in measured)
    assert all(each["smallest"] > 0 for each in measured)

"""The strategy table, the recommended k, items learned and lost, and scores against cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.analyses import planted

from cuvee.analyses import cost, forgetting, k_sweep, strategy_table
from cuvee.errors import UsageError


def line(level, n=200):
    return "1" * level + "0" * (n - level)


def test_each_cell_has_counts_an_interval_and_the_difference_to_the_reference(result):
    results = [result("dmt", "math", line(120)), result("multi_task", "math", line(60))]
    (found,) = strategy_table.table(results, strategy_table.Params(resamples=2000))
    rows = {row["run"]: row for row in found.rows}
    assert rows["dmt"]["math (points ↑)"] == "60.0 (53.1..66.5), 120/200"
    assert rows["dmt"]["math: minus multi_task"].startswith("+30.0 (")
    assert rows["dmt"]["math: minus multi_task"].endswith("▲")
    assert rows["multi_task"]["math: minus multi_task"] == "reference"
    assert found.figures[0].kind == "matrix"


def test_a_reference_that_is_no_run_is_refused(result):
    with pytest.raises(UsageError, match="Did you mean 'multi_task'"):
        strategy_table.table([result("multi_task", "math", "11")], strategy_table.Params(reference="multitask"))


def test_runs_are_set_against_runs_of_their_own(result):
    """And one that was not measured is named, and stops nothing."""
    levels = {"all": 150, "few": 100, "all b": 90, "few b": 140}
    results = [result(name, "math", line(level)) for name, level in levels.items()]
    references = {"all b": "all", "few b": "few", "lost b": "lost"}
    (found,) = strategy_table.table(results, strategy_table.Params(resamples=2000, references=references))
    rows = {row["run"]: (row["set against"], row["math: minus the run it is set against"]) for row in found.rows}
    assert rows["all"] == (None, "reference")
    assert rows["few"][0] == "all"
    assert (rows["all b"][0], rows["all b"][1][:5]) == ("all", "-30.0")
    assert (rows["few b"][0], rows["few b"][1][:5]) == ("few", "+20.0")
    assert found.notes[-1] == "Not measured, so nothing is compared with it: lost b, lost."


def test_an_ability_that_a_run_was_not_measured_on_says_so(result):
    results = [result("a", "math", line(9)), result("b", "math", line(9)), result("b", "code", line(9))]
    (found,) = strategy_table.table(results, strategy_table.Params(resamples=2000))
    assert found.rows[0]["code (points ↑)"] == "not measured"


def sweep(result, levels):
    general = {"general": "general"}
    made = []
    for k, by in levels.items():
        name, params = ("mixed_sequential", general) if k == "0" else (f"dmt k={k}", {**general, "k": k})
        made += [result(name, ability, line(level), params=params) for ability, level in by.items()]
    return made


def test_the_recommended_k_follows_the_users_weights(result):
    levels = {
        "0": {"math": 60, "general": 150},
        "1/16": {"math": 100, "general": 140},
        "1": {"math": 140, "general": 60},
    }
    results = sweep(result, levels)

    def chosen(**weights):
        tables = k_sweep.table(results, k_sweep.Params(resamples=2000, weights=weights))
        (found,) = [each for each in tables if each.title.endswith("which k")]
        return [row["k"] for row in found.rows if row["reading"]]

    assert chosen() == ["1/16"]
    assert chosen(math=1, general=0) == ["1"]
    assert chosen(math=0, general=1) == ["0"]


def test_of_equal_k_the_smallest_is_recommended(result):
    results = sweep(result, {"0": {"math": 60}, "1": {"math": 122}})
    results.append(result("dmt k=1/16", "math", line(121)[::-1], params={"general": "general", "k": "1/16"}))
    tables = k_sweep.table(results, k_sweep.Params(resamples=2000))
    (found,) = [each for each in tables if each.title.endswith("which k")]
    assert (
        "k = 1/16 is recommended: the smallest k within one standard error of the paired difference to the best (1)"
        in found.notes[0]
    )


def test_scores_that_are_all_the_same_recommend_no_k(result):
    results = sweep(result, {"0": {"math": 200}, "1/16": {"math": 200}})
    tables = k_sweep.table(results, k_sweep.Params(resamples=2000))
    (found,) = [each for each in tables if each.title.endswith("which k")]
    assert found.notes[0] == "No k is recommended: math by exact_answer: every item has the same score in every run."


def test_an_ability_that_says_nothing_is_named_and_can_be_left_out(result):
    results = sweep(result, {"0": {"math": 60, "general": 0}, "1": {"math": 122, "general": 0}})

    def said(**weights):
        tables = k_sweep.table(results, k_sweep.Params(resamples=2000, weights=weights))
        return next(each.notes[0] for each in tables if each.title.endswith("which k"))

    assert "general by exact_answer: every item has the same score" in said()
    assert "weights: {general: 0} leaves it out" in said()
    assert said(general=0).startswith("k = 1 is recommended")


def test_items_learned_kept_lost_and_relearned_are_counted(result):
    path = ["00001111", "11001100", "11110000", "00111100"]
    results = [result("sequential", "math", scores, stage=stage, final=stage == 3) for stage, scores in enumerate(path)]
    found = forgetting.table(results, forgetting.Params(resamples=2000))[-1]
    counted = [(row["learned"], row["kept"], row["lost"], row["relearned"]) for row in found.rows]
    assert counted == [(None,) * 4, ("2", "2", "2", "0"), ("2", "2", "2", "0"), ("2", "2", "2", "2")]


def test_losses_are_no_items_learned(result):
    scores = [[0.5, 0.75, 1.5], [0.25, 0.75, 1.0]]
    results = [result("a", "math", s, stage=i, final=i == 1, evaluator="loss") for i, s in enumerate(scores)]
    assert "learned" not in forgetting.table(results, forgetting.Params(resamples=2000))[-1].columns


def test_a_stage_that_forgets_keeps_its_planted_loss():
    info = planted.run("sequential", {"math": 10})
    old, new = planted.scores([0.6, 0.3], 1000, np.random.default_rng(0))
    results = [planted.result(info, "math", s.tolist(), stage, stage == 2) for stage, s in ((1, old), (2, new))]
    row = forgetting.table(results, forgetting.Params(resamples=2000))[-1].rows[-1]
    assert row["flag"] == "lost"
    assert float(row["lost"]) - float(row["learned"]) == pytest.approx(old.sum() - new.sum())


def test_runs_are_listed_with_what_they_took_and_by_whom_they_are_beaten():
    cheap, dear = planted.run("cheap", {"math": 100}), planted.run("dear", {"math": 400})
    results = planted.results([(cheap, {"math": 0.7}), (dear, {"math": 0.3})], 300)
    (found,) = cost.table(results, cost.Params(resamples=2000))
    assert [(row["run"], row["supervised tokens"], row["beaten by"]) for row in found.rows] == [
        ("cheap", 2000, None),
        ("dear", 8000, "cheap"),
    ]


def test_runs_without_a_described_training_have_no_cost():
    results = planted.results([(replace(planted.run("a", {"math": 1}), trainings=()), {"math": 0.7})], 30)
    (found,) = cost.table(results, cost.Params(resamples=2000))
    assert found.rows == []
    assert "no run says what its trainings took" in found.notes[0]


def test_what_was_never_solved_cannot_be_forgotten(result):
    path = ["0" * 30, "0" * 30]
    results = [result("sequential", "math", scores, stage=stage, final=stage == 1) for stage, scores in enumerate(path)]
    said = forgetting.table(results, forgetting.Params(resamples=2000))[0].notes[0]
    assert said.endswith("of math no model solved an item, so there was nothing to lose.")

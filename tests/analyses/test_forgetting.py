from __future__ import annotations

import numpy as np
import pytest

from cuvee.analyses import forgetting
from cuvee.analyses.forgetting import Params

FAST = Params(resamples=2000)


def line(level, n=100):
    return "1" * level + "0" * (n - level)


def path(result, run, *levels, seed=0):
    """A run's results at stages 0, 1, ...; the last one is final."""
    last = len(levels) - 1
    return [
        result(run, "math", line(level), stage=stage, final=stage == last, seed=seed)
        for stage, level in enumerate(levels)
    ]


def by_stage(tables):
    return next(table for table in tables if table.title.startswith("Forgetting by stage"))


def test_every_stage_is_compared_with_the_one_before(result):
    found = by_stage(forgetting.table(path(result, "sequential", 5, 60, 20), FAST))
    assert [row["flag"] for row in found.rows] == ["start", "gained", "lost"]
    assert [row["change"] for row in found.rows] == [None, "+55.0", "-40.0"]
    assert [row["since stage"] for row in found.rows] == [None, 0, 1]


def test_a_small_change_is_no_change_seen(result):
    found = by_stage(forgetting.table(path(result, "sequential", 50, 53), FAST))
    assert found.rows[1]["flag"] == "no change seen"
    assert float(found.rows[1]["smallest visible"]) > 3


def test_for_losses_going_down_is_a_gain(result):
    rng = np.random.default_rng(0).random(50)
    results = [
        result("a", "math", rng + level, evaluator="heldout_loss", stage=stage, final=stage == 2)
        for stage, level in enumerate([2.0, 1.0, 1.5])
    ]
    found = by_stage(forgetting.table(results, FAST))
    assert [row["flag"] for row in found.rows] == ["start", "gained", "lost"]


def test_a_stage_that_runs_share_is_tested_once(result):
    from dataclasses import replace

    results = []
    for run, last in (("dmt k=1", 40), ("dmt k=1/4", 50)):
        for each in path(result, run, 5, 60, last):
            shared = replace(each, stage_id="special") if each.stage == 1 else each
            results.append(shared)
    found = by_stage(forgetting.table(results, FAST))
    assert any("over the 3 different steps" in note for note in found.notes)
    assert len(found.rows) == 6


def test_the_overview_shows_the_way_of_each_run_in_one_line(result):
    overview = forgetting.table(path(result, "sequential", 5, 60, 20), FAST)[0]
    assert overview.rows[0]["math"] == "5.0 ▲ 60.0 ▼ 20.0"
    assert overview.notes[0] == "exact_answer: math lost at stage 2 in sequential."


def test_without_a_second_stage_it_says_what_to_do(result):
    (only,) = forgetting.table([result("a", "math", "1100")], FAST)
    assert not only.rows
    assert "`stages: all`" in only.notes[0]


def test_no_results_are_said():
    assert "no results" in forgetting.table([], FAST)[0].notes[0]


def test_stages_on_other_items_are_not_compared_and_that_is_said(result):
    results = [result("a", "math", "1100", stage=0), result("a", "math", "111", stage=1)]
    (only,) = forgetting.table(results, FAST)
    assert any("different items and are not compared" in note for note in only.notes)


def test_seeds_are_joined_and_their_spread_is_shown(result):
    results = path(result, "a", 5, 60, 20, seed=0) + path(result, "a", 5, 70, 30, seed=1)
    found = by_stage(forgetting.table(results, FAST))
    assert found.rows[1]["change"] == "+60.0"
    assert float(found.rows[1]["SD between seeds"]) == pytest.approx(7.1)


def test_the_figure_goes_along_the_stages(result):
    (figure,) = by_stage(forgetting.table(path(result, "a", 5, 60, 20), FAST)).figures
    assert [point["x"] for point in figure.series["a"]] == [0, 1, 2]
    assert figure.x_scale == "linear"


def test_a_run_starts_at_its_own_base_where_that_was_asked_otherwise(result):
    """Another template is another question, also to the base model."""
    from dataclasses import replace

    other = [replace(each, stage_id=f"other-{each.stage}") for each in path(result, "b", 30, 60)]
    found = by_stage(forgetting.table(path(result, "a", 5, 60) + other, FAST))
    assert [row["change"] for row in found.rows] == [None, "+55.0", None, "+30.0"]


def test_runs_of_one_training_are_in_the_table_and_not_in_the_figure(result):
    one = [r for r in path(result, "b", 5, 60, 20) if r.stage < 2]
    found = by_stage(forgetting.table([*path(result, "a", 5, 60, 20), *one], FAST))
    assert {row["run"] for row in found.rows} == {"a", "b"}
    assert [list(figure.series) for figure in found.figures] == [["a"]]


def test_figures_of_several_base_models_are_told_apart(result):
    from dataclasses import replace

    small = path(result, "a", 5, 60, 20)
    large = [replace(each, run=replace(each.run, base="large")) for each in small]
    figures = [figure.title for table in forgetting.table(small + large, FAST) for figure in table.figures]
    assert [title.partition(", ")[2] for title in figures] == ["base model tiny", "base model large"]

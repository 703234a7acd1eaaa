from __future__ import annotations

from fractions import Fraction

import pytest

from cuvee.analyses import k_sweep
from cuvee.analyses.k_sweep import Params, share
from cuvee.protocols import NOTHING_SELECTED, RunInfo

FAST = Params(resamples=2000)


def line(level, n=100):
    return "1" * level + "0" * (n - level)


@pytest.fixture
def results(result):
    general = {"general": "general"}
    return [
        result("dmt k=1", "math", line(60), strategy="dmt", params={**general, "k": "1/1"}),
        result("dmt k=1/256", "math", line(31), strategy="dmt", params={**general, "k": Fraction(1, 256)}),
        result("mixed_sequential", "math", line(30), params=general),
        result("multi_task", "math", line(65)),
        result("sequential", "math", line(10)),
    ]


def test_k_goes_up_from_mixed_sequential_and_multi_task_is_the_reference(results):
    overview = k_sweep.table(results, FAST)[0]
    assert [(row["k"], row["run"]) for row in overview.rows] == [
        ("0", "mixed_sequential"),
        ("1/256", "dmt k=1/256"),
        ("1", "dmt k=1"),
        ("reference", "multi_task"),
    ]


def test_every_k_is_compared_with_0_on_the_same_items(results):
    found = k_sweep.table(results, FAST)[-1]
    assert [row["reading"] for row in found.rows] == ["start", "not separable from k = 0", "better than k = 0", ""]
    assert [row["difference to k = 0"] for row in found.rows] == [None, "+1.0", "+30.0", None]


def test_the_overview_says_in_a_sentence_where_k_did_something(results):
    overview = k_sweep.table(results, FAST)[0]
    assert overview.notes[0] == "math (exact_answer): better than k = 0 at 1; not separable from k = 0 at 1/256."


def test_the_figure_has_0_on_a_log_axis_and_a_level_line(results):
    (figure,) = k_sweep.table(results, FAST)[0].figures
    assert [point["x"] for point in figure.series["math"]] == [0.0, 1 / 256, 1.0]
    assert figure.series["math, multi_task"][0]["x"] is None
    assert figure.series["math, multi_task"][0]["like"] == "math"
    assert figure.x_scale == "log"


def test_without_k_0_it_says_what_to_add(results):
    found = k_sweep.table(results[:2], FAST)[-1]
    assert "add {strategy: mixed_sequential}" in found.notes[0]
    assert all(row["p (Holm)"] is None for row in found.rows)


def test_without_dmt_it_says_what_to_add(results):
    (only,) = k_sweep.table(results[2:], FAST)
    assert "has no `dmt` run" in only.notes[0]


def test_mixed_sequential_with_another_general_source_is_no_k_0(result, results):
    other = result("mixed_sequential", "math", line(30), params={"general": "code"})
    found = k_sweep.table([*results[:2], other], FAST)[0]
    assert [row["k"] for row in found.rows] == ["1/256", "1"]


@pytest.mark.parametrize("value", ["1/256", "1/256 ", Fraction(1, 256), 0.00390625])
def test_k_is_read_in_every_form_it_is_stored_in(value):
    assert share(value) == Fraction(1, 256)


def test_runs_with_other_training_settings_are_a_sweep_of_their_own(result, results):
    """Their k = 0 and their reference have the same settings; nobody else's stand in."""
    general, slow = {"general": "general"}, {"learning_rate": 1e-5}
    results += [
        result("dmt slow", "math", line(99), strategy="dmt", params={**general, "k": "1/4"}, training=slow),
        result("mixed slow", "math", line(20), strategy="mixed_sequential", params=general, training=slow),
        result("multi slow", "math", line(44), strategy="multi_task", training={"learning_rate": "1e-5"}),
    ]
    found = [table for table in k_sweep.table(results, FAST) if table.columns[:2] == ["k", "run"]]
    assert [[(row["k"], row["run"]) for row in table.rows] for table in found] == [
        [("0", "mixed_sequential"), ("1/256", "dmt k=1/256"), ("1", "dmt k=1"), ("reference", "multi_task")],
        [("0", "mixed slow"), ("1/4", "dmt slow"), ("reference", "multi slow")],
    ]
    assert "This sweep: general=general, training as in the recipe." in found[0].notes
    assert "This sweep: general=general, training with learning_rate=1e-05." in found[1].notes


def test_a_run_that_is_in_no_sweep_is_named_with_the_reason(result, results):
    general, slow = {"general": "general"}, {"learning_rate": 1e-5}
    lost = [
        result("mixed slow", "math", line(20), strategy="mixed_sequential", params=general, training=slow),
        result("multi slow", "math", line(44), strategy="multi_task", training=slow),
        result("dmt again", "math", line(61), strategy="dmt", params={**general, "k": 1}),
        result("dmt lost", "math", line(5), strategy="dmt", params={**general, "k": "1/2"}, stage=0),
    ]
    for tables in (k_sweep.table([*results, *lost], FAST), k_sweep.table([*lost, *results], FAST)):
        overview = tables[0]
        said = " ".join(overview.notes)
        assert "mixed slow is k = 0 of no sweep: no dmt run shares its general=general, training with" in said
        assert "multi slow is the reference of no sweep" in said
        assert "dmt lost (k = 1/2) is not shown: its final model is not measured." in said
        assert "is not shown: dmt" in said
        shown = {row["run"] for row in overview.rows}
        assert all(each.run.name in shown or each.run.name in said for each in [*results[:4], *lost])


def test_a_reference_with_other_training_is_no_reference(result, results):
    slow = result("multi_task", "math", line(65), training={"epochs": 1})
    overview = k_sweep.table([*results[:3], slow], FAST)[0]
    assert [row["k"] for row in overview.rows] == ["0", "1/256", "1"]
    assert any(note.startswith("There is no reference line") for note in overview.notes)


def runs_of(**more):
    def run(name, strategy, params=None, **own):
        return RunInfo(name, strategy, params or {}, "base", 0, **own)

    dmt = run("dmt", "dmt", {"general": "general", "k": 1}, **more)
    return dmt, run("all", "multi_task", select=NOTHING_SELECTED), run("chosen", "multi_task", **more)


def test_a_recipe_that_selects_nothing_and_a_run_that_takes_selections_away_are_one():
    (sweep,) = k_sweep.sweeps(runs_of()[:2])
    assert sweep.reference == "all"


def test_the_reference_is_under_the_recipes_selection_as_the_sweep_is():
    (sweep,) = k_sweep.sweeps(runs_of(recipe_select="lobass 3/50"))
    assert sweep.reference == "chosen"

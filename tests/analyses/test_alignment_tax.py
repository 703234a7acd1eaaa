from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import planted
import pytest

from cuvee.analyses import alignment_tax
from cuvee.analyses.alignment_tax import Params
from cuvee.protocols import TrainingInfo

FAST = Params(resamples=2000)
QUARTERS = [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)]


def line(level, n=100):
    return "1" * level + "0" * (n - level)


def curve(result, run, scores, *, fractions=QUARTERS, ability="math", seed=0, **more):
    """A training's results at these fractions of it; the first is the base, the last one is final."""
    found = []
    for at, score in zip(fractions, scores, strict=True):
        given = line(score) if isinstance(score, int) else score
        one = result(run, ability, given, stage=int(at > 0), final=at == 1, seed=seed, **more)
        key = "base" if at == 0 else f"{run} {seed} {at}"
        found.append(replace(one, fraction=at if at else Fraction(1), stage_id=f"{key} {ability}"))
    return found


def test_gain_and_tax_are_those_of_the_best_point(result):
    summary, points = alignment_tax.table(curve(result, "multi_task", [40, 60, 80, 55]), FAST)
    (row,) = summary.rows
    assert (row["largest gain"], row["tax"], row["best"]) == ("40.0", "25.0", "80.0")
    assert row["reached at"].startswith("0.5 ")
    assert row["verdict"] == "tax"
    assert summary.notes[0].startswith("multi_task pays 25.0 points of math")
    assert [one["change to the base"] for one in points.rows] == [None, "+20.0", "+40.0", "+15.0"]


def test_the_figure_is_the_paired_change_to_the_base(result):
    summary, _ = alignment_tax.table(curve(result, "a", [40, 60, 80, 55]), FAST)
    (figure,) = summary.figures
    assert [(point["x"], round(point["y"], 6)) for point in figure.series["a"]] == [
        (0, 0), (0.25, 20), (0.5, 40), (1, 15)
    ]  # fmt: skip
    assert figure.series["a"][0]["low"] is None
    assert figure.series["a"][1]["low"] < 20 < figure.series["a"][1]["high"]


def test_for_losses_the_lowest_is_the_best(result):
    noise = np.random.default_rng(0).random(60)
    scores = [noise + level for level in (2.0, 1.0, 1.5, 1.7)]
    summary, _ = alignment_tax.table(curve(result, "a", scores, evaluator="heldout_loss"), FAST)
    (row,) = summary.rows
    assert (row["largest gain"], row["tax"], row["verdict"]) == ("1.000", "0.700", "tax")
    assert row["reached at"].startswith("0.25 ")


def test_there_is_no_tax_where_the_final_model_is_the_best(result):
    summary, _ = alignment_tax.table(curve(result, "a", [40, 60, 80, 80]), FAST)
    assert (summary.rows[0]["tax"], summary.rows[0]["verdict"]) == ("0.0", "no tax seen")
    assert summary.rows[0]["reached at"].startswith("1 ")
    assert summary.notes[0] == "No run was seen to pay a tax on any ability."


def test_what_never_rises_above_the_base_is_taxed_from_there(result):
    summary, _ = alignment_tax.table(curve(result, "a", [80, 70, 60, 50]), FAST)
    (row,) = summary.rows
    assert (row["largest gain"], row["tax"]) == ("0.0", "30.0")
    assert row["reached at"] == "0 (base)"


def test_stages_count_by_their_steps(result):
    """Of 100 and 300 steps, half of the second training is 250 of 400."""
    places = [(0, 1), (1, 1), (2, Fraction(1, 2)), (2, 1)]
    trainings = tuple(TrainingInfo(str(n), 1, n, 0, 0, 0.0, ()) for n in (100, 300))
    found = []
    for (stage, at), score in zip(places, (10, 50, 60, 40), strict=True):
        one = result("sequential", "math", line(score), stage=stage, final=(stage, at) == (2, 1))
        run = replace(one.run, trainings=trainings)
        found.append(replace(one, run=run, fraction=Fraction(at), stage_id=f"{stage} {at}"))
    _, points = alignment_tax.table(found, FAST)
    assert [row["done"] for row in points.rows] == ["0", "0.25", "0.625", "1"]
    unknown = [replace(one, run=replace(one.run, trainings=())) for one in found]
    _, points = alignment_tax.table(unknown, FAST)
    assert [row["done"] for row in points.rows] == ["0", "0.5", "0.75", "1"]


def test_what_is_missing_is_said(result):
    whole = curve(result, "a", [40, 60, 80, 55])
    without_base, _ = alignment_tax.table(whole[1:], FAST)
    assert any("the base is not measured" in note for note in without_base.notes)
    assert without_base.rows[0]["largest gain"] is None
    assert without_base.rows[0]["tax"] == "25.0"
    assert not without_base.figures
    (without_final,) = alignment_tax.table(whole[:-1], FAST)
    assert any("the final model is not measured" in note for note in without_final.notes)
    (alone,) = alignment_tax.table(whole[-1:], FAST)
    assert any("at one model only of a" in note for note in alone.notes)
    no_marks, _ = alignment_tax.table([whole[0], whole[-1]], FAST)
    assert any("nothing on its way" in note for note in no_marks.notes)


def test_a_point_on_other_items_or_seeds_is_left_out_and_said(result):
    whole = curve(result, "a", [40, 60, 80, 55])
    odd = replace(whole[2], items=[f"x{name}" for name in whole[2].items])
    summary, _ = alignment_tax.table([*whole[:2], odd, whole[3]], FAST)
    assert summary.rows[0]["points"] == 3
    assert any("stage 1 at 1/2 is left out" in note for note in summary.notes)
    again = curve(result, "a", [40, 60, 80, 55], seed=1)
    summary, _ = alignment_tax.table([*whole, *again[:2], again[3]], FAST)
    assert any("at other seeds than the final model" in note for note in summary.notes)


def test_few_items_have_no_interval_and_show_no_tax(result):
    summary, _ = alignment_tax.table(curve(result, "a", ["0" * 19, "1" * 19, "1" * 19, "0" * 19]), FAST)
    assert summary.rows[0]["tax, 95 % interval"] is None
    assert summary.rows[0]["verdict"] == "no tax seen"


def test_seeds_that_disagree_are_no_tax(result):
    taxed, free = curve(result, "a", [10, 60, 90, 50]), curve(result, "a", [10, 60, 60, 70], seed=1)
    summary, _ = alignment_tax.table([*taxed, *free], FAST)
    assert summary.rows[0]["verdict"] == "seeds differ"
    assert float(summary.rows[0]["SD between seeds"]) == pytest.approx(14.1)


def test_a_model_that_runs_share_is_tested_once(result):
    first = curve(result, "a", [40, 60, 80, 55])
    other = [replace(one, run=replace(one.run, name="b")) for one in first]
    _, points = alignment_tax.table(first + other, FAST)
    assert "over the 3 different models" in points.notes[0]
    assert len(points.rows) == 8


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_interval_holds_a_planted_tax_and_does_not_invent_one(seeds):
    """Of 60 worlds each: without a tax at most 5 % are seen (6 of 60 is p < 0.03), and the true one is inside."""
    random = np.random.default_rng(7)
    for truth, tax in (((0.4, 0.6, 0.6, 0.6, 0.6), 0.0), ((0.4, 0.6, 0.7, 0.65, 0.55), 0.15)):
        seen = inside = 0
        for _ in range(60):
            samples = planted.samples(truth, 400, random, seeds=seeds)
            points = [alignment_tax.Point(i / 4, "", one, (str(i),)) for i, one in enumerate(samples)]
            measure = alignment_tax.Measure("exact_answer", "math", "accuracy", True)
            found = alignment_tax.Curve("a", measure, tuple(points))
            low, high = alignment_tax.largest(found, points[-1], FAST)
            seen += low > 0
            inside += low <= tax <= high
        assert inside >= 54
        assert seen <= 6 if tax == 0 else seen >= 54


def test_one_item_has_a_point_and_nothing_more(result):
    summary, points = alignment_tax.table(curve(result, "a", [[0.5], [0.7], [0.9], [0.6]]), FAST)
    assert points.rows[1]["change to the base"] == "+20.0"
    assert points.rows[1]["95 % interval"] is None
    assert summary.figures[0].series["a"][1]["low"] is None


def test_no_results_are_said():
    assert "no results" in alignment_tax.table([], FAST)[0].notes[0]


def test_a_run_that_trains_nothing_is_no_curve(result):
    base = replace(result("untrained", "math", line(40), stage=0), final=True)
    (only,) = alignment_tax.table([base], FAST)
    assert not only.rows


def logged(results, losses):
    """The same results of a run whose training had these losses a step, ten tokens each."""
    info = TrainingInfo("t", 2, len(losses), 0, 0, 0.0, (), tuple((10 * loss, 10) for loss in losses))
    return [replace(one, run=replace(one.run, trainings=(info,))) for one in results]


def test_the_fall_of_the_training_loss_is_set_against_that_of_the_held_out_loss(result):
    noise = np.random.default_rng(0).random(60)
    held = curve(result, "a", [noise + level for level in (3.0, 2.0, 1.5, 1.0)], evaluator="heldout_loss")
    losses = np.linspace(3.0, 1.0, 41)[:-1]  # 40 steps that fall by 0.05 each; a window is two of them
    *_, ratios = alignment_tax.table(logged(held, losses), FAST)
    assert [row["done"] for row in ratios.rows] == ["0.25", "0.5", "1"]
    assert [row["training loss fell by"] for row in ratios.rows] == ["0.400", "0.900", "1.900"]
    assert [row["held-out loss fell by"] for row in ratios.rows] == ["1.000", "1.500", "2.000"]
    assert [row["ratio"] for row in ratios.rows] == ["0.40", "0.60", "0.95"]


def test_there_is_no_ratio_to_a_loss_that_did_not_fall(result):
    noise = np.random.default_rng(0).random(60)
    held = curve(result, "a", [noise + level for level in (1.0, 1.0, 1.0, 2.0)], evaluator="heldout_loss")
    *_, ratios = alignment_tax.table(logged(held, [2.0, 1.0]), FAST)
    assert [row["ratio"] for row in ratios.rows] == [None, None, None]


def test_without_logs_or_of_several_trainings_or_accuracies_there_is_no_such_table(result):
    whole = curve(result, "a", [40, 60, 80, 55])
    assert len(alignment_tax.table(logged(whole, [2.0, 1.0]), FAST)) == 2


def test_a_merged_model_is_one_point_and_no_remedy_is_told_for_that(result):
    info = TrainingInfo("t", 1, 10, 0, 0, 0.0, ())
    ends = curve(result, "soup", [40, 60], fractions=[Fraction(0), Fraction(1)])
    ends = [replace(one, run=replace(one.run, trainings=(info,) * 4)) for one in ends]
    summary, _ = alignment_tax.table(ends, FAST)
    assert any("soup is merged of several trainings, which have no way in common" in note for note in summary.notes)
    assert not any("marks" in note for note in summary.notes)
    (figure,) = summary.figures
    assert [point["x"] for point in figure.series["soup"]] == [1.0]

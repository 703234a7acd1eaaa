from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from cuvee.analyses import interpolation
from cuvee.analyses.interpolation import Params

FAST = Params(resamples=2000)
TS = [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)]
NOISE = np.random.default_rng(0).random(60)


def line(result, levels, *, ts=TS, name="interpolation", seed=0, noise=NOISE, evaluator="heldout_loss"):
    """Results of the models along a line, whose losses are these levels and noise that the items share."""
    return [
        result(f"{name} t={t}", "math", noise + level, strategy="interpolation", params={"t": t}, seed=seed,
               evaluator=evaluator)
        for t, level in zip(ts, levels, strict=True)
    ]  # fmt: skip


def test_a_barrier_is_the_score_beyond_the_line_between_the_ends(result):
    (table,) = interpolation.table(line(result, [1.0, 2.0, 1.9, 2.0]), FAST)
    assert [row["t"] for row in table.rows] == ["0", "1/4", "1/2", "1"]
    # The line between the ends says 1.25 at a quarter and 1.5 at a half.
    assert [row["to the ends' line"] for row in table.rows] == [None, "+0.750", "+0.400", None]
    assert [row["reading"] for row in table.rows] == [None, "worse", "worse", None]
    assert table.notes[0] == "interpolation, math (heldout_loss): a barrier of 0.750 nats/token, at t = 1/4."


def test_a_valley_is_no_barrier(result):
    (table,) = interpolation.table(line(result, [1.0, 0.8, 0.7, 1.0]), FAST)
    assert [row["reading"] for row in table.rows] == [None, "better", "better", None]
    assert table.notes[0].endswith("no barrier is seen.")


def test_of_accuracies_less_is_a_barrier(result):
    found = [
        result("interpolation", "math", "1" * right + "0" * (100 - right), strategy="interpolation", params={"t": t})
        for t, right in zip(TS, [80, 40, 30, 80], strict=True)
    ]
    (table,) = interpolation.table(found, FAST)
    assert table.notes[0].endswith("a barrier of 50.0 points, at t = 1/2.")


def test_the_figure_has_a_line_for_each_pair_of_models_and_says_how_far_each_point_is(result):
    runs = line(result, [1, 1, 1, 1], name="interpolation between=orders") + line(
        result, [1, 2, 2, 1], name="interpolation between=portions"
    )
    (table,) = interpolation.table(runs, FAST)
    (figure,) = table.figures
    assert list(figure.series) == ["interpolation between=orders", "interpolation between=portions"]
    assert [point["x"] for point in figure.series["interpolation between=portions"]] == [0, 0.25, 0.5, 1]
    middle = figure.series["interpolation between=portions"][2]
    assert middle["y"] == pytest.approx(2 + NOISE.mean())
    assert middle["low"] < middle["y"] < middle["high"]


def test_without_both_ends_there_is_no_barrier_to_tell(result):
    (table,) = interpolation.table(line(result, [1.0, 2.0, 1.9, 2.0])[1:], FAST)
    assert "a barrier needs t = 0, t = 1 and a point between them" in table.notes[0]


def test_a_point_at_other_seeds_is_left_out_and_said(result):
    both = line(result, [1, 1, 1, 1]) + line(result, [1, 1, 1, 1], seed=1)[:3]
    (table,) = interpolation.table(both, FAST)
    assert [row["t"] for row in table.rows] == ["0", "1/4", "1/2"]
    assert any("at 1, heldout_loss on math, is left out: it is measured at other seeds" in note for note in table.notes)


def test_without_such_runs_it_says_how_to_get_one(result):
    (table,) = interpolation.table([result("multi_task", "math", "1101")], FAST)
    assert "runs: [{strategy: interpolation" in table.notes[0]

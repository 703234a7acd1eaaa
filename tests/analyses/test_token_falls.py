from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from cuvee.analyses import token_falls
from cuvee.analyses.token_falls import Params

FAST = Params(resamples=2000, fewest=1)

ROWS = 40


def texts(rows=ROWS):
    return [["the", "the", "a", f"rare {number}"] for number in range(rows)]


def measured(result, at, the, a, rare, *, run="multi_task", seed=0, rows=ROWS, words=None, noise=0.0):
    """A model's losses: those of the frequent token, of the middle one and of the rare ones."""
    random = np.random.default_rng([seed, int(100 * at)])
    losses = [[the, the, a, rare + noise * random.normal()] for _ in range(rows)]
    extra = {"losses": losses, "texts": words or texts(rows)}
    one = result(run, "math", [sum(each) / 4 for each in losses], stage=int(at > 0), final=at == 1,
                 evaluator="heldout_loss", seed=seed, extra=extra)  # fmt: skip
    label = f"math {at}" if 0 < at < 1 else one.stage_label
    return replace(one, fraction=Fraction(at) if at else Fraction(1), stage_label=label)


def along(result, **more):
    """Frequent tokens are learnt in the first half, rare ones in the second."""
    return [
        measured(result, 0, 2.0, 3.0, 6.0, **more),
        measured(result, Fraction(1, 2), 1.0, 2.5, 6.0, **more),
        measured(result, 1, 1.0, 2.0, 4.0, **more),
    ]


def test_frequent_tokens_are_told_from_rare_ones_at_each_step(result):
    steps, _ = token_falls.table(along(result), FAST)
    early, late = steps.rows
    assert (early["from"], early["to"]) == ("base", "math 1/2")
    assert (late["from"], late["to"]) == ("math 1/2", "math")
    assert early["fall of frequent"].startswith("+1.000")
    assert early["fall of rare"].startswith("+0.000")
    assert late["fall of frequent"].startswith("+0.000")
    assert late["fall of rare"].startswith("+2.000")
    assert late["rare less frequent"].startswith("+2.000")
    assert early["fall of all"] == "+0.625"  # (1 + 1 + 0.5 + 0) / 4


def test_the_tokens_shown_are_those_that_fall_most(result):
    _, shown = token_falls.table(along(result), Params(resamples=2000, fewest=2))
    assert [(row["to"], row["token"], row["fall"], row["times"], row["rows"]) for row in shown.rows] == [
        ("math 1/2", "'the'", "1.000", 80, 40),
        ("math 1/2", "'a'", "0.500", 40, 40),
        ("math", "'a'", "0.500", 40, 40),
    ]  # the rare ones are in one row each


def test_the_interval_is_that_of_resampled_rows(result):
    """Against a plain bootstrap of rows: the same mean, ends apart as draws and the widening for few rows make."""
    results = along(result, noise=1.0)
    steps, _ = token_falls.table(results, FAST)
    before, after = (np.array([row[3] for row in one.extra["losses"]]) for one in results[1:])
    fall = before - after
    draws = np.random.default_rng(0).choice(fall, (20_000, ROWS)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    mean, span = steps.rows[1]["fall of rare"].split(" ", 1)
    ends = [float(end) for end in span.strip("()").split("..")]
    assert float(mean) == pytest.approx(fall.mean(), abs=6e-4)
    assert ends == pytest.approx([low, high], abs=0.06)
    assert ends[1] - ends[0] >= high - low  # widened for few rows, never narrowed


def test_intervals_hold_the_truth(result):
    """A planted fall of 0.5 of rare tokens: the interval of 95 % holds it in 90 to 99 of 100 measurements."""
    held = 0
    for trial in range(100):
        results = [
            measured(result, 0, 1.0, 1.0, 4.0, noise=1.0, seed=2 * trial),
            measured(result, 1, 1.0, 1.0, 3.5, noise=1.0, seed=2 * trial + 1),
        ]
        results[0] = replace(results[0], run=results[1].run)
        way = token_falls._ways(results, FAST)[0][0]
        _, low, high = token_falls.falls(way, [way.points[0][2] - way.points[1][2]], FAST)[0][2]
        held += low <= 0.5 <= high
    assert 90 <= held <= 99


def test_seeds_are_averaged_and_said(result):
    results = [
        measured(result, 0, 2.0, 3.0, 6.0),
        *(measured(result, 1, 1.0, 3.0, 4.0 + seed, seed=seed) for seed in (0, 1)),
    ]
    steps, _ = token_falls.table(results, FAST)
    assert steps.rows[0]["fall of rare"].startswith("+1.500")
    assert "mean over seeds" in " ".join(steps.notes)


def test_few_rows_have_no_interval(result):
    steps, _ = token_falls.table(along(result, rows=12), FAST)
    assert steps.rows[0]["fall of frequent"] == "+1.000"
    (figure,) = steps.figures
    assert all(point["low"] is None for points in figure.series.values() for point in points)


def test_a_class_that_few_rows_have_has_no_interval(result):
    """With it, forty rows would seem to speak where eighteen do."""
    words = [[f"{n} {i}" for i in range(4)] if n < 18 else ["the", "the", "a", "a"] for n in range(ROWS)]
    steps, _ = token_falls.table(along(result, words=words), FAST)
    assert ".." not in steps.rows[0]["fall of rare"]


def test_too_few_different_tokens_for_three_classes_are_said(result):
    words = [["the", "the", "the", "a"] for _ in range(ROWS)]
    steps, _ = token_falls.table(along(result, words=words), FAST)
    assert steps.rows[0]["fall of rare"] is None
    assert "multi_task on math: one or two tokens are nearly all there is" in " ".join(steps.notes)


def test_a_point_of_other_seeds_than_the_last_is_left_out_and_said(result):
    steps, _ = token_falls.table([*along(result), measured(result, 1, 1.0, 2.0, 5.0, seed=1)], FAST)
    assert [(row["from"], row["to"]) for row in steps.rows] == [("base", "math")]
    assert "other seeds than the last point" in " ".join(steps.notes)


def test_single_tokens_are_shown_of_as_many_ways_as_are_drawn(result):
    results = [one for number in range(8) for one in along(result, run=f"run {number}")]
    steps, shown = token_falls.table(results, Params(resamples=2000))
    assert len({row["run"] for row in steps.rows}) == 8
    assert len(steps.figures) == len({row["run"] for row in shown.rows}) == 6
    assert "first 6 of 8 ways" in " ".join(steps.notes)


def test_the_figure_shows_each_class_against_the_base(result):
    steps, _ = token_falls.table(along(result), FAST)
    (figure,) = steps.figures
    drawn = {name: [(point["x"], round(point["y"], 6)) for point in points] for name, points in figure.series.items()}
    assert drawn == {
        "frequent": [(0, 0), (0.5, -1), (1, -1)],
        "middle": [(0, 0), (0.5, -0.5), (1, -1)],
        "rare": [(0, 0), (0.5, 0), (1, -2)],
    }


def test_what_is_measured_on_other_tokens_is_left_out_and_said(result):
    results = along(result)
    other = [["x", *row[1:]] for row in texts()]
    results[1] = replace(results[1], extra={**results[1].extra, "texts": other})
    steps, _ = token_falls.table(results, FAST)
    assert [(row["from"], row["to"]) for row in steps.rows] == [("base", "math")]
    assert "math 1/2 is left out: it is measured on other tokens" in " ".join(steps.notes)


def test_losses_that_are_no_numbers_are_left_out_and_said(result):
    steps, _ = token_falls.table([*along(result)[:2], measured(result, 1, float("nan"), 1.0, 1.0)], FAST)
    assert [row["to"] for row in steps.rows] == ["math 1/2"]
    assert "not numbers" in " ".join(steps.notes)


def test_nothing_measured_token_by_token_says_how(result):
    (only,) = token_falls.table([result("multi_task", "math", [1.0], evaluator="heldout_loss")], FAST)
    assert not only.rows
    assert "heldout_loss: {tokens: true}" in only.notes[0]


def test_one_point_says_that_there_is_nothing_to_compare(result):
    (only,) = token_falls.table(along(result)[:1], FAST)
    assert "two points" in only.notes[0]


def test_runs_can_be_named(result):
    results = [*along(result), *along(result, run="other")]
    steps, _ = token_falls.table(results, Params(resamples=2000, runs=("other", "absent")))
    assert {row["run"] for row in steps.rows} == {"other"}
    assert "There is no run 'absent' measured token by token." in steps.notes

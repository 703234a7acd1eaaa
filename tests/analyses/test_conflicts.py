"""Mixing against training alone: what was planted is found, at equal rows of the ability."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from tests.analyses import planted

from cuvee.analyses import conflicts, ratio_effect
from cuvee.analyses.conflicts import Params, crossing_of

FAST = Params(resamples=2000)
SHARES = (Fraction(1, 256), Fraction(1, 64), Fraction(1, 16), Fraction(1, 4), Fraction(1))
ROWS = np.array([10.0, 40.0, 160.0, 640.0, 2560.0])


def study(alone, mixed, items=1000):
    """Math alone and mixed with code at equal shares, with these accuracies."""
    runs = []
    for share, a, m in zip(SHARES, alone, mixed, strict=True):
        rows = int(2560 * share)
        runs.append((planted.run(f"single math {share}", {"math": rows}, params={"source": "math"}), {"math": a}))
        both = planted.run(f"mix {share}", {"math": rows, "code": rows}, strategy="multi_task", params={"share": share})
        runs.append((both, {"math": m}))
    return planted.results(runs, items)


def test_gain_at_low_and_loss_at_high_are_found_with_their_crossing():
    alone = 0.15 + 0.06 * np.log2(ROWS)
    mixed = alone - 0.03 * (np.log2(ROWS) - np.log2(160))
    (found,) = conflicts.conflicts(study(alone, mixed, items=2000), FAST)
    assert found.reading == "helps when scarce, hurts when plentiful"
    assert found.crossing.low < 160 < found.crossing.high
    assert found.crossing.at == pytest.approx(160, rel=0.35)
    (row,) = conflicts.table(study(alone, mixed, items=2000), FAST)[0].rows
    assert row["least rows"] == 10
    assert row["difference at the least"].endswith("▲")


def test_without_a_turn_no_crossing_is_given():
    alone = 0.15 + 0.06 * np.log2(ROWS)
    (found,) = conflicts.conflicts(study(alone, alone), FAST)
    assert not found.crossing.turns
    assert found.crossing.at is None
    assert conflicts.crossing_words(found.crossing) == "none seen"


def test_a_crossing_outside_the_amounts_has_no_end_there():
    random = np.random.default_rng(0)
    gains = np.array([0.10, 0.08, 0.06, 0.04, 0.02])
    draws = gains + 0.004 * random.standard_normal((2000, 5))
    found = crossing_of(ROWS, gains, draws)
    assert found.turns
    assert found.low > 2560


def test_runs_with_other_training_settings_are_not_paired():
    results = study([0.5] * 5, [0.5] * 5, items=50)
    other = [
        type(r)(**{**vars(r), "run": type(r.run)(**{**vars(r.run), "training": {"epochs": 9}})})
        if r.run.strategy == "single"
        else r
        for r in results
    ]
    assert conflicts.conflicts(other, FAST) == []


def test_one_pair_is_compared_and_has_no_crossing():
    (found,) = conflicts.conflicts(study([0.3] * 5, [0.5] * 5)[:2], FAST)
    assert found.reading == "mixing helps"
    assert found.crossing is None
    (first, *_) = conflicts.table(study([0.3] * 5, [0.5] * 5)[:2], FAST)
    assert first.notes[0] == "math (exact_answer), compared at one amount alone: mixing helps."
    assert "1 amount is too few" in found.refusal


def test_nothing_to_pair_says_what_to_add(result):
    (found,) = conflicts.table([result("multi_task", "math", "1101")], FAST)
    assert "Add {strategy: single" in found.notes[0]


def ratios(own, other, items=1500, bend=0.0, seed=0):
    """Math and general: their accuracies grow by `own` with a doubling of their own rows, by `other` with the rest.

    `bend` adds a part that leaves both ends where they are, so that no straight line holds.
    """
    runs = []
    for special, general in [(s, 1) for s in SHARES] + [(1, s) for s in SHARES[:-1]]:
        rows = {"math": int(2560 * special), "general": int(2560 * general)}
        params = {"general": "general", "special_share": special, "general_share": general}
        logs = {name: np.log2(n / 2560) for name, n in rows.items()}
        level = {
            "math": 0.7 + own * logs["math"] + other * logs["general"],
            "general": 0.7 + own * logs["general"] + other * logs["math"],
        }
        middle = bend * (0 < -logs["math"] - logs["general"] < 8)
        level = {name: value + middle for name, value in level.items()}
        runs.append((planted.run(f"r {special} {general}", rows, strategy="ratio", params=params), level))
    return planted.results(runs, items, seed)


def test_amount_matters_more_than_ratio_where_it_was_planted():
    found = ratio_effect.contrasts(ratio_effect.effects(ratios(0.05, 0.002), ratio_effect.Params(resamples=2000)))
    assert [each.reading for each in found] == ["amount", "amount"]
    assert found[0].own == pytest.approx(0.05, abs=0.01)


def test_amount_and_ratio_are_compared_where_no_straight_line_holds():
    effects = ratio_effect.effects(ratios(0.04, 0.0, bend=0.2), ratio_effect.Params(resamples=2000))
    assert not any(each.fitted.holds for each in effects)
    found = ratio_effect.contrasts(effects)
    assert [each.reading for each in found] == ["amount", "amount"]
    assert all(each.low < 0.04 < each.high and each.low > 0 for each in found)


def test_amount_minus_ratio_lies_in_its_interval_about_95_times_in_100():
    inside = 0
    for number in range(100):
        results = ratios(0.05, 0.01, items=100, bend=0.1, seed=number)
        found = ratio_effect.contrasts(ratio_effect.effects(results, ratio_effect.Params(resamples=2000)))
        inside += sum(each.low <= 0.04 <= each.high for each in found)
    assert 0.90 <= inside / 200 <= 0.98


def test_ratio_matters_more_where_it_was_planted():
    found = ratio_effect.contrasts(ratio_effect.effects(ratios(0.002, 0.05), ratio_effect.Params(resamples=2000)))
    assert [each.reading for each in found] == ["ratio", "ratio"]


def test_each_setup_says_what_was_held_and_what_grew():
    tables = ratio_effect.table(ratios(0.05, 0.0), ratio_effect.Params(resamples=2000))
    assert {row["setup"] for row in tables[1].rows} == {
        "2,560 general rows held, special grows",
        "2,560 special rows held, general grows",
    }
    own = {(row["setup"], row["ability"]): row["what grows is"] for row in tables[1].rows}
    assert own["2,560 general rows held, special grows", "math"] == "its own data"
    assert own["2,560 general rows held, special grows", "general"] == "the others' data"


def test_without_a_general_source_the_ratio_has_no_sides():
    (found,) = ratio_effect.table(study([0.5] * 5, [0.5] * 5, items=50), ratio_effect.Params())
    assert "Nothing to compare" in found.notes[0]


def test_differences_without_noise_have_no_crossing_and_no_warning():
    (found,) = conflicts.conflicts(study([0.0] * 5, [1.0] * 5, items=50), FAST)
    assert found.crossing is None


def test_differences_that_follow_no_line_say_between_which_amounts_the_sign_changes():
    alone, mixed = [0.3, 0.5, 0.5, 0.5, 0.5], [0.6, 0.51, 0.49, 0.49, 0.49]
    (found,) = conflicts.conflicts(study(alone, mixed, items=4000), FAST)
    assert not found.crossing.holds
    assert (found.crossing.low, found.crossing.high) == (None, None)
    assert conflicts.crossing_words(found.crossing).endswith("no straight line")


def test_amounts_at_which_nothing_is_solved_leave_the_crossing_without_a_line():
    """0 of 30 in both runs, resampled, is 0 of 30 again: such an amount would pin the line where least is known."""
    (found,) = conflicts.conflicts(study([0.0, 0.0, 0.0, 0.3, 0.6], [0.0, 0.0, 0.1, 0.5, 0.9], items=30), FAST)
    assert found.crossing is None
    assert "at 10 rows the difference is the same on every item" in found.refusal


def test_an_end_at_which_nothing_is_solved_leaves_amount_and_ratio_uncompared():
    effects = ratio_effect.effects(ratios(0.0875, 0.0), ratio_effect.Params(resamples=2000))
    assert {each.own for each in effects if each.mean is None} == {True}
    (first, *_) = ratio_effect.table(ratios(0.0875, 0.0), ratio_effect.Params(resamples=2000))
    assert any("at an end of one of them every item has the same score" in note for note in first.notes)


def test_a_tie_by_the_corrected_p_says_so_where_its_own_interval_leaves_out_0():
    from cuvee.analyses import _verdict, _verdict_words
    from cuvee.analyses._stats import Comparison

    both = Comparison(0.089, 0.030, 0.148, 0.01, 0.03, 300, "permutation", None, (0.089,))
    to = _verdict.Measure("exact_answer", "math", "accuracy", True).scale
    words = _verdict_words._against([_verdict.Against("x", both, 0.9, 0.05)], to, 91)
    assert (
        words[0] == "not separable from x (difference +8.9 points, 95 % +3.0..+14.8 before the correction for 91 pairs)"
    )


def test_whole_rows_of_the_smallest_share_do_not_break_a_curve():
    """510 and 514 rows at 1/256 are 2 rows and 1: out of proportion only because rows are whole."""
    runs = []
    for share, a, m in zip(SHARES, [0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.3, 0.4, 0.5, 0.6], strict=True):
        rows = {"math": max(1, int(514 * share)), "code": max(1, int(510 * share))}
        runs.append((planted.run(f"alone {share}", {"math": rows["math"]}), {"math": a}))
        runs.append((planted.run(f"mix {share}", rows, strategy="multi_task", params={"share": share}), {"math": m}))
    (found,) = conflicts.conflicts(planted.results(runs, 500), FAST)
    assert len(found.tests) == 5


def test_runs_whose_sources_do_not_grow_alike_are_compared_one_by_one():
    runs = []
    for math, code in ((100, 1000), (1000, 100)):
        runs.append((planted.run(f"alone {math}", {"math": math}), {"math": 0.3}))
        mixed = planted.run(f"mix {math}", {"math": math, "code": code}, strategy="multi_task", params={"share": 1})
        runs.append((mixed, {"math": 0.6}))
    found = conflicts.conflicts(planted.results(runs, 500), FAST)
    assert [len(each.tests) for each in found] == [1, 1]
    (first, *_) = conflicts.table(planted.results(runs, 500), FAST)
    assert first.notes[0] == "math (exact_answer), compared 2 times at one amount each: mixing helps (2)."


def test_amount_and_ratio_go_by_the_setups_that_hold_most():
    """Beside 8 rows of its own that are held, other rows move an ability far more than beside all of them."""
    few = []
    for other in (10, 100, 1000):
        params = {"general": "general", "special_share": other, "general_share": "few"}
        info = planted.run(f"few {other}", {"math": other, "general": 8}, strategy="ratio", params=params)
        few.append((info, {"math": 0.5, "general": 0.1 + 0.1 * np.log2(other / 10)}))
    whole = ratio_effect.effects(ratios(0.05, 0.002), ratio_effect.Params(resamples=2000))
    both = [*ratios(0.05, 0.002), *planted.results(few, 1500, 1)]
    with_few = ratio_effect.effects(both, ratio_effect.Params(resamples=2000))
    assert len(with_few) > len(whole)
    readings = [(each.reading, each.own, each.ratio) for each in ratio_effect.contrasts(with_few)]
    assert readings == [(each.reading, each.own, each.ratio) for each in ratio_effect.contrasts(whole)]

"""p values of option order are exact, the threshold has its stated rate, and what sources hold stands beside scores."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy import stats

from cuvee.analyses import leakage
from cuvee.protocols import Result, RunInfo


def result(ranks: list[int], orders: int = 24, outliers: list[float] | None = None, stage: int = 1) -> Result:
    extra = {"rank": ranks, "orders": [orders] * len(ranks), "outlier": outliers or [0.0] * len(ranks)}
    scores = [float(rank == 0) for rank in ranks]
    return Result(
        RunInfo("mixed", "multi_task", {}, "base", 0),
        *(stage, "math", stage > 0, "option_order", "published order first", "leakage", False),
        *([f"i{n}" for n in range(len(ranks))], scores, [1.0] * len(ranks), len(ranks), extra, f"s{stage}"),
    )


def test_p_is_the_binomial_tail_where_all_items_have_as_many_orders() -> None:
    for hits in (0, 1, 3, 7, 40):
        exact = stats.binom.sf(hits - 1, 40, 1 / 24)
        assert leakage.p_value(hits, np.full(40, 1 / 24)) == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_p_is_exact_for_items_with_several_numbers_of_orders() -> None:
    chances = np.array([1 / 2, 1 / 6, 1 / 24])
    for hits in range(4):
        total = 0.0
        for coins in itertools.product((0, 1), repeat=3):
            if sum(coins) >= hits:
                total += math.prod(c if heads else 1 - c for c, heads in zip(chances, coins, strict=True))
        assert leakage.p_value(hits, chances) == pytest.approx(total)


def test_under_the_null_five_of_a_hundred_are_flagged_at_most() -> None:
    draw = np.random.default_rng(5)
    rates = {"first": 0, "rank": 0}
    for _ in range(600):
        ranks = draw.integers(0, 24, 50)
        orders = np.full(50, 24.0)
        rates["first"] += leakage.p_value(int((ranks == 0).sum()), 1 / orders) <= 0.05
        rates["rank"] += leakage.mean_rank(ranks.astype(float), orders)[1] <= 0.05
    assert rates["first"] / 600 <= 0.06
    assert 0.03 <= rates["rank"] / 600 <= 0.075


def test_a_control_of_its_own_kind_exceeds_the_threshold_at_the_stated_rate() -> None:
    draw, beyond = np.random.default_rng(7), 0
    for _ in range(400):
        beyond += int((draw.normal(size=50) > leakage.threshold(draw.normal(size=80), 0.05)).sum())
    assert 0.04 <= beyond / (400 * 50) <= 0.055
    assert leakage.threshold(np.arange(5.0), 0.05) == math.inf


def test_a_leaked_half_is_seen_beside_the_base() -> None:
    draw = random.Random(3)
    clean = [draw.randrange(24) for _ in range(40)]
    outliers = [draw.gauss(2, 0.5) for _ in range(40)]
    leaked = result([0] * 20 + clean[20:], outliers=[9.0] * 20 + outliers[20:])
    base = result(clean, outliers=outliers, stage=0)
    (table,) = leakage.table([base, leaked], leakage.Params())
    first, second = table.rows
    assert (first["run"], second["run"]) == ("base (untrained)", "mixed")
    assert second["p"] < 1e-10 < first["p"]
    assert second["p against the base"] < 1e-4
    assert second["stands out"].startswith(("20/40", "21/40"))


def test_scenario_b_is_not_shown_without_a_control() -> None:
    (table,) = leakage.table([result([3, 4, 0])], leakage.Params())
    assert not any("stands out" in column for column in table.columns)
    assert any("28 to 63 %" in note for note in table.notes)


def test_scores_stand_beside_what_the_sources_hold() -> None:
    run = RunInfo("mixed", "multi_task", {}, "base", 0)
    held = {"held_by_sources": [True, True, False, False]}
    one = Result(
        run,
        *(1, "math", True, "mmlu", "accuracy", "knowledge", True),
        *(list("abcd"), [1.0, 1.0, 0.0, 1.0], [1.0] * 4, 4, held, "s"),
    )
    (table,) = leakage.table([one], leakage.Params())
    (row,) = table.rows
    shown = (row["items held by the sources"], row["score on them"], row["score on the others"])
    assert shown == ("2/4", "100.0", "50.0")


def test_that_the_sources_hold_none_is_shown_too() -> None:
    run = RunInfo("mixed", "multi_task", {}, "base", 0)
    held = {"held_by_sources": [False, False]}
    one = Result(
        run, *(1, "math", True, "mmlu", "accuracy", "knowledge", True), ["a", "b"], [1.0, 0.0], [1.0] * 2, 2, held
    )
    (table,) = leakage.table([one], leakage.Params())
    (row,) = table.rows
    shown = (row["items held by the sources"], row["score on them"], row["score on the others"])
    assert shown == ("0/2", "", "50.0")


def test_what_nobody_looked_at_is_shown_as_not_checked() -> None:
    run = RunInfo("mixed", "multi_task", {}, "base", 0)
    held: dict[str, list[bool | None]] = {"held_by_sources": [None, None]}
    one = Result(
        run, *(1, "math", True, "arc_easy", "accuracy", "general", True), ["a", "b"], [1.0, 0.0], [1.0] * 2, 2, held
    )
    (table,) = leakage.table([one], leakage.Params())
    (row,) = table.rows
    shown = (row["items held by the sources"], row["score on them"], row["score on the others"], row["score on all"])
    assert shown == ("not checked", "", "", "50.0")
    assert table.notes[-1].startswith("Not checked: ")


def test_nothing_is_shown_where_nothing_was_measured() -> None:
    assert list(leakage.table([], leakage.Params())) == []

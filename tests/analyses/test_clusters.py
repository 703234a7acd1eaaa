"""Items that share a question are one unit of chance: standard errors, tests and counts."""

from __future__ import annotations

import numpy as np
import pytest

from cuvee.analyses import scores
from cuvee.analyses._stats import compare, estimate, mcnemar_p, sample


def pairs(number: int) -> list[str]:
    return [f"q{place // 2:04d}" for place in range(number)]


def test_items_of_one_question_count_as_items_and_vary_together(result):
    apart = estimate(sample([result("a", "math", "1100" * 10)]))
    together = estimate(sample([result("a", "math", "1100" * 10, extra={"cluster": pairs(40)})]))
    assert (together.value, together.hits, together.trials, together.n) == (0.5, 20, 40, 40)
    assert apart.se == pytest.approx(np.sqrt(0.25 / 40))
    assert together.se == pytest.approx(np.sqrt(0.25 / 19)), "twenty questions, not forty items"


def test_clusters_of_one_change_nothing(result):
    plain = result("a", "math", "1101")
    named = result("a", "math", "1101", extra={"cluster": ["a", "b", "c", "d"]})
    assert estimate(sample([named])) == estimate(sample([plain]))
    assert sample([named]).items == sample([plain]).items


def test_a_comparison_flips_whole_questions(result):
    new = sample([result("a", "math", "11" * 8 + "00" * 8, extra={"cluster": pairs(32)})])
    old = sample([result("b", "math", "00" * 16, extra={"cluster": pairs(32)})])
    both = compare(new, old)
    assert both.p == pytest.approx(mcnemar_p(8, 0)), "eight questions, not sixteen items"
    assert both.difference == 0.5


def test_intervals_over_questions_cover_about_95_times_in_100_and_intervals_over_items_do_not(result):
    random, hits, naive, rounds, questions = np.random.default_rng(5), 0, 0, 400, 60
    for _ in range(rounds):
        ease = random.beta(1, 1, questions)
        values = (random.random(questions * 4) < np.repeat(ease, 4)).astype(float)
        names = [f"q{place // 4:03d}" for place in range(questions * 4)]
        found = estimate(sample([result("a", "math", values, extra={"cluster": names})]))
        wrong = estimate(sample([result("a", "math", values)]))
        hits += found.low <= 0.5 <= found.high
        naive += wrong.low <= 0.5 <= wrong.high
    print(f"coverage over questions {hits / rounds:.3f}, over items {naive / rounds:.3f}")
    assert 0.92 <= hits / rounds <= 0.98
    assert naive / rounds < 0.88


def test_wilsons_interval_covers_about_95_times_in_100():
    from cuvee.analyses._stats import wilson

    random = np.random.default_rng(6)
    found = {}
    for n in (50, 164, 1319):
        for p in (0.05, 0.15, 0.5):
            ends = {hits: wilson(hits, n) for hits in range(n + 1)}
            draws = random.binomial(n, p, 4000)
            found[n, p] = float(np.mean([ends[hits][0] <= p <= ends[hits][1] for hits in draws.tolist()]))
    print(found)
    assert all(0.93 <= coverage <= 0.975 for coverage in found.values()), found


def test_the_table_says_that_items_are_fewer_questions_and_that_code_was_not_isolated(result):
    given = [
        result(
            "multi_task",
            "code",
            "1100",
            extra={"cluster": pairs(4), "unread": [0, 0, 1, 1], "cut": [0, 1, 0, 0], "isolated": [False] * 4},
        )
    ]
    tables = scores.table(given, scores.Params(resamples=2000))
    notes = " ".join(note for table in tables for note in table.notes)
    assert "4 items are 2 different questions" in notes
    assert "ran WITHOUT a sandbox" in notes
    (row,) = tables[-1].rows
    assert (row["without an answer"], row["cut"], row["isolated"], row["items"]) == (2, 1, False, 4)


def test_runs_measured_on_other_items_are_named_and_not_compared(result):
    given = [result("a", "math", "1111"), result("b", "math", "0000", items=["w", "x", "y", "z"])]
    notes = " ".join(note for table in scores.table(given, scores.Params(resamples=2000)) for note in table.notes)
    assert "the runs were not measured on the same items, so their numbers are not compared" in notes


def test_published_standard_errors_of_one_score(result):
    """GSM8K 47 % of 1,319 is 1.37 points, HumanEval 15 % of 164 is 2.79; 50 % of 165 is 3.89."""
    for n, share, points in ((1319, 0.47, 1.37), (164, 0.15, 2.79), (165, 0.5, 3.89)):
        right = round(n * share)
        found = estimate(sample([result("a", "math", "1" * right + "0" * (n - right))]))
        assert found.se is not None
        assert 100 * found.se == pytest.approx(points, abs=0.02)

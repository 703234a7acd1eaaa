from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cuvee.analyses import _bootstrap, _chance, _flips, _stats
from cuvee.analyses._stats import compare, compare_all, estimate, holm, sample
from cuvee.errors import UsageError


def test_an_accuracy_is_m_of_n_with_binomial_standard_error_and_wilsons_interval(result):
    found = estimate(sample([result("a", "math", "1" * 41 + "0" * 59)]))
    expected = stats.binomtest(41, 100).proportion_ci(method="wilson")
    assert (found.hits, found.trials, found.value) == (41, 100, 0.41)
    assert found.se == pytest.approx((0.41 * 0.59 / 100) ** 0.5)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilsons_interval_agrees_with_scipy_and_holds_the_mean(hits, more):
    n = hits + more
    low, high = _stats.wilson(hits, n)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low <= hits / n <= high


def test_a_loss_is_the_loss_per_token_not_per_row(result):
    found = estimate(sample([result("a", "math", [1.0, 3.0], evaluator="heldout_loss", weights=[30, 10])]))
    assert found.value == pytest.approx((30 * 1.0 + 10 * 3.0) / 40)


def test_with_equal_weights_the_ratio_estimator_is_the_textbook_standard_error(result):
    values = np.random.default_rng(0).normal(2, 0.5, 50)
    found = estimate(sample([result("a", "math", values, evaluator="heldout_loss")]))
    assert found.se == pytest.approx(stats.sem(values))
    low, high = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_intervals_of_a_weighted_loss_cover_the_truth_about_95_times_in_100(result):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        weights = rng.integers(5, 100, 40).astype(float)
        values = 1 + 0.004 * weights + rng.normal(0, 0.3, 40)  # long rows lose more: a true ratio, not a mean
        found = estimate(sample([result("a", "x", values, evaluator="heldout_loss", weights=weights.tolist())]))
        lengths = np.arange(5, 100)
        truth = (lengths * (1 + 0.004 * lengths)).sum() / lengths.sum()
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_several_answers_to_one_item_are_one_unit_of_chance(result):
    one = sample([result("a", "math", "10", items=["q", "r"])])
    twice = sample([result("a", "math", "1100", items=["q", "q", "r", "r"])])
    assert twice.items == one.items
    assert twice.value == one.value
    assert estimate(twice).n == 2


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(up, down):
    expected = stats.binomtest(up, up + down, 0.5).pvalue if up + down else 1.0
    assert _stats.mcnemar_p(up, down) == pytest.approx(expected)


def test_a_paired_comparison_of_accuracies_counts_who_solved_what(result):
    new, old = sample([result("new", "math", "1111100000")]), sample([result("old", "math", "0000110000")])
    found = compare(new, old)
    assert found.method == "mcnemar"
    assert found.discordant == (4, 1)
    assert found.difference == pytest.approx(0.3)
    assert found.p == pytest.approx(stats.binomtest(4, 5, 0.5).pvalue)


def test_items_may_come_in_any_order(result):
    new = sample([result("new", "math", "110", items=["c", "a", "b"])])
    old = sample([result("old", "math", "010", items=["b", "c", "a"])])
    assert compare(new, old).discordant == (1, 0)


def test_different_items_are_refused_with_numbers(result):
    new = sample([result("new", "math", "11", items=["a", "b"])])
    old = sample([result("old", "math", "111", items=["a", "c", "d"])])
    with pytest.raises(UsageError, match=r"1 only in the first, 2 only in the second \(such as b, c\)"):
        compare(new, old)


def test_different_weights_are_refused_because_another_tokenizer_has_another_scale(result):
    new = sample([result("new", "math", [1.0, 2.0], evaluator="heldout_loss", weights=[10, 10])])
    old = sample([result("old", "math", [1.0, 2.0], evaluator="heldout_loss", weights=[10, 12])])
    with pytest.raises(UsageError, match="weigh 1 of the same items differently"):
        compare(new, old)


def test_a_missing_score_is_an_error_and_never_a_number(result):
    with pytest.raises(UsageError, match="1 scores are missing"):
        sample([result("a", "math", [1.0, float("nan")])])
    with pytest.raises(UsageError, match=r"a \(stage 1, exact_answer, math\): 1 scores are missing"):
        sample([result("a", "math", [1.0, 1.0], weights=[1.0, float("inf")])])


def test_nothing_has_no_mean(result):
    with pytest.raises(UsageError, match="no results at all"):
        sample([])
    with pytest.raises(UsageError, match="no items that count"):
        sample([result("a", "math", [])])


def test_the_bootstrap_agrees_with_the_paired_t_interval(result):
    rng = np.random.default_rng(2)
    old, gain = rng.normal(2, 0.5, 400), rng.normal(-0.02, 0.2, 400)
    found = compare(
        sample([result("new", "x", old + gain, evaluator="heldout_loss")]),
        sample([result("old", "x", old, evaluator="heldout_loss")]),
    )
    low, high = stats.t.interval(0.95, 399, gain.mean(), stats.sem(gain))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    assert found.p == pytest.approx(stats.ttest_1samp(gain, 0).pvalue, abs=0.02)
    assert found.se == pytest.approx(stats.sem(gain), rel=0.03)


def test_bootstrap_intervals_cover_about_95_times_in_100_even_with_few_items(result):
    rng = np.random.default_rng(3)
    inside = 0
    for number in range(400):
        draws = _bootstrap.resampled_means(rng.normal(0.3, 1, (15, 1)), np.ones(15), 2000, [number])
        low, high, _ = _bootstrap.draws_interval(draws[:, 0] - 0.3)
        inside += low <= 0 <= high
    assert 0.92 <= inside / 400 <= 0.98


def flips(moves, draws=10_000, number=0):
    """The p of one comparison from its items' differences."""
    both = np.column_stack([moves, np.zeros(len(moves))])
    (p,) = _flips.sign_flip(both, [(0, 1)], draws, [number])
    return p


@given(st.integers(0, 30), st.integers(0, 30))
def test_sign_flips_of_0_and_1_are_mcnemars_test(up, down):
    moves = np.array([1.0] * up + [-1.0] * down + [0.0] * 10) / 70
    assert flips(moves) == pytest.approx(_stats.mcnemar_p(up, down))


def test_sign_flips_agree_with_scipy_on_all_signs():
    moves = np.random.default_rng(0).normal(0.4, 1, 12)
    expected = stats.permutation_test((moves,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert flips(moves) == pytest.approx(expected)


def test_drawn_signs_agree_with_all_signs():
    moves = np.random.default_rng(0).normal(0.5, 1, 14)
    both = np.column_stack([moves, np.zeros(14)])
    (drawn,) = _flips._drawn(both, [(0, 1)], 40_000, [0])
    assert drawn == pytest.approx(flips(moves), abs=0.006)


def test_the_p_of_random_signs_is_never_0_and_hangs_on_the_seed_alone():
    moves = np.linspace(1, 2, 60)
    assert flips(moves) == 1 / 10_001
    assert flips(np.linspace(1, 2, 3000)) == 1 / 10_001  # far too many sums to count, and no overflow
    rough = np.random.default_rng(0).normal(0.2, 1, 60)
    assert flips(rough) == flips(rough)
    assert flips(rough) != flips(rough, number=1)


def test_several_seeds_of_0_and_1_keep_their_level_with_few_discordant_items(result):
    """Two equal models whose three seeds now and then differ on one of a few items."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(250):
        new, old = [], []
        for seed in range(3):
            shared = rng.random(40) < 0.5
            flip = np.arange(40) < 5
            coin = rng.random((2, 40)) < 0.5
            for name, own, found in (("new", coin[0], new), ("old", coin[1], old)):
                found.append(result(name, "x", np.where(flip, own, shared).astype(float), seed=seed))
        both = compare(sample(new), sample(old), resamples=2000)
        assert both.method == "permutation"
        wrong += both.p < 0.05
    assert wrong / 250 <= 0.07


def test_sign_flips_find_what_the_t_test_finds():
    rng = np.random.default_rng(11)
    draws = rng.normal(0.3, 1, (200, 100))
    found = np.mean([flips(row, 2000) < 0.05 for row in draws])
    assert found >= np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) - 0.03
    assert found >= 0.75


def test_a_weighted_loss_flips_what_each_item_adds_to_the_mean(result):
    new = sample([result("new", "x", [2.0, 1.0, 1.0], evaluator="heldout_loss", weights=[100, 1, 1])])
    old = sample([result("old", "x", [1.0, 2.0, 2.0], evaluator="heldout_loss", weights=[100, 1, 1])])
    # |100 - 1 - 1| = 98: of eight sums +-100 +-1 +-1 all but none are as far out.
    assert compare(new, old).p == 1.0


def test_without_scipy_it_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[report\]'"):
        estimate(sample([result("a", "math", "1100")]))


def test_the_analyses_are_imported_without_scipy():
    code = (
        "import sys; sys.modules['scipy'] = None; "
        "from cuvee.analyses import forgetting, k_sweep, scores; print(scores.Params())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_mcnemars_interval_covers_about_95_times_in_100():
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(1000):
        up, down, _ = rng.multinomial(80, [0.15, 0.08, 0.77])
        low, high = _stats.bonett_price(up, down, 80)
        inside += low <= 0.07 <= high
    assert 0.93 <= inside / 1000 <= 0.98


def test_equal_arguments_give_equal_bootstraps_and_other_seeds_others(result):
    rng = np.random.default_rng(1)
    new = sample([result("new", "x", rng.random(30), evaluator="heldout_loss")])
    old = sample([result("old", "x", rng.random(30), evaluator="heldout_loss")])
    assert compare(new, old) == compare(new, old)
    assert compare(new, old, seed=1) != compare(new, old)


def test_comparing_together_and_one_by_one_is_the_same(result):
    rng = np.random.default_rng(1)
    made = [sample([result(f"r{i}", "x", rng.random(30), evaluator="heldout_loss")]) for i in range(3)]
    pairs = [(made[0], made[1]), (made[1], made[2])]
    for one, together in zip([compare(*pair) for pair in pairs], compare_all(pairs), strict=True):
        assert (one.low, one.high, one.p) == pytest.approx((together.low, together.high, together.p))


def test_many_pairs_hold_draws_by_model_and_equal_scores_differ_by_nothing(result, monkeypatch):
    """Of 200 models there are 19,900 pairs: draws by pair would take gigabytes."""
    rng, held = np.random.default_rng(2), []
    scores = [*rng.random((6, 30)), np.ones(30) / 3, np.ones(30) / 3]
    made = [sample([result(f"r{i}", "x", own, evaluator="heldout_loss")]) for i, own in enumerate(scores)]
    own = _bootstrap.resampled_means
    monkeypatch.setattr(_stats, "resampled_means", lambda *asked: (held.append(asked[0].shape[1]), own(*asked))[1])
    found = compare_all(list(combinations(made, 2)))
    assert held == [7]
    assert (found[-1].low, found[-1].high, found[-1].p) == (0.0, 0.0, 1.0)


def test_equal_models_do_not_differ(result):
    same = [result(name, "x", [0.3, 0.1, 0.7], evaluator="heldout_loss") for name in ("a", "b")]
    found = compare(sample([same[0]]), sample([same[1]]))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_single_item_supports_no_claim(result):
    new = sample([result("a", "x", [0.3], evaluator="heldout_loss")])
    old = sample([result("b", "x", [0.9], evaluator="heldout_loss")])
    assert compare(new, old).p == 1
    assert estimate(new).se is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_claims_below_5_of_100_families():
    p_values = np.random.default_rng(0).random((2000, 6))
    families = np.mean([min(holm(row.tolist())) < 0.05 for row in p_values])
    assert families == pytest.approx(0.05, abs=0.015)


def test_the_smallest_visible_difference_is_found_four_times_in_five(result):
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 1, 200)
    both = compare(
        sample([result("a", "x", noise, evaluator="heldout_loss")]),
        sample([result("b", "x", np.zeros(200), evaluator="heldout_loss")]),
    )
    shift = both.smallest()
    assert _stats.power_of(shift, both.se) == pytest.approx(0.8, abs=0.001)
    draws = rng.normal(shift, noise.std(ddof=1), (2000, 200))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_fewer_than_six_discordant_items_can_never_be_significant(result):
    found = compare(sample([result("a", "x", "0" * 100)]), sample([result("b", "x", "0" * 100)]))
    assert found.p == 1
    assert found.smallest() >= 6 / 100
    assert _stats.mcnemar_p(5, 0) > 0.05 > _stats.mcnemar_p(6, 0)


def test_seeds_are_averaged_item_by_item_and_their_spread_is_apart(result):
    found = estimate(sample([result("a", "math", "1100", seed=0), result("a", "math", "1110", seed=1)]))
    assert found.value == pytest.approx(5 / 8)
    assert (found.hits, found.trials, found.seeds) == (5, 8, 2)
    assert found.seed_sd == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert found.se == pytest.approx(stats.sem([1, 1, 0.5, 0]))


def test_seeds_with_other_items_are_refused(result):
    with pytest.raises(UsageError, match="not measured on the same items"):
        sample([result("a", "math", "11", seed=0), result("a", "math", "111", seed=1)])


def test_one_seed_against_the_sign_of_the_others_is_told(result):
    new = sample([result("new", "x", "1" * 9 + "0", seed=0), result("new", "x", "0" * 9 + "1", seed=1)])
    old = sample([result("old", "x", "1" * 4 + "0" * 6, seed=0), result("old", "x", "1" * 4 + "0" * 6, seed=1)])
    found = compare(new, old)
    assert found.by_seed == pytest.approx((0.5, -0.3))
    assert not found.one_direction


@pytest.mark.parametrize("n", [30, 120])
def test_a_computed_tail_is_the_enumerated_one(n):
    """Equal moves have a binomial sum, so the exact p is known far below what draws could show."""
    for ups in range(int(0.75 * n), n + 1, max(1, n // 12)):
        moves = np.concatenate([np.full(ups, 1.0), np.full(n - ups, -1.0)]) / 7
        exact, computed = _flips._enumerated(moves), float(_flips._tails(moves[None, :])[0])
        assert exact / 2.2 < computed < exact * 1.2


def test_a_computed_tail_of_unequal_moves_is_the_drawn_one():
    random = np.random.default_rng(0)
    moves = random.normal(0.25, 1, 60)
    signs = random.integers(0, 2, (400_000, 60)) * 2.0 - 1
    drawn = float((np.abs(signs @ moves) >= abs(moves.sum())).mean())
    assert float(_flips._tails(moves[None, :])[0]) == pytest.approx(drawn, rel=0.1)


def test_many_comparisons_ask_for_no_more_draws_than_the_most():
    assert _chance.draws_for(100) == 10_000
    assert _chance.draws_for(200) == 16_000
    assert _chance.draws_for(20_000) == _chance.MOST_DRAWS


def test_equal_0_and_1_scores_of_several_seeds_do_not_say_that_there_is_no_difference(result):
    """All wrong in both models and every seed: the next item may be right in one of them."""
    both = [sample([result(name, "x", "0" * 100, seed=seed) for seed in range(3)]) for name in ("new", "old")]
    found = compare(*both)
    assert (found.low, found.high) == pytest.approx(_stats.bonett_price(0, 0, 100))
    assert found.p == 1.0
    assert found.se > 0
    alone = estimate(both[0])
    assert (alone.low, alone.high) == pytest.approx(_stats.wilson(0, 100))


def test_few_differing_items_of_several_seeds_have_an_interval_that_covers(result):
    """Two seeds, 60 items of which about 2 are ever right: intervals hold the truth 95 times in 100 or more."""
    random = np.random.default_rng(4)
    inside = 0
    for _ in range(200):
        shared = random.random(60) < 0.04
        new = [result("new", "x", shared.astype(float), seed=seed) for seed in range(2)]
        old = [result("old", "x", np.zeros(60), seed=seed) for seed in range(2)]
        found = compare(sample(new), sample(old), resamples=2000)
        inside += found.low <= 0.04 <= found.high
    assert inside / 200 >= 0.93

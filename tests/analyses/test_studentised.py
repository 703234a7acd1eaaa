"""Sign flips over several abilities: exact against brute force, level and power where abilities pull apart."""

from itertools import product

import numpy as np
import pytest

from cuvee.analyses import _flips, _studentised
from cuvee.analyses._studentised import Stratum, studentised_flips


def strata(*moves, weights=None):
    """Two models whose differences on each ability are `moves`."""
    weights = weights or [np.ones(len(own)) for own in moves]
    return [
        Stratum(np.column_stack([own, np.zeros(len(own))]), np.asarray(each, float), [number])
        for number, (own, each) in enumerate(zip(moves, weights, strict=True))
    ]


def p_of(*moves, weights=None, draws=10_000):
    (p,) = studentised_flips(strata(*moves, weights=weights), [(0, 1)], draws)
    return p


@pytest.fixture
def fewer_draws(monkeypatch):
    monkeypatch.setattr(_studentised, "RESAMPLES", 2000)


def statistic(moves, weights):
    """|T| / sqrt(V) by its definition, item by item."""
    total = variance = 0.0
    for own, each in zip(moves, weights, strict=True):
        n, mean = len(own), float(each @ own / each.sum())
        total += mean / len(moves)
        variance += n / (n - 1) * float((each**2 * (own - mean) ** 2).sum()) / each.sum() ** 2 / len(moves) ** 2
    if total == 0:
        return 0.0
    return abs(total) / np.sqrt(variance) if variance > 1e-15 else np.inf


def by_brute_force(moves, weights):
    ends = np.cumsum([len(own) for own in moves])[:-1]
    flat = np.concatenate(moves)
    seen = statistic(moves, weights)
    drawn = [statistic(np.split(flat * signs, ends), weights) for signs in product([-1, 1], repeat=len(flat))]
    return float(np.mean([each >= seen * (1 - 1e-9) for each in drawn]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("number", range(5))
def test_all_signs_are_those_of_brute_force(number, weighted):
    rng = np.random.default_rng(number)
    moves = [rng.normal(0.5, 1, 6), rng.normal(-0.2, 2, 5)]
    weights = [rng.uniform(1, 9, len(own)) if weighted else np.ones(len(own)) for own in moves]
    assert p_of(*moves, weights=weights) == pytest.approx(by_brute_force(moves, weights))


@pytest.mark.parametrize("number", range(5))
def test_all_signs_of_0_and_1_are_those_of_brute_force(number):
    rng = np.random.default_rng(number)
    moves = [rng.integers(-1, 2, 6).astype(float), rng.integers(-1, 2, 5).astype(float)]
    assert p_of(*moves) == pytest.approx(by_brute_force(moves, [np.ones(6), np.ones(5)]))


@pytest.mark.parametrize("weighted", [False, True])
def test_random_signs_agree_with_all_signs(weighted, monkeypatch):
    rng = np.random.default_rng(0)
    moves = [rng.normal(0.7, 1, 8), rng.normal(0.2, 1, 7)]
    weights = [rng.uniform(1, 5, len(own)) if weighted else np.ones(len(own)) for own in moves]
    parts = [
        _studentised._Part(
            each.weights[:, None] * each.scores / each.weights.sum() / 2, each.weights / each.weights.sum(), [n]
        )
        for n, each in enumerate(strata(*moves, weights=weights))
    ]
    monkeypatch.setattr(_studentised, "_ENOUGH", 40_000)
    (drawn,) = _studentised._drawn(parts, _studentised._as_they_are(parts, [(0, 1)]), 40_000)
    assert drawn == pytest.approx(p_of(*moves, weights=weights), abs=0.008)


def test_one_ability_has_the_p_of_plain_flips():
    moves = np.random.default_rng(3).normal(0.4, 1, 12)
    (plain,) = _flips.sign_flip(np.column_stack([moves, np.zeros(12)]) / 12, [(0, 1)], 10_000, [0])
    assert p_of(moves) == pytest.approx(plain)


def test_few_discordant_items_claim_nothing():
    """Two items of one ability solved, none lost: signs are all alike in half of all cases."""
    assert p_of(np.array([1.0, 1.0] + [0.0] * 98), np.zeros(100)) == pytest.approx(0.5)
    assert p_of(np.zeros(50), np.zeros(50)) == 1.0


def test_each_ability_counts_the_same_however_many_items_it_has():
    small, large = np.array([1.0] * 4 + [0.0] * 6), np.array([-1.0] * 16 + [0.0] * 24)
    assert p_of(small, large) == 1.0
    assert p_of(small, np.where(np.arange(40) < 8, large, 0.0)) < 1.0


def test_opposite_abilities_do_not_hide_an_overall_difference():
    rng = np.random.default_rng(5)
    ahead, behind = rng.normal(1.0, 0.1, 200), rng.normal(-0.9, 0.1, 200)
    assert p_of(ahead, behind) < 1e-3
    (unstudentised,) = _flips.sign_flip(
        np.column_stack([np.concatenate([ahead, behind]), np.zeros(400)]) / 400, [(0, 1)], 10_000, [0]
    )
    assert unstudentised > 0.05


def test_level_holds_where_only_the_overall_difference_is_zero(fewer_draws):
    """Far ahead on one ability, as far behind on the other: no overall difference, so 5 in 100 are claimed."""
    rng = np.random.default_rng(6)
    claimed = [p_of(rng.normal(0.5, 0.3, 60), rng.exponential(0.5, 90) - 1.0, draws=2000) < 0.05 for _ in range(300)]
    assert 0.02 <= np.mean(claimed) <= 0.09


def test_level_holds_for_equal_models_of_unequal_abilities(fewer_draws):
    rng = np.random.default_rng(7)
    claimed = [
        p_of(rng.standard_t(3, 15), 5 * rng.normal(size=40), rng.integers(-1, 2, 30) * 1.0, draws=2000) < 0.05
        for _ in range(300)
    ]
    assert 0.02 <= np.mean(claimed) <= 0.09


def test_beyond_the_most_draws_the_tail_is_students():
    from scipy import stats

    rng = np.random.default_rng(8)
    moves = [rng.normal(0.5, 1, 120), rng.normal(0.5, 1, 120)]
    found = p_of(*moves, draws=20_000)
    assert 0 < found < 1e-6
    t = statistic(moves, [np.ones(120)] * 2)
    assert found == pytest.approx(2 * stats.t.sf(t, 238), rel=0.1)


def test_all_items_in_one_direction_are_as_far_out_as_can_be():
    """No spread within an ability: the statistic has no bound, and no number is divided by zero."""
    assert p_of(np.ones(60), np.ones(60), draws=20_000) == pytest.approx(4 * 2.0**-120)
    assert p_of(np.ones(4), np.ones(4)) == pytest.approx(4 / 256)


def test_an_ability_of_one_item_keeps_its_own_size_as_its_error():
    assert 0 < p_of(np.array([1.0]), np.linspace(0.5, 1.5, 8)) <= 1


def test_pairs_are_judged_apart_and_in_blocks_as_alone(monkeypatch):
    rng = np.random.default_rng(9)
    both = [Stratum(rng.normal(0, 1, (40, 6)) + np.arange(6) / 10, np.ones(40), [n]) for n in range(2)]
    pairs = [(a, b) for a in range(6) for b in range(a)]
    together = studentised_flips(both, pairs, 10_000)
    assert together == [studentised_flips(both, [pair], 10_000)[0] for pair in pairs]
    monkeypatch.setattr(_studentised, "CELLS", 4096)
    assert studentised_flips(both, pairs, 10_000) == together


def test_what_is_held_at_once_is_bounded_however_many_items_and_pairs(monkeypatch):
    rng = np.random.default_rng(10)
    both = [Stratum(rng.normal(size=(300, 12)), np.ones(300), [n]) for n in range(2)]
    pairs = [(a, b) for a in range(12) for b in range(a)]
    together, held = studentised_flips(both, pairs, 10_000), []
    own = _studentised._Part.moves
    monkeypatch.setattr(_studentised, "CELLS", 3_000)
    monkeypatch.setattr(_studentised._Part, "moves", lambda *asked: (held.append(own(*asked).size), own(*asked))[1])
    assert studentised_flips(both, pairs, 10_000) == pytest.approx(together, abs=0.02)
    assert max(held) <= 3_000

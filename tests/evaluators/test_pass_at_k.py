"""The estimator against published values, the product form and plain counting."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.errors import UsageError
from cuvee.evaluators._pass_at_k import mean_pass_at_k, pass_at_k

KNOWN = [
    (1, 0, 1, 0.0),
    (1, 1, 1, 1.0),
    (6, 3, 1, 0.5),
    (10, 3, 1, 0.3),
    (10, 3, 5, 11 / 12),
    (20, 3, 10, 17 / 19),
    (200, 10, 1, 0.05),
    (200, 1, 10, 0.05),
    (10, 5, 10, 1.0),
    (5, 1, 5, 1.0),
    (5, 0, 5, 0.0),
]


@pytest.mark.parametrize(("samples", "passed", "k", "value"), KNOWN)
def test_known_values_are_exact(samples: int, passed: int, k: int, value: float) -> None:
    assert pass_at_k(samples, passed, k) == value


def test_values_with_many_digits() -> None:
    assert pass_at_k(100, 50, 10) == pytest.approx(0.999406580327, abs=1e-12)
    assert pass_at_k(200, 20, 100) == pytest.approx(0.999999667831, abs=1e-12)


counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_it_is_the_product_form_to_rounding(case: tuple[int, int, int]) -> None:
    n, c, k = case
    product = 1.0 if n - c < k else 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))
    assert pass_at_k(n, c, k) == pytest.approx(product, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (7, 1, 2), (5, 5, 2)])
def test_it_is_the_share_of_draws_with_a_pass(n: int, c: int, k: int) -> None:
    draws = list(combinations(range(n), k))
    assert pass_at_k(n, c, k) == sum(min(draw) < c for draw in draws) / len(draws)


def test_the_mean_is_over_problems() -> None:
    assert mean_pass_at_k([(1, 1), (1, 0), (1, 0), (1, 1)], 1) == 0.5
    assert mean_pass_at_k([(4, 1), (2, 2)], 2) == (0.5 + 1) / 2


@pytest.mark.parametrize("case", [(5, 1, 6), (5, 1, 0), (0, 0, 1), (5, 6, 1), (5, -1, 1)])
def test_impossible_counts_are_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        pass_at_k(*case)


def test_a_mean_needs_enough_samples_of_each_problem() -> None:
    with pytest.raises(UsageError, match="pass@10 of 5 samples"):
        mean_pass_at_k([(10, 1), (5, 1)], 10)
    with pytest.raises(UsageError, match="no problems"):
        mean_pass_at_k([], 1)

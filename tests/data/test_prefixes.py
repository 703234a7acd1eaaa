from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.data import prefixes
from cuvee.data.shingles import BITS, Bags

SETS = st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=2, max_size=8)
THRESHOLDS = st.fractions(Fraction(1, 10), 1, max_denominator=10)


def bags_of(sets: list[set[int]]) -> Bags:
    # High bits, for a key keeps 44 of the 52.
    rows = [sorted(value << (BITS - 5) for value in one) for one in sets]
    return Bags(
        np.array([value for row in rows for value in row], dtype=np.uint64), np.cumsum([len(row) for row in rows])
    )


@given(SETS, THRESHOLDS, st.integers(1, 5))
def test_similar_sets_meet_in_their_prefixes_often_enough_whatever_is_called_rare(
    sets: list[set[int]], threshold: Fraction, scale: int
) -> None:
    bags = bags_of(sets)
    counts = (bags.hashes >> np.uint64(BITS - 5)) * np.uint64(scale) % np.uint64(7)
    rows, keys = prefixes.keys(bags, counts, threshold)
    prefix = [set(keys[rows == row].tolist()) for row in range(len(sets))]
    for one in range(len(sets)):
        for other in range(one):
            both = len(sets[one] & sets[other])
            if Fraction(both, len(sets[one] | sets[other])) >= threshold:
                met = len(prefix[one] & prefix[other])
                sizes = bags.sizes
                assert met
                assert prefixes.possible(np.array([met]), sizes[one], sizes[[other]], threshold).all()


@given(SETS)
def test_shared_elements_are_counted_for_many_sets_at_once(sets: list[set[int]]) -> None:
    bags = bags_of(sets)
    others = [bags.row(row) for row in range(1, len(sets))]
    assert prefixes.shared(bags.row(0), others).tolist() == [len(sets[0] & other) for other in sets[1:]]


def test_sizes_that_cannot_be_similar_are_not_compared() -> None:
    met = np.array([9, 9, 0])
    others = np.array([8, 7, 10])
    assert prefixes.possible(met, np.int64(10), others, Fraction(4, 5)).tolist() == [True, False, False]


def test_frequencies_are_never_below_the_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "_COUNTERS", 4)
    counts = prefixes.Frequencies()
    hashes = np.array([1, 1, 2, 5], dtype=np.uint64)
    counts.add(hashes)
    assert counts.of(hashes).tolist() == [3, 3, 1, 3]

"""Random choices hang on (seed, purpose, row, occurrence) and on nothing else."""

from __future__ import annotations

import statistics
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cuvee import seeds


def test_rank_is_the_same_in_every_process() -> None:
    assert seeds.rank(0, "subset", b"row") == 10397881967685648086


def test_seed_purpose_row_and_occurrence_all_count() -> None:
    found = {seeds.rank(0, "a", b"x"), seeds.rank(1, "a", b"x"), seeds.rank(0, "b", b"x"), seeds.rank(0, "a", b"y")}
    assert len(found | {seeds.rank(0, "a", b"x", 1)}) == 5


def test_ranks_are_uniform() -> None:
    draws = [seeds.rank(3, "subset", str(i).encode()) / 2**64 for i in range(20_000)]
    assert abs(statistics.fmean(draws) - 0.5) < 0.01
    assert abs(statistics.pstdev(draws) - 12**-0.5) < 0.01


@given(st.binary(), st.fractions(0, 1), st.fractions(0, 1))
def test_a_larger_fraction_only_adds_rows(row: bytes, one: Fraction, other: Fraction) -> None:
    small, large = sorted((one, other))
    assert not seeds.below(0, "heldout", row, small) or seeds.below(0, "heldout", row, large)


def test_fraction_zero_takes_none_and_one_takes_all() -> None:
    rows = [str(i).encode() for i in range(100)]
    assert not any(seeds.below(0, "heldout", row, Fraction(0)) for row in rows)
    assert all(seeds.below(0, "heldout", row, Fraction(1)) for row in rows)

"""Equal values have equal ids; what has no stable form is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee import canonical
from cuvee.runtime import Runtime

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def test_key_order_does_not_change_the_id() -> None:
    assert canonical.digest({"a": 1, "b": [2, 3]}) == canonical.digest({"b": (2, 3), "a": 1})


def test_one_and_one_point_zero_are_different() -> None:
    assert canonical.digest(1) != canonical.digest(1.0)


def test_true_is_not_one() -> None:
    assert canonical.digest(True) != canonical.digest(1)


def test_minus_zero_is_zero() -> None:
    assert canonical.digest(-0.0) == canonical.digest(0.0)


def test_a_fraction_is_written_in_lowest_terms() -> None:
    assert canonical.plain({"share": Fraction(2, 512)}) == {"share": "1/256"}


def test_the_id_is_the_same_in_every_version_of_the_program() -> None:
    assert canonical.digest({"a": [1, 2.5, "ä", None, True]}) == (
        "c0e4137d045902a9251f536ffb4bce14aea084b0600988b639353a1dfedadbe1"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, Path("x"), object(), b"x", {1: "a"}, Runtime()])
def test_what_has_no_stable_form_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"params\.x"):
        canonical.plain({"x": value}, "params")


@given(values)
def test_plain_data_keeps_its_id_when_made_plain_twice(value: object) -> None:
    assert canonical.digest(canonical.plain(value)) == canonical.digest(value)

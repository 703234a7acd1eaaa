"""Values cross between program and judge unchanged, and nothing that is sent can run code."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.sandbox.inside import wire

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False)
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.text())
    ),
    max_leaves=12,
)


def none_kept(value: object) -> int:
    raise AssertionError(f"{value!r} is no plain data")


def crossed(value: Any) -> Any:
    sent = wire.loads(wire.dumps(wire.encode(value, none_kept)))
    return wire.decode(sent, lambda number, kind: pytest.fail(f"{kind} {number} came out of plain data"))


@given(values)
def test_plain_data_crosses_unchanged(value: Any) -> None:
    assert crossed(value) == value
    assert type(crossed(value)) is type(value)


@pytest.mark.parametrize(
    "value",
    [float("inf"), 2**53, -(2**53), 1 << 20_000, "\ud800", int, {1: {(): {2}}}],
    ids=lambda value: type(value).__name__,
)
def test_corners_cross_unchanged(value: Any) -> None:
    assert crossed(value) == value
    assert type(crossed(value)) is type(value)


def test_the_sign_of_zero_crosses() -> None:
    assert str(crossed(-0.0)) == "-0.0"


def test_a_number_that_is_none_stays_one() -> None:
    assert crossed(float("nan")) != crossed(float("nan"))


def test_subclasses_cross_as_what_they_stand_for() -> None:
    point = namedtuple("point", "x y")
    given = [Counter("aab"), OrderedDict(a=1), point(1, 2), {"a": 1}.keys(), Fraction(1, 3), Decimal("0.10")]
    assert crossed(given) == [{"a": 2, "b": 1}, {"a": 1}, (1, 2), {"a"}, Fraction(1, 3), Decimal("0.10")]
    assert [type(part).__name__ for part in crossed(given)] == ["dict", "dict", "tuple", "set", "Fraction", "Decimal"]


def test_what_is_no_data_crosses_as_a_number() -> None:
    def keep(value: object) -> int:
        return 7

    assert wire.encode([map(str, [])], keep) == ["list", ["object", 7, "map"]]
    assert wire.decode(["list", ["object", 7, "map"]], lambda number, kind: (number, kind)) == [(7, "map")]


NONSENSE: list[Any] = [
    {}, [], ["no such type"], ["tuple", {}], ["int", 5], ["bytes", "xx"], ["Fraction", "0x1", "0x0"], ["dict", [1]],
    ["set", ["list"]], ["type", "object"], [["list"]], ["complex", "x", "y"],
]  # fmt: skip


@pytest.mark.parametrize("sent", NONSENSE)
def test_what_no_program_sends_is_refused(sent: Any) -> None:
    with pytest.raises(wire.Unfit):
        wire.decode(sent, lambda number, kind: None)


def test_lines_are_refused_that_are_no_messages() -> None:
    for line in (b"{", b"1", b"[" * 100_000 + b"\n", b"9" * 10_000 + b"\n"):
        with pytest.raises(wire.Unfit):
            wire.loads(line)
    with pytest.raises(wire.Unfit, match="more than"):
        wire.dumps("x" * wire.LONGEST)


def test_messages_are_json() -> None:
    assert json.loads(wire.dumps(wire.encode((1, {2.5}), none_kept))) == ["tuple", 1, ["set", 2.5]]

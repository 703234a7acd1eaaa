"""Precision is measured and spoken of, never chosen."""

from __future__ import annotations

import pytest

from cuvee import advice
from cuvee.runtime import Runtime


def test_what_is_faster_is_said_and_the_recipe_left_alone() -> None:
    found = advice.sentence({"float32": 0.1, "bfloat16": 1.4}, ["bfloat16"])
    assert "14.0 times as long" in found
    assert "training.precision=float32 would be faster" in found
    assert "another id" in found


def test_nothing_is_advised_where_the_recipe_has_the_faster_one_or_none_is() -> None:
    assert "would be" not in advice.sentence({"float32": 0.1, "bfloat16": 1.4}, ["float32"])
    assert "no clear difference" in advice.sentence({"float32": 0.1, "bfloat16": 0.109}, ["bfloat16"])


def test_both_precisions_are_timed() -> None:
    pytest.importorskip("torch")
    from cuvee.engine import precision

    found = precision.measure(Runtime(device="cpu", threads=1), rounds=1)
    assert sorted(found) == ["bfloat16", "float32"]
    assert all(seconds > 0 for seconds in found.values())

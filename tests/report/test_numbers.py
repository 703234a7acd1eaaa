from __future__ import annotations

import pytest

from cuvee.report.numbers import seconds, show


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("overall (points ↑)", 43.217, "43.2"),
        ("overall (nats/token ↓)", 1.23456, "1.235"),
        ("difference: leader minus run (points)", 1.26, "+1.3"),
        ("difference: leader minus run (points)", -0.0, "+0.0"),
        ("low (points)", -0.8, "-0.8"),
        ("p (Holm)", 0.00004, "< 0.001"),
        ("p (Holm)", 0.0312, "0.031"),
        ("rows", 110142, "110,142"),
        ("finished", True, "yes"),
        ("anything", None, "–"),
        ("seconds", 1234.5, "1,234"),
        ("value", 0.123456, "0.123"),
        ("value", float("inf"), "∞"),
    ],
)
def test_a_number_has_the_digits_its_column_asks_for(column, value, text):
    assert show(column, value) == text


@pytest.mark.parametrize(("value", "text"), [(0.42, "0.4 s"), (200, "3 min 20 s"), (7512, "2 h 05 min")])
def test_durations_are_words(value, text):
    assert seconds(value) == text

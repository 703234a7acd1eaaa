"""Verdicts are read and combined as the published code does, and what cannot be read is a counted failure."""

from __future__ import annotations

import pytest

from cuvee.evaluators import _verdicts
from cuvee.evaluators._verdicts import NoVerdict, first_line, mean_rating, outcome, preference, rating, win_rate
from cuvee.protocols import Judgement, Verdict

PUBLISHED = [
    ("Rating: [[5]]", 5.0, False),
    ("[[7.5]]", 7.5, False),
    ("[[7.]]", 7.0, False),
    ("[[10]]", 10.0, False),
    ("Rating: [8]", 8.0, True),
    ("[[8]] ... [[9]]", 8.0, False),
    ("see [1] ... [[6]]", 6.0, False),
    ("[[rating]] then [3]", 3.0, True),
    ("[[10/10]]", None, False),
    ("[[ 6 ]]", None, False),
    ("[[-1]]", None, False),
    ("Rating: 8", None, False),
]
"""Texts with what FastChat's code reads (-1 is None here), and whether only its fallback does."""


def verdict(value: float | str | None, order: str = "", repeat: int = 0, fallback: bool = False) -> Verdict:
    return Verdict("x", 1, order, repeat, value, "" if value is not None else "unreadable", fallback)


def said(text: str | None, format: str = "[[rating]]", finish: str = "stop", failure: str = "") -> Judgement:
    return Judgement("x", 1, "", 0, text, finish, failure, format)


@pytest.mark.parametrize(("text", "value", "fallback"), PUBLISHED)
def test_a_rating_is_read_as_published(text: str, value: float | None, fallback: bool) -> None:
    found = _verdicts.read(said(text), fallback=True)
    assert (found.value, found.fallback) == (value, fallback)
    assert (found.failure == "unreadable") == (value is None)


def test_without_the_fallback_a_source_in_brackets_is_no_rating() -> None:
    assert rating("as in [3]") == (3.0, True)
    with pytest.raises(NoVerdict, match="unreadable"):
        rating("as in [3]", fallback=False)


@pytest.mark.parametrize(
    ("text", "finish", "failure"),
    [
        ("[[007]]", "stop", "unreadable"),  # the published code stops here
        ("[[95]]", "stop", "out of scale"),  # the published code averages it in
        ("", "stop", "empty"),
        (" \n", "stop", "empty"),
        ("I cannot rate this.", "content_filter", "refused"),
        ("The assistant's answer begins", "length", "cut"),
        ("[[11]] and then more", "length", "out of scale"),
    ],
)
def test_an_answer_without_a_verdict_is_a_failure_with_its_reason(text: str, finish: str, failure: str) -> None:
    found = _verdicts.read(said(text, finish=finish), fallback=True)
    assert (found.value, found.failure) == (None, failure)


def test_a_request_that_failed_keeps_its_reason_and_is_no_rating() -> None:
    found = _verdicts.read(said(None, failure="no answer"), fallback=True)
    assert (found.value, found.failure) == (None, "no answer")
    assert mean_rating([found]) is None


@pytest.mark.parametrize(
    ("text", "format", "value", "fallback"),
    [
        ("so [[A]]", "[[A]]", "A", False),
        ("so [[B]]", "[[A]]", "B", False),
        ("so [[C]]", "[[A]]", "tie", False),
        ("not [[B]] but [[A]]", "[[A]]", "A", False),
        ("A is better", "[[A]]", None, False),
        ("[[8,7]]", "[[rating_a,rating_b]]", "A", False),
        ("[[7, 8]]", "[[rating_a,rating_b]]", "B", False),
        ("[[7.0,7.1]]", "[[rating_a,rating_b]]", "tie", False),
        ("[8,9.5]", "[[rating_a,rating_b]]", "B", True),
        ("[[80,7]]", "[[rating_a,rating_b]]", None, False),
        ("9 8.5\nBoth", "rating_a rating_b", "A", False),
        ("9, 9\nBoth", "rating_a rating_b", "tie", False),
        ("Nine.\n9 8", "rating_a rating_b", None, False),
    ],
)
def test_a_preference_is_read_as_published(text: str, format: str, value: str | None, fallback: bool) -> None:
    found = _verdicts.read(said(text, format), fallback=True)
    assert (found.value, found.fallback) == (value, fallback)


def test_the_first_line_of_a_review_holds_two_ratings() -> None:
    assert first_line("9 8.5\nBoth") == (9.0, 8.5)
    assert first_line("10, 7\n") == (10.0, 7.0)
    with pytest.raises(NoVerdict):
        first_line("9\n8")


@pytest.mark.parametrize(
    ("sides", "found", "score"),
    [
        (("ours", "ours"), "win", 1.0),
        (("other", "other"), "loss", 0.0),
        (("tie", "tie"), "tie", 0.5),
        (("ours", "other"), "inconsistent", 0.5),
        (("ours", "tie"), "inconsistent", 0.5),
        (("ours",), "win", 1.0),
        (("tie",), "tie", 0.5),
    ],
)
def test_only_what_both_orders_say_is_a_win(sides: tuple[str, ...], found: str, score: float) -> None:
    assert outcome(sides) == found
    assert _verdicts.SCORES[found] == score


def test_swapped_orders_are_turned_back_and_a_position_bias_is_counted() -> None:
    won = preference([verdict("A", "AB"), verdict("B", "BA")])
    assert won is not None
    assert (won.score, won.extra["win"], won.extra["first_preferred"]) == (1.0, 1, 1)
    biased = preference([verdict("A", "AB"), verdict("A", "BA")])
    assert biased is not None
    assert (biased.score, biased.extra["inconsistent"], biased.extra["first_preferred"]) == (0.5, 1, 2)


def test_a_comparison_with_one_unreadable_order_has_no_outcome() -> None:
    assert preference([verdict("A", "AB"), verdict(None, "BA")]) is None
    repeats = [verdict("A", "AB"), verdict(None, "BA"), verdict("B", "AB", 1), verdict("A", "BA", 1)]
    found = preference(repeats)
    assert found is not None
    assert (found.score, found.extra["loss"], found.extra["failed"]) == (0.0, 1, 1)


def test_repeats_are_averaged_and_their_spread_is_told_while_failures_are_left_out_and_counted() -> None:
    found = mean_rating([verdict(4.0), verdict(8.0, repeat=1, fallback=True), verdict(None, repeat=2)])
    assert found is not None
    assert found.score == 6.0
    assert found.extra["spread"] == pytest.approx(8**0.5)
    assert (found.extra["verdicts"], found.extra["failed"], found.extra["fallback"]) == (3, 1, 1)


def test_the_win_rate_counts_half_of_the_ties() -> None:
    assert win_rate({"win": 3, "tie": 1, "inconsistent": 1, "loss": 5}) == pytest.approx(0.4)

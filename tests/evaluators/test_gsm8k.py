"""GSM8K: the published readings, majority votes, replies that hold nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import pytest

from cuvee.errors import DataError, RecipeError
from cuvee.evaluators import _math_reader, gsm8k
from cuvee.protocols import Grade, Request, Response
from cuvee.recipe import validate
from cuvee.values import Example, Message

from .test_exact_answer import READINGS

MATH = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")


def graded(
    replies: str | Sequence[str], reference: str = "#### 72", reading: str = "number", majority: bool = False
) -> Grade:
    texts = [replies] if isinstance(replies, str) else replies
    responses = [Response(text, "stop") for text in texts]
    return gsm8k.grade(Request("x", (), reference), responses, {"reading": reading, "majority": majority})


@pytest.mark.parametrize(("text", "number", "string"), READINGS)
def test_replies_are_read_as_the_published_evaluators_read_them(
    text: str, number: float | None, string: str | None
) -> None:
    grade = graded(text, "#### 3")
    assert grade.extra["correct_as_number"] == (number == 3.0)
    assert grade.extra["correct_as_string"] == (string == "3")
    assert grade.extra["unread"] == (number is None)


def test_the_reading_decides_the_score() -> None:
    assert graded("#### 72.").score == 1.0
    assert graded("#### 72.", reading="string").score == 0.0
    assert graded("#### 72", reading="string").score == 1.0
    assert graded("#### 72.00005").score == 1.0
    assert graded("#### 72.001").score == 0.0


@MATH
@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so it is \\boxed{72}", True),
        ("so she has 72 apples", True),
        ("72 is not it, rather $73$", False),
        ("#### $72", True),
        ("first 73, then 72", True),
        ("$\\frac{144}{2}$", True),
    ],
)
def test_the_flexible_reading_takes_the_last_answer(text: str, right: bool) -> None:
    grade = graded(text, reading="flexible")
    assert (grade.score, grade.extra["correct_flexible"]) == (float(right), right)


@MATH
def test_a_reply_that_explodes_is_given_up_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_math_reader, "LONGEST_WAIT", 8.0)
    _math_reader.read("72", 72)
    grade = graded("$9^{9^{9^{9}}}$", reading="flexible")
    assert (grade.score, grade.extra["correct_as_number"]) == (0.0, 0)
    assert graded("so 72", reading="flexible").score == 1.0


def test_without_math_verify_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'cuvee\[math\]'"):
        graded("72", reading="flexible")


@pytest.mark.parametrize(
    ("replies", "score", "unread"),
    [
        (["#### 72", "#### 72", "#### 5"], 1.0, 0),
        (["#### 5", "#### 72", "#### 72", "#### 5"], 0.0, 0),  # a tie: first seen
        (["#### 72", "#### 5"], 1.0, 0),
        (["none", "none", "none", "#### 72"], 1.0, 3),  # invalid replies have no vote
        (["#### 1.5.2", "#### 1.5.2", "#### 72"], 1.0, 2),
        (["none", ""], 0.0, 2),
        (["#### 72.0", "#### 5", "#### 5", "#### 72"], 0.0, 0),  # votes are by text
    ],
)
def test_the_majority_votes_as_published(replies: list[str], score: float, unread: int) -> None:
    grade = graded(replies, majority=True)
    assert (grade.score, grade.extra["unread"], grade.extra["replies"]) == (score, unread, len(replies))


def test_several_replies_score_their_mean_and_count_what_could_not_be_read() -> None:
    grade = graded(["#### 72", "none", "#### 5", "#### 72"])
    assert (grade.score, grade.extra["unread"], grade.extra["replies"]) == (0.5, 1, 4)


@pytest.mark.parametrize("text", ["", "\x00", "\ud800 #### 5", "#### " + "1" * 1_000_000, "x" * 1_000_000])
def test_odd_replies_are_wrong_and_nothing_else(text: str) -> None:
    assert graded(text).score == 0.0
    assert graded([text, "#### 72"], majority=True).extra["replies"] == 2


def test_a_file_that_is_not_gsm8k_is_an_error_with_its_line() -> None:
    row = Example((Message("user", "q"), Message("assistant", "Paris")), (), "f.jsonl", 7)
    with pytest.raises(DataError, match=r"f.jsonl:7: the solution has no number after '#### '; is this GSM8K\?"):
        gsm8k.request(row, {})


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"samples": 4}, "samples: 4 without a temperature are all the same; add temperature"),
        ({"seed": 1}, "seed is for replies that are drawn"),
        ({"majority": True, "reading": "flexible"}, "majority votes by the number"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        validate(gsm8k.Params, {"path": "x", **params})

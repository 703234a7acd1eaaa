"""The published readings of GSM8K answers, and grading by them."""

from __future__ import annotations

import pytest

from cuvee.evaluators import exact_answer
from cuvee.protocols import Request, Response
from cuvee.values import Example, Message

# Text, the RFT evaluator's reading, the string reading of the original code where it differs
# (derived from the published expressions; see docs/papers.md).
READINGS = [
    ("#### 72", 72.0, "72"),
    ("#### 72.", 72.0, "72."),
    ("#### 1,234", 1234.0, "1234"),
    ("#### -5", -5.0, "-5"),
    ("#### $18", None, None),
    ("####18", None, None),
    ("####  18", None, None),
    ("####\n18", None, None),
    ("#### 18 dollars", 18.0, "18"),
    ("#### 3/4", 3.0, "3"),
    ("#### 5%", 5.0, "5"),
    ("#### 1e3", 1.0, "1"),
    ("#### 1.5.2", None, "1.5.2"),
    ("#### .", None, "."),
    ("#### ,", None, ""),
    ("#### -", None, None),
    ("#### 3\n#### 4", 3.0, "3"),
    ("no marker 7", None, None),
    ("#### 1,000,000.50", 1000000.5, "1000000.50"),
]


@pytest.mark.parametrize(("text", "number", "string"), READINGS)
def test_answers_are_read_as_published(text: str, number: float | None, string: str | None) -> None:
    found = exact_answer.extract(text)
    assert found == string
    assert exact_answer.as_number(found) == number


def graded(reply: str, reference: str, rule: str = "auto") -> tuple[float, bool, bool]:
    grade = exact_answer.grade(Request("x", (), reference), [Response(reply, "stop")], {"rule": rule})
    return grade.score, grade.extra["correct_as_string"], grade.extra["extracted"]


def test_a_trailing_point_is_right_as_a_number_and_wrong_as_a_string() -> None:
    assert graded("so #### 72.", "#### 72") == (1.0, False, True)


def test_a_reply_without_an_answer_scores_nothing_and_is_counted() -> None:
    assert graded("it is 72", "#### 72") == (0.0, False, False)
    assert graded("", "a word") == (0.0, False, False)


def test_the_rule_is_chosen_by_the_reference() -> None:
    assert graded("working 3+4 #### 7", "other working #### 7.0")[0] == 1.0
    assert graded(" Paris\n", "Paris")[0] == 1.0
    assert graded("paris", "Paris")[0] == 0.0
    assert graded("#### 7", "####seven")[0] == 0.0


def test_the_reference_itself_scores_full() -> None:
    for reference in ("x #### 1,234", "print(3)", "#### -7"):
        assert graded(reference, reference) == (1.0, True, True)


def test_an_item_is_the_first_question_of_a_conversation() -> None:
    turns = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "a2")]
    request = exact_answer.request(Example(tuple(Message(*turn) for turn in turns)), {})
    assert [message.content for message in request.messages] == ["s", "q"]
    assert request.reference == "a"

"""Turns as messages: what the formats share; each format's rows are in test_formats.py."""

from __future__ import annotations

import pytest

from cuvee.data import turns


@pytest.mark.parametrize("text", ["weather(Rom)", '{"name": "weather"', "[]", '{"city": "Rom"}', "5"])
def test_a_function_call_that_is_no_json_of_one_is_a_plain_answer_and_a_repair(text: str) -> None:
    repairs: list[str] = []
    found = [turns.sharegpt({"from": "function_call", "value": text}, repairs) for _ in range(2)]
    assert [(one.role, one.content, one.extra) for one in found] == [("assistant", text, {})] * 2
    assert repairs == [turns.CALL]


def test_a_function_call_as_json_is_no_repair() -> None:
    repairs: list[str] = []
    found = turns.sharegpt({"from": "function_call", "value": '[{"name": "weather"}]'}, repairs)
    assert (found.content, len(found.extra["tool_calls"]), repairs) == ("", 1, [])


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (5.0, "5.0"), (1e20, "1e+20")])
def test_a_number_as_question_and_one_as_answer_go_by_one_rule(value: float, text: str) -> None:
    repairs: list[str] = []
    assert turns.question(value, "question", repairs) == turns.answer(value, "answer", repairs) == text
    assert repairs == [turns.ASKED_NUMBER, turns.NUMBER]
    with pytest.raises(ValueError, match="question is inf, which JSON does not have"):
        turns.question(float("inf"), "question", repairs)


def test_a_boolean_as_question_is_written_as_in_json_and_counted_once() -> None:
    repairs: list[str] = []
    assert [turns.question(True, "prompt", repairs) for _ in range(2)] == ["true"] * 2
    assert repairs == [turns.ASKED_BOOLEAN]

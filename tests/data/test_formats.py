from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cuvee.data import files, formats
from cuvee.errors import DataError

EXAMPLES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "4"},
    "prompt_completion": {"query": "2 + 2?", "response": "4"},
    "question_answer": {"question": "2 + 2?", "answer": "4", "origin": "test"},
}


def turns(raw: dict[str, Any], format: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in formats.convert(raw, format)]


@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_format_is_told_by_looking_and_gives_the_same_conversation(format: str) -> None:
    raw = EXAMPLES[format]
    assert formats.detect([raw, {**raw, "id": 7}]) == format
    assert turns(raw, format) == [("user", "2 + 2?"), ("assistant", "4")]


def test_ids_do_not_depend_on_the_format_or_on_metadata() -> None:
    assert len({formats.example(raw, name, path=name).id for name, raw in EXAMPLES.items()}) == 1
    tagged = formats.example({**EXAMPLES["alpaca"], "topic": ["sum", "add"]}, "alpaca", tags="topic")
    assert tagged.tags == ("sum", "add")
    assert tagged.id == formats.example(EXAMPLES["alpaca"], "alpaca").id


def test_conversations_may_hold_roles_and_contents() -> None:
    raw = {"conversations": EXAMPLES["messages"]["messages"]}
    assert formats.detect([raw]) == "messages"
    assert turns(raw, "messages")[1] == ("assistant", "4")


def test_one_odd_row_among_many_does_not_change_the_format() -> None:
    assert formats.detect([{}, *[EXAMPLES["sharegpt"]] * 3, EXAMPLES["alpaca"]]) == "sharegpt"


def test_no_format_lists_the_keys_seen_and_the_formats_possible() -> None:
    with pytest.raises(DataError, match=r"keys problem, solution; possible: messages .*question_answer.*columns"):
        formats.detect([{"problem": "2 + 2?", "solution": "4"}])


@pytest.mark.parametrize(
    ("given", "user"),
    [("", "Add."), (" 5 ", "Add."), ("2, 2", "Add.\nInput:\n2, 2"), (None, "Add.")],
)
def test_alpaca_input_counts_from_two_characters_on_as_in_fastchat(given: str | None, user: str) -> None:
    assert turns({"instruction": "Add.", "input": given, "output": "4"}, "alpaca")[0] == ("user", user)


def test_alpaca_history_comes_first() -> None:
    raw = {"instruction": "And 3 + 3?", "input": "", "output": "6", "history": [["2 + 2?", "4"]]}
    assert [text for _, text in turns(raw, "alpaca")] == ["2 + 2?", "4", "And 3 + 3?", "6"]


def test_a_piece_that_starts_with_an_answer_is_repaired_and_says_so() -> None:
    raw = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "gpt", "value": "...went on."},
            {"from": "human", "value": "2 + 2?"},
            {"from": "gpt", "value": "4"},
            {"from": "human", "value": "Thanks"},
        ]
    }
    found = formats.example(raw, "sharegpt")
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert isinstance(found, formats.Repaired)
    assert found.repair == f"{formats.LEADING}; {formats.TRAILING}"


def test_tool_calls_go_into_extra_and_results_are_tool_turns() -> None:
    raw = {
        "tools": "[...]",
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rom"}}'},
            {"from": "observation", "value": '{"sky": "blue"}'},
            {"from": "gpt", "value": "Blue."},
        ],
    }
    messages, repair = formats.conversation(raw, "sharegpt")
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].extra["tool_calls"][0]["function"]["name"] == "weather"
    assert repair == formats.TOOLS


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    raw = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "4"}]}
    assert turns(raw, "messages")[0] == ("user", "2 + 2?")
    raw["messages"][0]["content"] = [{"type": "image", "url": "x"}]
    with pytest.raises(ValueError, match="content of a user turn is a list, not text"):
        formats.convert(raw, "messages")


@pytest.mark.parametrize(
    ("raw", "format", "reason"),
    [
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": "Hi"}, "messages", "messages is a str, not a list"),
        ({}, "messages", "no list of messages"),
        ({"messages": ["Hi"]}, "messages", "a message is a str"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages", "no assistant turn"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages", "unknown role 'wizard'"),
        ({"messages": [{"content": "Hi"}]}, "messages", "no role"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "sharegpt", "no user turn"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "sharegpt", "no assist"),
        ({"instruction": "Add", "input": "", "output": " "}, "alpaca", "an empty assistant turn"),
        ({"instruction": "Add", "input": 3, "output": "4"}, "alpaca", "input is a int"),
        ({"instruction": "Add", "input": "", "output": None}, "alpaca", "output is missing"),
        ({"prompt": "Add"}, "prompt_completion", "no completion or response"),
        ({"question": "\ud83d", "answer": "4"}, "question_answer", "broken Unicode in a user turn"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(raw: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.convert(raw, format)


def test_columns_are_named_by_the_field_they_stand_for() -> None:
    raw = {"problem": "2 + 2?", "solution": "4", "answer": 4}
    columns = {"question": "problem", "answer": "solution"}
    assert formats.example(raw, "question_answer", columns=columns).messages[1].content == "4"
    with pytest.raises(ValueError, match="no column 'problem'"):
        formats.example({}, "question_answer", columns=columns)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "format", "bad"),
    [
        ("math/gsm8k_train", "question_answer", 0),
        ("math/gsm8k_screl_train_use", "prompt_completion", 0),
        ("code/code_alpaca_20k", "alpaca", 6),
        ("chat/alpaca_52k", "alpaca", 28),
        ("chat/lima", "alpaca", 0),
        ("chat/human_llm_multiturn", "messages", 7),
        ("chat/sharegpt_sample_tagged", "sharegpt", 11),
        ("chat/fastchat_dummy_conversation", "sharegpt", 0),
        ("chat/glaive_toolcall_en_300", "sharegpt", 0),
    ],
)
def test_real_files_are_told_and_converted(shared: Path, name: str, format: str, bad: int) -> None:
    path = shared / "data" / f"{name}.jsonl.gz"
    rows = [row for _, row in files.rows(path) if isinstance(row, dict)]
    assert formats.detect(rows) == format
    refused = 0
    for row in rows:
        try:
            formats.convert(row, format)
        except ValueError:
            refused += 1
    assert refused == bad

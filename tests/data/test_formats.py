from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from cuvee.data import formats
from cuvee.data import turns as of_turns
from cuvee.errors import DataError
from cuvee.values import BadRow

EXAMPLES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "pairs": {"history": [{"user": "2 + 2?", "bot": "4"}]},
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "4"},
    "prompt_completion": {"query": "2 + 2?", "response": "4"},
    "question_answer": {"question": "2 + 2?", "answer": "4", "origin": "test"},
}


def turns(raw: dict[str, Any], format: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in formats.example(raw, format).messages]


def repair(raw: dict[str, Any], format: str) -> str:
    row = formats.example(raw, format)
    return row.repair if isinstance(row, formats.Repaired) else ""


def test_all_formats_are_tried_here_or_with_the_trees() -> None:
    assert {*EXAMPLES, *formats.TREES, *formats.UNANSWERED} == {*formats.FORMATS}


@pytest.mark.parametrize("format", EXAMPLES)
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
    for name in ("conversations", "conversation", "items"):
        for format, rows in (("messages", "messages"), ("sharegpt", "conversations")):
            raw = {name: EXAMPLES[format][rows]}
            assert formats.detect([raw]) == format
            assert turns(raw, format)[1] == ("assistant", "4")


@pytest.mark.parametrize(
    ("raw", "format"),
    [
        ({"conversation": [{"input": "2 + 2?", "output": "4"}]}, "pairs"),  # Capybara, XTuner
        ({"conversation": [{"human": "2 + 2?", "assistant": "4"}]}, "pairs"),  # Firefly
        ({"instruction": "2 + 2?", "context": "", "response": "4"}, "alpaca"),  # databricks-dolly-15k
        ({"question": "2 + 2?", "response": "4", "system_prompt": ""}, "prompt_completion"),  # OpenOrca
        ({"query": "2 + 2?", "answer": "4"}, "question_answer"),  # CodeFeedback
        ({"problem": "2 + 2?", "solution": "4", "answer": None}, "question_answer"),  # MATH, OSS-Instruct
        ({"messages": None, "conversations": EXAMPLES["messages"]["messages"]}, "messages"),
        ({"prompt": EXAMPLES["messages"]["messages"][:1], "completion": "4"}, "prompt_completion"),
    ],
)
def test_well_known_sets_are_told_by_looking_too(raw: dict[str, Any], format: str) -> None:
    assert formats.detect([raw]) == format
    assert turns(raw, format) == [("user", "2 + 2?"), ("assistant", "4")]


def test_the_context_of_dolly_is_the_input_of_alpaca() -> None:
    raw = {"instruction": "Who?", "context": "Anna sings.", "response": "Anna"}
    assert turns(raw, "alpaca")[0] == ("user", "Who?\nInput:\nAnna sings.")


@pytest.mark.parametrize("format", ["messages", "sharegpt", "pairs", "alpaca", "prompt_completion", "question_answer"])
@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_column_comes_first_whatever_the_format(format: str, column: str) -> None:
    assert turns({**EXAMPLES[format], column: "Be brief."}, format)[0] == ("system", "Be brief.")
    assert len(turns({**EXAMPLES[format], column: " "}, format)) == 2


def test_a_conversation_keeps_the_system_text_of_its_own() -> None:
    own = {"role": "system", "content": "Be kind."}
    raw = {"messages": [own, *EXAMPLES["messages"]["messages"]]}
    assert turns({**raw, "system": "Be brief."}, "messages")[0] == ("system", "Be kind.")
    assert repair({**raw, "system": "Be brief."}, "messages") == of_turns.SYSTEM
    assert repair({**raw, "system": "Be kind."}, "messages") == ""


def test_a_system_text_in_the_first_exchange_comes_first() -> None:
    raw = {"conversation": [{"system": "Be brief.", "input": "2 + 2?", "output": "4"}]}
    assert turns(raw, "pairs")[0] == ("system", "Be brief.")


def test_two_turns_of_one_role_in_a_row_are_kept() -> None:
    raw = {"messages": [{"role": "user", "content": "Hi."}, *EXAMPLES["messages"]["messages"]]}
    assert [role for role, _ in turns(raw, "messages")] == ["user", "user", "assistant"]
    assert repair(raw, "messages") == ""


def test_one_odd_row_among_many_does_not_change_the_format() -> None:
    assert formats.detect([{}, *[EXAMPLES["sharegpt"]] * 3, EXAMPLES["alpaca"]]) == "sharegpt"


def test_no_format_lists_the_keys_seen_and_the_formats_possible() -> None:
    with pytest.raises(DataError, match=r"keys target, task; possible: messages .*question_answer.*columns"):
        formats.detect([{"task": "2 + 2?", "target": "4"}])


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
    assert found.repair == f"{of_turns.LEADING}; {of_turns.TRAILING}"


def test_tool_calls_go_into_extra_and_results_are_tool_turns() -> None:
    raw = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rom"}}'},
            {"from": "observation", "value": '{"sky": "blue"}'},
            {"from": "gpt", "value": "Blue."},
        ],
    }
    messages = formats.example(raw, "sharegpt").messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].extra["tool_calls"][0]["function"]["name"] == "weather"


TOOL = {"name": "weather", "description": "Says the weather.", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "given",
    [[TOOL], json.dumps([TOOL]), [{"type": "function", "function": TOOL}]],
    ids=["list", "JSON text", "as the templates want it"],
)
def test_tools_are_part_of_the_example_in_one_form(given: Any) -> None:
    for format in formats.WITH_TOOLS:
        row = formats.example({**EXAMPLES[format], "tools": given}, format)
        assert row.tools == ({"type": "function", "function": TOOL},)
        assert row.id != formats.example(EXAMPLES[format], format).id
        assert not isinstance(row, formats.Repaired)


@pytest.mark.parametrize("given", [None, "", " ", [], "[]", "null"])
def test_no_tools_are_no_tools(given: Any) -> None:
    assert formats.example({**EXAMPLES["messages"], "tools": given}, "messages").tools == ()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("[{", "tools are broken JSON"),
        ('"x"', "tools are a str, not a list"),
        ({"name": "x"}, "tools are a dict, not a list"),
        ([None], "a tool is not an object"),
        ('[{"name": "x", "at": NaN}]', "tools: no plain JSON"),
        ([{"name": "x", "at": datetime(2024, 1, 1)}], "tools: no plain JSON"),
        ([{"name": "\ud83d"}], "broken Unicode in tools"),
        (
            '[{"name": "x", "at": ' + "[" * 101 + "]" * 101 + "}]",
            "tools: no plain JSON: nested in more than 100 levels",
        ),
    ],
)
def test_tools_that_cannot_be_used_spoil_their_row(given: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example({**EXAMPLES["sharegpt"], "tools": given}, "sharegpt")


def test_tools_of_other_formats_are_metadata() -> None:
    assert formats.example({**EXAMPLES["question_answer"], "tools": "python"}, "question_answer").tools == ()


@pytest.mark.parametrize(
    ("said", "counted"),
    [({"weight": 0}, True), ({"train": False}, True), ({"weight": 1, "train": True}, False), ({"weight": None}, False)],
)
def test_a_weight_of_a_message_is_left_out_and_counted(said: dict[str, Any], counted: bool) -> None:
    user, assistant = EXAMPLES["messages"]["messages"]
    assert repair({"messages": [user, {**assistant, **said}]}, "messages") == of_turns.WEIGHT * counted
    asked, answer = EXAMPLES["sharegpt"]["conversations"]
    assert repair({"conversations": [{**asked, **said}, {**answer, **said}]}, "sharegpt") == of_turns.WEIGHT * counted


def test_nulls_and_empty_lists_that_parquet_fills_in_are_no_tool_calls() -> None:
    turns = [{**turn, "tool_calls": [], "name": None} for turn in EXAMPLES["messages"]["messages"]]
    row = formats.example({"messages": turns}, "messages")
    assert row.id == formats.example(EXAMPLES["messages"], "messages").id
    with pytest.raises(ValueError, match="an empty assistant turn"):
        formats.example({"messages": [turns[0], {**turns[1], "content": ""}]}, "messages")


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    raw = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "4"}]}
    assert turns(raw, "messages")[0] == ("user", "2 + 2?")
    raw["messages"][0]["content"] = [{"type": "image", "url": "x"}]
    with pytest.raises(ValueError, match="content of a user turn is a list, not text"):
        formats.example(raw, "messages")


@pytest.mark.parametrize(
    ("raw", "format", "reason"),
    [
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": "Hi"}, "messages", "messages is a str, not a list"),
        ({}, "messages", "no list of messages"),
        ({"messages": ["Hi"]}, "messages", "a message is a str"),
        ({"messages": None}, "messages", "no list of messages"),
        ({"messages": [None]}, "messages", "a message is a null"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "content of a user turn is missing"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "messages", "a role is a list"),
        ({"conversations": [{"from": None, "value": "Hi"}]}, "sharegpt", "no role"),
        ({"history": [["a", "b"]]}, "pairs", "an exchange is not an object"),
        ({"history": [{"user": "a"}]}, "pairs", "no bot or assistant or output"),
        ({"instruction": "Add", "output": "4", "history": [["a"]]}, "alpaca", "not a list of pairs"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages", "no assistant turn"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages", "unknown role 'wizard'"),
        ({"messages": [{"content": "Hi"}]}, "messages", "no role"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "sharegpt", "no user turn"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "sharegpt", "no assist"),
        ({"instruction": "Add", "input": "", "output": " "}, "alpaca", "an empty assistant turn"),
        ({"instruction": "Add", "input": [3], "output": "4"}, "alpaca", "input is a list"),
        ({"instruction": "Add", "input": "", "output": None}, "alpaca", "output is missing"),
        ({"prompt": "Add"}, "prompt_completion", "no completion or response"),
        ({"question": "\ud83d", "answer": "4"}, "question_answer", "broken Unicode in a user turn"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(raw: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example(raw, format)


def test_columns_are_named_by_the_field_they_stand_for() -> None:
    raw = {"problem": "2 + 2?", "solution": "4", "answer": 4}
    columns = {"question": "problem", "answer": "solution"}
    assert formats.example(raw, "question_answer", columns=columns).messages[1].content == "4"
    with pytest.raises(ValueError, match="no column 'problem'"):
        formats.example({}, "question_answer", columns=columns)


def test_a_stream_of_rows_keeps_every_row() -> None:
    rows = [
        (1, EXAMPLES["alpaca"]),
        (2, BadRow("x", 2, "broken JSON")),
        (3, {"instruction": [3]}),
        (7, EXAMPLES["alpaca"]),
    ]
    found = list(formats.examples(rows, "alpaca", path="x"))
    assert [row.line for row in found] == [1, 2, 3, 7]
    assert [row.reason for row in found if isinstance(row, BadRow)] == [
        "broken JSON",
        "instruction is a list, not text",
    ]


def test_a_tag_with_broken_unicode_spoils_its_row() -> None:
    with pytest.raises(ValueError, match="broken Unicode in column 'topic'"):
        formats.example({**EXAMPLES["alpaca"], "topic": "\udcff"}, "alpaca", tags="topic")


# ------------------------------------------------------------------------------------------ several columns in one


def test_several_columns_are_one_text_with_a_space_between() -> None:
    raw = {"Body": "Anna has 2 pens", "Question": "How many?", "Answer": "2", "none": " "}
    columns = {"question": ["Body", "none", "Question"], "answer": "Answer"}
    row = formats.example(raw, "question_answer", columns=columns)
    assert [message.content for message in row.messages] == ["Anna has 2 pens How many?", "2"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"Body": "a"}, "no column 'Question'"),
        ({"Body": None, "Question": "b?"}, "column 'Body' is missing"),
        ({"Body": 2, "Question": "b?"}, "column 'Body' is a int, not text"),
        ({"Body": " ", "Question": ""}, "an empty user turn"),
    ],
)
def test_one_of_several_columns_that_is_not_there_is_named(raw: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example({**raw, "answer": "4"}, "question_answer", columns={"question": ("Body", "Question")})


def test_a_format_is_found_under_the_columns_named() -> None:
    raw = {"Body": "Anna has 2 pens", "Question": "How many?", "Answer": "2"}
    columns: formats.Columns = {"question": ["Body", "Question"], "answer": "Answer"}
    assert formats.detect([formats.renamed_where_there(raw, columns)]) == "question_answer"
    assert formats.renamed_where_there({"Body": "a"}, columns) == {"Body": "a"}


# ---------------------------------------------------------------------------------------------- numbers as answers

ANSWERED: dict[str, dict[str, Any]] = {
    "pairs": {"history": [{"user": "?", "bot": ...}, {"user": "?", "bot": ...}]},
    "alpaca": {"instruction": "?", "output": ...},
    "prompt_completion": {"prompt": "?", "completion": ...},
    "question_answer": {"question": "?", "answer": ...},
}


def answered(value: Any, by: Any) -> Any:
    """Return `value` with every ... in it replaced."""
    if isinstance(value, dict):
        return {key: answered(item, by) for key, item in value.items()}
    return [answered(item, by) for item in value] if isinstance(value, list) else by if value is ... else value


@pytest.mark.parametrize("format", ANSWERED)
@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (5.0, "5.0"), (0, "0"), (-0.1, "-0.1"), (1e20, "1e+20"), (10**30, "1" + "0" * 30), (10**400, None)],
)
def test_a_number_as_answer_is_written_as_in_json_and_counted_once(format: str, value: float, text: str | None) -> None:
    raw = answered(ANSWERED[format], value)
    assert turns(raw, format)[-1] == ("assistant", text or str(value))
    assert repair(raw, format) == "a number as answer written as text"


def test_a_boolean_as_answer_is_written_as_in_json_and_counted() -> None:
    assert turns({"question": "?", "answer": False}, "question_answer")[-1] == ("assistant", "false")
    assert repair({"question": "?", "answer": True}, "question_answer") == "a boolean as answer written as text"


@pytest.mark.parametrize(
    ("raw", "format", "text"),
    [
        ({"question": 5, "answer": "five"}, "question_answer", "5"),
        ({"prompt": 2.5, "completion": "x"}, "prompt_completion", "2.5"),
        ({"instruction": 7, "output": "x"}, "alpaca", "7"),
        ({"instruction": "Double.", "input": 4, "output": "8"}, "alpaca", "Double.\nInput:\n4"),
        ({"history": [{"user": 1, "bot": "one"}]}, "pairs", "1"),
        ({"question": 5}, "question", "5"),
    ],
)
def test_a_number_as_question_is_written_as_in_json_and_counted(raw: dict[str, Any], format: str, text: str) -> None:
    assert turns(raw, format)[0] == ("user", text)
    assert repair(raw, format) == of_turns.ASKED_NUMBER


def test_a_number_as_question_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="question is nan, which JSON does not have"):
        formats.example({"question": float("nan"), "answer": "x"}, "question_answer")


def test_a_number_in_the_history_is_an_answer_too() -> None:
    raw = {"instruction": "And 3 + 3?", "output": "6", "history": [["2 + 2?", 4]]}
    assert turns(raw, "alpaca")[1] == ("assistant", "4")
    assert repair(raw, "alpaca") == of_turns.NUMBER


@pytest.mark.parametrize(
    ("raw", "format", "reason"),
    [
        ({"question": [4], "answer": "?"}, "question_answer", "question is a list, not text"),
        ({"prompt": {"value": 4}, "completion": "?"}, "prompt_completion", "prompt is a dict, not text"),
        ({"question": "?", "answer": [4]}, "question_answer", "answer is a list, not text"),
        ({"question": "?", "answer": {"value": 4}}, "question_answer", "answer is a dict, not text"),
        ({"question": "?", "answer": float("nan")}, "question_answer", "answer is nan, which JSON does not have"),
        ({"messages": [{"role": "assistant", "content": 4}]}, "messages", "content of a assistant turn is a int"),
    ],
)
def test_other_numbers_and_what_holds_numbers_stay_refused(raw: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example(raw, format)


# -------------------------------------------------------------------------------------- questions without answers


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        ({"question": "2 + 2?"}, ["2 + 2?"]),
        ({"prompt": "def add(a, b):", "canonical_solution": "a + b"}, ["def add(a, b):"]),
        ({"instruction": "Add.", "input": "2, 2"}, ["Add.\nInput:\n2, 2"]),
        ({"query": "2 + 2?", "gold": 3}, ["2 + 2?"]),
        ({"text": "Write a function.", "code": "pass"}, ["Write a function."]),
        ({"turns": ["2 + 2?", "And 3 + 3?"]}, ["2 + 2?", "And 3 + 3?"]),
        ({"question": None, "prompt": "2 + 2?"}, ["2 + 2?"]),
    ],
)
def test_a_question_needs_no_answer_where_questions_are_asked_for(raw: dict[str, Any], asked: list[str]) -> None:
    assert formats.detect_questions([raw]) == "question"
    assert turns(raw, "question") == [("user", text) for text in asked]
    assert formats.example(raw, "question").prompt_key
    with pytest.raises(DataError, match="no format fits"):
        formats.detect([raw])


@pytest.mark.parametrize("format", EXAMPLES)
def test_a_format_with_answers_is_found_first(format: str) -> None:
    assert formats.detect_questions([EXAMPLES[format]] * 2 + [{"prompt": "2 + 2?"}]) == format


def test_one_answer_among_many_questions_makes_no_format_with_answers() -> None:
    assert formats.detect_questions([EXAMPLES["alpaca"], *[{"prompt": "2 + 2?"}] * 2]) == "question"


def test_a_question_may_have_a_system_text_before_it() -> None:
    assert turns({"prompt": "2 + 2?", "system": "Be brief."}, "question")[0] == ("system", "Be brief.")


def test_columns_that_are_named_are_the_question_whatever_else_is_there() -> None:
    raw = {"question": "no", "prompt": "no", "input": "no", "task": "2 + 2?"}
    for field in ("prompt", "text", "instruction"):
        (message,) = formats.example(raw, "question", columns={field: "task"}).messages
        assert message.content == "2 + 2?"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"task": "2 + 2?"}, "no question or prompt or instruction or query or text or turns"),
        ({"turns": "2 + 2?"}, "turns is no list of texts"),
        ({"turns": []}, "turns is no list of texts"),
        ({"turns": ["2 + 2?", None]}, "a text of turns is missing"),
        ({"turns": ["2 + 2?", ""]}, "an empty user turn"),
        ({"prompt": [4]}, "prompt is a list, not text"),
        ({"prompt": "\ud83d"}, "broken Unicode in a user turn"),
    ],
)
def test_what_is_no_question_says_why(raw: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example(raw, "question")


def test_what_has_no_question_lists_what_is_possible() -> None:
    with pytest.raises(DataError, match=r"keys task; possible: .*question \(question, .*columns: {question: problem}"):
        formats.detect_questions([{"task": "2 + 2?"}])


def test_questions_are_no_format_to_train_on() -> None:
    assert formats.known("question", questions=True) == "question"
    with pytest.raises(DataError, match="the format question has no answers to train on"):
        formats.known("question")
    with pytest.raises(DataError, match=r"there is no format 'qa'; possible: auto, .*oasst$"):
        formats.known("qa")


# ------------------------------------------------------------------------------------------------ kept columns


def test_columns_are_kept_as_they_are_and_change_no_id() -> None:
    raw = {"prompt": "def add(a, b):", "test": "assert add(1, 2) == 3", "cases": [[1, 2], None, 1e20, float("inf")]}
    row = formats.example(raw, "question", kept=["test", "cases"])
    bare = formats.example(raw, "question")
    assert row.extra == {"test": raw["test"], "cases": raw["cases"]}
    assert bare.extra == {}
    assert (row.id, row.prompt_key) == (bare.id, bare.prompt_key)
    assert row != bare


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime(2024, 1, 1), "kept columns when: no plain JSON"),
        (b"bytes", "kept columns when: no plain JSON"),
        ("\ud83d", "broken Unicode in kept columns when"),
    ],
)
def test_a_kept_column_must_be_there_and_fit_into_json(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        formats.example({**EXAMPLES["alpaca"], "when": value}, "alpaca", kept=["when"])
    with pytest.raises(ValueError, match="no column 'when' to keep"):
        formats.example(EXAMPLES["alpaca"], "alpaca", kept=["when"])


# --------------------------------------------------------------------------------------- rows of another format


@pytest.mark.parametrize("format", [*EXAMPLES, *formats.TREES])
@pytest.mark.parametrize("other", EXAMPLES)
def test_a_row_of_another_format_names_both_and_what_to_do(format: str, other: str) -> None:
    if other == format:
        return
    (row,) = formats.examples([(1, EXAMPLES[other])], format)
    if isinstance(row, BadRow):
        read = "oasst_best" if format in formats.TREES else format
        assert row.reason.startswith(f"read in the format {read} and looks like {other} (name one with `format`")
    else:  # a query with a response fits both
        assert {format, other} <= {"messages", "sharegpt", "pairs", "prompt_completion", "question_answer"}


def test_a_row_of_no_other_format_keeps_its_own_reason() -> None:
    for raw, reason in (({"instruction": "2 + 2?"}, "output is missing"), ({"messages": []}, "messages is empty")):
        (row,) = formats.examples([(1, raw)], "alpaca" if "output" in reason else "messages")
        assert isinstance(row, BadRow)
        assert row.reason == reason

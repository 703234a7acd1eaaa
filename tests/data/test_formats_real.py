"""Real files: what is kept, what is kept aside and why, what is repaired; exact numbers."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cuvee.data import files, formats, trees
from cuvee.data import turns as of_turns
from cuvee.data.turns import LeftOut
from cuvee.errors import DataError
from cuvee.values import BadRow, Example

pytestmark = pytest.mark.real

NO_ANSWER = "an empty assistant turn"
Reasons = dict[str, int]

ROWS: list[tuple[str, str, int, Reasons, Reasons]] = [
    ("math/gsm8k_train", "question_answer", 7473, {}, {}),
    ("math/gsm8k_test", "question_answer", 1319, {}, {}),
    ("math/gsm8k_screl_train_use", "prompt_completion", 7473, {}, {}),
    ("math/llm_adapters_math_cot_3k", "alpaca", 3257, {NO_ANSWER: 3}, {}),
    ("code/code_alpaca_20k", "alpaca", 20016, {NO_ANSWER: 6}, {}),
    ("code/code_alpaca_2k", "alpaca", 2015, {NO_ANSWER: 2}, {}),
    ("code/new_codealpaca", "alpaca", 4535, {}, {}),
    ("chat/alpaca_52k", "alpaca", 51974, {NO_ANSWER: 28}, {}),
    ("chat/dolly_3k", "alpaca", 2996, {}, {}),
    ("chat/lima", "alpaca", 1029, {}, {}),
    ("chat/fastchat_dummy_conversation", "sharegpt", 500, {}, {}),
    ("chat/glaive_toolcall_en_300", "sharegpt", 300, {}, {}),
    ("chat/mtbench101", "pairs", 1388, {}, {}),
    (
        "chat/sharegpt_sample_tagged",
        "sharegpt",
        723,
        {"no user turn": 7, "an empty user turn": 4},
        {of_turns.LEADING: 241},
    ),
    (
        "chat/human_llm_multiturn",
        "messages",
        2239,
        {NO_ANSWER: 7},
        {of_turns.TRAILING: 18, of_turns.LEADING: 8, f"{of_turns.LEADING}; {of_turns.TRAILING}": 1},
    ),
]

# Conversations, messages kept aside, and all messages.
TREES: list[tuple[str, str, int, Reasons, int]] = [
    ("chat/oasst_en_100_trees", "oasst_best", 100, {trees.PASSED_OVER: 651, trees.UNANSWERED: 226}, 1167),
    ("chat/oasst_en_100_trees", "oasst", 546, {trees.UNANSWERED: 226}, 1167),
    (
        "chat/oasst1_en_validation_messages",
        "oasst_best",
        188,
        {trees.PASSED_OVER: 1134, trees.UNANSWERED: 291, trees.DELETED: 40, trees.ORPHAN: 3},
        2022,
    ),
    (
        "chat/oasst1_en_validation_messages",
        "oasst",
        928,
        {trees.UNANSWERED: 291, trees.DELETED: 40, trees.ORPHAN: 3},
        2022,
    ),
]

OTHERS = ["sgd_dialogues_train", "chitchat_human_human", "self_instruct_user_oriented_252"]


def load(path: Path, format: str) -> list[Example | BadRow]:
    return list(formats.examples(files.rows(path), format, path=str(path)))


def detected(path: Path) -> str:
    return formats.detect(row for _, row in files.rows(path) if isinstance(row, dict))


def why(rows: list[Example | BadRow]) -> Reasons:
    return dict(Counter(row.reason for row in rows if isinstance(row, BadRow)))


def lines(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize(("name", "format", "kept", "bad", "repaired"), ROWS, ids=[row[0] for row in ROWS])
def test_every_row_is_kept_or_kept_aside(
    shared: Path, name: str, format: str, kept: int, bad: Reasons, repaired: Reasons
) -> None:
    path = shared / "data" / f"{name}.jsonl.gz"
    assert detected(path) == format
    rows = load(path, format)
    assert sum(isinstance(row, Example) for row in rows) == kept
    assert why(rows) == bad
    assert Counter(row.repair for row in rows if isinstance(row, formats.Repaired)) == repaired
    assert [row.line for row in rows] == list(range(1, len(lines(path)) + 1))


@pytest.mark.parametrize(("name", "format", "kept", "aside", "messages"), TREES)
def test_every_message_of_a_tree_is_in_a_conversation_or_kept_aside(
    shared: Path, name: str, format: str, kept: int, aside: Reasons, messages: int
) -> None:
    path = shared / "data" / f"{name}.jsonl.gz"
    assert detected(path) == "oasst_best"
    rows = load(path, format)
    examples = [row for row in rows if isinstance(row, Example)]
    assert len(examples) == len({row.id for row in examples}) == kept
    assert why(rows) == aside
    assert {row.reason for row in rows if isinstance(row, BadRow) and not isinstance(row, LeftOut)} <= {trees.ORPHAN}
    # A message of a conversation is known by what was said up to it.
    said = [tuple((message.role, message.content) for message in row.messages) for row in examples]
    used = {turns[: n + 1] for turns in said for n in range(len(turns))}
    twins = 1 if "validation" in name and format == "oasst" else 0  # two equal replies to one question
    assert len(used) + twins + sum(aside.values()) == messages
    assert messages == sum(1 + _below(row["prompt"]) if "prompt" in row else 1 for row in lines(path))


def _below(message: Any) -> int:
    return sum(1 + _below(reply) for reply in message["replies"])


def test_the_tools_of_glaive_are_part_of_its_examples(shared: Path) -> None:
    path = shared / "data/chat/glaive_toolcall_en_300.jsonl.gz"
    rows = [row for row in load(path, "sharegpt") if isinstance(row, Example)]
    given = [json.loads(row["tools"]) for row in lines(path)]
    assert [[tool["function"] for tool in row.tools] for row in rows] == given
    assert sum(bool(row.tools) for row in rows) == 191


@pytest.mark.parametrize("name", OTHERS)
def test_talk_between_people_and_nested_tasks_are_not_taken_for_chats(shared: Path, name: str) -> None:
    with pytest.raises(DataError, match="no format fits"):
        detected(shared / "data" / "chat" / f"{name}.jsonl.gz")

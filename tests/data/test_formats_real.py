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


# ------------------------------------------------------------------------------------------------ benchmarks

NUMBER = of_turns.NUMBER
Columns = formats.Columns

# File, columns, the format found among benchmarks' ("" for none), rows kept, rows kept aside, repaired.
BENCHMARKS: list[tuple[str, Columns, str, int, Reasons, Reasons]] = [
    ("code/humaneval", {}, "question", 164, {}, {}),
    ("code/humaneval", {"question": "prompt", "answer": "canonical_solution"}, "question_answer", 164, {}, {}),
    ("code/mbpp", {}, "question", 974, {}, {}),
    ("code/mbpp", {"question": "text", "answer": "code"}, "question_answer", 974, {}, {}),
    ("code/mbpp_sanitized_codet", {}, "question", 427, {}, {}),
    ("code/mbpp_plus", {}, "question", 398, {"broken JSON: -Infinity is no JSON value; write null": 1}, {}),
    ("math/svamp_test", {}, "", 0, {}, {}),
    ("math/svamp_test", {"question": ["Body", "Question"]}, "question", 1000, {}, {}),
    (
        "math/svamp_test",
        {"question": ["Body", "Question"], "answer": "Answer"},
        "question_answer",
        1000,
        {},
        {NUMBER: 1000},
    ),
    ("math/asdiv_test", {}, "question_answer", 2215, {}, {}),  # the body is in no question then
    ("math/asdiv_test", {"question": ["body", "question"]}, "question_answer", 2215, {}, {}),
    ("math/mawps_test", {}, "", 0, {}, {}),
    ("math/mawps_test", {"question": "input", "answer": "target"}, "question_answer", 2065, {}, {NUMBER: 2065}),
    ("math/gsm_hard_test", {}, "", 0, {}, {}),
    ("math/gsm_hard_test", {"question": "input", "answer": "target"}, "question_answer", 1319, {}, {NUMBER: 1319}),
    ("math/gsm8k_test", {}, "question_answer", 1319, {}, {}),
    ("knowledge/mmlu_test", {}, "question_answer", 14042, {}, {}),  # the choices are in no question then
    ("knowledge/mmlu_test", {"question": ["question", *"ABCD"]}, "question_answer", 14042, {}, {}),
    ("knowledge/arc_challenge", {}, "question", 1172, {}, {}),
    ("knowledge/arc_challenge", {"answer": "gold"}, "question_answer", 1172, {}, {NUMBER: 1172}),
    ("knowledge/arc_easy", {}, "question", 2376, {}, {}),
    ("knowledge/arc_easy", {"answer": "gold"}, "question_answer", 2376, {}, {NUMBER: 2376}),
    ("knowledge/bbh", {}, "", 0, {}, {}),
    ("knowledge/bbh", {"question": "input", "answer": "target"}, "question_answer", 6511, {}, {}),
    ("knowledge/truthfulqa", {}, "", 0, {}, {}),
    ("knowledge/truthfulqa", {"question": "Question"}, "question", 817, {}, {}),
    ("knowledge/truthfulqa", {"question": "Question", "answer": "Best Answer"}, "question_answer", 817, {}, {}),
    ("knowledge/piqa", {}, "question", 1838, {}, {}),
    ("knowledge/piqa", {"answer": "gold"}, "question_answer", 1838, {}, {NUMBER: 1838}),
    ("knowledge/winogrande", {}, "", 0, {}, {}),
    ("knowledge/winogrande", {"question": "continuation"}, "question", 1267, {}, {}),  # the second half only
    ("knowledge/commonsense_qa", {}, "question", 1221, {}, {}),
    ("knowledge/commonsense_qa", {"answer": "gold"}, "question_answer", 1221, {}, {NUMBER: 1221}),
    ("knowledge/triviaqa_sm_sub", {}, "", 0, {}, {}),
    ("knowledge/triviaqa_sm_sub", {"question": "context"}, "question_answer", 3000, {}, {}),
    ("knowledge/ifeval_prompts", {}, "question", 540, {}, {}),
    ("judge/mt_bench_questions", {}, "question", 80, {}, {}),
    ("judge/vicuna_bench_questions", {}, "question", 80, {}, {}),
    ("knowledge/alpaca_eval_instructions", {}, "alpaca", 803, {NO_ANSWER: 2}, {}),
    ("chat/self_instruct_user_oriented_252", {}, "question", 252, {}, {}),  # 208 inputs lie deeper, in `instances`
]


@pytest.mark.parametrize(
    ("name", "columns", "format", "kept", "bad", "repaired"),
    BENCHMARKS,
    ids=[f"{row[0]} {','.join(row[1])}".strip() for row in BENCHMARKS],
)
def test_benchmarks_load_with_or_without_answers(
    shared: Path, name: str, columns: Columns, format: str, kept: int, bad: Reasons, repaired: Reasons
) -> None:
    path = shared / "data" / f"{name}.jsonl.gz"
    raw = [formats.renamed_where_there(row, columns) for _, row in files.rows(path) if isinstance(row, dict)]
    if not format:
        with pytest.raises(DataError, match="no format fits"):
            formats.detect_questions(raw)
        return
    assert formats.detect_questions(raw) == format
    rows = list(formats.examples(files.rows(path), format, columns=columns, path=str(path)))
    examples = [row for row in rows if isinstance(row, Example)]
    assert len(examples) == kept
    assert why(rows) == bad
    assert Counter(row.repair for row in examples if isinstance(row, formats.Repaired)) == repaired
    last = "user" if format == "question" else "assistant"
    assert {row.messages[-1].role for row in examples} == {last}
    turns = 2 if name == "judge/mt_bench_questions" else 1
    assert {len(row.prompt) for row in examples} == {turns}


def test_all_instructions_of_alpaca_eval_load_without_its_answers(shared: Path) -> None:
    rows = load(shared / "data/knowledge/alpaca_eval_instructions.jsonl.gz", "question")
    assert sum(isinstance(row, Example) for row in rows) == len(rows) == 805


def test_a_question_of_svamp_has_its_body_and_its_number(shared: Path) -> None:
    path = shared / "data/math/svamp_test.jsonl.gz"
    columns: Columns = {"question": ["Body", "Question"], "answer": "Answer"}
    found = next(formats.examples(files.rows(path), "question_answer", columns=columns))
    assert isinstance(found, Example)
    assert found.messages[0].content.endswith("93 groups How big is each group of bananas?")
    assert found.messages[1].content == "145.0"


@pytest.mark.parametrize(
    ("name", "kept"),
    [("code/humaneval", ["entry_point", "test"]), ("knowledge/mmlu_test", [*"ABCD"]), ("code/mbpp", ["test_list"])],
)
def test_columns_that_a_judge_needs_are_kept(shared: Path, name: str, kept: list[str]) -> None:
    path = shared / "data" / f"{name}.jsonl.gz"
    rows = list(formats.examples(files.rows(path), "question", kept=kept))
    assert [row.extra for row in rows if isinstance(row, Example)] == [
        {column: row[column] for column in kept} for row in lines(path)
    ]

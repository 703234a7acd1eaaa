from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.data import formats, trees
from cuvee.data.turns import LeftOut
from cuvee.values import BadRow, Example

Raw = dict[str, Any]


def message(id: str, parent: str | None = None, rank: int | None = None, **more: Any) -> Raw:
    """A flat message: prompter's on even levels, which the length of its id says, assistant's on odd ones."""
    role = "prompter" if len(id) % 2 else "assistant"
    return {"message_id": id, "parent_id": parent, "role": role, "text": f"text of {id}", "rank": rank, **more}


#  a ── ab ── abc ── abcd
#  │     └─── abd
#  └── ac
TREE = [
    message("a"),
    message("ab", "a", 1),
    message("ac", "a", 0),
    message("abc", "ab"),
    message("abd", "ab"),
    message("abcd", "abc", 0),
]


def nested(rows: list[Raw], root: str = "a") -> Raw:
    def below(id: str) -> Raw:
        (row,) = (row for row in rows if row["message_id"] == id)
        replies = [below(reply["message_id"]) for reply in rows if reply["parent_id"] == id]
        return {key: value for key, value in row.items() if key != "parent_id"} | {"replies": replies}

    return {"message_tree_id": root, "tree_state": "ready_for_export", "prompt": below(root)}


def read(rows: list[Raw], format: str) -> tuple[list[str], dict[str, str]]:
    """Return the conversations, as the ids of their messages in one word each, and why other messages are in none."""
    found = list(formats.examples(enumerate(rows, start=1), format, path="x"))
    said = [[message.content.removeprefix("text of ") for message in row.messages] for row in found if is_example(row)]
    why = {row.text.removeprefix("text of "): row.reason for row in found if isinstance(row, BadRow)}
    return sorted("-".join(turns) for turns in said), why


def is_example(row: Example | BadRow) -> Any:
    return isinstance(row, Example)


@pytest.mark.parametrize("rows", [TREE, [nested(TREE)]], ids=["flat", "nested"])
def test_all_paths_end_at_the_last_answer_and_none_begins_another(rows: list[Raw]) -> None:
    assert formats.detect(rows) == "oasst_best"
    assert read(rows, "oasst") == (["a-ab-abc-abcd", "a-ac"], {"abd": trees.UNANSWERED})


@pytest.mark.parametrize("rows", [TREE, [nested(TREE)]], ids=["flat", "nested"])
def test_the_best_path_takes_the_lowest_rank_at_each_turn(rows: list[Raw]) -> None:
    conversations, why = read(rows, "oasst_best")
    assert conversations == ["a-ac"]
    assert why == {"abd": trees.UNANSWERED, **dict.fromkeys(["ab", "abc", "abcd"], trees.PASSED_OVER)}


def test_without_ranks_the_lowest_id_is_taken_and_a_ranked_reply_before_others() -> None:
    rows = [message("a"), message("ax", "a"), message("ab", "a"), message("az", "a")]
    assert read(rows, "oasst_best")[0] == ["a-ab"]
    rows[3]["rank"] = 5
    assert read(rows, "oasst_best")[0] == ["a-az"]


def test_the_best_path_goes_where_there_is_an_answer() -> None:
    rows = [message("a"), message("ab", "a"), message("abc", "ab"), message("abd", "ab"), message("abde", "abd")]
    assert read(rows, "oasst_best") == (["a-ab-abd-abde"], {"abc": trees.UNANSWERED})


def test_deleted_messages_and_those_below_are_left_out() -> None:
    rows = [*TREE]
    rows[1] = message("ab", "a", 1, deleted=True)
    conversations, why = read(rows, "oasst")
    assert conversations == ["a-ac"]
    assert why == {"ab": trees.DELETED, **dict.fromkeys(["abc", "abd", "abcd"], trees.BELOW_DELETED)}
    assert read([nested(rows)], "oasst") == (conversations, why)


def test_messages_at_fault_are_bad_rows_and_so_are_those_below() -> None:
    rows = [
        message("a"),
        message("bc", "b"),
        message("bcd", "bc"),
        message("ab", "a"),
        message("abc", "abcd"),
        message("abcd", "abc"),
        {**message("ab", "a"), "text": "text of the second ab"},
        {**message("e"), "role": "wizard"},
        {**message("f"), "text": " "},
        message("gh"),
    ]
    conversations, why = read(rows, "oasst")
    assert conversations == ["a-ab"]
    assert why == {
        "bc": trees.ORPHAN,
        "bcd": trees.BELOW_BAD,
        "abc": trees.CIRCLE,
        "abcd": trees.CIRCLE,
        "the second ab": "its message_id was there before: ab, line 4",
        "e": "unknown role 'wizard'",
        " ": "an empty user turn",
        "gh": "a tree starts with no prompter message",
    }


@pytest.mark.parametrize(
    ("root", "reasons"),
    [
        ({"text": "a", "role": "prompter", "replies": "b"}, ["replies is a str, not a list"]),
        ({"text": "a", "role": "prompter", "replies": None}, [trees.UNANSWERED]),
        ({"text": "a", "role": "prompter", "replies": [None]}, [trees.UNANSWERED, "a message is not an object"]),
        ({"text": None, "role": "prompter"}, ["text is missing"]),
    ],
)
def test_a_broken_tree_says_why(root: Raw, reasons: list[str]) -> None:
    found = formats.examples([(7, {"prompt": root})], "oasst", path="x")
    assert [(row.line, row.reason) for row in found if isinstance(row, BadRow)] == [(7, reason) for reason in reasons]


def test_what_the_rule_passes_over_is_told_apart_from_faults() -> None:
    rows = [*TREE, message("z", deleted=True), message("yz", "y")]
    found = formats.examples(enumerate(rows), "oasst_best")
    bad = [row for row in found if isinstance(row, BadRow)]
    assert [row.reason for row in bad if not isinstance(row, LeftOut)] == [trees.ORPHAN]
    assert {row.reason for row in bad if isinstance(row, LeftOut)} == {
        trees.PASSED_OVER,
        trees.UNANSWERED,
        trees.DELETED,
    }


def test_line_and_tags_are_those_of_the_last_message_or_of_the_tree() -> None:
    rows = [(number, {**row, "lang": f"l{number}"}) for number, row in enumerate(TREE, start=1)]
    found = [row for row in formats.examples(rows, "oasst", tags="lang") if isinstance(row, Example)]
    assert [(row.line, row.tags) for row in found] == [(3, ("l3",)), (6, ("l6",))]
    whole = formats.examples([(9, {**nested(TREE), "lang": "en"})], "oasst_best", tags="lang")
    assert [(row.line, row.tags) for row in whole if isinstance(row, Example)] == [(9, ("en",))]


def test_columns_may_have_other_names() -> None:
    rows = [{**row, "said": row.pop("text")} for row in map(dict, TREE)]
    found = formats.examples(enumerate(rows), "oasst", columns={"text": "said"})
    assert sum(isinstance(row, Example) for row in found) == 2


def test_a_tree_may_be_thousands_of_turns_deep() -> None:
    rows: list[Raw] = [message("a" * depth, "a" * (depth - 1) or None) for depth in range(1, 3001)]
    (found,) = formats.examples(enumerate(rows), "oasst_best")
    assert isinstance(found, Example)
    assert len(found.messages) == 3000


@st.composite
def forests(draw: st.DrawFn) -> list[Raw]:
    rows: list[Raw] = []
    for number in range(draw(st.integers(1, 25))):
        parent = draw(st.sampled_from([None, "absent", *(row["message_id"] for row in rows)]))
        row = {"message_id": f"m{number:02}", "parent_id": parent, "text": f"text of m{number:02}"}
        row["role"] = draw(st.sampled_from(["prompter", "assistant", "assistant", "x"]))
        row["rank"] = draw(st.sampled_from([None, 0, 1]))
        row["deleted"] = draw(st.integers(0, 9)) == 0
        rows.append(row)
    return rows


@given(forests(), st.integers(0, 99), st.sampled_from(formats.TREES))
def test_every_message_is_in_a_conversation_or_kept_aside_and_order_does_not_matter(
    rows: list[Raw], seed: int, format: str
) -> None:
    conversations, why = read(rows, format)
    used = {id for conversation in conversations for id in conversation.split("-")}
    assert used | why.keys() == {row["message_id"] for row in rows}
    assert not used & why.keys()
    assert not any(one != other and other.startswith(f"{one}-") for one in conversations for other in conversations)
    if format == "oasst_best":
        assert max(Counter(one.partition("-")[0] for one in conversations).values(), default=1) == 1
    mixed = [*rows]
    random.Random(seed).shuffle(mixed)
    assert read(mixed, format) == (conversations, why)

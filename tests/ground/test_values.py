"""An example's id is the hash of what is said, never of where it stood."""

from __future__ import annotations

import hashlib
import json

import pytest

from cuvee.values import Example, Message

ASK = Message("user", "2 + 2?")


def test_place_and_tags_are_no_part_of_the_id() -> None:
    one = Example((ASK, Message("assistant", "4")), tags=("math",), path="a.jsonl", line=3)
    other = Example((ASK, Message("assistant", "4")), path="b.jsonl", line=9)
    assert one.id == other.id


def test_role_content_and_tool_calls_are_part_of_the_id() -> None:
    plain = Example((ASK, Message("assistant", "4")))
    assert plain.id != Example((ASK, Message("system", "4"))).id
    assert plain.id != Example((ASK, Message("assistant", "4 "))).id
    assert plain.id != Example((ASK, Message("assistant", "4", {"tool_calls": [{"name": "add"}]}))).id


def test_other_answers_to_a_question_share_its_prompt_key() -> None:
    one, other = Example((ASK, Message("assistant", "4"))), Example((ASK, Message("assistant", "four")))
    assert one.id != other.id
    assert one.prompt_key == other.prompt_key


def test_content_cannot_be_shifted_between_turns_without_changing_the_id() -> None:
    one = Example((Message("user", "ab"), Message("assistant", "c")))
    assert one.id != Example((Message("user", "a"), Message("assistant", "bc"))).id


def test_broken_unicode_has_an_id_too() -> None:
    assert len(Example((Message("user", "\ud800"),)).id) == 32


@pytest.mark.parametrize("text", ["plain", 'quote " and \\ slash', "line\nend\ttab\x00", "ü 漢 😀", "\ud800 broken"])
def test_the_short_way_to_an_id_gives_the_same_as_json(text: str) -> None:
    messages = (Message("user", text), Message("assistant", text))
    data = [[message.role, message.content] for message in messages]
    form = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    expected = hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    assert Example(messages).id == expected


def test_tools_on_offer_are_part_of_the_id_and_not_of_the_prompt() -> None:
    messages = (Message("user", "Weather?"), Message("assistant", "Sun."))
    plain, offered = Example(messages), Example(messages, tools=({"name": "weather"},))
    assert plain.id != offered.id
    assert plain.prompt_key == offered.prompt_key

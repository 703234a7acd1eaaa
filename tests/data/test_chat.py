"""Loss masks are exact: what is supervised is the answer and its end token, and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.data import masks, templates
from cuvee.data.chat import Chat, Row
from cuvee.data.encoder import Encoded, Encoder
from cuvee.errors import DataError, ModelError
from cuvee.values import Example, Message

Make = Callable[..., Path]
Talk = Callable[..., Example]

ENDS = {"vicuna_v1.1": "</s>", "alpaca": "</s>", "plain": "</s>", "chatml": "<|im_end|>"}
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen3 does: reasoning is shown in the last turn only.
THINKING = (
    "{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' %}{% set r = '' %}{% if '</think>' in c %}{% set r = c.split('</think>')[0] %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}{% set c = '<think>' + r.replace('<think>', '') + '</think>' + c %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
DOUBLING = "{% for m in messages %}{{ m.content + m.content + '<|end|>' }}{% endfor %}"


def supervised(chat: Chat, row: Row) -> list[str]:
    return [chat.text(row.ids[start:end]) for start, end in row.spans]


def only(chat: Chat, example: Example) -> Row:
    (row,) = chat.render([example])
    return row


# --------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("name", sorted(ENDS))
def test_every_answer_and_its_end_token_are_supervised(model: Make, talk: Talk, kind: str, name: str) -> None:
    chat = Chat(model(kind), name)
    row = only(chat, talk("Hi", "Hello.", "2 + 2?", "2 + 2 = 4\n#### 4"))
    end = ENDS[name]
    assert [text.lstrip(" ") for text in supervised(chat, row)] == [f"Hello.{end}", f"2 + 2 = 4\n#### 4{end}"]
    assert row.status == "kept"
    assert row.open_turns == 0


words = st.text(alphabet=st.sampled_from("ab é\n.#<>|0_'\u2028\U0001f600USER:"), min_size=1, max_size=12)
answers = words.filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words, answers), min_size=1, max_size=4),
    st.sampled_from(sorted(ENDS)),
    st.sampled_from(["bytes", "pieces"]),
)
def test_supervised_text_is_the_answer_whatever_it_holds(
    model: Make, talk: Talk, pairs: list[tuple[str, str]], name: str, kind: str
) -> None:
    chat = Chat(model(kind), name)
    turns = [text for pair in pairs for text in pair]
    row = only(chat, talk(*turns))
    # Texts up to a token, because a piece at the very start of a text loses its space when decoded.
    texts = [chat.text(row.ids[:end]).removeprefix(chat.text(row.ids[:start])) for start, end in row.spans]
    assert len(texts) == len(pairs)
    for text, (_, answer) in zip(texts, pairs, strict=True):
        # A token may begin before the answer: then what it brings along is what the template writes there.
        assert text.endswith(answer + ENDS[name])
        assert len(text) - len(answer + ENDS[name]) <= (1 if row.boundary_tokens else 0)
    rendered = templates.compile(chat.template, chat.tokens)([m.as_dict() for m in talk(*turns).messages], False)
    if kind == "bytes":  # LLaMA's decoder writes a space after every special token
        assert chat.text(row.ids) == "<s>" + rendered


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, answers), min_size=1, max_size=3))
def test_a_template_that_strips_contents_supervises_what_it_shows(
    model: Make, talk: Talk, pairs: list[tuple[str, str]]
) -> None:
    chat = Chat(model(template=TRIMMING))
    row = only(chat, talk(*[text for pair in pairs for text in pair]))
    assert supervised(chat, row) == [answer.strip() + "<|im_end|>" for _, answer in pairs]


def test_white_space_after_the_end_token_is_not_supervised(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "chatml")
    row = only(chat, talk("Hi", "Hello"))
    assert chat.text(row.ids).endswith("<|im_end|>\n")
    assert supervised(chat, row)[-1].endswith("<|im_end|>")


def test_a_token_across_the_start_is_supervised_and_counted(model: Make, talk: Talk) -> None:
    row = only(chat := Chat(model(), "vicuna_v1.1"), talk("Hi", "the user", "So", "the user"))
    assert supervised(chat, row)[0].startswith(" the")
    assert row.boundary_tokens == 2


def test_a_default_system_turn_is_context(model: Make, talk: Talk) -> None:
    chat = Chat(model(template=DEFAULT_SYSTEM))
    row = only(chat, talk("Hi", "Hello"))
    assert chat.text(row.ids).startswith("<|im_start|>system\nBe kind.")
    assert supervised(chat, row) == ["Hello<|im_end|>"]


def test_answers_that_occur_elsewhere_are_not_confused(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "chatml")
    row = only(chat, talk("yes", "yes", "assistant\nyes", "yes"))
    assert supervised(chat, row) == ["yes<|im_end|>"] * 2
    assert row.spans[0][0] > 5


def test_reasoning_that_is_shown_is_supervised(model: Make, talk: Talk) -> None:
    chat = Chat(model(template=THINKING))
    assert supervised(chat, only(chat, talk("Hi", "<think>So.</think>\nYes"))) == ["<think>So.</think>Yes<|im_end|>"]


def test_reasoning_that_is_dropped_from_earlier_turns_is_no_mistake(model: Make, talk: Talk) -> None:
    chat = Chat(model(template=THINKING))
    row = only(chat, talk("Hi", "<think>So.</think>\nYes", "And?", "No"))
    assert supervised(chat, row) == ["Yes<|im_end|>", "No<|im_end|>"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Message("assistant", "Hello"), "mask: last or another template"),
        (Message("assistant", "<think>So.</think>Hello"), "take the reasoning out of the data"),
        (Message("assistant", "Hello", {"reasoning_content": "So."}), "take the reasoning out of the data"),
        (Message("assistant", "", {"tool_calls": [{"function": {"name": "f"}}]}), "calls tools lies; use another"),
    ],
)
def test_an_answer_that_cannot_be_found_drops_its_row_with_what_may_be_the_cause(
    model: Make, talk: Talk, answer: Message, reason: str
) -> None:
    chat = Chat(model(template=DOUBLING.replace("messages", "messages[::-1]")))
    row = only(chat, Example((Message("user", "Hi"), answer)))
    assert row.status == "dropped"
    assert row.reason.startswith("the template does not show where an answer ")
    assert reason in row.reason
    assert ("reasoning" in reason) == ("reasoning" in row.reason)


# Writes a call otherwise where it is the last turn, so that the conversation up to it is no head of the whole.
CALLING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.tool_calls %}{{ 'CALL!' if loop.last else CALL }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("m.tool_calls[0].function.name", ("kept", "", ["add<|im_end|>", "Four<|im_end|>"])),
        ("''", ("dropped", "the template shows nothing of a tool call", [])),
    ],
)
def test_a_tool_call_is_found_by_what_stands_round_it(
    model: Make, written: str, found: tuple[str, str, list[str]]
) -> None:
    chat = Chat(model(template=CALLING.replace("else CALL", f"else {written}")))
    call = Message("assistant", "", {"tool_calls": [{"function": {"name": "add"}}]})
    row = only(chat, Example((Message("user", "2 + 2?"), call, Message("tool", "4"), Message("assistant", "Four"))))
    assert (row.status, row.reason, supervised(chat, row)) == found


def test_prefix_differences_find_what_sentinels_cannot(model: Make, talk: Talk) -> None:
    chat = Chat(model(template=DOUBLING))
    assert supervised(chat, only(chat, talk("Hi", "Yes", "So", "No"))) == ["YesYes<|end|>", "NoNo<|end|>"]


def test_the_last_turn_only(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "chatml", mask="last")
    row = only(chat, talk("Hi", "Hello", "So?", "Yes"))
    assert supervised(chat, row) == ["Yes<|im_end|>"]
    assert row.num_supervised == row.spans[0][1] - row.spans[0][0]


def test_a_turn_without_end_token_is_counted(model: Make, talk: Talk) -> None:
    chat = Chat(model(template="{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"))
    row = only(chat, talk("Hi", "Hello", "use </s> now", "Yes"))
    assert [text.strip() for text in supervised(chat, row)] == ["Hello", "Yes"]
    assert row.open_turns == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words, answers), min_size=1, max_size=3),
    st.sampled_from([*sorted(ENDS), TRIMMING, THINKING, DEFAULT_SYSTEM, DOUBLING]),
    st.sampled_from(["", " Be kind. "]),
    st.sampled_from(["all", "last"]),
)
def test_shapes_of_conversations_say_what_looking_at_each_one_says(
    model: Make, talk: Talk, pairs: list[tuple[str, str]], template: str, system: str, mask: str
) -> None:
    folder = model() if template in ENDS else model(template=template)
    chat = Chat(folder, template if template in ENDS else "tokenizer", mask=mask)
    thought = [(question, f"<think>{answer}</think>{answer}") for question, answer in pairs[:1]]
    for turns in (pairs, thought + pairs):
        example = talk(*itertools.chain(*turns), system=system)
        quick = only(chat, example)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks.Shapes, "spans", lambda *_: None)
            slow = only(chat, example)
        assert (quick.ids.tolist(), quick.spans) == (slow.ids.tolist(), slow.spans)


# -------------------------------------------------------------------------------------------------- length


def test_too_long_is_cut_after_the_last_answer_that_fits(model: Make, talk: Talk) -> None:
    folder = model()
    example = talk("Hi", "Hello", "More", "Yes", "x" * 300, "y" * 300)
    whole = only(Chat(folder, "chatml"), example)
    cut = only(chat := Chat(folder, "chatml", max_length=60), example)
    assert (cut.status, cut.reason) == ("trimmed", "longer than 60 tokens")
    assert supervised(chat, cut) == ["Hello<|im_end|>", "Yes<|im_end|>"]
    np.testing.assert_array_equal(cut.ids, whole.ids[: len(cut.ids)])
    assert len(cut.ids) == cut.spans[-1][1] <= 60


def test_the_cut_comes_before_the_rule_of_the_last_turn(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "chatml", mask="last", max_length=60)
    assert supervised(chat, only(chat, talk("Hi", "Hello", "More", "Yes", "x" * 300, "No"))) == ["Yes<|im_end|>"]


def test_no_answer_that_fits_drops_the_row_with_a_reason(model: Make, talk: Talk) -> None:
    row = only(Chat(model(), "chatml", max_length=20), talk("x" * 300, "Hello"))
    assert (row.status, row.reason, len(row.ids), row.spans) == ("dropped", "no whole answer within 20 tokens", 0, ())


def test_too_long_may_drop_or_stop(model: Make, talk: Talk) -> None:
    example = talk("Hi", "Hello", "x" * 300, "y", path="x.jsonl", line=2)
    assert only(Chat(model(), "chatml", max_length=60, too_long="drop"), example).status == "dropped"
    with pytest.raises(DataError, match=r"x\.jsonl:2: the row has \d+ tokens, max_length is 60; set") as found:
        only(Chat(model(), "chatml", max_length=60, too_long="error"), example)
    assert (found.value.path, found.value.line) == ("x.jsonl", 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, answers), min_size=1, max_size=5), st.integers(1, 80))
def test_trimming_only_shortens(model: Make, talk: Talk, pairs: list[tuple[str, str]], limit: int) -> None:
    folder = model()
    example = talk(*[text for pair in pairs for text in pair])
    whole, cut = only(Chat(folder, "chatml"), example), only(Chat(folder, "chatml", max_length=limit), example)
    assert len(cut.ids) <= limit
    assert cut.spans == whole.spans[: len(cut.spans)]
    if len(whole.ids) <= limit:
        assert cut.status == "kept"
    else:
        assert len(cut.spans) == sum(end <= limit for _, end in whole.spans)


class Refusing:
    """Stands for an encoder; knows how long tokens are and makes none."""

    def __init__(self, encoder: Encoder) -> None:
        self.at_least = encoder.at_least

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        assert not texts, "a text that cannot fit is tokenised"
        return []


@pytest.mark.parametrize(
    ("too_long", "reason"),
    [
        ("trim", "no whole answer within 2048 tokens"),
        ("split", "no whole exchange within 2048 tokens"),
        ("drop", "longer than 2048 tokens"),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("mask", ["all", "last"])
def test_a_row_of_megabytes_that_cannot_fit_is_not_tokenised(
    model: Make, talk: Talk, kind: str, mask: str, too_long: str, reason: str
) -> None:
    chat = Chat(model(kind), "vicuna_v1.1", mask=mask, max_length=2048, too_long=too_long)
    chat.encoder = Refusing(chat.encoder)  # type: ignore[assignment]
    big = "word " * 1_000_000
    row = only(chat, talk(big, "Yes.", "é" * 100_000, big, path="x.jsonl", line=3))
    assert (row.status, row.reason, len(row.ids)) == ("dropped", reason, 0)
    assert 2048 < row.full_tokens < 10_200_000
    assert 0 < row.full_supervised < row.full_tokens


def test_a_row_of_megabytes_stops_where_rows_must_not_be_too_long(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "vicuna_v1.1", max_length=2048, too_long="error")
    chat.encoder = Refusing(chat.encoder)  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"x\.jsonl:3: the row has at least \d+ tokens, max_length is 2048; set"):
        only(chat, talk("word " * 1_000_000, "Yes.", path="x.jsonl", line=3))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(words, answers), min_size=1, max_size=4),
    st.lists(st.integers(1, 60), min_size=4, max_size=4),
    st.integers(5, 60),
    st.sampled_from(["trim", "split", "drop"]),
    st.sampled_from(["all", "last"]),
    st.sampled_from(["bytes", "pieces"]),
)
def test_what_is_not_tokenised_is_what_would_be_dropped_for_the_same_reason(
    model: Make,
    talk: Talk,
    pairs: list[tuple[str, str]],
    times: list[int],
    limit: int,
    too_long: str,
    mask: str,
    kind: str,
) -> None:
    chat = Chat(model(kind), "plain", mask=mask, max_length=limit, too_long=too_long)
    turns = [text for (asked, told), n in zip(pairs, times, strict=False) for text in (asked * n, told * n)]
    expected = only(chat, talk(*turns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cuvee.data.chat.LARGE", 0)
        found = only(chat, talk(*turns))
    assert (found.status, found.reason, found.spans) == (expected.status, expected.reason, expected.spans)
    assert found.ids.tolist() == expected.ids.tolist()
    if found.status == "dropped":
        assert found.full_tokens <= expected.full_tokens
        assert found.full_supervised <= expected.full_supervised
    else:
        assert (found.full_tokens, found.full_supervised) == (expected.full_tokens, expected.full_supervised)


# --------------------------------------------------------------------------------------------------- split


def parts_of(row: Row) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Return ids and spans of each piece."""
    bounds = [0, *row.cuts, len(row.ids)]
    return [
        (row.ids[a:b].tolist(), [(start - a, end - a) for start, end in row.spans if a <= start < b])
        for a, b in itertools.pairwise(bounds)
    ]


def test_a_long_conversation_becomes_pieces_of_whole_exchanges_under_the_same_system_turn(
    model: Make, talk: Talk
) -> None:
    chat = Chat(model(), "chatml", max_length=70, too_long="split")
    row = only(chat, talk("Hi", "Hello", "x" * 200, "y", "So?", "Yes", system="Be kind."))
    first, second = (chat.text(ids) for ids, _ in parts_of(row))
    head = "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert first == head + "Hi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    assert second == head + "So?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    assert (row.status, row.reason) == ("split", "longer than 70 tokens; 1 exchange left out")
    assert (row.num_pieces, row.num_supervised) == (2, supervised_tokens(chat, "Hello", "Yes"))
    assert row.full_supervised == supervised_tokens(chat, "Hello", "y", "Yes")
    assert row.full_tokens > 200


def supervised_tokens(chat: Chat, *answers: str) -> int:
    return sum(len(chat.tokenizer.encode(answer + "<|im_end|>", add_special_tokens=False)) for answer in answers)


def test_an_exchange_runs_from_its_question_through_its_last_answer(model: Make) -> None:
    turns = [("user", "Hi"), ("user", "You?"), ("assistant", "I"), ("tool", "t"), ("assistant", "am")]
    turns += [("system", "Short!"), ("user", "Bye"), ("assistant", "Bye")]
    chat = Chat(model(), "chatml", max_length=60, too_long="split")
    row = only(chat, Example(tuple(Message(role, text) for role, text in turns)))
    texts = [chat.text(ids) for ids, _ in parts_of(row)]
    assert [text.count("<|im_start|>") for text in texts] == [5, 3]
    assert texts[1].startswith("<s><|im_start|>system\nShort!")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words, answers), min_size=1, max_size=6),
    st.integers(20, 120),
    st.sampled_from(["all", "last"]),
    st.sampled_from(["", "Be kind."]),
    st.sampled_from(sorted(ENDS)),
)
def test_pieces_are_their_own_conversations_in_order_and_hold_every_exchange_that_fits(
    model: Make, talk: Talk, pairs: list[tuple[str, str]], limit: int, mask: str, system: str, name: str
) -> None:
    folder = model()
    whole = Chat(folder, name, mask=mask)
    row = only(
        Chat(folder, name, mask=mask, max_length=limit, too_long="split"),
        talk(*itertools.chain(*pairs), system=system),
    )
    plain = only(whole, talk(*itertools.chain(*pairs), system=system))
    assert (row.full_tokens, row.full_supervised) == (len(plain.ids), plain.num_supervised)

    def alone(run: list[tuple[str, str]]) -> Row:
        return only(whole, talk(*itertools.chain(*run), system=system))

    if len(plain.ids) <= limit:
        assert (row.status, row.ids.tolist(), row.spans) == ("kept", plain.ids.tolist(), plain.spans)
        return
    fitting = [pair for pair in pairs if len(alone([pair]).ids) <= limit]
    assert row.status == ("split" if fitting else "dropped")
    rest = list(pairs)
    for ids, spans in parts_of(row) if fitting else ():
        while len(alone(rest[:1]).ids) > limit:
            rest = rest[1:]
        size = next(n for n in range(len(rest), 0, -1) if alone(rest[:n]).ids.tolist() == ids)
        assert spans == list(alone(rest[:size]).spans)
        assert size == len(rest) or len(alone(rest[: size + 1]).ids) > limit >= len(ids)
        rest = rest[size:]
    assert not any(pair in fitting for pair in rest)


def test_a_conversation_has_no_more_pieces_than_can_be_told_apart(
    model: Make, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuvee.data.chat.MAX_PIECES", 2)
    chat = Chat(model(), "chatml", max_length=30, too_long="split")
    row = only(chat, talk(*["Hi", "Yo"] * 5))
    assert row.num_pieces == 2
    assert row.reason.endswith("; 3 exchanges left out")


# ------------------------------------------------------------------------------------------ what is counted

OFFERED = "{% for tool in tools or [] %}{{ tool.name + ';' }}{% endfor %}" + DEFAULT_SYSTEM


def test_tools_on_offer_are_shown_and_templates_that_leave_them_out_are_counted(model: Make, talk: Talk) -> None:
    plain = talk("Hi", "Hello")
    example = Example(plain.messages, tools=({"name": "add"}, {"name": "sub"}))
    chat = Chat(model(template=OFFERED))
    row = only(chat, example)
    assert chat.text(row.ids).startswith("add;sub;<|im_start|>system")
    assert supervised(chat, row) == ["Hello<|im_end|>"]
    prompt = chat.prompt(plain.messages[:1], example.tools)
    assert prompt == row.ids[: len(prompt)].tolist()
    assert prompt != chat.prompt(plain.messages[:1])
    assert not row.tools_ignored
    blind = Chat(model(template=DEFAULT_SYSTEM))
    assert only(blind, example).tools_ignored
    assert not only(blind, plain).tools_ignored
    np.testing.assert_array_equal(only(blind, example).ids, only(blind, plain).ids)


def test_messages_that_write_special_tokens_are_counted_and_stay(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "plain")
    row = only(chat, talk("Say </s> now <s>", "</s>", "Hi < s >", "Yes"))
    assert (row.status, row.specials) == ("kept", 2)
    assert only(chat, talk("Hi", "Hello")).specials == 0


def test_lengths_before_any_rule_are_kept_whatever_the_rule(model: Make, talk: Talk) -> None:
    example = talk("Hi", "Hello", "x" * 300, "y" * 30)
    whole = only(Chat(folder := model(), "chatml"), example)
    for rule in ("trim", "drop", "split"):
        row = only(Chat(folder, "chatml", max_length=60, too_long=rule), example)
        assert (row.full_tokens, row.full_supervised) == (len(whole.ids), whole.num_supervised)
    refused = only(Chat(folder, "vicuna_v1.1"), Example((Message("tool", "x"), *example.messages)))
    assert (refused.full_tokens, refused.full_supervised, refused.num_pieces) == (0, 0, 0)


# --------------------------------------------------------------------------------------------- refusals


def test_a_row_the_template_refuses_is_dropped_with_its_reason_and_the_others_stay(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "vicuna_v1.1")
    tool = Example((Message("user", "x"), Message("tool", "y"), Message("assistant", "z")))
    rows = chat.render([talk("Hi", "Hello"), tool, talk("So", "Yes")])
    assert [row.status for row in rows] == ["kept", "dropped", "kept"]
    assert "the template refuses the row" in rows[1].reason


def test_a_tool_call_the_template_leaves_out_drops_the_row(model: Make) -> None:
    call = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f"}}]})
    row = only(Chat(model(template=DEFAULT_SYSTEM)), Example((Message("user", "Call"), call)))
    assert (row.status, row.reason) == ("dropped", "the template shows nothing of a tool call")


def test_a_tool_call_that_is_shown_is_supervised(model: Make) -> None:
    shows = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    call = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f"}}]})
    chat = Chat(model(template=shows))
    assert supervised(chat, only(chat, Example((Message("user", "Call"), call)))) == ['{"name": "f"}<|im_end|>']


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "lst"}, "Did you mean 'last'"),
        ({"too_long": "cut"}, "drop, error, split, trim"),
        ({"max_length": 0}, "1 or more"),
    ],
)
def test_impossible_settings_are_refused(model: Make, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chat(model(), "chatml", **arguments)


def test_a_folder_without_what_is_needed_says_what_to_do(model: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer.json; make one with transformers"):
        Chat(tmp_path, "plain")
    with pytest.raises(ModelError, match="names none"):
        Chat(model(eos_token=None), "plain")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        Chat(tmp_path, "plain")


# -------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_prompt_is_what_training_showed_before_the_answer(model: Make, talk: Talk, kind: str, name: str) -> None:
    chat = Chat(model(kind), name)
    row = only(chat, talk("Hi", "the end"))
    prompt = chat.prompt([Message("user", "Hi")])
    assert prompt == list(row.ids[: len(prompt)])
    assert len(prompt) <= row.spans[0][0]
    assert prompt[-1] not in chat.stop_ids


def test_stop_ids_are_the_end_of_sequence_and_the_end_of_turn(model: Make) -> None:
    assert Chat(model(), "vicuna_v1.1").stop_ids == (1,)
    assert Chat(model(), "chatml").stop_ids == (1, 3)


def test_decoding_leaves_special_tokens_out(model: Make, talk: Talk) -> None:
    chat = Chat(model(), "chatml")
    row = only(chat, talk("Hi", "Hello"))
    assert chat.decode(row.ids[slice(*row.spans[0])]) == "Hello"


def test_only_built_in_templates_get_the_tokenizers_first_token(model: Make, talk: Talk) -> None:
    folder = model(template=DEFAULT_SYSTEM)
    assert only(Chat(folder, "chatml"), talk("Hi", "Yo")).ids[0] == 0
    assert only(Chat(folder), talk("Hi", "Yo")).ids[0] == 2


def test_the_description_tells_templates_and_tokenizers_apart(model: Make) -> None:
    chats = [Chat(model(kind), name).describe() for kind in ("bytes", "pieces") for name in ("chatml", "plain")]
    assert len({(told["template_sha256"], told["tokenizer_sha256"]) for told in chats}) == 4
    assert Chat(model(), "vicuna_v1.1").describe()["gap"] == " "
    assert Chat(model(), "chatml").describe()["gap"] == ""


# ------------------------------------------------------------------------------- against the ecosystem


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("template", [TRIMMING, THINKING, DEFAULT_SYSTEM, *templates.BUILT_IN])
def test_tokens_are_those_of_transformers(model: Make, talk: Talk, kind: str, template: str) -> None:
    transformers = pytest.importorskip("transformers")
    built_in = template in templates.BUILT_IN
    folder = model(kind, None if built_in else template)
    chat = Chat(folder, template if built_in else "tokenizer")
    (folder / "chat_template.jinja").write_text(chat.export_template(), encoding="utf-8")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for example in (talk(" Hi \n", "Hello  é", "a<|im_end|>", " b\n"), talk("Hi", "Yo", system="Be brief.")):
        messages = [message.as_dict() for message in example.messages]
        expected = reference.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert list(only(chat, example).ids) == expected
        asked = reference.apply_chat_template(
            messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
        )
        assert chat.prompt(example.messages[:-1]) == asked


# ------------------------------------------------------------------------------------------ other tools stop too


def test_a_trained_folder_tells_other_tools_where_answers_end(model: Make, tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text('{"bos_token_id": 0, "eos_token_id": 1, "temperature": 0.9}')
    chat = Chat(model(), "chatml")
    end = chat.tokenizer.token_to_id("<|im_end|>")
    chat.write_generation_config(tmp_path)
    assert end in chat.stop_ids
    assert json.loads(path.read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": sorted(chat.stop_ids),
        "temperature": 0.9,
    }


@pytest.mark.parametrize("before", [None, "", "[1]", '{"eos_token_id": [7, 8]}'])
def test_one_end_token_is_a_number_whatever_was_there(model: Make, tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "generation_config.json"
    if before is not None:
        path.write_text(before)
    chat = Chat(model(), "vicuna_v1.1")
    chat.write_generation_config(tmp_path)
    assert json.loads(path.read_text()) == {"eos_token_id": chat.tokenizer.token_to_id("</s>")}


def test_a_configuration_that_is_right_stays_as_it_is_byte_for_byte(model: Make, tmp_path: Path) -> None:
    chat = Chat(model(), "vicuna_v1.1")
    text = f'{{"eos_token_id":{chat.stop_ids[0]}, "x": "\\u00e9"}}'
    (tmp_path / "generation_config.json").write_text(text)
    chat.write_generation_config(tmp_path)
    assert (tmp_path / "generation_config.json").read_text() == text

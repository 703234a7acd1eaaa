"""The turns of raw rows as messages: roles, contents, tools, and the checks and repairs that all formats share.

What cannot be used raises ValueError; its text is the reason that the quarantine shows. Repairs are appended, in
words, to a list that the caller gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuvee.values import BadRow, Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALL_ROLES = ("function_call", "tool_call", "tool_calls")

EXTRA_KEYS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
"""Keys of a message, besides role and content, that chat templates read; all others are metadata."""

DEEPEST = 100
"""Levels of lists and objects in tools and tool calls; a few hundred more are past what JSON writers can do."""

LEADING = "turns before the first user turn left out"
TRAILING = "turns after the last answer left out"
WEIGHT = "a message's weight left out"
NUMBER = "a number as answer written as text"
BOOLEAN = "a boolean as answer written as text"
ASKED_NUMBER = "a number as question written as text"
ASKED_BOOLEAN = "a boolean as question written as text"
CALL = "a function call that is no JSON kept as a plain answer"
SYSTEM = "the row's system text left out, because the conversation has its own"


@dataclass(frozen=True, slots=True)
class LeftOut(BadRow):
    """A row that the format leaves out by its own rule: kept aside like a bad one, but no fault of the file."""


def message(turn: Any, repairs: list[str]) -> Message:
    """Return a turn with role and content."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"a message is a {_type(turn)}, not an object")
    weigh(turn, repairs)
    # Parquet fills absent fields with nulls, some writers with empty lists.
    extra = {key: turn[key] for key in EXTRA_KEYS if key in turn and turn[key] not in (None, [], "")}
    name = role(turn.get("role"))
    text = turn.get("content")
    if text is None and "tool_calls" in extra:
        text = ""
    return Message(name, text if isinstance(text, str) else content(text, f"content of a {name} turn"), extra)


def sharegpt(turn: Any, repairs: list[str]) -> Message:
    """Return a turn with from and value; a function call becomes an assistant turn with tool_calls."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn is a {_type(turn)}, not an object")
    weigh(turn, repairs)
    name = turn.get("from")
    if name in CALL_ROLES:
        return _call(content(turn.get("value"), "value of a tool call"), repairs)
    name = role(name)
    return Message(name, content(turn.get("value"), f"value of a {name} turn"))


def role(value: Any) -> str:
    """Return the chat templates' name of a role."""
    if not isinstance(value, str):
        raise ValueError("a message has no role" if value is None else f"a role is a {_type(value)}")
    found = ROLES.get(value) or ROLES.get(value.strip().lower())
    if found is None:
        raise ValueError(f"unknown role {value!r}")
    return found


def content(value: Any, what: str) -> str:
    """Return a content as text: a text, or a list of parts that are all text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    if value is None:
        raise ValueError(f"{what} is missing")
    raise ValueError(f"{what} is a {_type(value)}, not text")


def answer(value: Any, what: str, repairs: list[str]) -> str:
    """Return an answer as text: as `content`, and numbers and booleans as JSON writes them, which is a repair."""
    return _scalar(value, what, repairs, NUMBER, BOOLEAN)


def question(value: Any, what: str, repairs: list[str]) -> str:
    """Return what is asked, or its input, as text by the rule of `answer`."""
    return _scalar(value, what, repairs, ASKED_NUMBER, ASKED_BOOLEAN)


def _scalar(value: Any, what: str, repairs: list[str], number: str, boolean: str) -> str:
    if not isinstance(value, int | float):
        return content(value, what)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} is {value}, which JSON does not have")
    _note(boolean if isinstance(value, bool) else number, repairs)
    return json.dumps(value)


def _note(repair: str, repairs: list[str]) -> None:
    """A repair counts once a row."""
    repairs += [repair] * (repair not in repairs)


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return a row's list of tools, given as a list or as JSON text, each in the form {"type", "function"}."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"tools are broken JSON: {error}") from None
    if not value:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"tools are a {_type(value)}, not a list")
    if not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError("a tool is not an object")
    check_json(value, "tools")
    return tuple(tool if "type" in tool or "name" not in tool else _as_function(tool) for tool in value)


def with_system(messages: list[Message], raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    """Put the text of the row's `system` or `system_prompt` before a conversation that has none of its own."""
    text = raw.get("system") or raw.get("system_prompt")
    if not isinstance(text, str) or not text.strip():
        return messages
    if messages[0].role != "system":
        return [Message("system", text), *messages]
    if messages[0].content.strip() != text.strip():
        repairs.append(SYSTEM)
    return messages


def tidy(messages: Sequence[Message], repairs: list[str]) -> tuple[Message, ...]:
    """Return the turns from the first user turn to the last answer, and system turns before them."""
    roles = [message.role for message in messages]
    if roles == ["user", "assistant"]:
        return tuple(messages)
    if "assistant" not in roles:
        raise ValueError("no assistant turn")
    if "user" not in roles:
        raise ValueError("no user turn")
    first = roles.index("user")
    last = max((i for i in range(first, len(roles)) if roles[i] == "assistant"), default=-1)
    if last < 0:
        raise ValueError("no assistant turn after the first user turn")
    head = [message for message in messages[:first] if message.role == "system"]
    repairs += [LEADING] * (len(head) < first) + [TRAILING] * (last + 1 < len(roles))
    return (*head, *messages[first : last + 1])


def check(message: Message) -> None:
    """Refuse an empty turn and broken Unicode. A tool may answer with nothing, and a system turn be left blank."""
    if not message.content.strip() and message.role in ("user", "assistant") and "tool_calls" not in message.extra:
        raise ValueError(f"an empty {message.role} turn")
    if not message.content.isascii():
        check_unicode(message.content, f"in a {message.role} turn")
    if message.extra:
        check_json(message.extra, f"{', '.join(message.extra)} of a {message.role} turn")


def check_unicode(text: str, where: str) -> None:
    """Refuse text that UTF-8 cannot hold: half of a surrogate pair, or bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"broken Unicode {where}") from None


def check_json(value: Any, what: str, *, finite: bool = True) -> None:
    """Refuse what files cannot hold: dates and bytes out of Parquet, broken Unicode, deep nesting.

    Args:
        value: out of a row.
        what: names it in messages.
        finite: refuse NaN and infinity too, which ids cannot hold.

    Raises:
        ValueError: it is refused.
    """
    try:
        _check_depth(value, DEEPEST)
        text = json.dumps(value, ensure_ascii=False, allow_nan=not finite)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: no plain JSON: {error}") from None
    check_unicode(text, f"in {what}")


def weigh(turn: Mapping[str, Any], repairs: list[str]) -> None:
    """Count what a turn says about its weight in the loss, which is the recipe's matter alone."""
    # OpenAI's and axolotl's keys, and XTuner's.
    for key in ("weight", "train", "output_with_loss"):
        if key in turn and turn[key] not in (None, 1) and WEIGHT not in repairs:
            repairs.append(WEIGHT)


def _call(text: str, repairs: list[str]) -> Message:
    """Return an assistant turn that calls functions, written as JSON: one object or a list of them.

    What is no such JSON is an answer in plain text, which is a repair.
    """
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        calls = []
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        _note(CALL, repairs)
        return Message("assistant", text)
    return Message("assistant", "", {"tool_calls": [_as_function(call) for call in calls]})


def _as_function(description: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": description}


def _check_depth(value: Any, left: int) -> None:
    if not isinstance(value, Mapping | list):
        return
    if not left:
        raise ValueError(f"nested in more than {DEEPEST} levels")
    for item in value.values() if isinstance(value, Mapping) else value:
        _check_depth(item, left - 1)


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__

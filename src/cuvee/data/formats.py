"""Raw rows to conversations: five formats, told apart by looking at the rows.

    messages           {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", ...}]}
    sharegpt           {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", ...}]}
    alpaca             {"instruction": "Add.", "input": "2, 2", "output": "4", "history": [["1 + 1?", "2"]]}
    prompt_completion  {"prompt": "2 + 2?", "completion": "4"}; also prompt/response, query/response
    question_answer    {"question": "2 + 2?", "answer": "4"}

Two repairs are made, and counted by the load: turns before the first user turn (real ShareGPT files are cut
into pieces, a third of which start with an answer) and turns after the last answer are left out.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuvee.errors import DataError
from cuvee.values import Example, Message

LOOK_AT = 100
"""Rows that `detect` looks at."""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
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

LEADING = "turns before the first user turn left out"
TRAILING = "turns after the last answer left out"
TOOLS = "the row's list of tools left out"


@dataclass(frozen=True)
class Repaired(Example):
    """An example that was changed to be usable; `repair` says how."""

    repair: str = ""


def detect(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of the format that fits most of the first rows.

    Args:
        rows: raw rows; at most `LOOK_AT` are read.

    Raises:
        DataError: no row fits any format; the message lists the keys seen and the formats possible.
    """
    seen = list(itertools.islice(rows, LOOK_AT))
    votes = Counter(name for name in map(_format_of, seen) if name)
    if votes:
        # Ties go by the order of FORMATS, which puts the most specific first.
        return max(FORMATS, key=lambda name: (votes[name], -FORMATS.index(name)))
    keys = sorted({str(key) for row in seen for key in row})
    raise DataError(
        f"no format fits: the rows have the keys {', '.join(keys) or '(none)'}; possible: {_POSSIBLE}. "
        "Name the columns with `columns`, such as columns: {question: problem, answer: solution}"
    )


def known(format: str) -> str:
    """Return `format` when there is one of that name.

    Raises:
        DataError: there is none.
    """
    if format not in FORMATS:
        raise DataError(f"there is no format {format!r}; possible: auto, {', '.join(FORMATS)}")
    return format


def convert(raw: Mapping[str, Any], format: str) -> tuple[Message, ...]:
    """Return the conversation of one raw row, repaired where `conversation` says so.

    Raises:
        ValueError: the row cannot be used; the text is the reason.
    """
    return conversation(raw, format)[0]


def conversation(raw: Mapping[str, Any], format: str) -> tuple[tuple[Message, ...], str]:
    """Return the conversation of one raw row and the repairs made, in words; empty when it was taken as it is.

    Raises:
        ValueError: the row cannot be used; the text is the reason.
        DataError: there is no such format.
    """
    messages, repairs = _tidy(_CONVERTERS[known(format)](raw))
    _check(messages)
    if raw.get("tools") and format in ("messages", "sharegpt"):
        repairs.append(TOOLS)
    return messages, "; ".join(repairs)


def example(
    raw: Mapping[str, Any],
    format: str,
    *,
    columns: Mapping[str, str] | None = None,
    tags: str | None = None,
    path: str = "",
    line: int = 0,
) -> Example:
    """Return one raw row as an example; a `Repaired` one where a repair was made.

    Args:
        raw: the row.
        format: one of `FORMATS`.
        columns: the format's field to the row's column.
        tags: the column that holds tags, a string or a list.
        path: the file, for messages.
        line: its line.

    Raises:
        ValueError: the row cannot be used; the text is the reason.
    """
    messages, repair = conversation(renamed(raw, columns or {}), format)
    labels = _tags(raw, tags)
    if repair:
        return Repaired(messages, labels, path, line, repair=repair)
    return Example(messages, labels, path, line)


def renamed(raw: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the row with the format's fields taken from the columns named.

    Raises:
        ValueError: a column is absent.
    """
    if not columns:
        return raw
    for column in columns.values():
        if column not in raw:
            raise ValueError(f"no column {column!r}")
    return {**raw, **{field: raw[column] for field, column in columns.items()}}


# ------------------------------------------------------------------------------------------------ detection


def _format_of(raw: Mapping[str, Any]) -> str:
    for key in ("messages", "conversations"):
        turns = raw.get(key)
        first = turns[0] if isinstance(turns, Sequence) and not isinstance(turns, str) and len(turns) else None
        if isinstance(first, Mapping):
            if "role" in first:
                return "messages"
            if "from" in first:
                return "sharegpt"
    if "instruction" in raw and ("output" in raw or "response" in raw):
        return "alpaca"
    if _first_of(raw, _PROMPTS) and _first_of(raw, _COMPLETIONS):
        return "prompt_completion"
    if "question" in raw and "answer" in raw:
        return "question_answer"
    return ""


_PROMPTS = ("prompt", "query")
_COMPLETIONS = ("completion", "response")


def _first_of(raw: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((name for name in names if name in raw), "")


# ----------------------------------------------------------------------------------------------- converters


def _messages(raw: Mapping[str, Any]) -> list[Message]:
    return [_message(turn) for turn in _turns(raw)]


def _turns(raw: Mapping[str, Any]) -> list[Any]:
    name = _first_of(raw, ("messages", "conversations"))
    turns = raw.get(name) if name else None
    if not isinstance(turns, list):
        raise ValueError("no list of messages" if turns is None else f"{name} is a {type(turns).__name__}, not a list")
    if not turns:
        raise ValueError(f"{name} is empty")
    return turns


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a message is a {type(turn).__name__}, not an object")
    extra = {key: turn[key] for key in EXTRA_KEYS if turn.get(key) is not None}
    role = _role(turn.get("role"))
    content = turn.get("content")
    if content is None and "tool_calls" in extra:
        content = ""
    return Message(role, _content(content, f"content of a {role} turn"), extra)


def _role(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a message has no role" if value is None else f"a role is a {type(value).__name__}")
    role = ROLES.get(value.strip().lower())
    if role is None:
        raise ValueError(f"unknown role {value!r}")
    return role


def _content(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    if value is None:
        raise ValueError(f"{what} is missing")
    raise ValueError(f"{what} is a {type(value).__name__}, not text")


def _sharegpt(raw: Mapping[str, Any]) -> list[Message]:
    return [_sharegpt_turn(turn) for turn in _turns(raw)]


def _sharegpt_turn(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn is a {type(turn).__name__}, not an object")
    name = turn.get("from")
    if name in CALL_ROLES:
        return _call(_content(turn.get("value"), "value of a tool call"))
    role = _role(name)
    return Message(role, _content(turn.get("value"), f"value of a {role} turn"))


def _call(text: str) -> Message:
    """Return an assistant turn that calls functions, written as JSON: one object or a list of them."""
    try:
        calls = json.loads(text)
    except ValueError:
        return Message("assistant", text)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        return Message("assistant", text)
    return Message("assistant", "", {"tool_calls": [{"type": "function", "function": call} for call in calls]})


def _alpaca(raw: Mapping[str, Any]) -> list[Message]:
    turns: list[Message] = []
    if isinstance(raw.get("system"), str) and raw["system"].strip():
        turns.append(Message("system", raw["system"]))
    for pair in raw.get("history") or ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError("history is not a list of pairs")
        turns.append(Message("user", _content(pair[0], "a question of the history")))
        turns.append(Message("assistant", _content(pair[1], "an answer of the history")))
    instruction = _content(raw.get("instruction"), "instruction")
    given = raw.get("input")
    given = "" if given is None else _content(given, "input")
    # FastChat, fastchat/data/convert_alpaca.py: only an input of more than one character counts.
    user = f"{instruction}\nInput:\n{given}" if len(given.strip()) > 1 else instruction
    output = raw["output"] if raw.get("output") is not None else raw.get("response")
    return [*turns, Message("user", user), Message("assistant", _content(output, "output"))]


def _prompt_completion(raw: Mapping[str, Any]) -> list[Message]:
    return [
        *_side(raw, _PROMPTS, "user"),
        *_side(raw, _COMPLETIONS, "assistant"),
    ]


def _side(raw: Mapping[str, Any], names: Sequence[str], role: str) -> list[Message]:
    name = _first_of(raw, names)
    if not name:
        raise ValueError(f"no {' or '.join(names)}")
    value = raw[name]
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) and "role" in turn for turn in value):
        return [_message(turn) for turn in value]
    return [Message(role, _content(value, name))]


def _question_answer(raw: Mapping[str, Any]) -> list[Message]:
    question = _content(raw.get("question"), "question")
    return [Message("user", question), Message("assistant", _content(raw.get("answer"), "answer"))]


_CONVERTERS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "question_answer": _question_answer,
}

FORMATS = tuple(_CONVERTERS)
"""The formats' names, as `format` in a recipe takes them besides ``auto``."""

_POSSIBLE = (
    "messages (messages or conversations with role/content), sharegpt (conversations with from/value), "
    "alpaca (instruction, input, output), prompt_completion (prompt or query, completion or response), "
    "question_answer (question, answer)"
)


# --------------------------------------------------------------------------------------- repairs and checks


def _tidy(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[str]]:
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise ValueError("no assistant turn")
    if "user" not in roles:
        raise ValueError("no user turn")
    first = roles.index("user")
    last = max((i for i in range(first, len(roles)) if roles[i] == "assistant"), default=-1)
    if last < 0:
        raise ValueError("no assistant turn after the first user turn")
    head = [message for message in messages[:first] if message.role == "system"]
    repairs = [LEADING] * (len(head) < first) + [TRAILING] * (last + 1 < len(roles))
    return (*head, *messages[first : last + 1]), repairs


def _check(messages: Sequence[Message]) -> None:
    for message in messages:
        # A tool may well answer with nothing, and a system turn may be left blank.
        if message.role in ("user", "assistant") and not message.content.strip() and "tool_calls" not in message.extra:
            raise ValueError(f"an empty {message.role} turn")
        if not _is_unicode(message.content):
            raise ValueError(f"broken Unicode in a {message.role} turn")


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tags(raw: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    if column not in raw:
        raise ValueError(f"no column {column!r} for tags")
    value = raw[column]
    if value is None:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | int | float) for item in values):
        raise ValueError(f"tags in column {column!r} are neither text nor a list of texts")
    return tuple(str(item) for item in values)

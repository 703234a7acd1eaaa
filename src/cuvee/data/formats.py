"""Raw rows to conversations: the formats, told apart by looking at the rows.

    messages           {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", ...}]}
    sharegpt           {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", ...}]}
    pairs              {"history": [{"user": "2 + 2?", "bot": "4"}]}; also human/assistant, input/output
    alpaca             {"instruction": "Add.", "input": "2, 2", "output": "4", "history": [["1 + 1?", "2"]]}
    prompt_completion  {"prompt": "2 + 2?", "completion": "4"}; also query or question, response
    question_answer    {"question": "2 + 2?", "answer": "4"}; also query/answer, problem/solution
    oasst_best, oasst  OpenAssistant's trees: the best path of each, or all paths; see `data.trees`
    question           {"prompt": "2 + 2?"}; also question, instruction and input, query, text, turns (a list of texts)
    choices            {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}; more layouts in `data.choices`

The list of turns may stand under `messages`, `conversations`, `conversation` or `items`. A text under `system` or
`system_prompt` becomes a system turn where the conversation has none. Trees that are found by looking are read as
`oasst_best`, one conversation a tree, as most users of these data do: all paths repeat each early answer many times.
`question` gives user turns without an answer, which judge a model and train none: only `detect_questions` finds it.
So does `choices`, which is never found by looking: the evaluators that take it name it.

Repairs are counted by the load: turns before the first user turn (real ShareGPT files are cut into pieces, a third of
which start with an answer) and after the last answer are left out, and so is what a message says about its weight in
the loss. Numbers and booleans as questions and answers are written as JSON writes them: 5, 5.0, 1e+20, true. Two turns
of one role in a row are kept; templates decide what becomes of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuvee.data import choices, trees, turns
from cuvee.data.files import TEXT_KEPT, RawRow
from cuvee.errors import DataError
from cuvee.values import BadRow, Example, Message

LOOK_AT = 100
"""Rows that `detect` looks at."""

QUESTION = "question"
"""The format without answers."""

CHOICES = "choices"
"""The format of questions with choices."""

UNANSWERED = (QUESTION, CHOICES)
"""Formats that no model is trained on."""

READINGS = {CHOICES: 2}
"""Formats that are read otherwise than in an earlier version, with the number of the reading: part of a load's id."""

Columns = Mapping[str, str | Sequence[str]]
"""A format's field to the row's column, or to several, whose texts are joined by one space."""


@dataclass(frozen=True)
class Repaired(Example):
    """An example that was changed to be usable; `repair` says how."""

    repair: str = ""


def detect(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of the format that fits most of the first rows; never `QUESTION`.

    Args:
        rows: raw rows; at most `LOOK_AT` are read.

    Raises:
        DataError: no row fits any format; the message lists the keys seen and the formats possible.
    """
    return _elected(rows, _format_of, f"{_POSSIBLE}. {_NAME_COLUMNS}")


def detect_questions(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what `detect` returns, or `QUESTION` where more of the first rows have a question and no answer.

    Raises:
        DataError: as `detect`.
    """
    return _elected(rows, _format_or_question, f"{_POSSIBLE}, {_POSSIBLE_QUESTION}. {_NAME_QUESTION}")


def _elected(rows: Iterable[Mapping[str, Any]], format_of: Callable[[Mapping[str, Any]], str], possible: str) -> str:
    seen = list(itertools.islice(rows, LOOK_AT))
    votes = Counter(name for name in map(format_of, seen) if name)
    if votes:
        # Ties go by the order of FORMATS, which puts the most specific first.
        return max(FORMATS, key=lambda name: (votes[name], -FORMATS.index(name)))
    keys = sorted({str(key).encode("utf-8", "backslashreplace").decode() for row in seen for key in row})
    raise DataError(f"no format fits: the rows have the keys {', '.join(keys) or '(none)'}; possible: {possible}")


def known(format: str, questions: bool = False) -> str:
    """Return `format` when there is one of that name that the use allows.

    Args:
        format: the name.
        questions: whether rows without answers are of use.

    Raises:
        DataError: there is none, or its rows have no answers and are to have some.
    """
    possible = [name for name in FORMATS if questions or name not in UNANSWERED]
    if format in possible:
        return format
    if format in UNANSWERED:
        raise DataError(f"the format {format} has no answers to train on. {_NAME_COLUMNS}")
    raise DataError(f"there is no format {format!r}; possible: auto, {', '.join(possible)}")


def examples(
    rows: Iterable[RawRow],
    format: str,
    *,
    columns: Columns | None = None,
    tags: str | None = None,
    kept: Sequence[str] = (),
    path: str = "",
) -> Iterator[Example | BadRow]:
    """Yield a file's rows as examples; one that cannot be used as a `BadRow` with the reason.

    A row is one example, but for the formats of `TREES`, whose rows and examples do not correspond.

    Args:
        rows: pairs (line, raw row), as `files.rows` gives them.
        format: one of `FORMATS`.
        columns: the format's field to the row's column, or columns.
        tags: the column that holds tags, a text or a list.
        kept: columns that `Example.extra` keeps as they are; of no tree.
        path: the file, for messages.

    Raises:
        DataError: there is no such format.
    """
    if known(format, questions=True) in TREES:
        given = _renamed_rows(rows, columns or {}, path)
        best = format == "oasst_best"
        yield from trees.conversations(given, best=best, tags=lambda raw: _tags(raw, tags), path=path)
        return
    for line, raw in rows:
        if isinstance(raw, BadRow):
            yield raw
            continue
        try:
            row = example(raw, format, columns=columns, tags=tags, kept=kept, path=path, line=line)
        except choices.NoItem as error:
            yield turns.LeftOut(path, line, str(error), str(raw)[:TEXT_KEPT])
            continue
        except ValueError as error:
            yield _bad(path, line, error if columns else _told_apart(error, raw, format), raw)
            continue
        yield row


def example(
    raw: Mapping[str, Any],
    format: str,
    *,
    columns: Columns | None = None,
    tags: str | None = None,
    kept: Sequence[str] = (),
    path: str = "",
    line: int = 0,
) -> Example:
    """Return one raw row of a format that is none of `TREES`; a `Repaired` one where a repair was made.

    Raises:
        ValueError: the row cannot be used; the text is the reason.
    """
    repairs: list[str] = []
    if format == CHOICES:
        said = [choices.read(raw, columns or {}, repairs)]
    else:
        given = renamed(raw, columns) if columns else raw
        if format == QUESTION:
            given = _only_named(given, columns or {})
        said = turns.with_system(_CONVERTERS[format](given, repairs), given, repairs)
    messages = tuple(said) if format in UNANSWERED else turns.tidy(said, repairs)
    for message in messages:
        turns.check(message)
    tools = turns.tools(given["tools"]) if format in WITH_TOOLS and given.get("tools") else ()
    found = (messages, _tags(raw, tags), path, line, tools, _kept(raw, kept))
    return Repaired(*found, repair="; ".join(repairs)) if repairs else Example(*found)


def renamed(raw: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """Return the row with the format's fields taken from the columns named.

    The texts of several columns are joined by one space; blank ones add nothing.

    Raises:
        ValueError: a column is absent, or one of several is no text.
    """
    return {**raw, **{field: _column(raw, column) for field, column in columns.items()}} if columns else raw


def renamed_where_there(raw: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """Return the row with those of the fields renamed whose columns it has."""
    found = dict(raw)
    for field, column in columns.items():
        with contextlib.suppress(ValueError):
            found[field] = _column(raw, column)
    return found


def _column(raw: Mapping[str, Any], column: str | Sequence[str]) -> Any:
    if isinstance(column, str):
        return _there(raw, column)
    texts = [turns.content(_there(raw, name), f"column {name!r}") for name in column]
    return " ".join(text for text in texts if text.strip())


def _there(raw: Mapping[str, Any], column: str) -> Any:
    if column not in raw:
        raise ValueError(f"no column {column!r}")
    return raw[column]


def _renamed_rows(rows: Iterable[RawRow], columns: Columns, path: str) -> Iterator[RawRow]:
    """Yield rows of trees; those of another format as bad rows, because they are no messages of a tree."""
    for line, raw in rows:
        if isinstance(raw, BadRow):
            yield line, raw
            continue
        try:
            given = dict(renamed(raw, columns))
            other = "" if trees.looks_like_one(given) else _format_of(given)
            if other:
                raise ValueError(_in_another(TREES[0], other))
            yield line, given
        except ValueError as error:
            yield line, _bad(path, line, error, raw)


def _told_apart(error: ValueError, raw: Mapping[str, Any], format: str) -> ValueError:
    """Return the reason, which also says so where the row fits another format than the one it was read in."""
    if format == CHOICES:
        return error
    other = "" if format == QUESTION and _first_of(raw, _ASKING) else _format_of(raw)
    return ValueError(f"{_in_another(format, other)}: {error}") if other and other != format else error


def _in_another(format: str, other: str) -> str:
    # No colon: what follows the first one is left out where reasons are counted.
    return f"read in the format {format} and looks like {other} (name one with `format`, or make a source of each)"


def _bad(path: str, line: int, error: ValueError, raw: Mapping[str, Any]) -> BadRow:
    return BadRow(path, line, str(error), str(raw)[:TEXT_KEPT])


def _only_named(raw: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """Leave out a question's fields that `columns` does not name where it names some: those named are the question."""
    fields = {*_ASKING, "input"}
    if not fields & columns.keys():
        return raw
    return {key: value for key, value in raw.items() if key in columns or key not in fields}


# ------------------------------------------------------------------------------------------------ detection


def _format_or_question(raw: Mapping[str, Any]) -> str:
    return _format_of(raw) or (QUESTION if _first_of(raw, _ASKING) else "")


def _format_of(raw: Mapping[str, Any]) -> str:
    return _of_turns(raw) or _of_columns(raw)


def _of_turns(raw: Mapping[str, Any]) -> str:
    for key in (*_LISTS, "history"):
        found = raw.get(key)
        first = found[0] if isinstance(found, list) and found else None
        if not isinstance(first, Mapping):
            continue
        if key != "history" and "role" in first:
            return "messages"
        if key != "history" and "from" in first:
            return "sharegpt"
        if _first_of(first, _ASKED) and _first_of(first, _ANSWERED):
            return "pairs"
    return ""


def _of_columns(raw: Mapping[str, Any]) -> str:
    if "instruction" in raw and ("output" in raw or "response" in raw):
        return "alpaca"
    if trees.looks_like_one(raw):
        return "oasst_best"
    answered = bool(_first_of(raw, _COMPLETIONS))
    if answered and _first_of(raw, _PROMPTS[:2]):
        return "prompt_completion"
    if any(question in raw and answer in raw for question, answer in _QUESTIONS):
        return "question_answer"
    return "prompt_completion" if answered and "question" in raw else ""


_LISTS = ("messages", "conversations", "conversation", "items")
_ASKED = ("user", "human", "input")
_ANSWERED = ("bot", "assistant", "output")
_PROMPTS = ("prompt", "query", "question")
_COMPLETIONS = ("completion", "response")
_ASKING = ("question", "prompt", "instruction", "query", "text", "turns")
_QUESTIONS = (("question", "answer"), ("query", "answer"), ("problem", "solution"))


def _first_of(raw: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first name that has a value, or else the first that is there at all."""
    there = [name for name in names if name in raw]
    return next((name for name in there if raw[name] is not None), there[0] if there else "")


# ----------------------------------------------------------------------------------------------- converters


def _messages(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    return [turns.message(turn, repairs) for turn in _list(raw, _LISTS)]


def _sharegpt(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    return [turns.sharegpt(turn, repairs) for turn in _list(raw, _LISTS)]


def _list(raw: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    name = _first_of(raw, names)
    found = raw.get(name)
    if not isinstance(found, list):
        raise ValueError("no list of messages" if found is None else f"{name} is a {type(found).__name__}, not a list")
    if not found:
        raise ValueError(f"{name} is empty")
    return found


def _pairs(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    found: list[Message] = []
    for pair in _list(raw, ("history", *_LISTS)):
        if not isinstance(pair, Mapping):
            raise ValueError("an exchange is not an object")
        # XTuner writes the system text into the first exchange.
        system = pair.get("system")
        found += [Message("system", turns.content(system, "system"))] if system else []
        found += [_message(pair, _ASKED, "user", repairs), _message(pair, _ANSWERED, "assistant", repairs)]
        turns.weigh(pair, repairs)
    return found


def _message(raw: Mapping[str, Any], names: Sequence[str], role: str, repairs: list[str]) -> Message:
    name = _first_of(raw, names)
    if not name:
        raise ValueError(f"no {' or '.join(names)}")
    return _answer(raw[name], name, repairs) if role == "assistant" else _asked(raw[name], name, repairs)


def _answer(value: Any, what: str, repairs: list[str]) -> Message:
    return Message("assistant", turns.answer(value, what, repairs))


def _asked(value: Any, what: str, repairs: list[str]) -> Message:
    return Message("user", turns.question(value, what, repairs))


def _alpaca(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    found: list[Message] = []
    for pair in _history(raw.get("history")):
        found.append(_asked(pair[0], "a question of the history", repairs))
        found.append(_answer(pair[1], "an answer of the history", repairs))
    output = raw["output"] if raw.get("output") is not None else raw.get("response")
    return [*found, Message("user", _instructed(raw, repairs)), _answer(output, "output", repairs)]


def _instructed(raw: Mapping[str, Any], repairs: list[str]) -> str:
    """Return an instruction with its input."""
    instruction = turns.question(raw.get("instruction"), "instruction", repairs)
    # databricks-dolly-15k has its input under `context`.
    given = raw.get("input") if raw.get("input") is not None else raw.get("context")
    given = "" if given is None else given
    # FastChat, fastchat/data/convert_alpaca.py: only an input of more than one character counts; a number always does.
    text = turns.question(given, "input", repairs)
    told = len(text.strip()) > 1 or isinstance(given, int | float)
    return f"{instruction}\nInput:\n{text}" if told else instruction


def _history(value: Any) -> list[Any]:
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError("history is not a list of pairs")
    return value


def _prompt_completion(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    return [*_side(raw, _PROMPTS, "user", repairs), *_side(raw, _COMPLETIONS, "assistant", repairs)]


def _side(raw: Mapping[str, Any], names: Sequence[str], role: str, repairs: list[str]) -> list[Message]:
    value = raw.get(_first_of(raw, names))
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) and "role" in turn for turn in value):
        return [turns.message(turn, repairs) for turn in value]
    return [_message(raw, names, role, repairs)]


def _question_answer(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    there = (names for names in _QUESTIONS if names[0] in raw and names[1] in raw)
    question, answer = next(there, _QUESTIONS[0])
    return [
        _asked(raw.get(question), question, repairs),
        _answer(raw.get(answer), answer, repairs),
    ]


def _question(raw: Mapping[str, Any], repairs: list[str]) -> list[Message]:
    name = _first_of(raw, _ASKING)
    if not name:
        raise ValueError(f"no {' or '.join(_ASKING)}")
    if name == "instruction":
        return [Message("user", _instructed(raw, repairs))]
    if name != "turns":
        return [_asked(raw[name], name, repairs)]
    asked = raw[name]
    if not isinstance(asked, list) or not asked:
        raise ValueError("turns is no list of texts")
    return [_asked(text, "a text of turns", repairs) for text in asked]


_CONVERTERS: dict[str, Callable[[Mapping[str, Any], list[str]], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "pairs": _pairs,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "question_answer": _question_answer,
    QUESTION: _question,
}

TREES = ("oasst_best", "oasst")
"""Formats whose rows are trees or messages of trees."""

FORMATS = (*(name for name in _CONVERTERS if name != QUESTION), *TREES, QUESTION, CHOICES)
"""The formats' names, as `format` in a recipe takes them besides ``auto``."""

WITH_TOOLS = ("messages", "sharegpt", "prompt_completion")
"""Formats in which a row's `tools` are those that its conversation may call."""

_POSSIBLE = (
    "messages (messages or conversations with role/content), sharegpt (conversations with from/value), "
    "pairs (history with user/bot), alpaca (instruction, input, output), "
    "prompt_completion (prompt or query, completion or response), question_answer (question, answer), "
    "oasst_best or oasst (OpenAssistant's trees)"
)
_POSSIBLE_QUESTION = f"{QUESTION} ({', '.join(_ASKING[:-1])}, or turns, a list of texts)"
_NAME_COLUMNS = "Name the columns with `columns`, such as columns: {question: problem, answer: solution}"
_NAME_QUESTION = "Name the column with `columns`, such as columns: {question: problem}"


def _kept(raw: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column in columns:
        if column not in raw:
            raise ValueError(f"no column {column!r} to keep")
        found[column] = raw[column]
    if found:
        # Kept columns are no part of an id, and some benchmarks' inputs are infinite.
        turns.check_json(found, f"kept columns {', '.join(columns)}", finite=False)
    return found


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
    found = tuple(str(item) for item in values)
    turns.check_unicode("".join(found), f"in column {column!r}")
    return found

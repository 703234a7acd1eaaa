"""Where the answers lie in a rendered conversation: character spans, exact for any template.

The text between contents is a function of the roles for most templates: `Shapes` renders each sequence of roles
once. Where the template does nothing with contents but copy them (`copying.Flow`), a shape with the row's contents is
the row's text, and is made without rendering. Elsewhere the answers' places are taken from the shape wherever its
text with the row's own contents is the row's text. Otherwise three ways, tried in this order:

1. All answers are replaced by sentinels and the conversation is rendered again. The text between sentinels must
   be found in the plain text, with the answers, as they are or stripped, between.
2. One answer at a time is replaced. What stands before and after the sentinel must be the head and the tail of
   the plain text; what the plain text has between is the answer as the template rewrote it.
3. Prefix differences: the conversation before the turn, rendered for generation, must be a head of the plain
   text, and so must the conversation up to and including the turn. This one also covers what an assistant
   writes besides content, tool calls and reasoning, and comes first for a turn that has them; a sentinel that
   stands for them too comes second.

    plain     <|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n#### 4<|im_end|>\n
    replaced  <|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n~~~~~~<|im_end|>\n
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from cuvee.data.copying import Flow
from cuvee.data.templates import Render
from cuvee.errors import ModelError
from cuvee.values import Message

Turn = Mapping[str, Any]
Span = tuple[int, int]

# What an assistant writes besides its content: a sentinel in the content would miss it.
REASONING = ("reasoning_content", "thinking")
WRITTEN = ("tool_calls", *REASONING)


class NotShown(ValueError):
    """The template leaves out something of the row that must be seen; the row cannot be used with it."""


def answers(
    render: Render, messages: Sequence[Turn], text: str, wanted: Sequence[int], special: re.Pattern[str]
) -> list[Span]:
    """Return the character span of each wanted assistant turn's own text; (s, s) where nothing of it is shown.

    Args:
        render: the template.
        messages: the conversation.
        text: the conversation as rendered, without generation prompt.
        wanted: positions of assistant turns in `messages`, ascending.
        special: matches any special token.

    Raises:
        NotShown: a turn cannot be found by any of the three ways, or it calls tools and the template shows nothing
            of it.
    """
    if not any(messages[index].get(key) for index in wanted for key in WRITTEN):
        spans = _all_at_once(render, messages, text, wanted)
        if spans is not None:
            return spans
    return [_single(render, messages, text, index, special) for index in wanted]


class Shapes:
    """The texts between contents of conversations without tools and calls, by their roles.

    Args:
        render: the template.
        flow: what the template does with contents.
    """

    def __init__(self, render: Render, flow: Flow) -> None:
        self._flow = flow
        self._of = lru_cache(maxsize=4096)(partial(_shape, render))

    def copied(self, messages: Sequence[Message]) -> tuple[str, list[Span]] | None:
        """Return a conversation's text and the character span of each message, without rendering it.

        None where that is not certain to be the text: the template looks at contents, or does not show all of them.
        """
        if not self._flow.copies:
            return None
        pieces = self._of(tuple([message.role for message in messages]))
        if pieces is None or (self._flow.tidy and not all(_is_tidy(message.content) for message in messages)):
            return None
        parts, places, at = [pieces[0]], [], len(pieces[0])
        for message, piece in zip(messages, pieces[1:], strict=True):
            end = at + len(message.content)
            places.append((at, end))
            parts += (message.content, piece)
            at = end + len(piece)
        return "".join(parts), places

    def spans(self, messages: Sequence[Turn], text: str, wanted: Sequence[int]) -> list[Span] | None:
        """Return the character span of each wanted turn; None where the text is not the shape with the contents."""
        pieces = self._of(tuple([str(message["role"]) for message in messages]))
        if pieces is None or not text.startswith(pieces[0]):
            return None
        places, at = [], len(pieces[0])
        for message, piece in zip(messages, pieces[1:], strict=True):
            length = _length(text, at, message["content"], piece)
            if length < 0:
                return None
            places.append((at, at + length))
            at += length + len(piece)
        return [places[index] for index in wanted] if at == len(text) else None


def _is_tidy(text: str) -> bool:
    return bool(text) and not text[0].isspace() and not text[-1].isspace()


def _shape(render: Render, roles: tuple[str, ...]) -> list[str] | None:
    marks = _marks("", len(roles))
    turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        return _split(_try(render, turns), marks)
    except ModelError:
        return None


def end_of_turn(text: str, end: int, special: re.Pattern[str], eos: str, next_content: str) -> int:
    """Return where an answer's turn ends: after the first special token that follows the answer.

    A run of special tokens without text between is taken up to the end-of-sequence token in it. Returns `end`
    when the template closes the turn with no special token.

    Args:
        text: the rendered conversation.
        end: where the answer ends.
        special: matches any special token.
        eos: the end-of-sequence token.
        next_content: content of the next message, which the search must not enter; empty for the last turn.
    """
    found = special.search(text, end)
    if not found:
        return end
    if text[end : found.start()].strip() and next_content.strip():
        bound = text.find(next_content.strip(), end)
        if 0 <= bound < found.start():
            return end
    if found.group() == eos:
        return found.end()
    run = found.end()
    while following := special.match(text, run):
        run = following.end()
        if following.group() == eos:
            return run
    return found.end()


def _all_at_once(render: Render, messages: Sequence[Turn], text: str, wanted: Sequence[int]) -> list[Span] | None:
    marks = _marks(text, len(wanted))
    replaced = list(messages)
    for index, mark in zip(wanted, marks, strict=True):
        replaced[index] = {**messages[index], "content": mark}
    pieces = _split(_try(render, replaced), marks)
    if pieces is None or not text.startswith(pieces[0]):
        return None
    spans, at = [], len(pieces[0])
    for index, piece in zip(wanted, pieces[1:], strict=True):
        length = _length(text, at, str(messages[index]["content"]), piece)
        if length < 0:
            return None
        spans.append((at, at + length))
        at += length + len(piece)
    return spans if at == len(text) else None


def _length(text: str, at: int, content: str, piece: str) -> int:
    """Return the length of `content` in the text at `at` when `piece` follows it, -1 when it is not there."""
    if text.startswith(content, at) and text.startswith(piece, at + len(content)):
        return len(content)
    for shown in (content.strip(), content.lstrip("\n"), content.rstrip()):
        if text.startswith(shown, at) and text.startswith(piece, at + len(shown)):
            return len(shown)
    return -1


def _single(render: Render, messages: Sequence[Turn], text: str, index: int, special: re.Pattern[str]) -> Span:
    turn = messages[index]
    if any(turn.get(key) for key in WRITTEN):
        span = _difference(render, messages, text, index, special) or _replaced(render, messages, text, index)
    else:
        span = _replaced(render, messages, text, index) or _difference(render, messages, text, index, special)
    if span is None:
        raise NotShown(_unfound(messages, turn))
    if turn.get("tool_calls") and span[0] == span[1]:
        raise NotShown("the template shows nothing of a tool call")
    return span


def _unfound(messages: Sequence[Turn], turn: Turn) -> str:
    """Return the reason for an answer that is not found; the same for all rows of a kind, as rows are counted by it."""
    if any("</think>" in str(other.get("content")) or any(map(other.get, REASONING)) for other in messages):
        return (
            "the template does not show where an answer lies, as templates that rewrite reasoning do; use mask: last, "
            "another template, or take the reasoning out of the data"
        )
    if turn.get("tool_calls"):
        return "the template does not show where an answer that calls tools lies; use another template"
    return "the template does not show where an answer lies; use mask: last or another template"


def _replaced(render: Render, messages: Sequence[Turn], text: str, index: int) -> Span | None:
    marks = _marks(text, 1)
    turn = {key: value for key, value in messages[index].items() if key not in WRITTEN}
    replaced = [*messages[:index], {**turn, "content": marks[0]}, *messages[index + 1 :]]
    pieces = _split(_try(render, replaced), marks)
    if pieces is None:
        return None
    head, tail = pieces
    if len(head) + len(tail) <= len(text) and text.startswith(head) and text.endswith(tail):
        return len(head), len(text) - len(tail)
    return None


def _difference(
    render: Render, messages: Sequence[Turn], text: str, index: int, special: re.Pattern[str]
) -> Span | None:
    before = _try(render, messages[:index], generate=True)
    if before is None or not text.startswith(before):
        return None
    through = text
    if index + 1 < len(messages):
        shown = _try(render, messages[: index + 1])
        if shown is None or len(shown) < len(before) or not text.startswith(shown):
            return None
        through = shown
    own = through[len(before) :]
    # The end token and the white space round it are found again by `end_of_turn`.
    closing = re.search(rf"(?:\s|{special.pattern})+\Z", own)
    end = closing.start() if closing else len(own)
    start = min(end, _heading(render, messages[:index], before, own))
    return len(before) + start, len(before) + end


def _heading(render: Render, messages: Sequence[Turn], before: str, own: str) -> int:
    """Return the length of the heading at the start of a turn's text; 0 when the generation prompt covers it.

    Templates that know no generation prompt write the heading with the turn: it is what an answer's sentinel has
    before it.
    """
    if _try(render, messages) != before:
        return 0
    (mark,) = _marks(before, 1)
    shown = _try(render, [*messages, {"role": "assistant", "content": mark}]) or ""
    heading = shown.partition(mark)[0].removeprefix(before)
    return next((at for at, pair in enumerate(zip(heading, own, strict=False)) if pair[0] != pair[1]), len(heading))


def _marks(text: str, n: int) -> list[str]:
    """Return `n` strings that are not in the text and survive stripping."""
    stem = "\ue000mark"
    while stem in text:
        stem += "x"
    return [f"{stem}{number}\ue001" for number in range(n)]


def _split(text: str | None, marks: Sequence[str]) -> list[str] | None:
    """Return the pieces between the marks; None when a mark is missing, repeated or out of order."""
    pieces = []
    for mark in marks:
        if text is None or text.count(mark) != 1:
            return None
        head, _, text = text.partition(mark)
        pieces.append(head)
    return None if text is None else [*pieces, text]


def _try(render: Render, messages: Sequence[Turn], generate: bool = False) -> str | None:
    try:
        return render(messages, generate)
    except ValueError:
        return None

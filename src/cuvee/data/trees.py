"""OpenAssistant's trees to conversations: a question, several replies to it, questions about each reply, and so on.

    nested  {"message_tree_id": "a", "prompt": {"text": "2 + 2?", "role": "prompter", "replies": [{...}, ...]}}
    flat    {"message_id": "b", "parent_id": "a", "text": "4", "role": "assistant", "rank": 0}; one message a row

A conversation goes from a root to an assistant message below which there is no other, so that none is the beginning
of another. All of them, or one a tree: at each turn the reply of the lowest `rank`, then the ranked before the
others, then the lowest `message_id`, among those with an answer in or below them; never by file order.

Every message is in a conversation, or kept aside with a reason. Those that the rule passes over (deleted, below a
deleted one, no answer below, not on the best path) are `LeftOut`; those that are at fault (no parent in the file, an
empty text) and those below them are bad rows.

A nested tree is done when it was read. Of flat rows all messages of the file are in memory at once, with their text,
place and rank only. The parent of a flat message must be in the same file. Formats: Köpf et al., arXiv 2304.07327,
and https://github.com/LAION-AI/Open-Assistant, oasst-data/oasst_data/schemas.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cuvee.data import turns
from cuvee.data.files import TEXT_KEPT, RawRow
from cuvee.data.turns import LeftOut
from cuvee.values import BadRow, Example, Message

DELETED = "a deleted message"
BELOW_DELETED = "below a deleted message"
UNANSWERED = "no assistant reply below it"
PASSED_OVER = "not on the tree's best path"
ORPHAN = "its parent is absent from the file"
BELOW_BAD = "below a message that cannot be used"
CIRCLE = "its parents lead back to it"
LEFT_OUT = (DELETED, BELOW_DELETED, UNANSWERED, PASSED_OVER)

Tags = Callable[[Mapping[str, Any]], tuple[str, ...]]


def looks_like_one(raw: Mapping[str, Any]) -> bool:
    """Say whether a row is a nested tree or a flat message."""
    return _is_nested(raw) or {"message_id", "role", "text"} <= raw.keys()


def conversations(rows: Iterable[RawRow], *, best: bool, tags: Tags, path: str = "") -> Iterator[Example | BadRow]:
    """Yield conversations, and the messages that are in none, each at the place of its message or its last one.

    Args:
        rows: nested trees, flat messages, or both.
        best: one conversation a tree instead of all.
        tags: a row's tags; a flat conversation has those of its last message.
        path: the file, for messages.
    """
    flat: list[_Node] = []
    for line, raw in rows:
        if isinstance(raw, BadRow):
            yield raw
            continue
        try:
            labels = tags(raw)
        except ValueError as error:
            yield BadRow(path, line, str(error), str(raw)[:TEXT_KEPT])
            continue
        if _is_nested(raw):
            yield from _forest(_nested(raw["prompt"], line, labels), best, path)
        else:
            flat.append(_node(raw, line, labels))
    _link(flat)
    yield from _forest(flat, best, path)


@dataclass(slots=True)
class _Node:
    """One message. `trouble` says why it is in no conversation."""

    line: int
    id: str
    role: str
    text: str
    rank: float | None
    tags: tuple[str, ...]
    trouble: str = ""
    parent_id: str = ""
    parent: _Node | None = None
    replies: list[_Node] = field(default_factory=list)
    met: bool = False
    answered: bool = False
    used: bool = False

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.rank is None, self.rank or 0, self.id, self.text)


def _is_nested(raw: Mapping[str, Any]) -> bool:
    root = raw.get("prompt")
    return isinstance(root, Mapping) and "text" in root and "role" in root


def _node(raw: Any, line: int, tags: tuple[str, ...]) -> _Node:
    if not isinstance(raw, Mapping):
        return _Node(line, "", "", str(raw)[:TEXT_KEPT], None, tags, "a message is not an object")
    rank, text = raw.get("rank"), raw.get("text")
    node = _Node(
        line,
        _id(raw.get("message_id")),
        "",
        text if isinstance(text, str) else "",
        rank if isinstance(rank, int | float) and rank == rank else None,
        tags,
        DELETED if raw.get("deleted") else "",
        _id(raw.get("parent_id")),
    )
    try:
        node.role = turns.role(raw.get("role"))
        turns.check(Message(node.role, turns.content(text, "text")))
    except ValueError as error:
        node.trouble = node.trouble or str(error)
    return node


def _id(value: Any) -> str:
    return "" if value is None else str(value)


def _nested(root: Any, line: int, tags: tuple[str, ...]) -> list[_Node]:
    """Return a tree's messages, parents first."""
    found: list[_Node] = []
    waiting: list[tuple[Any, _Node | None]] = [(root, None)]
    while waiting:
        raw, parent = waiting.pop()
        node = _node(raw, line, tags)
        _hang(node, parent)
        found.append(node)
        replies = raw.get("replies") if isinstance(raw, Mapping) else None
        if isinstance(replies, list):
            waiting += [(reply, node) for reply in reversed(replies)]
        elif replies is not None:
            node.trouble = node.trouble or f"replies is a {type(replies).__name__}, not a list"
    return found


def _link(nodes: list[_Node]) -> None:
    """Hang flat messages below their parents."""
    by_id: dict[str, _Node] = {}
    for node in nodes:
        if not node.id:
            node.trouble = node.trouble or "a message has no message_id"
        elif node.id in by_id:
            node.trouble = f"its message_id was there before: {node.id}, line {by_id[node.id].line}"
        else:
            by_id[node.id] = node
    for node in nodes:
        _hang(node, by_id.get(node.parent_id) if node.parent_id else None)
        if node.parent_id and node.parent is None:
            node.trouble = node.trouble or ORPHAN


def _hang(node: _Node, parent: _Node | None) -> None:
    node.parent = parent
    if parent:
        parent.replies.append(node)


def _forest(nodes: list[_Node], best: bool, path: str) -> Iterator[Example | BadRow]:
    order = _from_the_roots(nodes)
    for node in reversed(order):
        node.answered = not node.trouble and (node.role == "assistant" or any(r.answered for r in node.replies))
    for node in order:
        node.used = node.used or (node.parent is None and node.answered)
        for reply in _goes_on(node, best):
            reply.used = True
    for node in nodes:
        if not node.used:
            reason = _why_not(node)
            kind = LeftOut if reason in LEFT_OUT else BadRow
            yield kind(path, node.line, reason, node.text[:TEXT_KEPT])
        elif not any(reply.answered for reply in node.replies):
            yield Example(_to(node), node.tags, path, node.line)


def _from_the_roots(nodes: list[_Node]) -> list[_Node]:
    """Return all messages that hang on a root, parents first, with the trouble that each inherits."""
    order: list[_Node] = []
    waiting = [node for node in nodes if node.parent is None]
    for root in waiting:
        if not root.trouble and root.role != "user":
            root.trouble = "a tree starts with no prompter message"
    while waiting:
        node = waiting.pop()
        node.met = True
        order.append(node)
        if node.trouble:
            inherited = BELOW_DELETED if node.trouble in (DELETED, BELOW_DELETED) else BELOW_BAD
            for reply in node.replies:
                reply.trouble = reply.trouble or inherited
        waiting += node.replies
    return order


def _goes_on(node: _Node, best: bool) -> list[_Node]:
    if not node.used:
        return []
    answered = [reply for reply in node.replies if reply.answered]
    return [min(answered, key=lambda reply: reply.order)] if best and answered else answered


def _why_not(node: _Node) -> str:
    if node.trouble or not node.met:
        return node.trouble or CIRCLE
    return PASSED_OVER if node.answered else UNANSWERED


def _to(node: _Node) -> tuple[Message, ...]:
    found: list[Message] = []
    here: _Node | None = node
    while here:
        found.append(Message(here.role, here.text))
        here = here.parent
    return tuple(reversed(found))

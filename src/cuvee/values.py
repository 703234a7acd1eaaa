"""Small frozen values that travel between the floors: messages, examples, bad rows.

Example((Message("user", "2 + 2?"), Message("assistant", "#### 4"))).id  # 32 hex digits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` holds what templates may use besides text (tool calls, tool name)."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the message as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.extra}


def _digest(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> bytes:
    # surrogatepass: broken surrogates in real files must not crash hashing; they hash to themselves.
    return hashlib.blake2b(_form(messages, tools).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _form(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    """Return compact JSON with sorted keys: a list of [role, content] with what else a template may use."""
    if tools or any(m.extra for m in messages):
        data: list[Any] = [[m.role, m.content, *([m.extra] if m.extra else [])] for m in messages]
        if tools:
            data.append({"tools": list(tools)})
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # The same text, four times as fast: most rows are nothing but roles and contents.
    return f"[{','.join([f'[{encode_basestring(m.role)},{encode_basestring(m.content)}]' for m in messages])}]"


@dataclass(frozen=True)
class Example:
    """One conversation.

    Its id is the hash of roles, contents, tool calls and the tools on offer, never of metadata: equal rows share
    it and are told apart by their occurrence number, which the load stage gives. `tools` are the descriptions of
    functions that a template shows the model; the prompt key leaves them out, so that a question that is held out
    under one set of tools is held out under all. `extra` keeps columns of the raw row that a judge asks for.
    """

    messages: tuple[Message, ...]
    tags: tuple[str, ...] = ()
    path: str = ""
    line: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> bytes:
        """The id as 16 raw bytes."""
        return _digest(self.messages, self.tools)

    @property
    def id(self) -> str:
        """The id as 32 hex digits."""
        return self.key.hex()

    @cached_property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the first assistant turn."""
        for index, message in enumerate(self.messages):
            if message.role == "assistant":
                return self.messages[:index]
        return self.messages

    @cached_property
    def prompt_key(self) -> bytes:
        """Hash of the prompt, 16 raw bytes: what the held-out split hangs on."""
        return _digest(self.prompt)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: kept aside with its place and reason, never lost."""

    path: str
    line: int
    reason: str
    text: str = ""

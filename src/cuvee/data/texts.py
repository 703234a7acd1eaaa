"""The text of an example that is compared with other texts.

text_of(example, "prompt")  # "What is 2 + 2?"
"""

from __future__ import annotations

import json

from cuvee.values import Example, Message

PARTS = ("conversation", "prompt", "answer")


def text_of(example: Example, part: str) -> str:
    """Return all turns (`conversation`), those before the first answer (`prompt`), or the model's (`answer`).

    System turns are never part of it: one may stand over every row of a source and would make them alike. Calls of
    tools are part of a turn, as JSON.
    """
    turns = example.prompt if part == "prompt" else example.messages
    chosen = (turn for turn in turns if turn.role != "system" and (part != "answer" or turn.role == "assistant"))
    return "\n".join(map(_turn, chosen))


def _turn(turn: Message) -> str:
    calls = turn.extra.get("tool_calls")
    return f"{turn.content}\n{json.dumps(calls, sort_keys=True, ensure_ascii=False)}" if calls else turn.content

"""The texts of single tokens, for people to read.

A token that is part of a character decodes to nothing readable by itself and is shown as the tokenizer writes it down
(``<0xE2>``, ``âĢ``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cuvee.data.chat import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from cuvee.protocols import TokenRow

UNREADABLE = "\ufffd"


def supervised(folder: Path, rows: Iterable[TokenRow]) -> list[list[str]]:
    """Return the text of every supervised token of every row, in the order of the tokens' losses.

    Args:
        folder: of the model whose tokenizer made the ids.
        rows: token rows; the first token of a row is never predicted, so it is none of them.

    Raises:
        ModelError: the folder has no tokenizer that can be read.
    """
    tokenizer, _, _ = load_tokenizer(folder)
    known: dict[int, str] = {}

    def text(number: int) -> str:
        if number not in known:
            plain = tokenizer.decode([number], skip_special_tokens=False)
            readable = plain and UNREADABLE not in plain
            known[number] = plain if readable else tokenizer.id_to_token(number) or str(number)
        return known[number]

    return [[text(number) for number in _supervised(row)] for row in rows]


def _supervised(row: TokenRow) -> Sequence[int]:
    return [int(number) for start, end in row.spans for number in row.ids[max(start, 1) : end]]

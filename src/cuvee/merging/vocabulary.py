"""Vocabularies that differ: which row of one model's embeddings stands for which token of the reference.

The rule: a token is matched by its text. A token that the model lacks takes the reference's row, so that it changes
nothing there; a token that only the model has is left out. The reference's tokenizer is the result's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def tokens(folder: Path) -> dict[str, int] | None:
    """Return a tokenizer's tokens with their ids; None where there is no tokenizer.json that says so."""
    try:
        data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        listed = data["model"]["vocab"]
        found = dict(listed) if isinstance(listed, Mapping) else {entry[0]: i for i, entry in enumerate(listed)}
        return {**found, **{one["content"]: int(one["id"]) for one in data.get("added_tokens", ())}}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def align(
    wanted: Mapping[str, int] | None,
    rows: int,
    there: Mapping[str, int] | None,
    size: int,
    reference: str,
    name: str,
) -> tuple[Tensor | None, str]:
    """Return which row of a model stands for each row of the reference.

    Args:
        wanted: the reference's tokens; None when unknown.
        rows: rows of its embeddings.
        there: the model's tokens.
        size: rows of its embeddings.
        reference, name: of the two models.

    Returns:
        Row numbers, (rows,), -1 for none, or None when the rows are the same as they are; and what was done, as a
        sentence, empty when nothing was.
    """
    if wanted is None or there is None or (wanted == there and rows == size):
        return None, ""
    found = torch.full((rows,), -1, dtype=torch.int64)
    if wanted == there:
        both = min(rows, size)
        found[:both] = torch.arange(both)
        return found, f"{name}: {size:,} vocabulary rows for {reference}'s {rows:,} and the same tokens; by id"
    for token, number in wanted.items():
        if number < rows and there.get(token, size) < size:
            found[number] = there[token]
    # Rows without a token are padding: they stay with their own number where both have them.
    named = set(wanted.values())
    theirs = set(there.values())
    for number in range(min(rows, size)):
        if number not in named and number not in theirs:
            found[number] = number
    shared = sum(token in there for token in wanted)
    return found, (
        f"{name}: {shared:,} of {reference}'s {len(wanted):,} tokens are matched by their text; the "
        f"{len(wanted) - shared:,} it lacks take {reference}'s rows, its own {sum(t not in wanted for t in there):,} "
        "are left out"
    )

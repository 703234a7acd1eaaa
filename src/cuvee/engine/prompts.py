"""Rows with one prompt and several answers: the prompt goes through the model once.

Sampled answers to the same questions (rejection sampling, candidates of a judge) make pools in which most tokens stand
in prompts that come again. Such rows are one item of `choices`, whose answers are the branches of a tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from cuvee.engine import choices
from cuvee.protocols import Likelihood, Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

WORTH = 1 / 4
"""Of the tokens of rows with one prompt that must be saved: a tree's attention is slower than that of flat rows."""

MOST = 32
"""Answers of one tree."""

Group = tuple[list[int], list[TokenRow]]


def groups(rows: TokenRows, asked: Iterable[int], longest: int) -> list[Group]:
    """Return numbers and rows of those that share a prompt, where that saves enough; the others are in no group.

    A row counts whose one span has a token before it. What stands behind the span is left out: no loss sees it.

    Args:
        rows: token rows; two passes are made over them, and only rows of a group are kept.
        asked: numbers of those to look at.
        longest: rows with more tokens are in no group.
    """
    prompts = {index: name for index in asked if (name := _prompt(rows[index], longest))}
    often = {name for name, count in Counter(prompts.values()).items() if count > 1}
    found: dict[bytes, Group] = {}
    for index, name in prompts.items():
        if name in often:
            numbers, members = found.setdefault(name, ([], []))
            numbers.append(index)
            members.append(_to_the_end_of_its_answer(rows[index]))
    cut = (piece for group in found.values() for piece in _pieces(group))
    return [piece for piece in cut if _saved(piece[1]) >= WORTH]


def _prompt(row: TokenRow, longest: int) -> bytes:
    """Return a name for what stands before the row's one answer; empty where the row is not of that kind."""
    if len(row.spans) != 1:
        return b""
    start, end = row.spans[0]
    if not 0 < start < end <= longest:
        return b""
    return blake2b(np.asarray(row.ids[:start], np.int64).tobytes(), digest_size=16).digest()


def _to_the_end_of_its_answer(row: TokenRow) -> TokenRow:
    start, end = row.spans[0]
    return TokenRow(np.asarray(row.ids[:end]).tolist(), [(start, end)], row.part)


def _pieces(group: Group) -> list[Group]:
    numbers, members = group
    return [(numbers[at : at + MOST], members[at : at + MOST]) for at in range(0, len(numbers), MOST)]


def _saved(members: Sequence[TokenRow]) -> float:
    prompt = members[0].spans[0][0]
    return prompt * (len(members) - 1) / sum(len(row.ids) for row in members)


def score(
    model_folder: Path,
    found: Sequence[Group],
    rows: int,
    runtime: Runtime,
    progress: Progress,
    precision: str,
    journal: Path | None,
) -> dict[int, Likelihood]:
    """Return the likelihood of every row in the groups by its number; arguments as in `scoring.score`.

    Args:
        found: the groups.
        rows: how many rows there are in all, for the progress.
    """
    inside = sum(len(numbers) for numbers, _ in found)

    def told(facts: Mapping[str, Any]) -> None:
        if "steps" in facts:
            facts = {**facts, "step": facts["step"] * inside // max(1, facts["steps"]), "steps": rows}
        progress(facts)

    items = [members for _, members in found]
    scored = choices.choose(model_folder, items, runtime, told, precision, journal=journal, cut=False)
    return {
        index: Likelihood(-one.logprob, one.tokens)
        for (numbers, _), each in zip(found, scored, strict=True)
        for index, one in zip(numbers, each, strict=True)
    }

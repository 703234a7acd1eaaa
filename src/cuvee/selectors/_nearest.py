"""Exact search among vectors of length 1, a block at a time, and taking turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.errors import DataError
from cuvee.protocols import Candidates

BLOCK = 1 << 14
"""Rows compared at once."""

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


def check_widths(items: Vectors, queries: Vectors, name: str) -> None:
    """Refuse vectors of different widths.

    Raises:
        DataError: says which.
    """
    if items.shape[1] != queries.shape[1]:
        raise DataError(
            f"vectors of the rows have {items.shape[1]} numbers, those of '{name}' {queries.shape[1]}; both must come "
            "from one model, layer and pooling"
        )


def by_hash(candidates: Candidates) -> Places:
    """Return the places of rows in an order that hangs on the rows alone: what comes first wins a tie."""
    keys, occurrences = candidates.keys, candidates.occurrences
    return ranks.order(ranks.ranks(0, "nearest ties", keys, occurrences), keys, occurrences)


def similarities(items: Vectors, queries: Vectors) -> Iterator[tuple[slice, Vectors]]:
    """Yield blocks of items with their cosines to all queries, (block, queries)."""
    for start in range(0, len(items), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, np.asarray(items[part], np.float32) @ queries.T


def best(items: Vectors, queries: Vectors, count: int) -> tuple[Places, Vectors]:
    """Return for each query the places of its `count` nearest items, nearest first, and their cosines.

    Memory holds (queries, count) and one block. Of equal items the earlier one is nearer.
    """
    count = min(count, len(items))
    places = np.zeros((len(queries), 0), np.int64)
    values = np.zeros((len(queries), 0), np.float32)
    for part, found in similarities(items, queries):
        rows = np.broadcast_to(np.arange(part.start, part.start + len(found)), (len(queries), len(found)))
        values, places = np.concatenate([values, found.T], axis=1), np.concatenate([places, rows], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
        values, places = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    return places, values


def in_turns(preferences: Sequence[Iterator[int]], wanted: int) -> list[int]:
    """Return items taken in turns: each taker in its turn takes the first of its items that nobody has."""
    taken: dict[int, None] = {}
    takers = list(preferences)
    while takers and len(taken) < wanted:
        left = []
        for taker in takers:
            item = next((one for one in taker if one not in taken), None)
            if item is not None and len(taken) < wanted:
                taken[item] = None
                left.append(taker)
        takers = left
    return list(taken)


def preferences(items: Vectors, query: Vectors, first: int) -> Iterator[int]:
    """Yield the places of all items, nearest first; more of them are looked up as they are asked for."""
    given = 0
    while given < len(items):
        places, _ = best(items, query[None], first)
        yield from places[0, given:].tolist()
        given, first = len(places[0]), 4 * first

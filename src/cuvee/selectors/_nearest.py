"""Exact search among vectors of length 1, a block at a time, and taking turns.

The search is numpy's: cosines of a block are one matrix product, which BLAS does as fast as the processor can, and an
index for exact search (faiss's IndexFlatIP) holds all vectors in memory and leaves open which of equal rows comes
first. Here they stay in the file, and equal rows go by hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.errors import DataError
from cuvee.protocols import Candidates

BLOCK = 1 << 14
"""Rows compared at once."""

NO_VECTOR = "no vector"

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


def check_targets(items: Any, queries: Vectors, name: str) -> None:
    """Refuse target vectors of another width than the items', and those that hold what is no number.

    Raises:
        DataError: says which.
    """
    if items.shape[1] != queries.shape[1]:
        raise DataError(
            f"vectors of the rows have {items.shape[1]} numbers, those of '{name}' {queries.shape[1]}; both must come "
            "from one model, layer and pooling"
        )
    if not np.isfinite(queries).all():
        broken = int((~np.isfinite(queries).all(1)).sum())
        raise DataError(
            f"{broken} of {len(queries)} vectors of '{name}' are no numbers; look at the model that made them"
        )


def by_hash(candidates: Candidates) -> Places:
    """Return the places of rows in an order that hangs on the rows alone: what comes first wins a tie."""
    keys, occurrences = candidates.keys, candidates.occurrences
    return ranks.order(ranks.ranks(0, "nearest ties", keys, occurrences), keys, occurrences)


class Ordered:
    """Vectors in an order of one's own, read a block at a time: they may lie on disk and be larger than the memory.

    Args:
        vectors: (n, width); rows that hold what is no number read as 0.
        order: places of the rows, (m,).
    """

    def __init__(self, vectors: Any, order: Places) -> None:
        self._vectors, self._order = vectors, order
        self.shape = (len(order), int(vectors.shape[1]))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, part: slice) -> Vectors:
        block = np.asarray(self._vectors[self._order[part]], np.float32)
        block[~np.isfinite(block).all(1)] = 0
        return block


def known(vectors: Any) -> NDArray[np.bool_]:
    """Return which rows have a vector, (n,): all of its numbers are finite."""
    found = np.empty(len(vectors), np.bool_)
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, start + BLOCK)
        found[part] = np.isfinite(vectors[part]).all(1)
    return found


def similarities(items: Any, queries: Vectors) -> Iterator[tuple[slice, Vectors]]:
    """Yield blocks of items with their cosines to all queries, (block, queries)."""
    for start in range(0, len(items), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, np.asarray(items[part], np.float32) @ queries.T


def best(items: Any, queries: Vectors, count: int) -> tuple[Places, Vectors]:
    """Return for each query the places of its `count` nearest items, nearest first, and their cosines.

    Memory holds (queries, count) and one block, wherever the items lie. Of equal items the earlier one is nearer.
    """
    count = min(count, len(items))
    places = [np.zeros(0, np.int64) for _ in queries]
    values = [np.zeros(0, np.float32) for _ in queries]
    for part, found in similarities(items, queries):
        for number, cosines in enumerate(np.ascontiguousarray(found.T)):
            fresh = _above(cosines, values[number], count)
            joined = np.concatenate([values[number], cosines[fresh]])
            order = np.argsort(-joined, kind="stable")[:count]
            values[number] = joined[order]
            places[number] = np.concatenate([places[number], fresh + part.start])[order]
    return np.array(places, np.int64).reshape(len(queries), count), np.array(values).reshape(len(queries), count)


def _above(cosines: Vectors, held: Vectors, count: int) -> Places:
    """Return the places in a block that can be among the best: a later item must be nearer than the last one held."""
    fresh = np.flatnonzero(cosines > held[-1]) if len(held) == count else np.arange(len(cosines))
    if len(fresh) > count:
        found = cosines[fresh]
        fresh = fresh[found >= np.partition(found, len(found) - count)[len(found) - count]]
    return fresh


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


def preferences(items: Any, queries: Vectors, first: int) -> list[Iterator[int]]:
    """Return for each query the places of all items, nearest first.

    The `first` of all queries are looked up together; a query that asks for more is looked up again by itself.
    """
    places, _ = best(items, queries, first)
    return [_on(items, query, found.tolist()) for query, found in zip(queries, places, strict=True)]


def _on(items: Any, query: Vectors, found: list[int]) -> Iterator[int]:
    given = 0
    while True:
        yield from found[given:]
        given = len(found)
        if given == len(items):
            return
        found = best(items, query[None], 4 * given)[0][0].tolist()

"""The choices of an item as one tree of tokens, so that what they have in common is computed once. No torch here.

context [7 8 9], continuations [4 5], [4 6], [3]; the last token of a continuation is predicted and never fed:

    number   0 1 2 3        choice [4 5] reads token 4 after node 2, token 5 after node 3
    ids      7 8 9 4        choice [4 6] reads token 4 after node 2, token 6 after node 3
    parent  -1 0 1 2        choice [3]   reads token 3 after node 2
    depth    0 1 2 3        logits are needed after the nodes 2 and 3 only

Items that begin alike (the same shots before every question) share a prefix: it is computed once for all of them, and
their trees begin after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuvee.protocols import TokenRow

Ints = NDArray[np.int64]

SHARED = 32
"""A common beginning of several items shorter than this is computed again with each of them."""

WORTH = 256
"""Tokens that a prefix must save at least: it costs a forward pass of its own."""

KEPT = 0.5
"""Of a prefix that must be left when one more item joins those that share it."""


@dataclass(frozen=True)
class Tree:
    """One item's tokens after the shared prefix.

    Args:
        item: its number.
        ids: token of each node, (T,).
        parents: node before it, -1 after the prefix, (T,); parents come before their children.
        depth: position of each node after the prefix, (T,).
        stem: how many of the first nodes form a chain.
        keep: nodes after which logits are needed, (K,).
        places: index into `keep` for every predicted token, choice after choice, (P,).
        targets: the predicted tokens, (P,).
        sizes: predicted tokens of each choice; sum P.
    """

    item: int
    ids: Ints
    parents: Ints
    depth: Ints
    stem: int
    keep: Ints
    places: Ints
    targets: Ints
    sizes: tuple[int, ...]

    def ancestors(self) -> NDArray[np.bool_]:
        """Return (T, T): whether the row's node comes after the column's, or is it."""
        seen = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        seen[: self.stem, : self.stem] = np.tri(self.stem, dtype=bool)
        for node in range(self.stem, len(self.ids)):
            if self.parents[node] >= 0:
                seen[node] = seen[self.parents[node]]
            seen[node, node] = True
        return seen


@dataclass(frozen=True)
class Group:
    """Items that begin alike: the tokens they share, and their trees, largest first."""

    prefix: Ints
    trees: tuple[Tree, ...]


def start(row: TokenRow) -> int:
    """Return where a row's continuation begins: it has one span, up to the row's end."""
    return row.spans[0][0]


def groups(items: Sequence[Sequence[TokenRow]], share: bool = True) -> list[Group]:
    """Return all items, those together that begin alike; of groups and trees the largest comes first.

    Args:
        items: choices of each item: context and continuation, the continuation as the only span.
        share: whether items may share a prefix.
    """
    stems = [_stem(rows) for rows in items]
    found: list[tuple[Ints, list[int]]] = list(_alike(stems)) if share else []
    shared = {number for _, members in found for number in members}
    alone = [number for number in range(len(items)) if number not in shared]
    made = [(prefix, members) for prefix, members in [*found, (np.zeros(0, np.int64), alone)] if members]
    return [
        Group(prefix, tuple(sorted((grow(n, items[n], len(prefix)) for n in members), key=lambda t: -len(t.ids))))
        for prefix, members in sorted(made, key=lambda pair: -len(pair[0]))
    ]


def _stem(rows: Sequence[TokenRow]) -> Ints:
    """Return the tokens before the last one that all choices of an item are read after."""
    first = np.asarray(rows[0].ids, np.int64)
    length = min(start(row) for row in rows) - 1
    for row in rows[1:]:
        length = min(length, common(first, np.asarray(row.ids, np.int64)))
    return first[: max(length, 0)]


def _alike(stems: Sequence[Ints]) -> Iterator[tuple[Ints, list[int]]]:
    """Yield prefixes with the items that share them; in the order of their tokens, such items are neighbours."""
    # Big-endian bytes sort as the tokens do.
    order = sorted(range(len(stems)), key=lambda number: stems[number].astype(">i8").tobytes())
    prefix, members = np.zeros(0, np.int64), list[int]()
    for number in order:
        length = common(prefix, stems[number])
        least = max(SHARED, 0 if len(members) == 1 else KEPT * len(prefix))
        if members and length >= least:
            prefix = prefix[:length]
            members.append(number)
            continue
        if _worth(prefix, members):
            yield prefix, members
        prefix, members = stems[number], [number]
    if _worth(prefix, members):
        yield prefix, members


def _worth(prefix: Ints, members: Sequence[int]) -> bool:
    return len(prefix) * (len(members) - 1) >= WORTH


def common(one: Ints, other: Ints) -> int:
    """Return how many tokens two rows have in common from the start."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def grow(item: int, rows: Sequence[TokenRow], skip: int) -> Tree:
    """Return the tree of an item's choices.

    Args:
        item: its number.
        rows: its choices; all begin with the same `skip` tokens, and continue after more than that.
        skip: tokens of the shared prefix.
    """
    fed = [np.asarray(row.ids, np.int64)[skip:-1] for row in rows]
    stem = len(fed[0])
    for row in fed[1:]:
        stem = min(stem, common(fed[0], row))
    ids, parents, depth = list(map(int, fed[0][:stem])), list(range(-1, stem - 1)), list(range(stem))
    known: dict[tuple[int, int], int] = {}
    paths = []
    for row in fed:
        node, path = stem - 1, list(range(stem))
        for place, token in enumerate(map(int, row[stem:]), stem):
            following = known.get((node, token))
            if following is None:
                following = known[node, token] = len(ids)
                ids.append(token)
                parents.append(node)
                depth.append(place)
            node = following
            path.append(node)
        paths.append(path)
    read = [path[start(row) - skip - 1 :] for row, path in zip(rows, paths, strict=True)]
    keep = sorted({node for nodes in read for node in nodes})
    at = {node: index for index, node in enumerate(keep)}
    return Tree(
        item,
        np.array(ids, np.int64),
        np.array(parents, np.int64),
        np.array(depth, np.int64),
        stem,
        np.array(keep, np.int64),
        np.array([at[node] for nodes in read for node in nodes], np.int64),
        np.concatenate([np.asarray(row.ids, np.int64)[start(row) :] for row in rows]),
        tuple(len(nodes) for nodes in read),
    )

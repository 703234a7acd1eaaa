"""Optimiser steps of a training, and micro batches inside one step. Pure numpy.

Every epoch is a permutation of all rows by hash(seed, "order EPOCH", id, number): it hangs on the rows and the
seed only, so neither the order of sources nor their names nor the file's order moves a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.data.ranks import Keys

AGAIN = 1 << 56
"""What tells rows apart that share id, occurrence and copy because they came through two parts."""


class Steps(Sequence[NDArray[np.int64]]):
    """The steps of a training: `steps[i]` is the row indexes of optimiser step i, in order.

    Args:
        keys: example ids, (n, 16).
        numbers: occurrence and copy in one number, (n,).
        epochs: passes over all rows.
        batch_size: rows of a step; the last of an epoch may be shorter.
        seed: the run's seed.
    """

    def __init__(self, keys: Keys, numbers: NDArray[np.int64], epochs: int, batch_size: int, seed: int) -> None:
        self.keys, self.numbers = keys, _distinct(keys, numbers)
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.per_epoch = -(-len(keys) // batch_size)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # no slices, so no overloads
        if not isinstance(index, int | np.integer):
            raise TypeError(f"a step is asked for by its number, got a {type(index).__name__}")
        at = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= at < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        epoch, step = divmod(at, self.per_epoch)
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[index] for index in range(len(self)))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the row indexes of one epoch in order, (n,)."""
        if epoch != self._epoch:
            found = ranks.ranks(self.seed, f"order {epoch}", self.keys, self.numbers)
            self._order, self._epoch = ranks.order(found, self.keys, self.numbers), epoch
        return self._order


def plan_steps(keys: Keys, copies: NDArray[np.int64], epochs: int, batch_size: int, seed: int) -> Steps:
    """Return the optimiser steps of a training: each row exactly once an epoch, no step across two epochs.

    Args:
        keys: example ids, (n, 16).
        copies: what tells equal ids apart, (n,): `mixture.MixtureRows.copies`.
        epochs: 1 or more.
        batch_size: examples of one step, 1 or more.
        seed: the run's seed.

    Raises:
        ValueError: no rows, or an argument below 1.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs is {epochs} and batch_size {batch_size}; both are 1 or more")
    if not len(keys):
        raise ValueError("a training needs at least one row")
    return Steps(keys, np.asarray(copies, np.int64), epochs, batch_size, seed)


def micro_batches(lengths: NDArray[np.int64], indexes: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Split one step into micro batches of at most `budget` tokens: best fit, longest rows first.

    Args:
        lengths: tokens of every row, (n,).
        indexes: the step's rows, (m,).
        budget: tokens of a micro batch; a longer row stands alone.

    Returns:
        Row indexes a micro batch; together they are `indexes`. Deterministic; rows keep the step's order inside.
    """
    sizes = np.asarray(lengths)[indexes]
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), ascending
    for at in np.lexsort((np.arange(len(sizes)), -sizes)).tolist():
        size = int(sizes[at])
        place = bisect_left(rooms, (size, -1))
        if place < len(rooms):
            room, target = rooms.pop(place)
            bins[target].append(at)
        else:
            room, target = max(budget, size), len(bins)
            bins.append([at])
        if room > size:
            insort(rooms, (room - size, target))
    return [np.asarray(indexes)[sorted(members)] for members in bins]


def _distinct(keys: Keys, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers that tell all rows apart.

    One example may come through two parts of a mixture. Its rows are equal, so which of them gets which number
    changes no token; without it they would always stand side by side.
    """
    rows = ranks.repeated(keys)
    # What has one key stays together: its rows stand side by side, and sorting by number within is stable.
    group = np.cumsum(ranks.firsts(keys[rows]))
    rows = rows[np.lexsort((numbers[rows], group))]
    first = ranks.firsts(keys[rows], numbers[rows])
    if first.all():
        return numbers
    places = np.arange(len(rows))
    found = numbers.copy()
    found[rows] += (places - np.maximum.accumulate(np.where(first, places, 0))) * AGAIN
    return found

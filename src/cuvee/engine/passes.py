"""From the rows of a step to forward passes: groups of at most so many tokens, laid out flat or one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuvee.engine import loading
from cuvee.engine.flat import Flat, count, flatten
from cuvee.protocols import TokenRow

MicroBatches = Callable[[NDArray[np.int64], NDArray[np.int64], int], Sequence[Sequence[int] | NDArray[np.int64]]]
"""(lengths, indexes, budget) -> the indexes in groups of at most `budget` tokens; one alone may be larger.
`lengths[i]` is the length of example i of the step, `indexes` is 0 .. n - 1."""


class Passes:
    """How one process feeds rows to a model.

    Args:
        model: what is trained.
        layout: ``flat``, or ``single`` for one row a pass.
        tokens: most tokens of a micro batch; one row alone may have more.
        split: see `MicroBatches`.
        device: where the tensors go.
    """

    def __init__(self, model: Any, layout: str, tokens: int, split: MicroBatches, device: torch.device) -> None:
        self.model, self.layout, self.tokens = model, layout, tokens
        self._split, self._device = split, device

    @property
    def flat(self) -> bool:
        """Whether rows lie one after another."""
        return self.layout == "flat"

    def micro(self, rows: Sequence[TokenRow], share: Sequence[int]) -> list[list[int]]:
        """Return the numbers of the rows in `share` in micro batches."""
        lengths = np.asarray([len(rows[i].ids) for i in share], dtype=np.int64)
        return [[share[i] for i in group] for group in self._split(lengths, np.arange(len(share)), self.tokens)]

    def of(self, rows: Sequence[TokenRow], micro: Sequence[int]) -> Iterator[tuple[Flat, NDArray[np.int64]]]:
        """Yield the passes of one micro batch, each with the number of the row that every supervised token is of."""
        for group in self._groups(rows, micro):
            chosen = [rows[i] for i in group]
            loading.check_fit(self.model, chosen)
            flat = flatten(chosen, self._device)
            yield flat, np.asarray(group, dtype=np.int64)[flat.owner]

    def number(self, rows: Sequence[TokenRow], share: Sequence[int]) -> int:
        """Return how many passes `share` takes."""
        return sum(len(self._groups(rows, micro)) for micro in self.micro(rows, share))

    def _groups(self, rows: Sequence[TokenRow], micro: Sequence[int]) -> list[list[int]]:
        # Equal lengths share attention calls.
        order = sorted((i for i in micro if count(rows[i])), key=lambda i: len(rows[i].ids))
        groups = [order] if self.flat else [[i] for i in order]
        return [group for group in groups if group]

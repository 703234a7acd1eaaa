"""Flat rows: several examples one after another as the tensors of one forward pass, without padding.

rows [7 8 9] and [5 6], supervised tokens 9 and 6:
ids       7 8 9 5 6
positions 0 1 2 0 1
keep        1   3        (the positions whose next token is supervised)
targets     9   6
owner       0   1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuvee.protocols import TokenRow

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Flat:
    """One forward pass.

    Args:
        ids: tokens, (1, T) int64 on the device.
        positions: restart at 0 with each example, (1, T) int64 on the device.
        lengths: tokens of each example, sum T.
        keep: positions whose next token is supervised, (K,) int64 on the device.
        targets: those next tokens, (K,) int64 on the device.
        owner: number of the example each of them belongs to, (K,) on the host.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    keep: Tensor
    targets: Tensor
    owner: Ints


def supervised(row: TokenRow) -> Ints:
    """Return the indexes of the row's supervised tokens; its first token has nothing before it and never counts."""
    parts = [np.arange(max(start, 1), end, dtype=np.int64) for start, end in row.spans]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def count(row: TokenRow) -> int:
    """Return how many supervised tokens the row has."""
    return int(sum(max(end - max(start, 1), 0) for start, end in row.spans))


def flatten(rows: Sequence[TokenRow], device: torch.device) -> Flat:
    """Lay rows one after another, in the given order."""
    ids = np.concatenate([np.asarray(row.ids, dtype=np.int64) for row in rows])
    lengths = tuple(len(row.ids) for row in rows)
    starts = np.cumsum((0, *lengths[:-1]))
    marked = [supervised(row) for row in rows]
    places = np.concatenate([m + start for m, start in zip(marked, starts, strict=True)])
    owner = np.repeat(np.arange(len(rows)), [len(m) for m in marked])
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])

    def put(array: Ints) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Flat(put(ids)[None], put(positions)[None], lengths, put(places - 1), put(ids[places]), owner)

"""How the task vectors of several models lie to each other, tensor by tensor, without holding any of them.

tau_j = theta_j - theta_0. Of every tensor are taken, over its elements e:

    dots[i, j]       sum_e tau_i tau_j, in float64         the diagonal: squared norms
    moved[i, j]      elements that both have moved         the diagonal: elements that one has moved
    conflicts[i, j]  of those, the ones moved in opposite directions

Ilharco et al., arXiv 2212.04089 (cosines between task vectors); Yadav et al., arXiv 2306.01708 (sign conflicts, there
among trimmed vectors; here among all elements that were moved).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from cuvee.merging import matching
from cuvee.merging.matching import Slot
from cuvee.merging.streaming import PIECE


@dataclass(frozen=True, eq=False)
class Products:
    """One tensor of m models.

    Args:
        name: of the tensor.
        size: its elements.
        base: squared norm of the base's tensor.
        dots: (m, m) float64.
        moved, conflicts: (m, m) int64.
    """

    name: str
    size: int
    base: float
    dots: NDArray[Any]
    moved: NDArray[Any]
    conflicts: NDArray[Any]


def products(models: Sequence[Path], base: Path, names: Sequence[str]) -> Iterator[Products]:
    """Yield the products of every floating-point tensor, in the first model's order.

    Memory is (2 m + 2) pieces of 131,072 elements in float64 at most, mapped file pages not counted.

    Args:
        models: folders of models that were trained from `base`.
        base: its folder.
        names: of the models, then of the base, for messages.

    Raises:
        ModelError: a folder is absent, damaged, quantised or pickled, or the models do not fit each other.
    """
    opened = [matching.open_model(folder, name) for folder, name in zip((*models, base), names, strict=True)]
    # Any dtypes compare: nothing is written.
    matched = matching.match(opened[:-1], opened[-1], (), "float32")
    yield from (_of(slot) for slot in matched.slots if not slot.copied)


def _of(slot: Slot) -> Products:
    assert slot.base is not None
    count = len(slot.models)
    dots = torch.zeros(count, count, dtype=torch.float64)
    both, agreed = torch.zeros_like(dots), torch.zeros_like(dots)
    squares = 0.0
    for start in range(0, slot.size, PIECE):
        stop = min(slot.size, start + PIECE)
        below = slot.base.read(start, stop).double()
        taus = torch.stack([view.read(start, stop).double() for view in slot.models]).sub_(below)
        squares += float(below @ below)
        dots += taus @ taus.T
        signs = taus.sign_().float()  # sums of a piece's 0 and 1 are exact in float32
        agreed += signs @ signs.T
        both += signs.abs_() @ signs.T
    moved, net = both.long(), agreed.long()
    return Products(slot.name, slot.size, squares, dots.numpy(), moved.numpy(), ((moved - net) // 2).numpy())

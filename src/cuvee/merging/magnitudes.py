"""The k largest magnitudes of a tensor that is never in memory as a whole, exactly.

A non-negative number's bits, read as an integer, are in the order of the numbers. So the k-th largest is found by
counting: first by the upper bits, then, among those that share the upper bits of the k-th, by the bits below. Elements
that equal the k-th are kept from the first element on until there are k.

    looks("float32")    two looks that count; a third one where more elements than fit equal the k-th
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cuvee.merging.streaming import Look, Piece

WIDTH = 16
"""Bits that one look counts by; the sign bit is always 0, so the last look has one fewer."""


@dataclass(frozen=True)
class Cut:
    """Where one model's task vector is cut off.

    Args:
        bits: the upper bits of the k-th largest magnitude; all of them after the last level.
        wanted: how many of the elements with these bits are kept.
        there: how many there are.
    """

    bits: int
    wanted: int
    there: int


def looks(compute: str) -> tuple[Look, ...]:
    """Return the looks that find the cut of each model, and then the equal elements before each piece."""
    bits = 31 if compute == "float32" else 63
    shifts = [max(0, bits - WIDTH * (level + 1)) for level in range(-(-bits // WIDTH))]
    above = [bits, *shifts]
    return (*(_Level(shift, up - shift) for shift, up in zip(shifts, above, strict=False)), _Equal())


def bits_of(values: Tensor) -> NDArray[Any]:
    """Return magnitudes as integers of the same order, (n,); the values are overwritten."""
    found = values.abs_().numpy()
    return found.view(np.int32 if found.dtype == np.float32 else np.int64)


class _Level:
    """Counts magnitudes by some of their bits, among those that have the bits found before."""

    def __init__(self, shift: int, width: int) -> None:
        self.shift, self.width = shift, width

    def needed(self, found: tuple[Any, ...]) -> bool:
        return True

    def see(self, piece: Piece, params: Any) -> list[NDArray[np.int64]]:
        assert piece.base is not None
        before = piece.found[-1] if piece.found else None
        counts = []
        for number, model in enumerate(piece.models):
            bits = bits_of(model.sub_(piece.base))
            if before is not None:
                bits = bits[(bits >> (self.shift + self.width)) == before[number].bits] & (
                    (1 << (self.shift + self.width)) - 1
                )
            counts.append(np.bincount(bits >> self.shift, minlength=1 << self.width))
        return counts

    def add(self, total: list[NDArray[np.int64]], partial: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        return [np.add(x, y, out=x) for x, y in zip(total, partial, strict=True)]

    def end(self, total: list[NDArray[np.int64]], params: Any, found: tuple[Any, ...]) -> list[Cut]:
        shares = params.densities(len(total))
        before = found[-1] if found else [None] * len(total)
        return [self._cut(*one) for one in zip(total, shares, before, strict=True)]

    def _cut(self, counts: NDArray[np.int64], density: float, before: Cut | None) -> Cut:
        wanted = before.wanted if before else max(1, int(density * int(counts.sum())))
        from_top = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_top, wanted))
        bucket = len(counts) - 1 - place
        there = int(counts[bucket])
        bits = bucket if before is None else before.bits << self.width | bucket
        return Cut(bits, wanted - int(from_top[place] - there), there)


class _Equal:
    """Counts elements that equal the k-th largest, where there are more than are kept: how many come before a piece."""

    def needed(self, found: tuple[Any, ...]) -> bool:
        return any(cut.wanted < cut.there and cut.bits for cut in found[-1])

    def see(self, piece: Piece, params: Any) -> list[list[int]]:
        assert piece.base is not None
        pairs = zip(piece.models, piece.found[-1], strict=True)
        return [[int((bits_of(model.sub_(piece.base)) == cut.bits).sum()) for model, cut in pairs]]

    def add(self, total: list[list[int]], partial: list[list[int]]) -> list[list[int]]:
        total += partial
        return total

    def end(self, total: list[list[int]], params: Any, found: tuple[Any, ...]) -> NDArray[np.int64]:
        """Return how many come before each piece, (pieces, models)."""
        counts = np.array(total, np.int64)
        ends: NDArray[np.int64] = np.cumsum(counts, axis=0)
        return ends - counts


def trimmed(piece: Piece, vectors: Sequence[Tensor], found: tuple[Any, ...]) -> list[Tensor]:
    """Return task vectors with all but their largest entries set to 0.

    Args:
        piece: the piece.
        vectors: its task vectors, (n,) each; overwritten.
        found: what `looks` found.
    """
    *_, cuts, before = found
    return [
        _trim(vector, cut, None if before is None else int(before[piece.number][i]))
        for i, (vector, cut) in enumerate(zip(vectors, cuts, strict=True))
    ]


def _trim(vector: Tensor, cut: Cut, before: int | None) -> Tensor:
    if not cut.bits:  # the k-th largest is 0
        return vector
    magnitudes = vector.abs()
    equal: NDArray[np.int64] | None = None
    if before is not None and cut.wanted < cut.there:
        equal = np.flatnonzero(bits_of(magnitudes) == cut.bits)[max(0, cut.wanted - before) :]
    kind = np.int32 if magnitudes.element_size() == 4 else np.int64
    least = float(np.array([cut.bits], kind).view(magnitudes.numpy().dtype)[0])
    keep = magnitudes.ge_(least)
    if equal is not None:
        keep.numpy()[equal] = 0
    return vector.mul_(keep)

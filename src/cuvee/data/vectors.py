"""Vectors of the rows of one pool: what the stage `embed` writes.

vectors.npy    (rows, width) float32 or float16, to be memory-mapped
rows.npy       the place of each row in load order, ascending, (rows,) int64
weight.npy     of features that are weighted, one number for all rows
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "vectors.npy"
WEIGHT = "weight.npy"
ROWS = "rows.npy"


def write_rows(folder: Path, rows: NDArray[np.int64], weight: float | None = None) -> None:
    """Write which rows the vectors are of, and their weight if they have one."""
    np.save(folder / ROWS, rows)
    if weight is not None:
        np.save(folder / WEIGHT, np.float64(weight))


def read(folder: Path) -> dict[str, NDArray[Any]]:
    """Return ``row`` and ``vector``; the vectors stay on disk until they are touched."""
    found = {"row": np.load(folder / ROWS), "vector": np.load(folder / FILE, mmap_mode="r")}
    if (folder / WEIGHT).exists():
        found["weight"] = np.full(len(found["row"]), float(np.load(folder / WEIGHT)))
    return found


class Stacked:
    """Several arrays one under another, read a piece at a time, so that they may be larger than the memory.

    Args:
        parts: (n, width) each.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape, self.dtype = (int(self.starts[-1]), parts[0].shape[1]), parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.concatenate([np.asarray(part, dtype) for part in self.parts])

    def __getitem__(self, places: Any) -> NDArray[Any]:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        of_part = np.searchsorted(self.starts, places, side="right") - 1
        found = np.empty((len(places), self.shape[1]), self.dtype)
        for number in np.unique(of_part):
            inside = of_part == number
            found[inside] = self.parts[number][places[inside] - self.starts[number]]
        return found

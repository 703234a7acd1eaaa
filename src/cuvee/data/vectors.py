"""Vectors of the rows of one pool: what the stage `embed` writes.

vectors.npy    (rows, width) float32, to be memory-mapped
rows.npy       the place of each row in load order, ascending, (rows,) int64
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "vectors.npy"
ROWS = "rows.npy"


def write_rows(folder: Path, rows: NDArray[np.int64]) -> None:
    """Write which rows the vectors are of."""
    np.save(folder / ROWS, rows)


def read(folder: Path) -> dict[str, NDArray[Any]]:
    """Return ``row`` and ``vector``; the vectors stay on disk until they are touched."""
    return {"row": np.load(folder / ROWS), "vector": np.load(folder / FILE, mmap_mode="r")}

"""Bands of a measure: rows near its lower end, its middle or its upper end."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Band = Literal["low", "middle", "high"]
Floats = NDArray[np.float64]

CENTRES = {"low": 0.0, "middle": 0.5, "high": 1.0}


def nearness(values: Floats, band: Band) -> Floats:
    """Return how near each value lies to the centre of a band, (n,) up to 1; NaN where the value is no number.

    1 - |r - c|, r the share of values below (ties at their mean), c = 0, 1/2 or 1.
    """
    scores = np.full(len(values), np.nan)
    known = np.isfinite(values)
    scores[known] = 1 - np.abs(_standing(values[known]) - CENTRES[band])
    return scores


def _standing(values: Floats) -> Floats:
    """Return each value's place among all in (0, 1); equal values have one place."""
    _, of, counts = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(counts)
    places: Floats = ((upto - counts / 2) / max(1, len(values)))[of]
    return places

"""What all draws of chance share: how many, from which stream, and scipy's special functions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cuvee.errors import UsageError

Floats = NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap resamples, and the fewest draws of signs where they cannot be enumerated."""

MOST_DRAWS = 20_000
"""Draws are no more than this; p that so many draws cannot tell from 0 are computed instead of drawn."""

CELLS = 2_000_000
"""Resampled item counts held at once: 16 MB."""


def special() -> ModuleType:
    """Return `scipy.special`; scipy belongs to an extra, so that planning needs none.

    Raises:
        UsageError: scipy is not installed.
    """
    try:
        from scipy import special
    except ImportError as error:
        raise UsageError(f"error bars need scipy ({error}); pip install 'cuvee[report]'") from None
    module: ModuleType = special
    return module


def draws_for(comparisons: int, asked: int = RESAMPLES) -> int:
    """Return how many draws show p < 0.05 after Holm's correction, whose first step asks 0.05 / comparisons.

    `MOST_DRAWS` are enough for any number of comparisons: what they cannot tell from 0 is computed.
    """
    return max(asked, min(80 * comparisons, MOST_DRAWS))


def stream(seed: int, items: Sequence[str]) -> list[int]:
    """Return the random stream of an item set: equal items are resampled together, others independently."""
    return [seed, crc32("\n".join(items).encode("utf-8", "surrogatepass"))]

"""Random rows: a uniform number by hash(seed, example), the baseline that every other selector is printed beside.

No method but a baseline: on large pools most selectors are about as good as random (paper: Xia et al., Rethinking Data
Selection at Scale: Random Selection is Almost All You Need, arXiv 2410.09335).

    select: {by: random, share: 1/20}

Selections of one seed are nested: the rows of 1/20 are among those of 1/10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cuvee import protocols
from cuvee.data import ranks
from cuvee.protocols import Candidates, Judged, Needs, Pool

VERSION = 1
SEEDED = True


class Params(protocols.Params):
    """None."""


def needs(pool: Pool, params: Params) -> Needs:
    """Return nothing: no row is looked at."""
    return Needs()


def identity(params: Params) -> dict[str, Any]:
    """Return nothing but what the seed says."""
    return {}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return a uniform number in [0, 1) for every row; equal rows have numbers of their own."""
    drawn = ranks.ranks(int(params["seed"]), "select", candidates.keys, candidates.occurrences)
    # 53 bits, so that the largest stays below 1.
    return Judged((drawn >> np.uint64(11)).astype(np.float64) / 2**53)

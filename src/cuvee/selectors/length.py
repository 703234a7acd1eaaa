"""Length: rows with the longest answers, or the longest rows.

A baseline that is hard to beat on large pools (paper: Xia et al., arXiv 2410.09335, section on token length).

    select: {by: length, share: 1/20}
    select: {by: {length: {of: row}}, take: lowest, count: 500}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    of: ``answer`` counts the supervised tokens, ``row`` all of them; both after the length rule.
    """

    of: Literal["answer", "row"] = "answer"


def needs(pool: Pool, params: Params) -> Needs:
    """Return nothing: rendered rows know their lengths."""
    return Needs()


def identity(params: Params) -> dict[str, Any]:
    """Return what is counted."""
    return dict(params)


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the tokens of every row."""
    counted = candidates.supervised if params["of"] == "answer" else candidates.tokens
    return Judged(counted.astype(np.float64))

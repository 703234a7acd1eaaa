"""Scores that a file holds: those of a judge, of another tool, or one's own.

No paper of its own: whatever has scored the rows (a judge's quality as in AlpaGasus, Deita's scorers, a difficulty as
in Phased IFT) ranks them.

    select: {by: {stored: {path: scores.parquet, column: quality}}, share: 0.1}

The file (Parquet, JSONL or CSV) has a column ``id`` with example ids (32 hex digits, as `cuvee show` and `cuvee select`
print them) and the column of the scores. Lines of other rows are counted and not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cuvee import protocols
from cuvee.protocols import Candidates, Judged, Needs, Pool

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    path: the file.
    column: of the scores.
    missing: rows that the file lacks, or gives no number: ``error``, or ``drop`` to leave them out.
    """

    path: str
    column: str = "score"
    missing: Literal["error", "drop"] = "error"


def needs(pool: Pool, params: Params) -> Needs:
    """Return the file's scores of the pool's rows."""
    return Needs({"stored": pool.stored(params.path, params.column, params.missing)})


def identity(params: Params) -> dict[str, Any]:
    """Return nothing: the scores are the file's."""
    return {}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the file's scores."""
    import numpy as np

    scores = np.asarray(candidates.evidence["stored"]["value"], np.float64)
    return Judged(scores, [("no score in the file", np.isnan(scores))])

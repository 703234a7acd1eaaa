"""What selectors by losses share: mean losses, and the rows that have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cuvee.protocols import Candidates

Floats = NDArray[np.float64]
Refused = tuple[str, NDArray[np.bool_]]

NOT_SCORED = "lost in the scorer's rendering"
NO_ANSWER = "no supervised token"
NO_NUMBER = "loss is no number"


def mean(candidates: Candidates, role: str) -> Floats:
    """Return the mean loss (nats a supervised token) of every row, NaN for a row without one."""
    found = candidates.evidence[role]
    tokens = np.asarray(found["tokens"], np.float64)
    means: Floats = np.divide(found["nll"], tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)
    return means


def without(candidates: Candidates, roles: Sequence[str]) -> list[Refused]:
    """Return the rows without a loss in any of the roles, with the reason."""
    absent, empty, broken = (np.zeros(len(candidates), np.bool_) for _ in range(3))
    for role in roles:
        nll, tokens = (np.asarray(candidates.evidence[role][name], np.float64) for name in ("nll", "tokens"))
        absent |= np.isnan(tokens)
        empty |= tokens == 0
        broken |= ~np.isfinite(nll)
    return [(NOT_SCORED, absent), (NO_ANSWER, empty), (NO_NUMBER, broken)]

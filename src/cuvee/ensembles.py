"""The loss of an ensemble from the stored token losses of its members; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee import judging
from cuvee.errors import StageFailed

FILE = "scores.parquet"


def write(members: Sequence[Path], work: Path) -> dict[str, Any]:
    """Write the loss of the mean distribution on every row.

    Args:
        members: folders of score stages that kept each token's loss, of the same rows.
        work: where to write.

    Raises:
        StageFailed: the members have scored other rows.
    """
    tables = [judging.read_table(folder / FILE) for folder in members]
    known = [[(row["item"], row["tokens"]) for row in table] for table in tables]
    if any(other != known[0] for other in known[1:]):
        raise StageFailed("the members of an ensemble were scored on different rows")
    nll = [float(joined([row["losses"] for row in rows]).sum()) for rows in zip(*tables, strict=True)]
    items, tokens = ([one[place] for one in known[0]] for place in (0, 1))
    judging.write_table(work / FILE, {"item": items, "nll": nll, "tokens": tokens})
    return {"items": len(items), "members": len(members), "supervised_tokens": sum(tokens)}


def joined(losses: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return -log of the mean of the members' probabilities at each token, from (K, tokens) of -log p."""
    found = np.asarray(losses, np.float64)
    mean: NDArray[np.float64] = np.log(len(found)) - np.logaddexp.reduce(-found, axis=0)
    return mean

"""What a training writes down of its steps: the log's records, totals that survive a resume, evidence of a failure."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee.engine.disk import write_text
from cuvee.errors import StageFailed
from cuvee.protocols import TokenRow


@dataclass
class Spent:
    """Totals that survive a resume."""

    supervised_tokens: int = 0
    total_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resumed_from: list[int] = field(default_factory=list)
    out_of_memory: list[dict[str, int]] = field(default_factory=list)


class Clock:
    """Wall and processor seconds since it was last read."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self, spent: Spent) -> float:
        """Add what passed to `spent`; return the wall seconds."""
        wall, cpu = time.monotonic(), time.process_time()
        passed = wall - self._wall
        spent.seconds += passed
        spent.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return passed


@dataclass(frozen=True)
class Losses:
    """The nll of a step's supervised tokens, (K,) float64, and whose they are.

    Args:
        nll: of each token.
        owners: the number of its example within the step, (K,).
    """

    nll: NDArray[np.float64]
    owners: NDArray[np.int64]

    def mean(self) -> float:
        """Return the step's loss."""
        return float(self.nll.sum() / len(self.nll))

    def by_part(self, examples: Sequence[TokenRow]) -> dict[str, dict[str, Any]]:
        """Return sum of nll and tokens of each part that has any."""
        parts = np.asarray([row.part for row in examples], dtype=np.int64)[self.owners]
        sums, tokens = np.bincount(parts, weights=self.nll), np.bincount(parts)
        return {str(p): {"nll": float(sums[p]), "tokens": int(tokens[p])} for p in np.flatnonzero(tokens)}

    def by_example(self, number: int) -> NDArray[np.float32]:
        """Return the mean nll of each of `number` examples; NaN for one without a supervised token."""
        sums = np.bincount(self.owners, weights=self.nll, minlength=number)
        tokens = np.bincount(self.owners, minlength=number)
        means = np.full(number, np.nan, np.float32)
        means[tokens > 0] = sums[tokens > 0] / tokens[tokens > 0]
        return means


def failure(
    work: Path, number: int, steps: Sequence[Sequence[int]], why: str, record: Mapping[str, Any], *, writes: bool
) -> StageFailed:
    """Return the error that ends a training at step `number` (from 0), with its evidence in ``failure.json``."""
    rows = [int(i) for i in steps[number]]
    if writes:
        evidence = {"step": number + 1, "why": why, "rows": rows, "record": _plain(record)}
        write_text(work / "failure.json", json.dumps(evidence, indent=1))
    shown = ", ".join(map(str, rows[:16])) + (", ..." if len(rows) > 16 else "")
    return StageFailed(
        f"step {number + 1} of {len(steps)}: {why}; rows {shown}. All rows and the step's numbers are in "
        f"{work / 'failure.json'}. Look at these rows, or lower learning_rate",
        stage="train",
    )


def _plain(value: Any) -> Any:
    """Turn numbers that JSON does not have into text."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def peak_rss_mb() -> float:
    """Return the largest memory this process has held, in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

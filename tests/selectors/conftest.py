"""Candidates without a model: losses are given as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from cuvee import components
from cuvee.protocols import Candidates, Judged


def candidates(
    number: int, evidence: Mapping[str, Mapping[str, Any]] | None = None, tokens: Sequence[int] | None = None
) -> Candidates:
    """Return rows with ids by their number, and evidence on them."""
    keys = np.frombuffer(b"".join(blake2b(b"%d" % n, digest_size=16).digest() for n in range(number)), np.uint8)
    lengths = np.asarray(tokens if tokens is not None else [4] * number, np.int32)
    return Candidates(
        np.zeros(number, np.int16),
        np.arange(number, dtype=np.int64),
        keys.reshape(-1, 16),
        np.zeros(number, np.int32),
        lengths * 2,
        lengths,
        {role: {name: np.asarray(v) for name, v in columns.items()} for role, columns in (evidence or {}).items()},
    )


def losses(means: Sequence[float], tokens: Sequence[int] | None = None) -> dict[str, Any]:
    """Return a score stage's columns for mean losses."""
    count = np.asarray(tokens if tokens is not None else [4] * len(means), np.int32)
    return {"nll": np.asarray(means, np.float64) * count, "tokens": count}


@pytest.fixture
def judge() -> Callable[..., Judged]:
    """Ask a selector about candidates."""

    def ask(name: str, rows: Candidates, seed: int = 0, **given: Any) -> Judged:
        module = components.find("selectors", name)
        params = dict(module.identity(module.Params(**given)))
        return module.judge(rows, {**params, "seed": seed} if module.SEEDED else params)  # type: ignore[no-any-return]

    return ask


def refused(judged: Judged) -> dict[int, str]:
    """Return the reason of each row that is refused."""
    found: dict[int, str] = {}
    for reason, which in judged.refused:
        for row in np.flatnonzero(which).tolist():
            found.setdefault(row, reason)
    return found

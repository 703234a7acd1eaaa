"""Selections side by side, on choices small enough to count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cuvee.analyses import selections
from cuvee.protocols import Choice


def choice(name: str, scores: list[float], kept: list[int], seed: int = 0, selector: str = "") -> Choice:
    n = len(scores)
    return Choice(
        name,
        selector or name,
        seed,
        f"select-{name}",
        ["math", "code"],
        (np.arange(n) % 2).astype(np.int16),
        np.arange(n, dtype=np.int64),
        np.array(scores, float),
        np.isin(np.arange(n), kept),
        np.arange(1, n + 1, dtype=np.int32),
        {"kept": len(kept), "below the border": n - len(kept)},
    )


def tables(*choices: Choice) -> dict[str, list[dict[str, Any]]]:
    found = selections.table(choices, selections.Params())
    return {table.title.partition(": ")[2]: [dict(row) for row in table.rows] for table in found}


def test_what_is_kept_of_each_source_and_how_it_follows_length() -> None:
    found = tables(choice("a", [1, 2, 3, 4], [2, 3]))
    assert found["what was kept"][0]["score with length"] == "1.000"
    assert found["what was kept"][0]["tokens a row kept"] == 3.5
    assert [(row["source"], row["kept"], row["share of the kept rows"]) for row in found["make-up by source"]] == [
        ("math", 1, "50.0%"),
        ("code", 1, "50.0%"),
    ]


def test_overlap_beside_chance_and_rank_correlation() -> None:
    (row,) = tables(choice("a", [4, 3, 2, 1], [0, 1]), choice("b", [1, 2, 3, 4], [1, 3]))["how alike they are"]
    assert (row["kept by both"], row["overlap"], row["by chance"]) == (1, "0.333", "0.333")
    assert row["rank correlation"] == "-1.000"


def test_other_seeds_are_compared_with_their_own_selector_only() -> None:
    found = tables(
        choice("a · seed 0", [4, 3, 2, 1], [0, 1], 0, "a"),
        choice("a · seed 1", [4, 3, 2, 1], [0, 1], 1, "a"),
        choice("b · seed 1", [4, 3, 2, 1], [0, 1], 1, "b"),
        choice("c", [4, 3, 2, 1], [0, 1], 0),
    )
    pairs = [(row["selection"], row["and"]) for row in found["how alike they are"]]
    assert ("a · seed 0", "a · seed 1") in pairs
    assert ("a · seed 0", "b · seed 1") not in pairs
    assert ("b · seed 1", "c") in pairs


def test_rank_correlation_equals_scipys_with_ties_and_gaps() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 6, 60).astype(float), draw.integers(0, 6, 60).astype(float)
    a[3] = np.nan
    known = np.isfinite(a)
    assert selections.spearman(a, b) == pytest.approx(stats.spearmanr(a[known], b[known]).statistic)
    assert selections.spearman(np.ones(5), np.arange(5.0)) is None

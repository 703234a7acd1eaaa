"""Clouds of vectors that are apart, or mixed, and are known to be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from cuvee.analyses import representations
from cuvee.protocols import Representation

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")

NAMES = ["math", "code", "general"]
FEW = representations.Params(permutations=40, folds=3)


def clouds(apart: float, seed: int = 0, rows: int = 30, **changes: Any) -> Representation:
    """Three sources of normal vectors whose means lie `apart` standard deviations from each other."""
    random = np.random.default_rng(seed)
    source = np.repeat(np.arange(3), rows).astype(np.int16)
    vectors = random.standard_normal((3 * rows, 12)).astype(np.float32)
    vectors[np.arange(3 * rows), source] += apart
    about: dict[str, Any] = {"base": "tiny", "model": "base", "layer": -1, "pooling": "mean", "names": NAMES}
    return Representation(**{**about, "abilities": NAMES, "source": source, "vectors": vectors, **changes})


def chance(text: str) -> tuple[float, float]:
    low, high = text.split("..")
    return float(low), float(high)


def test_clouds_apart_are_pure_and_told_apart_without_a_mistake() -> None:
    (table,) = representations.table([clouds(30)], FEW)
    (row,) = table.rows
    assert (row["separability (points)"], row["purity (points)"]) == (100, 100)
    assert chance(row["purity by chance"])[1] < 50
    assert row["separability p"] == row["purity p"] == "≤ 0.0244"


def test_mixed_clouds_are_within_what_chance_gives() -> None:
    """Of six mixed clouds, an interval of 95 % misses more than one with a chance of 3 %."""
    misses = {"separability": 0, "purity": 0}
    for seed in range(6):
        (row,) = representations.table([clouds(0, seed)], FEW)[0].rows
        for name in misses:
            low, high = chance(row[f"{name} by chance"])
            misses[name] += not low <= row[f"{name} (points)"] <= high
    assert max(misses.values()) <= 1


def test_purity_is_that_of_neighbours_counted_by_hand() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.2]], np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    assert representations.neighbours(vectors, 1).ravel().tolist() == [1, 4, 3, 2, 1]
    one = representations.Params(neighbours=1, permutations=40)
    assert representations.purity(vectors, labels, one).value == pytest.approx(3 / 5)


def test_as_many_columns_as_rows_do_not_make_noise_separable() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.standard_normal((60, 500)).astype(np.float32), np.repeat([0, 1], 30)
    found = representations.separability(vectors, labels, FEW)
    assert found.low <= found.value <= found.high


def test_base_and_model_stand_side_by_side_in_one_map_of_the_same_rows() -> None:
    (table,) = representations.table([clouds(5), clouds(9, model="dmt")], FEW)
    assert [row["model"] for row in table.rows] == ["base", "dmt"]
    (figure,) = table.figures
    assert figure.kind == "scatter"
    assert list(figure.series) == NAMES
    assert {(name, p["panel"]) for name in NAMES for p in figure.series[name]} == {
        (name, model) for name in NAMES for model in ("base", "dmt")
    }
    assert all(len(points) == 60 for points in figure.series.values())


def test_abilities_that_two_sources_teach_are_one_label() -> None:
    (table,) = representations.table([clouds(30, abilities=["math", "math", "general"])], FEW)
    assert list(table.figures[0].series) == ["math", "general"]
    (by_source,) = representations.table([clouds(30, abilities=["x"] * 3)], FEW.model_copy(update={"by": "source"}))
    assert list(by_source.figures[0].series) == NAMES


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "There are no models"),
        ([clouds(0, abilities=["x", "x", "x"])], "Nothing to tell apart"),
        ([clouds(0, rows=5)], "fewer than 20 rows: math, code, general"),
        ([clouds(0, vectors=np.zeros((0, 0), np.float32), missing="its training failed")], "its training failed"),
    ],
)
def test_what_cannot_be_said_is_not_said(given: list[Representation], said: str) -> None:
    (table,) = representations.table(given, FEW)
    assert table.rows == []
    assert table.figures == ()
    assert re.search(said, " ".join(table.notes))


def test_a_diverged_model_and_one_that_is_not_there_do_not_take_the_others_along() -> None:
    lost = clouds(0, model="lost", vectors=np.zeros((0, 0), np.float32), missing="its weights are gone")
    wrong = clouds(0, model="wrong", vectors=np.full((90, 12), np.nan, np.float32))
    (table,) = representations.table([clouds(30), wrong, lost], FEW)
    assert table.rows[0]["purity (points)"] == 100
    assert table.rows[1]["separability (points)"] == "not numbers; has its training diverged?"
    assert any("lost, layer -1, mean: left out" in note for note in table.notes)


def test_a_model_that_gives_every_row_the_same_vector_tells_nothing_apart() -> None:
    (row,) = representations.table([clouds(0, vectors=np.ones((90, 12), np.float32))], FEW)[0].rows
    assert row["separability (points)"] == pytest.approx(33.3)
    assert row["separability p"] == "1"

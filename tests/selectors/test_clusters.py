"""Clusters of vectors whose groups are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cuvee.errors import DataError
from cuvee.protocols import Judged
from cuvee.selectors import clusters
from tests.selectors.conftest import candidates

Judge = Callable[..., Judged]
SIZES = (50, 30, 20)
TRUTH = np.repeat(np.arange(3), SIZES)


def planted(random: np.random.Generator) -> Any:
    """Three groups of vectors of length 1 around axes of their own."""
    vectors = np.eye(3, 8)[TRUTH] + 0.05 * random.standard_normal((100, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_planted_groups_are_found_and_numbered_by_size(judge: Judge, seed: int) -> None:
    rows = candidates(100, {"rows": {"vector": planted(np.random.default_rng(0))}})
    assert judge("clusters", rows, seed=seed, clusters=3).scores.tolist() == TRUTH.tolist()


def test_the_order_of_rows_changes_no_cluster(judge: Judge) -> None:
    """Vectors without groups, so that the outcome hangs on the first centres."""
    vectors = np.random.default_rng(1).standard_normal((200, 6)).astype(np.float32)
    rows = candidates(200, {"rows": {"vector": vectors}})
    turned = np.random.default_rng(2).permutation(200)
    first = judge("clusters", rows, clusters=5).scores
    assert judge("clusters", rows.take(turned, None), clusters=5).scores.tolist() == first[turned].tolist()
    assert judge("clusters", rows, seed=1, clusters=5).scores.tolist() != first.tolist()


def test_every_row_is_nearest_to_its_own_centre() -> None:
    vectors = np.random.default_rng(3).standard_normal((300, 4)).astype(np.float32)
    found = clusters.k_means(vectors, 6, 1000, np.random.default_rng(0))
    centres = np.stack([vectors[found == number].mean(0) for number in range(6)])
    apart = ((vectors[:, None] - centres[None]) ** 2).sum(2)
    assert (apart.argmin(1) == found).all()
    assert np.bincount(found).tolist() == sorted(np.bincount(found).tolist(), reverse=True)


def test_no_cluster_is_empty_even_where_vectors_repeat() -> None:
    vectors = np.eye(4, dtype=np.float32)[np.array([0] * 30 + [1, 2, 3])]
    found = clusters.k_means(vectors, 4, 100, np.random.default_rng(0))
    assert np.bincount(found).tolist() == [30, 1, 1, 1]


def test_fewer_different_vectors_than_clusters_are_refused(judge: Judge) -> None:
    same = np.ones((5, 3), np.float32)
    with pytest.raises(DataError, match="only 1 different vectors"):
        judge("clusters", candidates(5, {"rows": {"vector": same}}), clusters=2)
    with pytest.raises(DataError, match="8 clusters of 5 rows"):
        judge("clusters", candidates(5, {"rows": {"vector": same}}), clusters=8)


def test_a_row_without_a_vector_has_no_cluster(judge: Judge) -> None:
    vectors = planted(np.random.default_rng(0))
    vectors[7] = np.nan
    scores = judge("clusters", candidates(100, {"rows": {"vector": vectors}}), clusters=3).scores
    assert np.flatnonzero(np.isnan(scores)).tolist() == [7]

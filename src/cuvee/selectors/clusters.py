"""Which cluster a row lies in: k-means on vectors of the rows; the score is the cluster's number.

Fu et al., Disperse-Then-Merge, arXiv 2405.13432: the other way to divide the data, found no better than chance. Their
code embeds the answers, makes vectors of length 1 and clusters them by Euclidean distance.

    runs: [{strategy: disperse_then_merge, portions: 4, by: {clusters: {of: answer}}}]

k-means++ (Arthur and Vassilvitskii 2007) chooses the first centres, Lloyd's rounds follow until no row changes its
cluster. Rows stand in the order of a hash, so the order of files changes nothing. Clusters are numbered by size, the
largest 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cuvee import protocols, seeds
from cuvee.data import ranks
from cuvee.errors import DataError
from cuvee.protocols import Candidates, Judged, Needs, Pool
from cuvee.selectors import _model
from cuvee.selectors._nearest import BLOCK, NO_VECTOR

VERSION = 1
SEEDED = True

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Params(protocols.Params):
    """Args:
    clusters: how many.
    of: what is embedded: the ``prompt`` (what is not supervised), the ``answer`` (what is), or ``both``.
    model: whose hidden states are taken (`_model`); the run's base when absent.
    layer, pooling: as in `rds`.
    rounds: at most so many of Lloyd's.
    """

    clusters: Annotated[int, Field(ge=1)] = 4
    of: Literal["prompt", "answer", "both"] = "answer"
    model: _model.Scorer | None = None
    layer: int = -1
    pooling: Literal["weighted_mean", "mean", "last_token"] = "mean"
    rounds: Annotated[int, Field(ge=1)] = 100


def needs(pool: Pool, params: Params) -> Needs:
    """Return the vectors of the rows."""
    model, rows = _model.of(pool, params.model)
    asked: dict[str, Any] = {"layer": params.layer, "pooling": params.pooling}
    if params.of != "both":  # the whole row, as other selectors embed it
        asked["of"] = params.of
    return Needs({"rows": rows.embed(model, asked)})


def identity(params: Params) -> dict[str, Any]:
    """Return how rows are clustered."""
    return {"clusters": params.clusters, "rounds": params.rounds}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the number of every row's cluster; rows without a vector have none.

    Raises:
        DataError: there are fewer different vectors than clusters.
    """
    seed, keys, labels = int(params["seed"]), candidates.keys, candidates.occurrences
    order = ranks.order(ranks.ranks(seed, "clusters", keys, labels), keys, labels)
    vectors = np.asarray(candidates.evidence["rows"]["vector"], np.float32)[order]
    known = np.isfinite(vectors).all(1)
    scores = np.full(len(candidates), np.nan)
    draw = np.random.default_rng(seeds.stream(seed, "clusters"))
    scores[order[known]] = k_means(vectors[known], int(params["clusters"]), int(params["rounds"]), draw)
    return Judged(scores, [(NO_VECTOR, np.isnan(scores))])


def k_means(vectors: Vectors, clusters: int, rounds: int, draw: np.random.Generator) -> Numbers:
    """Return the cluster of each vector, (n,), the largest cluster 0; of equally large ones the one met first.

    Args:
        vectors: (n, width).
        clusters: how many.
        rounds: at most so many.
        draw: for the first centres.

    Raises:
        DataError: there are fewer different vectors than clusters.
    """
    centres = _first(vectors, clusters, draw)
    found = np.full(len(vectors), -1, np.int64)
    for _ in range(rounds):
        nearest, distances = _assigned(vectors, centres)
        _fill(nearest, distances, clusters)
        if (nearest == found).all():
            break
        found = nearest
        centres = _means(vectors, found, clusters)
    return _numbered(found, clusters)


def _first(vectors: Vectors, clusters: int, draw: np.random.Generator) -> Floats:
    """Choose centres one after another, each by chance in proportion to the squared distance to those there are."""
    if len(vectors) < clusters:
        raise DataError(f"{clusters} clusters of {len(vectors)} rows; use fewer clusters or more rows")
    chosen = [int(draw.integers(len(vectors)))]
    left = _distances(vectors, vectors[chosen].astype(np.float64))[:, 0]
    while len(chosen) < clusters:
        if not left.any():
            raise DataError(
                f"{clusters} clusters asked, and the rows have only {len(chosen)} different vectors; use fewer clusters"
            )
        sums = np.cumsum(left)
        chosen.append(int(np.searchsorted(sums, draw.random() * sums[-1], side="right")))
        left = np.minimum(left, _distances(vectors, vectors[chosen[-1:]].astype(np.float64))[:, 0])
    return vectors[chosen].astype(np.float64)


def _distances(vectors: Vectors, centres: Floats) -> Floats:
    """Return squared distances, (n, centres); those that rounding leaves of equal vectors are 0."""
    found = np.empty((len(vectors), len(centres)))
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK].astype(np.float64)
        lengths = (block**2).sum(1)[:, None] + (centres**2).sum(1)
        apart = lengths - 2 * block @ centres.T
        found[start : start + BLOCK] = np.where(apart > 1e-12 * lengths, apart, 0.0)
    return found


def _assigned(vectors: Vectors, centres: Floats) -> tuple[Numbers, Floats]:
    apart = _distances(vectors, centres)
    nearest = apart.argmin(1)
    return nearest, np.take_along_axis(apart, nearest[:, None], 1)[:, 0]


def _fill(nearest: Numbers, distances: Floats, clusters: int) -> None:
    """Give a cluster that has lost all rows the row that is farthest from its centre and not alone there."""
    for empty in np.flatnonzero(np.bincount(nearest, minlength=clusters) == 0):
        sizes = np.bincount(nearest, minlength=clusters)
        farthest = int(np.where(sizes[nearest] > 1, distances, -1.0).argmax())
        nearest[farthest], distances[farthest] = empty, 0.0


def _means(vectors: Vectors, found: Numbers, clusters: int) -> Floats:
    sums = np.zeros((clusters, vectors.shape[1]))
    for start in range(0, len(vectors), BLOCK):
        np.add.at(sums, found[start : start + BLOCK], vectors[start : start + BLOCK].astype(np.float64))
    return sums / np.bincount(found, minlength=clusters)[:, None]


def _numbered(found: Numbers, clusters: int) -> Numbers:
    sizes = np.bincount(found, minlength=clusters)
    met = np.array([int(np.argmax(found == number)) for number in range(clusters)])
    place = np.empty(clusters, np.int64)
    place[np.lexsort((met, -sizes))] = np.arange(clusters)
    return place[found]

"""Whether a model keeps abilities apart: hidden states of held-out rows as a map, and as numbers.

    map             t-SNE of the rows' vectors (van der Maaten and Hinton 2008), as Dong et al., arXiv 2310.05492,
                    section 4.1 and figure 5, show it for a base and a DMT model
    separability    share of rows whose label a linear probe tells: logistic regression on the first principal
                    components, each row by a probe fitted on the other folds (Alain and Bengio, arXiv 1610.01644)
    purity          mean share of a row's nearest neighbours (cosine) that have its label

A map shows islands even in noise, and its distances mean little; the numbers say what can be told apart. What chance
gives is what they come to when labels are permuted among the rows: the middle 95 % of permutations, and p, the share
of permutations that reach the number, counting the labels as they are.

    analyses:
      - representations: {runs: [multi_task, dmt k=1/16], layers: [2, -1], pooling: [mean]}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cuvee import protocols
from cuvee.errors import UsageError
from cuvee.protocols import Figure, Representation, Table

VERSION = 1
OF = "representations"

TITLE = "Representations"
FEWEST_ROWS = 20
"""Rows of a label below which nothing is said of it."""
COMPONENTS = 32
"""Principal components that the probe sees: with as many columns as rows any labels could be told apart."""

Labels = NDArray[np.int64]


class Params(protocols.Params):
    """Args:
    runs: names of the runs whose final models are looked at besides their bases; all of them, if not too many.
    run_seed: of the recipe's seeds; its first.
    layers: indices into the hidden states: 0 the embeddings, -1 the last.
    pooling: of a row's tokens.
    rows: of each source, at most.
    by: what is told apart; abilities where sources teach different ones.
    neighbours: of a row.
    folds: of the probe.
    permutations: of the labels.
    seed: of map, folds and permutations.
    """

    runs: tuple[str, ...] | None = None
    run_seed: int | None = None
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    pooling: Annotated[tuple[Literal["weighted_mean", "mean", "last_token"], ...], Field(min_length=1)] = ("mean",)
    rows: Annotated[int, Field(ge=FEWEST_ROWS, le=2000)] = 200
    by: Literal["ability", "source"] = "ability"
    neighbours: Annotated[int, Field(ge=1, le=100)] = 10
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    permutations: Annotated[int, Field(ge=40, le=10_000)] = 100
    seed: int = 0


@dataclass(frozen=True)
class Against:
    """A number beside what permuted labels give: the middle 95 % of permutations, and the share that reach it."""

    value: float
    low: float
    high: float
    p: float


def table(results: Sequence[Representation], params: Params) -> list[Table]:
    """Return for each base the numbers of every model, layer and pooling, with one map a layer and pooling."""
    tables: list[Table] = []
    names = list(dict.fromkeys(one.base for one in results))
    for base in names:
        own = [one for one in results if one.base == base]
        tables.append(_of_base(own, params, f", base model {base}" if len(names) > 1 else ""))
    return tables or [Table(TITLE, ["model"], [], ["There are no models."])]


def _of_base(of: Sequence[Representation], params: Params, where: str) -> Table:
    notes = [f"{one.model}, layer {one.layer}, {one.pooling}: left out, {one.missing}." for one in of if one.missing]
    there = [one for one in of if not one.missing]
    if not there:
        return Table(TITLE + where, ["model"], [], ["Nothing to compare: no hidden states are there.", *notes])
    names, thin = _names(there[0], params.by)
    if thin:
        notes.append(f"Left out, with fewer than {FEWEST_ROWS} rows: {', '.join(thin)}.")
    if len(names) < 2:
        why = f"Nothing to tell apart: fewer than two {'abilities' if params.by == 'ability' else 'sources'} with rows."
        return Table(TITLE + where, ["model"], [], [why, *notes])
    rows, figures = [], []
    for layer, pooling in dict.fromkeys((one.layer, one.pooling) for one in there):
        panels = [one for one in there if (one.layer, one.pooling) == (layer, pooling)]
        kept = [(one, *_labelled(one, names, params.by)) for one in panels]
        rows += [_row(one, vectors, labels, params) for one, vectors, labels in kept]
        figures.append(_figure(kept, names, f"{_layer(layer)}, {pooling}{where}", params.seed))
    return Table(TITLE + where, list(rows[0]), rows, [*_said(there[0], names, params), *notes], figures)


def _layer(number: int) -> str:
    """Return a layer in words: file names of figures have no minus."""
    return f"layer {number}" if number >= 0 else "last layer" if number == -1 else f"layer {-number} from the end"


def _names(of: Representation, by: str) -> tuple[list[str], list[str]]:
    """Return the labels with enough rows, and the others."""
    each = list(of.abilities if by == "ability" else of.names)
    counts = {name: sum(int((of.source == i).sum()) for i, one in enumerate(each) if one == name) for name in each}
    return [n for n, rows in counts.items() if rows >= FEWEST_ROWS], [
        n for n, rows in counts.items() if rows < FEWEST_ROWS
    ]


def _labelled(of: Representation, names: Sequence[str], by: str) -> tuple[NDArray[np.float32], Labels]:
    """Return the vectors of the rows with one of these labels, and the labels' numbers."""
    each = of.abilities if by == "ability" else of.names
    numbers = np.array([names.index(one) if one in names else -1 for one in each], np.int64)[of.source]
    return of.vectors[numbers >= 0], numbers[numbers >= 0]


def _row(of: Representation, vectors: NDArray[np.float32], labels: Labels, params: Params) -> dict[str, Any]:
    row: dict[str, Any] = {"model": of.model, "layer": of.layer, "pooling": of.pooling, "rows": len(labels)}
    if not np.isfinite(vectors).all():
        return {**row, "separability (points)": "not numbers; has its training diverged?"}
    for name, found in (
        ("separability", separability(vectors, labels, params)),
        ("purity", purity(vectors, labels, params)),
    ):
        row[f"{name} (points)"] = round(100 * found.value, 1)
        row[f"{name} by chance"] = f"{100 * found.low:.1f}..{100 * found.high:.1f}"
        row[f"{name} p"] = f"{'≤ ' if found.p <= 1 / (params.permutations + 1) else ''}{found.p:.3g}"
    return row


# ------------------------------------------------------------------------------------------------- numbers


def separability(vectors: NDArray[np.float32], labels: Labels, params: Params) -> Against:
    """Return the share of rows that a linear probe labels rightly out of fold.

    Args:
        vectors: (n, width).
        labels: (n,), numbers from 0.
        params: folds, permutations, seed.
    """
    random = np.random.default_rng([params.seed, 1])
    features = principal(vectors)
    value = _probed(features, labels, params, random)
    chance = [_probed(features, random.permutation(labels), params, random) for _ in range(params.permutations)]
    return _against(value, np.array(chance))


def principal(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the first principal components, each of variance 1; labels have no part in them."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(COMPONENTS, int((sizes > 1e-6 * max(sizes[0], 1e-12)).sum()))
    return np.asarray(left[:, :kept] * np.sqrt(len(vectors)), np.float64)


def _probed(features: NDArray[np.float64], labels: Labels, params: Params, random: np.random.Generator) -> float:
    if not features.shape[1]:  # all rows have the same vector
        return float(np.bincount(labels).max() / len(labels))
    logistic = _sklearn("linear_model").LogisticRegression
    fold = _folds(labels, params.folds, random)
    right = 0
    for number in range(params.folds):
        inside = fold == number
        if not inside.any():
            continue
        probe = logistic(C=1.0, max_iter=1000, tol=1e-3).fit(features[~inside], labels[~inside])
        right += int((probe.predict(features[inside]) == labels[inside]).sum())
    return right / len(labels)


def _folds(labels: Labels, folds: int, random: np.random.Generator) -> Labels:
    """Return each row's fold: every label is spread evenly over them."""
    found = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        found[places] = np.arange(len(places)) % folds
    return found


def purity(vectors: NDArray[np.float32], labels: Labels, params: Params) -> Against:
    """Return the mean share of nearest neighbours with the row's own label.

    Args:
        vectors: (n, width).
        labels: (n,), numbers from 0.
        params: neighbours, permutations, seed.
    """
    random = np.random.default_rng([params.seed, 2])
    near = neighbours(vectors, params.neighbours)
    value = _pure(near, labels)
    return _against(value, np.array([_pure(near, random.permutation(labels)) for _ in range(params.permutations)]))


def neighbours(vectors: NDArray[np.float32], count: int) -> Labels:
    """Return each row's nearest other rows by cosine, (n, count)."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    likeness = (vectors / lengths) @ (vectors / lengths).T
    np.fill_diagonal(likeness, -np.inf)
    count = min(count, len(vectors) - 1)
    return np.argpartition(-likeness, count - 1, axis=1)[:, :count]


def _pure(near: Labels, labels: Labels) -> float:
    return float((labels[near] == labels[:, None]).mean())


def _against(value: float, chance: NDArray[np.float64]) -> Against:
    low, high = np.quantile(chance, [0.025, 0.975])
    return Against(value, float(low), float(high), float((1 + (chance >= value - 1e-12).sum()) / (1 + len(chance))))


# ----------------------------------------------------------------------------------------------------- map


def _figure(
    panels: Sequence[tuple[Representation, NDArray[np.float32], Labels]], names: Sequence[str], where: str, seed: int
) -> Figure:
    series: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for one, vectors, labels in panels:
        if np.isfinite(vectors).all():
            for (x, y), label in zip(embedded(vectors, seed), labels, strict=True):
                series[names[label]].append({"x": float(x), "y": float(y), "panel": one.model})
    return Figure("scatter", f"t-SNE of hidden states, {where}", "t-SNE 1", "t-SNE 2", series, "linear")


def embedded(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return a map of the rows, (n, 2)."""
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = _sklearn("manifold").TSNE(perplexity=perplexity, init="pca", random_state=seed, metric="cosine")
    if np.ptp(vectors, axis=0).max() == 0:  # one point, which has no map
        return np.zeros((len(vectors), 2))
    return np.asarray(tsne.fit_transform(vectors), np.float64)


def _sklearn(name: str) -> Any:
    try:
        from importlib import import_module

        return import_module(f"sklearn.{name}")
    except ImportError as error:
        raise UsageError(f"representations need scikit-learn ({error}); pip install 'cuvee[representations]'") from None


def _said(of: Representation, names: Sequence[str], params: Params) -> Iterator[str]:
    kind = "held-out rows, which no model has trained on" if of.heldout else "rows that the models have trained on"
    yield (
        f"What is told apart: {', '.join(names)}; {kind}, at most {params.rows} a source, the same for every model and "
        "those that held-out loss is measured on first."
    )
    yield (
        f"Separability: rows that logistic regression on {COMPONENTS} principal components labels rightly, each by a "
        f"probe fitted on the other {params.folds - 1} of {params.folds} folds. Purity: share of the "
        f"{params.neighbours} nearest neighbours (cosine) with the row's own label."
    )
    yield (
        f"By chance: the middle 95 % of {params.permutations} permutations of the labels, for which everything is "
        "fitted again. Numbers of two models have no interval for their difference here: they are of the same rows, "
        "and a model that keeps abilities apart is not a better one for it."
    )
    yield "A t-SNE map shows islands even in noise, and distances between them mean little: go by the numbers."

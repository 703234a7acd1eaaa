"""Task vectors: how far each model went from the base, and whether two went the same way, by layer and kind of module.

    tau_j = theta_j - theta_0        norm |tau_j|        cosine tau_i . tau_j / (|tau_i| |tau_j|)
    sign conflicts                   elements moved in opposite directions / elements that both have moved

Ilharco et al., arXiv 2212.04089: task vectors of different tasks are near a right angle to each other. Yadav et al.,
TIES, arXiv 2306.01708: elements with opposite signs are what a mean of models loses.

    analyses: [task_vectors]        # or {task_vectors: {models: final}}

These are facts about the weights at hand, with no chance in them, so there are no intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from math import acos, degrees, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cuvee import protocols
from cuvee.protocols import Figure, Table, TaskVectors, VectorPart

VERSION = 1
OF = "task_vectors"

OUTSIDE = "outside the layers"
MOST_COLUMNS = 12
"""Columns of a figure that can be read; more layers are drawn in bands."""


class Params(protocols.Params):
    """Args:
    models: ``all`` of the runs' models, those that are merged included, or the ``final`` ones.
    """

    models: Literal["all", "final"] = "all"


@dataclass(frozen=True, eq=False)
class Whole:
    """Some tensors taken together; the fields are sums of `VectorPart`'s."""

    size: int
    base: float
    dots: NDArray[np.float64]
    moved: NDArray[np.int64]
    conflicts: NDArray[np.int64]

    def norm(self, model: int) -> float:
        """Length of a model's task vector."""
        return sqrt(self.dots[model, model])

    def cosine(self, one: int, other: int) -> float | None:
        """Cosine between two task vectors; None where one of them is 0."""
        length = self.norm(one) * self.norm(other)
        return max(-1.0, min(1.0, float(self.dots[one, other]) / length)) if length else None

    def conflict(self, one: int, other: int) -> float | None:
        """Share of conflicts among the elements that both have moved."""
        moved = int(self.moved[one, other])
        return int(self.conflicts[one, other]) / moved if moved else None


def whole(parts: Sequence[VectorPart]) -> Whole:
    """Take tensors together, as if they were one vector."""
    return Whole(
        sum(part.size for part in parts),
        sum(part.base for part in parts),
        np.sum([part.dots for part in parts], axis=0),
        np.sum([part.moved for part in parts], axis=0),
        np.sum([part.conflicts for part in parts], axis=0),
    )


def table(results: Sequence[TaskVectors], params: Params) -> list[Table]:
    """Return for each base the models' norms, their angles, and both by layer and by kind of module."""
    tables: list[Table] = []
    for one in results:
        where = f", base model {one.base}" if len(results) > 1 else ""
        tables += _of_base(one, where)
    return tables or [Table("Task vectors", ["model"], [], ["There are no models."])]


def _of_base(of: TaskVectors, where: str) -> list[Table]:
    missing = _missing(of)
    if not of.models:
        return [Table(f"Task vectors{where}", ["model"], [], missing or ["Nothing is trained."])]
    total = whole(of.parts)
    tables = [Table(f"Task vectors: norms{where}", *_norms(of, total), [*_NORMS, *missing])]
    pairs = list(combinations(range(len(of.models)), 2))
    if pairs:
        figure = _angles(of, total, where)
        tables.append(Table(f"Task vectors: pairs{where}", *_pairs(of, total, pairs), _PAIRS, [figure]))
    layers = {_layer(key): list(parts) for key, parts in groupby(sorted(of.parts, key=_by_layer), key=_by_layer)}
    modules: dict[str, list[VectorPart]] = {}
    for part in of.parts:
        modules.setdefault(part.module if part.layer is not None else f"{part.module} ({OUTSIDE})", []).append(part)
    figures = [_by_place(of.parts, pairs, where)] if pairs and len(layers) > 1 else []
    tables.append(Table(f"Task vectors by layer{where}", *_places("layer", layers, pairs), _PLACES, figures))
    tables.append(Table(f"Task vectors by kind of module{where}", *_places("module", modules, pairs), _PLACES))
    return tables


def _missing(of: TaskVectors) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, why in of.missing.items():
        by_reason.setdefault(why, []).append(name)
    remedy = {"its weights were given up": "; `keep_models: all` keeps them"}
    return [f"Not looked at: {', '.join(names)}: {why}{remedy.get(why, '')}." for why, names in by_reason.items()]


Rows = tuple[list[str], list[dict[str, Any]]]

_NORMS = ("`to the base` is over the norm of the base's weights. An element has moved if its value is another.",)
_PAIRS = (
    "A cosine of 1 is the same direction, 0 a right angle, as of two random directions. Sign conflicts are a share of "
    "the elements that both models have moved; of unrelated directions it is a half.",
)
_PLACES = (
    "Norms are means over models, relative to the base's weights at the place. Cosines and sign conflicts are means "
    "over pairs of models, with the least and the largest cosine.",
)


def _norms(of: TaskVectors, total: Whole) -> Rows:
    rows = [
        {
            "model": name,
            "norm": f"{total.norm(number):.4g}",
            "to the base": _shown(total.norm(number) / sqrt(total.base) if total.base else None, ".3%"),
            "elements moved": f"{int(total.moved[number, number]) / total.size:.1%}",
        }
        for number, name in enumerate(of.models)
    ]
    return list(rows[0]), rows


def _pairs(of: TaskVectors, total: Whole, pairs: Sequence[tuple[int, int]]) -> Rows:
    rows = []
    for one, other in pairs:
        cosine = total.cosine(one, other)
        angle = None if cosine is None else degrees(acos(cosine))
        rows.append(
            {
                "model": of.models[one],
                "and": of.models[other],
                "cosine": _shown(cosine, ".3f"),
                "angle (degrees)": _shown(angle, ".1f"),
                "sign conflicts": _shown(total.conflict(one, other), ".1%"),
                "both moved": f"{int(total.moved[one, other]) / total.size:.1%}",
            }
        )
    return list(rows[0]), rows


def _places(kind: str, places: dict[str, list[VectorPart]], pairs: Sequence[tuple[int, int]]) -> Rows:
    rows = []
    for name, parts in places.items():
        one = whole(parts)
        cosines, conflicts = _known(one.cosine, pairs), _known(one.conflict, pairs)
        norms = [one.norm(model) for model in range(len(one.dots))]
        row: dict[str, Any] = {
            kind: name,
            "elements": one.size,
            "norm to the base": _shown(sum(norms) / len(norms) / sqrt(one.base) if one.base else None, ".3%"),
        }
        if pairs:
            row["cosine"] = _shown(_mean(cosines), ".3f")
            row["least..largest"] = f"{min(cosines):.3f}..{max(cosines):.3f}" if cosines else ""
            row["sign conflicts"] = _shown(_mean(conflicts), ".1%")
        rows.append(row)
    return list(rows[0]), rows


def _angles(of: TaskVectors, total: Whole, where: str) -> Figure:
    series = {
        name: [_cell(other, total.cosine(one, number)) for number, other in enumerate(of.models)]
        for one, name in enumerate(of.models)
    }
    return _matrix(f"Cosines between task vectors{where}", "model", "model", series)


def _by_place(parts: Sequence[VectorPart], pairs: Sequence[tuple[int, int]], where: str) -> Figure:
    """Kinds of modules by layers, each the mean cosine over pairs."""
    inside = [part for part in parts if part.layer is not None]
    bands = _bands(sorted({part.layer for part in inside if part.layer is not None}))
    series: dict[str, list[dict[str, Any]]] = {}
    for module in dict.fromkeys(part.module for part in inside):
        for name, layers in bands:
            own = [part for part in inside if part.module == module and part.layer in layers]
            mean = _mean(_known(whole(own).cosine, pairs)) if own else None
            series.setdefault(module, []).append(_cell(name, mean))
    return _matrix(f"Mean cosine between task vectors{where}", "layer", "kind of module", series)


def _matrix(title: str, x: str, y: str, series: dict[str, list[dict[str, Any]]]) -> Figure:
    known = {name: [point for point in points if point["y"] is not None] for name, points in series.items()}
    return Figure("matrix", title, x, y, known)


def _cell(x: str, y: float | None) -> dict[str, Any]:
    return {"x": x, "y": y, "low": None, "high": None}


def _bands(layers: Sequence[int]) -> list[tuple[str, range]]:
    if not layers:
        return []
    step = -(-len(layers) // MOST_COLUMNS)
    found = [layers[start : start + step] for start in range(0, len(layers), step)]
    return [(str(b[0]) if len(b) == 1 else f"{b[0]}-{b[-1]}", range(b[0], b[-1] + 1)) for b in found]


def _known(of: Any, pairs: Sequence[tuple[int, int]]) -> list[float]:
    return [value for one, other in pairs if (value := of(one, other)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_layer(part: VectorPart) -> float:
    return float("inf") if part.layer is None else part.layer


def _layer(key: float) -> str:
    return OUTSIDE if key == float("inf") else str(int(key))


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"

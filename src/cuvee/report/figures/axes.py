"""The x axis of points: categories, or values on a linear or logarithmic scale, series side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cuvee.protocols import Figure
from cuvee.report.figures.marks import categories_of
from cuvee.report.figures.style import GRID, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = 10
"""Values of a logarithmic axis that are written one by one; of more the powers of ten are."""


def places_of(figure: Figure, moving: Sequence[str]) -> dict[tuple[str, int], float]:
    """Return where each point stands on the x axis; series side by side so that bars do not hide each other."""
    places: dict[tuple[str, int], float] = {}
    categories = {x: place for place, x in enumerate(categories_of(figure))}
    edge = _edge(figure) if figure.x_scale == "log" else 0.0
    linear = figure.x_scale == "linear"
    gap = _gap([point["x"] for name in moving for point in figure.series[name]]) if linear else 0.0
    for number, name in enumerate(moving):
        shift = (number - (len(moving) - 1) / 2) / max(1, len(moving))
        for index, point in enumerate(figure.series[name]):
            if figure.x_scale == "category":
                places[name, index] = categories[point["x"]] + 0.72 * shift
            elif figure.x_scale == "log":
                places[name, index] = (point["x"] or edge) * 1.12 ** (4 * shift)
            else:
                places[name, index] = point["x"] + 0.3 * gap * shift
    return places


def _gap(xs: Sequence[float]) -> float:
    """The smallest distance between two places of a linear axis."""
    return min((b - a for a, b in pairwise(sorted(set(xs)))), default=0.0)


def _edge(figure: Figure) -> float:
    """Where 0 stands on a logarithmic axis: one usual step left of the smallest positive x."""
    xs = sorted({p["x"] for points in figure.series.values() for p in points if p.get("x")})
    if not xs:
        return 1.0
    return float(xs[0] / (xs[1] / xs[0] if len(xs) > 1 else 4))


def mark_x_axis(axes: Axes, figure: Figure, moving: Sequence[str]) -> None:
    """Set scale and ticks; `moving` are the series with points of their own, neither levels nor bands."""
    if figure.x_scale == "category":
        names = [str(x) for x in categories_of(figure) if x is not None]
        _category_axis(axes, names)
        return
    xs = sorted({p["x"] for name in moving for p in figure.series[name]})
    if figure.x_scale == "linear" and len(xs) <= 12 and all(float(x).is_integer() for x in xs):
        axes.set_xticks(xs, [f"{x:.0f}" for x in xs])
    elif figure.x_scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
        shown = xs if len(xs) <= _TICKS else [*(xs[:1] if xs[0] == 0 else []), *_powers(xs)]
        axes.set_xticks([x or _edge(figure) for x in shown], [_fraction(x) for x in shown])
        if len(xs) > 1 and xs[0] == 0:  # 0 has no place on a logarithmic axis: a line parts it from the rest
            between = math.sqrt(_edge(figure) * xs[1])
            axes.axvline(between, color="#aaaaaa", linewidth=0.8, linestyle=(0, (2, 2)))


def _category_axis(axes: Axes, names: Sequence[str]) -> None:
    room = WIDTH * 72 * 0.85 / max(1, len(names))
    crowded = max((len(name) for name in names), default=0) * 6 > room
    style: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(names)), names, **style)
    axes.set_xlim(-0.5, max(0.5, len(names) - 0.5))
    axes.grid(False, axis="x")
    for place in range(1, len(names)):
        axes.axvline(place - 0.5, color=GRID, linewidth=0.8)


def _powers(xs: Sequence[float]) -> list[float]:
    low, high = min(x for x in xs if x > 0), max(xs)
    inside = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return inside if len(inside) > 1 else [low, high]


def _fraction(x: float) -> str:
    """A share as a fraction, a larger number as digits."""
    if x > 1:
        return f"{x:,.0f}" if x >= 100 or float(x).is_integer() else f"{x:.3g}"
    near = Fraction(x).limit_denominator(4096)
    return str(near) if math.isclose(float(near), x, rel_tol=1e-9, abs_tol=1e-12) else f"{x:.3g}"

"""Points in rows, one a series, where there are too many series for colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cuvee.protocols import Figure
from cuvee.report.figures.marks import Mark, categories_of, error_bars
from cuvee.report.figures.style import COLOURS, few
from cuvee.report.figures.words import label_of, write_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_BESIDE = 4
"""Axes side by side."""


def in_rows(figure: Figure) -> bool:
    """Return whether a figure of points is drawn so."""
    points = [point for each in figure.series.values() for point in each]
    plain = all(point.get("x") is not None and not point.get("band") for point in points)
    return figure.kind == "points" and figure.x_scale == "category" and not few(figure) and plain


def height(figure: Figure) -> float:
    """Return the figure's height in inches."""
    return 0.7 + (0.7 + 0.17 * len(figure.series)) * math.ceil(len(categories_of(figure)) / _BESIDE)


def draw(canvas: Canvas, figure: Figure) -> list[Mark]:
    """Draw one row a series and one axes a category: a place in a list tells dozens of series apart, colours cannot."""
    names, categories = list(figure.series), categories_of(figure)
    across = min(_BESIDE, len(categories))
    grid = canvas.subplots(math.ceil(len(categories) / across), across, sharex=True, sharey=True, squeeze=False).ravel()
    write_title(canvas, figure)
    marks: list[Mark] = []
    for axes, category in zip(grid, categories, strict=False):
        own = [
            (row, point) for row, name in enumerate(names) for point in figure.series[name] if point["x"] == category
        ]
        found = [point for _, point in own]
        axes.errorbar(
            [point["y"] for point in found],
            [row for row, _ in own],
            xerr=error_bars(found),
            linestyle="none",
            marker="o",
            markersize=4,
            elinewidth=1.1,
            color=COLOURS[0],
        )
        axes.set_title(str(category), fontsize=9.5)
        marks += [(row, axes, point["y"], row, point) for row, point in own]
    grid[0].set_yticks(range(len(names)), [label_of(name) for name in names], fontsize=8)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    for axes in grid[len(categories) :]:
        axes.set_axis_off()
    canvas.supxlabel(figure.y_label, fontsize=9.5)
    return marks

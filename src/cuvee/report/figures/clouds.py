"""Clouds of points, one axes a `panel` of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cuvee.protocols import Figure
from cuvee.report.figures.marks import Mark, part_of_series
from cuvee.report.figures.style import styles
from cuvee.report.figures.words import label_of, write_legend, write_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_ACROSS = 3
"""Clouds side by side."""


def _panels(figure: Figure) -> list[str]:
    return list(dict.fromkeys(str(point.get("panel", "")) for points in figure.series.values() for point in points))


def height(figure: Figure) -> float:
    """Return the figure's height in inches."""
    return 0.9 + 3.0 * math.ceil(len(_panels(figure)) / _ACROSS)


def draw(canvas: Canvas, figure: Figure) -> list[Mark]:
    """Draw one axes a panel; places have no unit, so that axes have no ticks."""
    panels = _panels(figure) or [""]
    across = min(_ACROSS, len(panels))
    grid = canvas.subplots(math.ceil(len(panels) / across), across, squeeze=False).ravel()
    write_title(canvas, figure)
    marks: list[Mark] = []
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(panel, fontsize=9.5)
        for number, (name, points, style) in enumerate(styles(figure)):
            own = [point for point in points if str(point.get("panel", "")) == panel]
            places = [point["x"] for point in own], [point["y"] for point in own]
            plain = {"c": style["color"], "marker": style["marker"], "s": 13, "alpha": 0.75, "linewidths": 0}
            with part_of_series(axes, number):
                axes.scatter(*places, label=label_of(name), **plain)
            marks += [(number, axes, point["x"], point["y"], point) for point in own]
        axes.set(xticks=[], yticks=[], xlabel=figure.x_label, ylabel=figure.y_label)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    write_legend(canvas, canvas.axes[0], figure)
    return marks

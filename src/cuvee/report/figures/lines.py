"""Curves of many points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuvee.protocols import Figure
from cuvee.report.figures.marks import Mark, part_of_series
from cuvee.report.figures.style import COLOURS, LINES
from cuvee.report.figures.words import height_with_legend, label_of, write_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def height(figure: Figure) -> float:
    """Return the figure's height in inches."""
    return height_with_legend(figure)


def draw(canvas: Canvas, figure: Figure) -> list[Mark]:
    """Draw the curves, and return where their points stand."""
    axes = canvas.add_subplot()
    marks: list[Mark] = []
    for number, (name, points) in enumerate(figure.series.items()):
        with part_of_series(axes, number):
            axes.plot(
                [point["x"] for point in points],
                [point["y"] for point in points],
                label=label_of(name),
                linewidth=1.4,
                marker="o" if len(points) == 1 else "",
                markersize=4,
                color=COLOURS[number % len(COLOURS)],
                linestyle=LINES[number // len(COLOURS) % len(LINES)],
            )
        marks += [(number, axes, point["x"], point["y"], point) for point in points]
    write_words(canvas, axes, figure)
    return marks

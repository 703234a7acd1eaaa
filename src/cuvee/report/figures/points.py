"""Points with error bars, one series a colour and marker.

A series whose points have no x is a level, one whose points say ``band`` is a line with its band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cuvee.protocols import Figure
from cuvee.report.figures.axes import mark_x_axis, places_of
from cuvee.report.figures.marks import Mark, error_bars, part_of_series
from cuvee.report.figures.style import few, styles
from cuvee.report.figures.words import height_with_legend, label_of, numbers_of, write_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def height(figure: Figure) -> float:
    """Return the figure's height in inches."""
    return height_with_legend(figure)


def draw(canvas: Canvas, figure: Figure) -> list[Mark]:
    """Draw the points, and return where they stand."""
    axes = canvas.add_subplot()
    levels = {name for name, points in figure.series.items() if points and points[0].get("x") is None}
    bands = {name for name, points in figure.series.items() if points and points[0].get("band")}
    moving = [name for name in figure.series if name not in levels | bands]
    places = places_of(figure, moving)
    marks: list[Mark] = []
    for number, (name, points, style) in enumerate(styles(figure)):
        label, colour = label_of(name), style["color"]
        with part_of_series(axes, number):
            if name in levels:
                axes.axhline(points[0]["y"], color=colour, label=label, linestyle=(0, (6, 3)), linewidth=1.3)
                continue
            xs = [point["x"] for point in points]
            if name in bands:
                _band(axes, label, points, colour)
            else:
                xs = [places[name, index] for index in range(len(points))]
                _with_bars(axes, figure, label, xs, points, style)
        marks += [(number, axes, x, point["y"], point) for x, point in zip(xs, points, strict=True)]
    mark_x_axis(axes, figure, moving)
    write_words(canvas, axes, figure)
    return marks


def _with_bars(
    axes: Axes,
    figure: Figure,
    label: str,
    xs: Sequence[float],
    points: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    """Draw one series, with its number where the figure is crowded."""
    ys = [point["y"] for point in points]
    axes.errorbar(
        xs,
        ys,
        yerr=error_bars(points),
        label=label,
        capsize=2.5 if few(figure) else 0,
        markersize=5,
        elinewidth=1.1,
        linewidth=1.2,
        **(style if figure.x_scale != "category" else {**style, "linestyle": "none"}),
    )
    number = numbers_of(figure).get(label)
    if number is not None:
        axes.annotate(str(number), (xs[0], ys[0]), (4, 3), textcoords="offset points", fontsize=7)


def _band(axes: Axes, label: str, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Draw a line with its band, where it has one."""
    xs = [point["x"] for point in points]
    axes.plot(xs, [point["y"] for point in points], color=colour, linewidth=1.1, linestyle=(0, (5, 2)), label=label)
    if all(point.get("low") is not None and point.get("high") is not None for point in points):
        low, high = ([float(point[end]) for point in points] for end in ("low", "high"))
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)

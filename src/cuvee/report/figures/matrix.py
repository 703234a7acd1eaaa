"""A heat map with its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cuvee.protocols import Figure
from cuvee.report.figures.marks import Mark, categories_of
from cuvee.report.figures.style import WIDTH, few
from cuvee.report.figures.words import write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def height(figure: Figure) -> float:
    """Return the figure's height in inches."""
    return 1.6 + (0.42 if few(figure) else 0.24) * len(figure.series)


def draw(canvas: Canvas, figure: Figure) -> list[Mark]:
    """Draw the cells, and return where they stand."""
    axes = canvas.add_subplot()
    marks = _cells(axes, figure)
    write_title(canvas, figure)
    axes.set_xlabel("; in the cells: ".join(label for label in (figure.x_label, figure.y_label) if label))
    return marks


def _cells(axes: Axes, figure: Figure) -> list[Mark]:
    """Series are rows, x are columns; numbers stand in the cells, so colour carries nothing alone."""
    rows, columns = list(figure.series), categories_of(figure)
    if not rows or not columns:
        return []
    values = [[math.nan] * len(columns) for _ in rows]
    for row, name in enumerate(rows):
        for point in figure.series[name]:
            values[row][columns.index(point["x"])] = point["y"]
    present = [v for row in values for v in row if not math.isnan(v)] or [0.0]
    signed = min(present) < 0 < max(present)
    top = max(abs(v) for v in present) or 1.0
    digits = max(0, 2 - math.floor(math.log10(max(map(abs, present)) or 1.0)))
    low, high = (
        (-top, top) if signed else (min(present), max(present) if max(present) > min(present) else min(present) + 1)
    )
    # pcolormesh and not imshow: squares stay vectors, and the file stays text.
    mesh: Any = axes.pcolormesh(values, cmap="PuOr" if signed else "cividis", vmin=low, vmax=high, edgecolors="white")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isnan(value):
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{round(value, digits) + 0.0:.{digits}f}",
                    ha="center",
                    va="center",
                    color=_readable_on(mesh.cmap(mesh.norm(value))),
                    fontsize=9,
                )
    axes.set_yticks([row + 0.5 for row in range(len(rows))], rows, fontsize=9.5 if few(figure) else 8)
    names = [str(column) for column in columns]
    crowded = max(map(len, names), default=0) * 6 > WIDTH * 50 / max(1, len(names))
    style: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks([column + 0.5 for column in range(len(names))], names, **style)
    axes.invert_yaxis()
    axes.grid(False)
    of_rows = [(row, point) for row, name in enumerate(rows) for point in figure.series[name]]
    return [(row, axes, columns.index(point["x"]) + 0.5, row + 0.5, point) for row, point in of_rows]


def _readable_on(colour: Sequence[float]) -> str:
    """Black or white, whichever differs more from a colour (relative luminance and contrast of WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"

"""Title, labels and legend."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from cuvee.protocols import Figure
from cuvee.report.figures.style import WIDTH, few

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDEST_LABEL, WIDEST_TITLE = 50, 80
"""Characters of a line beside the vertical axis and of the title; longer ones take two."""


def write_title(canvas: Canvas, figure: Figure) -> None:
    """Write the title from the left edge of the figure."""
    canvas.suptitle(textwrap.fill(figure.title, WIDEST_TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")


def write_words(canvas: Canvas, axes: Axes, figure: Figure) -> None:
    """Write the title, both axes' labels and the legend of a figure with one axes."""
    write_title(canvas, figure)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(textwrap.fill(figure.y_label, WIDEST_LABEL))
    write_legend(canvas, axes, figure)


def write_legend(canvas: Canvas, axes: Axes, figure: Figure) -> None:
    """Draw the legend below the axes, where it covers no point; where points bear numbers, it says whose these are."""
    order = [label_of(name) for name in figure.series]
    by_name = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # matplotlib lists lines before points with bars; the series' own order keeps what belongs together.
    names = [name for name in order if name in by_name]
    if names:
        numbers = numbers_of(figure)
        drawn = canvas.legend(
            [by_name[name] for name in names],
            [f"{numbers[name]}  {name}" if name in numbers else name for name in names],
            loc="outside lower center",
            ncols=_legend_columns(figure),
            frameon=False,
            handlelength=2.6 if few(figure) else 1.2,
            columnspacing=1.4,
            fontsize=9 if few(figure) else 8,
        )
        for name, entry in zip(names, drawn.get_texts(), strict=True):
            entry.set_gid(f"legend-{order.index(name)}")


def height_with_legend(figure: Figure) -> float:
    """Return the inches of one axes and a legend below it."""
    plot, line = (3.5, 0.19) if few(figure) else (4.2, 0.17)
    return plot + line * math.ceil(len(figure.series) / _legend_columns(figure))


def _legend_columns(figure: Figure) -> int:
    """Return how many columns fit the width: so many points a letter, and 40 for the handle."""
    longest = max((len(name) for name in figure.series), default=1)
    room = WIDTH * 72 / (40 + (6 if few(figure) else 5) * longest)
    return max(1, min(len(figure.series), int(room)))


def label_of(name: str) -> str:
    """Return a series' name in the legend; matplotlib would hide one that starts with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def numbers_of(figure: Figure) -> dict[str, int]:
    """Return what to print beside the points of a crowded figure, by label; none where series have several points."""
    if few(figure) or figure.kind != "points" or any(len(points) > 1 for points in figure.series.values()):
        return {}
    return {label_of(name): number for number, name in enumerate(figure.series, 1)}

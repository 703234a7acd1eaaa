"""Colours, markers, lines and letters of every drawing.

Colours are Okabe and Ito's, without the yellow that vanishes on white; series past the seventh differ by line style and
marker too. The background is white, so that a page may be dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cuvee.protocols import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = "os^Dv*PX<>hp"
LINES = ("-", "--", ":")

WIDTH = 7.5
"""Inches: 540 pt, which a browser shows at 720 px."""

CROWDED = 12
"""Series that can be told apart by colour and marker, side by side; more need another drawing."""

INK, GRID = "#222222", "#d9d9d9"


def settings() -> Any:
    """Return matplotlib's settings."""
    return {
        "svg.hashsalt": "cuvee",  # ids inside the text would else be random
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar sign in a run's name is a dollar sign
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.edgecolor": "#777777",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    }


def few(figure: Figure) -> bool:
    """Return whether colours and markers tell the series apart."""
    return len(figure.series) <= CROWDED


def styles(figure: Figure) -> Iterator[tuple[str, Sequence[Mapping[str, Any]], dict[str, Any]]]:
    """Yield each series with its colour, marker and line; a series `like` another shares its colour."""
    given: dict[str, dict[str, Any]] = {}
    number = -1
    for name, points in figure.series.items():
        like = next((point["like"] for point in points if point.get("like") in given), None)
        number += like is None
        given[name] = (
            given[like]
            if like
            else {
                "color": COLOURS[number % len(COLOURS)],
                "marker": MARKERS[number % len(MARKERS)],
                "linestyle": LINES[number // len(COLOURS) % len(LINES)],
            }
        )
        yield name, points, given[name]

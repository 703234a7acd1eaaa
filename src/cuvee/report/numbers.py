"""Numbers as people read them: digits by what a column's header says it holds.

show("overall (points, ↑ higher is better)", 43.217)  ->  "43.2"
show("p (Holm)", 0.00004)                             ->  "< 0.001"
"""

from __future__ import annotations

import math
from typing import Any

SIGNED = ("difference", "change", "low (", "high (")
"""Headers that start so hold differences: they always show their sign."""


def show(column: str, value: Any) -> str:
    """Return a cell's text; an empty cell is an en dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(column, value)
    if isinstance(value, list | tuple):
        return ", ".join(show(column, each) for each in value)
    return str(value)


def _number(column: str, value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if column == "p" or column.startswith("p ("):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    sign = "+" if column.startswith(SIGNED) else ""
    if "points" in column:
        return f"{value + 0.0:{sign}.1f}"
    if "nats" in column or "loss" in column:
        return f"{value + 0.0:{sign}.3f}"
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


def seconds(value: float) -> str:
    """Return a duration: ``0.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{int(value) // 3600} h {int(value) % 3600 // 60:02d} min"


def is_number(value: Any) -> bool:
    """Whether a cell should be aligned like a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)

"""What drawings of points share: where these stand, their bars, and parts that a page can hide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cuvee.protocols import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mark = tuple[int, "Axes", float, float, Mapping[str, Any]]
"""A point on its axes, before the layout says where these are: series, axes, x, y, the point."""


@contextmanager
def part_of_series(axes: Axes, number: int) -> Iterator[None]:
    """Name what is drawn inside as parts of a series, so that a page can hide it."""
    before = {id(each) for each in axes.get_children()}
    yield
    for part, artist in enumerate(each for each in axes.get_children() if id(each) not in before):
        artist.set_gid(f"series-{number}-{list(axes.figure.axes).index(axes)}-{part}")


def categories_of(figure: Figure) -> list[Any]:
    """Return the x of all points, each once."""
    return list(dict.fromkeys(point["x"] for points in figure.series.values() for point in points))


def error_bars(points: Sequence[Mapping[str, Any]]) -> list[list[float]] | None:
    """Return lengths below and above; a point without ends has none."""

    def length(point: Mapping[str, Any], end: str) -> float:
        return abs(point["y"] - point[end]) if point.get(end) is not None else 0.0

    lengths = [[length(point, end) for point in points] for end in ("low", "high")]
    return lengths if any(any(side) for side in lengths) else None

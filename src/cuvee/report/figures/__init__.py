"""Figures as SVG text: equal figures give equal text, readable at 720 px, safe for colour-blind readers.

Kinds, one module each: ``points`` (with error bars; too many series stand in `rows`), ``lines`` (curves of many
points), ``matrix`` (a heat map with its numbers), ``scatter`` (`clouds`).

    points = [{"x": "math", "y": 40.1, "low": 38, "high": 42}]
    svg(Figure("points", "title", "ability", "accuracy (points)", {"dmt": points}))
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cuvee.errors import UsageError
from cuvee.protocols import Figure
from cuvee.report.figures import clouds, lines, matrix, points, rows
from cuvee.report.figures.marks import Mark
from cuvee.report.figures.style import WIDTH, settings
from cuvee.report.svg_text import compact

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class _Kind(Protocol):
    """A module that draws figures of one kind."""

    def height(self, figure: Figure) -> float: ...

    def draw(self, canvas: Canvas, figure: Figure) -> list[Mark]: ...


_KINDS: Mapping[str, _Kind] = {"points": points, "lines": lines, "matrix": matrix, "scatter": clouds}

SAID = 12
"""Series that a figure's description names; of more it says how many."""


@dataclass(frozen=True)
class Spot:
    """Where a point stands in the SVG, in its own units: series by number, x and y from the upper left corner."""

    series: int
    x: float
    y: float
    point: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A figure as text and as pixels, and where its points stand.

    Ids in the text are ``NAME-series-2-0-0`` (series, axes, part) and ``NAME-legend-2``.
    """

    svg: str
    png: bytes
    spots: Sequence[Spot]


def svg(figure: Figure, *, name: str = "figure") -> str:
    """Return a figure as SVG text with a title and a description for screen readers.

    Args:
        figure: what to draw.
        name: prefix of the ids inside, so that several figures can stand in one page.

    Raises:
        UsageError: matplotlib is not installed.
    """
    return draw(figure, name=name, pixels=False).svg


def draw(figure: Figure, *, name: str = "figure", pixels: bool = True) -> Drawn:
    """Return a figure as `svg` does, with its points' places and, if asked, as PNG (1,500 pixels wide).

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise UsageError(f"figures need matplotlib ({error}); pip install 'cuvee[report]'") from None

    kind = _kind(figure)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style must not change a report
        matplotlib.rcParams.update(settings())
        canvas = Canvas(figsize=(WIDTH, kind.height(figure)), layout="constrained", dpi=72)
        marks = kind.draw(canvas, figure)
        text, image = io.StringIO(), io.BytesIO()
        backend: Any = FigureCanvasSVG(canvas)
        backend.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        spots = list(_spots(canvas, marks))
        if pixels:
            canvas.set_dpi(200)
            agg: Any = FigureCanvasAgg(canvas)
            agg.print_png(image, metadata={"Software": None})
    return Drawn(compact(text.getvalue(), prefix=name, said=_said(figure)), image.getvalue(), spots)


def _kind(figure: Figure) -> _Kind:
    return rows if rows.in_rows(figure) else _KINDS[figure.kind]


def _spots(canvas: Canvas, marks: Sequence[Mark]) -> Iterator[Spot]:
    """Yield where points stand once the figure is laid out."""
    width, height = (72 * float(inches) for inches in canvas.get_size_inches())
    for number, axes, x, y, point in marks:
        across, up = canvas.transFigure.inverted().transform(axes.transData.transform((x, y)))
        if math.isfinite(across) and math.isfinite(up):
            yield Spot(number, width * float(across), height * (1 - float(up)), point)


def _said(figure: Figure) -> str:
    """What a screen reader says of a figure."""
    names = list(figure.series)
    more = f" and {len(names) - SAID} more" if len(names) > SAID else ""
    return f"{figure.title}. {figure.y_label} against {figure.x_label}; series: {', '.join(names[:SAID])}{more}."

"""Figures as SVG text: equal figures give equal text, readable at 720 px, safe for colour-blind readers.

Kinds: ``points`` (error bars, one series a colour and marker; a series whose points say ``band`` is a line with its
band; more than `CROWDED` series stand in rows, one axes a category, or bear numbers), ``lines`` (curves of many
points), ``matrix`` (a heat map with its numbers), ``scatter`` (clouds, one axes a `panel` of the points). Colours are
Okabe and Ito's, without the yellow that vanishes on white; series past the seventh differ by line style and marker
too. The background is white, so that a page may be dark.

    points = [{"x": "math", "y": 40.1, "low": 38, "high": 42}]
    svg(Figure("points", "title", "ability", "accuracy (points)", {"dmt": points}))
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cuvee.errors import UsageError
from cuvee.protocols import Figure
from cuvee.report.svg_text import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = "os^Dv*PX<>hp"
LINES = ("-", "--", ":")

WIDTH = 7.5
"""Inches: 540 pt, which a browser shows at 720 px."""

WIDEST_LABEL, WIDEST_TITLE = 50, 80
"""Characters of a line beside the vertical axis and of the title; longer ones take two."""

CROWDED = 12
"""Series that can be told apart by colour and marker, side by side; more need another drawing."""

_INK, _GRID = "#222222", "#d9d9d9"


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

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style must not change a report
        matplotlib.rcParams.update(_settings())
        canvas = Canvas(figsize=(WIDTH, _height(figure)), layout="constrained", dpi=72)
        marks = _drawer(figure)(canvas, figure)
        text, image = io.StringIO(), io.BytesIO()
        backend: Any = FigureCanvasSVG(canvas)
        backend.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        spots = list(_spots(canvas, marks))
        if pixels:
            canvas.set_dpi(200)
            agg: Any = FigureCanvasAgg(canvas)
            agg.print_png(image, metadata={"Software": None})
    return Drawn(compact(text.getvalue(), prefix=name, said=_said(figure)), image.getvalue(), spots)


Mark = tuple[int, "Axes", float, float, Mapping[str, Any]]
"""A point on its axes, before the layout says where these are: series, axes, x, y, the point."""


def _spots(canvas: Canvas, marks: Sequence[Mark]) -> Iterator[Spot]:
    """Yield where points stand once the figure is laid out."""
    width, height = (72 * float(inches) for inches in canvas.get_size_inches())
    for number, axes, x, y, point in marks:
        across, up = canvas.transFigure.inverted().transform(axes.transData.transform((x, y)))
        if math.isfinite(across) and math.isfinite(up):
            yield Spot(number, width * float(across), height * (1 - float(up)), point)


@contextmanager
def _series(axes: Axes, number: int) -> Iterator[None]:
    """Name what is drawn inside as parts of a series, so that a page can hide it."""
    before = {id(each) for each in axes.get_children()}
    yield
    for part, artist in enumerate(each for each in axes.get_children() if id(each) not in before):
        artist.set_gid(f"series-{number}-{list(axes.figure.axes).index(axes)}-{part}")


def _settings() -> Any:
    return {
        "svg.hashsalt": "cuvee",  # ids inside the text would else be random
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar sign in a run's name is a dollar sign
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.edgecolor": "#777777",
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    }


def _drawer(figure: Figure) -> Callable[[Canvas, Figure], list[Mark]]:
    if figure.kind == "scatter":
        return _clouds
    return _rows if _in_rows(figure) else _one_axes


def _one_axes(canvas: Canvas, figure: Figure) -> list[Mark]:
    axes = canvas.add_subplot()
    marks: list[Mark] = {"points": _points, "lines": _curves, "matrix": _matrix}[figure.kind](axes, figure)
    _title(canvas, figure)
    if figure.kind == "matrix":
        axes.set_xlabel("; in the cells: ".join(label for label in (figure.x_label, figure.y_label) if label))
        return marks
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(textwrap.fill(figure.y_label, WIDEST_LABEL))
    _legend(canvas, axes, figure)
    return marks


def _title(canvas: Canvas, figure: Figure) -> None:
    canvas.suptitle(textwrap.fill(figure.title, WIDEST_TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")


def _height(figure: Figure) -> float:
    if figure.kind == "scatter":
        return 0.9 + 3.0 * math.ceil(len(_panels(figure)) / _ACROSS)
    if figure.kind == "matrix":
        return 1.6 + (0.42 if len(figure.series) <= CROWDED else 0.24) * len(figure.series)
    if _in_rows(figure):
        return 0.7 + (0.7 + 0.17 * len(figure.series)) * math.ceil(len(_categories(figure)) / _BESIDE)
    plot, line = (3.5, 0.19) if _few(figure) else (4.2, 0.17)
    return plot + line * math.ceil(len(figure.series) / _columns(figure))


def _few(figure: Figure) -> bool:
    return len(figure.series) <= CROWDED


def _columns(figure: Figure) -> int:
    """How many legend columns fit the width: so many points a letter, and 40 for the handle."""
    longest = max((len(name) for name in figure.series), default=1)
    room = WIDTH * 72 / (40 + (6 if _few(figure) else 5) * longest)
    return max(1, min(len(figure.series), int(room)))


def _legend(canvas: Canvas, axes: Axes, figure: Figure) -> None:
    """Below the axes, where it covers no point; where points bear numbers, it says whose these are."""
    order = [_label(name) for name in figure.series]
    by_name = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # matplotlib lists lines before points with bars; the series' own order keeps what belongs together.
    names = [name for name in order if name in by_name]
    if names:
        numbers = _numbers(figure)
        legend = canvas.legend(
            [by_name[name] for name in names],
            [f"{numbers[name]}  {name}" if name in numbers else name for name in names],
            loc="outside lower center",
            ncols=_columns(figure),
            frameon=False,
            handlelength=2.6 if _few(figure) else 1.2,
            columnspacing=1.4,
            fontsize=9 if _few(figure) else 8,
        )
        for name, entry in zip(names, legend.get_texts(), strict=True):
            entry.set_gid(f"legend-{order.index(name)}")


def _numbers(figure: Figure) -> dict[str, int]:
    """Numbers to print beside the points of a crowded figure, by label; none where series have several points."""
    if _few(figure) or figure.kind != "points" or any(len(points) > 1 for points in figure.series.values()):
        return {}
    return {_label(name): number for number, name in enumerate(figure.series, 1)}


def _label(name: str) -> str:
    """A series' name in the legend; matplotlib would hide one that starts with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


# -------------------------------------------------------------------------------------------------- points


def _styles(figure: Figure) -> Iterator[tuple[str, Sequence[Mapping[str, Any]], dict[str, Any]]]:
    """Each series with its colour, marker and line; a series `like` another shares its colour."""
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


def _points(axes: Axes, figure: Figure) -> list[Mark]:
    levels = {name for name, points in figure.series.items() if points and points[0].get("x") is None}
    bands = {name for name, points in figure.series.items() if points and points[0].get("band")}
    moving = [name for name in figure.series if name not in levels | bands]
    places = _places(figure, moving)
    numbers = _numbers(figure)
    marks: list[Mark] = []
    for number, (name, points, style) in enumerate(_styles(figure)):
        with _series(axes, number):
            if name in levels:
                axes.axhline(
                    points[0]["y"], color=style["color"], label=_label(name), linestyle=(0, (6, 3)), linewidth=1.3
                )
                continue
            if name in bands:
                _band(axes, _label(name), points, style["color"])
                marks += [(number, axes, point["x"], point["y"], point) for point in points]
                continue
            xs = [places[name, index] for index in range(len(points))]
            ys = [point["y"] for point in points]
            axes.errorbar(
                xs,
                ys,
                yerr=_bars(points),
                label=_label(name),
                capsize=2.5 if _few(figure) else 0,
                markersize=5,
                elinewidth=1.1,
                linewidth=1.2,
                **(style if figure.x_scale != "category" else {**style, "linestyle": "none"}),
            )
            if _label(name) in numbers:
                said = str(numbers[_label(name)])
                axes.annotate(said, (xs[0], ys[0]), (4, 3), textcoords="offset points", fontsize=7)
            marks += [(number, axes, x, point["y"], point) for x, point in zip(xs, points, strict=True)]
    _x_axis(axes, figure, moving)
    return marks


def _band(axes: Axes, label: str, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    """A line with its band, where it has one."""
    xs = [point["x"] for point in points]
    axes.plot(xs, [point["y"] for point in points], color=colour, linewidth=1.1, linestyle=(0, (5, 2)), label=label)
    if all(point.get("low") is not None and point.get("high") is not None for point in points):
        low, high = ([float(point[end]) for point in points] for end in ("low", "high"))
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def _bars(points: Sequence[Mapping[str, Any]]) -> list[list[float]] | None:
    """Lengths below and above; a point without ends has none."""

    def length(point: Mapping[str, Any], end: str) -> float:
        return abs(point["y"] - point[end]) if point.get(end) is not None else 0.0

    bars = [[length(point, end) for point in points] for end in ("low", "high")]
    return bars if any(any(side) for side in bars) else None


def _categories(figure: Figure) -> list[Any]:
    return list(dict.fromkeys(point["x"] for points in figure.series.values() for point in points))


def _places(figure: Figure, moving: Sequence[str]) -> dict[tuple[str, int], float]:
    """Where each point stands on the x axis; series side by side so that bars do not hide each other."""
    places: dict[tuple[str, int], float] = {}
    categories = {x: place for place, x in enumerate(_categories(figure))}
    edge = _edge(figure) if figure.x_scale == "log" else 0.0
    linear = figure.x_scale == "linear"
    gap = _gap([point["x"] for name in moving for point in figure.series[name]]) if linear else 0.0
    for number, name in enumerate(moving):
        shift = (number - (len(moving) - 1) / 2) / max(1, len(moving))
        for index, point in enumerate(figure.series[name]):
            if figure.x_scale == "category":
                places[name, index] = categories[point["x"]] + 0.72 * shift
            elif figure.x_scale == "log":
                places[name, index] = (point["x"] or edge) * 1.12 ** (4 * shift)
            else:
                places[name, index] = point["x"] + 0.3 * gap * shift
    return places


def _gap(xs: Sequence[float]) -> float:
    """The smallest distance between two places of a linear axis."""
    return min((b - a for a, b in pairwise(sorted(set(xs)))), default=0.0)


def _edge(figure: Figure) -> float:
    """Where 0 stands on a logarithmic axis: one usual step left of the smallest positive x."""
    xs = sorted({p["x"] for points in figure.series.values() for p in points if p.get("x")})
    if not xs:
        return 1.0
    return float(xs[0] / (xs[1] / xs[0] if len(xs) > 1 else 4))


def _x_axis(axes: Axes, figure: Figure, moving: Sequence[str]) -> None:
    if figure.x_scale == "category":
        names = [str(x) for x in _categories(figure) if x is not None]
        _category_axis(axes, names)
        return
    xs = sorted({p["x"] for name in moving for p in figure.series[name]})
    if figure.x_scale == "linear" and len(xs) <= 12 and all(float(x).is_integer() for x in xs):
        axes.set_xticks(xs, [f"{x:.0f}" for x in xs])
    elif figure.x_scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
        shown = xs if len(xs) <= _TICKS else [*(xs[:1] if xs[0] == 0 else []), *_powers(xs)]
        axes.set_xticks([x or _edge(figure) for x in shown], [_fraction(x) for x in shown])
        if len(xs) > 1 and xs[0] == 0:  # 0 has no place on a logarithmic axis: a line parts it from the rest
            between = math.sqrt(_edge(figure) * xs[1])
            axes.axvline(between, color="#aaaaaa", linewidth=0.8, linestyle=(0, (2, 2)))


def _category_axis(axes: Axes, names: Sequence[str]) -> None:
    room = WIDTH * 72 * 0.85 / max(1, len(names))
    crowded = max((len(name) for name in names), default=0) * 6 > room
    style: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(names)), names, **style)
    axes.set_xlim(-0.5, max(0.5, len(names) - 0.5))
    axes.grid(False, axis="x")
    for place in range(1, len(names)):
        axes.axvline(place - 0.5, color=_GRID, linewidth=0.8)


_TICKS = 10
"""Values of a logarithmic axis that are written one by one; of more the powers of ten are."""


def _powers(xs: Sequence[float]) -> list[float]:
    low, high = min(x for x in xs if x > 0), max(xs)
    inside = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return inside if len(inside) > 1 else [low, high]


def _fraction(x: float) -> str:
    """A share as a fraction, a larger number as digits."""
    if x > 1:
        return f"{x:,.0f}" if x >= 100 or float(x).is_integer() else f"{x:.3g}"
    near = Fraction(x).limit_denominator(4096)
    return str(near) if math.isclose(float(near), x, rel_tol=1e-9, abs_tol=1e-12) else f"{x:.3g}"


# ---------------------------------------------------------------------------------------------------- rows


_BESIDE = 4
"""Axes side by side where series stand in rows."""


def _in_rows(figure: Figure) -> bool:
    points = [point for each in figure.series.values() for point in each]
    plain = all(point.get("x") is not None and not point.get("band") for point in points)
    return figure.kind == "points" and figure.x_scale == "category" and not _few(figure) and plain


def _rows(canvas: Canvas, figure: Figure) -> list[Mark]:
    """One row a series and one axes a category: a place in a list tells dozens of series apart, colours cannot."""
    names, categories = list(figure.series), _categories(figure)
    across = min(_BESIDE, len(categories))
    grid = canvas.subplots(math.ceil(len(categories) / across), across, sharex=True, sharey=True, squeeze=False).ravel()
    _title(canvas, figure)
    marks: list[Mark] = []
    for axes, category in zip(grid, categories, strict=False):
        own = [
            (row, point) for row, name in enumerate(names) for point in figure.series[name] if point["x"] == category
        ]
        found = [point for _, point in own]
        axes.errorbar(
            [point["y"] for point in found],
            [row for row, _ in own],
            xerr=_bars(found),
            linestyle="none",
            marker="o",
            markersize=4,
            elinewidth=1.1,
            color=COLOURS[0],
        )
        axes.set_title(str(category), fontsize=9.5)
        marks += [(row, axes, point["y"], row, point) for row, point in own]
    grid[0].set_yticks(range(len(names)), [_label(name) for name in names], fontsize=8)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    for axes in grid[len(categories) :]:
        axes.set_axis_off()
    canvas.supxlabel(figure.y_label, fontsize=9.5)
    return marks


# ---------------------------------------------------------------------------------------- curves and matrix


def _curves(axes: Axes, figure: Figure) -> list[Mark]:
    marks: list[Mark] = []
    for number, (name, points) in enumerate(figure.series.items()):
        with _series(axes, number):
            axes.plot(
                [point["x"] for point in points],
                [point["y"] for point in points],
                label=_label(name),
                linewidth=1.4,
                marker="o" if len(points) == 1 else "",
                markersize=4,
                color=COLOURS[number % len(COLOURS)],
                linestyle=LINES[number // len(COLOURS) % len(LINES)],
            )
        marks += [(number, axes, point["x"], point["y"], point) for point in points]
    return marks


_ACROSS = 3
"""Clouds side by side."""


def _panels(figure: Figure) -> list[str]:
    return list(dict.fromkeys(str(point.get("panel", "")) for points in figure.series.values() for point in points))


def _clouds(canvas: Canvas, figure: Figure) -> list[Mark]:
    """One axes a panel; places have no unit, so that axes have no ticks."""
    panels = _panels(figure) or [""]
    across = min(_ACROSS, len(panels))
    grid = canvas.subplots(math.ceil(len(panels) / across), across, squeeze=False).ravel()
    _title(canvas, figure)
    marks: list[Mark] = []
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(panel, fontsize=9.5)
        for number, (name, points, style) in enumerate(_styles(figure)):
            own = [point for point in points if str(point.get("panel", "")) == panel]
            places = [point["x"] for point in own], [point["y"] for point in own]
            plain = {"c": style["color"], "marker": style["marker"], "s": 13, "alpha": 0.75, "linewidths": 0}
            with _series(axes, number):
                axes.scatter(*places, label=_label(name), **plain)
            marks += [(number, axes, point["x"], point["y"], point) for point in own]
        axes.set(xticks=[], yticks=[], xlabel=figure.x_label, ylabel=figure.y_label)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _legend(canvas, canvas.axes[0], figure)
    return marks


def _matrix(axes: Axes, figure: Figure) -> list[Mark]:
    """Series are rows, x are columns; numbers stand in the cells, so colour carries nothing alone."""
    rows, columns = list(figure.series), _categories(figure)
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
    axes.set_yticks([row + 0.5 for row in range(len(rows))], rows, fontsize=9.5 if _few(figure) else 8)
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


# ---------------------------------------------------------------------------------------------------- text


SAID = 12
"""Series that a figure's description names; of more it says how many."""


def _said(figure: Figure) -> str:
    """What a screen reader says of a figure."""
    names = list(figure.series)
    more = f" and {len(names) - SAID} more" if len(names) > SAID else ""
    return f"{figure.title}. {figure.y_label} against {figure.x_label}; series: {', '.join(names[:SAID])}{more}."

"""What sections are made of: tables ready to print and figures drawn, with their files and the data behind them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuvee.protocols import Figure, Table
from cuvee.report.data import Node
from cuvee.report.figures import Drawn, Spot, draw
from cuvee.report.numbers import is_number, show

FOLDED = 30
"""Tables of more rows are folded in the HTML page, or scroll if they answer what was asked."""

FEW = 6
"""More answers than these, of those that did not open a section, are folded in the HTML page."""

LISTED = 100
"""Rows that the pages show of a table of stages or trainings; all are in its Parquet file."""

DIGITS = 6
"""Significant digits of the data behind a figure in CSV and in the page; the Parquet file has all."""


@dataclass(frozen=True)
class Drawing:
    """A figure with the name of its files, drawn, with the data behind it."""

    name: str
    figure: Figure
    drawn: Drawn
    csv: str = ""

    @property
    def title(self) -> str:
        """The figure's title."""
        return self.figure.title

    @property
    def svg(self) -> str:
        """The figure as SVG text."""
        return self.drawn.svg

    @property
    def file(self) -> str:
        """Name of the SVG file; the same with another ending are the PNG and the data."""
        return f"figures/{self.name}.svg"

    @property
    def csv_file(self) -> str:
        """Name of the file with the data behind it."""
        return f"figures/{self.name}.csv"

    @property
    def points(self) -> str:
        """What the page's script needs to answer a pointer and to give the data away, as JSON inside HTML."""
        return points_json(self.figure, self.drawn.spots)

    @property
    def table(self) -> Table:
        """The data behind the figure."""
        return points_table(self.figure)


@dataclass(frozen=True)
class Block:
    """A table ready to print: cells as text, `right` marks columns of numbers, `file` is its Parquet file.

    `listed` is how many rows the pages show, None is all; `further` are its answers that did not open the section;
    `answering` tables stand open whatever their length.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    notes: Sequence[str]
    drawings: Sequence[Drawing]
    file: str
    table: Table
    listed: int | None = None
    further: Sequence[str] = ()
    answering: bool = False

    @property
    def long(self) -> bool:
        """Whether the table takes more room than the page gives it: it is folded, or scrolls where it answers."""
        return len(self.rows) > FOLDED

    @property
    def unfold(self) -> str:
        """What is said on a folded table."""
        if self.left_out:
            return f"Show the first {len(self.shown):,} of {len(self.rows):,} rows (all are in {self.file})"
        return f"Show {len(self.rows):,} rows (also in {self.file})"

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        """The rows that the pages show."""
        return self.rows[: self.listed]

    @property
    def left_out(self) -> str:
        """What is said under a table that is not shown whole."""
        if len(self.shown) == len(self.rows):
            return ""
        return f"The first {len(self.shown):,} of {len(self.rows):,} rows; all are in {self.file}."


@dataclass(frozen=True)
class Section:
    """One heading of the page: a marked sentence, paragraphs, tables, figures, preformatted text.

    `folded` are figures that the HTML page shows on a click alone.
    """

    id: str
    title: str
    lead: Sequence[str] = ()
    text: Sequence[str] = ()
    blocks: Sequence[Block] = ()
    drawings: Sequence[Drawing] = ()
    folded: Sequence[Drawing] = ()
    folded_title: str = ""
    preformatted: str = ""
    points: Sequence[str] = ()
    trees: Sequence[Node] = ()

    @property
    def anchor(self) -> str:
        """The heading's anchor as Markdown viewers make it."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")

    @property
    def all_drawings(self) -> list[Drawing]:
        """Figures of the section and of its tables."""
        return [*self.drawings, *self.folded, *(drawing for block in self.blocks for drawing in block.drawings)]


class Maker:
    """Prints tables and draws figures, and gives each a file name that is unique within the report."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.drawn = 0

    def block(self, table: Table, listed: int | None = None) -> Block:
        """Print a table's cells and draw its figures; the pages show the first `listed` rows, or all."""
        cells = [[show(column, row.get(column)) for column in table.columns] for row in table.rows]
        right = [_numeric([row.get(column) for row in table.rows]) for column in table.columns]
        drawings = [self.drawing(figure) for figure in table.figures]
        file = f"tables/{self._name('table', table.title)}.parquet"
        return Block(table.title, table.columns, cells, right, table.notes, drawings, file, table, listed)

    def blocks(self, tables: Iterable[Table], listed: int | None = None) -> list[Block]:
        """Print several tables."""
        return [self.block(table, listed) for table in tables]

    def drawing(self, figure: Figure) -> Drawing:
        """Draw a figure."""
        self.drawn += 1  # ids inside a drawing come by the hundred, and are therefore short
        name = self._name("figure", figure.title)
        return Drawing(name, figure, draw(figure, name=f"f{self.drawn}"), points_csv(figure))

    def _name(self, kind: str, title: str) -> str:
        name, number = slug(title), 1
        while (kind, name) in self.names:
            number += 1
            name = f"{slug(title)}-{number}"
        self.names.add((kind, name))
        return name


def _numeric(values: Sequence[Any]) -> bool:
    """Whether a column reads as numbers: numbers, or text made of digits and signs alone."""
    present = [each for each in values if each not in (None, "")]
    return bool(present) and all(is_number(e) or bool(re.match(r"[<≤+\-]?\s?\d[\d.,+%-]*$", str(e))) for e in present)


def points_table(figure: Figure) -> Table:
    """Return the points behind a figure: series, x, y, low, high; of a scatter plot its panel."""
    rows = [{"series": name, **point} for name, points in figure.series.items() for point in points]
    columns = dict(zip(_columns(figure), ("series", *_keys(figure)), strict=True))
    return Table(figure.title, list(columns), [{name: row.get(key) for name, key in columns.items()} for row in rows])


def _keys(figure: Figure) -> tuple[str, ...]:
    return ("x", "y", "panel") if figure.kind == "scatter" else ("x", "y", "low", "high")


def _columns(figure: Figure) -> list[str]:
    # Two axes may have the same label, and columns need names of their own.
    x, y = (figure.x_label, figure.y_label) if figure.x_label != figure.y_label else ("x", "y")
    return ["series", x or "x", y or "y", *_keys(figure)[2:]]


def points_csv(figure: Figure) -> str:
    """Return the points behind a figure as CSV, numbers with `DIGITS` digits."""
    table = points_table(figure)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(table.columns)
    out.writerows([_short(row[column]) for column in table.columns] for row in table.rows)
    return text.getvalue()


def points_json(figure: Figure, spots: Sequence[Spot]) -> str:
    """Return a figure's series, the columns of its data, and each point: series, place in the drawing, its values."""
    places = {id(spot.point): [round(spot.x, 1), round(spot.y, 1)] for spot in spots}
    points = [
        [number, *places.get(id(point), (None, None)), *_values(point, _keys(figure))]
        for number, series in enumerate(figure.series.values())
        for point in series
    ]
    told = {"series": list(figure.series), "columns": _columns(figure), "points": points}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _values(point: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    """Return a point's values, without ends where it has none."""
    found = [_short(point.get(key)) for key in keys]
    return found if any(each is not None for each in found[2:]) else found[:2]


def _short(value: Any) -> Any:
    """Return a number with as many digits as a reader can use; None for one that is none."""
    if not isinstance(value, float):
        return value if value is None or isinstance(value, int | str) else str(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")


def slug(text: str) -> str:
    """Return a text as a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "table"

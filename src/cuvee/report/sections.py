"""`ReportData` to sections of text, tables and figures. Both pages are made from these, so they agree."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cuvee.protocols import Figure, Table
from cuvee.report.data import Curve, Node, ReportData
from cuvee.report.figures import Drawn, Spot, draw
from cuvee.report.numbers import is_number, seconds, show

FOLDED = 30
"""Tables of more rows are folded in the HTML page."""

CURVE_POINTS = 300
"""Points of a curve in a figure; longer ones are averaged over equal runs of steps."""

CURVES_A_FIGURE = 8


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
        """What the page's script needs to answer a pointer, as JSON that can stand in HTML."""
        return spots_json(self.figure, self.drawn.spots)

    @property
    def table(self) -> Table:
        """The data behind the figure."""
        return points_table(self.figure)

    @property
    def csv_link(self) -> str:
        """The data as a link that needs no file and no network."""
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.csv.encode()).decode()}"


@dataclass(frozen=True)
class Block:
    """A table ready to print: cells as text, `right` marks columns of numbers, `file` is its Parquet file."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    notes: Sequence[str]
    drawings: Sequence[Drawing]
    file: str
    table: Table

    @property
    def folded(self) -> bool:
        """Whether the table is too long to stand open."""
        return len(self.rows) > FOLDED


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

    def block(self, table: Table) -> Block:
        """Print a table's cells and draw its figures."""
        cells = [[show(column, row.get(column)) for column in table.columns] for row in table.rows]
        right = [_numeric([row.get(column) for row in table.rows]) for column in table.columns]
        drawings = [self.drawing(figure) for figure in table.figures]
        file = f"tables/{self._name('table', table.title)}.parquet"
        return Block(table.title, table.columns, cells, right, table.notes, drawings, file, table)

    def blocks(self, tables: Iterable[Table]) -> list[Block]:
        """Print several tables."""
        return [self.block(table) for table in tables]

    def drawing(self, figure: Figure) -> Drawing:
        """Draw a figure."""
        name = self._name("figure", figure.title)
        return Drawing(name, figure, draw(figure, name=name), points_csv(figure))

    def _name(self, kind: str, title: str) -> str:
        name, number = slug(title), 1
        while (kind, name) in self.names:
            number += 1
            name = f"{slug(title)}-{number}"
        self.names.add((kind, name))
        return name


def sections(data: ReportData) -> list[Section]:
    """Return the page's sections in order."""
    make = Maker()
    asked = [name for name in {**data.tables, **data.failures} if name not in ("scores", "claims", "data")]
    order = list({**data.tables, **data.failures})
    first = asked if "scores" in order else []
    first = [name for name in first if order.index(name) < order.index("scores")]
    return [
        *(_analysis(make, data, name) for name in first),
        *_scores(make, data),
        *(_analysis(make, data, name) for name in asked if name not in first),
        _curves(make, data),
        _accounting(make, data),
        _cost(make, data),
        _lineage(data),
        Section("recipe", "Recipe", text=_not_asked(order), preformatted=data.recipe_text),
        _ids(make, data),
        Section("how-to-read", "How to read", points=_HOW_TO_READ),
        Section("caveats", "Caveats", points=[*data.notes, *_CAVEATS]),
    ]


_HOW_TO_READ = (
    "Accuracies are in points (of a hundred) with m/n, solved of asked; losses are natural logarithms per "
    "supervised token. An arrow in a header says which direction is better: ↑ higher, ↓ lower.",
    "'±' is one standard error over items. Intervals and the bars in figures are 95 %.",
    "Two models are compared item by item on the same questions, which sees far smaller differences than "
    "comparing two averages: overlapping bars do not mean that two models are equal.",
    "p is corrected (Holm) for the number of comparisons made in its table. Below 0.05 a difference is "
    "called one; above, it is 'not separable', which is not 'equal': see 'smallest visible'.",
    "'Smallest visible' is the true difference that the comparison would find four times in five.",
    "A star marks the best number of a column. It is no claim.",
)

_CAVEATS = (
    "Intervals cover the choice of test items. What another training would give is shown by seeds alone, "
    "where there are several.",
    "An unweighted mean over abilities is one choice; who needs one ability more should read its column.",
    "Held-out loss tells how well the answers of a source are predicted, not whether the model's own answers "
    "are right.",
)


# ------------------------------------------------------------------------------------------------ sections


ANSWERS = 8
"""Sentences that open a section; further ones stand below its tables."""

SUGGESTED = ("scores", "forgetting", "k_sweep")
"""Analyses that most recipes have use for."""


def _scores(make: Maker, data: ReportData) -> Iterator[Section]:
    """Yield the verdict, the ledger of findings beside it where it was asked for, and every run's scores."""
    tables = data.tables.get("scores", ())
    verdict = [each for each in tables if each.title.startswith(("Verdict", "What the leading run"))]
    yield _opened(make, data, "scores", "verdict", "Verdict", verdict)
    if "claims" in data.tables or "claims" in data.failures:
        yield _opened(make, data, "claims", "findings", "Findings of the papers", data.tables.get("claims", ()))
    if "scores" in data.tables or "scores" in data.failures:
        rest = [each for each in tables if each not in verdict]
        yield _opened(make, data, "scores", "strategies", "Strategies", rest)


def _analysis(make: Maker, data: ReportData, name: str) -> Section:
    id, title = OWN_HEADINGS.get(name, (f"analysis-{slug(name)}", name.replace("_", " ").capitalize()))
    return _opened(make, data, name, id, title, data.tables.get(name, ()))


OWN_HEADINGS = {
    "forgetting": ("forgetting", "Forgetting"),
    "k_sweep": ("k-sweep", "k sweep"),
    "cost": ("analysis-cost", "Score against cost"),
}


def _opened(make: Maker, data: ReportData, name: str, id: str, title: str, tables: Sequence[Table]) -> Section:
    """A section of tables that opens with what they found."""
    lead: list[str] = []
    blocks = []
    for table in tables:
        taken = min(table.answers, ANSWERS - len(lead))
        lead += [_of_base(table, note) for note in table.notes[:taken]]
        blocks.append(make.block(replace(table, notes=table.notes[taken:])))
    return Section(id, title, lead=lead, text=[] if tables else [_absent(data, name)], blocks=blocks)


def _of_base(table: Table, sentence: str) -> str:
    """A sentence of a table; with several base models, whose it is."""
    _, _, base = table.title.partition(", base model ")
    return f"Base model {base}: {sentence}" if base else sentence


def _not_asked(order: Sequence[str]) -> list[str]:
    absent = [name for name in SUGGESTED if name not in order]
    return [f"Not asked for: {', '.join(absent)}. Add what you want to its analyses."] if absent else []


def _absent(data: ReportData, name: str) -> str:
    if name in data.failures:
        return f"Nothing here: analysis {name} failed: {data.failures[name]}"
    if name in data.tables:
        return f"Nothing here: nothing that analysis {name} looks at was measured."
    return f"Nothing here: the recipe did not ask for it. Add {name} to its analyses."


def _curves(make: Maker, data: ReportData) -> Section:
    if not data.curves and not data.source_curves:
        return Section("loss-curves", "Loss curves", text=["Nothing here: no training logged a loss."])
    names = list(data.curves)
    parts = [names[i : i + CURVES_A_FIGURE] for i in range(0, len(names), CURVES_A_FIGURE)]
    figures = [
        _curve_figure(
            "Training loss" + (f" ({i} of {len(parts)})" if len(parts) > 1 else ""),
            {name: data.curves[name] for name in part},
        )
        for i, part in enumerate(parts, 1)
    ]
    by_source = [_curve_figure(f"Loss by source: {name}", by) for name, by in data.source_curves.items() if by]
    points = max((len(c) for c in [*data.curves.values(), *_inner(data.source_curves)]), default=0)
    text = ["Loss per supervised token of each optimiser step's batch (nats, lower is better)."]
    if points > CURVE_POINTS:
        text.append(f"Curves of more than {CURVE_POINTS} steps are averaged over equal runs of steps.")
    return Section(
        "loss-curves",
        "Loss curves",
        text=text,
        drawings=[make.drawing(each) for each in figures],
        folded=[make.drawing(each) for each in by_source],
        folded_title=f"Show the loss of each source, {len(by_source)} training{'s' * (len(by_source) != 1)}",
    )


def _inner(curves: Mapping[str, Mapping[str, Curve]]) -> Iterable[Curve]:
    return (curve for by in curves.values() for curve in by.values())


def _curve_figure(title: str, curves: Mapping[str, Curve]) -> Figure:
    series = {name: [{"x": x, "y": y} for x, y in _thinned(curve)] for name, curve in curves.items() if curve}
    return Figure("lines", title, "optimiser step", "loss (nats/token, ↓ lower is better)", series, "linear")


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    """Average a curve over equal runs of points, so that at most `CURVE_POINTS` are left."""
    step = math.ceil(len(curve) / CURVE_POINTS)
    parts = [curve[i : i + step] for i in range(0, len(curve), step or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _accounting(make: Maker, data: ReportData) -> Section:
    wanted = ("rows", "supervised_tokens", "total_tokens", "steps")
    rows = [each for each in data.stages if any(each.get(key) is not None for key in wanted)]
    own = list(data.tables.get("data", ()))
    if not rows and not own:
        return Section("data", "Data accounting", text=["Nothing here: no stage reported rows or tokens."])
    table = _stage_table("Rows and tokens by stage", rows, ("kind", "label", "runs", *wanted, "short"))
    tables = [*own, *([table] if rows else [])]
    return Section("data", "Data accounting", blocks=make.blocks(tables))


def _stage_table(title: str, stages: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    """Some facts of some stages; runs are counted when there are more than three."""
    columns = [_words(key) for key in keys]
    return Table(title, columns, [{_words(key): _fact(stage.get(key)) for key in keys} for stage in stages])


def _words(key: str) -> str:
    return {"short": "stage", "cpu_seconds": "CPU seconds"}.get(key, key.replace("_", " "))


def _fact(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) if len(value) <= 3 else f"{len(value)} runs"
    return value


def _cost(make: Maker, data: ReportData) -> Section:
    keys = [key for key in data.costs if not key.endswith("_if_alone")]
    rows = [_cost_row(key, data.costs) for key in keys]
    lead = _saving(data.costs)
    timed = [each for each in data.stages if each.get("seconds") is not None]
    if not rows and not timed:
        return Section("cost", "Cost", text=["Nothing here: no cost was recorded."])
    tables = []
    if rows:
        tables.append(Table("What was spent and what sharing equal stages saved", list(rows[0]), rows))
    if timed:
        keys = ["kind", "label", "runs", "finished", "seconds", "cpu_seconds", "short"]
        notes = [
            "`finished`: the stage is in the store. A training's seconds are those of all its attempts, another "
            "stage's those of the last one."
        ]
        tables.append(replace(_stage_table("Time by stage", data.stages, keys), notes=notes))
    return Section("cost", "Cost", lead=lead, blocks=make.blocks(tables))


def _cost_row(key: str, costs: Mapping[str, Any]) -> dict[str, Any]:
    spent, alone = costs[key], costs.get(f"{key}_if_alone")
    known = is_number(spent) and is_number(alone) and alone
    return {
        "quantity": _words(key),
        "spent": _amount(key, spent),
        "had every run worked alone": None if alone is None else _amount(key, alone),
        "saved": _amount(key, alone - spent) if known else None,
        "saved (%)": f"{100 * (alone - spent) / alone:.0f}" if known else None,
    }


def _amount(key: str, value: Any) -> str:
    return seconds(value) if key.endswith("seconds") and is_number(value) else show(key, value)


def _saving(costs: Mapping[str, Any]) -> list[str]:
    done, alone = costs.get("trainings"), costs.get("trainings_if_alone")
    if done is None or alone is None:
        return []
    return [f"{done} trainings instead of {alone}: equal stages were trained once, which saved {alone - done}."]


def _lineage(data: ReportData) -> Section:
    if not data.lineage:
        return Section("lineage", "Lineage", text=["Nothing here: the recipe has no model."])
    text = "Each model below the one that it was trained or merged from; an arrow names the runs that end with it."
    return Section("lineage", "Lineage", text=[text], trees=data.lineage)


def _ids(make: Maker, data: ReportData) -> Section:
    versions = Table("Software", ["name", "version"], [{"name": n, "version": v} for n, v in data.versions.items()])
    tables = [_stage_table("Stages", data.stages, ("kind", "label", "short", "id"))] if data.stages else []
    tables += [versions] if data.versions else []
    text = [] if tables else ["Nothing here: no stage was recorded."]
    return Section("ids", "Ids and versions", text=text, blocks=make.blocks(tables))


def _numeric(values: Sequence[Any]) -> bool:
    """Whether a column reads as numbers: numbers, or text made of digits and signs alone."""
    present = [each for each in values if each not in (None, "")]
    return bool(present) and all(is_number(e) or bool(re.match(r"[<+\-]?\s?\d[\d.,+%-]*$", str(e))) for e in present)


def points_table(figure: Figure) -> Table:
    """Return the points behind a figure: series, x, y, low, high; of a scatter plot its panel."""
    more = ("panel",) if figure.kind == "scatter" else ("low", "high")
    # Two axes may have the same label, and columns need names of their own.
    x, y = (figure.x_label, figure.y_label) if figure.x_label != figure.y_label else ("x", "y")
    names = {"x": x or "x", "y": y or "y", **{each: each for each in more}}
    every = [(name, point) for name, points in figure.series.items() for point in points]
    rows = [{"series": name, **{names[key]: point.get(key) for key in names}} for name, point in every]
    return Table(figure.title, ["series", *names.values()], rows)


def points_csv(figure: Figure) -> str:
    """Return the points behind a figure as CSV."""
    table = points_table(figure)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(table.columns)
    out.writerows([row[column] for column in table.columns] for row in table.rows)
    return text.getvalue()


def spots_json(figure: Figure, spots: Sequence[Spot]) -> str:
    """Return a figure's series and labels, and its points: series, place in the drawing, panel, and what to say."""
    points = [
        [spot.series, round(spot.x, 1), round(spot.y, 1), spot.point.get("panel", ""), *_told(spot.point)]
        for spot in spots
    ]
    told = {"series": list(figure.series), "x": figure.x_label, "y": figure.y_label, "points": points}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _told(point: Mapping[str, Any]) -> list[str | None]:
    """Return x, y, low and high of a point as text, without ends where it has none."""
    found = [point.get(key) for key in ("x", "y", "low", "high")]
    texts = [f"{each:.4g}" if is_number(each) else each if each is None else str(each) for each in found]
    return texts if None not in texts[2:] else texts[:2]


def slug(text: str) -> str:
    """Return a text as a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "table"

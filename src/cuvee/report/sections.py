"""`ReportData` to sections of text, tables and figures. Both pages are made from these, so they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuvee.protocols import Table
from cuvee.report import curves
from cuvee.report.data import ReportData
from cuvee.report.numbers import is_number, seconds, show
from cuvee.report.parts import LISTED, Maker, Section, slug


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
        curves.section(make, data),
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
    for table, taken in zip(tables, _shared([table.answers for table in tables], ANSWERS), strict=True):
        lead += [_of_base(table, note) for note in table.notes[:taken]]
        block = make.block(replace(table, notes=table.notes[table.answers :]))
        blocks.append(replace(block, further=table.notes[taken : table.answers], answering=table.answers > 0))
    return Section(id, title, lead=lead, text=[] if tables else [_absent(data, name)], blocks=blocks)


def _shared(wanted: Sequence[int], places: int) -> list[int]:
    """Return how many places each gets that wants some: one after another in turns."""
    given = [0] * len(wanted)
    while places and given != list(wanted):
        for number, many in enumerate(wanted):
            if places and given[number] < many:
                given[number] += 1
                places -= 1
    return given


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


def _accounting(make: Maker, data: ReportData) -> Section:
    wanted = ("rows", "supervised_tokens", "total_tokens", "steps")
    rows = [each for each in data.stages if any(each.get(key) is not None for key in wanted)]
    own = list(data.tables.get("data", ()))
    if not rows and not own:
        return Section("data", "Data accounting", text=["Nothing here: no stage reported rows or tokens."])
    table = _stage_table("Rows and tokens by stage", rows, ("kind", "label", "runs", *wanted, "short"))
    tables = [*own, *([table] if rows else [])]
    return Section("data", "Data accounting", blocks=make.blocks(tables, LISTED))


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
        tables += [_kinds(timed), _times(data.stages)]
    return Section("cost", "Cost", lead=lead, blocks=make.blocks(tables, LISTED))


def _kinds(stages: Sequence[Mapping[str, Any]]) -> Table:
    """What the stages of a kind took together."""
    rows = []
    for kind in dict.fromkeys(each["kind"] for each in stages):
        own = [each for each in stages if each["kind"] == kind]
        sums = {_words(key): _sum([each.get(key) for each in own]) for key in ("seconds", "cpu_seconds")}
        rows.append({"kind": kind, "stages": len(own), **sums})
    return Table("Time by kind of stage", ["kind", "stages", "seconds", "CPU seconds"], rows)


def _sum(values: Sequence[float | None]) -> float | None:
    """Return the sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(sum(known)) if known else None


def _times(stages: Sequence[Mapping[str, Any]]) -> Table:
    keys = ["kind", "label", "runs", "finished", "seconds", "cpu_seconds", "short"]
    longest = sorted(stages, key=lambda each: -(each.get("seconds") or 0))
    notes = [
        "The longest first. `finished`: the stage is in the store. A training's seconds are those of all its "
        "attempts, another stage's those of the last one."
    ]
    return replace(_stage_table("Time by stage", longest, keys), notes=notes)


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
    if done == alone:
        return [f"{done} training{'s' * (done != 1)}: no two runs share one."] if done else []
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
    return Section("ids", "Ids and versions", text=text, blocks=make.blocks(tables, LISTED))

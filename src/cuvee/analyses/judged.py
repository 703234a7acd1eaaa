"""Judged abilities by turn and by category, and what is to be known of the verdicts.

Zheng et al., arXiv 2306.05685, tables 8 and 9 (scores by turn and category), with what those lack: standard errors over
questions, the spread between repeated verdicts, and every verdict that was asked for and not had.

    analyses: [scores, judged]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuvee import protocols
from cuvee.analyses import _results
from cuvee.analyses._results import BASE, Measure, Scale
from cuvee.analyses._stats import estimate
from cuvee.protocols import Result, Table

VERSION = 1

CAVEAT = (
    "Repeats tell how much one judge differs from itself, not how much judges differ. A judge may favour what stands "
    "first, what is long, and what it would have written itself."
)


class Params(protocols.Params):
    """No parameters."""


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model and judged evaluator its scores by turn and category, and a table of the verdicts."""
    judged = [result for result in results if result.verdicts and (result.final or result.stage == 0)]
    names = _results.bases(judged)
    tables = []
    for base in names:
        own = [result for result in judged if result.run.base == base]
        for measure in _results.measures(own):
            title = _results.titled(f"{measure.evaluator} by turn and category", base, len(names) > 1)
            tables.append(_parts(own, measure, title))
    return [*tables, _verdicts(judged)] if judged else []


def _rows(results: Sequence[Result], measure: Measure) -> dict[str, list[Result]]:
    """Return the results of one measure by row of the table: the base once, every run with its seeds."""
    found: dict[str, list[Result]] = {}
    for result in results:
        if _results.measure_of(result) == measure:
            names = ([BASE] if result.stage == 0 else []) + ([result.run.name] if result.final and result.stage else [])
            for name in names:
                found.setdefault(name, []).append(result)
    return {name: some[:1] if name == BASE else some for name, some in found.items()}


def _parts(results: Sequence[Result], measure: Measure, title: str) -> Table:
    rows = []
    to = measure.scale
    for name, some in _rows(results, measure).items():
        row: dict[str, Any] = {"run": name}
        for part, column, value in _columns(some):
            row[part] = _cell([_only(one, column, value) for one in some], to)
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    notes = [
        f"Mean ± standard error over questions ({to.label}); items in brackets. Turns of one question count as one."
    ]
    return Table(title, columns, [{name: row.get(name, "") for name in columns} for row in rows], notes)


def _columns(results: Sequence[Result]) -> list[tuple[str, str, Any]]:
    """Return the parts of a benchmark: (title, column of the items, its value); everything first."""
    found: list[tuple[str, str, Any]] = [("all", "", None)]
    turns = sorted({turn for one in results for turn in one.extra["turn"]})
    found += [(f"turn {turn}", "turn", turn) for turn in turns] if len(turns) > 1 else []
    names = dict.fromkeys(name for one in results for name in one.extra.get("category", ()))
    return [*found, *((str(name), "category", name) for name in sorted(names))]


def _only(result: Result, column: str, value: Any) -> Result:
    """Return a result's items of one turn or category."""
    if not column:
        return result
    places = [place for place, each in enumerate(result.extra[column]) if each == value]
    extra = {name: [values[place] for place in places] for name, values in result.extra.items()}
    return replace(
        result,
        items=[result.items[place] for place in places],
        scores=[result.scores[place] for place in places],
        weights=[result.weights[place] for place in places],
        extra=extra,
    )


def _cell(results: Sequence[Result], to: Scale) -> str:
    there = [result for result in results if result.items]
    if not there:
        return ""
    found = estimate(_results.seeds_joined(there))
    error = "" if found.se is None else f" ± {to.text(found.se)}"
    return f"{to.text(found.value)}{error} ({len(there[0].items)})"


def _verdicts(results: Sequence[Result]) -> Table:
    seen: dict[str, Result] = {}
    for result in results:
        seen.setdefault(result.stage_id, result)
    rows = [_verdict_row(result) for result in seen.values()]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    notes = [
        "A verdict that could not be had or read is no score: a reply is left out where none of its verdicts is left. "
        "'By fallback' counts ratings read from single brackets, which may be anything the judge put in brackets.",
        CAVEAT,
    ]
    return Table("Verdicts", columns, [{name: row.get(name) for name in columns} for row in rows], notes)


def _verdict_row(result: Result) -> dict[str, Any]:
    told: Mapping[str, Any] = result.verdicts
    row: dict[str, Any] = {
        "run": BASE if result.stage == 0 else result.run.name,
        "evaluator": result.evaluator,
        "verdicts": told["asked"],
        "failed": sum(told["failed"].values()),
        "why": ", ".join(f"{count} {why}" for why, count in told["failed"].items()),
        "replies without a score": result.unjudged,
        "by fallback": told["fallback"],
    }
    for name in ("win", "tie", "inconsistent", "loss", "first_preferred"):
        if name in told:
            row[name.replace("_", " ")] = told[name]
    if "repeat_means" in told:
        row["mean of each repeat"] = ", ".join(f"{mean:.3f}" for mean in told["repeat_means"])
        row["SD between repeats"] = told["repeat_sd"]
        row["SD within a reply"] = told["mean_spread"]
    return row

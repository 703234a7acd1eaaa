"""A plan's graded items: read from the store, told which of them the sources hold, and kept where they compare."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuvee import harnessed
from cuvee.plan import Evaluated, Plan, PlannedRun, display_name
from cuvee.protocols import Portion, Result, RunInfo, TrainingInfo
from cuvee.report.naming import with_base_name
from cuvee.sources.harness import ITEM
from cuvee.stage import Harnessed, Stage
from cuvee.store import Store

HELD_BY_SOURCES = "held_by_sources"
"""Column that says whether a training source holds an item; `analyses.leakage` reads it."""


def read_results(plan: Plan, store: Store) -> Iterator[Result]:
    """Yield the graded items of everything that is measured, in the plan's order."""
    import pyarrow.parquet as pq

    tables: dict[str, dict[str, list[Any]]] = {}
    texts: list[list[Any]] = []
    told = {id(run.info): replace(with_base_name(run.info, plan), trainings=_trained(run, store)) for run in plan.runs}
    for item in plan.evaluated:
        grade = item.grade
        if not store.has("grade", grade.id):
            continue
        if grade.id not in tables:
            columns = pq.read_table(store.path("grade", grade.id) / "results.parquet").to_pydict()
            tables[grade.id] = _with_shared_texts(columns, texts)
        summary = store.manifest("grade", grade.id)["summary"]
        yield _result(item, told[id(item.run)], tables[grade.id], summary)


def _with_shared_texts(columns: dict[str, list[Any]], known: list[list[Any]]) -> dict[str, list[Any]]:
    """Return columns with the texts of tokens as known from another model on the same rows: they are held once."""
    if "texts" not in columns:
        return columns
    for one in known:
        if one == columns["texts"]:
            return {**columns, "texts": one}
    known.append(columns["texts"])
    return columns


def _trained(run: PlannedRun, store: Store) -> tuple[TrainingInfo, ...]:
    """Return a run's trainings with what each saw; none unless all are finished."""
    trainings = run.own_trainings
    if not all(store.has("train", stage.id) and store.has("mix", stage.one("data").id) for stage in trainings):
        return ()
    return tuple(_training(stage, store) for stage in trainings)


def _training(stage: Stage, store: Store) -> TrainingInfo:
    mix, summary = stage.one("data"), store.manifest("train", stage.id)["summary"]
    parts = store.manifest("mix", mix.id)["summary"]["parts"]
    portions = tuple(
        Portion(name, ability, part["rows"], part["supervised_tokens"], part["pool"])
        for (name, ability), part in zip(mix.locate["parts"], parts, strict=True)
    )
    totals = {name: int(summary[name]) for name in ("steps", "supervised_tokens", "total_tokens")}
    epochs = int(stage.params["epochs"])
    seconds, losses = float(summary["seconds"]), _losses(store.path("train", stage.id) / "log.jsonl")
    return TrainingInfo(id=stage.id, epochs=epochs, seconds=seconds, portions=portions, losses=losses, **totals)


def _losses(log: Path) -> tuple[tuple[float, int], ...]:
    """Return each step's summed loss and supervised tokens."""
    if not log.exists():
        return ()
    steps = [json.loads(line)["parts"].values() for line in log.read_text(encoding="utf-8").splitlines()]
    return tuple((sum(one["nll"] for one in parts), sum(one["tokens"] for one in parts)) for parts in steps)


def with_overlap(results: Iterable[Result], plan: Plan, store: Store) -> list[Result]:
    """Return the results with a column that says which items the training sources hold, where that was looked at."""
    held: dict[str, set[str]] = {}
    for stage in {s.id: s for checks in plan.preflights for s in checks.inputs["overlaps"]}.values():
        if store.has(stage.kind, stage.id) and stage.params["items"] == "all":
            held.setdefault(stage.one("benchmark").id, set()).update(_found_items(store.path(stage.kind, stage.id)))
    documents = {load: dict(_documents(load, found, store)) for load, found in held.items()}
    grades = {item.grade.id: item.grade for item in plan.evaluated}
    found = []
    for result in results:
        column = _held(result.items, grades[result.stage_id].one("answers"), held, documents)
        more = {HELD_BY_SOURCES: column} if column is not None and plan.sources else {}
        found.append(replace(result, extra={**result.extra, **more}))
    return found


def _documents(load: str, held: set[str], store: Store) -> Iterator[tuple[str, bool]]:
    """Yield the name of every document of a task of the harness, with whether it is held; nothing for other loads."""
    from cuvee.data import examples

    if store.manifest("load", load)["identity"]["component"] == "harness":
        yield from ((one.extra[ITEM], one.id in held) for one, _ in examples.read(store.path("load", load)))


def _held(
    items: Sequence[str], answers: Stage, held: Mapping[str, set[str]], documents: Mapping[str, Mapping[str, bool]]
) -> list[bool | None] | None:
    """Return which items the sources hold: None for one that was not looked at, or for all where none is a question."""
    if isinstance(answers, Harnessed):
        found = documents.get(harnessed.questions(answers.params, answers.locate).id, {})
        return [found.get(item) for item in items]
    files = _questions(answers)
    if not files or not all(file.id in held for file in files):
        return None
    hit = set[str]().union(*(held[file.id] for file in files))
    # A judged question has a row a turn, QUESTION/TURN.
    return [item.partition("/")[0] in hit for item in items]


def _questions(answers: Stage) -> Sequence[Stage]:
    """Return the files whose items were asked."""
    asked = answers.one("answers") if answers.kind == "judge" else answers
    return asked.inputs.get("items", ())


def _found_items(folder: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    return (key.hex() for key in pq.read_table(folder / "items.parquet", columns=["id"]).column(0).to_pylist())


def read_result(item: Evaluated, store: Store) -> Result:
    """Return the graded items of one thing that is measured."""
    import pyarrow.parquet as pq

    folder = store.path("grade", item.grade.id)
    summary = store.manifest("grade", item.grade.id)["summary"]
    return _result(item, item.run, pq.read_table(folder / "results.parquet").to_pydict(), summary)


def finite(results: Iterable[Result], plan: Plan) -> tuple[list[Result], list[str]]:
    """Return the results whose scores are all numbers, and what is said of the others.

    A mean over an item that has no score would be no mean of the benchmark, so the whole result is left out.
    """
    kept: list[Result] = []
    wrong: dict[tuple[str, str], tuple[Result, list[str]]] = {}
    for result in results:
        if _bad(result):
            runs = wrong.setdefault((result.stage_id, result.ability), (result, []))[1]
            runs.append(display_name(result.run, plan))
        else:
            kept.append(result)
    notes = []
    for result, runs in wrong.values():
        bad = _bad(result)
        more = f" and {len(runs) - 2} more" if len(runs) > 2 else ""
        notes.append(
            f"{', '.join(runs[:2])}{more}, stage {result.stage} ({result.stage_label}): {len(bad)} of "
            f"{len(result.items)} scores of {result.evaluator} on {result.ability} are no numbers (such as item "
            f"{result.items[bad[0]]}: {result.scores[bad[0]]}); the model is left out there. Has its training diverged?"
        )
    return kept, notes


def judged_everywhere(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Return judged results on the replies that have a score in all results of their measure, and what is said of it.

    Where a judge gave no verdict on some replies of one run, means over other replies would be compared.
    """
    of = {id(result): (result.evaluator, result.ability, result.metric) for result in results if result.verdicts}
    common: dict[tuple[str, str, str], set[str]] = {}
    every: dict[tuple[str, str, str], set[str]] = {}
    for result in results:
        if measure := of.get(id(result)):
            common[measure] = common.get(measure, set(result.items)) & set(result.items)
            every[measure] = every.get(measure, set()) | set(result.items)
    kept = [_restricted(result, common[of[id(result)]]) if id(result) in of else result for result in results]
    notes = [
        f"{measure[0]} on {measure[1]}: {len(every[measure]) - len(common[measure])} of {len(every[measure])} replies "
        "have no verdict in some run or seed and are left out in all, so that all are compared on the same ones."
        for measure in common
        if every[measure] != common[measure]
    ]
    return [result for result in kept if result.items], notes


def _restricted(result: Result, items: set[str]) -> Result:
    places = [place for place, item in enumerate(result.items) if item in items]
    if len(places) == len(result.items):
        return result
    return replace(
        result,
        items=[result.items[place] for place in places],
        scores=[result.scores[place] for place in places],
        weights=[result.weights[place] for place in places],
        extra={name: [values[place] for place in places] for name, values in result.extra.items()},
    )


def _bad(result: Result) -> list[int]:
    """Places of the scores and weights that are no numbers."""
    pairs = zip(result.scores, result.weights, strict=True)
    return [place for place, pair in enumerate(pairs) if not all(v is not None and math.isfinite(v) for v in pair)]


def _result(item: Evaluated, run: RunInfo, columns: Mapping[str, list[Any]], summary: Mapping[str, Any]) -> Result:
    return Result(
        run=run,
        stage=item.stage,
        stage_label=item.stage_label,
        final=item.final,
        evaluator=item.evaluator,
        metric=item.metric,
        ability=item.ability,
        # Of a task of the harness, the harness says it.
        higher_is_better=summary.get("higher_is_better", item.higher_is_better),
        items=columns["item"],
        scores=columns["score"],
        weights=columns["weight"],
        full_size=summary["full"],
        extra={name: values for name, values in columns.items() if name not in ("item", "score", "weight")},
        stage_id=item.grade.id,
        fraction=item.fraction,
        unjudged=summary.get("unjudged", 0),
        verdicts=summary.get("verdicts", {}),
    )

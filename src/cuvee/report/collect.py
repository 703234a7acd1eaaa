"""Gather from a plan and its store what a report shows; computes nothing but the analyses."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuvee import canonical, components, gate, harnessed, planview, representing, selections, task_vectors
from cuvee.canonical import ID_LENGTH
from cuvee.errors import CuveeError, UsageError
from cuvee.plan import Evaluated, Plan, PlannedRun, display_name
from cuvee.protocols import Ingredient, Portion, Result, RunInfo, Table, TrainingInfo
from cuvee.report.data import Curve, ReportData
from cuvee.sources.harness import ITEM
from cuvee.stage import Harnessed, Stage
from cuvee.store import Store

HELD_BY_SOURCES = "held_by_sources"
"""Column that says whether a training source holds an item; `analyses.leakage` reads it."""


def collect(plan: Plan, store: Store) -> ReportData:
    """Return the report's data from the finished stages of a plan.

    An analysis that fails, and results with scores that are no numbers, are told in the notes; the rest stands.

    Raises:
        UsageError: nothing is graded, an analysis is named that there is not, or the report extra is missing.
    """
    need_extra()
    graded = list(read_results(plan, store))
    if not graded:
        raise UsageError("nothing of this recipe is measured yet; `cuvee run` does it")
    results, missing = finite(with_overlap(graded, plan, store), plan)
    results, left_out = judged_everywhere(results)
    manifests = {s.id: store.manifest(s.kind, s.id) for s in plan.stages if store.has(s.kind, s.id)}
    curves, by_source = _curves(plan, store, manifests)
    tables, failures = _analyses(plan, store, results)
    failed = [f"analysis {name} failed: {why}" for name, why in failures.items()]
    return ReportData(
        title=_title(plan),
        recipe_text=_without_folders(plan),
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(max(m["finished"] for m in manifests.values()))),
        tables={**tables, "data": [*_data_tables(plan, manifests), *_checks(plan, store)]},
        stages=_stages(plan, manifests),
        costs=_costs(plan, manifests),
        curves=curves,
        source_curves=by_source,
        failures=failures,
        notes=list(dict.fromkeys([*failed, *missing, *left_out, *_notes(plan, store, manifests)])),
        versions=next(iter(manifests.values()))["versions"],
    )


def need_extra() -> None:
    """Raise UsageError unless what draws and counts for a report is installed."""
    absent = [name for name in ("scipy", "matplotlib") if find_spec(name) is None]
    if absent:
        raise UsageError(f"a report needs {' and '.join(absent)}, not installed here; pip install 'cuvee[report]'")


FILES = ("path", "prompts", "references", "against")
"""Parameters of evaluators that name files."""


def _without_folders(plan: Plan) -> str:
    """Return the recipe's text with file names in place of this machine's folders: a report is passed on."""
    text = plan.located.text
    recipe = plan.located.recipe
    paths = [base.path for base in recipe.all_bases]
    for source in recipe.sources.values():
        paths += _paths(source.path)
    paths += [path for one in recipe.preflight.benchmarks.values() for path in _paths(one.path)]
    named = [one.params.get(name) for one in recipe.evaluation for name in FILES]
    judges = [one.params["judge"] for one in recipe.evaluation if isinstance(one.params.get("judge"), Mapping)]
    paths += [path for one in (*named, *(judge.get("model") for judge in judges)) for path in _paths(one)]
    for path in sorted(paths, key=len, reverse=True):
        if Path(path).is_absolute():
            text = text.replace(path, Path(path).name)
    return text


def _paths(path: Any) -> list[str]:
    return [path] if isinstance(path, str) else [str(one) for one in path or ()]


def _title(plan: Plan) -> str:
    return f"{plan.located.name}: {len(plan.runs)} runs from {', '.join(_base_names(plan).values())}"


def _base_names(plan: Plan) -> dict[str, str]:
    """Return each base model's name by its path: without this machine's folders, and no name twice."""
    paths = [base.path for base in plan.located.recipe.all_bases]
    short = [Path(path).name if Path(path).is_absolute() else path for path in paths]
    return {
        path: name if short.count(name) == 1 else f"{name} ({number})"
        for number, (path, name) in enumerate(zip(paths, short, strict=True), 1)
    }


def _told(info: RunInfo, plan: Plan) -> RunInfo:
    """Return a run with its base model's name in place of the path."""
    return replace(info, base=_base_names(plan).get(info.base, info.base))


def _run_name(info: RunInfo, plan: Plan) -> str:
    return display_name(_told(info, plan), plan)


def read_results(plan: Plan, store: Store) -> Iterator[Result]:
    """Yield the graded items of everything that is measured, in the plan's order."""
    import pyarrow.parquet as pq

    tables: dict[str, dict[str, list[Any]]] = {}
    told = {id(run.info): replace(_told(run.info, plan), trainings=_trained(run, store)) for run in plan.runs}
    for item in plan.evaluated:
        grade = item.grade
        if not store.has("grade", grade.id):
            continue
        if grade.id not in tables:
            tables[grade.id] = pq.read_table(store.path("grade", grade.id) / "results.parquet").to_pydict()
        summary = store.manifest("grade", grade.id)["summary"]
        yield _result(item, told[id(item.run)], tables[grade.id], summary)


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


def _analyses(plan: Plan, store: Store, results: list[Result]) -> tuple[dict[str, list[Table]], dict[str, str]]:
    """Return the tables of each analysis, and why there are none of those that failed."""
    found: dict[str, list[Table]] = {}
    failures: dict[str, str] = {}
    for number, component in enumerate(plan.located.recipe.analyses):
        try:
            module = components.find("analyses", component.name)
        except KeyError as error:
            raise plan.located.error(str(error.args[0]), "analyses", number) from None
        params = plan.located.check(module.Params, component.params, "analyses", number, component.name)
        times = sum(earlier.name == component.name for earlier in plan.located.recipe.analyses[:number])
        name = f"{component.name} {times + 1}" if times else component.name
        try:
            found[name] = list(module.table(_looked_at(module, params, plan, store, results), params))
        except (CuveeError, ValueError, ArithmeticError) as error:
            failures[name] = str(error) or type(error).__name__
    return found, failures


def _looked_at(module: Any, params: Any, plan: Plan, store: Store, results: list[Result]) -> Sequence[Any]:
    """Return what an analysis is about: most look at results, some at what was selected or at stored weights."""
    if getattr(module, "OF", "") == "selections":
        return selections.gather(plan, store)
    if getattr(module, "OF", "") == "task_vectors":
        return task_vectors.gather(plan, store, params)
    if getattr(module, "OF", "") == representing.NAME:
        return representing.gather(plan, store, params)
    return _asked(results, module)


def _asked(results: list[Result], module: Any) -> list[Result]:
    """Return what an analysis looks at: marks only where it says so."""
    return results if getattr(module, "MARKS", False) else [result for result in results if result.fraction == 1]


# --------------------------------------------------------------------------------------------- sources' names


Names = Mapping[str, Sequence[Ingredient]]
"""The recipe's sources by the id of their rendered rows; sources with the same file and settings share one."""


def ingredients(plan: Plan) -> Names:
    """Return the recipe's sources by the id of their rendered rows."""
    found: dict[str, dict[str, Ingredient]] = {}
    for run in plan.runs:
        for name, ingredient in run.ingredients.items():
            found.setdefault(ingredient.data.id, {})[name] = ingredient
    return {data: list(by_name.values()) for data, by_name in found.items()}


def joined(names: Iterable[str]) -> str:
    """Return different names as one text."""
    return " / ".join(dict.fromkeys(names))


def part_names(mix: Stage, known: Names) -> list[str]:
    """Return the source of each part of a mixture; several names where the recipe's sources are the same rows."""
    parts = zip(mix.inputs["parts"], mix.params["parts"], strict=True)
    return [_part_name(data, how, known) for data, how in parts]


def _part_name(data: Stage, how: Mapping[str, Any], known: Names) -> str:
    """A part is a source as the recipe has it, or a share that the strategy took of it."""
    sources = known.get(data.id, ())
    fitting = {each.name: fit for each in sources if (fit := _fit(each.how, how)) is not None}
    best = max(fitting.values(), default=0)
    return joined([name for name, fit in fitting.items() if fit == best] or [s.name for s in sources]) or data.label


def _fit(source: Mapping[str, Any], part: Mapping[str, Any]) -> int | None:
    """How many amounts a part has from the source; None if it was not made from it."""
    own, taken = _amounts(source), _amounts(part)
    if _filters(source) != _filters(part) or taken[: len(own)] != own:
        return None
    return len(own) if all({"share", "count"} & amount.keys() for amount in taken[len(own) :]) else None


def _amounts(how: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Amounts one after another; a share of 1 takes everything, and mixtures leave it out."""
    amounts: list[Mapping[str, Any]] = [
        amount for amount in how.get("amounts", ()) if "share" not in amount or Fraction(amount["share"]) != 1
    ]
    return amounts


def _filters(how: Mapping[str, Any]) -> str:
    return canonical.text({name: value for name, value in how.items() if name != "amounts"})


# ------------------------------------------------------------------------------------------------------ data


def _data_tables(plan: Plan, manifests: Mapping[str, Any]) -> list[Table]:
    tables = (
        Table(
            "Sources: read and rendered",
            (
                "source",
                "ability",
                "rendered for",
                "rows",
                "quarantined",
                "repaired",
                "trimmed",
                "split",
                "dropped",
                "tokens",
                "supervised tokens",
                "reasons",
            ),
            list(_source_rows(plan, manifests)),
            notes=("Quarantined rows are kept with file, line and reason in the load stage's quarantine.parquet.",),
        ),
        Table(
            "Mixtures: asked and achieved",
            (
                "training",
                "source",
                "asked",
                "held out",
                "duplicates",
                "overlap",
                "filtered",
                "not selected",
                "pool",
                "chosen",
                "rows",
                "supervised tokens",
                "share of rows",
                "share of tokens",
                "share of supervised tokens",
            ),
            list(_mixture_rows(plan, manifests)),
            notes=(
                "One epoch. `pool` is what is left after held-out rows, duplicates, rows that hold benchmark items, "
                "filters and selections; `chosen` is what the amount took of it; `rows` is what was left of that after "
                "rendering.",
            ),
        ),
    )
    return [table for table in (_run_costs(plan, manifests), *tables) if table.rows]


def _run_costs(plan: Plan, manifests: Mapping[str, Any]) -> Table:
    """What each run's trainings took: strategies that see more rows are not compute-matched."""
    rows = []
    for run in plan.runs:
        trained = [stage.id for stage in run.trainings]
        summaries = [manifests[stage_id]["summary"] for stage_id in trained if stage_id in manifests]
        if len(summaries) == len(trained):
            sums = {name: sum(s[name] for s in summaries) for name in ("steps", "supervised_tokens", "total_tokens")}
            took = sum(s["seconds"] for s in summaries)
            own = sum(len(plan.runs_of.get(stage_id, ())) == 1 for stage_id in trained)
            rows.append(
                {
                    "run": display_name(run.info, plan),
                    "trainings": len(trained),
                    "of them shared": len(trained) - own,
                    "steps": sums["steps"],
                    "supervised tokens": sums["supervised_tokens"],
                    "tokens": sums["total_tokens"],
                    "seconds": round(took, 1),
                }
            )
    return Table(
        "What each run costs",
        ("run", "trainings", "of them shared", "steps", "supervised tokens", "tokens", "seconds"),
        rows,
        notes=(
            "Each run as if it had trained alone, all its stages and epochs. Runs that see more tokens are not "
            "compute-matched: a better score may be the price of more training.",
        ),
    )


def _source_rows(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known = ingredients(plan)
    bases = bases_of(plan)
    several = len(plan.located.recipe.all_bases) > 1
    for stage in plan.stages:
        if stage.kind != "render" or stage.id not in manifests or stage.one("source").id not in manifests:
            continue
        load, render = manifests[stage.one("source").id]["summary"], manifests[stage.id]["summary"]
        reasons = {**load["reasons"], **render["reasons"]}
        yield {
            "source": joined(i.name for i in known.get(stage.id, ())) or stage.label,
            "ability": joined(i.ability for i in known.get(stage.id, ())),
            "rendered for": _rendering(stage) + (f", {joined(bases.get(stage.id, ()))}" if several else ""),
            "rows": load["rows"],
            "quarantined": load["bad"] + load.get("left_out", 0),
            "repaired": load["repaired"],
            "trimmed": render["trimmed"],
            "split": render["split"],
            "dropped": render["dropped"],
            "tokens": render["total_tokens"],
            "supervised tokens": render["supervised_tokens"],
            "reasons": "; ".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none",
        }


def _rendering(stage: Stage) -> str:
    """The settings that decide tokens and mask, in few words."""
    params = stage.params
    return ", ".join(str(params[name]) for name in ("template", "max_length") if name in params)


def bases_of(plan: Plan) -> dict[str, list[str]]:
    """Return the base models for which rows were rendered, by render stage id."""
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        for ingredient in run.ingredients.values():
            found.setdefault(ingredient.data.id, []).append(_told(run.info, plan).base)
    return found


def _mixture_rows(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names, known = training_names(plan), ingredients(plan)
    told: set[str] = set()
    for stage in plan.stages:
        if stage.kind != "train" or stage.one("data").id not in manifests or stage.id in told:
            continue
        told.add(stage.id)
        mix = stage.one("data")
        summary = manifests[mix.id]["summary"]
        for source, part in zip(part_names(mix, known), summary["parts"], strict=True):
            yield {
                "training": names[stage.id],
                "source": source,
                "asked": part["asked"],
                "held out": part["heldout"],
                "duplicates": part["duplicates"],
                "overlap": part["overlap"],
                "filtered": part["filtered"],
                "not selected": part.get("unselected", 0),
                "pool": part["pool"],
                "chosen": part["chosen"],
                "rows": part["rows"],
                "supervised tokens": part["supervised_tokens"],
                "share of rows": f"{part['rows'] / summary['rows']:.2%}",
                "share of tokens": f"{part['total_tokens'] / summary['total_tokens']:.2%}",
                "share of supervised tokens": f"{part['supervised_tokens'] / summary['supervised_tokens']:.2%}",
            }


def _checks(plan: Plan, store: Store) -> Iterator[Table]:
    """Yield what the checks before training found besides good news; texts only, never rows."""
    here = [stage for stage in plan.preflights if store.has(stage.kind, stage.id)]
    accept = plan.located.recipe.preflight.accept
    found = {one.name: one for stage in here for one in gate.findings(plan, store, stage)}
    rows = [
        {
            "check": one.name,
            "level": "accepted" if one.level == "fail" and gate.accepted(one, accept) else one.level,
            "what was found": one.text,
        }
        for one in found.values()
        if one.level not in ("ok", "later")
    ]
    if here:
        good = sum(one.level == "ok" for one in found.values())
        notes = (f"{good} further checks found nothing wrong. `cuvee preflight` shows all, with rows.",)
        yield Table("Checks before training", ("check", "level", "what was found"), rows, notes=notes)


def training_names(plan: Plan) -> dict[str, str]:
    """Return a name for each training: its first run, its number there, and how many runs share it."""
    runs_of: dict[str, list[str]] = {}
    for run in plan.runs:
        merged = any(model.kind == "merge" for model in run.models)
        for number, stage in enumerate(run.own_trainings, start=1):
            name = _run_name(run.info, plan)
            which = stage.label if merged else f"stage {number}"
            runs_of.setdefault(stage.id, []).append(f"{name}, {which}" if len(run.own_trainings) > 1 else name)
    references = {stage.id: [stage.label] for run in plan.runs for stage in run.trainings if stage.id not in runs_of}
    return {
        key: names[0] + (f" (shared by {len(names)} runs)" if len(names) > 1 else "")
        for key, names in {**runs_of, **references}.items()
    }


def _stages(plan: Plan, manifests: Mapping[str, Any]) -> list[dict[str, Any]]:
    paths = {display_name(run.info, plan): _run_name(run.info, plan) for run in plan.runs}
    runs_of = {key: [paths.get(name, name) for name in names] for key, names in plan.runs_of.items()}
    labels = _labels(plan)
    return [_stage(stage, labels, runs_of, manifests) for stage in plan.stages]


def _labels(plan: Plan) -> dict[str, str]:
    """Return what loads and renders are called: every source that they serve."""
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        for ingredient in run.ingredients.values():
            for stage in (ingredient.data, ingredient.data.one("source")):
                found.setdefault(stage.id, []).append(ingredient.name)
    return {key: joined(names) for key, names in found.items()}


def _stage(
    stage: Stage, labels: Mapping[str, str], runs_of: Mapping[str, Sequence[str]], manifests: Mapping[str, Any]
) -> dict[str, Any]:
    manifest = manifests.get(stage.id)
    summary = manifest["summary"] if manifest else {}
    return {
        "short": stage.short,
        "id": stage.id,
        "kind": stage.kind,
        "label": labels.get(stage.id, stage.label),
        "runs": runs_of.get(stage.id, []),
        "finished": manifest is not None,
        "seconds": _took(manifest, "seconds") if manifest else None,
        "cpu_seconds": _took(manifest, "cpu_seconds") if manifest else None,
        **{name: summary.get(name) for name in ("rows", "supervised_tokens", "total_tokens", "steps")},
    }


def _took(manifest: Mapping[str, Any], name: str) -> float:
    """Seconds of a stage. A training counts all its attempts; a manifest knows the last one alone."""
    all_attempts = manifest["summary"].get(name) if manifest["kind"] == "train" else None
    return float(manifest[name] if all_attempts is None else all_attempts)


def _costs(plan: Plan, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """What the trainings of the graph took, and what they had taken if every run had trained by itself."""
    trainings = {
        stage.id: manifests[stage.id] for stage in plan.stages if stage.kind == "train" and stage.id in manifests
    }
    alone = [trainings[stage.id] for run in plan.runs for stage in run.trainings if stage.id in trainings]
    found: dict[str, Any] = {"trainings": len(trainings), "trainings_if_alone": len(alone)}
    for name in ("seconds", "cpu_seconds"):
        found[name] = sum(_took(m, name) for m in trainings.values())
        found[f"{name}_if_alone"] = sum(_took(m, name) for m in alone)
    for name in ("supervised_tokens", "total_tokens"):
        found[name] = sum(m["summary"][name] for m in trainings.values())
        found[f"{name}_if_alone"] = sum(m["summary"][name] for m in alone)
    return found


def _curves(
    plan: Plan, store: Store, manifests: Mapping[str, Any]
) -> tuple[dict[str, Curve], dict[str, dict[str, Curve]]]:
    curves: dict[str, Curve] = {}
    by_source: dict[str, dict[str, Curve]] = {}
    known = ingredients(plan)
    mixes = {stage.id: stage.one("data") for run in plan.runs for stage in run.trainings}
    for stage_id, name in training_names(plan).items():
        log = store.path("train", stage_id) / "log.jsonl"
        if stage_id not in manifests or not log.exists():
            continue
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        curves[name] = [(r["step"], r["loss"]) for r in records]
        by_source[name] = _source_curves(records, part_names(mixes[stage_id], known))
    return curves, by_source


def _source_curves(records: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Curve]:
    """Return the loss of each source over windows of steps: a source with few rows is not in every step.

    Args:
        records: of the training's log.
        names: of the mixture's parts.
    """
    window = max(1, len(records) // 60)
    found: dict[str, list[tuple[int, float]]] = {}
    for start in range(0, len(records), window):
        sums: dict[str, tuple[float, int]] = {}
        for record in records[start : start + window]:
            for part, value in record["parts"].items():
                name = names[int(part)]
                nll, tokens = sums.get(name, (0.0, 0))
                sums[name] = (nll + value["nll"], tokens + value["tokens"])
        for name, (nll, tokens) in sums.items():
            if tokens:
                found.setdefault(name, []).append(
                    (records[min(start + window, len(records)) - 1]["step"], nll / tokens)
                )
    return {name: points for name, points in sorted(found.items())}


def _notes(plan: Plan, store: Store, manifests: Mapping[str, Any]) -> Iterator[str]:
    missing = [stage.short for stage in plan.stages if stage.id not in manifests]
    if missing:
        yield f"{len(missing)} of {len(plan.stages)} stages are missing, such as {missing[0]}: this report is partial."
    for base in plan.located.recipe.all_bases:
        yield from _base_notes(base.path)
    sources = plan.located.recipe.sources.values()
    if any(isinstance(source.path, str) and source.path.startswith("builtin:") for source in sources):
        yield "The built-in sources are synthetic: what holds here need not hold for real data and large models."
    yield from planview.losses(plan, store)
    if len(plan.located.recipe.seeds) == 1:
        yield "One training seed: the intervals hold what other items would change, not what another seed would."
    resumed = [m for m in manifests.values() if m["summary"].get("resumed_from")]
    for manifest in resumed:
        steps = ", ".join(map(str, manifest["summary"]["resumed_from"]))
        yield f"{manifest['kind']}-{manifest['id'][:ID_LENGTH]} was interrupted and resumed from step {steps}."
    cut = sum(m["summary"].get("cut", 0) for m in manifests.values() if m["kind"] == "generate")
    answers = sum(m["summary"].get("items", 0) for m in manifests.values() if m["kind"] == "generate")
    if cut:
        yield f"{cut} of {answers} generated answers reached max_new_tokens before their end."
    for item in plan.evaluated:
        if (summary := manifests.get(item.grade.id, {}).get("summary", {})).get("unjudged"):
            failed = ", ".join(f"{count} {why}" for why, count in summary["verdicts"]["failed"].items())
            yield (
                f"{_run_name(item.run, plan)}, {item.evaluator}: {summary['unjudged']} of {summary['replies']} replies "
                f"have no score, since their judge gave no verdict ({failed}); they are left out, not counted as 0."
            )
    accepted = {
        one["name"]
        for m in manifests.values()
        for one in m.get("preflight", {}).get("accepted", ())
        if m["kind"] == "train"
    }
    for name in sorted(accepted):
        yield f"Trained although a check spoke against it, accepted by name: {name}."


def _base_notes(path: str) -> Iterator[str]:
    if path.startswith("fake:"):
        yield "The fake engine made these numbers: they mean nothing and only show the machinery."
    if path == "builtin:smollm2":
        yield (
            "builtin:smollm2 is SmolLM2-135M-Instruct with weights dequantised from 4 bits, and "
            "instruction-tuned before it came here: nothing follows for base models."
        )

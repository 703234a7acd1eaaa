"""Gather from a plan and its store what a report shows; computes nothing but the analyses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cuvee import components
from cuvee.canonical import ID_LENGTH
from cuvee.errors import UsageError
from cuvee.planner import Evaluated, Plan, display_name
from cuvee.protocols import Result, Table
from cuvee.report.data import Curve, ReportData
from cuvee.stage import Stage
from cuvee.store import Store


def collect(plan: Plan, store: Store) -> ReportData:
    """Return the report's data from the finished stages of a plan.

    Raises:
        UsageError: nothing is graded, or an analysis is named that there is not.
    """
    results = list(read_results(plan, store))
    if not results:
        raise UsageError("nothing of this recipe is measured yet; `cuvee run` does it")
    manifests = {s.id: store.manifest(s.kind, s.id) for s in plan.stages if store.has(s.kind, s.id)}
    curves, by_source = _curves(plan, store, manifests)
    return ReportData(
        title=_title(plan),
        recipe_text=_without_folders(plan),
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(max(m["finished"] for m in manifests.values()))),
        tables={**_analyses(plan, results), "data": _data_tables(plan, manifests)},
        stages=[_stage(stage, plan, manifests) for stage in plan.stages],
        costs=_costs(plan, manifests),
        curves=curves,
        source_curves=by_source,
        notes=list(_notes(plan, manifests)),
        versions=next(iter(manifests.values()))["versions"],
    )


def _without_folders(plan: Plan) -> str:
    """Return the recipe's text with file names in place of this machine's folders: a report is passed on."""
    text = plan.located.text
    recipe = plan.located.recipe
    paths = [base.path for base in recipe.all_bases]
    for source in recipe.sources.values():
        paths += [source.path] if isinstance(source.path, str) else list(source.path or ())
    for path in sorted(paths, key=len, reverse=True):
        if Path(path).is_absolute():
            text = text.replace(path, Path(path).name)
    return text


def _title(plan: Plan) -> str:
    bases = ", ".join(
        Path(base.path).name if Path(base.path).is_absolute() else base.path for base in plan.located.recipe.all_bases
    )
    return f"{plan.located.name}: {len(plan.runs)} runs from {bases}"


def read_results(plan: Plan, store: Store) -> Iterator[Result]:
    """Yield the graded items of everything that is measured, in the plan's order."""
    import pyarrow.parquet as pq

    tables: dict[str, dict[str, list[Any]]] = {}
    for item in plan.evaluated:
        grade = item.grade
        if not store.has("grade", grade.id):
            continue
        if grade.id not in tables:
            tables[grade.id] = pq.read_table(store.path("grade", grade.id) / "results.parquet").to_pydict()
        yield _result(item, tables[grade.id], store.manifest("grade", grade.id)["summary"]["full"])


def _result(item: Evaluated, columns: Mapping[str, list[Any]], full: int) -> Result:
    return Result(
        run=item.run,
        stage=item.stage,
        stage_label=item.stage_label,
        final=item.final,
        evaluator=item.evaluator,
        metric=item.metric,
        ability=item.ability,
        higher_is_better=item.higher_is_better,
        items=columns["item"],
        scores=columns["score"],
        weights=columns["weight"],
        full_size=full,
        extra={name: values for name, values in columns.items() if name not in ("item", "score", "weight")},
        stage_id=item.grade.id,
    )


def _analyses(plan: Plan, results: list[Result]) -> dict[str, list[Table]]:
    found = {}
    for number, component in enumerate(plan.located.recipe.analyses):
        try:
            module = components.find("analyses", component.name)
        except KeyError as error:
            raise plan.located.error(str(error.args[0]), "analyses", number) from None
        params = plan.located.check(module.Params, component.params, "analyses", number, component.name)
        found[component.name] = list(module.table(results, params))
    return found


def _data_tables(plan: Plan, manifests: Mapping[str, Any]) -> list[Table]:
    tables = (
        Table(
            "Sources: read and rendered",
            (
                "source",
                "ability",
                "rows",
                "quarantined",
                "repaired",
                "trimmed",
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
                "pool",
                "held out",
                "chosen",
                "rows",
                "supervised tokens",
                "share of rows",
                "share of supervised tokens",
            ),
            list(_mixture_rows(plan, manifests)),
            notes=(
                "One epoch. `pool` is what is left after held-out rows, duplicates and filters; `chosen` is "
                "what the amount took of it; `rows` is what was left of that after rendering.",
            ),
        ),
    )
    return [table for table in tables if table.rows]


def _source_rows(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in plan.stages:
        if stage.kind != "render" or stage.id not in manifests or stage.one("source").id not in manifests:
            continue
        load, render = manifests[stage.one("source").id]["summary"], manifests[stage.id]["summary"]
        name, ability = plan.sources[stage.one("source").id]
        reasons = {**load["reasons"], **render["reasons"]}
        yield {
            "source": name,
            "ability": ability,
            "rows": load["rows"],
            "quarantined": load["bad"],
            "repaired": load["repaired"],
            "trimmed": render["trimmed"],
            "dropped": render["dropped"],
            "tokens": render["total_tokens"],
            "supervised tokens": render["supervised_tokens"],
            "reasons": "; ".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none",
        }


def _mixture_rows(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = training_names(plan)
    told: set[str] = set()
    for stage in plan.stages:
        if stage.kind != "train" or stage.one("data").id not in manifests or stage.id in told:
            continue
        told.add(stage.id)
        mix = stage.one("data")
        summary = manifests[mix.id]["summary"]
        for data, part in zip(mix.inputs["parts"], summary["parts"], strict=True):
            yield {
                "training": names[stage.id],
                "source": plan.sources[data.one("source").id][0],
                "asked": part["asked"],
                "pool": part["pool"],
                "held out": part["heldout"],
                "chosen": part["chosen"],
                "rows": part["rows"],
                "supervised tokens": part["supervised_tokens"],
                "share of rows": f"{part['rows'] / summary['rows']:.2%}",
                "share of supervised tokens": f"{part['supervised_tokens'] / summary['supervised_tokens']:.2%}",
            }


def training_names(plan: Plan) -> dict[str, str]:
    """Return a name for each training: its first run, its number there, and how many runs share it."""
    runs_of: dict[str, list[str]] = {}
    for run in plan.runs:
        for number, model in enumerate(run.models, start=1):
            name = display_name(run.info, plan)
            runs_of.setdefault(model.id, []).append(f"{name}, stage {number}" if len(run.models) > 1 else name)
    return {
        key: names[0] + (f" (shared by {len(names)} runs)" if len(names) > 1 else "") for key, names in runs_of.items()
    }


def _stage(stage: Stage, plan: Plan, manifests: Mapping[str, Any]) -> dict[str, Any]:
    manifest = manifests.get(stage.id)
    summary = manifest["summary"] if manifest else {}
    return {
        "short": stage.short,
        "id": stage.id,
        "kind": stage.kind,
        "label": stage.label,
        "runs": list(plan.runs_of.get(stage.id, ())),
        "cached": manifest is not None,
        "seconds": manifest["seconds"] if manifest else None,
        "cpu_seconds": manifest["cpu_seconds"] if manifest else None,
        **{name: summary.get(name) for name in ("rows", "supervised_tokens", "total_tokens", "steps")},
    }


def _costs(plan: Plan, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """What the trainings of the graph took, and what they had taken if every run had trained by itself."""
    trainings = {
        stage.id: manifests[stage.id] for stage in plan.stages if stage.kind == "train" and stage.id in manifests
    }
    alone = [trainings[model.id] for run in plan.runs for model in run.models if model.id in trainings]
    found: dict[str, Any] = {"trainings": len(trainings), "trainings_if_alone": len(alone)}
    for name in ("seconds", "cpu_seconds"):
        found[name] = sum(m[name] for m in trainings.values())
        found[f"{name}_if_alone"] = sum(m[name] for m in alone)
    for name in ("supervised_tokens", "total_tokens"):
        found[name] = sum(m["summary"][name] for m in trainings.values())
        found[f"{name}_if_alone"] = sum(m["summary"][name] for m in alone)
    return found


def _curves(
    plan: Plan, store: Store, manifests: Mapping[str, Any]
) -> tuple[dict[str, Curve], dict[str, dict[str, Curve]]]:
    curves: dict[str, Curve] = {}
    by_source: dict[str, dict[str, Curve]] = {}
    for stage_id, name in training_names(plan).items():
        log = store.path("train", stage_id) / "log.jsonl"
        if stage_id not in manifests or not log.exists():
            continue
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        curves[name] = [(r["step"], r["loss"]) for r in records]
        by_source[name] = _source_curves(records, manifests[stage_id]["summary"]["parts"])
    return curves, by_source


def _source_curves(records: list[dict[str, Any]], parts: list[dict[str, str]]) -> dict[str, Curve]:
    """Return the loss of each source over windows of steps: a source with few rows is not in every step."""
    window = max(1, len(records) // 60)
    found: dict[str, list[tuple[int, float]]] = {}
    for start in range(0, len(records), window):
        sums: dict[str, tuple[float, int]] = {}
        for record in records[start : start + window]:
            for part, value in record["parts"].items():
                name = parts[int(part)]["source"]
                nll, tokens = sums.get(name, (0.0, 0))
                sums[name] = (nll + value["nll"], tokens + value["tokens"])
        for name, (nll, tokens) in sums.items():
            if tokens:
                found.setdefault(name, []).append(
                    (records[min(start + window, len(records)) - 1]["step"], nll / tokens)
                )
    return {name: points for name, points in sorted(found.items())}


def _notes(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[str]:
    missing = [stage.short for stage in plan.stages if stage.id not in manifests]
    if missing:
        yield f"{len(missing)} of {len(plan.stages)} stages are missing, such as {missing[0]}: this report is partial."
    for base in plan.located.recipe.all_bases:
        yield from _base_notes(base.path)
    sources = plan.located.recipe.sources.values()
    if any(isinstance(source.path, str) and source.path.startswith("builtin:") for source in sources):
        yield "The built-in sources are synthetic: what holds here need not hold for real data and large models."
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


def _base_notes(path: str) -> Iterator[str]:
    if path.startswith("fake:"):
        yield "The fake engine made these numbers: they mean nothing and only show the machinery."
    if path == "builtin:smollm2":
        yield (
            "builtin:smollm2 is SmolLM2-135M-Instruct with weights dequantised from 4 bits, and "
            "instruction-tuned before it came here: nothing follows for base models."
        )

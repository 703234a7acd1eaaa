"""What was done and what it took: sources, mixtures, checks, stages, costs; from the manifests of a plan's stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cuvee import gate
from cuvee.plan import Plan, display_name
from cuvee.protocols import Table
from cuvee.report.naming import bases_of, ingredients, joined, part_names, run_name, training_names
from cuvee.stage import Stage
from cuvee.store import Store


def data_tables(plan: Plan, manifests: Mapping[str, Any]) -> list[Table]:
    """Return what each run cost, what was read of each source, and what each mixture is made of."""
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


def checks(plan: Plan, store: Store) -> Iterator[Table]:
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


def stages(plan: Plan, manifests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of every stage of the plan, as `ReportData` has them."""
    paths = {display_name(run.info, plan): run_name(run.info, plan) for run in plan.runs}
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


def costs(plan: Plan, manifests: Mapping[str, Any]) -> dict[str, Any]:
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

"""A plan as plain data: what ``cuvee plan --json`` prints, and what the terminal draws."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from cuvee import components as found
from cuvee import explain, power
from cuvee.canonical import ID_LENGTH
from cuvee.cost import Costs
from cuvee.errors import UsageError
from cuvee.plan import Plan, display_name
from cuvee.plan_schema import SCHEMA
from cuvee.stage import Stage
from cuvee.store import Store


def describe(plan: Plan, costs: Costs, store: Store, detect: float | None = None) -> dict[str, Any]:
    """Return the plan as plain data; `plan_schema` describes it. `detect` is a difference that one wishes to see."""
    stored = explain.Stored(store.stages() if costs.todo else ())
    stages = [_stage(stage, plan, costs, stored) for stage in plan.stages]
    trainings = [stage for stage in stages if stage["kind"] == "train"]
    return {
        "schema": SCHEMA,
        "recipe": plan.located.file,
        "runs": [_run(run, plan) for run in plan.runs],
        "stages": stages,
        "totals": {
            "stages": len(stages),
            "cached": sum(stage["cached"] for stage in stages),
            "trainings": len(trainings),
            "trainings_alone": plan.trainings_alone,
            "trainings_to_do": sum(not stage["cached"] for stage in trainings),
            "trained_tokens": sum(stage["total_tokens"] for stage in trainings),
            "trained_tokens_alone": sum(costs.sizes[s.id].total_tokens for r in plan.runs for s in r.trainings),
            "seconds": round(costs.seconds_all, 1),
            "training_seconds_alone": round(costs.seconds_alone, 1),
            "training_seconds_shared": round(costs.seconds_shared, 1),
            "memory_bytes": costs.memory_bytes,
            "disk_bytes": costs.disk_bytes,
            "disk_peak_bytes": costs.disk_peak_bytes,
        },
        "judges": [
            {
                "judge": name,
                "requests": asked.requests,
                "requests_exact": asked.exact,
                "prompt_tokens": asked.prompt_tokens,
                "new_tokens": asked.new_tokens,
            }
            for name, asked in costs.judging.items()
        ],
        "memory": {
            "stage": costs.memory_stage,
            "items": [{"name": i.name, "bytes": i.bytes, "how": i.how} for i in costs.memory],
        },
        "power": power.describe(plan, costs, store, detect),
        "assumptions": list(costs.assumptions),
    }


def _run(run: Any, plan: Plan) -> dict[str, Any]:
    return {
        "name": display_name(run.info, plan),
        "strategy": run.info.strategy,
        "params": {name: _text(value) for name, value in run.info.params.items()},
        "base": run.info.base,
        "seed": run.info.seed,
        "models": [model.id for model in run.models],
        "marks": [{"training": number, "fraction": str(at), "model": model.id} for number, at, model in run.marks],
    }


def _text(value: Any) -> Any:
    return (
        value
        if isinstance(value, bool | int | float | str | None)
        else ([_text(item) for item in value] if isinstance(value, list | tuple) else str(value))
    )


def _stage(stage: Stage, plan: Plan, costs: Costs, stored: explain.Stored) -> dict[str, Any]:
    size = costs.sizes[stage.id]
    cached = stage.id not in costs.todo
    waits = any(parent.id in costs.todo for parent in plan.before(stage))
    return {
        "id": stage.id,
        "short": stage.short,
        "kind": stage.kind,
        "component": stage.component,
        "label": stage.label,
        "params": stage.identity["params"],
        "inputs": stage.identity["inputs"],
        "cached": cached,
        "why": "" if cached else ("after its inputs" if waits else stored.reason(stage)),
        "rows": size.rows,
        "rows_exact": size.rows_exact,
        "supervised_tokens": size.supervised_tokens,
        "total_tokens": size.total_tokens,
        "tokens_exact": size.tokens_exact,
        "steps": size.steps,
        "seconds": round(costs.seconds[stage.id], 2),
        "runs": list(plan.runs_of.get(stage.id, ())),
    }


def status(plan: Plan, store: Store) -> dict[str, Any]:
    """Return the state of every stage of a plan: done, running, failed, waiting, missing."""
    last: dict[str, dict[str, Any]] = {event["stage"]: event for event in store.events()}
    stages = []
    for stage in plan.stages:
        state, note = _state(stage, store, last.get(stage.short))
        stages.append({"short": stage.short, "kind": stage.kind, "label": stage.label, "state": state, "note": note})
    counts: dict[str, int] = {}
    for item in stages:
        counts[item["state"]] = counts.get(item["state"], 0) + 1
    return {"schema": "cuvee.status/1", "counts": counts, "stages": stages}


def _state(stage: Stage, store: Store, last: dict[str, Any] | None) -> tuple[str, str]:
    if store.has(stage.kind, stage.id):
        return "done", ""
    work = store.work(stage.short)
    if work.exists() and _locked(store, stage.short):
        return "running", _progress_of(work)
    if last and last["event"] == "failed":
        return "failed", str(last.get("error", ""))
    if work.exists():
        return "stopped", _progress_of(work) or "unfinished work is kept; `cuvee run` goes on"
    return "missing", ""


def _locked(store: Store, short: str) -> bool:
    from filelock import Timeout

    if not (store.folder / "locks" / f"{short}.lock").exists():
        return False
    try:
        with store.lock(short).acquire(blocking=False):
            return False
    except Timeout:
        return True


def _progress_of(work: Any) -> str:
    log = work / "log.jsonl"
    if not log.exists():
        return ""
    lines = log.read_bytes().count(b"\n")
    return f"{lines} steps logged"


def why_in(plan: Plan, store: Store, name: str) -> list[str]:
    """Return why the stage called `name` (a kind, a short name or an id) of a plan must run.

    Raises:
        UsageError: the plan has no such stage.
    """
    wanted = name.split("-")[-1]
    matches = [s for s in plan.stages if s.kind == name or s.id.startswith(wanted)]
    if not matches:
        raise UsageError(f"the plan has no stage '{name}'; `cuvee plan` shows its stages")
    stored = explain.Stored(store.stages())
    lines = []
    for stage in matches:
        if store.has(stage.kind, stage.id):
            lines.append(f"{stage.short} ({stage.label}): in the store")
        else:
            lines.append(f"{stage.short} ({stage.label}): {stored.reason(stage)}")
    return lines


def differences(store: Store, first: str, second: str) -> list[str]:
    """Return how two finished stages differ, and where their inputs differ, how those do.

    Raises:
        UsageError: a name that is no finished stage, or two kinds that cannot be compared.
    """
    sides = [store.manifest(*store.resolve(name)) for name in (first, second)]
    lines = [f"{_short(m)} ({m['label']})" for m in sides]
    if sides[0]["kind"] != sides[1]["kind"]:
        raise UsageError(f"{lines[0]} and {lines[1]} are of two kinds; name two stages of one kind")
    found = list(_compare(store, sides[0], sides[1], "  "))
    return [f"{lines[0]} → {lines[1]}", *(found or ["  the same stage"])]


def _short(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['id'][:ID_LENGTH]}"


def _compare(store: Store, old: dict[str, Any], new: dict[str, Any], indent: str) -> Iterator[str]:
    for path, before, after in explain.changed(old["identity"], new["identity"]):
        if not path.startswith("inputs."):
            yield f"{indent}{path}: {'absent' if before is None else before} → {'absent' if after is None else after}"
    for role in sorted({*old["inputs"], *new["inputs"]}):
        pairs = zip_longest(old["inputs"].get(role, ()), new["inputs"].get(role, ()))
        for before, after in pairs:
            if before == after:
                continue
            yield f"{indent}{role}: {_cut(before)} → {_cut(after)}"
            if before and after and all(store.has(*name.split("-", 1)) for name in (before, after)):
                inner = [store.manifest(*name.split("-", 1)) for name in (before, after)]
                yield from _compare(store, inner[0], inner[1], indent + "  ")


def _cut(name: str | None) -> str:
    return "absent" if name is None else name[: name.index("-") + 1 + ID_LENGTH]


def losses(plan: Plan, store: Store, least: float = 0.05) -> list[str]:
    """Return a sentence for every source of which more than `least` of the chosen rows were lost at rendering."""
    found: dict[str, str] = {}
    for stage in plan.stages:
        if stage.kind != "mix" or not store.has(stage.kind, stage.id):
            continue
        parts = store.manifest(stage.kind, stage.id)["summary"]["parts"]
        names = [name for name, _ in stage.locate["parts"]]
        for name, data, part in zip(names, stage.inputs["parts"], parts, strict=True):
            lost = part["chosen"] - part["rows"]
            if lost <= least * part["chosen"] or not store.has(data.kind, data.id):
                continue
            reasons = store.manifest(data.kind, data.id)["summary"]["reasons"]
            why = max(reasons, key=lambda reason: reasons[reason], default="see the render stage")
            found.setdefault(
                name,
                f"{name}: {lost} of {part['chosen']} chosen rows were lost at rendering ({why}); "
                "raise training.max_length or choose more rows",
            )
    return list(found.values())


def stored(store: Store) -> dict[str, Any]:
    """Return every finished stage in a line, oldest first."""
    rows = [
        {
            "short": f"{m['kind']}-{m['id'][:ID_LENGTH]}",
            "kind": m["kind"],
            "component": m["component"],
            "label": m["label"],
            "seconds": m.get("seconds"),
            "finished": m.get("finished"),
            "shed": bool(m.get("shed")),
        }
        for m in store.stages()
    ]
    return {"schema": "cuvee.list/1", "rows": rows}


def components() -> dict[str, Any]:
    """Return every component with the first line of its description."""
    rows = []
    for folder in found.FOLDERS:
        for name in found.names(folder):
            module = found.find(folder, name)
            rows.append({"folder": folder, "name": name, "what": (module.__doc__ or "").strip().splitlines()[0]})
    return {"schema": "cuvee.components/1", "rows": rows}

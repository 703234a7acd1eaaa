"""Whether a training may start: findings of its preflight that fail must be accepted by name.

A finding is accepted by its name or the beginning of it: ``overlap`` accepts every overlap, ``overlap/math`` those of
the source `math`, ``overlap/math/gsm8k`` one of them. What was accepted is written in the trained model's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cuvee.plan import Plan
from cuvee.stage import Stage
from cuvee.store import Store

if TYPE_CHECKING:
    from cuvee.data.preflight import Finding

SHOWN = 3
"""Rows of a finding that an error shows."""


def names(plan: Plan) -> dict[str, str]:
    """Return the names of sources and benchmarks by load stage id; sources that are the same rows have one together."""
    found: dict[str, dict[str, None]] = {stage_id: {name: None} for stage_id, name in plan.benchmarks.items()}
    every = (ingredient for run in plan.runs for ingredient in run.ingredients.values())
    sources: dict[str, dict[str, None]] = {}
    for ingredient in every:
        sources.setdefault(ingredient.data.one("source").id, {})[ingredient.name] = None
    return {stage_id: "+".join(each) for stage_id, each in {**found, **sources}.items()}


def findings(plan: Plan, store: Store, stage: Stage) -> list[Finding]:
    """Return what a finished preflight found, with the recipe's names put in."""
    from cuvee.data import preflight

    known = names(plan)
    return [preflight.named(finding, known) for finding in preflight.read(store.path(stage.kind, stage.id))]


def accepted(finding: Finding, accept: Sequence[str]) -> bool:
    """Return whether a finding was accepted by name."""
    return any(finding.name == name or finding.name.startswith(f"{name}/") for name in accept)


def refused(plan: Plan, store: Store, stage: Stage) -> list[Finding]:
    """Return the findings that speak against training."""
    accept = plan.located.recipe.preflight.accept
    return [one for one in findings(plan, store, stage) if one.level == "fail" and not accepted(one, accept)]


def refusal(plan: Plan, store: Store, stage: Stage) -> str:
    """Return why no training may start, with rows and what to do; empty when it may."""
    found = refused(plan, store, stage)
    if not found:
        return ""
    lines = [f"{counted(found)} against training:"]
    for one in found:
        lines.append(f"  {one.name}: {one.text}")
        lines += [f"    {_place(row)}{row.get('text', '')}" for row in one.rows[:SHOWN]]
    accepting = " ".join(f"--accept {one.name}" for one in found)
    return "\n".join([*lines, f"Mend the data or the recipe, or train all the same with {accepting}"])


def counted(found: Sequence[Finding]) -> str:
    """Return how many checks speak."""
    return "1 check speaks" if len(found) == 1 else f"{len(found)} checks speak"


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['path']}:{row['line']}: " if row.get("path") else ""


def unknown(plan: Plan, store: Store) -> list[str]:
    """Return names in `accept` that no finding of a finished preflight has."""
    here = [stage for stage in plan.preflights if store.has(stage.kind, stage.id)]
    every = [one for stage in here for one in findings(plan, store, stage)]
    wanted = plan.located.recipe.preflight.accept
    return [name for name in wanted if here and not any(accepted(one, [name]) for one in every)]


def passed(plan: Plan, store: Store, stage: Stage) -> dict[str, Any]:
    """Return for a training's manifest which preflights it passed, and which findings were accepted."""
    gates = plan.gates.get(stage.id, ())
    if not gates:
        return {}
    accept = plan.located.recipe.preflight.accept
    taken = [one for gate in gates for one in findings(plan, store, gate) if one.level == "fail"]
    return {
        "stages": [gate.short for gate in gates],
        "accepted": [{"name": one.name, "text": one.text} for one in taken if accepted(one, accept)],
    }

"""Whether a report that is there still says what the store says; decided from ids alone, without reading results."""

from __future__ import annotations

import json
from pathlib import Path

from cuvee import canonical
from cuvee.plan import Plan, display_name
from cuvee.store import Store

FILE = "stamp.json"
VERSION = 5
"""Raised when reports look or read differently, so that old ones are written anew."""


def worthwhile(plan: Plan, store: Store) -> bool:
    """Return whether anything of the plan is graded or trained: a report shows losses and costs too."""
    return any(stage.kind in ("grade", "train") and store.has(stage.kind, stage.id) for stage in plan.stages)


def is_complete(plan: Plan, store: Store) -> bool:
    """Return whether every stage of the plan is there."""
    return all(store.has(stage.kind, stage.id) for stage in plan.stages)


def is_current(plan: Plan, store: Store, folder: Path) -> bool:
    """Return whether the report in `folder` was made from what the store holds now."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == {"stamp": _stamp(plan, store)}) and (folder / "report.html").is_file()


def write(plan: Plan, store: Store, folder: Path) -> None:
    """Mark the report in `folder` as made from what the store holds now."""
    (folder / FILE).write_text(json.dumps({"stamp": _stamp(plan, store)}), encoding="utf-8")


def _stamp(plan: Plan, store: Store) -> str:
    graded = [
        [display_name(item.run, plan), item.stage, item.stage_label, item.evaluator, item.ability, item.grade.id]
        for item in plan.evaluated
        if store.has("grade", item.grade.id)
    ]
    # Overlaps, preflights and vectors are shown too, and may be made after the last grade.
    there = sorted({stage.id for stage in plan.stages if store.has(stage.kind, stage.id)})
    return canonical.digest([VERSION, plan.located.text, graded, there])

"""The task vectors of a plan's models, read from their stored weights for the analysis of that name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuvee.bases import MODEL
from cuvee.errors import ModelError
from cuvee.plan import Plan, PlannedRun, display_name
from cuvee.protocols import TaskVectors, VectorPart
from cuvee.stage import Base, Merged, Model, Stage
from cuvee.store import Store


def gather(plan: Plan, store: Store, params: Any) -> list[TaskVectors]:
    """Return the task vectors of each base's models; those without weights on disk are said to be missing.

    Args:
        plan: whose models.
        store: where they lie.
        params: `models`, ``final`` or ``all``.
    """
    bases = {run.base.id: run.base for run in plan.runs}
    return [_of_base(base, plan, store, params.models) for base in bases.values()]


def _of_base(base: Base, plan: Plan, store: Store, which: str) -> TaskVectors:
    found: dict[str, tuple[str, Path]] = {}
    missing: dict[str, str] = {}
    for name, model in _named(plan, base, which):
        why = _absent(base, model, store)
        if why:
            missing[name] = why
        else:
            found[model.id] = name, store.path(model.kind, model.id) / MODEL
    names, folders = [name for name, _ in found.values()], [folder for _, folder in found.values()]
    if not folders:
        return TaskVectors(base.label, (), (), missing)
    try:
        parts = tuple(_parts(folders, Path(base.locate["path"]), [*names, base.label]))
    except ModelError as error:
        return TaskVectors(base.label, (), (), {**missing, ", ".join(names): str(error)})
    return TaskVectors(base.label, tuple(names), parts, missing)


def _named(plan: Plan, base: Base, which: str) -> Iterator[tuple[str, Stage]]:
    """Yield each different model once, with the first run that has it; a merged model after those it is made of."""
    seen: set[str] = set()
    for run in plan.runs:
        if run.base.id != base.id:
            continue
        name = display_name(run.info, plan)
        for model in _models(run) if which == "all" else run.models[-1:]:
            if model.id not in seen:
                seen.add(model.id)
                yield (name if model is run.final else f"{name}: {model.label}"), model


def _models(run: PlannedRun) -> Iterator[Stage]:
    for model in run.models:
        if isinstance(model, Merged):
            # Their order in the stage is that of their ids; people look for portion 2 after portion 1.
            yield from sorted(model.inputs["models"], key=lambda one: (len(one.label), one.label))
        yield model


def _absent(base: Base, model: Stage, store: Store) -> str:
    if "path" not in base.locate:
        return "its base has no weights here"
    if not isinstance(model, Model):
        return "it is an adapter that was never folded"
    if not store.has(model.kind, model.id):
        return "it is not made yet"
    if store.manifest(model.kind, model.id).get("shed"):
        return "its weights were given up"
    return ""


def _parts(folders: list[Path], base: Path, names: list[str]) -> Iterator[VectorPart]:
    from cuvee.merging import geometry  # torch, in this analysis only

    for one in geometry.products(folders, base, names):
        layer, module = place(one.name)
        yield VectorPart(layer, module, one.size, one.base, one.dots, one.moved, one.conflicts)


def place(tensor: str) -> tuple[int | None, str]:
    """Return a tensor's layer and kind by its name alone; None outside numbered layers.

    place("model.layers.3.mlp.experts.7.up_proj.weight") == (3, "mlp.experts.*.up_proj")
    """
    name = tensor.removesuffix(".weight")
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    if not found:
        return None, name.removeprefix("model.")
    return int(found[1]), re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name[found.end() :])

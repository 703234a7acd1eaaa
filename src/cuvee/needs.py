"""What of a plan must be executed: work is wanted from the leaves.

A stage is needed when it is absent and something wanted needs it. So a model whose weights were given up is
trained again only when something new is asked of it, and an input that nothing missing needs stays absent.
"""

from __future__ import annotations

from collections.abc import Iterable

from cuvee.plan import Plan
from cuvee.stage import Made, Stage
from cuvee.store import Store


def present(store: Store, stage: Stage) -> bool:
    """Return whether a stage is complete, a model's weights included."""
    if not store.has(stage.kind, stage.id):
        return False
    return not isinstance(stage, Made) or not store.manifest(stage.kind, stage.id).get("shed")


def wanted(plan: Plan, store: Store, targets: Iterable[Stage] | None = None) -> list[Stage]:
    """Return the stages to execute, inputs first: for the whole recipe, or for some stages of it only."""
    needed = _leaves(plan, store) if targets is None else {stage.id for stage in targets}
    logs: set[str] = set()
    found: list[Stage] = []
    for stage in reversed(plan.stages):
        absent = stage.id in needed and not present(store, stage)
        if absent or (stage.id in logs and not store.has(stage.kind, stage.id)):
            found.append(stage)
            for parent in plan.before(stage):
                # A mark needs what its training noted, not the weights at its end.
                noted = stage.kind == "mark" and parent.id == stage.one("training").id
                (logs if noted else needed).add(parent.id)
    return found[::-1]


def _leaves(plan: Plan, store: Store) -> set[str]:
    # A final model that nothing measures and nobody keeps is still to be trained once.
    finals = [run.models[-1] for run in plan.runs if run.models]
    trained = {model.id for model in finals if not store.has(model.kind, model.id)}
    # The checks belong to the recipe: models that are there already may be asked what they were trained on.
    checked = {stage.id for stage in (*plan.taggings, *plan.preflights)}
    asked = {item.grade.id for item in plan.evaluated} | {stage.id for _, stage in plan.represented}
    return asked | kept_models(plan) | trained | checked | _unmade_marks(plan, store)


def _unmade_marks(plan: Plan, store: Store) -> set[str]:
    every = {model.id: model for run in plan.runs for _, _, model in run.marks}
    return {model.id for model in every.values() if not store.has(model.kind, model.id)}


def kept_models(plan: Plan) -> set[str]:
    """Return the ids of the models whose weights `keep_models` keeps; adapters are small and always stay."""
    keep = plan.located.recipe.keep_models
    if keep == "all":
        marks = {model.id for run in plan.runs for _, _, model in run.marks}
        return {stage.id for stage in plan.stages if isinstance(stage, Made)} | marks
    return {run.models[-1].id for run in plan.runs if run.models} if keep == "leaves" else set()

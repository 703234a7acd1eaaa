"""Where each model comes from: the base models as roots, what was trained or merged from them below, once each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cuvee.plan import Plan
from cuvee.report.data import Node
from cuvee.report.naming import base_names, run_name
from cuvee.stage import Merged, Model, Trained

NAMED = 3
"""Runs that are named at a model; of more the number is told."""


def lineage(plan: Plan, manifests: Mapping[str, Any]) -> list[Node]:
    """Return the tree of a plan's models; what the runs' final models come from, in the order of the recipe."""
    below: dict[str, list[Model]] = {}
    roots: dict[str, Model] = {}
    known: set[str] = set()
    for run in plan.runs:
        for model in reversed(list(_behind(run.final))):
            if model.id not in known:
                known.add(model.id)
                if isinstance(model, Trained | Merged):
                    below.setdefault(_start(model).id, []).append(model)
                else:
                    roots[model.id] = model
    ends: dict[str, list[str]] = {}
    for run in plan.runs:
        ends.setdefault(run.final.id, []).append(run_name(run.info, plan))

    def node(model: Model) -> Node:
        children = tuple(node(child) for child in below.get(model.id, ()))
        return Node(_words(model, plan, manifests), _ends(ends.get(model.id, [])), children)

    return [node(root) for root in roots.values()]


def _behind(model: Model) -> Iterator[Model]:
    """Yield a model and, after it, all that it was trained or merged from."""
    yield model
    if isinstance(model, Merged):
        for member in reversed(model.members):
            yield from _behind(member)
    if isinstance(model, Trained | Merged):
        yield from _behind(_start(model))


def _start(model: Trained | Merged) -> Model:
    start = model.start
    assert isinstance(start, Model)
    return start


def _words(model: Model, plan: Plan, manifests: Mapping[str, Any]) -> str:
    """What a model is, in a line with its id."""
    if isinstance(model, Merged):
        return f"{model.label} ({model.short}): {', '.join(_of(member).short for member in model.members)}"
    if not isinstance(model, Trained):
        return f"{base_names(plan).get(plan.refs[model.id].path, model.label)} ({model.short})"
    training = model.training
    done = manifests.get(training.id)
    if done is None:
        return f"{training.label} ({training.short}): not finished"
    took = done["summary"]
    return (
        f"{training.label} ({training.short}): {took['steps']:,} steps, {took['supervised_tokens']:,} supervised of "
        f"{took['total_tokens']:,} tokens"
    )


def _of(model: Model) -> Any:
    return model.training if isinstance(model, Trained) else model


def _ends(runs: list[str]) -> str:
    """Which runs a model is the end of."""
    if not runs:
        return ""
    return ", ".join(runs[:NAMED]) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")

"""What a report calls things: base models, runs, trainings, and the sources behind the parts of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import canonical
from cuvee.plan import Plan, display_name
from cuvee.protocols import Ingredient, RunInfo
from cuvee.stage import Stage


def base_names(plan: Plan) -> dict[str, str]:
    """Return each base model's name by its path: without this machine's folders, and no name twice."""
    paths = [base.path for base in plan.located.recipe.all_bases]
    short = [Path(path).name if Path(path).is_absolute() else path for path in paths]
    return {
        path: name if short.count(name) == 1 else f"{name} ({number})"
        for number, (path, name) in enumerate(zip(paths, short, strict=True), 1)
    }


def with_base_name(info: RunInfo, plan: Plan) -> RunInfo:
    """Return a run with its base model's name in place of the path."""
    return replace(info, base=base_names(plan).get(info.base, info.base))


def run_name(info: RunInfo, plan: Plan) -> str:
    return display_name(with_base_name(info, plan), plan)


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


def bases_of(plan: Plan) -> dict[str, list[str]]:
    """Return the base models for which rows were rendered, by render stage id."""
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        for ingredient in run.ingredients.values():
            found.setdefault(ingredient.data.id, []).append(with_base_name(run.info, plan).base)
    return found


def training_seeds(plan: Plan) -> dict[str, int]:
    """Return the seed of each training: that of its first run."""
    found: dict[str, int] = {}
    for run in plan.runs:
        for stage in run.trainings:
            found.setdefault(stage.id, run.info.seed)
    return found


def training_names(plan: Plan) -> dict[str, str]:
    """Return a name for each training: its first run, its number there, and how many runs share it."""
    runs_of: dict[str, list[str]] = {}
    for run in plan.runs:
        merged = any(model.kind == "merge" for model in run.models)
        for number, stage in enumerate(run.own_trainings, start=1):
            name = run_name(run.info, plan)
            which = stage.label if merged else f"stage {number}"
            runs_of.setdefault(stage.id, []).append(f"{name}, {which}" if len(run.own_trainings) > 1 else name)
    references = {stage.id: [stage.label] for run in plan.runs for stage in run.trainings if stage.id not in runs_of}
    return {
        key: names[0] + (f" (shared by {len(names)} runs)" if len(names) > 1 else "")
        for key, names in {**runs_of, **references}.items()
    }

"""The same verbs from Python: a recipe is a value, `plan`, `run` and `report` are functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cuvee import cost, planner, runner
from cuvee.pins import Pins
from cuvee.plan import Plan
from cuvee.recipe import Located, Recipe, load, override, validate
from cuvee.runner import Listener, Outcome
from cuvee.runtime import Runtime
from cuvee.store import Store

__all__ = ["Recipe", "Runtime", "load_recipe", "plan", "run", "write_report"]


def load_recipe(recipe: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Located:
    """Return the recipe of a YAML file, or of the same keys as a mapping, with ``key=value`` overrides applied.

    Raises:
        UsageError: with file, line and key.
    """
    if isinstance(recipe, Mapping):
        return Located(validate(Recipe, override(dict(recipe), overrides)), Path.cwd())
    return load(Path(recipe), overrides)


def _located(recipe: Recipe | Located | str | Path) -> Located:
    if isinstance(recipe, Located):
        return recipe
    return Located(recipe, Path.cwd()) if isinstance(recipe, Recipe) else load(Path(recipe))


def plan(recipe: Recipe | Located | str | Path, runtime: Runtime | None = None) -> Plan:
    """Return what a recipe comes to; executes no stage.

    Args:
        recipe: a `Recipe`, what `load_recipe` returned, or a file.
        runtime: where the store lies; ``.cuvee`` here when absent.

    Raises:
        UsageError: with the key, what is possible and the remedy.
    """
    located = _located(recipe)
    store = Store((runtime or Runtime()).store)
    return planner.make(located, Pins(store.pins, located.folder / "recipe.lock"))


def run(
    recipe: Recipe | Located | Plan | str | Path,
    runtime: Runtime | None = None,
    listen: Listener = lambda event, stage, facts: None,
) -> Outcome:
    """Do what a recipe lacks in the store.

    Returns:
        What was executed, what was there, what failed. Failed stages do not raise; see `Outcome.failed`.

    Raises:
        UsageError: the recipe or the runtime is wrong; nothing was executed.
    """
    runtime = runtime or Runtime()
    planned = recipe if isinstance(recipe, Plan) else plan(recipe, runtime)
    costs = cost.estimate(planned, Store(runtime.store), runtime)
    return runner.execute(planned, runtime, listen, costs.seconds)


def write_report(
    recipe: Recipe | Located | Plan | str | Path, folder: str | Path, runtime: Runtime | None = None
) -> list[Path]:
    """Write the report of a recipe's finished stages and return its files.

    Raises:
        UsageError: nothing of the recipe is finished.
    """
    from cuvee.report import collect, page

    runtime = runtime or Runtime()
    planned = recipe if isinstance(recipe, Plan) else plan(recipe, runtime)
    return page.write(collect.collect(planned, Store(runtime.store)), Path(folder))

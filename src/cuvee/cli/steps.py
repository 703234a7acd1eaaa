"""Steps that commands share: opening a recipe, doing what it lacks, writing its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cuvee.errors import UsageError, WorkFailed

if TYPE_CHECKING:
    from cuvee.plan import Plan
    from cuvee.recipe import Located
    from cuvee.runtime import Runtime
    from cuvee.store import Store


def warn_of_unsafe(planned: Plan) -> None:
    """Say on standard error that code of a model is going to run in view of the user's files."""
    names = sorted({item.evaluator for item in planned.evaluated if item.grade.params.get("sandbox") is False})
    if names:
        click.echo(
            f"warning: {', '.join(names)} runs code that a model wrote WITHOUT a sandbox, as you, in view of your "
            "files and network; the results say so",
            err=True,
        )


def open_recipe(
    recipe: Path, overrides: tuple[str, ...], store: Path, *, fake: bool = False, accept: tuple[str, ...] = ()
) -> tuple[Located, Plan, Store]:
    from cuvee import planner
    from cuvee.pins import Pins
    from cuvee.recipe import load
    from cuvee.store import Store

    more = ["base=fake:dry", "bases=[]"] if fake else []
    located = load(recipe, [*overrides, *more])
    if accept:
        every = [*located.recipe.preflight.accept, *accept]
        located = load(recipe, [*overrides, *more, f"preflight.accept={json.dumps(every)}"])
    opened = Store(store)
    return located, planner.make(located, Pins(opened.pins, located.folder / "recipe.lock")), opened


def echo(data: Any) -> None:
    click.echo(json.dumps(data, indent=1, ensure_ascii=False))


def print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from cuvee import plan_schema

        echo(plan_schema.schema())
        context.exit()


def default_report(name: str, fake: bool = False) -> Path:
    return Path("reports") / (f"{name}-fake" if fake else name)


def write_report(planned: Plan, store: Store, folder: Path) -> Path | None:
    """Write the report unless the one that is there says the same; None when nothing is finished yet."""
    from cuvee.report import stamp

    if not stamp.worthwhile(planned, store):
        return None
    if not stamp.is_current(planned, store, folder):
        from cuvee.report import collect, page

        page.write(collect.collect(planned, store), folder)
        stamp.write(planned, store, folder)
    return folder / "report.html"


def prepare(planned: Plan, runtime: Runtime, kinds: tuple[str, ...], *, quiet: bool) -> None:
    """Execute the stages of some kinds and what they need; what needs a training only for the sake of a selection."""
    from cuvee import cost, needs, runner, terminal
    from cuvee.store import Store

    targets = [stage for stage in planned.stages if stage.kind in kinds]
    selects = "select" in kinds
    if not selects:
        models = ("train", "score", "embed")
        targets = [
            stage
            for stage in targets
            if not any(one.kind in models for one in needs.wanted(planned, Store(runtime.store), [stage]))
        ]
    todo = needs.wanted(planned, Store(runtime.store), targets)
    costs = cost.estimate(planned, Store(runtime.store), runtime)
    with terminal.Progress(len(todo), quiet=quiet) as progress:
        outcome = runner.execute(planned, runtime, progress.listen, costs.seconds, targets, gated=selects)
    if outcome.failed:
        raise WorkFailed("\n".join(f"{name}: {error}" for name, error in outcome.failed.items()))


def with_overrides(arguments: tuple[str, ...]) -> list[tuple[Path, tuple[str, ...]]]:
    found: list[tuple[Path, tuple[str, ...]]] = []
    for argument in arguments:
        if "=" not in argument:
            found.append((Path(argument), ()))
        elif found:
            found[-1] = (found[-1][0], (*found[-1][1], argument))
        else:
            raise UsageError(f"'{argument}' comes before any recipe; name the recipe it belongs to first")
    return found

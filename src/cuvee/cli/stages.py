"""Commands that look at a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cuvee.errors import UsageError

if TYPE_CHECKING:
    from cuvee.store import Store
from cuvee.cli.options import json_option, recipe_arguments, store_option
from cuvee.cli.steps import echo, open_recipe, with_overrides


@click.command()
@recipe_arguments
@store_option
@json_option
def status(recipe: Path, overrides: tuple[str, ...], store: Path, as_json: bool) -> None:
    """Show what of a recipe is finished, under way, failed and missing.

    \b
    cuvee status examples/demo.yaml
    """
    from cuvee import planview, terminal

    _, planned, opened = open_recipe(recipe, overrides, store)
    view = planview.status(planned, opened)
    if as_json:
        echo(view)
    else:
        terminal.print_status(view)


@click.command()
@click.argument("first")
@click.argument("second")
@store_option
@json_option
def why(first: str, second: str, store: Path, as_json: bool) -> None:
    """Show how two stages differ, or why a stage of a recipe must run.

    \b
    cuvee why train-3f9a1c20 train-77b0e1d4
    cuvee why examples/demo.yaml train-3f9a1c20
    """
    from cuvee import planview
    from cuvee.store import Store

    if Path(first).suffix in (".yaml", ".yml"):
        _, planned, opened = open_recipe(Path(first), (), store)
        lines = planview.why_in(planned, opened, second)
    else:
        opened = Store(store)
        lines = planview.differences(opened, first, second)
    if as_json:
        echo({"difference": lines})
    else:
        click.echo("\n".join(lines))


@click.command(name="list")
@click.argument("what", type=click.Choice(["stages", "components"]), default="stages")
@store_option
@json_option
def list_(what: str, store: Path, as_json: bool) -> None:
    """List finished stages, or the components a recipe can name.

    \b
    cuvee list
    cuvee list components
    """
    from cuvee import planview, terminal
    from cuvee.store import Store

    view = planview.components() if what == "components" else planview.stored(Store(store))
    if as_json:
        echo(view)
    else:
        terminal.print_list(view)


@click.command()
@click.argument("stage")
@store_option
@json_option
@click.option("--rows", is_flag=True, help="The rows behind it; of a model, which it has seen, and when.")
@click.option(
    "--find", default="", metavar="TEXT", help="With --rows: rows whose id begins or whose file:line ends so."
)
@click.option("--out", type=click.Path(path_type=Path), help="With --rows: write them all as Parquet.")
def show(stage: str, store: Path, as_json: bool, rows: bool, find: str, out: Path | None) -> None:
    """Show one finished stage: what it is, what went in, what came out, where its files are.

    \b
    cuvee show train-3f9a1c20
    cuvee show train-3f9a1c20 --rows --out rows.parquet
    cuvee show train-3f9a1c20 --rows --find gsm8k_train.jsonl:17
    cuvee show duplicates-77b0e1d4 --rows
    """
    from cuvee import terminal
    from cuvee.store import Store

    opened = Store(store)
    if (find or out) and not rows:
        raise UsageError("--find and --out look at the rows of a model: add --rows")
    if rows:
        _show_rows(opened, stage, as_json, find, out)
        return
    kind, stage_id = opened.resolve(stage)
    manifest = {**opened.manifest(kind, stage_id), "folder": str(opened.path(kind, stage_id))}
    if as_json:
        echo(manifest)
    else:
        terminal.print_manifest(manifest)


def _show_rows(store: Store, stage: str, as_json: bool, find: str, out: Path | None) -> None:
    from cuvee import exposure, terminal

    view = exposure.named(store, stage, find)
    if as_json:
        echo(view)
    else:
        terminal.print_rows(view)
    if out:
        click.echo(f"{exposure.write(store, stage, out):,} rows: {out}", err=as_json)


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE [KEY=VALUE]... [RECIPE [KEY=VALUE]...]...")
@store_option
@click.option("--yes", is_flag=True, help="Delete; without it the command only says what it would delete.")
@json_option
def gc(recipes: tuple[str, ...], store: Path, yes: bool, as_json: bool) -> None:
    """Delete finished stages that none of the listed recipes needs; overrides belong to the recipe before them.

    \b
    cuvee gc examples/demo.yaml examples/real.yaml
    cuvee gc examples/demo.yaml --yes
    """
    from cuvee import collect_garbage
    from cuvee.store import Store

    plans = [open_recipe(recipe, overrides, store)[1] for recipe, overrides in with_overrides(recipes)]
    opened = Store(store)
    result = collect_garbage.collect(plans, opened, delete=yes)
    if as_json:
        echo(result)
        return
    verb = "deleted" if yes else "would delete (add --yes)"
    click.echo(f"{verb} {len(result['stages'])} stage(s), {result['bytes'] / 1e6:.1f} MB; kept {result['kept']}")
    for name in result["stages"]:
        click.echo(f"  {name}")

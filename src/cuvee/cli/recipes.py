"""Commands that look at a recipe before anything is trained."""

from __future__ import annotations

from pathlib import Path

import click

from cuvee.cli.options import (
    accept_option,
    json_option,
    passes_options,
    processes_options,
    recipe_arguments,
    runtime_options,
    store_option,
    takes_runtime,
)
from cuvee.cli.steps import echo, open_recipe, prepare, print_schema
from cuvee.errors import CuveeError, UsageError, WorkFailed, did_you_mean
from cuvee.runtime import Runtime


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option(
    "--study", metavar="NAME", help="A question of the papers: mixing, ratio, k_sweep ...; see docs/studies.md."
)
@click.option(
    "--from", "source", type=click.Path(path_type=Path), help="With --study: a recipe whose base and data to use."
)
@click.option("--general", metavar="SOURCE", help="With --study: the general source.")
@store_option
def init(path: Path | None, study: str | None, source: Path | None, general: str | None, store: Path) -> None:
    """Write a small recipe that runs as it is, to be changed; or a study of given sources.

    \b
    cuvee init recipe.yaml
    cuvee init --study mixing
    cuvee init --study k_sweep --from my.yaml
    """
    if study is None and (source or general):
        raise UsageError("--from and --general belong to --study; name one, such as --study mixing")
    path = path or (source or Path()).parent / f"{study or 'recipe'}.yaml"
    if path.exists():
        raise UsageError(f"{path} exists; name another file")
    text = (Path(__file__).parents[1] / "builtin" / "recipe.yaml").read_text(encoding="utf-8")
    if study is not None:
        text = _study(study, source, general, path, store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another file") from None
    click.echo(f"wrote {path}; next: cuvee plan {path}")


def _study(name: str, source: Path | None, general: str | None, path: Path, store: Path) -> str:
    from cuvee import studies
    from cuvee.store import Store

    studies.find(name)
    if source and path.resolve().parent != source.resolve().parent:
        raise UsageError(
            f"paths in {source} are relative to its folder; write the study there: {source.parent / path.name}"
        )
    head = studies.head(source, general)
    try:
        head = studies.counted(head, path.resolve().parent, Store(store))
    except CuveeError:
        # Files may come later, and `cuvee plan` says what is wrong with them; equal counts need to know them now.
        if name == "equal_amount":
            raise
    return studies.write(name, head).replace("THIS.yaml", str(path))


@click.command()
@recipe_arguments
@store_option
@json_option
@click.option("--workers", type=click.IntRange(0), default=0, help="Stages at once; 0 decides by the machine.")
@click.option("--flops", type=float, help="Useful operations a second of one worker, for another machine.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@processes_options
@passes_options
@click.option("--measure", is_flag=True, help="Measure which precision is faster here, and say so.")
@click.option(
    "--detect", type=click.FloatRange(0, min_open=True), help="A difference you want to see: 0.02 is 2 points."
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_schema,
    help="Print the JSON schema of --json and end.",
)
@takes_runtime
def plan(
    recipe: Path,
    overrides: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    flops: float | None,
    measure: bool,
    detect: float | None,
) -> None:
    """Show the stages of a recipe, which are there, what the rest costs, and what it can show. Executes nothing.

    \b
    cuvee plan examples/demo.yaml
    cuvee plan examples/demo.yaml training.epochs=2 --json
    cuvee plan examples/seven_b.yaml --processes 8 --checkpoint-activations --flops 3e15
    cuvee plan examples/demo.yaml --detect 0.02
    """
    from cuvee import cost, planview, runner

    _, planned, opened = open_recipe(recipe, overrides, runtime.store)
    runtime = runner.decided(runtime, len(planned.stages))
    costs = cost.estimate(planned, opened, runtime, flops)
    view = planview.describe(planned, costs, opened, detect)
    if measure:
        from cuvee import advice

        trained = [stage.params["precision"] for stage in planned.stages if stage.kind == "train"]
        view["assumptions"].append(advice.precision(runtime, trained))
    if as_json:
        echo(view)
    else:
        from cuvee import terminal

        terminal.print_plan(view)


@click.command()
@recipe_arguments
@store_option
@json_option
@runtime_options
@accept_option
@takes_runtime
def preflight(
    recipe: Path,
    overrides: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    accept: tuple[str, ...],
) -> None:
    """Check the data of a recipe before anything is trained: masks, end tokens, lengths, duplicates, leaks.

    Exit code 1 when a check speaks against training and is not accepted.

    \b
    cuvee preflight examples/real.yaml
    cuvee preflight examples/real.yaml --accept lengths/general
    """
    from cuvee import gate, terminal_inspect

    _, planned, opened = open_recipe(recipe, overrides, runtime.store, accept=accept)
    if not planned.preflights:
        names = ", ".join(sorted({stage.label for stage in planned.provisional()}))
        raise UsageError(f"{names}: only declared, not at hand; there is nothing to check yet")
    prepare(planned, runtime, ("preflight",), quiet=as_json)
    found = [one for stage in planned.preflights for one in gate.findings(planned, opened, stage)]
    refused = [one for stage in planned.preflights for one in gate.refused(planned, opened, stage)]
    accepted = [one.name for one in found if one.level == "fail" and one not in refused]
    if as_json:
        echo(terminal_inspect.findings_view(found, accepted))
    else:
        terminal_inspect.print_findings(found, accepted)
    for name in gate.unknown(planned, opened):
        raise UsageError(f"there is no finding '{name}' to accept.{did_you_mean(name, [one.name for one in found])}")
    if refused:
        raise WorkFailed(f"{gate.counted(refused)} against training: {', '.join(one.name for one in refused)}")


@click.command()
@recipe_arguments
@store_option
@json_option
@runtime_options
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source; may be given again.")
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Examples shown of each source.")
@click.option("--find", metavar="TEXT", help="Show examples that hold this text, or whose id begins so.")
@click.option("--tokens", is_flag=True, help="Show where each token ends.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the same as one HTML page.")
@takes_runtime
def inspect(
    recipe: Path,
    overrides: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    sources: tuple[str, ...],
    rows: int,
    find: str | None,
    tokens: bool,
    html: Path | None,
) -> None:
    """Show examples as the model will see them, sizes by source, lengths, and asked against achieved shares.

    Of each selection it shows the best rows, both sides of the border and the worst, with scores and reasons.
    Reads, renders and mixes what is missing; trains nothing: a selection that needs a model waits for `cuvee select`.

    \b
    cuvee inspect examples/demo.yaml
    cuvee inspect examples/demo.yaml --source math --rows 5 --html inspect.html
    """
    from cuvee import inspection, selections, terminal_inspect, terminal_select

    _, planned, opened = open_recipe(recipe, overrides, runtime.store)
    prepare(planned, runtime, ("render", "mix", "tag"), quiet=as_json)
    found = inspection.collect(planned, opened, sources=sources or None, rows=rows, find=find)
    chosen = selections.finished(planned, opened, rows)
    if as_json:
        echo({**inspection.view(found), **chosen})
    else:
        terminal_inspect.print_inspection(found, tokens=tokens)
        terminal_select.print_selections(chosen, [])
        terminal_select.print_unselected(chosen["unselected"], recipe)
    if html:
        from cuvee.report import inspect_page

        inspect_page.write(found, html, chosen["selections"])
        click.echo(f"page: {html}", err=as_json)


@click.command()
@recipe_arguments
@store_option
@json_option
@runtime_options
@accept_option
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Rows shown of each place.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write all rows with their scores, and the kept rows, here."
)
@takes_runtime
def select(
    recipe: Path,
    overrides: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    accept: tuple[str, ...],
    rows: int,
    out: Path | None,
) -> None:
    """Choose rows as a recipe's `select` says, and show the best, the worst and the border.

    Does what the selections need, the training of reference models included, and no run of the recipe.

    \b
    cuvee select examples/select.yaml
    cuvee select examples/select.yaml seeds=0 --out selected
    """
    from cuvee import selections, terminal_select

    _, planned, opened = open_recipe(recipe, overrides, runtime.store, accept=accept)
    if selections.stages(planned):
        prepare(planned, runtime, ("select",), quiet=as_json)
    view = selections.view(planned, opened, rows)
    written = selections.write(planned, opened, out) if out else []
    if as_json:
        echo({**view, "written": [str(path) for path in written]})
    else:
        terminal_select.print_selections(view, written)

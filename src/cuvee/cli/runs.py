"""Commands that do the work, and write reports."""

from __future__ import annotations

from pathlib import Path

import click

from cuvee.cli.options import (
    accept_option,
    generator_option,
    json_option,
    passes_options,
    processes_options,
    recipe_arguments,
    runtime_options,
    store_option,
    takes_runtime,
    training_options,
)
from cuvee.cli.steps import default_report, echo, open_recipe, warn_of_unsafe, write_report
from cuvee.errors import UsageError
from cuvee.runtime import Runtime


@click.command()
@recipe_arguments
@store_option
@json_option
@runtime_options
@accept_option
@click.option("--report", "report_folder", type=click.Path(path_type=Path), help="Report folder [reports/RECIPE].")
@click.option("--no-report", is_flag=True, help="Write no report.")
@processes_options
@passes_options
@training_options
@generator_option
@click.option("--fake", is_flag=True, help="Dry run of the whole graph with the fake engine, in a moment.")
@takes_runtime
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    accept: tuple[str, ...],
    report_folder: Path | None,
    no_report: bool,
    fake: bool,
) -> None:
    """Do what a recipe lacks in the store, then write its report.

    \b
    cuvee run examples/demo.yaml
    cuvee run examples/real.yaml sources.math.path=gsm8k_train.jsonl.gz
    """
    from cuvee import cost, gate, planview, runner, terminal

    located, planned, opened = open_recipe(recipe, overrides, runtime.store, fake=fake, accept=accept)
    warn_of_unsafe(planned)
    costs = cost.estimate(planned, opened, runtime)
    folder = report_folder or default_report(located.name, fake)
    if costs.todo and not no_report:
        from cuvee.report import page

        page.check_folder(folder)  # before hours of work, not after
    with terminal.Progress(len(costs.todo), quiet=as_json) as progress:
        outcome = runner.execute(planned, runtime, progress.listen, costs.seconds)
    summary = {**terminal.closing(planned, opened, outcome), "notes": planview.losses(planned, opened)}
    for name in gate.unknown(planned, opened):
        summary["notes"].append(f"accepted '{name}', and no finding has this name; `cuvee preflight` lists them")
    if fake:
        summary["notes"].insert(0, "the fake engine made these numbers: they mean nothing")
    if not as_json:
        terminal.print_closing(summary)
    # After the closing table: a report that fails must not hide what was done.
    written = None if no_report or outcome.stopped else write_report(planned, opened, folder)
    if as_json:
        echo({**summary, "report": str(written) if written else None})
    elif written:
        click.echo(f"report: {written}")
    runner.raise_if_failed(outcome)


@click.command()
@recipe_arguments
@store_option
@click.option("--out", type=click.Path(path_type=Path), help="Report folder [reports/RECIPE].")
def report(recipe: Path, overrides: tuple[str, ...], store: Path, out: Path | None) -> None:
    """Write the report of what is finished: one HTML page, the same as Markdown, tables as Parquet.

    \b
    cuvee report examples/demo.yaml --out reports/demo
    """
    located, planned, opened = open_recipe(recipe, overrides, store)
    from cuvee.report import findings, stamp

    written = write_report(planned, opened, out or default_report(located.name))
    if written is None:
        nothing = f"nothing of {recipe} is trained or measured yet in {opened.folder}"
        raise UsageError(f"{nothing}; `cuvee run {recipe}` does it")
    click.echo(f"{written}{'' if stamp.is_complete(planned, opened) else '  (some stages are missing)'}")
    for line in findings.lines(written.parent):
        click.echo(line)


@click.command()
@click.argument("model")
@click.argument("evaluator")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@store_option
@json_option
@runtime_options
@generator_option
@click.option("--template", default="tokenizer", show_default=True, help="Chat template of the requests.")
@click.option("--endpoint", metavar="URL", help="MODEL is a name at this OpenAI-compatible server.")
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the server's key.")
@click.option(
    "--unsafe-no-sandbox", is_flag=True, help="Run the model's code as a plain process, in view of your files."
)
@takes_runtime
def evaluate(
    model: str,
    evaluator: str,
    settings: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
    template: str,
    endpoint: str | None,
    key_env: str | None,
    unsafe_no_sandbox: bool,
) -> None:
    """Judge one model by one benchmark file: a folder, a hub id, a builtin name, or a stage such as train-3f9a1c20.

    \b
    cuvee evaluate ./my-model gsm8k path=gsm8k_test.jsonl items=200
    cuvee evaluate builtin:smollm2 humaneval path=HumanEval.jsonl.gz samples=10 temperature=0.8
    cuvee evaluate qwen --endpoint http://localhost:8000/v1 gsm8k path=gsm8k_test.jsonl
    """
    from cuvee import cost, evaluation, runner, terminal

    server = {"url": endpoint, **({"key_env": key_env} if key_env else {})} if endpoint else None
    planned, opened = evaluation.plan(
        model, evaluator, settings, runtime.store, template, sandbox=not unsafe_no_sandbox, endpoint=server
    )
    warn_of_unsafe(planned)
    costs = cost.estimate(planned, opened, runtime)
    with terminal.Progress(len(costs.todo), quiet=as_json) as progress:
        outcome = runner.execute(planned, runtime, progress.listen, costs.seconds)
    view = evaluation.view(planned, opened, outcome)
    if as_json:
        echo(view)
    else:
        terminal.print_evaluation(view)
    runner.raise_if_failed(outcome)

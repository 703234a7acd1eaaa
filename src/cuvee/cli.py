"""The command line: parses, calls one function each, prints errors. Exit codes: 0 ok, 1 work failed, 2 wrong use."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from cuvee.errors import CuveeError, UsageError, WorkFailed, did_you_mean

if TYPE_CHECKING:
    from cuvee.plan import Plan
    from cuvee.recipe import Located
    from cuvee.runtime import Runtime
    from cuvee.store import Store

INTERRUPTED = 130


class _Group(click.Group):
    """Suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            raise UsageError(f"there is no command '{args[0]}'.{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cuvee", prog_name="cuvee")
def app() -> None:
    """Blend supervised fine-tuning data on purpose: one recipe in, a report out.

    \b
    cuvee init recipe.yaml      write a small recipe
    cuvee inspect recipe.yaml   the rows as the model will see them
    cuvee preflight recipe.yaml checks of masks, lengths, duplicates, leaks
    cuvee plan recipe.yaml      what it comes to, and what it costs
    cuvee select recipe.yaml    rows chosen by what a model can learn from them
    cuvee run recipe.yaml       do what is missing, and write the report
    """


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        default=Path(".cuvee"),
        show_default=True,
        envvar="CUVEE_STORE",
        help="Folder of finished stages.",
    )(command)


def _recipe_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.argument("recipe", type=click.Path(path_type=Path))(command)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def _accept_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--accept",
        multiple=True,
        metavar="NAME",
        help="Train although a check speaks against it, such as overlap/math/gsm8k; written in the model's lineage.",
    )(command)


def _runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads a worker; 0 divides the cores."),
        click.option("--workers", type=click.IntRange(0), default=0, help="Stages at once; 0 decides by the machine."),
    ):
        command = option(command)
    return command


def _processes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--shard",
            type=click.Choice(["fsdp", "ddp"]),
            default="fsdp",
            show_default=True,
            help="Of several processes each holds its part of the model, or all of it.",
        ),
        click.option(
            "--processes",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Processes that train one model together, one a GPU.",
        ),
    ):
        command = option(command)
    return command


def _passes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--checkpoint-activations", is_flag=True, help="Less memory for more time: activations computed twice."
        ),
        click.option(
            "--micro-tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens a forward pass."
        ),
    ):
        command = option(command)
    return command


_generator_option = click.option(
    "--generator",
    type=click.Choice(["local", "vllm"]),
    default="local",
    show_default=True,
    help="What writes answers: our own loop, or vLLM where it is installed.",
)


def _warn_of_unsafe(planned: Plan) -> None:
    """Say on standard error that code of a model is going to run in view of the user's files."""
    names = sorted({item.evaluator for item in planned.evaluated if item.grade.params.get("sandbox") is False})
    if names:
        click.echo(
            f"warning: {', '.join(names)} runs code that a model wrote WITHOUT a sandbox, as you, in view of your "
            "files and network; the results say so",
            err=True,
        )


def _open(
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


def _echo(data: Any) -> None:
    click.echo(json.dumps(data, indent=1, ensure_ascii=False))


def _print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from cuvee import planview

        _echo(planview.schema())
        context.exit()


@app.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option(
    "--study", metavar="NAME", help="A question of the papers: mixing, ratio, k_sweep ...; see docs/studies.md."
)
@click.option(
    "--from", "source", type=click.Path(path_type=Path), help="With --study: a recipe whose base and data to use."
)
@click.option("--general", metavar="SOURCE", help="With --study: the general source.")
@_store_option
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
    text = (Path(__file__).parent / "builtin" / "recipe.yaml").read_text(encoding="utf-8")
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
    if name == "equal_amount":
        head = studies.counted(head, path.resolve().parent, Store(store))
    return studies.write(name, head).replace("THIS.yaml", str(path))


@app.command()
@_recipe_arguments
@_store_option
@_json_option
@click.option("--workers", type=click.IntRange(0), default=0, help="Stages at once; 0 decides by the machine.")
@click.option("--flops", type=float, help="Useful operations a second of one worker, for another machine.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@_processes_options
@_passes_options
@click.option("--measure", is_flag=True, help="Measure which precision is faster here, and say so.")
@click.option(
    "--detect", type=click.FloatRange(0, min_open=True), help="A difference you want to see: 0.02 is 2 points."
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of --json and end.",
)
def plan(
    recipe: Path,
    overrides: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    flops: float | None,
    device: str,
    processes: int,
    shard: str,
    micro_tokens: int,
    checkpoint_activations: bool,
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
    from cuvee.runtime import Runtime

    _, planned, opened = _open(recipe, overrides, store)
    asked = Runtime(
        store,
        workers,
        device=device,
        micro_tokens=micro_tokens,
        checkpoint_activations=checkpoint_activations,
        processes=processes,
        shard=shard,
    )
    runtime = runner.decided(asked, len(planned.stages))
    costs = cost.estimate(planned, opened, runtime, flops)
    view = planview.describe(planned, costs, opened, detect)
    if measure:
        from cuvee import advice

        trained = [stage.params["precision"] for stage in planned.stages if stage.kind == "train"]
        view["assumptions"].append(advice.precision(runtime, trained))
    if as_json:
        _echo(view)
    else:
        from cuvee import terminal

        terminal.print_plan(view)


@app.command()
@_recipe_arguments
@_store_option
@_json_option
@_runtime_options
@_accept_option
@click.option("--checkpoint-seconds", type=float, default=60.0, show_default=True, help="Between two checkpoints.")
@click.option("--checkpoint-steps", type=click.IntRange(0), default=0, help="Steps between two checkpoints.")
@click.option("--report", "report_folder", type=click.Path(path_type=Path), help="Report folder [reports/RECIPE].")
@click.option("--no-report", is_flag=True, help="Write no report.")
@_processes_options
@_passes_options
@click.option(
    "--kernels", type=click.Choice(["stock", "liger", "cut"]), default="stock", help="GPU kernels of trainings."
)
@click.option("--track", multiple=True, metavar="NAME", help="Curves of trainings besides their log: tensorboard.")
@_generator_option
@click.option("--fake", is_flag=True, help="Dry run of the whole graph with the fake engine, in a moment.")
@click.option("--step-sleep", type=float, default=0.0, hidden=True)
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    threads: int,
    device: str,
    accept: tuple[str, ...],
    micro_tokens: int,
    checkpoint_seconds: float,
    checkpoint_steps: int,
    checkpoint_activations: bool,
    processes: int,
    shard: str,
    kernels: str,
    track: tuple[str, ...],
    report_folder: Path | None,
    no_report: bool,
    generator: str,
    fake: bool,
    step_sleep: float,
) -> None:
    """Do what a recipe lacks in the store, then write its report.

    \b
    cuvee run examples/demo.yaml
    cuvee run examples/real.yaml sources.math.path=gsm8k_train.jsonl.gz
    """
    from cuvee import cost, gate, planview, runner, terminal
    from cuvee.runtime import Runtime

    located, planned, opened = _open(recipe, overrides, store, fake=fake, accept=accept)
    _warn_of_unsafe(planned)
    runtime = Runtime(
        store,
        workers,
        threads,
        device,
        micro_tokens,
        checkpoint_seconds,
        checkpoint_steps,
        step_sleep,
        generator,
        checkpoint_activations,
        processes,
        shard,
        track,
        kernels,
    )
    costs = cost.estimate(planned, opened, runtime)
    folder = report_folder or _default_report(located.name, fake)
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
    written = None if no_report or outcome.stopped else _write_report(planned, opened, folder)
    if as_json:
        _echo({**summary, "report": str(written) if written else None})
    elif written:
        click.echo(f"report: {written}")
    runner.raise_if_failed(outcome)


def _default_report(name: str, fake: bool = False) -> Path:
    return Path("reports") / (f"{name}-fake" if fake else name)


def _write_report(planned: Plan, store: Store, folder: Path) -> Path | None:
    """Write the report unless the one that is there says the same; None when nothing is finished yet."""
    from cuvee.report import stamp

    if not stamp.has_results(planned, store):
        return None
    if not stamp.is_current(planned, store, folder):
        from cuvee.report import collect, page

        page.write(collect.collect(planned, store), folder)
        stamp.write(planned, store, folder)
    return folder / "report.html"


def _prepare(planned: Plan, runtime: Runtime, kinds: tuple[str, ...], *, quiet: bool) -> None:
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


@app.command()
@_recipe_arguments
@_store_option
@_json_option
@_runtime_options
@_accept_option
def preflight(
    recipe: Path,
    overrides: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    threads: int,
    device: str,
    accept: tuple[str, ...],
) -> None:
    """Check the data of a recipe before anything is trained: masks, end tokens, lengths, duplicates, leaks.

    Exit code 1 when a check speaks against training and is not accepted.

    \b
    cuvee preflight examples/real.yaml
    cuvee preflight examples/real.yaml --accept lengths/general
    """
    from cuvee import gate, terminal_inspect
    from cuvee.runtime import Runtime

    _, planned, opened = _open(recipe, overrides, store, accept=accept)
    if not planned.preflights:
        names = ", ".join(sorted({stage.label for stage in planned.provisional()}))
        raise UsageError(f"{names}: only declared, not at hand; there is nothing to check yet")
    _prepare(planned, Runtime(store, workers, threads, device), ("preflight",), quiet=as_json)
    found = [one for stage in planned.preflights for one in gate.findings(planned, opened, stage)]
    refused = [one for stage in planned.preflights for one in gate.refused(planned, opened, stage)]
    accepted = [one.name for one in found if one.level == "fail" and one not in refused]
    if as_json:
        _echo(terminal_inspect.findings_view(found, accepted))
    else:
        terminal_inspect.print_findings(found, accepted)
    for name in gate.unknown(planned, opened):
        raise UsageError(f"there is no finding '{name}' to accept.{did_you_mean(name, [one.name for one in found])}")
    if refused:
        raise WorkFailed(f"{gate.counted(refused)} against training: {', '.join(one.name for one in refused)}")


@app.command()
@_recipe_arguments
@_store_option
@_json_option
@_runtime_options
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source; may be given again.")
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Examples shown of each source.")
@click.option("--find", metavar="TEXT", help="Show examples that hold this text, or whose id begins so.")
@click.option("--tokens", is_flag=True, help="Show where each token ends.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the same as one HTML page.")
def inspect(
    recipe: Path,
    overrides: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    threads: int,
    device: str,
    sources: tuple[str, ...],
    rows: int,
    find: str | None,
    tokens: bool,
    html: Path | None,
) -> None:
    """Show examples as the model will see them, sizes by source, lengths, and asked against achieved shares.

    Reads, renders and mixes what is missing; trains nothing.

    \b
    cuvee inspect examples/demo.yaml
    cuvee inspect examples/demo.yaml --source math --rows 5 --html inspect.html
    """
    from cuvee import inspection, terminal_inspect
    from cuvee.runtime import Runtime

    _, planned, opened = _open(recipe, overrides, store)
    _prepare(planned, Runtime(store, workers, threads, device), ("render", "mix", "tag"), quiet=as_json)
    found = inspection.collect(planned, opened, sources=sources or None, rows=rows, find=find)
    if as_json:
        _echo(inspection.view(found))
    else:
        terminal_inspect.print_inspection(found, tokens=tokens)
    if html:
        from cuvee.report import inspect_page

        inspect_page.write(found, html)
        click.echo(f"page: {html}", err=as_json)


@app.command()
@_recipe_arguments
@_store_option
@_json_option
@_runtime_options
@_accept_option
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Rows shown of each place.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write all rows with their scores, and the kept rows, here."
)
def select(
    recipe: Path,
    overrides: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    threads: int,
    device: str,
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
    from cuvee.runtime import Runtime

    _, planned, opened = _open(recipe, overrides, store, accept=accept)
    if selections.stages(planned):
        _prepare(planned, Runtime(store, workers, threads, device), ("select",), quiet=as_json)
    view = selections.view(planned, opened, rows)
    written = selections.write(planned, opened, out) if out else []
    if as_json:
        _echo({**view, "written": [str(path) for path in written]})
    else:
        terminal_select.print_selections(view, written)


@app.command()
@_recipe_arguments
@_store_option
@click.option("--out", type=click.Path(path_type=Path), help="Report folder [reports/RECIPE].")
def report(recipe: Path, overrides: tuple[str, ...], store: Path, out: Path | None) -> None:
    """Write the report of what is finished: one HTML page, the same as Markdown, tables as Parquet.

    \b
    cuvee report examples/demo.yaml --out reports/demo
    """
    located, planned, opened = _open(recipe, overrides, store)
    from cuvee.report import findings, stamp

    written = _write_report(planned, opened, out or _default_report(located.name))
    if written is None:
        raise UsageError(f"nothing of {recipe} is measured yet in {opened.folder}; `cuvee run {recipe}` does it")
    click.echo(f"{written}{'' if stamp.is_complete(planned, opened) else '  (some stages are missing)'}")
    for line in findings.lines(written.parent):
        click.echo(line)


@app.command()
@click.argument("model")
@click.argument("evaluator")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@_store_option
@_json_option
@_runtime_options
@_generator_option
@click.option("--template", default="tokenizer", show_default=True, help="Chat template of the requests.")
@click.option("--endpoint", metavar="URL", help="MODEL is a name at this OpenAI-compatible server.")
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the server's key.")
@click.option(
    "--unsafe-no-sandbox", is_flag=True, help="Run the model's code as a plain process, in view of your files."
)
def evaluate(
    model: str,
    evaluator: str,
    settings: tuple[str, ...],
    store: Path,
    as_json: bool,
    workers: int,
    threads: int,
    device: str,
    generator: str,
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
    from cuvee.runtime import Runtime

    server = {"url": endpoint, **({"key_env": key_env} if key_env else {})} if endpoint else None
    planned, opened = evaluation.plan(
        model, evaluator, settings, store, template, sandbox=not unsafe_no_sandbox, endpoint=server
    )
    _warn_of_unsafe(planned)
    runtime = Runtime(store, workers, threads, device, generator=generator)
    costs = cost.estimate(planned, opened, runtime)
    with terminal.Progress(len(costs.todo), quiet=as_json) as progress:
        outcome = runner.execute(planned, runtime, progress.listen, costs.seconds)
    view = evaluation.view(planned, opened, outcome)
    if as_json:
        _echo(view)
    else:
        terminal.print_evaluation(view)
    runner.raise_if_failed(outcome)


class _Greedy(click.Command):
    """Lets some options take all values that follow: ``--weights 0.5 0.5``."""

    TAKES: ClassVar[dict[str, Callable[[str], bool]]] = {
        "--weights": lambda text: bool(re.fullmatch(r"-?[\d.]+(e-?\d+)?", text)),
        "--fishers": lambda text: not text.startswith("-"),
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        taking = ""
        for text in args:
            if taking and self.TAKES[taking](text):
                found += [taking, text]
                continue
            taking = text if text in self.TAKES else ""
            found += [] if taking else [text]
        return super().parse_args(ctx, found)


@app.command(cls=_Greedy)
@click.argument("method")
@click.argument("models", nargs=-1, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the merged model.")
@click.option("--base", help="What the models were trained from.")
@click.option("--weights", multiple=True, type=float, metavar="NUMBER...", help="One a model.")
@click.option("--fishers", multiple=True, type=click.Path(path_type=Path), metavar="DIR...", help="One a model.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 takes all cores.")
@click.option("--shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Largest file.")
@_store_option
@_json_option
def merge(
    method: str,
    models: tuple[str, ...],
    out: Path,
    base: str | None,
    weights: tuple[float, ...],
    fishers: tuple[Path, ...],
    threads: int,
    shard_size: float,
    store: Path,
    as_json: bool,
) -> None:
    """Merge models into one: folders, builtin models, or stages of the store such as train-3f9a1c20.

    Everything is checked, and the memory that will be used is said, before anything is written. `cuvee list
    components` lists the methods.

    \b
    cuvee merge linear A B --weights 0.5 0.5 --out merged
    cuvee merge ties A B C --base BASE --out merged density=0.2
    cuvee merge slerp A B --out merged 'tensors={"*.mlp.*": {t: 0.3}}'
    """
    from cuvee import mergings
    from cuvee.recipe import override

    # A folder may have an equals sign in its name.
    settings = [one for one in models if "=" in one and not Path(one).exists()]
    given = override({}, settings)
    if weights:
        given["weights"] = list(weights)

    def say(facts: Mapping[str, Any]) -> None:
        if "note" in facts:
            click.echo(facts["note"], err=as_json)

    summary = mergings.command(
        method,
        [one for one in models if one not in settings],
        given,
        out,
        store,
        base=base,
        fishers=fishers,
        threads=threads,
        shard_bytes=max(1, int(shard_size * 1e9)),
        progress=say,
    )
    if as_json:
        _echo({"schema": "cuvee.merge/1", "out": str(out), **summary})
    else:
        click.echo(f"wrote {out}")


@app.command()
@_recipe_arguments
@_store_option
@_json_option
def status(recipe: Path, overrides: tuple[str, ...], store: Path, as_json: bool) -> None:
    """Show what of a recipe is finished, under way, failed and missing.

    \b
    cuvee status examples/demo.yaml
    """
    from cuvee import planview, terminal

    _, planned, opened = _open(recipe, overrides, store)
    view = planview.status(planned, opened)
    if as_json:
        _echo(view)
    else:
        terminal.print_status(view)


@app.command()
@click.argument("first")
@click.argument("second")
@_store_option
@_json_option
def why(first: str, second: str, store: Path, as_json: bool) -> None:
    """Show how two stages differ, or why a stage of a recipe must run.

    \b
    cuvee why train-3f9a1c20 train-77b0e1d4
    cuvee why examples/demo.yaml train-3f9a1c20
    """
    from cuvee import planview
    from cuvee.store import Store

    if Path(first).suffix in (".yaml", ".yml"):
        _, planned, opened = _open(Path(first), (), store)
        lines = planview.why_in(planned, opened, second)
    else:
        opened = Store(store)
        lines = planview.differences(opened, first, second)
    if as_json:
        _echo({"difference": lines})
    else:
        click.echo("\n".join(lines))


@app.command(name="list")
@click.argument("what", type=click.Choice(["stages", "components"]), default="stages")
@_store_option
@_json_option
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
        _echo(view)
    else:
        terminal.print_list(view)


@app.command()
@click.argument("stage")
@_store_option
@_json_option
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
        _echo(manifest)
    else:
        terminal.print_manifest(manifest)


def _show_rows(store: Store, stage: str, as_json: bool, find: str, out: Path | None) -> None:
    from cuvee import exposure, terminal

    view = exposure.named(store, stage, find)
    if as_json:
        _echo(view)
    else:
        terminal.print_rows(view)
    if out:
        click.echo(f"{exposure.write(store, stage, out):,} rows: {out}", err=as_json)


@app.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE [KEY=VALUE]... [RECIPE [KEY=VALUE]...]...")
@_store_option
@click.option("--yes", is_flag=True, help="Delete; without it the command only says what it would delete.")
@_json_option
def gc(recipes: tuple[str, ...], store: Path, yes: bool, as_json: bool) -> None:
    """Delete finished stages that none of the listed recipes needs; overrides belong to the recipe before them.

    \b
    cuvee gc examples/demo.yaml examples/real.yaml
    cuvee gc examples/demo.yaml --yes
    """
    from cuvee import collect_garbage
    from cuvee.store import Store

    plans = [_open(recipe, overrides, store)[1] for recipe, overrides in _with_overrides(recipes)]
    opened = Store(store)
    result = collect_garbage.collect(plans, opened, delete=yes)
    if as_json:
        _echo(result)
        return
    verb = "deleted" if yes else "would delete (add --yes)"
    click.echo(f"{verb} {len(result['stages'])} stage(s), {result['bytes'] / 1e6:.1f} MB; kept {result['kept']}")
    for name in result["stages"]:
        click.echo(f"  {name}")


def _with_overrides(arguments: tuple[str, ...]) -> list[tuple[Path, tuple[str, ...]]]:
    found: list[tuple[Path, tuple[str, ...]]] = []
    for argument in arguments:
        if "=" not in argument:
            found.append((Path(argument), ()))
        elif found:
            found[-1] = (found[-1][0], (*found[-1][1], argument))
        else:
            raise UsageError(f"'{argument}' comes before any recipe; name the recipe it belongs to first")
    return found


def main() -> None:
    """Run the command line; errors of the user show no traceback."""
    try:
        app(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nstopped; finished stages and checkpoints are kept, the same command goes on", err=True)
        sys.exit(INTERRUPTED)
    except CuveeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        click.echo(f"error: {error}; mend it and run the same command again", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

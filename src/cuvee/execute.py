"""From a stage's kind to the few lines that do it. Every function fills a work folder and returns a summary.

Heavy libraries are imported inside, so that a worker that only mixes never imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import components, lookups
from cuvee.bases import ENDPOINT, FAKE_TOKENIZER, MODEL
from cuvee.errors import StageFailed
from cuvee.job import Input, Job
from cuvee.protocols import Progress
from cuvee.runtime import Runtime
from cuvee.store import Store


def run(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Execute one stage into `work`.

    Returns:
        The summary that goes into the manifest.
    """
    return TABLE[job.kind](job, work, store, runtime, progress)


def model_folder(item: Input) -> Path:
    """Return the folder of a base's or a training's model."""
    if "path" in item.locate:
        return Path(item.locate["path"])
    return item.folder / MODEL


def tokenizer_folder(item: Input) -> Path:
    """Return the folder whose tokenizer a model has."""
    folder = model_folder(item)
    return folder if (folder / "tokenizer.json").exists() else FAKE_TOKENIZER


def _base(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    if job.component == "fake":
        from cuvee.engine import FAKE_FILE

        (work / MODEL).mkdir(exist_ok=True)
        (work / MODEL / FAKE_FILE).write_text("{}", encoding="utf-8")
        return {"fake": True}
    if job.component == ENDPOINT:
        return {"endpoint": dict(job.params)}
    _check_files(job)
    return {"path": job.locate["path"]}


def _check_files(job: Job) -> None:
    from cuvee.pins import sha256

    folder = Path(job.locate["path"])
    for name, expected in job.params["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise StageFailed(f"{folder / name} changed since it was planned; plan again", stage=job.short)


def _load(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import examples

    module = components.find("sources", job.component)
    return examples.write(work, module.examples(job.params, job.locate), Fraction(job.locate["max_bad"]))


def _render(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import rendered
    from cuvee.data.chat import Chat

    chat = Chat(model_folder(job.one("tokenizer")), **job.params)
    return {**rendered.write(work, job.one("source").folder, chat, threads=max(1, runtime.threads)), **chat.describe()}


def _tag(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import tagging

    return tagging.write(components.find("taggers", job.component), job, work, runtime, progress)


def _duplicates(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import duplicates

    return duplicates.write(work, [item.folder for item in job.inputs["sources"]], job.params)


def _overlap(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import overlap

    return overlap.write(work, job.one("source").folder, job.one("benchmark").folder, job.params)


def _preflight(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import preflight
    from cuvee.data.chat import Chat

    data = job.inputs["data"]
    rendering = store.manifest("render", data[0].id)["identity"]["params"]
    inputs = preflight.Inputs(
        [_checked_source(item, store) for item in data],
        Chat(model_folder(job.one("tokenizer")), **rendering),
        next((_repeated(item, store) for item in job.inputs["duplicates"]), None),
        [_compared(item, store) for item in job.inputs["overlaps"]],
    )
    return preflight.write(work, preflight.check(inputs, job.params))


def _checked_source(item: Input, store: Store) -> Any:
    from cuvee.data import preflight

    source = _source_of(item.id, store)
    summaries = [store.manifest(kind, one)["summary"] for kind, one in (("load", source), ("render", item.id))]
    return preflight.Source(source, store.path("load", source), item.folder, *summaries)


def _repeated(item: Input, store: Store) -> Any:
    from cuvee.data import preflight

    manifest = store.manifest(item.kind, item.id)
    return preflight.Repeated(item.folder, manifest["summary"], manifest["identity"]["inputs"]["sources"])


def _compared(item: Input, store: Store) -> Any:
    from cuvee.data import preflight

    manifest = store.manifest(item.kind, item.id)
    identity = manifest["identity"]
    source, benchmark = (identity["inputs"][role][0] for role in ("source", "benchmark"))
    heldout = identity["params"]["items"] == "heldout"
    return preflight.Compared(item.folder, manifest["summary"], source, benchmark, heldout)


def _mix(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import mixture
    from cuvee.data.rendered import Rendered

    hows = job.params["parts"]
    return mixture.write(
        work,
        [Rendered(item.folder) for item in job.inputs["parts"]],
        job.params,
        [name for name, _ in job.locate["parts"]],
        excluded=[lookups.excluded(how, store) for how in hows],
        tags=[lookups.tags(how, store) for how in hows],
    )


def _source_of(rendered: str, store: Store) -> str:
    """Return the id of the load stage behind a render stage."""
    (source,) = store.manifest("render", rendered)["identity"]["inputs"]["source"]
    return str(source)


@dataclass(frozen=True)
class _Course:
    """What the engine is given to do a training, or its first steps again.

    Args:
        given: start model, rows, steps, hyper.
        options: earlier adapter, Fisher information, splitter.
        parts: render stage of each part of the mixture.
        names: source and ability of each.
    """

    given: tuple[Any, ...]
    options: Mapping[str, Any]
    parts: list[str]
    names: list[tuple[str, str]]

    @property
    def rows(self) -> Any:
        return self.given[1]

    @property
    def steps(self) -> Any:
        return self.given[2]


def _course(job: Job, params: Mapping[str, Any], store: Store) -> _Course:
    """Return the course of a training with `params`, whose inputs the job has."""
    from cuvee.data.batches import micro_batches, plan_steps
    from cuvee.data.mixture import MixtureRows
    from cuvee.data.rendered import Rendered
    from cuvee.engine import FISHER_FILE

    data = job.one("data")
    parts = store.manifest("mix", data.id)["identity"]["inputs"]["parts"]
    rows = MixtureRows(data.folder, [Rendered(store.path("render", part)) for part in parts])
    steps = plan_steps(rows.keys, rows.copies, params["epochs"], params["batch_size"], params["seed"])
    names = [(name, ability) for name, ability in data.locate["parts"]]
    hyper = {
        **params,
        "steps_per_epoch": len(steps) // params["epochs"],
        "part_names": [ability for _, ability in names],
    }
    options = {
        "micro_batches": micro_batches,
        "adapter": job.one("adapter").folder / MODEL if "adapter" in job.inputs else None,
        "fisher": job.one("fisher").folder / FISHER_FILE if "fisher" in job.inputs else None,
    }
    return _Course((model_folder(job.one("model")), rows, steps, hyper), options, parts, names)


def train(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress, **more: Any) -> dict[str, Any]:
    """Do a training with all that belongs to its stage; `more` as in `train_here`."""
    from cuvee import engine, launch, modelcard

    course = _course(job, job.params, store)
    if runtime.processes > 1 and not more and engine.for_model(course.given[0]).name != "fake":
        summary = launch.train(job, work, runtime, progress)
    else:
        summary = train_here(job, work, store, runtime, progress, **more)
    _keep_ledger(work, course, [_source_of(part, store) for part in course.parts])
    modelcard.write(work / MODEL, job, store, summary, course.names)
    _keep_template(job, course.parts[0], work / MODEL, store)
    # The first name a source had; names are no part of the id, so another recipe may call it otherwise.
    return {**summary, "parts": [{"source": name, "ability": ability} for name, ability in course.names]}


def _keep_ledger(work: Path, course: _Course, sources: Sequence[str], until: int | None = None) -> None:
    """Write the ledger of a training that is done; it takes over the examples' losses, which a kill must not lose."""
    from cuvee.data import ledger
    from cuvee.engine import disk, example_losses

    losses = example_losses.read(work)
    if losses is None and (work / ledger.FILE).exists():  # it has them
        return
    ledger.write(work, course.rows, course.steps, sources, until=until, losses=losses)
    disk.sync_file(work / ledger.FILE)
    (work / example_losses.FILE).unlink(missing_ok=True)


def train_here(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress, **more: Any) -> dict[str, Any]:
    """Train in this process; `more` goes to the engine, such as ``world``, its place among several processes."""
    from cuvee import engine, tracking

    course = _course(job, job.params, store)
    # Of several processes one writes, here too.
    trackers = runtime.track if "world" not in more or more["world"].is_writer else ()
    sources, title = [name for name, _ in course.names], f"{job.label} {job.short}"
    with tracking.follow(trackers, store.folder / "tracking", title, sources, progress) as track:
        return engine.for_model(course.given[0]).train(
            *(*course.given, work / MODEL, work, runtime, progress),
            marks=[Fraction(at) for at in job.marks],
            track=track,
            **course.options,
            **more,
        )


def _mark(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, modelcard

    training, at = job.one("training"), Fraction(job.params["fraction"])
    manifest = store.manifest(training.kind, training.id)
    course = _course(job, manifest["identity"]["params"], store)
    # Passes of another size draw another dropout.
    runtime = replace(runtime, micro_tokens=manifest["runtime"]["micro_tokens"])
    left = engine.mark_file(training.folder, at)
    summary = engine.for_model(course.given[0]).mark(
        *course.given,
        work / MODEL,
        work,
        runtime,
        progress,
        fraction=at,
        written=left,
        log=training.folder / "log.jsonl",
        then=_how(manifest),
        **course.options,
    )
    modelcard.write_marked(work / MODEL, job, store, summary)
    _keep_template(job, course.parts[0], work / MODEL, store)
    _keep_ledger(work, course, [_source_of(part, store) for part in course.parts], until=summary["step"])
    left.unlink(missing_ok=True)  # it is in this stage now
    return {**summary, "parts": [{"source": name, "ability": ability} for name, ability in course.names]}


def _how(manifest: Mapping[str, Any]) -> str:
    """Return in words how a training was done, as far as its numbers may hang on it."""
    summary, runtime, versions = manifest["summary"], manifest["runtime"], manifest["versions"]
    found = [f"{summary.get('processes', 1)} process(es)", f"device {runtime['device']}"]
    found += [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    shrunk = [f"from step {one['step']} on passes of {one['to']} tokens" for one in summary.get("out_of_memory", ())]
    return ", ".join([*found, *shrunk])


def _fisher(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, seeds
    from cuvee.data.mixture import MixtureRows
    from cuvee.data.rendered import Rendered

    data, params = job.one("data"), job.params
    parts = store.manifest("mix", data.id)["identity"]["inputs"]["parts"]
    rows = MixtureRows(data.folder, [Rendered(store.path("render", part)) for part in parts])

    def rank(purpose: str, index: int) -> int:
        return seeds.rank(params["seed"], purpose, rows.keys[index].tobytes(), int(rows.copies[index]))

    chosen = sorted(range(len(rows)), key=lambda index: rank("fisher", index))[: params["samples"]]
    draws = [rank("fisher labels", index) >> 1 for index in chosen]
    settings = {name: params[name] for name in ("labels", "precision")}
    folder = model_folder(job.one("model"))
    return engine.for_model(folder).fisher(folder, rows, chosen, draws, settings, work, runtime, progress)


def _fold(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, modelcard

    base, training = model_folder(job.one("model")), job.one("training")
    summary = engine.for_model(base).fold(base, training.folder / MODEL, work / MODEL, job.params["precision"])
    modelcard.write_folded(work / MODEL, job, store)
    return summary


def _merge(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, mergings, modelcard

    models = [model_folder(item) for item in job.inputs["models"]]
    if (models[0] / engine.FAKE_FILE).is_file():
        from cuvee.engine import fake

        return fake.merge(models, job.params.get("weights"), work / MODEL)
    if (loading := sys.modules.get("cuvee.engine.loading")) is not None:
        loading.forget()  # the model that this process used last is no part of the bound
    folders = {role: [model_folder(item) for item in job.inputs.get(role, ())] for role in ("models", "base")}
    folders["fishers"] = [item.folder for item in job.inputs.get("fishers", ())]
    names = [f"{item.label} ({item.kind}-{item.id[:12]})" for role in folders for item in job.inputs.get(role, ())]
    return mergings.write(
        job.component,
        job.params,
        folders,
        names,
        work / MODEL,
        threads=runtime.threads,
        finish=lambda folder, summary: modelcard.write_merged(folder, job, store, summary),
        progress=progress,
    )


def _keep_template(job: Job, rendered: str, folder: Path, store: Store) -> None:
    """Write the template that the model was trained with beside its tokenizer, and where its answers stop."""
    from cuvee.data.chat import Chat

    if not (folder / "tokenizer.json").exists():  # a fake model
        return
    name = store.manifest("render", rendered)["identity"]["params"]["template"]
    chat = Chat(folder, name)
    if name != "tokenizer":
        (folder / "chat_template.jinja").write_text(chat.export_template(), encoding="utf-8")
    chat.write_generation_config(folder)


def _score(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    if job.component == "ensemble":
        from cuvee import ensembles

        members = job.inputs["members"]
        full = store.manifest("score", members[0].id)["summary"]["full"]
        return {**ensembles.write([item.folder for item in members], work), "full": full}
    if job.component != "loss":
        from cuvee import evidence

        of_rows = evidence.stored if job.component == "stored" else evidence.score
        return of_rows(job, work, store, runtime, progress)
    return _score_items(job, work, store, runtime, progress)


def _embed(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import evidence

    return evidence.embed(job, work, store, runtime, progress)


def _select(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import evidence

    return evidence.select(job, work, store, runtime, progress)


def _score_items(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, judging
    from cuvee.data import items, token_texts
    from cuvee.data.rendered import Rendered

    params = job.params
    sources = [Rendered(item.folder) for item in job.inputs["data"]]
    hows = params.get("filters", ())
    tags = [lookups.tags(how, store) for how in hows]
    ids, rows, full = items.token_rows(
        sources, Fraction(params["heldout"]), params["split_seed"], params["items"], hows, tags
    )
    _need_items(ids, job)
    folder = model_folder(job.one("model"))
    names = [ability for _, ability in job.locate["parts"]]
    journal, each = work / "scored.jsonl", bool(params.get("each"))
    found = engine.for_model(folder).score(
        folder, rows, runtime, progress, params["precision"], part_names=names, each=each, journal=journal
    )
    columns: dict[str, Any] = {"item": ids, "nll": [one.nll for one in found], "tokens": [one.tokens for one in found]}
    if each:
        columns["losses"] = [one.losses for one in found]
    if params.get("texts"):
        columns["texts"] = token_texts.supervised(tokenizer_folder(job.one("model")), rows)
    judging.write_table(work / "scores.parquet", columns)
    journal.unlink(missing_ok=True)
    tokens = sum(one.tokens for one in found)
    return {"items": len(ids), "full": full, "supervised_tokens": tokens}


def _need_items(ids: Sequence[str], job: Job) -> None:
    if not ids:
        raise StageFailed(
            f"no held-out row of {', '.join(i.label for i in job.inputs.get('data', job.inputs.get('items', ())))}: "
            f"heldout {job.params['heldout']} of so few rows is none; raise heldout",
            stage=job.short,
        )


def _generate(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import judging

    folder = model_folder(job.one("model"))
    return judging.generate(job, work, store, runtime, progress, folder, tokenizer_folder(job.one("model")))


def _choose(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import choosing

    model = job.one("model")
    return choosing.choose(job, work, store, runtime, progress, model_folder(model), tokenizer_folder(model))


def _judge(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import model_judge

    return model_judge.write(job, work, store, runtime, progress)


def _harness(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.engine import harness

    folder = model_folder(job.one("model"))
    tasks = Path(job.locate["folder"]) if "folder" in job.locate else None
    more = {"network": job.locate["network"], "batch_size": job.locate["batch_size"]}
    return harness.run(folder, work, job.params["task"], job.params, tasks, runtime, progress, **more)


def _grade(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import judging

    return judging.grade(job, work, store, runtime)


Execute = Callable[[Job, Path, Store, Runtime, Progress], dict[str, Any]]

TABLE: Mapping[str, Execute] = {
    "base": _base,
    "load": _load,
    "tag": _tag,
    "duplicates": _duplicates,
    "overlap": _overlap,
    "preflight": _preflight,
    "render": _render,
    "mix": _mix,
    "fisher": _fisher,
    "train": train,
    "mark": _mark,
    "fold": _fold,
    "merge": _merge,
    "score": _score,
    "embed": _embed,
    "select": _select,
    "generate": _generate,
    "choose": _choose,
    "judge": _judge,
    "harness": _harness,
    "grade": _grade,
}

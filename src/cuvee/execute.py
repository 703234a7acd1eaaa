"""From a stage's kind to the few lines that do it. Every function fills a work folder and returns a summary.

Heavy libraries are imported inside, so that a worker that only mixes never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import components
from cuvee.bases import FAKE_TOKENIZER, MODEL
from cuvee.errors import StageFailed
from cuvee.job import Input, Job
from cuvee.protocols import Likelihood, Progress, Request, Response
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
    return {**rendered.write(work, job.one("source").folder, chat), **chat.describe()}


def _mix(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import mixture
    from cuvee.data.rendered import Rendered

    sources = job.inputs["parts"]
    names = [job.names.get(_source_of(item.id, store), (item.label, ""))[0] for item in sources]
    return mixture.write(work, [Rendered(item.folder) for item in sources], job.params, names)


def _source_of(rendered: str, store: Store) -> str:
    """Return the id of the load stage behind a render stage."""
    (source,) = store.manifest("render", rendered)["identity"]["inputs"]["source"]
    return str(source)


def _train(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee import engine, modelcard
    from cuvee.data.batches import micro_batches, plan_steps
    from cuvee.data.mixture import MixtureRows
    from cuvee.data.rendered import Rendered

    data = job.one("data")
    part_ids = store.manifest("mix", data.id)["identity"]["inputs"]["parts"]
    rows = MixtureRows(data.folder, [Rendered(store.path("render", part)) for part in part_ids])
    params = job.params
    steps = plan_steps(rows.keys, rows.copies, params["epochs"], params["batch_size"], params["seed"])
    names = [job.names.get(_source_of(part, store), (part[:12], "")) for part in part_ids]
    start = model_folder(job.one("model"))
    hyper = {
        **params,
        "steps_per_epoch": len(steps) // params["epochs"],
        "part_names": [ability for _, ability in names],
    }
    summary = engine.for_model(start).train(
        start, rows, steps, hyper, work / MODEL, work, runtime, progress, micro_batches=micro_batches
    )
    modelcard.write(work / MODEL, job, store, summary, names)
    _keep_template(job, part_ids[0], work / MODEL, store)
    # The first name a source had; names are no part of the id, so another recipe may call it otherwise.
    return {**summary, "parts": [{"source": name, "ability": ability} for name, ability in names]}


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
    from cuvee import engine
    from cuvee.data import items
    from cuvee.data.rendered import Rendered

    params = job.params
    sources = [Rendered(item.folder) for item in job.inputs["data"]]
    ids, rows, full = items.token_rows(
        sources, Fraction(params["heldout"]), params["split_seed"], params["items"], params.get("filters", ())
    )
    _need_items(ids, job)
    folder = model_folder(job.one("model"))
    names = [job.names.get(_source_of(item.id, store), ("", ""))[1] for item in job.inputs["data"]]
    found = engine.for_model(folder).score(folder, rows, runtime, progress, params["precision"], part_names=names)
    _write_table(
        work / "scores.parquet",
        {"item": ids, "nll": [one.nll for one in found], "tokens": [one.tokens for one in found]},
    )
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
    from cuvee import engine
    from cuvee.data import items
    from cuvee.data.chat import Chat

    params = job.params
    module = components.find("evaluators", job.component)
    heldout = Fraction(params["heldout"]) if params["heldout"] else None
    folders = [item.folder for item in job.inputs["items"]]
    found = items.examples(folders, heldout, params["split_seed"] or 0, None, params.get("filters", ()))
    asked = [module.request(example) for example in found[: params["items"]]]
    _need_items([request.item for request in asked], job)
    folder = model_folder(job.one("model"))
    chat = Chat(tokenizer_folder(job.one("model")), params["template"])
    prompts = [chat.prompt(request.messages) for request in asked]
    ability = job.names.get(job.inputs["items"][0].id, ("", ""))[1]
    replies = engine.for_model(folder).generate(
        folder,
        prompts,
        params["max_new_tokens"],
        chat.stop_ids,
        runtime,
        progress,
        params["precision"],
        references=[chat.tokenizer.encode(r.reference, add_special_tokens=False).ids for r in asked],
        ability=ability,
    )
    _write_table(
        work / "responses.parquet",
        {
            "item": [request.item for request in asked],
            "prompt": [json.dumps([m.as_dict() for m in r.messages], ensure_ascii=False) for r in asked],
            "reference": [request.reference for request in asked],
            "text": [chat.decode(reply.ids) for reply in replies],
            "tokens": [len(reply.ids) for reply in replies],
            "finish": [reply.finish for reply in replies],
        },
    )
    return {
        "items": len(asked),
        "full": len(found),
        "new_tokens": sum(len(reply.ids) for reply in replies),
        "cut": sum(reply.finish == "length" for reply in replies),
    }


def _grade(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    module = components.find("evaluators", job.component)
    answers = job.one("answers")
    ids, grades = _grades(module, answers, job.params)
    columns: dict[str, list[Any]] = {
        "item": ids,
        "score": [grade.score for grade in grades],
        "weight": [grade.weight for grade in grades],
    }
    for name in grades[0].extra:
        columns[name] = [grade.extra[name] for grade in grades]
    _write_table(work / "results.parquet", columns)
    weight = sum(grade.weight for grade in grades)
    summary: dict[str, Any] = {
        "n": len(grades),
        "full": store.manifest(answers.kind, answers.id)["summary"]["full"],
        "metric": module.METRIC,
        "mean": sum(grade.score * grade.weight for grade in grades) / weight,
    }
    if module.METRIC == "accuracy":
        summary["m"] = int(sum(grade.score for grade in grades))
        summary["not_extracted"] = sum(not grade.extra.get("extracted", True) for grade in grades)
    return summary


def _grades(module: Any, answers: Input, params: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    if module.ANSWERS == "score":
        rows = _read_table(answers.folder / "scores.parquet")
        return [r["item"] for r in rows], [module.grade(Likelihood(r["nll"], r["tokens"])) for r in rows]
    rows = _read_table(answers.folder / "responses.parquet")
    graded = [
        module.grade(Request(r["item"], (), r["reference"]), Response(r["text"], r["finish"]), params) for r in rows
    ]
    return [r["item"] for r in rows], graded


def _write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path)


def _read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


Execute = Callable[[Job, Path, Store, Runtime, Progress], dict[str, Any]]

TABLE: Mapping[str, Execute] = {
    "base": _base,
    "load": _load,
    "render": _render,
    "mix": _mix,
    "train": _train,
    "score": _score,
    "generate": _generate,
    "grade": _grade,
}

"""The model card of a trained model: what it started from, what it was trained on, how, and its lineage."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuvee.canonical import ID_LENGTH
from cuvee.job import Input, Job
from cuvee.store import Store


def write(folder: Path, job: Job, store: Store, summary: Mapping[str, Any], parts: Sequence[tuple[str, str]]) -> None:
    """Write README.md and cuvee.json (the identities of all stages behind the model) into a model's folder.

    Args:
        folder: the Hugging Face folder.
        job: the training.
        store: where its inputs' manifests lie.
        summary: what the training came to.
        parts: source name and ability of each part of the mixture.
    """
    lineage = list(_lineage(job, store))
    _write(folder, job, lineage, _text(job, store, summary, parts, lineage))


def write_folded(folder: Path, job: Job, store: Store) -> None:
    """Write the same two files into the folder of a model that an adapter was folded into."""
    lineage = list(_lineage(job, store))
    _write(folder, job, lineage, _folded(job, lineage))


def write_marked(folder: Path, job: Job, store: Store, summary: Mapping[str, Any]) -> None:
    """Write the same two files into the folder of the weights at a mark of a training."""
    lineage = list(_lineage(job, store))
    _write(folder, job, lineage, _marked(job, summary, lineage))


def write_merged(folder: Path, job: Job, store: Store, summary: Mapping[str, Any]) -> None:
    """Write the same two files into the folder of a model that was merged from several."""
    lineage = list(_lineage(job, store))
    _write(folder, job, lineage, _merged(job, summary, lineage))


def _write(folder: Path, job: Job, lineage: Sequence[Mapping[str, Any]], text: Iterator[str]) -> None:
    (folder / "cuvee.json").write_text(
        json.dumps(
            {"id": job.id, "identity": job.identity, "lineage": lineage, "preflight": dict(job.preflight)},
            indent=1,
            sort_keys=True,
        ),
        encoding="utf-8",
    )
    (folder / "README.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _lineage(job: Job, store: Store) -> Iterator[dict[str, Any]]:
    """Yield the manifests' identities behind a training, nearest first."""
    seen: set[str] = set()
    queue = deque((item.kind, item.id) for items in job.inputs.values() for item in items)
    while queue:
        kind, stage_id = queue.popleft()
        if stage_id in seen:
            continue
        seen.add(stage_id)
        manifest = store.manifest(kind, stage_id)
        yield {name: manifest[name] for name in ("id", "kind", "label", "identity", "inputs")}
        for names in manifest["inputs"].values():
            for name in names:
                parent_kind, _, parent_id = name.partition("-")
                queue.append((parent_kind, parent_id))


def _text(
    job: Job,
    store: Store,
    summary: Mapping[str, Any],
    parts: Sequence[tuple[str, str]],
    lineage: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    mix = store.manifest("mix", job.one("data").id)["summary"]
    base = _base(job.one("model"), lineage)
    adapter = job.component == "lora"
    library, tags = ("peft", "cuvee, sft, lora") if adapter else ("transformers", "cuvee, sft")
    yield from ("---", f"library_name: {library}", f"tags: [{tags}]", "---", "")
    yield from (f"# {job.label}", "", f"Stage `{job.short}`, trained by cuvee from `{job.one('model').label}`.", "")
    yield f"Base model: {base['label']} (`base-{base['id'][:ID_LENGTH]}`)."
    if adapter:
        yield f"\nA LoRA adapter to the weights of `{_short(job.one('model'))}`; a fold of it is the full model."
    if "adapter" in job.inputs:
        yield f"\nIt goes on from the adapter of `{_short(job.one('adapter'))}`."
    yield from ("", "| source | ability | rows | supervised tokens |", "| --- | --- | ---: | ---: |")
    for (name, ability), part in zip(parts, mix["parts"], strict=True):
        yield f"| {name} | {ability} | {part['rows']} | {part['supervised_tokens']} |"
    yield from ("", "Rows and tokens of one epoch.", "", "| setting | value |", "| --- | --- |")
    for name, value in sorted(job.params.items()):
        yield f"| {name} | {value} |"
    yield from ("", f"Steps: {summary['steps']}. Loss of the first step {summary['first_loss']:.4f}, of the last ")
    yield f"{summary['final_loss']:.4f}. Whether that is good is in the report's evaluations, not here."
    for event in summary.get("out_of_memory", ()):
        yield f"\nOut of memory at step {event['step']}: {event['to']} tokens a pass from then on, not {event['from']};"
        yield "the examples of each step stayed the same."
    for finding in job.preflight.get("accepted", ()):
        yield f"\nTrained although a check spoke against it ({finding['name']}): {finding['text']}"
    yield from _listed(lineage)


def _base(model: Input, lineage: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the base that a chain of trainings began with; selections may have looked at other models."""
    by_id = {item["id"]: item for item in lineage}
    item = by_id[model.id]
    while item["kind"] != "base":
        inputs = item["inputs"]
        item = by_id[(inputs.get("model") or inputs["models"])[0].partition("-")[2]]
    return item


def _folded(job: Job, lineage: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "tags: [cuvee, sft, lora]", "---", "", f"# {job.label}", "")
    yield f"Stage `{job.short}`: the adapter of `{_short(job.one('training'))}`, whose card tells its training,"
    yield f"folded by cuvee into the weights of `{_short(job.one('model'))}`."
    yield from _listed(lineage)


def _marked(job: Job, summary: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    library, tags = ("peft", "cuvee, sft, lora") if job.component == "lora" else ("transformers", "cuvee, sft")
    yield from ("---", f"library_name: {library}", f"tags: [{tags}]", "---", "", f"# {job.label}", "")
    yield f"Stage `{job.short}`: what the training `{_short(job.one('training'))}` had learnt after step "
    yield f"{summary['step']} of {summary['steps']}, with {summary['supervised_tokens']:,} supervised tokens seen."
    if summary["made"] == "replayed":
        far = summary["largest_difference"]
        yield f"Its steps were done again; no loss of a step differs by more than {far:.1e} of itself."
    yield from _listed(lineage)


def _merged(job: Job, summary: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "tags: [cuvee, sft, merge]", "---", "", f"# {job.label}", "")
    yield f"Stage `{job.short}`, merged by cuvee with `{job.component}` from {len(job.inputs['models'])} models:"
    weights = job.params.get("weights") or [None] * len(job.inputs["models"])
    yield from ("", "| model | weight |", "| --- | ---: |")
    for item, weight in zip(job.inputs["models"], weights, strict=True):
        yield f"| {item.label} (`{_short(item)}`) | {'' if weight is None else weight} |"
    for item in job.inputs.get("base", ()):
        yield f"\nThey were trained from {item.label} (`{_short(item)}`)."
    yield from ("", "| setting | value |", "| --- | --- |")
    for name, value in sorted(job.params.items()):
        yield f"| {name} | {value} |"
    for note in summary.get("notes", ()):
        yield f"\n{note}."
    yield from _listed(lineage)


def _short(item: Input) -> str:
    return f"{item.kind}-{item.id[:ID_LENGTH]}"


def _listed(lineage: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("", "Lineage, nearest first (`cuvee.json` holds every stage's full identity):", "")
    for item in lineage:
        yield f"- `{item['kind']}-{item['id'][:ID_LENGTH]}` {item['label']}"

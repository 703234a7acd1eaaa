"""The model card of a trained model: what it started from, what it was trained on, how, and its lineage."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuvee.canonical import ID_LENGTH
from cuvee.job import Job
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
    (folder / "cuvee.json").write_text(
        json.dumps(
            {"id": job.id, "identity": job.identity, "lineage": lineage, "preflight": dict(job.preflight)},
            indent=1,
            sort_keys=True,
        ),
        encoding="utf-8",
    )
    (folder / "README.md").write_text("\n".join(_text(job, store, summary, parts, lineage)) + "\n", encoding="utf-8")


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
    base = next(item for item in lineage if item["kind"] == "base")
    yield from ("---", "library_name: transformers", "tags: [cuvee, sft]", "---", "")
    yield from (f"# {job.label}", "", f"Stage `{job.short}`, trained by cuvee from `{job.one('model').label}`.", "")
    yield f"Base model: {base['label']} (`base-{base['id'][:ID_LENGTH]}`)."
    yield from ("", "| source | ability | rows | supervised tokens |", "| --- | --- | ---: | ---: |")
    for (name, ability), part in zip(parts, mix["parts"], strict=True):
        yield f"| {name} | {ability} | {part['rows']} | {part['supervised_tokens']} |"
    yield from ("", "Rows and tokens of one epoch.", "", "| setting | value |", "| --- | --- |")
    for name, value in sorted(job.params.items()):
        yield f"| {name} | {value} |"
    yield from ("", f"Steps: {summary['steps']}. Loss of the first step {summary['first_loss']:.4f}, of the last ")
    yield f"{summary['final_loss']:.4f}. Whether that is good is in the report's evaluations, not here."
    for finding in job.preflight.get("accepted", ()):
        yield f"\nTrained although a check spoke against it ({finding['name']}): {finding['text']}"
    yield from ("", "Lineage, nearest first (`cuvee.json` holds every stage's full identity):", "")
    for item in lineage:
        yield f"- `{item['kind']}-{item['id'][:ID_LENGTH]}` {item['label']}"

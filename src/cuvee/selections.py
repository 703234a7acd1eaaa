"""What selections kept: for `cuvee select`, for analyses, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cuvee.data import examples, selection
from cuvee.errors import UsageError
from cuvee.plan import Plan
from cuvee.protocols import Choice
from cuvee.stage import Selected, Stage
from cuvee.store import Store

SCHEMA = "cuvee.select/1"
SHOWN = 3
"""Rows shown of the top, of the bottom and on each side of the border."""
TEXT = 160
"""Characters of a row that are shown."""


def stages(plan: Plan) -> list[Selected]:
    """Return the plan's selections, each once."""
    return [stage for stage in plan.stages if isinstance(stage, Selected)]


def gather(plan: Plan, store: Store) -> list[Choice]:
    """Return the finished selections of a plan, in its order."""
    return [
        _choice(stage, name, seed, plan, store) for stage, name, seed in _named(plan) if store.has("select", stage.id)
    ]


def _named(plan: Plan) -> Iterator[tuple[Selected, str, int]]:
    """Yield each selection with its name and the seed of the first run that has it."""
    seeds = plan.located.recipe.seeds
    found: dict[str, tuple[Selected, set[int]]] = {}
    for run in plan.runs:
        for one in run.ingredients.values():
            for stage, _ in one.excluded:
                if isinstance(stage, Selected):
                    found.setdefault(stage.id, (stage, set()))[1].add(run.info.seed)
    for stage, used in found.values():
        drawn = len(seeds) > 1 and len(used) == 1
        yield stage, f"{stage.label} · seed {min(used)}" if drawn else stage.label, min(used)
    for stage in stages(plan):
        if stage.id not in found:
            yield stage, stage.label, seeds[0]


def _choice(stage: Selected, name: str, seed: int, plan: Plan, store: Store) -> Choice:
    table = selection.read(store.path("select", stage.id), ["source", "row", "supervised", "score", "kept"])
    source, row, tokens, scores, kept = (table[column].to_numpy(zero_copy_only=False) for column in table.column_names)
    # A row is told by its source's place among all loads of the recipe, so that selections of other pools compare.
    loads = {one: number for number, one in enumerate(dict.fromkeys(s.id for s in plan.stages if s.kind == "load"))}
    of_pool = np.array([loads[_load(pool).id] for pool in stage.inputs["pools"]], np.int64)
    summary = store.manifest("select", stage.id)["summary"]
    return Choice(
        name,
        stage.label,
        seed,
        stage.short,
        [pool[0] for pool in stage.locate["pools"]],
        source,
        (of_pool[source] << 40) + row,
        scores,
        kept,
        tokens,
        summary["reasons"],
    )


def _load(pool: Stage) -> Stage:
    return pool.inputs["parts"][0].one("source")


def view(plan: Plan, store: Store, rows: int = SHOWN) -> dict[str, Any]:
    """Return the finished selections as plain data: sizes, border, reasons, make-up by source, some rows.

    Raises:
        UsageError: the recipe selects nothing.
    """
    if not stages(plan):
        raise UsageError(
            "the recipe selects nothing; say what to keep, such as select: {by: lobass, share: 0.06}, for the recipe, "
            "a source or a run"
        )
    return {
        "schema": SCHEMA,
        "selections": [_view(stage, name, plan, store, rows) for stage, name, _ in _named(plan) if _done(stage, store)],
    }


def finished(plan: Plan, store: Store, rows: int = SHOWN) -> dict[str, Any]:
    """Return what `cuvee inspect` tells of selections: ``selections`` as in `view`, ``unselected`` names of the others.

    Both are empty where the recipe selects nothing.
    """
    named = list(_named(plan))
    return {
        "selections": [_view(stage, name, plan, store, rows) for stage, name, _ in named if _done(stage, store)],
        "unselected": [name for stage, name, _ in named if not _done(stage, store)],
    }


def _done(stage: Stage, store: Store) -> bool:
    return store.has(stage.kind, stage.id)


def _view(stage: Selected, name: str, plan: Plan, store: Store, rows: int) -> dict[str, Any]:
    summary = store.manifest("select", stage.id)["summary"]
    names = [pool[0] for pool in stage.locate["pools"]]
    pools = [{**pool, "source": source} for pool, source in zip(summary["pools"], names, strict=True)]
    return {
        "stage": stage.short,
        "name": name,
        "selector": stage.component,
        "rule": stage.identity["params"]["rule"],
        "runs": list(plan.runs_of.get(stage.id, ())),
        **{key: summary[key] for key in ("rows", "kept", "border", "reasons")},
        "pools": pools,
        "shown": _shown(stage, names, store, rows),
    }


def _shown(stage: Selected, names: list[str], store: Store, rows: int) -> dict[str, list[dict[str, Any]]]:
    """Return some rows of the top, the border and the bottom, best first."""
    table = selection.read(store.path("select", stage.id))
    scores = table["score"].to_numpy()
    kept = table["kept"].to_numpy(zero_copy_only=False)
    known = np.flatnonzero(np.isfinite(scores))
    lowest = bool(stage.identity["params"]["rule"].get("lowest"))
    # Of equal scores the kept ones stand on the kept side.
    ordered = known[np.lexsort((kept[known] == lowest, -scores[known]))]
    inside, outside = ordered[kept[ordered]], ordered[~kept[ordered]]
    last_in, first_out = (inside[:rows], outside[-rows:]) if lowest else (inside[-rows:], outside[:rows])
    asked = {"top": ordered[:rows], "last kept": last_in, "first not kept": first_out, "bottom": ordered[-rows:]}
    return {place: [_row(stage, names, table, int(at), store) for at in found] for place, found in asked.items()}


def _row(stage: Selected, names: list[str], table: Any, at: int, store: Store) -> dict[str, Any]:
    line = {name: value for name, value in table.slice(at, 1).to_pylist()[0].items()}
    load = _load(stage.inputs["pools"][line["source"]])
    ((example, _),) = examples.read_rows(store.path("load", load.id), [line["row"]])
    return {
        **line,
        "id": line["id"].hex(),
        "source": names[line["source"]],
        "path": example.path,
        "line": example.line,
        "text": " / ".join(message.content for message in example.messages)[:TEXT],
    }


def write(plan: Plan, store: Store, folder: Path) -> list[Path]:
    """Write each selection as a table of all rows (Parquet), and the rows it keeps as conversations (JSONL).

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stage, _, _ in _named(plan):
        if not _done(stage, store):
            continue
        written.append(_write_table(stage, store, folder / f"{stage.short}.parquet"))
        written.append(_write_rows(stage, store, folder / f"{stage.short}.jsonl"))
    return written


def _write_table(stage: Selected, store: Store, path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = selection.read(store.path("select", stage.id))
    names = pa.DictionaryArray.from_arrays(
        pa.array(table["source"].to_numpy().astype(np.int32)), pa.array([pool[0] for pool in stage.locate["pools"]])
    )
    table = table.set_column(0, "source", names)
    ids = pa.array([one.hex() for one in table["id"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), path, compression="zstd")
    return path


def _write_rows(stage: Selected, store: Store, path: Path) -> Path:
    table = selection.read(store.path("select", stage.id), ["source", "row", "score", "kept"])
    source, row, scores, kept = (table[name].to_numpy(zero_copy_only=False) for name in table.column_names)
    with path.open("w", encoding="utf-8") as out:
        for number, (name, _) in enumerate(stage.locate["pools"]):
            here = kept & (source == number)
            wanted = dict(zip(row[here].tolist(), scores[here].tolist(), strict=True))
            load = _load(stage.inputs["pools"][number])
            for place, (example, _) in enumerate(examples.read(store.path("load", load.id))):
                if place in wanted:
                    out.write(json.dumps(_as_row(example, name, wanted[place]), ensure_ascii=True) + "\n")
    return path


def _as_row(example: Any, source: str, score: float) -> Mapping[str, Any]:
    messages = [message.as_dict() for message in example.messages]
    tools = {"tools": list(example.tools)} if example.tools else {}
    return {"id": example.id, "source": source, "score": score, "messages": messages, **tools}

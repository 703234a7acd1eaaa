"""Rows behind a stage. Backwards from a model: which rows it has seen, in which training, how often, with how many
supervised tokens; of other stages: the rows they name.

Every training behind a model keeps a ledger; they are read together here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuvee.canonical import ID_LENGTH
from cuvee.errors import UsageError
from cuvee.store import Store

SCHEMA = "cuvee.rows/1"

MODELS = ("training", "adapter", "model", "models")
"""Roles of inputs that lead from a model to the trainings behind it."""


def trainings(store: Store, stage: str) -> list[dict[str, Any]]:
    """Return the manifests of all trainings behind a model, first training first.

    Raises:
        UsageError: the stage is no model, or a base that was not trained here.
    """
    found = _behind(store, store.manifest(*store.resolve(stage)))
    if not found:
        raise UsageError(
            f"{stage} is no model that was trained here, so it has seen no rows; name a training, such as train-3f9a, "
            f"or a stage that names rows: {', '.join(TABLES)}"
        )
    return found


def _behind(store: Store, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return trainings, what comes first before what follows, each once however many ways lead to it."""
    found: dict[str, dict[str, Any]] = {}
    queue = [dict(manifest)]
    while queue:
        one = queue.pop()
        if one["id"] in found:
            continue
        found[one["id"]] = one
        # A mark keeps a ledger of the steps until then; its training went on.
        roles = [role for role in MODELS if not (one["kind"] == "mark" and role == "training")]
        names = [name for role in roles for name in one["inputs"].get(role, ())]
        queue += [store.manifest(*name.split("-", 1)) for name in names]
    trained = [one for one in found.values() if one["kind"] in ("train", "mark")]
    return sorted(trained, key=lambda one: (one["started"], one["id"]))


def table(store: Store, stage: str) -> Any:
    """Return all rows a model has seen as an Arrow table.

    Columns: stage, source, path, line, id (hex), occurrence, times, supervised_tokens, steps, losses. Sorted by stage
    in the order of training, then by source and place in the file.

    Raises:
        UsageError: as `trainings`; or a training that kept no ledger.
    """
    import pyarrow as pa

    return pa.concat_tables([_one(store, manifest) for manifest in trainings(store, stage)])


def _one(store: Store, manifest: Mapping[str, Any]) -> Any:
    import numpy as np
    import pyarrow as pa

    from cuvee.data import ledger

    folder = store.path(manifest["kind"], manifest["id"])
    if not (folder / ledger.FILE).is_file():
        raise UsageError(f"{folder} keeps no ledger; it was trained by an earlier version")
    found = ledger.read(folder)
    names = [part["source"] for part in manifest["summary"]["parts"]]
    parts, rows = found["part"].to_numpy(), found["row"].to_numpy()
    firsts = zip(*(each.tolist() for each in np.unique(parts, return_index=True)), strict=True)
    places = {part: _places(store, found["source"][first].as_py()) for part, first in firsts}
    path = np.empty(len(rows), object)
    line = np.zeros(len(rows), np.int64)
    for number, (paths, lines) in places.items():
        here = parts == number
        path[here], line[here] = paths[rows[here]], lines[rows[here]]
    return pa.table(
        {
            "stage": pa.array([f"{manifest['kind']}-{manifest['id'][:ID_LENGTH]}"] * len(rows)),
            "source": pa.array([names[part] for part in parts.tolist()]),
            "path": pa.array(path, pa.string()),
            "line": line,
            "id": pa.array([key.hex() for key in found["id"].to_pylist()]),
            **{name: found[name] for name in ("occurrence", "times", "supervised_tokens", "steps")},
            "losses": found["losses"]
            if "losses" in found.column_names
            else pa.nulls(len(rows), pa.large_list(pa.float32())),
        }
    )


def _places(store: Store, source: str) -> tuple[Any, Any]:
    """Return file and line of each row of a load."""
    import pyarrow.parquet as pq

    from cuvee.data import examples

    found = pq.read_table(store.path("load", source) / examples.FILE, columns=["path", "line"])
    return found["path"].to_numpy(), found["line"].to_numpy()


TABLES = {
    "load": "quarantine.parquet",
    "tag": "tags.parquet",
    "duplicates": "excluded.parquet",
    "overlap": "excluded.parquet",
    "select": "selection.parquet",
}
"""The tables that stages other than models keep: rows kept aside, tags, rows that another one excludes."""


def named(store: Store, stage: str, find: str = "", limit: int = 20) -> dict[str, Any]:
    """Return the rows that a stage names as plain data: a model's ledger, a load's quarantine, tags, exclusions.

    Args:
        store: where it lies.
        stage: its name.
        find: keep rows that hold this text in one of their columns.
        limit: how many rows are listed.

    Raises:
        UsageError: the stage names no rows.
    """
    import pyarrow.parquet as pq

    kind, stage_id = store.resolve(stage)
    if kind not in TABLES:
        return describe(store, stage, find, limit)
    rows = pq.read_table(store.path(kind, stage_id) / TABLES[kind]).to_pylist()
    plain = [{key: value.hex() if isinstance(value, bytes) else value for key, value in row.items()} for row in rows]
    found = [row for row in plain if find in "\0".join(map(str, row.values()))]
    return {"schema": SCHEMA, "summary": [], "found": len(found), "rows": found[:limit]}


def describe(store: Store, stage: str, find: str = "", limit: int = 20) -> dict[str, Any]:
    """Return what a model has seen as plain data.

    Args:
        store: where it lies.
        stage: a model's name.
        find: keep rows whose id begins so, or whose ``path:line`` ends so.
        limit: how many rows are listed.

    Returns:
        ``summary`` (a line a training and source: rows, times, supervised tokens), ``rows`` and their number.
    """
    found = table(store, stage).to_pylist()
    if find:
        found = [row for row in found if row["id"].startswith(find) or f"{row['path']}:{row['line']}".endswith(find)]
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for row in found:
        line = sums.setdefault(
            (row["stage"], row["source"]),
            {"stage": row["stage"], "source": row["source"], "rows": 0, "times": 0, "supervised_tokens": 0},
        )
        line["rows"] += 1
        line["times"] += row["times"]
        line["supervised_tokens"] += row["supervised_tokens"]
    return {"schema": SCHEMA, "summary": list(sums.values()), "found": len(found), "rows": found[:limit]}


def write(store: Store, stage: str, path: Path) -> int:
    """Write the rows behind a stage as Parquet; returns how many they are."""
    import pyarrow.parquet as pq

    kind, stage_id = store.resolve(stage)
    own = TABLES.get(kind)
    found = pq.read_table(store.path(kind, stage_id) / own) if own else table(store, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, path, compression="zstd")
    return len(found)

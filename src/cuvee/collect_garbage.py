"""Delete what no listed recipe needs; never what one needs, never what somebody is making."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from filelock import Timeout

from cuvee.canonical import ID_LENGTH
from cuvee.engine import mark_file
from cuvee.plan import Plan
from cuvee.store import Store
from cuvee.store.store import tree_size


def collect(plans: Iterable[Plan], store: Store, *, delete: bool) -> dict[str, Any]:
    """Find stages and unfinished work that no plan holds, and delete them when asked to.

    Returns:
        ``stages`` (short names; paths of mark files and unfinished work), ``bytes``, ``kept`` (how many stages).
    """
    plans = list(plans)
    needed = {stage.id for plan in plans for stage in plan.stages} | store.leased()
    found, freed, kept = [], 0, 0
    for manifest in list(store.stages()):
        if manifest["id"] in needed:
            kept += 1
            continue
        short = f"{manifest['kind']}-{manifest['id'][:ID_LENGTH]}"
        size = tree_size(store.path(manifest["kind"], manifest["id"]))
        if delete and not _remove(store, manifest, short):
            continue
        found.append(short)
        freed += size
    for file in _marks(plans, store):
        freed += file.stat().st_size
        found.append(f"{file.parent.parent.name}/marks/{file.name}")
        if delete:
            file.unlink(missing_ok=True)
    shorts = {stage_id[:ID_LENGTH] for stage_id in needed}
    for work in sorted((store.folder / "work").glob("*")):
        if work.name.rpartition("-")[2] not in shorts:
            size = tree_size(work)
            if _remove_work(store, work, delete=delete):
                found.append(f"work/{work.name}")
                freed += size
    return {"stages": found, "bytes": freed, "kept": kept}


def _marks(plans: Iterable[Plan], store: Store) -> list[Path]:
    """Return the weights that trainings left for marks which no plan still has to make; none while a run is at work."""
    if store.leased():
        return []
    wanted = {
        mark_file(store.path("train", stage.one("training").id), Fraction(stage.identity["params"]["fraction"]))
        for plan in plans
        for stage in plan.stages
        if stage.kind == "mark" and not store.has("mark", stage.id)
    }
    trainings = [store.path("train", one["id"]) for one in store.stages() if one["kind"] == "train"]
    files = [file for folder in trainings for file in sorted((folder / "marks").glob("*"))]
    return [file for file in files if file not in wanted]


def _remove(store: Store, manifest: dict[str, Any], short: str) -> bool:
    try:
        with store.lock(short).acquire(blocking=False):
            if manifest["id"] in store.leased():  # a run began since the list was made
                return False
            store.remove(manifest["kind"], manifest["id"])
            store.journal("removed", short)
            return True
    except Timeout:
        return False


def _remove_work(store: Store, work: Path, *, delete: bool) -> bool:
    """Delete unfinished work unless somebody is at it; the lock is held meanwhile."""
    try:
        with store.lock(work.name).acquire(blocking=False):
            if delete:
                shutil.rmtree(work, ignore_errors=True)
            return True
    except Timeout:
        return False

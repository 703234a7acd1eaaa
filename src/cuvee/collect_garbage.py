"""Delete what no listed recipe needs; never what one needs, never what somebody is making."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

from filelock import Timeout

from cuvee.canonical import ID_LENGTH
from cuvee.planner import Plan
from cuvee.store import Store
from cuvee.store.store import tree_size


def collect(plans: Iterable[Plan], store: Store, *, delete: bool) -> dict[str, Any]:
    """Find stages and unfinished work that no plan holds, and delete them when asked to.

    Returns:
        ``stages`` (short names), ``bytes`` and ``kept`` (number of stages kept).
    """
    needed = {stage.id for plan in plans for stage in plan.stages}
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
    shorts = {f"{s.kind}-{s.id[:ID_LENGTH]}" for plan in plans for s in plan.stages}
    for work in sorted((store.folder / "work").glob("*")):
        if work.name not in shorts and not _is_locked(store, work.name):
            found.append(f"work/{work.name}")
            freed += tree_size(work)
            if delete:
                shutil.rmtree(work, ignore_errors=True)
    return {"stages": found, "bytes": freed, "kept": kept}


def _remove(store: Store, manifest: dict[str, Any], short: str) -> bool:
    try:
        with store.lock(short).acquire(blocking=False):
            store.remove(manifest["kind"], manifest["id"])
            store.journal("removed", short)
            return True
    except Timeout:
        return False


def _is_locked(store: Store, short: str) -> bool:
    try:
        with store.lock(short).acquire(blocking=False):
            return False
    except Timeout:
        return True

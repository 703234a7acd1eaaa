"""Leases: what runs that are under way need, so that nobody deletes it meanwhile.

A lease is a file in ``leases/`` with the ids a run's plan holds, and a lock beside it that the run's process
keeps. The system frees the lock when the process dies, and the next look removes the file.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def lease(folder: Path, ids: Iterable[str]) -> Iterator[None]:
    """Keep the stages `ids` from being deleted while the context is open.

    Args:
        folder: the store's ``leases`` folder.
        ids: ids of the plan's stages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
    with FileLock(path.with_suffix(".lock")):
        # Renamed into place, so that nobody reads half of it.
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(sorted(ids)), encoding="utf-8")
        os.replace(draft, path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def leased(folder: Path) -> set[str]:
    """Return the ids that runs of other processes hold; leases of dead processes are removed."""
    found: set[str] = set()
    for path in folder.glob("*.json"):
        if path.name.startswith(f"{os.getpid()}-"):
            continue
        try:
            with FileLock(path.with_suffix(".lock")).acquire(blocking=False):
                path.unlink(missing_ok=True)
        except Timeout:
            found |= _ids(path)
    return found


def _ids(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:  # its run ended between the two looks
        return set()

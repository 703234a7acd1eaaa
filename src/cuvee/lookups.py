"""What a part of a mixture looks at besides its rows: tags by taggers, rows that duplicates and overlap name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cuvee.store import Store

EXCLUDING = ("duplicates", "overlap", "select")
"""Kinds of stages that name rows to leave out."""


def tags(how: Mapping[str, Any], store: Store) -> list[tuple[str, ...]] | None:
    """Return the tags of each row of a source by the taggings that `how` names, in load order; None without any."""
    from cuvee.data import tags as artefact

    columns = [artefact.read(store.path("tag", stage_id)) for stage_id in how.get("tagged", ())]
    if not columns:
        return None
    return [tuple(dict.fromkeys(tag for some in each for tag in some)) for each in zip(*columns, strict=True)]


def excluded(how: Mapping[str, Any], store: Store) -> dict[str, Any] | None:
    """Return the rows of a source that are left out, by the kind of stage that names them; None without any.

    Args:
        how: holds under ``excluded`` the ids of the stages, each with the source's number among its inputs.
        store: where they lie.
    """
    import numpy as np

    from cuvee.data import exclusions, selection

    found: dict[str, list[Any]] = {}
    for stage_id, number in how.get("excluded", ()):
        kind = next(kind for kind in EXCLUDING if store.has(kind, stage_id))
        folder = store.path(kind, stage_id)
        if kind == "select":
            available = store.manifest(kind, stage_id)["summary"]["available"][number]
            rows = selection.left_out(folder, number, available)
        else:
            rows = exclusions.rows(folder, number)
        found.setdefault(kind, []).append(rows)
    return {kind: np.unique(np.concatenate(rows)) for kind, rows in found.items()} or None


def present(how: Mapping[str, Any], store: Store) -> bool:
    """Return whether everything that `how` names is finished."""
    tagged = all(store.has("tag", stage_id) for stage_id in how.get("tagged", ()))
    named = (stage_id for stage_id, _ in how.get("excluded", ()))
    return tagged and all(any(store.has(kind, stage_id) for kind in EXCLUDING) for stage_id in named)

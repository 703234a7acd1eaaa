"""Why a stage must run, and how two stages differ, as text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from cuvee import canonical
from cuvee.stage import Stage

MAX_CANDIDATES = 200
"""Stored stages compared with a missing one, newest first: keeps a plan of thousands of stages fast."""


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the lines in which two identities differ: ``- old`` and ``+ new``."""
    lines = difflib.ndiff(canonical.pretty(old).splitlines(), canonical.pretty(new).splitlines())
    return [line for line in lines if line[:1] in "+-"]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested data as dotted path to plain value."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in items:
        found.update(leaves(item, f"{path}.{key}" if path else str(key)))
    return found or {path: "empty"}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (path, old value, new value) of every plain value in which two identities differ."""
    before, after = leaves(old), leaves(new)
    paths = sorted({*before, *after}, key=lambda path: (path.startswith("inputs"), path))
    return [(path, before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)]


def reason(stage: Stage, stored: Iterable[Mapping[str, Any]]) -> str:
    """Return why a stage is not in the store: the nearest stored one of its kind and the first difference."""
    candidates = [m for m in stored if m["kind"] == stage.kind][-MAX_CANDIDATES:]
    if not candidates:
        return f"no {stage.kind} in the store yet"
    best = min(candidates, key=lambda m: (len(changed(m["identity"], stage.identity)), -m.get("finished", 0)))
    differences = changed(best["identity"], stage.identity)
    if not differences:
        return "its weights were given up"
    path, before, after = differences[0]
    more = f" (+{len(differences) - 1} more)" if len(differences) > 1 else ""
    return (
        f"nearest {best['kind']}-{best['id'][: canonical.ID_LENGTH]}: {path} {_short(before)} → {_short(after)}{more}"
    )


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"

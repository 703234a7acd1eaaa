"""Why a stage must run, and how two stages differ, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cuvee import canonical
from cuvee.stage import Stage

MAX_CANDIDATES = 200
"""Stored stages compared with a missing one, newest first: keeps a plan of thousands of stages fast."""


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
    return _changed(leaves(old), leaves(new))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    different = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    # What the stage itself was asked for says more than that an input is another one.
    return [
        (path, before.get(path), after.get(path)) for path in sorted(different, key=lambda p: (p[:6] == "inputs", p))
    ]


class Stored:
    """The identities of finished stages, to find the one nearest to a missing one.

    Args:
        manifests: of the finished stages, oldest first.
    """

    def __init__(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        self._of_kind: dict[str, list[tuple[Mapping[str, Any], dict[str, Any]]]] = {}
        for manifest in manifests:
            self._of_kind.setdefault(manifest["kind"], []).append((manifest, leaves(manifest["identity"])))

    def reason(self, stage: Stage) -> str:
        """Return why a stage is not in the store: the nearest stored one of its kind and the first difference."""
        candidates = self._of_kind.get(stage.kind, [])[-MAX_CANDIDATES:]
        if not candidates:
            return f"no {stage.kind} in the store yet"
        wanted = leaves(stage.identity)
        found = [(_changed(old, wanted), manifest) for manifest, old in reversed(candidates)]
        differences, nearest = min(found, key=lambda pair: len(pair[0]))
        if not differences:
            return "its weights were given up"
        path, before, after = differences[0]
        more = f" (+{len(differences) - 1} more)" if len(differences) > 1 else ""
        short = f"{nearest['kind']}-{nearest['id'][: canonical.ID_LENGTH]}"
        return f"nearest {short}: {path} {_short(before)} → {_short(after)}{more}"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"

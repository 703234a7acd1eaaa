"""Tasks of lm-evaluation-harness in a plan: what pins one, its questions as a load, how many items it has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cuvee.errors import UsageError
from cuvee.sources import harness as source
from cuvee.stage import Harnessed, Loaded, load
from cuvee.store import Store
from cuvee.store.store import MANIFEST

PINS = ("task", "limit", "harness", "files")
"""Parameters that decide which items a task has."""


def pinned(params: Any, folder: Path, file_hash: Callable[[Path], str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (what pins an evaluator's tasks besides their names, where they lie).

    Args:
        params: the evaluator's.
        folder: the recipe's.
        file_hash: of a file's content.

    Raises:
        UsageError: the harness is not installed, or there is no such folder.
    """
    try:
        found: dict[str, Any] = {"harness": metadata.version("lm_eval")}
    except metadata.PackageNotFoundError:
        raise UsageError(
            "runs tasks of lm-evaluation-harness, which this Python has not; pip install 'cuvee[harness]'"
        ) from None
    if params.folder is None:
        return found, {}
    own = folder / params.folder
    if not own.is_dir():
        raise UsageError(f"there is no folder {own}; folder: names one with tasks of yours in YAML")
    files = sorted(path for path in own.rglob("*") if path.is_file())
    found["files"] = [[str(path.relative_to(own)), file_hash(path)] for path in files]
    return found, {"folder": str(own.resolve())}


def questions(params: Mapping[str, Any], locate: Mapping[str, Any]) -> Loaded:
    """Describe reading the questions of a task, which are the same for all models that it is run on.

    Args:
        params, locate: of the stage that runs it, or as much of them as says which items there are, and where.
    """
    pins = {name: params[name] for name in PINS if name in params}
    asked = source.Params(**pins, folder=locate.get("folder"), network=locate["network"])
    identity, where = source.pin(asked, Path(), None)
    return load("harness", source.VERSION, identity, label=params["task"], locate={**where, "max_bad": "1/1"})


def known_items(stage: Harnessed, store: Store) -> int | None:
    """Return how many items a task has, by its stored questions or its run on another model; None where unknown."""
    asked = questions(stage.params, stage.locate)
    if store.has("load", asked.id):
        summary = store.manifest("load", asked.id)["summary"]
        return int(summary["rows"]) + int(summary.get("bad") or 0)
    for path in sorted((store.folder / "harness").glob(f"*/{MANIFEST}")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            params = manifest["identity"]["params"]
        except (OSError, ValueError, KeyError):  # being deleted, or damaged
            continue
        if all(params.get(name) == stage.params.get(name) for name in PINS):
            return int(manifest["summary"]["items"])
    return None

"""Find a component by folder and name, read its parameters, suggest near names.

A component is a module under ``cuvee/<folder>/``; its file name is its name. Outside packages add theirs by
entry points of the group ``cuvee.<folder>``. A component is imported when it is named, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from cuvee.errors import UsageError, did_you_mean

FOLDERS = ("sources", "taggers", "selectors", "strategies", "mergers", "evaluators", "analyses")


def names(folder: str) -> dict[str, str]:
    """Return the components of a folder: name to module path.

    Raises:
        UsageError: an outside package uses a name that is taken.
    """
    here = Path(__file__).parent / folder
    found = {p.stem: f"cuvee.{folder}.{p.stem}" for p in sorted(here.glob("*.py")) if not p.stem.startswith("_")}
    for entry in metadata.entry_points(group=f"cuvee.{folder}"):
        if entry.name in found:
            raise UsageError(f"two {folder} are called '{entry.name}': {found[entry.name]} and {entry.value}")
        found[entry.name] = entry.value
    return found


@cache
def find(folder: str, name: str) -> Any:
    """Return the module of a component.

    Raises:
        KeyError: there is none of that name; its text says what is possible.
    """
    # The package's own components need no scan of the installed packages.
    if not name.startswith("_") and (Path(__file__).parent / folder / f"{name}.py").is_file():
        return importlib.import_module(f"cuvee.{folder}.{name}")
    known = names(folder)
    if name not in known:
        raise KeyError(f"there is no '{name}' in {folder}.{did_you_mean(name, known)}")
    return importlib.import_module(known[name])


def without_absent(module: ModuleType, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters for an id: all of them, less those at the value that the module's `ABSENT_WHEN` lists.

    A parameter that is added later with its old behaviour as default is listed there, and leaves old ids alone.
    """
    absent: Mapping[str, Any] = getattr(module, "ABSENT_WHEN", {})
    return {name: value for name, value in params.items() if name not in absent or value != absent[name]}

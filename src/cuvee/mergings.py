"""A merger by name: its parameters checked for a plan, and the merge itself for a worker or the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cuvee import __version__, bases, components
from cuvee.canonical import ID_LENGTH
from cuvee.errors import RecipeError, UsageError
from cuvee.merging import parameters
from cuvee.protocols import Merging, Progress
from cuvee.recipe import validate
from cuvee.runtime import cores
from cuvee.store import Store


def module_of(name: str) -> Any:
    """Return a merger's module.

    Raises:
        UsageError: there is none; says which there are.
    """
    try:
        return components.find("mergers", name)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None


def named(name: str, given: Mapping[str, Any], models: int) -> Merging:
    """Return a merger with its parameters checked for so many models; nothing heavy is imported.

    Raises:
        RecipeError: there is none of that name, a parameter is wrong, or it does not take so many models; the key is
            below the merger's.
    """
    try:
        module = module_of(name)
        # What only a recipe says decides the Fisher stages, and is in their ids.
        params = validate(getattr(module, "RecipeParams", module.Params), given)
        parameters.check(name, module, params, models)
    except RecipeError as error:
        raise RecipeError(error.message, key=".".join(filter(None, ("merger", error.key)))) from None
    except UsageError as error:
        raise RecipeError(str(error), key="merger") from None
    plain = components.without_absent(module, dict(params))
    fisher = {key: plain.pop(key) for key in list(plain) if key not in module.Params.model_fields}
    adapters = getattr(module, "OF", "") == "adapters"
    return Merging(name, module.VERSION, plain, module.needs_base(params), module.ORDERED, adapters, fisher)


def write(
    name: str,
    given: Mapping[str, Any],
    folders: Mapping[str, Sequence[Path]],
    names: Sequence[str],
    out: Path,
    *,
    threads: int,
    shard_bytes: int | None = None,
    dry: bool = False,
    finish: Callable[[Path, dict[str, Any]], None] = lambda folder, summary: None,
    progress: Progress = lambda facts: None,
) -> dict[str, Any]:
    """Merge folders into one.

    Args:
        name: the merger's.
        given: its parameters.
        folders: ``models``; ``base`` and ``fishers`` where the method needs them.
        names: of the models, the base and the fishers, for messages.
        out: the folder to make.
        threads: how many at once, as far as the memory bound allows.
        shard_bytes: largest file; no part of the result.
        dry: check everything, say what would be done, and write nothing.
        finish: writes the model card.
        progress: told what will be done and how much memory it takes, then how far it is.

    Returns:
        The summary; see `merging.merge.write`.

    Raises:
        ModelError, UsageError: before anything is written.
    """
    from cuvee.merging import merge

    module = module_of(name)
    merge.check_absent(out)
    if getattr(module, "OF", "") == "adapters":
        how = {"shard_bytes": shard_bytes, "dry": dry, "finish": finish, "progress": progress}
        return _adapters(name, module, given, folders, names, out, **how)
    method = merge.Method(name, module, validate(module.Params, given))
    base = next(iter(folders.get("base", ())), None)
    inputs = merge.Inputs(tuple(folders["models"]), base, tuple(folders.get("fishers", ())), tuple(names))
    prepared = merge.prepare(inputs, method, max(1, threads))
    for line in merge.describe(prepared):
        progress({"note": line})
    if dry:
        merge.check_disk(out, prepared.bytes)
        return merge.summary(prepared)
    return merge.write(prepared, out, shard_bytes=shard_bytes or merge.SHARD, finish=finish, progress=progress)


def _adapters(
    name: str,
    module: Any,
    given: Mapping[str, Any],
    folders: Mapping[str, Sequence[Path]],
    names: Sequence[str],
    out: Path,
    **how: Any,
) -> dict[str, Any]:
    """Merge adapters: folded into the base, or where there is none, as an adapter."""
    from cuvee.merging import adapters as workshop

    params = validate(module.Params, given)
    parameters.check(name, module, params, len(folders["models"]))
    asked = params.weights or (1.0,) * len(folders["models"])
    weights = [weight / sum(asked) for weight in asked]
    read = [workshop.read(folder, one) for folder, one in zip(folders["models"], names, strict=False)]
    base = next(iter(folders.get("base", ())), None)
    if base is None:
        return workshop.save(read, module.combine, weights, out, **how)
    name = names[len(read)]
    return workshop.fold(base, name, read, module.combine, weights, out, dtype=params.dtype, **how)


def command(
    name: str,
    models: Sequence[str],
    given: Mapping[str, Any],
    out: Path,
    store: Path,
    *,
    base: str | None = None,
    fishers: Sequence[str | Path] = (),
    threads: int = 0,
    shard_bytes: int | None = None,
    dry: bool = False,
    progress: Progress = lambda facts: None,
) -> dict[str, Any]:
    """Merge what the command line names: folders, builtin models, or stages of the store.

    Args:
        name: the merger's.
        models: that are merged.
        given: the merger's parameters.
        out: the folder to make.
        store: where stages lie.
        base: what the models were trained from.
        fishers: folders or stages of Fisher information, one a model.
        threads: how many at once; all cores when 0.
        shard_bytes: largest file.
        dry: check everything, say what would be done, and write nothing.
        progress: told what is done.

    Raises:
        UsageError, ModelError: before anything is written.
    """
    opened = Store(store)
    every = {
        "models": [_folder(model, opened) for model in models],
        "fishers": [_folder(str(one), opened) for one in fishers],
    }
    every["base"] = [_folder(base, opened)] if base else []
    names = [*models, *([base] if base else []), *map(str, fishers)]
    card = partial(_card, name, given, list(models), base)
    return write(
        name,
        given,
        every,
        names,
        out,
        threads=threads or cores(),
        shard_bytes=shard_bytes,
        dry=dry,
        finish=card,
        progress=progress,
    )


def _folder(model: str, store: Store) -> Path:
    """Return the folder of a model or of Fisher information: a stage's, a builtin one's, or as named."""
    if re.fullmatch(r"fisher-[0-9a-f]+", model):
        return store.path(*store.resolve(model))
    if bases.is_stored(model):
        return bases.stored_folder(model, store)
    if model.startswith("builtin:"):
        return bases.builtin_folder(model.removeprefix("builtin:"))
    return Path(model)


def _card(
    name: str, given: Mapping[str, Any], models: Sequence[str], base: str | None, folder: Path, summary: dict[str, Any]
) -> None:
    """Write README.md and cuvee.json: parents by their folders' names, without this machine's paths."""
    module = module_of(name)
    settings = validate(module.Params, given).model_dump(mode="json")
    parents, below = [_called(model) for model in models], _called(base) if base else None
    notes = [_without_paths(note, [*models, *([base] if base else [])]) for note in summary["notes"]]
    recipe = {"merger": {name: dict(given)}, "models": parents, "base": below, "notes": notes}
    made = {"settings": settings, "version": module.VERSION, "cuvee": __version__}
    (folder / "cuvee.json").write_text(json.dumps({**recipe, **made}, indent=1, sort_keys=True), encoding="utf-8")
    adapter = getattr(module, "OF", "") == "adapters" and base is None
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "tags: [cuvee, merge]", "---", ""]
    lines += [f"# {name} of {len(parents)}", ""]
    lines += [f"Merged by cuvee with `{name}` from {', '.join(f'`{one}`' for one in parents)}."]
    lines += [f"\nThey were trained from `{below}`."] if below else []
    lines += ["", "| setting | value |", "| --- | --- |", *(f"| {key} | {settings[key]} |" for key in sorted(settings))]
    lines += [f"\n{note}." for note in notes]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _called(model: str) -> str:
    """Return what a card calls a model: the stage that made it, or the name of its folder."""
    folder = Path(model).resolve()
    try:
        made = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))
        return f"{made['kind']}-{made['id'][:ID_LENGTH]}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def _without_paths(note: str, models: Sequence[str]) -> str:
    for model in sorted((one for one in models if "/" in one), key=len, reverse=True):
        note = note.replace(model, _called(model))
    return note

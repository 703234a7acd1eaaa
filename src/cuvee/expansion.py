"""Runs of a recipe as written to runs as planned: each list is one run a value, and each run has a name of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from cuvee import canonical, components
from cuvee.protocols import Params, RunInfo
from cuvee.recipe import Located, Run

Expanded = tuple[RunInfo, Run, Params, tuple[str | int, ...]]
_Draft = tuple[Run, Params, list[str], tuple[str | int, ...]]


def expanded(located: Located) -> Iterator[Expanded]:
    """Yield each run of the recipe with lists spread out, checked parameters, a name of its own and its place.

    Raises:
        RecipeError: a strategy or parameter that there is not, or an empty list.
    """
    drafts: list[_Draft] = []
    for number, run in enumerate(located.recipe.runs):
        key: tuple[str | int, ...] = ("runs", number)
        try:
            module = components.find("strategies", run.strategy)
        except KeyError as error:
            raise located.error(str(error.args[0]), *key, "strategy") from None
        axes = [name for name, value in run.params.items() if _is_axis(module.Params, name, value)]
        for name in axes:
            if not run.params[name]:
                raise located.error("the list is empty; name at least one value", *key, name)
        for values in itertools.product(*(run.params[name] for name in axes)):
            chosen = {**run.params, **dict(zip(axes, values, strict=True))}
            checked = located.check(module.Params, chosen, *key)
            drafts += [(one, checked, axes, key) for one in _one_selection_each(run)]
    yield from _named(drafts)


def _one_selection_each(run: Run) -> list[Run]:
    if not run.select:
        return [run]
    return [run.model_copy(update={"select": (selection,)}) for selection in run.select]


def _is_axis(model: type[Params], name: str, value: Any) -> bool:
    """A list where the strategy takes one value is one run each."""
    if not isinstance(value, list | tuple) or name not in model.model_fields:
        return False
    return not _holds_many(model.model_fields[name].annotation)


def _holds_many(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(map(_holds_many, get_args(annotation)))
    if origin is Annotated:
        return _holds_many(get_args(annotation)[0])
    return isinstance(origin, type) and issubclass(origin, list | tuple | set | dict)


def _named(drafts: list[_Draft]) -> Iterator[Expanded]:
    """Give every run a short name: its strategy, the axes it lies on, and what else is needed to tell it apart."""
    short = [_name(run, params, axes) for run, params, axes, _ in drafts]
    used: dict[str, int] = {}
    for name, (run, params, axes, key) in zip(short, drafts, strict=True):
        if short.count(name) > 1:
            twins = [dict(other) for twin, (_, other, _, _) in zip(short, drafts, strict=True) if twin == name]
            shown = [each for each in run.params if each in axes or _differs(each, params, twins)]
            shown += [each for each in ("training", "sources") if getattr(run, each)]
            name = _name(run, params, shown)
        used[name] = used.get(name, 0) + 1
        if used[name] > 1:
            name = f"{name} #{used[name]}"
        yield RunInfo(name, run.strategy, dict(params), "", 0), run, params, key


def _differs(name: str, params: Params, others: list[dict[str, Any]]) -> bool:
    return any(other.get(name) != getattr(params, name) for other in others)


def _name(run: Run, params: Params, shown: list[str]) -> str:
    training = ",".join(f"{k}={v}" for k, v in run.training.items())
    values = {**dict(params), "training": training, "sources": ",".join(run.sources)}
    parts = [f"{name}={_text(values[name])}" for name in shown]
    parts += [f"select={selection.text}" for selection in run.select or ()]
    return " ".join([run.name or run.strategy, *parts])


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"name", "params"}:
        return f"{value['name']} {canonical.text(value['params'])}" if value["params"] else str(value["name"])
    return "→".join(_text(item) for item in value) if isinstance(value, list | tuple) else str(value)

"""The hidden states that an analysis of representations looks at: asked for in the plan, read back for the report.

    base, DMT model ... ── embed ── vectors of held-out rows, one stage a model, layer, pooling and source
    held-out rows   ────────┘

The rows are those that `heldout_loss` measures first, so no model has trained on them; where nothing is held out they
are training rows, and the analysis says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cuvee import bases, components
from cuvee.data import vectors
from cuvee.errors import did_you_mean
from cuvee.plan import Plan, PlannedRun
from cuvee.protocols import Ingredient, Representation
from cuvee.recipe import Located
from cuvee.stage import Embedded, Model, Part, embed, mix
from cuvee.store import Store

NAME = "representations"
MOST_RUNS = 8
"""Runs that are looked at side by side; more must be named."""


@dataclass(frozen=True)
class Asked:
    """One cloud of vectors: of which model, by layer and pooling, one stage a source."""

    run: PlannedRun
    base: str
    model: str
    layer: int
    pooling: str
    stages: tuple[tuple[Ingredient, Embedded], ...]


def needs(located: Located, runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, Embedded]]:
    """Return the stages that a recipe's analyses of representations need, each once, with a run that has the model.

    Raises:
        RecipeError: a run is named that there is not, or too many are meant.
    """
    found: dict[str, tuple[PlannedRun, Embedded]] = {}
    for number, component in enumerate(located.recipe.analyses):
        if component.name != NAME:
            continue
        key = ("analyses", number, NAME)
        params = located.check(components.find("analyses", NAME).Params, component.params, *key)
        for one in _asked(located, runs, params, key):
            for _, stage in one.stages:
                found.setdefault(stage.id, (one.run, stage))
    return list(found.values())


def gather(plan: Plan, store: Store, params: Any) -> list[Representation]:
    """Return the vectors of every model that an analysis asks about; of what is not finished, that it is missing."""
    asked = _asked(plan.located, plan.runs, params, ("analyses",))
    held = bool(plan.located.recipe.heldout)
    return [_read(one, store, held) for one in asked]


def _read(asked: Asked, store: Store, held: bool) -> Representation:
    about: dict[str, Any] = {"base": asked.base, "model": asked.model, "layer": asked.layer, "pooling": asked.pooling}
    missing = [ingredient.name for ingredient, stage in asked.stages if not store.has("embed", stage.id)]
    if missing:
        why = f"its hidden states on {', '.join(missing)} are not there"
        none = np.zeros((0, 0), np.float32)
        return Representation(**about, names=(), abilities=(), source=np.zeros(0, np.int16), vectors=none, missing=why)
    found = [vectors.read(store.path("embed", stage.id))["vector"] for _, stage in asked.stages]
    return Representation(
        **about,
        names=[ingredient.name for ingredient, _ in asked.stages],
        abilities=[ingredient.ability for ingredient, _ in asked.stages],
        source=np.repeat(np.arange(len(found)), [len(each) for each in found]).astype(np.int16),
        vectors=np.concatenate([np.asarray(each, np.float32) for each in found]),
        heldout=held,
    )


def _asked(located: Located, runs: Sequence[PlannedRun], params: Any, key: tuple[str | int, ...]) -> Iterator[Asked]:
    seed = located.recipe.seeds[0] if params.run_seed is None else params.run_seed
    chosen = _chosen(located, [run for run in runs if run.info.seed == seed], params, key)
    for base in dict.fromkeys(run.base for run in chosen):
        own = [run for run in chosen if run.base is base]
        models: dict[str, tuple[str, PlannedRun, Model]] = {base.id: ("base", own[0], base)}
        for run in own:
            models.setdefault(run.final.id, (run.info.name, run, run.final))
        for layer in params.layers:
            for pooling in params.pooling:
                for name, run, model in models.values():
                    stages = tuple(_stages(located, run, model, layer, pooling, params.rows))
                    yield Asked(run, base.label, name, layer, pooling, stages)


def _chosen(located: Located, runs: Sequence[PlannedRun], params: Any, key: tuple[str | int, ...]) -> list[PlannedRun]:
    """Return the runs that are looked at, of every base."""
    names = list(dict.fromkeys(run.info.name for run in runs))
    if not runs:
        raise located.error(f"there is no seed {params.run_seed}; the recipe has {located.recipe.seeds}", *key)
    for name in params.runs or ():
        if name not in names:
            raise located.error(f"there is no run '{name}'.{did_you_mean(name, names)}", *key, "runs")
    if params.runs is None and len(names) > MOST_RUNS:
        raise located.error(
            f"looks at every run, and there are {len(names)}; name at most {MOST_RUNS}: "
            f"runs: [{names[0]}, {names[-1]}]",
            *key,
        )
    found = [run for run in runs if params.runs is None or run.info.name in params.runs]
    served = [run.base.label for run in found if run.base.component == bases.ENDPOINT]
    if served:
        raise located.error(f"needs the weights of '{served[0]}', which is behind an endpoint", *key)
    return found


def _stages(
    located: Located, run: PlannedRun, model: Model, layer: int, pooling: str, rows: int
) -> Iterator[tuple[Ingredient, Embedded]]:
    recipe = located.recipe
    # Where nothing is held out all rows are as if they were: the first by the same rank.
    items = {"items": {"of": recipe.heldout or Fraction(1), "most": rows}}
    params = {"precision": run.settings.values.precision, "layer": layer, "pooling": pooling}
    for ingredient in run.ingredients.values():
        part = ingredient.part.filters
        how: Mapping[str, Any] = {**part.how, "amounts": [items]}
        settings = {"heldout": Fraction(0), "split_seed": recipe.split_seed, "seed": recipe.split_seed}
        pool = mix([Part(part.data, how, part.tags, (), part.name, part.ability)], settings, label=part.name)
        yield ingredient, embed(model, pool, "hidden", 1, params)


def gates(needed: Iterable[tuple[PlannedRun, Embedded]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each stage that asks a trained model the checks that the model's trainings wait for."""
    return {
        stage.id: known[run.trainings[0].id]
        for run, stage in needed
        if run.trainings and run.trainings[0].id in known and stage.one("model") is run.final
    }

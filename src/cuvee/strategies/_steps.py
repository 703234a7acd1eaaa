"""The one step all strategies are made of: train a model on a union of ingredients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cuvee.errors import RecipeError, did_you_mean
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Model, Trained, mix, train


def train_on(start: Model, ingredients: Iterable[Ingredient], hyper: Hyper) -> Trained:
    """Return `start` trained on the union of `ingredients`, labelled with their names.

    What the recipe replays is mixed in, unless the training has that source anyway.
    """
    parts = list(ingredients)
    label = " + ".join(part.name for part in parts)
    replay = hyper.replay()
    if replay is not None and replay.name not in [part.name for part in parts]:
        parts.append(replay)
        label += f", replay of {replay.name}"
    data = mix([part.part for part in parts], hyper.mixture(), label=label)
    return train(start, data, hyper.training(), label=label, fisher=hyper.fisher(start))


def pick(sources: Mapping[str, Ingredient], name: str, key: str) -> Ingredient:
    """Return the source called `name`.

    Raises:
        RecipeError: there is none; says which there are.
    """
    if name not in sources:
        raise RecipeError(f"there is no source '{name}'.{did_you_mean(name, sources)}", key=key)
    return sources[name]


def rest(sources: Mapping[str, Ingredient], name: str, key: str) -> list[Ingredient]:
    """Return all sources but `name`.

    Raises:
        RecipeError: nothing is left.
    """
    others = [source for source in sources.values() if source.name != name]
    if not others:
        raise RecipeError(f"needs special sources besides '{name}'; the recipe has none", key=key)
    return others

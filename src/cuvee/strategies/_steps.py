"""The steps all strategies are made of: train a model on a union of ingredients; merge models into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cuvee.errors import RecipeError, did_you_mean
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Fisher, Merged, Mixture, Model, Trained, fisher, merge, mix, train


def train_on(
    start: Model,
    ingredients: Iterable[Ingredient],
    hyper: Hyper,
    *,
    label: str = "",
    own: Mapping[str, Any] | None = None,
    replayed: Callable[[Ingredient], Ingredient] = lambda replay: replay,
) -> Trained:
    """Return `start` trained on the union of `ingredients`.

    What the recipe replays is mixed in, unless the training has that source anyway.

    Args:
        start: what is trained.
        ingredients: the sources.
        hyper: the settings.
        label: for people; the sources' names when empty.
        own: settings of this training in place of the run's.
        replayed: what of the replay this training has, where it is one of several that share it.
    """
    parts = list(ingredients)
    label = label or " + ".join(part.name for part in parts)
    replay = hyper.replay()
    if replay is not None and replay.name not in [part.name for part in parts]:
        parts.append(replayed(replay))
        label += f", replay of {replay.name}"
    data = mix([part.part for part in parts], hyper.mixture(), label=label)
    return train(start, data, {**hyper.training(), **(own or {})}, label=label, fisher=hyper.fisher(start))


def merge_all(models: Sequence[Trained], start: Model, hyper: Hyper, merger: Any) -> Merged:
    """Return the merge of models that were trained from `start`.

    Raises:
        RecipeError: there is no such merger, its parameters do not fit, or it merges adapters and the trainings make
            none.
    """
    method = hyper.merging(merger, len(models))
    if method.adapters and any(model.kind != "fold" for model in models):
        message = f"{method.name} merges the adapters of LoRA trainings; say training: {{method: lora}}"
        raise RecipeError(message, key="merger")
    return merge(
        [model.training for model in models] if method.adapters else models,
        method.name,
        method.version,
        method.params,
        start if method.needs_base else None,
        fishers=[_information(model, hyper, method.fisher) for model in models] if method.fisher else (),
        ordered=method.ordered,
        label=f"{method.name} of {len(models)}",
    )


def _information(model: Trained, hyper: Hyper, asked: Mapping[str, Any]) -> Fisher:
    """Return the Fisher information of a model on the rows that it was trained on."""
    training = hyper.training()
    # The run's seed, whatever the training's: models of the same rows are asked about the same ones.
    more = {"seed": training["seed"], "precision": training["precision"]}
    rows = model.training.one("data")
    assert isinstance(rows, Mixture)
    return fisher(model, rows, {**asked, **more})


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

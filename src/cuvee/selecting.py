"""A recipe's `select` to stages: the pool, the evidence that a selector needs, and the choice.

    source 1 ── mix (its pool) ──┬── score by the base ───────────┐
    source 2 ── mix (its pool) ──┼── score by the base ───────────┼── select ── left out of every mixture
                                 └── mix ── train ── score ───────┘

A pool has the rows that are left after held-out prompts, duplicates, overlap, `drop` and `keep`. Whatever two selectors
both need, such as a reference model, is one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cuvee import bases, components
from cuvee.errors import CuveeError, RecipeError, UsageError, did_you_mean
from cuvee.pins import Pins
from cuvee.protocols import IN_ORDER, Ingredient, Needs, takes_some
from cuvee.recipe import BaseModelRef, Component, Located, Selection, Source, Training
from cuvee.stage import (
    Base,
    Embedded,
    Loaded,
    Mixture,
    Model,
    Part,
    Scores,
    Selected,
    Tagged,
    Trained,
    embed,
    gradients,
    mix,
    render,
    score_rows,
    score_stored,
    select,
    train,
)

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Selecting:
    """What making selections of a recipe needs besides the selections.

    Args:
        located: the recipe.
        pins: remembered file hashes.
        tokenizer: a base model's tokenizer as a stage.
        load: reads a source that is no source of the recipe, such as a target set.
    """

    located: Located
    pins: Pins
    tokenizer: Callable[[Base], Base]
    load: Callable[[str, Source], Loaded]

    def apply(
        self, selection: Selection, key: Key, ingredients: Mapping[str, Ingredient], base: Model, settings: Any
    ) -> dict[str, Ingredient]:
        """Return the ingredients with the rows that a selection does not keep left out.

        Args:
            selection: what is asked.
            key: where in the recipe.
            ingredients: the run's sources.
            base: the model that the run starts from.
            settings: the run's `plan.Settings`.

        Raises:
            RecipeError: a selector, parameter or source that there is not.
        """
        names = self._names(selection, key, ingredients)
        pool = self.pool(selection, key, [ingredients[name] for name in names], base, settings)
        stage = self.choose(selection, key, pool, selection.rule())
        chosen = {one.name: number for number, one in enumerate(pool.ingredients)}
        return {
            name: _without(one, stage, chosen[name]) if name in chosen else one for name, one in ingredients.items()
        }

    def pool(
        self, selection: Selection, key: Key, ingredients: Iterable[Ingredient], base: Model, settings: Any
    ) -> RowPool:
        """Return the pool of a selection; its parts in the order of their ids."""
        settings = settings if selection.seed is None else replace(settings, seed=selection.seed)
        amounts = [selection.pool.canonical()] if selection.pool else []
        parts = [_whole(one, amounts) for one in ingredients]
        # What a pool draws hangs on the split's seed: all runs and seeds look at one pool.
        draw = settings.split_seed
        return RowPool(self, key, _ordered(parts, settings, draw), base, settings, draw)

    def choose(
        self, selection: Selection, key: Key, pool: RowPool, rule: Mapping[str, Any], at: str = "by"
    ) -> Selected:
        """Return the stage that chooses rows of a pool by a rule of `data.selection`; `at` names the recipe's key."""
        name = selection.by.name
        try:
            module = components.find("selectors", name)
        except KeyError as error:
            raise self.located.error(str(error.args[0]), *key, at) from None
        params = self.located.check(module.Params, selection.by.params, *key, at, name)
        self._check_rule(module, params, rule, *key, at, name)
        try:
            needs: Needs = module.needs(pool, params)
        except RecipeError:
            raise
        except CuveeError as error:
            raise self.located.error(str(error), *key, at, name) from error
        evidence = {f"rows.{role}": stages for role, stages in needs.rows.items()}
        evidence |= {f"targets.{role}": stages for role, stages in needs.targets.items()}
        identity = components.without_absent(module, module.identity(params))
        if module.SEEDED:
            identity["seed"] = pool.seed
        groups = _groups(selection.within, pool.ingredients)
        asked = {"by": identity, "rule": rule, **({"groups": groups} if groups else {})}
        return select(
            name,
            module.VERSION,
            asked,
            pool.parts,
            evidence,
            label=f"{' + '.join(one.name for one in pool.ingredients)} by {_told(selection, rule)}",
            names=[(one.name, one.ability) for one in pool.ingredients],
        )

    def banded(
        self,
        sources: Mapping[str, Ingredient],
        by: Component,
        rule: Mapping[str, Any],
        at: str,
        *,
        key: Key,
        base: Model,
        settings: Any,
    ) -> list[Ingredient]:
        """Return sources reduced to the rows whose score lies in a band; amounts are taken before that."""
        # The rule is the stage's; a selection of the recipe has no such rules, and one of its own must be named.
        selection = Selection(by=by, share=Fraction(1))
        settings = replace(settings, bands=None)
        pool = RowPool(self, key, _ordered(sources.values(), settings, settings.seed), base, settings, settings.seed)
        # A score that is no reason to train on a row is still its difficulty.
        stage = self.choose(selection, key, pool, {**rule, "refused": True}, at)
        taken = [replace(one, how={k: v for k, v in one.how.items() if k != "amounts"}) for one in pool.ingredients]
        found = {one.name: _without(one, stage, number) for number, one in enumerate(taken)}
        return [found[name] for name in sources]

    def _check_rule(self, module: Any, params: Any, rule: Mapping[str, Any], *key: str | int) -> None:
        """Refuse a rule about scores for a selector whose order, not whose scores, decides."""
        if hasattr(module, "ordered") and module.ordered(params) and not takes_some(rule):
            instead = "; choose: highest goes by scores" if "choose" in module.Params.model_fields else ""
            raise self.located.error(IN_ORDER + instead, *key)

    def _names(self, selection: Selection, key: Key, ingredients: Mapping[str, Ingredient]) -> list[str]:
        if selection.sources is None:
            return list(ingredients)
        for name in selection.sources:
            if name not in ingredients:
                message = f"there is no source '{name}'.{did_you_mean(name, ingredients)}"
                raise self.located.error(message, *key, "sources")
        if not selection.sources or len(set(selection.sources)) < len(selection.sources):
            raise self.located.error("must name sources, each once", *key, "sources")
        return list(selection.sources)


def _whole(ingredient: Ingredient, amounts: list[dict[str, Any]]) -> Ingredient:
    """Return a source as a pool has it: all that its filters leave, or a part of that."""
    how = {name: value for name, value in ingredient.how.items() if name != "amounts"}
    return replace(ingredient, how={**how, "amounts": amounts} if amounts else how)


def _further(ingredient: Ingredient, amount: Mapping[str, Any]) -> Ingredient:
    return replace(ingredient, how={**ingredient.how, "amounts": [*ingredient.how.get("amounts", []), amount]})


def _fold(of: int, number: int, *, inside: bool) -> dict[str, Any]:
    return {"fold": {"of": of, "number": number, "inside": inside}}


def _without(ingredient: Ingredient, stage: Selected, number: int) -> Ingredient:
    return replace(ingredient, excluded=(*ingredient.excluded, (stage, number)))


def _told(selection: Selection, rule: Mapping[str, Any]) -> str:
    """Return a short name of a choice."""
    if rule == selection.rule():
        return selection.text
    low, high = ("" if end is None else str(end) for end in rule["between"])
    return f"{selection.by.name} {low}..{high}{' shuffled' if 'shuffled' in rule else ''}"


def _mix(ingredients: Iterable[Ingredient], settings: Any, draw: int, label: str) -> Mixture:
    """Return a mixture of pool rows."""
    parts: list[Part] = [one.part for one in ingredients]
    return mix(parts, {**settings.mixture(), "seed": draw}, label=label)


def _ordered(ingredients: Iterable[Ingredient], settings: Any, draw: int) -> tuple[Ingredient, ...]:
    """Return sources in the order of the ids of their pools, so that the order in the recipe changes nothing."""
    return tuple(sorted(ingredients, key=lambda one: _mix([one], settings, draw, one.name).id))


def _groups(within: str, ingredients: Iterable[Ingredient]) -> list[int]:
    """Return the number of each part's group; empty where all are one group."""
    names = [one.name if within == "source" else one.ability for one in ingredients]
    if within == "all" or len(set(names)) == 1:
        return []
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


@dataclass(frozen=True)
class RowPool:
    """The rows that a selection looks at; implements `protocols.Pool`."""

    selecting: Selecting
    key: Key
    ingredients: tuple[Ingredient, ...]
    base: Model
    settings: Any
    draw: int

    @property
    def seed(self) -> int:
        """The run's seed, or the selection's own."""
        return int(self.settings.seed)

    @property
    def parts(self) -> tuple[Mixture, ...]:
        """One mixture for each source."""
        return tuple(_mix([one], self.settings, self.draw, one.name) for one in self.ingredients)

    def score(self, model: Model, *, prompt: bool = True, entropy: bool = False) -> tuple[Scores, ...]:
        """Return the losses of every part's rows under a model."""
        params: dict[str, Any] = {"precision": self.settings.values.precision}
        params |= {} if prompt else {"prompt": False}
        params |= {"entropy": True} if entropy else {}
        return tuple(score_rows(model, part, params) for part in self.parts)

    def stored(self, path: str, column: str, missing: str) -> tuple[Scores, ...]:
        """Return scores that a file holds.

        Raises:
            UsageError: there is no such file.
        """
        file = (self.selecting.located.folder / path).resolve()
        if not file.is_file():
            raise UsageError(f"there is no file {file}; name a Parquet, JSONL or CSV file of scores")
        params = {"sha256": self.selecting.pins.file_hash(file), "column": column, "missing": missing}
        return tuple(score_stored(part, params, {"path": str(file)}) for part in self.parts)

    def embed(self, model: Model, params: Mapping[str, Any]) -> tuple[Embedded, ...]:
        """Return a vector for every part's rows."""
        given = {"precision": self.settings.values.precision, **params}
        return tuple(embed(model, part, "hidden", 1, given) for part in self.parts)

    def trained(self, changes: Mapping[str, Any], share: Fraction | None = None) -> Trained:
        """Return the base trained on the pool, or on a share of it.

        Raises:
            RecipeError: `changes` are no settings of a training, or such that decide tokens.
        """
        rows = (
            list(self.ingredients) if share is None else [_further(one, {"share": share}) for one in self.ingredients]
        )
        return self._train(rows, changes, " + ".join(one.name for one in rows))

    def _train(self, rows: list[Ingredient], changes: Mapping[str, Any], label: str) -> Trained:
        located, settings = self.selecting.located, self.settings
        given = {**settings.values.model_dump(exclude_unset=True), **changes}
        values = located.check(Training, given, *self.key, "by")
        if values.rendering() != settings.values.rendering():
            names = ", ".join(values.rendering())
            raise located.error(
                f"a reference is trained on the run's own tokens; {names} are the run's", *self.key, "by"
            )
        # What holds the run's own trainings near their start, and what sets them apart, is not the reference's.
        values = values.model_copy(update={"regulariser": None, "stages": ()})
        label = f"{label}, for selecting"
        mixed = _mix(rows, settings, self.draw, label)
        params = replace(settings, values=values).training()
        if values.method == "lora":  # whoever needs its gradients needs its epochs, and equal trainings are one
            params = {**params, "states": "epochs"}
        return train(self.base, mixed, params, label=label)

    def gradients(self, model: Trained, params: Mapping[str, Any]) -> tuple[Embedded, ...]:
        """Return LESS features of every part's rows."""
        given = {"precision": self.settings.values.precision, **params}
        return tuple(gradients(model, part, given) for part in self.parts)

    def folded(self, folds: int, changes: Mapping[str, Any]) -> tuple[tuple[Scores, ...], ...]:
        """Return for each fold of the prompts the losses of its rows under the base trained on the other folds."""
        found = []
        for number in range(folds):
            others = [_further(one, _fold(folds, number, inside=False)) for one in self.ingredients]
            label = f"{' + '.join(one.name for one in others)} without fold {number + 1} of {folds}"
            reference = self._train(others, changes, label)
            inside = tuple(_further(one, _fold(folds, number, inside=True)) for one in self.ingredients)
            found.append(replace(self, ingredients=inside).score(reference))
        return tuple(found)

    def other(self, model: str) -> tuple[Base, RowPool]:
        """Return another base model, and the same pool as that model's tokenizer renders it.

        Raises:
            UsageError: there is no such model.
        """
        base = bases.resolve(BaseModelRef(path=model), self.selecting.located.folder, self.selecting.pins)
        tokenizer, rendering = self.selecting.tokenizer(base), self.settings.values.rendering()
        rendered = [
            replace(one, data=render(self._source(one), tokenizer, rendering))  # the same rows in the same order
            for one in self.ingredients
        ]
        return base, replace(self, ingredients=tuple(rendered), base=base)

    @staticmethod
    def _source(ingredient: Ingredient) -> Loaded:
        source = ingredient.data.one("source")
        assert isinstance(source, Loaded)
        return source

    def target(self, given: Mapping[str, Any]) -> RowPool:
        """Return the rows of a file as a pool of their own.

        Args:
            given: keys of a source: path, format, columns ...
        """
        located = self.selecting.located
        source = located.check(Source, {"ability": "target", "max_bad": 0, **given}, *self.key, "by")
        loaded = self.selecting.load(f"target {given.get('path')}", source)
        data = render(loaded, self.selecting.tokenizer(self._root()), self.settings.values.rendering())
        how = {"amounts": [source.amount.canonical()]} if source.amount else {}
        settings = replace(self.settings, heldout=Fraction(0))
        return replace(self, ingredients=(Ingredient(loaded.label, "target", data, how),), settings=settings)

    def _root(self) -> Base:
        model: Any = self.base
        while not isinstance(model, Base):
            model = model.start
        return model

    def tags(self) -> tuple[tuple[Tagged, ...], ...]:
        """Return the taggings of every part's source."""
        return tuple(one.tags for one in self.ingredients)

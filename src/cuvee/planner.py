"""A recipe to a graph: names resolved, parameters checked, strategies asked, evaluations hung on the models.

The plan is the union of all runs' graphs with equal stages counted once. Making it executes no stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from cuvee import bases, components, representing
from cuvee.errors import RecipeError, UsageError, did_you_mean
from cuvee.expansion import expanded
from cuvee.measuring import Measuring
from cuvee.pins import Pins
from cuvee.plan import Evaluated, Plan, PlannedRun, Settings
from cuvee.protocols import NOTHING_SELECTED, Ingredient, Params, RunInfo
from cuvee.recipe import BaseModelRef, Located, Run, Selection, Source, Training
from cuvee.screening import Screening
from cuvee.selecting import Selecting
from cuvee.sourcing import Sourcing
from cuvee.stage import Base, Judged, Merged, Model, Preflight, Stage, Trained, render


def make(located: Located, pins: Pins) -> Plan:
    """Return the plan of a recipe.

    Raises:
        UsageError: with the key and line, what is possible and the remedy.
    """
    builder = _Builder(located, pins)
    plan = builder.build()
    pins.save()
    return plan


class _Builder:
    """Holds what has been resolved so far, so that equal questions are asked once."""

    def __init__(self, located: Located, pins: Pins) -> None:
        self.located, self.recipe, self.pins = located, located.recipe, pins
        self.sourcing = Sourcing(located, pins)
        self.loaded = {name: self.sourcing.source(name, source) for name, source in self.recipe.sources.items()}
        self.refs: dict[str, BaseModelRef] = {}
        self.tokenizers: dict[str, Base] = {}
        self.gates: dict[str, tuple[Preflight, ...]] = {}
        self.preflights: dict[Any, Preflight] = {}
        self.runs: list[PlannedRun] = []
        self.settings: dict[Any, tuple[Settings, dict[str, Ingredient]]] = {}
        self.measuring = Measuring(located, pins, self.sourcing, self.runs)

    def build(self) -> Plan:
        self._check_analyses()
        self.selecting = Selecting(self.located, self.pins, self._tokenizer, self.sourcing.load, self._models)
        self.screening = Screening(self.located, self.pins, self.loaded, self.measuring.benchmarks())
        evaluated: list[Evaluated] = []
        for base, seed, (info, run, params, key) in itertools.product(
            self._bases(), self.recipe.seeds, list(expanded(self.located))
        ):
            info = replace(info, base=self.refs[base.id].path, seed=seed, training=dict(run.training))
            info = replace(info, sources={name: choice.model_dump() for name, choice in run.sources.items()})
            info = replace(info, select=_selected(run), recipe_select=self._selected_for(run))
            self.runs.append(self._plan_run(info, run, params, key, base))
        # A run may be compared with one that comes later in the recipe.
        for planned in self.runs:
            measured = list(self.measuring.evaluate(planned))
            evaluated += measured
            self._gate(planned, measured)
        self.measuring.check_compared(evaluated)
        represented = representing.needs(self.located, self.runs)
        self.gates |= representing.gates(represented, self.gates)
        sources: dict[str, tuple[str, str]] = {}
        for name, stage in self.loaded.items():
            sources.setdefault(stage.id, (name, self.recipe.sources[name].ability))
        return Plan(
            self.located,
            tuple(self.runs),
            tuple(evaluated),
            self.refs,
            self.sourcing.declared,
            sources,
            {stage.id: name for name, stage in self.screening.benchmarks.items()},
            self.gates,
            tuple(represented),
        )

    def _models(self, base: Base, seed: int) -> dict[str, list[Model]]:
        """Return the models of the runs planned so far from a base with a seed, by the run's name."""
        of_both = (run for run in self.runs if run.base.id == base.id and run.info.seed == seed)
        return {run.info.name: [*run.models] or [run.base] for run in of_both}

    def _gate(self, run: PlannedRun, evaluated: Iterable[Evaluated]) -> None:
        """Let a run's trainings wait for the checks of its sources as it renders them."""
        if not run.models:
            return
        settings = run.settings.values
        asked = (self.tokenizers[run.base.id].id, tuple(settings.rendering().items()))
        if asked not in self.preflights:
            renders = [ingredient.data for ingredient in run.ingredients.values()]
            found = self.screening.preflight(renders, self.tokenizers[run.base.id])
            if found is None:
                return
            self.preflights[asked] = found
        # Reference models of selections train on the same rows.
        self.gates |= {stage.id: (self.preflights[asked],) for stage in run.trainings}
        # What is asked of a trained model waits as well: it may have been trained before the question was known.
        models = {model.id for model in (*run.models, *(marked for _, _, marked in run.marks))}
        asked_of = [one for item in evaluated for one in _asked_of(item.grade.one("answers"))]
        self.gates |= {one.id: (self.preflights[asked],) for one in asked_of if one.one("model").id in models}

    def _check_analyses(self) -> None:
        """Refuse a wrong analysis before anything is trained; one without parameters needs no import for that."""
        for number, component in enumerate(self.recipe.analyses):
            known = components.names("analyses")
            if component.name not in known:
                message = f"there is no '{component.name}' in analyses.{did_you_mean(component.name, known)}"
                raise self.located.error(message, "analyses", number)
            if component.params:
                module = components.find("analyses", component.name)
                self.located.check(module.Params, component.params, "analyses", number, component.name)

    def _bases(self) -> list[Base]:
        found = []
        for number, ref in enumerate(self.recipe.all_bases):
            try:
                stage = bases.resolve(ref, self.located.folder, self.pins)
            except UsageError as error:
                key = ("bases", number) if self.recipe.bases else ("base",)
                raise self.located.error(str(error), *key) from error
            self.refs[stage.id] = ref
            self.tokenizers[stage.id] = bases.tokenizer(stage, self.pins)
            found.append(stage)
        return found

    def _plan_run(self, info: RunInfo, run: Run, params: Params, key: tuple[str | int, ...], base: Base) -> PlannedRun:
        settings, ingredients = self._setting(run, key, base, info.seed)
        module = components.find("strategies", run.strategy)
        trained = {name: one for name, one in ingredients.items() if not self.recipe.sources[name].replay}
        try:
            bands = partial(self.selecting.banded, key=key, base=base, settings=settings)
            sources = self._chosen(run, trained)
            final = module.plan(sources, base, replace(settings, bands=bands), params)
        except RecipeError as error:
            if error.key.startswith(".".join(map(str, key))):  # it knows its place in the recipe
                raise
            raise self.located.error(error.message, *key, *filter(None, error.key.split("."))) from error
        models = _chain(final)
        if models and base.component == bases.ENDPOINT:
            raise self.located.error(
                f"trains, and the base '{base.label}' is behind an endpoint, which can only be judged: "
                "strategy: untrained, or a base with weights (a folder, a hub id)",
                *key,
                "strategy",
            )
        if models and bases.quantised(base):
            raise self.located.error(
                f"trains, and the base '{base.label}' is quantised: training and folding need full-precision weights; "
                "take the unquantised model, or dequantise it once and save it",
                *key,
                "strategy",
            )
        return PlannedRun(info, base, models, settings, ingredients)

    @staticmethod
    def _chosen(run: Run, ingredients: Mapping[str, Ingredient]) -> Mapping[str, Ingredient]:
        """Return the sources that a run's strategy sees, with the run's changes."""
        changed = {
            name: replace(ingredients[name], how=choice.changed(ingredients[name].how))
            for name, choice in run.sources.items()
        }
        return changed or ingredients

    def _setting(
        self, run: Run, key: tuple[str | int, ...], base: Base, seed: int
    ) -> tuple[Settings, dict[str, Ingredient]]:
        """Return what all values of a run's axes share: its settings and its sources."""
        asked = (key, repr(run.select), repr(run.sources), base.id, seed)
        if asked not in self.settings:
            values = {**self.recipe.training.model_dump(exclude_unset=True), **run.training}
            training = self.located.check(Training, values, *key, "training")
            self._check_named(training, key)
            settings = Settings(training, self.recipe.heldout, self.recipe.split_seed, seed)
            ingredients = self._ingredients(base, settings)
            self._check_sources(run, key)
            # A pool has what the run's own filters leave; the run's changes themselves come with its strategy.
            pools = ingredients | dict(self._chosen(run, ingredients))
            for selection, where in self._selections(run, key):
                pools = self.selecting.apply(selection, where, pools, base, settings)
            ingredients = {name: replace(one, excluded=pools[name].excluded) for name, one in ingredients.items()}
            self.settings[asked] = replace(settings, sources=ingredients), ingredients
        return self.settings[asked]

    def _trained_on(self, run: Run) -> list[str]:
        """Return the names of the sources that a run trains on, those that are only replayed not among them."""
        names = [name for name, source in self.recipe.sources.items() if not source.replay]
        return [name for name in names if name in run.sources] if run.sources else names

    def _check_sources(self, run: Run, key: tuple[str | int, ...]) -> None:
        """Refuse names of sources which there are not, and selections of sources that the run has not."""
        known = [name for name, source in self.recipe.sources.items() if not source.replay]
        for name in run.sources:
            if name not in known:
                message = f"there is no source '{name}'.{did_you_mean(name, known)}"
                raise self.located.error(message, *key, "sources", name)
        if "select" not in run.model_fields_set:
            return
        there = self._trained_on(run)
        for name in (name for selection in run.select or () for name in selection.sources or ()):
            if name in known and name not in there:
                message = f"this run does not train on '{name}', only on {', '.join(there)}"
                raise self.located.error(message, *key, "select", "sources")

    def _check_named(self, training: Training, key: tuple[str | int, ...]) -> None:
        """Refuse settings that name a source which there is not."""
        ewc = training.regulariser.ewc if training.regulariser else None
        for place, asked in (("replay", training.replay), ("regulariser.ewc", ewc)):
            if asked is not None and asked.source not in self.recipe.sources:
                message = f"there is no source '{asked.source}'.{did_you_mean(asked.source, self.recipe.sources)}"
                raise self.located.error(message, *self._at(place, key), "source")

    def _at(self, place: str, key: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """Return where a setting of a run's trainings was given: at the run, else for all."""
        steps = place.split(".")
        number = key[-1]
        assert isinstance(number, int)
        given = steps[0] in self.recipe.runs[number].training
        return (*(key if given else ()), "training", *steps)

    def _selections(self, run: Run, key: tuple[str | int, ...]) -> Iterator[tuple[Selection, tuple[str | int, ...]]]:
        """Yield the selections of a run with their places in the recipe: its own, or the sources' and the rest."""
        there = self._trained_on(run)
        if "select" in run.model_fields_set:
            for selection in run.select or ():
                names = tuple(there) if selection.sources is None else selection.sources
                yield selection.model_copy(update={"sources": names}), (*key, "select")
            return
        own = {name: source.select for name, source in self.recipe.sources.items() if source.select}
        for name, selection in own.items():
            yield selection.model_copy(update={"sources": (name,)}), ("sources", name, "select")
        if self.recipe.select:
            rest = self.recipe.select.sources or tuple(
                name for name, source in self.recipe.sources.items() if name not in own and not source.replay
            )
            used = tuple(name for name in rest if name in there or name not in self.recipe.sources or not run.sources)
            if used or not rest:
                yield self.recipe.select.model_copy(update={"sources": used}), ("select",)

    def _selected_for(self, run: Run) -> str:
        """Return in words the recipe's selections that choose rows of a run's sources."""
        if "select" in run.model_fields_set:
            return ""
        there = set(self._trained_on(run))
        found = [one.text for one, _ in self._selections(run, ()) if there & set(one.sources or ())]
        return "; ".join(dict.fromkeys(found))

    def _tokenizer(self, base: Base) -> Base:
        if base.id not in self.tokenizers:
            self.tokenizers[base.id] = bases.tokenizer(base, self.pins)
        return self.tokenizers[base.id]

    def _ingredients(self, base: Base, settings: Settings) -> dict[str, Ingredient]:
        found = {}
        for name, source in self.recipe.sources.items():
            rendered = render(self.loaded[name], self.tokenizers[base.id], settings.values.rendering())
            tags, excluded = self.screening.tags(name), self.screening.excluded(name)
            found[name] = Ingredient(name, source.ability, rendered, _how(source), tags, excluded)
        return found


def _asked_of(answers: Stage) -> list[Stage]:
    """Return the stages that ask a model, behind what is graded."""
    if not isinstance(answers, Judged):
        return list(answers.inputs.get("members", (answers,)))
    return [*answers.inputs["answers"], *answers.inputs.get("others", ())]


def _how(source: Source) -> dict[str, Any]:
    """Return which rows of a source are used, leaving out what is not asked for."""
    how: dict[str, Any] = {}
    if source.amount:
        how["amounts"] = [source.amount.canonical()]
    if source.duplicates.drop and source.duplicates.near is None:
        how["duplicates"] = "drop"
    for name, rule in (("drop", source.drop), ("keep", source.keep)):
        if rule:
            how[name] = rule.canonical()
    return how


def _chain(final: Model) -> tuple[Trained | Merged, ...]:
    models: list[Trained | Merged] = []
    model: Stage = final
    while isinstance(model, Trained | Merged):
        models.append(model)
        model = model.start
    return tuple(reversed(models))


def _selected(run: Run) -> str:
    """Return a run's own selection in words."""
    if "select" not in run.model_fields_set:
        return ""
    return ", ".join(selection.text for selection in run.select or ()) or NOTHING_SELECTED

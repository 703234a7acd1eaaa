"""A recipe to a graph: names resolved, parameters checked, strategies asked, evaluations hung on the models.

The plan is the union of all runs' graphs with equal stages counted once. Making it executes no stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from cuvee import bases, canonical, components, mergings
from cuvee.data.files import Absent
from cuvee.errors import DataError, RecipeError, UsageError, did_you_mean
from cuvee.pins import Pins
from cuvee.protocols import NOTHING_SELECTED, EvaluatorParams, Ingredient, Merging, Params, RunInfo
from cuvee.recipe import BaseModelRef, Component, Declared, Located, Run, Selection, Source, Training
from cuvee.screening import Screening
from cuvee.selecting import Selecting
from cuvee.stage import (
    Adapter,
    Base,
    Fisher,
    Judged,
    Loaded,
    Marked,
    Merged,
    Model,
    Part,
    Preflight,
    Responses,
    Results,
    Stage,
    Trained,
    choose,
    fisher,
    generate,
    grade,
    harness,
    judge,
    load,
    mark,
    mix,
    render,
    score,
    walk,
)


@dataclass(frozen=True)
class Settings:
    """The training settings of one run at one seed, as strategies see them (`protocols.Hyper`)."""

    values: Training
    heldout: Any
    split_seed: int
    seed: int
    sources: Mapping[str, Ingredient] = field(default_factory=dict, repr=False)
    bands: Callable[..., list[Ingredient]] | None = field(default=None, compare=False, repr=False)

    def mixture(self) -> Mapping[str, Any]:
        """Return the parameters of a mixture."""
        return {"heldout": self.heldout, "split_seed": self.split_seed, "seed": self.seed}

    def training(self) -> Mapping[str, Any]:
        """Return the parameters of a training.

        Raises:
            RecipeError: there are settings for several trainings, and the strategy did not say which one this is.
        """
        if self.values.stages:
            raise RecipeError("are for strategies of several trainings, one after another", key="training.stages")
        return {**self.values.optimisation(), "seed": self.seed}

    def stage(self, number: int, stages: int) -> Settings:
        """Return the settings of training `number` (from 0) of `stages`.

        Raises:
            RecipeError: the recipe has settings for another number of trainings.
        """
        asked = self.values.stages
        if not asked:
            return self
        if len(asked) != stages:
            message = (
                f"have {len(asked)} entries, and this run has {stages} trainings; write {{}} for one without its own"
            )
            raise RecipeError(message, key="training.stages")
        return replace(self, values=self.values.of_stage(number))

    def replay(self) -> Ingredient | None:
        """Return the part of a source that is mixed into every training."""
        asked = self.values.replay
        return self.sources[asked.source].share(asked.share) if asked else None

    def fisher(self, start: Model) -> Fisher | None:
        """Return the Fisher information that the regulariser ewc holds a training from `start` by."""
        asked = self.values.regulariser.ewc if self.values.regulariser else None
        if asked is None:
            return None
        data = mix([self.sources[asked.source].part], self.mixture(), label=asked.source)
        more = {"seed": self.seed, "precision": self.values.precision}
        return fisher(start, data, {"samples": asked.samples, "labels": asked.labels, **more})

    def banded(
        self, sources: Mapping[str, Ingredient], by: Component, rule: Mapping[str, Any], at: str = "difficulty"
    ) -> list[Ingredient]:
        """Return the sources reduced to the rows whose score lies in a band."""
        assert self.bands is not None
        return self.bands(sources, by, rule, at)

    def merging(self, merger: Any, models: int) -> Merging:
        """Return a merger by name with its parameters checked for so many models.

        Raises:
            RecipeError: there is none of that name, or its parameters do not fit.
        """
        return mergings.named(merger["name"], merger["params"], models)


@dataclass(frozen=True)
class PlannedRun:
    """One run: its base and its models in order, the final one last; none where the base itself is judged.

    A merged model stands in the line for those it was merged from.
    """

    info: RunInfo
    base: Base
    models: tuple[Trained | Merged, ...]
    settings: Settings
    ingredients: Mapping[str, Ingredient]

    @property
    def final(self) -> Model:
        """The run's last model."""
        return self.models[-1] if self.models else self.base

    @cached_property
    def trainings(self) -> tuple[Stage, ...]:
        """All trainings behind the run's last model, those for selecting rows included."""
        return tuple(stage for stage in walk([self.final]) if stage.kind == "train")

    @cached_property
    def own_trainings(self) -> tuple[Stage, ...]:
        """The trainings of the run's models, those that were merged included; none that only chooses rows."""
        found: dict[str, Stage] = {}
        stack: list[Stage] = [self.final]
        while stack:
            model = stack.pop()
            if isinstance(model, Merged):
                stack += model.inputs["models"]
            elif isinstance(model, Trained | Adapter):
                training = model.training if isinstance(model, Trained) else model
                found.setdefault(training.id, training)
                stack.append(model.start if isinstance(model, Trained) else model.one("model"))
        return tuple(reversed(found.values()))

    @property
    def steps(self) -> list[tuple[int, Model]]:
        """Position and model: 0 is the base."""
        return list(enumerate((self.base, *self.models)))

    @cached_property
    def marks(self) -> tuple[tuple[int, Fraction, Marked], ...]:
        """The marks of each training: its position, the fraction and the model, in the order in which they come."""
        asked = self.settings.values.marks
        trained = [(number, model) for number, model in enumerate(self.models, 1) if isinstance(model, Trained)]
        return tuple((number, at, mark(model, at)) for number, model in trained for at in asked)


@dataclass(frozen=True)
class Evaluated:
    """One evaluator on one ability of one model of one run; `fraction` is below 1 for a mark."""

    run: RunInfo
    stage: int
    stage_label: str
    final: bool
    evaluator: str
    metric: str
    higher_is_better: bool
    ability: str
    grade: Results
    fraction: Fraction = Fraction(1)


@dataclass(frozen=True)
class Plan:
    """The union of all runs' graphs.

    Args:
        located: the recipe.
        runs: in the recipe's order, every seed and base.
        evaluated: what is measured, in the order of the runs.
        refs: the recipe's base of each base stage id.
        declared: declared sizes by load stage id.
        sources: name and ability of the sources behind each load stage id.
        benchmarks: names of the benchmarks behind each load stage id.
        gates: the preflights that trainings, and questions to trained models, wait for, by stage id.
    """

    located: Located
    runs: tuple[PlannedRun, ...]
    evaluated: tuple[Evaluated, ...]
    refs: Mapping[str, BaseModelRef] = field(default_factory=dict)
    declared: Mapping[str, Declared] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    benchmarks: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, tuple[Preflight, ...]] = field(default_factory=dict)

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, what must be finished first before what needs it, equal ones once."""
        finals = [run.final for run in self.runs]
        marks = [model for run in self.runs for _, _, model in run.marks]
        return walk([*self.preflights, *self.taggings, *finals, *marks, *(item.grade for item in self.evaluated)])

    @cached_property
    def marks(self) -> Mapping[str, tuple[Stage, ...]]:
        """The marks that each training passes, by the training's stage id; with LoRA adapters, not yet folded."""
        found: dict[str, dict[str, Stage]] = {}
        for run in self.runs:
            for _, _, model in run.marks:
                found.setdefault(model.training.id, {})[model.mark.id] = model.mark
        return {training: tuple(marks.values()) for training, marks in found.items()}

    @property
    def taggings(self) -> list[Stage]:
        """The taggings that the recipe asks for, each once, whether or not a rule looks at them."""
        every = [tags for run in self.runs for ingredient in run.ingredients.values() for tags in ingredient.tags]
        return list({stage.id: stage for stage in every}.values())

    @property
    def preflights(self) -> list[Preflight]:
        """The preflights, each once."""
        return list({gate.id: gate for gates in self.gates.values() for gate in gates}.values())

    def before(self, stage: Stage) -> Iterator[Stage]:
        """Yield what must be finished before a stage: its inputs, and the preflights that a training waits for."""
        yield from stage.parents()
        yield from self.gates.get(stage.id, ())

    @cached_property
    def runs_of(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the runs each stage id belongs to."""
        behind: dict[str, set[str]] = {}
        for stage in self.stages:
            behind[stage.id] = {stage.id}.union(*(behind[parent.id] for parent in self.before(stage)))
        members: dict[int, set[str]] = {id(run.info): set(behind[run.final.id]) for run in self.runs}
        for item in self.evaluated:
            members[id(item.run)] |= behind[item.grade.id]
        for run in self.runs:
            members[id(run.info)].update(*(behind[model.id] for _, _, model in run.marks))
        found: dict[str, list[str]] = {}
        for run in self.runs:
            name = display_name(run.info, self)
            for stage_id in members[id(run.info)]:
                found.setdefault(stage_id, []).append(name)
        return {key: tuple(names) for key, names in found.items()}

    @property
    def trainings_alone(self) -> int:
        """How many trainings there would be if every run trained by itself."""
        return sum(len(run.trainings) for run in self.runs)

    def provisional(self) -> list[Stage]:
        """Return stages of data or models that are only declared; a plan with one cannot be run."""
        return [stage for stage in self.stages if stage.params.get("provisional")]


def display_name(info: RunInfo, plan: Plan) -> str:
    """Return a run's name, with base and seed where the recipe has several."""
    recipe = plan.located.recipe
    extra = ([info.base] if len(recipe.all_bases) > 1 else []) + (
        [f"seed {info.seed}"] if len(recipe.seeds) > 1 else []
    )
    return " · ".join([info.name, *extra])


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
        self.declared: dict[str, Declared] = {}
        self.sources: dict[str, tuple[str, str]] = {}
        self.refs: dict[str, BaseModelRef] = {}
        self.tokenizers: dict[str, Base] = {}
        self.loaded = {name: self._load(name, source) for name, source in self.recipe.sources.items()}
        self.benchmarks: dict[Any, Loaded] = {}
        self.gates: dict[str, tuple[Preflight, ...]] = {}
        self.preflights: dict[Any, Preflight] = {}
        self.graded: dict[Any, Results] = {}
        self.runs: list[PlannedRun] = []
        self.settings: dict[Any, tuple[Settings, dict[str, Ingredient]]] = {}

    def build(self) -> Plan:
        self._check_analyses()
        self.selecting = Selecting(self.located, self.pins, self._tokenizer, self._load_target)
        self.screening = Screening(self.located, self.pins, self.loaded, self._named_benchmarks())
        evaluated: list[Evaluated] = []
        for base, seed, (info, run, params, key) in itertools.product(
            self._bases(), self.recipe.seeds, list(self._expanded())
        ):
            info = replace(info, base=self.refs[base.id].path, seed=seed, training=dict(run.training))
            info = replace(info, sources={name: choice.model_dump() for name, choice in run.sources.items()})
            info = replace(info, select=_selected(run), recipe_select=self._selected_for(run))
            self.runs.append(self._plan_run(info, run, params, key, base))
        # A run may be compared with one that comes later in the recipe.
        for planned in self.runs:
            measured = list(self._evaluate(planned))
            evaluated += measured
            self._gate(planned, measured)
        self._check_compared(evaluated)
        names = {stage.id: name for name, stage in self.screening.benchmarks.items()}
        return Plan(
            self.located,
            tuple(self.runs),
            tuple(evaluated),
            self.refs,
            self.declared,
            self.sources,
            names,
            self.gates,
        )

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

    def _load(self, name: str, source: Source) -> Loaded:
        self._check_columns(name, source)
        tagged = source.tags is not None or source.taggers or source.declared is not None
        for key, rule in (("drop", source.drop), ("keep", source.keep)):
            if rule and rule.tags is not None and not tagged:
                message = "looks at tags, and the source has none; name a column with tags: COLUMN, or taggers: [rules]"
                raise self.located.error(message, "sources", name, key)
        try:
            stage = self._load_stage(name, source)
        except DataError as error:
            raise self.located.error(str(error), "sources", name, "path") from error
        self.sources.setdefault(stage.id, (name, source.ability))
        return stage

    def _check_columns(self, name: str, source: Source) -> None:
        made = source.rows is not None or str(source.path).startswith("builtin:")
        for key in ("columns", "tags") if made else ():
            if getattr(source, key):
                raise self.located.error("is for files; this source is no file", "sources", name, key)
        hub = isinstance(source.path, str) and source.path.startswith("hf://")
        for key in () if hub else ("subset", "split"):
            if getattr(source, key):
                raise self.located.error("is for data sets of the hub (hf://datasets/...)", "sources", name, key)
        if str(source.path).startswith("builtin:") and source.format != "auto":
            raise self.located.error("is for files; this source is no file", "sources", name, "format")

    def _load_stage(self, name: str, source: Source, **more: Any) -> Loaded:
        component, given = _source_component(source)
        given |= more
        module = components.find("sources", component)
        params = self.located.check(module.Params, given, "sources", name)
        try:
            identity, where = module.pin(params, self.located.folder, self.pins)
        except Absent:
            if source.declared is None:
                raise
            stage = load("declared", 1, {"name": name, "provisional": True}, label=name, locate={})
            self.declared[stage.id] = source.declared
            return stage
        identity = components.without_absent(module, identity)
        where = {**where, "max_bad": f"{source.max_bad.numerator}/{source.max_bad.denominator}"}
        return load(component, module.VERSION, identity, label=name, locate=where)

    def _expanded(self) -> Iterator[tuple[RunInfo, Run, Params, tuple[str | int, ...]]]:
        """Yield each run of the recipe with lists spread out, checked parameters and a name of its own."""
        drafts: list[Draft] = []
        for number, run in enumerate(self.recipe.runs):
            key: tuple[str | int, ...] = ("runs", number)
            try:
                module = components.find("strategies", run.strategy)
            except KeyError as error:
                raise self.located.error(str(error.args[0]), *key, "strategy") from None
            axes = [name for name, value in run.params.items() if _is_axis(module.Params, name, value)]
            for name in axes:
                if not run.params[name]:
                    raise self.located.error("the list is empty; name at least one value", *key, name)
            for values in itertools.product(*(run.params[name] for name in axes)):
                chosen = {**run.params, **dict(zip(axes, values, strict=True))}
                checked = self.located.check(module.Params, chosen, *key)
                drafts += [(one, checked, axes, key) for one in _one_selection_each(run)]
        yield from _named(drafts)

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

    def _load_target(self, name: str, source: Source) -> Loaded:
        return self._load_stage(name, source)

    def _ingredients(self, base: Base, settings: Settings) -> dict[str, Ingredient]:
        found = {}
        for name, source in self.recipe.sources.items():
            rendered = render(self.loaded[name], self.tokenizers[base.id], settings.values.rendering())
            tags, excluded = self.screening.tags(name), self.screening.excluded(name)
            found[name] = Ingredient(name, source.ability, rendered, _how(source), tags, excluded)
        return found

    def _evaluate(self, run: PlannedRun) -> Iterator[Evaluated]:
        seen: set[tuple[str, str]] = set()
        for number, component in enumerate(self.recipe.evaluation):
            key = ("evaluation", number)
            module, params = self._evaluator(number, component)
            abilities = list(dict.fromkeys(source.ability for source in self.recipe.sources.values()))
            own = _ability(module, params)
            elsewhere = getattr(params, "path", None) or module.ANSWERS == "harness"
            if own is not None and own not in abilities and not elsewhere:
                raise self.located.error(f"there is no ability '{own}'; the sources teach {', '.join(abilities)}", *key)
            for ability, how in _measured(module, params, [own] if own else abilities):
                label = (how.name or _default_name(component, how), ability)
                if label in seen:
                    raise self.located.error(
                        f"'{label[0]}' measures '{ability}' already; give this one a name of its own: name: ...", *key
                    )
                seen.add(label)
                yield from self._measure(run, component, module, how, ability, key)

    def _evaluator(self, number: int, component: Component) -> tuple[Any, Any]:
        """Return an evaluator's module and its checked parameters."""
        try:
            module = components.find("evaluators", component.name)
        except KeyError as error:
            raise self.located.error(str(error.args[0]), "evaluation", number) from None
        key = ("evaluation", number, component.name)
        params = self.located.check(module.Params, component.params, *key)
        if hasattr(module, "with_files"):
            try:
                params = module.with_files(params, self.located.folder)
            except DataError as error:
                raise self.located.error(str(error), *key) from error
        return module, params

    def _measure(
        self,
        run: PlannedRun,
        component: Component,
        module: Any,
        params: EvaluatorParams,
        ability: str,
        key: tuple[str | int, ...],
    ) -> Iterator[Evaluated]:
        steps = [(position, Fraction(1), model) for position, model in run.steps]
        steps = [*steps, *run.marks] if params.stages == "all" else steps[-1:]
        for position, fraction, model in sorted(steps, key=lambda step: step[:2]):
            other = self._other(run, params, key) if getattr(module, "COMPARES", False) else None
            if other is not None and other.final.id == model.id:
                continue
            # Runs share models; what is asked of one is described once.
            asked = (model.id, other and other.final.id, key, ability, params.name, run.settings.values)
            if asked not in self.graded:
                self.graded[asked] = self._grade(run, model, component, module, params, ability, key)
            graded = self.graded[asked]
            yield Evaluated(
                run.info,
                position,
                model.label if position else "base",
                position == len(run.models) and fraction == 1,
                params.name or _default_name(component, params),
                module.metric_of(params) if hasattr(module, "metric_of") else module.METRIC,
                module.HIGHER_IS_BETTER,
                ability,
                graded,
                fraction,
            )

    def _grade(
        self,
        run: PlannedRun,
        model: Model,
        component: Component,
        module: Any,
        params: Any,
        ability: str,
        key: tuple[str | int, ...],
    ) -> Results:
        ingredients = [i for i in run.ingredients.values() if i.ability == ability]
        split = {"heldout": self.recipe.heldout, "split_seed": self.recipe.split_seed, "items": params.items}
        common = {**split, "precision": run.settings.values.precision}
        served = run.base.component == bases.ENDPOINT
        if served and module.ANSWERS in ("score", "choose", "harness"):
            raise self.located.error(
                f"needs the likelihood of given texts, which the endpoint of '{run.base.label}' does not tell; "
                "leave it out there, and use evaluators that generate (gsm8k, humaneval, exact_answer)",
                *key,
            )
        if module.ANSWERS == "choose":
            return self._weigh(run, model, component, module, params, key)
        if module.ANSWERS == "harness":
            return self._harnessed(run, model, component, module, params, key)
        if module.ANSWERS == "score":
            self._need_heldout(ability, key)
            likelihoods = score(model, [ingredient.part for ingredient in ingredients], common)
            return grade(likelihoods, component.name, module.VERSION, {})
        if getattr(params, "path", None):
            items = [Part(self._benchmark(component, params, key))]
            common["heldout"] = None
            if params.items is None:
                common["split_seed"] = None  # nothing is drawn
        else:
            self._need_heldout(ability, key)
            items = [replace(ingredient.part, data=ingredient.data.one("source")) for ingredient in ingredients]
        asked = {**common, **components.without_absent(module, module.request_params(params))}
        replies = _generate(run, model, items, component, asked)
        answers: Responses | Judged = replies
        if module.ANSWERS == "judge":
            other = self._other(run, params, key) if module.COMPARES else None
            others = _generate(other, other.final, items, component, asked) if other else None
            answers = self._judge(run, replies, others, component, module, params, key)
        graded = components.without_absent(module, module.grade_params(params))
        return grade(answers, component.name, module.VERSION, graded)

    def _weigh(
        self,
        run: PlannedRun,
        model: Model,
        component: Component,
        module: Any,
        params: Any,
        key: tuple[str | int, ...],
    ) -> Results:
        """Describe weighing a benchmark's choices, and grading that."""
        settings = run.settings.values
        asked = {
            **components.without_absent(module, module.request_params(params)),
            "items": params.items,
            "split_seed": None if params.items is None else self.recipe.split_seed,
            "precision": settings.precision,
            "template": settings.template if params.chat else None,
            "full": module.size(params) if hasattr(module, "size") else None,
        }
        shots = [self._benchmark(component, params, key, params.shots_path)] if params.shots_path else []
        items = [self._benchmark(component, params, key)]
        answers = choose(model, items, shots, component.name, module.REQUEST_VERSION, asked)
        graded = components.without_absent(module, module.grade_params(params))
        return grade(answers, component.name, module.VERSION, graded)

    def _harnessed(
        self,
        run: PlannedRun,
        model: Model,
        component: Component,
        module: Any,
        params: Any,
        key: tuple[str | int, ...],
    ) -> Results:
        """Describe running one task of lm-evaluation-harness, and taking one of its metrics."""
        try:
            version = metadata.version("lm_eval")
        except metadata.PackageNotFoundError:
            raise self.located.error(
                "runs tasks of lm-evaluation-harness, which this Python has not; pip install 'cuvee[harness]'", *key
            ) from None
        (task,) = params.tasks
        asked = {
            **components.without_absent(module, module.request_params(params)),
            "precision": run.settings.values.precision,
            "harness": version,
        }
        locate = {"network": params.network, "batch_size": params.batch_size}
        if params.folder is not None:
            folder = self.located.folder / params.folder
            if not folder.is_dir():
                raise self.located.error(f"there is no folder {folder}", *key, component.name, "folder")
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            asked["files"] = [[str(path.relative_to(folder)), self.pins.file_hash(path)] for path in files]
            locate["folder"] = str(folder.resolve())
        answers = harness(model, task, component.name, module.REQUEST_VERSION, asked, locate)
        return grade(answers, component.name, module.VERSION, module.grade_params(params))

    def _check_compared(self, evaluated: Iterable[Evaluated]) -> None:
        """Refuse a comparison in which every model would meet itself alone."""
        measured = {item.evaluator for item in evaluated}
        for number, component in enumerate(self.recipe.evaluation):
            module, params = self._evaluator(number, component)
            if getattr(module, "COMPARES", False) and (params.name or _default_name(component, params)) not in measured:
                raise self.located.error(
                    f"compares with '{params.against}', and there is nothing else to compare; name another run, or a "
                    "file of answers: against: FILE",
                    "evaluation",
                    number,
                    component.name,
                )

    def _judge(
        self,
        run: PlannedRun,
        answers: Responses,
        others: Responses | None,
        component: Component,
        module: Any,
        params: Any,
        key: tuple[str | int, ...],
    ) -> Judged:
        """Describe the judging of a model's answers; what the fake engine says is judged by a fake judge."""
        asked = params.judge
        if run.base.component == "fake":
            ref = BaseModelRef(path="fake:judge")
        elif asked.endpoint:
            given = asked.endpoint.model_dump(exclude_unset=True)
            ref = BaseModelRef.model_validate({"endpoint": given})
        else:
            ref = BaseModelRef(path=asked.model)
        try:
            who = bases.resolve(ref, self.located.folder, self.pins)
        except UsageError as error:
            raise self.located.error(str(error), *key, component.name, "judge") from error
        try:
            decided = components.without_absent(module, module.judge_params(params))
        except DataError as error:
            raise self.located.error(str(error), *key, component.name) from error
        locate = {"files": dict(module.judge_files(params)), "max_failed": _fraction_text(asked.max_failed)}
        return judge(answers, others, who, component.name, module.JUDGE_VERSION, decided, locate)

    def _other(self, run: PlannedRun, params: Any, key: tuple[str | int, ...]) -> PlannedRun | None:
        """Return the run whose final model a run's is compared with; None where that is a file of answers."""
        if params.against == "base":
            return replace(run, models=())
        if "against" in components.find("evaluators", self.recipe.evaluation[int(key[1])].name).judge_files(params):
            return None
        found = [
            one
            for one in self.runs
            if one.info.name == params.against and (one.base.id, one.info.seed) == (run.base.id, run.info.seed)
        ]
        if not found:
            names = ["base", *dict.fromkeys(one.info.name for one in self.runs)]
            component = self.recipe.evaluation[int(key[1])].name
            raise self.located.error(
                f"there is no run and no file '{params.against}'.{did_you_mean(params.against, names)}",
                *key,
                component,
                "against",
            )
        return found[0]

    def _need_heldout(self, ability: str, key: tuple[str | int, ...]) -> None:
        if not self.recipe.heldout:
            raise self.located.error(
                f"measures held-out rows of '{ability}', but heldout is 0; set heldout: 0.02 or give a path", *key
            )

    def _benchmark(
        self, component: Component, params: Any, key: tuple[str | int, ...], shots: str | None = None
    ) -> Loaded:
        """Return a benchmark's file, or that of its shots; one that several evaluators read alike is loaded once."""
        path = shots or params.path
        module = components.find("evaluators", component.name)
        given = {**getattr(module, "SOURCE", {}), **_reading(params)}
        kept = given.pop("kept", ())
        questions = given.pop("questions", module.ANSWERS == "choose")
        key_of = canonical.text({**given, "path": path, "kept": list(kept)})
        if key_of not in self.benchmarks:
            if _ability(module, params) is None:
                raise self.located.error("a benchmark file needs the ability it measures: add ability", *key)
            declared = None if shots else params.declared
            source = Source(**given, path=path, ability="benchmark", declared=declared)
            more: dict[str, Any] = {name: value for name, value in (("kept", kept), ("questions", questions)) if value}
            label = f"{params.name or component.name}{' shots' if shots else ''}"
            try:
                self.benchmarks[key_of] = self._load_stage(label, source, **more)
            except DataError as error:
                raise self.located.error(str(error), *key, component.name, "shots_path" if shots else "path") from error
        return self.benchmarks[key_of]

    def _named_benchmarks(self) -> dict[str, Loaded]:
        """Return the files of questions that the recipe judges by, or names for the preflight, by name."""
        found: dict[str, Loaded] = {}
        for number, component in enumerate(self.recipe.evaluation):
            params = self._evaluator(number, component)[1]
            if getattr(params, "path", None):
                stage = self._benchmark(component, params, ("evaluation", number))
                found.setdefault(params.name or component.name, stage)
        for name, given in self.recipe.preflight.benchmarks.items():
            key = ("preflight", "benchmarks", name)
            if name in found:
                raise self.located.error("an evaluation has this name already; give this one another", *key)
            # A benchmark with a few odd rows is still worth comparing with.
            source = Source(**dict(given), ability="benchmark", max_bad=Fraction(1))
            try:
                found[name] = self._load_stage(name, source, questions=True)
            except DataError as error:
                raise self.located.error(str(error), *key, "path") from error
        return found


def _generate(
    run: PlannedRun, model: Model, items: Iterable[Part], component: Component, asked: Mapping[str, Any]
) -> Responses:
    """Describe a model's answers in its run's template; which one and which precision a server has, only it knows."""
    served = run.base.component == bases.ENDPOINT
    values = run.settings.values
    template, precision = ("server", None) if served else (values.template, values.precision)
    version = components.find("evaluators", component.name).REQUEST_VERSION
    return generate(model, items, component.name, version, {**asked, "template": template, "precision": precision})


def _asked_of(answers: Stage) -> list[Stage]:
    """Return the stages that ask a model, behind what is graded."""
    if not isinstance(answers, Judged):
        return [answers]
    return [*answers.inputs["answers"], *answers.inputs.get("others", ())]


def _default_name(component: Component, params: Any) -> str:
    """Return an evaluator's name for tables; of a comparison with something else than the base, with what."""
    against = getattr(params, "against", "base")
    return component.name if against == "base" else f"{component.name} against {Path(against).stem}"


def _fraction_text(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def _reading(params: Any) -> dict[str, Any]:
    """Return how an evaluator's file is to be read, as far as the recipe says so."""
    names = ("format", "columns", "subset", "split")
    given = {name: getattr(params, name, None) for name in names}
    return {name: value for name, value in given.items() if value and value != "auto"}


def _measured(module: Any, params: Any, abilities: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield each ability that an evaluator measures with its parameters; the harness' tasks are measured one by one."""
    for ability in abilities:
        if module.ANSWERS != "harness":
            yield ability, params
            continue
        for task in params.tasks:
            yield ability, params.model_copy(update={"tasks": (task,), "name": _named_task(params, task)})


def _named_task(params: Any, task: str) -> str:
    return task if params.name is None else params.name if len(params.tasks) == 1 else f"{params.name} {task}"


def _ability(module: Any, params: Any) -> str | None:
    """Return the ability that an evaluator measures: as asked, or the benchmark's own."""
    found: str | None = params.ability or getattr(module, "ABILITY", None)
    return found


def _source_component(source: Source) -> tuple[str, dict[str, Any]]:
    if source.rows is not None:
        return "inline", {"rows": source.rows, "format": source.format}
    if isinstance(source.path, str) and source.path.startswith("builtin:"):
        return "tiny", {"name": source.path.removeprefix("builtin:")}
    given = {"path": source.path or "", "format": source.format, "columns": source.columns, "tags": source.tags}
    if isinstance(source.path, str) and source.path.startswith("hf://"):
        asked = {"subset": source.subset, "split": source.split}
        return "hub", {**given, **{name: value for name, value in asked.items() if value is not None}}
    return "local", given


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


def _chain(final: Model) -> tuple[Trained | Merged, ...]:
    models: list[Trained | Merged] = []
    model: Stage = final
    while isinstance(model, Trained | Merged):
        models.append(model)
        model = model.start
    return tuple(reversed(models))


Draft = tuple[Run, Params, list[str], tuple[str | int, ...]]


def _named(drafts: list[Draft]) -> Iterator[tuple[RunInfo, Run, Params, tuple[str | int, ...]]]:
    """Give every run a short name: its strategy, the axes it lies on, and what else is needed to tell it apart."""
    short = [_name(run, params, axes) for run, params, axes, _ in drafts]
    used: dict[str, int] = {}
    for name, (run, params, _, key) in zip(short, drafts, strict=True):
        if short.count(name) > 1:
            more = [key for key in ("training", "sources") if getattr(run, key)]
            name = _name(run, params, [*run.params, *more])
        used[name] = used.get(name, 0) + 1
        if used[name] > 1:
            name = f"{name} #{used[name]}"
        yield RunInfo(name, run.strategy, dict(params), "", 0), run, params, key


def _name(run: Run, params: Params, shown: list[str]) -> str:
    training = ",".join(f"{k}={v}" for k, v in run.training.items())
    values = {**dict(params), "training": training, "sources": ",".join(run.sources)}
    parts = [f"{name}={_text(values[name])}" for name in shown]
    parts += [f"select={selection.text}" for selection in run.select or ()]
    return " ".join([run.name or run.strategy, *parts])


def _selected(run: Run) -> str:
    """Return a run's own selection in words."""
    if "select" not in run.model_fields_set:
        return ""
    return ", ".join(selection.text for selection in run.select or ()) or NOTHING_SELECTED


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"name", "params"}:
        return f"{value['name']} {canonical.text(value['params'])}" if value["params"] else str(value["name"])
    return "→".join(_text(item) for item in value) if isinstance(value, list | tuple) else str(value)

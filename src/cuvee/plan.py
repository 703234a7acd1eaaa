"""What a plan is: runs with their models, what is measured of them, and the union of all their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from cuvee import mergings
from cuvee.errors import RecipeError
from cuvee.protocols import Ingredient, Merging, RunInfo
from cuvee.recipe import BaseModelRef, Component, Declared, Located, Training
from cuvee.stage import (
    Adapter,
    Base,
    Embedded,
    Fisher,
    Marked,
    Merged,
    Model,
    Preflight,
    Results,
    Stage,
    Trained,
    fisher,
    mark,
    mix,
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
            there = f"{len(asked)} {'entry' if len(asked) == 1 else 'entries'}"
            message = f"have {there}, and this run has {stages} trainings; write {{}} for one without its own"
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
        represented: what analyses need besides results, each with a run whose model it asks.
    """

    located: Located
    runs: tuple[PlannedRun, ...]
    evaluated: tuple[Evaluated, ...]
    refs: Mapping[str, BaseModelRef] = field(default_factory=dict)
    declared: Mapping[str, Declared] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    benchmarks: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, tuple[Preflight, ...]] = field(default_factory=dict)
    represented: tuple[tuple[PlannedRun, Embedded], ...] = ()

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, what must be finished first before what needs it, equal ones once."""
        finals = [run.final for run in self.runs]
        marks = [model for run in self.runs for _, _, model in run.marks]
        graded, looked_at = [item.grade for item in self.evaluated], [stage for _, stage in self.represented]
        return walk([*self.preflights, *self.taggings, *finals, *marks, *graded, *looked_at])

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
        for run, stage in self.represented:
            members[id(run.info)] |= behind[stage.id]
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

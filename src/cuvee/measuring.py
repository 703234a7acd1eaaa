"""Evaluations hung on models: which stages ask a model, judge its answers and grade them.

Each evaluator of the recipe measures each of its abilities on the models of each run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import bases, canonical, components, harnessed
from cuvee.errors import DataError, UsageError, did_you_mean
from cuvee.pins import Pins
from cuvee.plan import Evaluated, PlannedRun
from cuvee.recipe import BaseModelRef, Component, Located, Source
from cuvee.sourcing import Sourcing
from cuvee.stage import (
    Judged,
    Loaded,
    Merged,
    Model,
    Part,
    Responses,
    Results,
    choose,
    ensemble,
    generate,
    grade,
    harness,
    judge,
    score,
)


@dataclass(frozen=True)
class _Question:
    """One evaluator of the recipe and one ability that it measures.

    Args:
        number: its place in `evaluation`.
        name: of the component.
        module: the component.
        params: checked; of the harness for one task.
        ability: what is measured.
    """

    number: int
    name: str
    module: Any
    params: Any
    ability: str

    @property
    def key(self) -> tuple[str | int, ...]:
        """Where it stands in the recipe."""
        return "evaluation", self.number

    @property
    def label(self) -> str:
        """Its name for tables; of a comparison with something else than the base, with what."""
        against = getattr(self.params, "against", "base")
        own = self.name if against == "base" else f"{self.name} against {Path(against).stem}"
        return self.params.name or own

    @property
    def request(self) -> dict[str, Any]:
        """What is asked of a model, canonical."""
        return components.without_absent(self.module, self.module.request_params(self.params))

    def graded(self, answers: Any, params: Mapping[str, Any] | None = None) -> Results:
        """Return the grading of answers."""
        asked = self.module.grade_params(self.params) if params is None else params
        return grade(answers, self.name, self.module.VERSION, components.without_absent(self.module, asked))


class Measuring:
    """Args:
    located: the recipe.
    pins: remembered file hashes.
    sourcing: reads benchmark files.
    runs: all planned runs; filled before the first is measured, as one may be compared with one that comes later.
    """

    def __init__(self, located: Located, pins: Pins, sourcing: Sourcing, runs: Sequence[PlannedRun]) -> None:
        self.located, self.recipe, self.pins, self.sourcing, self.runs = located, located.recipe, pins, sourcing, runs
        self._files: dict[str, Loaded] = {}
        self._graded: dict[Any, Results] = {}

    def evaluate(self, run: PlannedRun) -> Iterator[Evaluated]:
        """Yield what is measured of a run's models.

        Raises:
            RecipeError: an evaluator, parameter, ability or file that there is not, or two of one name.
        """
        seen: set[tuple[str, str]] = set()
        for question in self._questions():
            label = (question.label, question.ability)
            if label in seen:
                message = f"'{label[0]}' measures '{label[1]}' already; give this one a name of its own: name: ..."
                raise self.located.error(message, *question.key)
            seen.add(label)
            yield from self._measure(run, question)

    def check_compared(self, evaluated: Iterable[Evaluated]) -> None:
        """Refuse a comparison in which every model would meet itself alone."""
        measured = {item.evaluator for item in evaluated}
        for question in self._questions():
            if getattr(question.module, "COMPARES", False) and question.label not in measured:
                raise self.located.error(
                    f"compares with '{question.params.against}', and there is nothing else to compare; name another "
                    "run, or a file of answers: against: FILE",
                    *question.key,
                    question.name,
                )

    def benchmarks(self) -> dict[str, Loaded]:
        """Return the files of questions that the recipe judges by, or names for the preflight, by name."""
        found: dict[str, Loaded] = {}
        for number, component in enumerate(self.recipe.evaluation):
            module, params = self._evaluator(number, component)
            if getattr(params, "path", None):
                stage = self._file(_Question(number, component.name, module, params, ""))
                _add(found, params.name or component.name, stage)
            if module.ANSWERS == "harness":
                pins, place = self._pinned_tasks(params, ("evaluation", number))
                for task in params.tasks:
                    stage = harnessed.questions({"task": task, "limit": params.items, **pins}, place)
                    _add(found, task, stage)
        for name, given in self.recipe.preflight.benchmarks.items():
            key = ("preflight", "benchmarks", name)
            if name in found:
                raise self.located.error("an evaluation has this name already; give this one another", *key)
            # A benchmark with a few odd rows is still worth comparing with.
            source = Source(**dict(given), ability="benchmark", max_bad=Fraction(1))
            try:
                found[name] = self.sourcing.load(name, source, questions=True)
            except DataError as error:
                raise self.located.error(str(error), *key, "path") from error
        return found

    def _questions(self) -> Iterator[_Question]:
        """Yield each evaluator of the recipe with each ability that it measures."""
        abilities = list(dict.fromkeys(source.ability for source in self.recipe.sources.values()))
        for number, component in enumerate(self.recipe.evaluation):
            module, params = self._evaluator(number, component)
            own = _ability(module, params)
            elsewhere = getattr(params, "path", None) or module.ANSWERS == "harness"
            if own is not None and own not in abilities and not elsewhere:
                message = f"there is no ability '{own}'; the sources teach {', '.join(abilities)}"
                raise self.located.error(message, "evaluation", number)
            for ability in [own] if own else abilities:
                for one in one_by_one(module, params):
                    yield _Question(number, component.name, module, one, ability)

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

    def _measure(self, run: PlannedRun, question: _Question) -> Iterator[Evaluated]:
        module, params = question.module, question.params
        steps = [(position, Fraction(1), model) for position, model in run.steps]
        steps = [*steps, *run.marks] if params.stages == "all" else steps[-1:]
        for position, fraction, model in sorted(steps, key=lambda step: step[:2]):
            other = self._other(run, question) if getattr(module, "COMPARES", False) else None
            if other is not None and other.final.id == model.id:
                continue
            # Runs share models; what is asked of one is described once.
            asked = (model.id, other and other.final.id, question.key, question.ability, params.name)
            same = (*asked, run.settings.values)
            if same not in self._graded:
                self._graded[same] = self._grade(run, model, question)
            yield Evaluated(
                run.info,
                position,
                model.label if position else "base",
                position == len(run.models) and fraction == 1,
                question.label,
                module.metric_of(params) if hasattr(module, "metric_of") else module.METRIC,
                module.HIGHER_IS_BETTER,
                question.ability,
                self._graded[same],
                fraction,
            )

    def _grade(self, run: PlannedRun, model: Model, question: _Question) -> Results:
        """Describe asking a model, and grading what comes back."""
        kind = question.module.ANSWERS
        if run.base.component == bases.ENDPOINT and kind in ("score", "choose", "harness"):
            raise self.located.error(
                f"needs the likelihood of given texts, which the endpoint of '{run.base.label}' does not tell; "
                "leave it out there, and use evaluators that generate (gsm8k, humaneval, exact_answer)",
                *question.key,
            )
        if kind == "choose":
            return self._weigh(run, model, question)
        if kind == "harness":
            return self._harnessed(run, model, question)
        if kind == "score":
            return self._score(run, model, question)
        return self._answer(run, model, question)

    def _score(self, run: PlannedRun, model: Model, question: _Question) -> Results:
        """Describe the likelihood of an ability's held-out rows."""
        self._need_heldout(question)
        ingredients = [one for one in run.ingredients.values() if one.ability == question.ability]
        common = {**self._split(question), "precision": run.settings.values.precision}
        parts = [one.part for one in ingredients]
        if getattr(question.module, "ENSEMBLE", False) and isinstance(model, Merged):
            return question.graded(ensemble(model.members, parts, common, model.label), {})
        kept = {"each": True, "texts": True} if getattr(question.params, "tokens", False) else {}
        return question.graded(score(model, parts, {**common, **kept}), {})

    def _answer(self, run: PlannedRun, model: Model, question: _Question) -> Results:
        """Describe the answers to a benchmark's or to held-out questions, judged where a judge is asked for."""
        module, params = question.module, question.params
        common = {**self._split(question), "precision": run.settings.values.precision}
        if getattr(params, "path", None):
            items = [Part(self._file(question))]
            common["heldout"] = None
            if params.items is None:
                common["split_seed"] = None  # nothing is drawn
        else:
            self._need_heldout(question)
            ingredients = [one for one in run.ingredients.values() if one.ability == question.ability]
            items = [replace(one.part, data=one.data.one("source")) for one in ingredients]
        asked = {**common, **question.request}
        replies = _generate(run, model, items, question, asked)
        if module.ANSWERS != "judge":
            return question.graded(replies)
        other = self._other(run, question) if module.COMPARES else None
        others = _generate(other, other.final, items, question, asked) if other else None
        return question.graded(self._judge(run, replies, others, question))

    def _split(self, question: _Question) -> dict[str, Any]:
        """Return which held-out rows are asked."""
        return {
            "heldout": self.recipe.heldout,
            "split_seed": self.recipe.split_seed,
            "items": question.params.items,
        }

    def _weigh(self, run: PlannedRun, model: Model, question: _Question) -> Results:
        """Describe weighing a benchmark's choices, and grading that."""
        module, params, settings = question.module, question.params, run.settings.values
        asked = {
            **question.request,
            "items": params.items,
            "split_seed": None if params.items is None else self.recipe.split_seed,
            "precision": settings.precision,
            "template": settings.template if params.chat else None,
            "full": module.size(params) if hasattr(module, "size") else None,
        }
        shots = [self._file(question, params.shots_path)] if params.shots_path else []
        items = [self._file(question)]
        return question.graded(choose(model, items, shots, question.name, module.REQUEST_VERSION, asked))

    def _harnessed(self, run: PlannedRun, model: Model, question: _Question) -> Results:
        """Describe running one task of lm-evaluation-harness, and taking one of its metrics."""
        module, params = question.module, question.params
        (task,) = params.tasks
        pins, place = self._pinned_tasks(params, question.key)
        asked = {**question.request, "precision": run.settings.values.precision, **pins}
        locate = {"batch_size": params.batch_size, **place}
        return question.graded(harness(model, task, question.name, module.REQUEST_VERSION, asked, locate))

    def _pinned_tasks(self, params: Any, key: tuple[str | int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what pins tasks of the harness, and where their files are."""
        try:
            pins, place = harnessed.pinned(params, self.located.folder, self.pins.file_hash)
        except UsageError as error:
            raise self.located.error(str(error), *key) from None
        return pins, {"network": params.network, **place}

    def _judge(self, run: PlannedRun, answers: Responses, others: Responses | None, question: _Question) -> Judged:
        """Describe the judging of a model's answers; what the fake engine says is judged by a fake judge."""
        module, params, asked = question.module, question.params, question.params.judge
        if run.base.component == "fake":
            ref = BaseModelRef(path="fake:judge")
        elif asked.endpoint:
            given = asked.endpoint.model_dump(exclude_unset=True)
            ref = BaseModelRef.model_validate({"endpoint": given})
        elif (asked.model or "").startswith("fake:"):
            message = f"{asked.model} makes verdicts up, and the replies are real; name a model, or run all with --fake"
            raise self.located.error(message, *question.key, question.name, "judge", "model")
        else:
            ref = BaseModelRef(path=asked.model)
        try:
            who = bases.resolve(ref, self.located.folder, self.pins)
        except UsageError as error:
            raise self.located.error(str(error), *question.key, question.name, "judge") from error
        try:
            decided = components.without_absent(module, module.judge_params(params))
        except DataError as error:
            raise self.located.error(str(error), *question.key, question.name) from error
        share = asked.max_failed
        locate = {"files": dict(module.judge_files(params)), "max_failed": f"{share.numerator}/{share.denominator}"}
        return judge(answers, others, who, question.name, module.JUDGE_VERSION, decided, locate)

    def _other(self, run: PlannedRun, question: _Question) -> PlannedRun | None:
        """Return the run whose final model a run's is compared with; None where that is a file of answers."""
        against = question.params.against
        if against == "base":
            return replace(run, models=())
        if "against" in question.module.judge_files(question.params):
            return None
        for one in self.runs:
            if one.info.name == against and (one.base.id, one.info.seed) == (run.base.id, run.info.seed):
                return one
        names = ["base", *dict.fromkeys(one.info.name for one in self.runs)]
        message = f"there is no run and no file '{against}'.{did_you_mean(against, names)}"
        raise self.located.error(message, *question.key, question.name, "against")

    def _need_heldout(self, question: _Question) -> None:
        if not self.recipe.heldout:
            message = (
                f"measures held-out rows of '{question.ability}', but heldout is 0; set heldout: 0.02 or give a path"
            )
            raise self.located.error(message, *question.key)

    def _file(self, question: _Question, shots: str | None = None) -> Loaded:
        """Return a benchmark's file, or that of its shots; one that several evaluators read alike is loaded once."""
        module, params = question.module, question.params
        path = shots or params.path
        given = {**getattr(module, "SOURCE", {}), **_reading(params)}
        kept = given.pop("kept", ())
        questions = given.pop("questions", module.ANSWERS == "choose")
        same = canonical.text({**given, "path": path, "kept": list(kept)})
        if same not in self._files:
            if _ability(module, params) is None:
                raise self.located.error("a benchmark file needs the ability it measures: add ability", *question.key)
            declared = None if shots else params.declared
            source = Source(**given, path=path, ability="benchmark", declared=declared)
            more: dict[str, Any] = {name: value for name, value in (("kept", kept), ("questions", questions)) if value}
            label = f"{params.name or question.name}{' shots' if shots else ''}"
            try:
                self._files[same] = self.sourcing.load(label, source, **more)
            except DataError as error:
                place = "shots_path" if shots else "path"
                raise self.located.error(str(error), *question.key, question.name, place) from error
        return self._files[same]


def _add(found: dict[str, Loaded], name: str, stage: Loaded) -> None:
    """Add a file of questions; others of its name (another part, another ability) are numbered."""
    names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
    free = next(one for one in names if one not in found or found[one].id == stage.id)
    found[free] = stage


def one_by_one(module: Any, params: Any) -> Iterator[Any]:
    """Yield an evaluator's parameters; the harness' tasks are measured one by one."""
    if module.ANSWERS != "harness":
        yield params
        return
    for task in params.tasks:
        name = task if params.name is None else params.name if len(params.tasks) == 1 else f"{params.name} {task}"
        yield params.model_copy(update={"tasks": (task,), "name": name})


def _generate(
    run: PlannedRun, model: Model, items: Iterable[Part], question: _Question, asked: Mapping[str, Any]
) -> Responses:
    """Describe a model's answers in its run's template; which one and which precision a server has, only it knows."""
    served = run.base.component == bases.ENDPOINT
    values = run.settings.values
    template, precision = ("server", None) if served else (values.template, values.precision)
    version = question.module.REQUEST_VERSION
    return generate(model, items, question.name, version, {**asked, "template": template, "precision": precision})


def _reading(params: Any) -> dict[str, Any]:
    """Return how an evaluator's file is to be read, as far as the recipe says so."""
    names = ("format", "columns", "subset", "split")
    given = {name: getattr(params, name, None) for name in names}
    return {name: value for name, value in given.items() if value and value != "auto"}


def _ability(module: Any, params: Any) -> str | None:
    """Return the ability that an evaluator measures: as asked, or the benchmark's own."""
    found: str | None = params.ability or getattr(module, "ABILITY", None)
    return found

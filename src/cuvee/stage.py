"""A stage: one frozen description of work. Building a graph of stages runs nothing.

    source ── load ─┬─ render ────────┐
                    ├─ tag ───────────┤
                    ├─ duplicates ────┼─ mix ── train ── score ── grade
    benchmark ─ load ── overlap ──────┘          │  ├── choose ─── grade
                                                 │  └── generate ─┬─ grade
    base ────────────────────────────────────────┘               └─ judge ── grade

    pool (a mix of one source's rows) ── score or embed ── select ── mix

A merge makes one model of several that were trained or came from outside; it is judged and trained like any other.

A LoRA training makes an adapter. A fold adds it to the weights it was trained on, and stands in the train's place.
A mark is what a training had learnt after a part of its steps. A fisher tells how much each weight of a model matters
for some rows.

A preflight looks at renders, duplicates and overlaps; trainings wait for it, and their ids do not hang on it.

A stage's id is the hash of its kind and the kind's version, its component and the component's version, its
canonical parameters and its inputs' ids by role. `label` (for people) and `locate` (where outside data lies
on this machine) are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import zip_longest
from typing import Any

from cuvee import canonical

KIND_VERSIONS = {
    "base": 1,
    "load": 2,
    "tag": 1,
    "duplicates": 1,
    "overlap": 1,
    "render": 2,
    "mix": 2,
    "preflight": 1,
    "fisher": 1,
    "train": 1,
    "mark": 1,
    "fold": 1,
    "merge": 1,
    "score": 1,
    "embed": 1,
    "select": 1,
    "generate": 1,
    "choose": 1,
    "judge": 1,
    "harness": 1,
    "grade": 1,
}
"""Each kind's own version: raised when its code is fixed in a way that changes results."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One frozen description of work; compare stages by `id`.

    Args:
        kind: one of `KIND_VERSIONS`.
        component: the component that does it, such as ``local`` for a load.
        version: the component's own `VERSION`.
        params: everything that changes the result; canonical values only.
        inputs: stages by role.
        label: for people; no part of the id.
        locate: where outside data lies on this machine; no part of the id.
    """

    kind: str
    component: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    label: str = ""
    locate: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is hashed, as plain data; the manifest keeps it."""
        return {
            "kind": self.kind,
            "kind_version": KIND_VERSIONS[self.kind],
            "component": self.component,
            "version": self.version,
            "params": canonical.plain(self.params, f"{self.kind}.params"),
            "inputs": {role: [stage.id for stage in stages] for role, stages in sorted(self.inputs.items())},
        }

    @cached_property
    def id(self) -> str:
        """64 hex digits."""
        return canonical.digest_plain(self.identity)

    @property
    def short(self) -> str:
        """Readable and unique: ``train-3f9a1c20b7de4455``; also the folder name in the store."""
        return f"{self.kind}-{self.id[: canonical.ID_LENGTH]}"

    def parents(self) -> Iterator[Stage]:
        """Yield the direct inputs, by role in alphabetical order."""
        for role in sorted(self.inputs):
            yield from self.inputs[role]

    def one(self, role: str) -> Stage:
        """Return the only input of `role`."""
        (stage,) = self.inputs[role]
        return stage


class Base(Stage):
    """A model that comes from outside, pinned by the hash of its files."""


class Adapter(Stage):
    """What a LoRA training made: low-rank changes to a model's weights."""


class Made(Stage):
    """A model that this project made: its weights can be given up and made again."""


class Trained(Made):
    """A model that a training of this project made: by itself, or as an adapter that was folded."""

    @property
    def training(self) -> Stage:
        """The training behind the weights: the stage itself, or the one whose adapter was folded."""
        return self.one("training") if self.kind == "fold" else self

    @property
    def start(self) -> Stage:
        """The model that the training went on from."""
        earlier = self.training.inputs.get("adapter")
        return _fold(earlier[0]) if earlier else self.one("model")


class Marked(Trained):
    """The weights after a part of a training, or after the fold of the adapter that there was then."""

    @property
    def training(self) -> Stage:
        """The training that passed this mark."""
        return self.mark.one("training")

    @property
    def mark(self) -> Stage:
        """The mark itself: this stage, or the one whose adapter was folded."""
        return self.one("training") if self.kind == "fold" else self


class Fisher(Stage):
    """The diagonal of a model's Fisher information on some rows."""


class Merged(Made):
    """A model that was merged from several."""

    @property
    def start(self) -> Model:
        """What its models were trained from: the base that is named, or the first model's own start."""
        if "base" in self.inputs:
            found: Any = self.one("base")
        else:
            first: Any = self.inputs["models"][0]
            found = first.one("model") if isinstance(first, Adapter) else getattr(first, "start", first)
        assert isinstance(found, Model)
        return found

    @property
    def members(self) -> tuple[Model, ...]:
        """The models that it was merged from; for adapters what each by itself makes of its start."""
        return tuple(_fold(one) if isinstance(one, Adapter) else one for one in self.inputs["models"])  # type: ignore[misc]


Model = Base | Trained | Merged


class Loaded(Stage):
    """Examples of one source after conversion and quarantine."""


class Tagged(Stage):
    """Tags of one source's examples, by a tagger."""


class Duplicates(Stage):
    """Rows of several sources that repeat an earlier one."""


class Overlap(Stage):
    """Rows of one source that hold items of one benchmark."""


class Selected(Stage):
    """Rows of one or several sources with a score, whether they are kept, and why."""


Excluded = Duplicates | Overlap | Selected
"""What names rows that a mixture can leave out."""


class Preflight(Stage):
    """What was found wrong with the data before any training."""


class Rendered(Stage):
    """One source's examples as token ids with loss mask, for one tokenizer and template."""


class Mixture(Stage):
    """Rows of several rendered sources, chosen by amounts."""


class Scores(Stage):
    """Negative log-likelihood per item, or per row of a pool, under one model; or scores that a file holds."""


class Embedded(Stage):
    """A vector for each row of a pool."""


class Responses(Stage):
    """A model's answers to an evaluator's requests."""


class Choices(Stage):
    """Log-probabilities of the choices of an evaluator's items under one model."""


class Judged(Stage):
    """What a judge answered about a model's answers."""


class Harnessed(Stage):
    """Items of a task of lm-evaluation-harness with all their metrics, for one model."""


class Results(Stage):
    """Graded items: one score each."""


def base(component: str, version: int, params: Mapping[str, Any], *, label: str, locate: Mapping[str, Any]) -> Base:
    """Describe a model from outside; `params` must pin its content."""
    return Base("base", component, version, params, {}, label, locate)


def load(component: str, version: int, params: Mapping[str, Any], *, label: str, locate: Mapping[str, Any]) -> Loaded:
    """Describe reading one source; `params` must pin its content."""
    return Loaded("load", component, version, params, {}, label, locate)


def render(source: Loaded, tokenizer: Base, params: Mapping[str, Any]) -> Rendered:
    """Describe turning a source into token ids: template, loss mask, length rule."""
    return Rendered("render", "chat", 1, params, {"source": (source,), "tokenizer": (tokenizer,)}, source.label)


@dataclass(frozen=True)
class Part:
    """Rows of one source in a mixture or an evaluation.

    Args:
        data: where they come from: rendered for trainings and losses, loaded for requests.
        how: which of them (see `data.parts`); canonical values.
        tags: taggings whose tags `drop` and `keep` look at, besides the source's own.
        excluded: stages that name rows to leave out, each with the number that the source has among its inputs.
        name, ability: of the source, for people; no part of any id.
    """

    data: Stage
    how: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[Tagged, ...] = ()
    excluded: tuple[tuple[Excluded, int], ...] = ()
    name: str = ""
    ability: str = ""

    def described(self) -> dict[str, Any]:
        """Return `how` with the ids of the stages it looks at; taggings that no rule asks for are left out."""
        found = dict(self.how)
        if self.used_tags:
            found["tagged"] = [stage.id for stage in self.used_tags]
        if self.excluded:
            found["excluded"] = sorted([stage.id, number] for stage, number in self.excluded)
        return found

    @property
    def used_tags(self) -> tuple[Tagged, ...]:
        """The taggings that a rule asks for, in the order of their ids."""
        asked = any("tags" in (self.how.get(rule) or {}) for rule in ("drop", "keep"))
        return tuple(sorted(self.tags, key=lambda stage: stage.id)) if asked else ()

    @property
    def filters(self) -> Part:
        """The same rows by their filters alone: what an evaluator's items go by."""
        rules = {rule: self.how[rule] for rule in ("drop", "keep") if rule in self.how}
        return Part(self.data, rules, self.tags, (), self.name, self.ability)


def _roles(parts: Iterable[Part]) -> dict[str, tuple[Stage, ...]]:
    """Return the stages that parts look at besides their rows, each once."""
    parts = list(parts)
    tags = {stage.id: stage for part in parts for stage in part.used_tags}
    excluded = {stage.id: stage for part in parts for stage, _ in part.excluded}
    roles: dict[str, dict[str, Any]] = {"tags": tags, "excluded": excluded}
    return {role: tuple(found[key] for key in sorted(found)) for role, found in roles.items() if found}


def tag(
    source: Loaded,
    component: str,
    version: int,
    params: Mapping[str, Any],
    models: tuple[Base, ...] = (),
    locate: Mapping[str, Any] | None = None,
) -> Tagged:
    """Describe tagging a source's examples; `models` is the model that a model tagger asks, if it is a local one."""
    inputs: dict[str, tuple[Stage, ...]] = {"source": (source,)}
    if models:
        inputs["model"] = models
    return Tagged("tag", component, version, params, inputs, source.label, locate or {})


def duplicates(sources: Iterable[Loaded], params: Mapping[str, Any], *, label: str) -> Duplicates:
    """Describe looking for equal and near-equal rows; a row of an earlier source stays."""
    return Duplicates("duplicates", "jaccard", 1, params, {"sources": tuple(sources)}, label)


def overlap(source: Loaded, benchmark: Loaded, params: Mapping[str, Any]) -> Overlap:
    """Describe looking for a benchmark's items in a source's rows."""
    label = f"{source.label} / {benchmark.label}"
    return Overlap("overlap", "ngram", 1, params, {"source": (source,), "benchmark": (benchmark,)}, label)


def preflight(
    data: Iterable[Rendered],
    tokenizer: Base,
    duplicates: Iterable[Duplicates],
    overlaps: Iterable[Overlap],
    params: Mapping[str, Any],
) -> Preflight:
    """Describe the checks before training: masks, end tokens, templates, lengths, duplicates, overlap."""
    inputs: dict[str, tuple[Stage, ...]] = {
        "data": tuple(sorted(data, key=lambda stage: stage.id)),
        "tokenizer": (tokenizer,),
        "duplicates": tuple(duplicates),
        "overlaps": tuple(sorted(overlaps, key=lambda stage: stage.id)),
    }
    return Preflight("preflight", "checks", 1, params, inputs, "preflight")


def mix(parts: Iterable[Part], params: Mapping[str, Any], *, label: str) -> Mixture:
    """Describe a mixture: rendered sources with how much of each.

    Parts are put in the order of their ids, so that the order in the recipe changes nothing. A mixture of
    whole sources does not depend on the seed, and does not have it.
    """
    parts = list(parts)
    # All of a source and a share of 1 are the same.
    described = [(part, _without_whole(part.described())) for part in parts]
    ordered = sorted(described, key=lambda pair: (pair[0].data.id, canonical.text(pair[1])))
    drawn = any(how.get("amounts") for _, how in ordered)
    return Mixture(
        "mix",
        "union",
        1,
        {**params, "seed": params["seed"] if drawn else None, "parts": [how for _, how in ordered]},
        {"parts": tuple(part.data for part, _ in ordered), **_roles(parts)},
        label,
        _names(part for part, _ in ordered),
    )


def _names(parts: Iterable[Part]) -> dict[str, list[list[str]]]:
    """Return the parts' names and abilities in order: two sources may be the same rows, so ids do not tell them."""
    return {"parts": [[part.name, part.ability] for part in parts]}


def _without_whole(how: Mapping[str, Any]) -> dict[str, Any]:
    amounts = [amount for amount in how.get("amounts", ()) if amount.get("share") != 1]
    rest = {name: value for name, value in how.items() if name != "amounts"}
    return {**rest, "amounts": amounts} if amounts else rest


def fisher(model: Model, data: Mixture, params: Mapping[str, Any]) -> Fisher:
    """Describe how much each weight of a model matters for rows: samples, labels (sampled, data), seed, precision."""
    label = f"{model.label}, {data.label}"
    return Fisher("fisher", "diagonal", 1, params, {"model": (model,), "data": (data,)}, label)


def train(
    start: Model, data: Mixture, params: Mapping[str, Any], *, label: str, fisher: Fisher | None = None
) -> Trained:
    """Describe one training: weights from `start`, rows from `data`; optimiser and schedule start fresh.

    `fisher` is what the regulariser ewc holds the weights by.

    With ``method: lora`` it is the fold of the training's adapter. `params.lora.between` says what follows a folded
    `start`: ``fold`` goes on from its weights with a new adapter, ``continue`` trains its adapter further.
    """
    inputs: dict[str, tuple[Stage, ...]] = {"model": (start,), "data": (data,)}
    if params.get("method", "full") == "full":
        held: dict[str, tuple[Stage, ...]] = {"fisher": (fisher,)} if fisher else {}
        return Trained("train", "full", 1, params, {**inputs, **held}, label)
    settings = dict(params["lora"])
    if settings.pop("between") == "continue" and start.kind == "fold":
        inputs |= {"model": start.inputs["model"], "adapter": start.inputs["training"]}
    return _fold(Adapter("train", "lora", 1, {**params, "lora": settings}, inputs, label))


def _fold(training: Stage) -> Trained:
    """Describe adding an adapter to the weights it was trained on."""
    inputs = {"training": (training,), "model": training.inputs["model"]}
    return Trained("fold", training.component, 1, {"precision": training.params["precision"]}, inputs, training.label)


def mark(model: Trained, fraction: Fraction) -> Marked:
    """Describe what a training had learnt when it first had done `fraction` (between 0 and 1) of its steps.

    It hangs on the training, whose log it is checked by, and on what the training hangs on, from which it can be made
    again. The mark of a LoRA training is folded like the training.
    """
    training = model.training
    inputs = {**training.inputs, "training": (training,)}
    label = f"{model.label} {fraction.numerator}/{fraction.denominator}"
    if model.kind != "fold":
        return Marked("mark", training.component, 1, {"fraction": fraction}, inputs, label)
    found = Adapter("mark", training.component, 1, {"fraction": fraction}, inputs, label)
    return Marked("fold", model.component, 1, model.params, {**model.inputs, "training": (found,)}, label)


def merge(
    models: Iterable[Stage],
    component: str,
    version: int,
    params: Mapping[str, Any],
    base: Model | None = None,
    *,
    fishers: Iterable[Stage] = (),
    ordered: bool = True,
    label: str = "",
) -> Merged:
    """Describe merging models into one.

    Args:
        models: models, or adapters where the method merges these.
        component, version: of the merger.
        params: of the merger; what is one value a model is in the order of `models`.
        base: what the models were trained from, where the method needs it.
        fishers: Fisher information of each model, where the method needs it.
        ordered: whether the order of models means something; where it does not, they are put in the order of their
            ids, and their values with them, so that it changes nothing.
        label: for people.
    """
    pairs = list(zip_longest(models, fishers))
    order = list(range(len(pairs)))
    if not ordered:
        order.sort(key=lambda i: pairs[i][0].id)
    inputs: dict[str, tuple[Stage, ...]] = {"models": tuple(pairs[i][0] for i in order)}
    if base is not None:
        inputs["base"] = (base,)
    if any(fisher for _, fisher in pairs):
        inputs["fishers"] = tuple(pairs[i][1] for i in order)
    return Merged("merge", component, version, _reordered(params, order), inputs, label or component)


def _reordered(params: Mapping[str, Any], order: list[int]) -> dict[str, Any]:
    """Return a merger's parameters with what is one value a model in another order."""

    def turned(name: str, value: Any) -> Any:
        if name in ("weights", "density") and isinstance(value, list | tuple) and len(value) == len(order):
            return [value[i] for i in order]
        return value

    found = {name: turned(name, value) for name, value in params.items()}
    if "tensors" in found:  # as pairs: an id would lose the order of a mapping, which means something
        rules = dict(found["tensors"])
        found["tensors"] = [[one, {name: turned(name, value) for name, value in rules[one].items()}] for one in rules]
    return found


def score(model: Model, data: Iterable[Part], params: Mapping[str, Any]) -> Scores:
    """Describe the loss of a model on held-out rows of rendered sources, each with its filters."""
    roles, asked, names = _filtered(data, "data")
    return Scores("score", "loss", 1, {**params, **asked}, {"model": (model,), **roles}, model.label, names)


def ensemble(models: Iterable[Model], data: Iterable[Part], params: Mapping[str, Any], label: str) -> Scores:
    """Describe the loss of the mean of several models' next-token distributions; the models' order means nothing."""
    parts = list(data)
    members = [score(model, parts, {**params, "each": True}) for model in models]
    ordered = tuple(sorted(members, key=lambda one: one.id))
    return Scores("score", "ensemble", 1, {}, {"members": ordered}, label)


def score_rows(model: Model, pool: Mixture, params: Mapping[str, Any]) -> Scores:
    """Describe the losses of a model on the rows of a pool: of training rows, to select by."""
    return Scores("score", "rows", 1, params, {"model": (model,), "data": (pool,)}, f"{pool.label} by {model.label}")


def score_stored(pool: Mixture, params: Mapping[str, Any], locate: Mapping[str, Any]) -> Scores:
    """Describe looking up scores of a pool's rows in a file; `params` must pin its content."""
    return Scores("score", "stored", 1, params, {"data": (pool,)}, pool.label, locate)


def embed(model: Model, pool: Mixture, component: str, version: int, params: Mapping[str, Any]) -> Embedded:
    """Describe a vector for each row of a pool, such as a mean of hidden states."""
    label = f"{pool.label} by {model.label}"
    return Embedded("embed", component, version, params, {"model": (model,), "data": (pool,)}, label)


def gradients(model: Trained, pool: Mixture, params: Mapping[str, Any]) -> Embedded:
    """Describe LESS features of a pool's rows: gradients of an adapter as it was at the end of an epoch."""
    training = model.training
    inputs = {"model": training.inputs["model"], "training": (training,), "data": (pool,)}
    return Embedded("embed", "gradients", 1, params, inputs, f"{pool.label} by gradients of {model.label}")


def select(
    component: str,
    version: int,
    params: Mapping[str, Any],
    pools: Iterable[Mixture],
    evidence: Mapping[str, tuple[Stage, ...]],
    *,
    label: str,
    names: Iterable[tuple[str, str]],
) -> Selected:
    """Describe choosing rows of pools by evidence on them.

    Args:
        component: the selector.
        version: its version.
        params: what decides the choice besides the evidence.
        pools: one a source.
        evidence: stages by role, ``rows.NAME`` one a pool, ``targets.NAME`` any number.
        label: for people.
        names: name and ability of each pool's source, for people.
    """
    locate = {"pools": [list(pair) for pair in names]}
    return Selected("select", component, version, params, {"pools": tuple(pools), **evidence}, label, locate)


def generate(model: Model, items: Iterable[Part], component: str, version: int, params: Mapping[str, Any]) -> Responses:
    """Describe a model's answers to the requests an evaluator makes of `items`, sources with their filters."""
    roles, asked, names = _filtered(items, "items")
    inputs = {"model": (model,), **roles}
    return Responses("generate", component, version, {**params, **asked}, inputs, model.label, names)


def choose(
    model: Model,
    items: Iterable[Stage],
    shots: Iterable[Stage],
    component: str,
    version: int,
    params: Mapping[str, Any],
) -> Choices:
    """Describe weighing the choices of a benchmark's items, after shots out of another file where there are some."""
    inputs: dict[str, tuple[Stage, ...]] = {"model": (model,), "items": tuple(items)}
    if shots := tuple(shots):
        inputs["shots"] = shots
    return Choices("choose", component, version, params, inputs, model.label)


def harness(
    model: Model, task: str, component: str, version: int, params: Mapping[str, Any], locate: Mapping[str, Any]
) -> Harnessed:
    """Describe running one task of lm-evaluation-harness; `params` pin its version and local files."""
    return Harnessed("harness", component, version, {**params, "task": task}, {"model": (model,)}, model.label, locate)


def _filtered(
    parts: Iterable[Part], role: str
) -> tuple[dict[str, tuple[Stage, ...]], dict[str, Any], dict[str, list[list[str]]]]:
    """Return sources in the order of their ids with what they look at, the parameter of their filters, their names."""
    parts = [part.filters for part in parts]
    ordered = sorted(parts, key=lambda part: (part.data.id, canonical.text(part.described())))
    filters = [part.described() for part in ordered]
    roles = {role: tuple(part.data for part in ordered), **_roles(parts)}
    return roles, {"filters": filters} if any(filters) else {}, _names(ordered)


def judge(
    answers: Responses,
    others: Responses | None,
    judge: Model,
    component: str,
    version: int,
    params: Mapping[str, Any],
    locate: Mapping[str, Any],
) -> Judged:
    """Describe asking a model about another one's answers; `others` are those they are compared with."""
    inputs: dict[str, tuple[Stage, ...]] = {"answers": (answers,), "judge": (judge,)}
    if others is not None:
        inputs["others"] = (others,)
    return Judged("judge", component, version, params, inputs, answers.label, locate)


Answers = Scores | Responses | Choices | Judged | Harnessed
"""What can be graded."""


def grade(answers: Answers, component: str, version: int, params: Mapping[str, Any]) -> Results:
    """Describe grading: apart from generating, so that a better grader costs no generation."""
    return Results("grade", component, version, params, {"answers": (answers,)}, answers.label)


def walk(targets: Iterable[Stage]) -> list[Stage]:
    """Return the stages that `targets` hang from, themselves included, inputs first, equal stages once."""
    order: dict[str, Stage] = {}
    stack: list[tuple[Stage, bool]] = [(stage, False) for stage in reversed(list(targets))]
    while stack:
        stage, ready = stack.pop()
        if stage.id in order:
            continue
        if ready:
            order[stage.id] = stage
            continue
        stack.append((stage, True))
        stack.extend((parent, False) for parent in reversed(list(stage.parents())) if parent.id not in order)
    return list(order.values())

"""What a user writes, from YAML or from Python: base models, sources, runs, evaluation, analyses.

    recipe = load(Path("examples/demo.yaml"), ["training.epochs=1"])
    recipe = validate(Recipe, {"base": "builtin:tiny", "sources": {...}, "runs": [{"strategy": "multi_task"}]})

Every fault names the key and its line, what is possible and the nearest known name. A recipe is a frozen
value: nothing rewrites it, overrides make another one.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cuvee.errors import RecipeError, UsageError, did_you_mean

Lines = Mapping[tuple[str | int, ...], int]
"""Line of each key's path in the recipe file."""

COMMAND_LINE = -1
"""In place of a line: the key was set on the command line."""

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _fraction(value: Any) -> Any:
    """Accept 1/4, 0.25 and 2; a float is read as the decimal number that was typed."""
    if isinstance(value, bool):
        raise ValueError("must be a share such as 1/4 or 0.25, not true or false")
    if isinstance(value, int | str | Fraction | float):
        try:
            return Fraction(str(value).strip().replace(" ", ""))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"must be a share such as 1/4 or 0.25, got {value!r}") from None
    raise ValueError(f"must be a share such as 1/4 or 0.25, got {type(value).__name__}")


def _number_of(value: Any) -> Any:
    """Accept 2000000, 2M, 1.5k."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMB]?)", value.strip())):
        number = Fraction(match[1]) * _UNITS[match[2]]
        if number.denominator == 1:
            return int(number)
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _listed(value: Any) -> Any:
    """Accept one value where a list of them is meant."""
    return (value,) if isinstance(value, int) else value


Share = Annotated[Fraction, BeforeValidator(_fraction)]
"""An exact share: 1/4, 0.25 or 2."""

Number = Annotated[int, BeforeValidator(_number_of)]
"""A whole number that may carry k, M or B."""


Columns = str | tuple[str, ...]
"""A column's name, or several whose texts are joined."""


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Amount(_Part):
    """How much of a source: exactly one of share, count, tokens."""

    share: Annotated[Share, Field(gt=0)] | None = None
    count: Annotated[int, Field(gt=0, strict=True)] | None = None
    tokens: Annotated[Number, Field(gt=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_bare(cls, value: Any) -> Any:
        if isinstance(value, int | float | str):
            raise ValueError(
                f"the bare number {value!r} could mean a share or a count: "
                f"write {{share: 1/4}}, {{count: 500}} or {{tokens: 2M}}"
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Amount:
        given = [name for name in ("share", "count", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of share, count, tokens; got {', '.join(given) or 'none'}")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the one key that was given."""
        return {name: value for name, value in self if value is not None}


class Declared(_Part):
    """Size of a source that is not at hand; `plan` computes with it, `run` refuses it.

    Args:
        rows: number of examples.
        tokens: all tokens after rendering.
        supervised_tokens: tokens with loss; half of `tokens` when not given.
    """

    rows: Annotated[Number, Field(gt=0)]
    tokens: Annotated[Number, Field(gt=0)]
    supervised_tokens: Annotated[Number, Field(gt=0)] | None = None


class Rule(_Part):
    """Rows by their tags or their length; `drop` takes rows that meet any condition, `keep` those that meet all.

    Args:
        tags: regular expression, searched in each tag.
        stem: look at tags as InsTag normalises them: lower case, words stemmed ("coding" is then "code").
        ignore_case: letters of both cases match.
        longer_than, shorter_than: tokens of the whole conversation before any length rule.
        answer_longer_than, answer_shorter_than: supervised tokens before any length rule.
    """

    tags: Annotated[str, AfterValidator(_expression)] | None = None
    stem: bool = False
    ignore_case: bool = False
    longer_than: Annotated[Number, Field(ge=0)] | None = None
    shorter_than: Annotated[Number, Field(ge=1)] | None = None
    answer_longer_than: Annotated[Number, Field(ge=0)] | None = None
    answer_shorter_than: Annotated[Number, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        conditions = ("tags", "longer_than", "shorter_than", "answer_longer_than", "answer_shorter_than")
        if all(getattr(self, name) is None for name in conditions):
            raise ValueError(f"needs at least one of {', '.join(conditions)}")
        if self.tags is None and (self.stem or self.ignore_case):
            raise ValueError("stem and ignore_case say how to look at tags; give tags")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return what was asked for."""
        return {name: value for name, value in self if value}


class Nearness(_Part):
    """What counts as the same row.

    Args:
        near: least Jaccard similarity of word n-grams; null looks for equal rows only.
        on: what near rows are compared by.
    """

    near: Annotated[Share, Field(gt=0, le=1)] | None = Fraction(4, 5)
    on: Literal["conversation", "prompt", "answer"] = "conversation"


class Duplicates(Nearness):
    """Duplicates within a source, written ``keep``, ``drop``, ``near`` or ``{near: 0.9, on: prompt}``.

    Args:
        drop: whether all but one are left out.
    """

    _SHORT: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "keep": {"drop": False, "near": None},
        "drop": {"near": None},
        "near": {},
    }

    drop: bool = True

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in cls._SHORT:
            raise ValueError(
                f"{value!r} is not possible.{did_you_mean(value, cls._SHORT)} Or {{near: 0.9, on: prompt}}"
            )
        return cls._SHORT[value]


class Across(Nearness):
    """Duplicates across sources: a row that an earlier source of `order` holds is left out of the later ones."""

    order: tuple[str, ...]


class DeclaredBase(_Part):
    """Size of a base model that is not at hand; `plan` computes with it, `run` refuses it.

    The shape (`layers`, `hidden`, `feed_forward`, `vocabulary`) makes the memory's arithmetic exact; it is guessed
    from the parameters otherwise.
    """

    parameters: Annotated[Number, Field(gt=0)]
    layers: Annotated[int, Field(ge=1)] | None = None
    hidden: Annotated[int, Field(ge=1)] | None = None
    feed_forward: Annotated[int, Field(ge=1)] | None = None
    vocabulary: Annotated[int, Field(ge=1)] | None = None


class BaseModelRef(_Part):
    """A base model: hub id, folder, ``builtin:`` or ``fake:`` name, with its size when it is not at hand.

    Args:
        path: its name.
        declared: its size when it is not at hand.
        endpoint: a server that answers, {url, model, key_env ...}, instead of `path`; it can be judged, not trained.
    """

    path: str
    declared: DeclaredBase | None = None
    endpoint: Mapping[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, Mapping) and value.get("endpoint"):
            if len(value) > 1:
                raise ValueError("a base with an endpoint has no other keys")
            server = value["endpoint"] if isinstance(value["endpoint"], Mapping) else {}
            return {**value, "path": f"{server.get('model')} at {server.get('url')}"}
        return value


class Component(_Part):
    """A component by name with its parameters, written ``name`` or ``{name: {parameters}}``."""

    name: str
    params: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            ((name, params),) = value.items()
            return {"name": name, "params": params or {}}
        return value


class Selection(_Part):
    """Rows chosen by a selector: exactly one of share, count, threshold, between.

    Args:
        by: the selector.
        share: of the pool's rows, the best by score.
        count: so many rows.
        threshold: rows with at least this score.
        between: two shares: rows in the order of their scores from the one to the other, the lowest score first.
        take: which end of the scores is kept.
        within: ``all`` rows together, or the rule for each ``source`` or ``ability`` by itself.
        pool: a random part of each source that alone is looked at.
        sources: names of the sources it chooses from; all that have no selection of their own when absent.
        seed: of selectors that draw, and of trainings for the selection; the run's when absent.
    """

    RULES: ClassVar[tuple[str, ...]] = ("share", "count", "threshold", "between")

    by: Component
    share: Annotated[Share, Field(gt=0, le=1)] | None = None
    count: Annotated[int, Field(gt=0, strict=True)] | None = None
    threshold: float | None = None
    between: tuple[Annotated[Share, Field(ge=0, le=1)], Annotated[Share, Field(ge=0, le=1)]] | None = None
    take: Literal["highest", "lowest"] = "highest"
    within: Literal["all", "source", "ability"] = "all"
    pool: Amount | None = None
    sources: tuple[str, ...] | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Selection:
        given = [name for name in self.RULES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(self.RULES)}; got {', '.join(given) or 'none'}")
        if self.between and self.between[0] >= self.between[1]:
            raise ValueError("between: the first share must be below the second")
        if self.between and self.take == "lowest":
            raise ValueError("between counts from the lowest score; leave take out")
        if self.pool and self.pool.share is not None and self.pool.share > 1:
            raise ValueError("pool: a share above 1 would repeat rows")
        return self

    def rule(self) -> dict[str, Any]:
        """Return what is kept; canonical values."""
        rule = {name: getattr(self, name) for name in self.RULES if getattr(self, name) is not None}
        return {**rule, "lowest": True} if self.take == "lowest" else rule

    @property
    def text(self) -> str:
        """A short name."""
        rule = "-".join(map(str, self.between)) if self.between else ""
        rule = rule or next(str(getattr(self, name)) for name in self.RULES if getattr(self, name) is not None)
        given = ", ".join(f"{name}={_brief(value)}" for name, value in self.by.params.items())
        words = [f"{self.by.name}({given})" if given else self.by.name, "lowest" * (self.take == "lowest"), rule]
        return " ".join([*filter(None, words), *([] if self.within == "all" else ["of each", self.within])])


def _brief(value: Any) -> str:
    """Return a parameter's value as a recipe writes it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_brief(one)}" for name, one in value.items()) + "}"
    return str(value)


def _selections(value: Any) -> Any:
    """Accept one selection where several are meant."""
    return (value,) if isinstance(value, Mapping | Selection) else value


def _named(value: Any) -> Any:
    return Component.model_validate(value).model_dump() if isinstance(value, str | Mapping) else value


Merger = Annotated[Any, BeforeValidator(_named)]
"""A merger by name with its parameters, as plain data: ``{"name": "linear", "params": {}}``."""


class Source(_Part):
    """A named set of examples that teaches one ability.

    Args:
        path: file, glob or list of them; ``builtin:math``; ``hf://datasets/OWNER/NAME@REVISION/FILE``.
        rows: examples written in the recipe, instead of `path`.
        ability: what it teaches.
        amount: how much of it is used; everything when absent.
        format: the row format; found by looking when ``auto``.
        columns: own column names to the format's names.
        subset, split: which part of a hub data set that is named without a file.
        tags: name of a tag column.
        taggers: taggers whose tags `drop` and `keep` see besides the column's.
        drop, keep: rows by their tags and lengths.
        duplicates: ``keep`` equal rows, ``drop`` all but the first, or ``near`` ({near, on}): near ones as well.
        overlap: ``drop`` rows that hold items of the recipe's benchmarks; ``keep`` leaves it to the preflight.
        replay: strategies do not train on it; it is there for `training.replay`, for ewc, and to be measured.
        select: rows chosen by a selector, before any amount.
        max_bad: largest share of unusable rows before the load is an error.
        declared: sizes to plan with when the data is not at hand.
    """

    path: str | tuple[str, ...] | None = None
    rows: tuple[Mapping[str, Any], ...] | None = None
    ability: str
    amount: Amount | None = None
    format: str = "auto"
    columns: Mapping[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None
    tags: str | None = None
    taggers: tuple[Component, ...] = ()
    drop: Rule | None = None
    keep: Rule | None = None
    duplicates: Duplicates = Duplicates(near=None, drop=False)
    overlap: Literal["keep", "drop"] = "keep"
    replay: bool = False
    select: Selection | None = None
    max_bad: Annotated[Share, Field(ge=0, le=1)] = Fraction(1, 100)
    declared: Declared | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [value for value in (self.path, self.rows) if value is not None]
        if len(given) > 1 or (not given and self.declared is None):
            raise ValueError("needs exactly one of path and rows")
        return self


WSD_DECAY = 0.1
"""Share of the steps in which the rate falls where the recipe does not say; as in MiniCPM, arXiv 2404.06395."""


class Lora(_Part):
    """Settings of ``method: lora``: a linear layer W becomes W + scale * B A, and only A and B are trained.

    Source: Hu et al., LoRA, arXiv 2106.09685; `rslora`: Kalajdzievski, arXiv 2312.03732.

    Args:
        rank: rows of A and columns of B.
        alpha: scale is alpha / rank, with `rslora` alpha / sqrt(rank).
        dropout: of what goes into A, in training.
        targets: ``auto`` (the layers PEFT names for the architecture, often those of queries and values),
            ``all-linear`` (all but the output layer), or names of linear layers.
        rslora: the scale above.
        between: what a later training of a run starts from: the earlier adapter folded and a new adapter (``fold``),
            or the first weights and the earlier adapter (``continue``).
    """

    rank: Annotated[int, Field(ge=1, strict=True)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["auto", "all-linear"] | tuple[str, ...] = "auto"
    rslora: bool = False
    between: Literal["fold", "continue"] = "fold"

    def canonical(self) -> dict[str, Any]:
        """Return all settings; the order of target names does not count."""
        targets = self.targets if isinstance(self.targets, str) else sorted(set(self.targets))
        return {**dict(self), "targets": targets}

    @model_validator(mode="after")
    def _names_something(self) -> Lora:
        if not self.targets:
            raise ValueError("targets is empty; name layers, or say auto or all-linear")
        return self


class L2SP(_Part):
    """Squared distance to the starting weights: (weight / 2) ||theta - theta_0||^2. Li et al., arXiv 1802.01483."""

    weight: Annotated[float, Field(gt=0)]


class EWC(_Part):
    """Elastic weight consolidation: (weight / 2) sum_i F_i (theta_i - theta_0,i)^2.

    Source: Kirkpatrick et al., arXiv 1612.00796.

    Args:
        weight: lambda.
        source: rows that the Fisher information F of the starting model is taken on.
        samples: at most so many of them.
        labels: ``sampled`` from the model, or the rows' own (``data``, the empirical Fisher).
    """

    weight: Annotated[float, Field(gt=0)]
    source: str
    samples: Annotated[Number, Field(ge=1)] = 256
    labels: Literal["sampled", "data"] = "sampled"


class KL(_Part):
    """KL to the starting model at the supervised positions, times weight, mean over tokens.

    Args:
        weight: beta.
        direction: ``reverse`` is KL(model || start), ``forward`` is KL(start || model).
    """

    weight: Annotated[float, Field(gt=0)]
    direction: Literal["reverse", "forward"] = "reverse"


class Regulariser(_Part):
    """What holds a training near its start; one or several."""

    l2_sp: L2SP | None = None
    ewc: EWC | None = None
    kl: KL | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Regulariser:
        if not self.canonical():
            raise ValueError("names none; say l2_sp, ewc or kl, or leave it out")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the settings of a training; what decides ewc's Fisher information is that stage's."""
        found = {name: dict(value) for name, value in self if value is not None}
        if self.ewc:
            found["ewc"] = {"weight": self.ewc.weight}
        return found


class Replay(_Part):
    """Rows of a source that are mixed into every training: a nested share of what the source has."""

    source: str
    share: Annotated[Share, Field(gt=0)]


def _distinct(marks: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    if len(set(marks)) < len(marks):
        raise ValueError("names the same mark twice")
    return tuple(sorted(marks))


Marks = Annotated[tuple[Annotated[Share, Field(gt=0, lt=1)], ...], AfterValidator(_distinct)]


class Optimisation(_Part):
    """What may differ between the trainings of one run: how long, how fast, by which rule."""

    epochs: Annotated[int, Field(ge=1, strict=True)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    optimiser: Literal["adamw", "adafactor", "sgd"] = "adamw"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Annotated[int, Field(ge=1, strict=True)] = 128


class Training(Optimisation):
    """Settings of every training; the paper's where it says, FastChat's where it is silent.

    Args:
        stages: what each training of a strategy of several has of its own, in their order; ``{}`` for nothing.

    Source: Dong et al., arXiv 2310.05492, section 3.1 and appendix C.
    """

    ABSENT_WHEN: ClassVar[Mapping[str, Any]] = {"optimiser": "adamw"}

    stages: tuple[Optimisation, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    method: Literal["full", "lora"] = "full"
    lora: Lora | None = None
    regulariser: Regulariser | None = None
    replay: Replay | None = None
    marks: Marks = ()
    max_length: Annotated[int, Field(ge=8, strict=True)] = 2048
    template: Literal["tokenizer", "vicuna_v1.1", "alpaca", "chatml", "plain"] = "tokenizer"
    mask: Literal["all", "last"] = "all"
    too_long: Literal["trim", "drop", "split", "error"] = "trim"

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.lora and self.method != "lora":
            raise ValueError("lora has settings, and method is full; say method: lora, or lora: null")
        if self.method == "lora" and self.regulariser and self.regulariser.ewc:
            raise ValueError(
                "regulariser.ewc needs the Fisher information of what is trained, and an adapter is new: "
                "say l2_sp or kl, or method: full"
            )
        if self.decay is not None and self.schedule != "wsd":
            raise ValueError(f"decay is for schedule: wsd, and schedule is {self.schedule}; say schedule: wsd")
        if self.warmup + (self.decay or 0) > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than all steps together")
        for number in range(len(self.stages)):
            try:
                self.of_stage(number)
            except ValidationError as error:
                raise ValueError(f"stages.{number}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    def of_stage(self, number: int) -> Training:
        """Return the settings of one training of several."""
        own = self.stages[number].model_dump(exclude_unset=True)
        return Training.model_validate({**self.model_dump(exclude_unset=True, exclude={"stages"}), **own})

    def rendering(self) -> dict[str, Any]:
        """Return what decides token ids and loss masks."""
        return self._canonical(("template", "mask", "max_length", "too_long"))

    def optimisation(self) -> dict[str, Any]:
        """Return what decides a training besides its start, its rows and its seed."""
        names = ("epochs", "learning_rate", "schedule", "warmup", "weight_decay", "betas", "eps", "clip")
        found = self._canonical((*names, "batch_size", "precision", "method", "optimiser"))
        if self.schedule == "wsd":
            found["decay"] = WSD_DECAY if self.decay is None else self.decay
        if self.method == "lora":
            found["lora"] = (self.lora or Lora()).canonical()
        if self.regulariser:
            found["regulariser"] = self.regulariser.canonical()
        return found

    def _canonical(self, names: Iterable[str]) -> dict[str, Any]:
        """Leave out what stands at the value that `ABSENT_WHEN` lists: a setting added later leaves old ids alone."""
        values = {name: getattr(self, name) for name in names}
        return {k: v for k, v in values.items() if k not in self.ABSENT_WHEN or v != self.ABSENT_WHEN[k]}


class Choice(_Part):
    """What a run changes of a source it uses; what is absent stays as the source has it."""

    amount: Amount | None = None
    drop: Rule | None = None
    keep: Rule | None = None

    def changed(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """Return which rows of the source are used."""
        found = dict(how)
        if self.amount:
            found["amounts"] = [self.amount.canonical()]
        for name, rule in (("drop", self.drop), ("keep", self.keep)):
            if rule:
                found[name] = rule.canonical()
        return found


def _choices(value: Any) -> Any:
    """Accept a list of names where nothing of the sources is changed."""
    if isinstance(value, list | tuple):
        return {name: {} for name in value}
    return {name: {} if choice is None else choice for name, choice in value.items()} if value else value


class Run(BaseModel):
    """One strategy with its parameters; a list where the strategy takes one value is one run each.

    Args:
        sources: the sources that this run uses, a list of names or each with its changes; all when absent. What is
            measured stays the same.
        select: stands in place of every other selection of the recipe; several are one run each, null is none at all.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    strategy: str
    name: str | None = None
    training: Mapping[str, Any] = Field(default_factory=dict)
    sources: Annotated[Mapping[str, Choice], BeforeValidator(_choices)] = Field(default_factory=dict)
    select: Annotated[tuple[Selection, ...], BeforeValidator(_selections)] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The strategy's own parameters as written."""
        return dict(self.model_extra or {})


class Benchmark(_Part):
    """A file of questions that a model will be judged by, for the overlap check."""

    path: str | tuple[str, ...]
    format: str = "auto"
    columns: Mapping[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None


class Preflight(_Part):
    """What is checked before the first training.

    Args:
        accept: findings that are known and meant, by name or its beginning: ``overlap/math/gsm8k``, ``lengths``.
        max_lost: largest share of a source's rows, or of its supervised tokens, that may be lost to `max_length`.
        max_overlap: largest share of a benchmark's items that a source may hold.
        ngram, coverage: an item is held when so large a share of its word n-grams occurs in a row.
        near: least Jaccard similarity of near duplicates; null looks for equal rows only.
        benchmarks: question files besides those the evaluation names.
    """

    accept: tuple[str, ...] = ()
    max_lost: Annotated[Share, Field(ge=0, le=1)] = Fraction(1, 4)
    max_overlap: Annotated[Share, Field(ge=0, le=1)] = Fraction(1, 100)
    ngram: Annotated[int, Field(ge=3, le=50, strict=True)] = 8
    coverage: Annotated[Share, Field(gt=0, le=1)] = Fraction(1, 2)
    near: Annotated[Share, Field(gt=0, le=1)] | None = Fraction(4, 5)
    benchmarks: Mapping[str, Benchmark] = Field(default_factory=dict)


class Recipe(_Part):
    """The whole request; see the module's example."""

    base: BaseModelRef | None = None
    bases: tuple[BaseModelRef, ...] = ()
    sources: Mapping[str, Source] = Field(default_factory=dict)
    duplicates: Across | None = None
    select: Selection | None = None
    preflight: Preflight = Field(default_factory=Preflight)
    heldout: Annotated[Share, Field(ge=0, lt=1)] = Fraction(1, 50)
    split_seed: int = 0
    training: Training = Field(default_factory=Training)
    runs: tuple[Run, ...]
    evaluation: tuple[Component, ...] = (Component(name="heldout_loss"),)
    analyses: tuple[Component, ...] = (
        Component(name="scores"),
        Component(name="forgetting"),
        Component(name="k_sweep"),
    )
    seeds: Annotated[tuple[Annotated[int, Field(strict=True)], ...], BeforeValidator(_listed)] = (0,)
    keep_models: Literal["all", "leaves", "none"] = "all"

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if (self.base is None) == (not self.bases):
            raise ValueError("needs exactly one of base and bases")
        # A base that is judged by benchmark files alone needs no source.
        needs_sources = any(run.strategy != "untrained" for run in self.runs)
        for key in ("sources",) * needs_sources + ("runs", "seeds"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty; name at least one")
        for key, values in (("bases", [base.path for base in self.bases]), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names the same value twice")
        return self

    @property
    def all_bases(self) -> tuple[BaseModelRef, ...]:
        """The base models, one or several."""
        return self.bases or ((self.base,) if self.base else ())


AnyModel = TypeVar("AnyModel", bound=BaseModel)


def _where(file: str, line: int) -> str:
    if line == COMMAND_LINE:
        return "command line"
    return f"{file}:{line}" if file and line else file


def _line(lines: Lines, path: tuple[str | int, ...]) -> int:
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 0


def _known_at(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the field names that were possible at `path`, for the near-name suggestion."""
    current: Any = model
    for step in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            found = current.model_fields.get(str(step))
            current = _inner(found.annotation) if found else None
        else:
            # A mapping's or a tuple's value type comes last, an ellipsis aside.
            values = [a for a in getattr(current, "__args__", ()) if a is not Ellipsis]
            current = _inner(values[-1]) if values else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _inner(annotation: Any) -> Any:
    """Return the type inside Optional."""
    values = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
    optional = type(None) in getattr(annotation, "__args__", ())
    return values[0] if optional and values else annotation


def _readable(error: Mapping[str, Any], model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key '{path[-1]}'.{did_you_mean(str(path[-1]), _known_at(model, path[:-1]))}"
    if kind == "missing":
        return "is required and missing"
    text = str(error["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return text
    shown = repr(given)
    return f"{text[0].lower()}{text[1:]}, got {shown if len(shown) < 60 else shown[:57] + '...'}"


def _location(error: Mapping[str, Any], data: Any) -> tuple[str | int, ...]:
    """Keep the steps of a pydantic location that exist in the data: unions add steps of their own."""
    path: list[str | int] = []
    here = data
    steps = list(error["loc"])
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(here, Mapping) and (step in here or (last and error["type"] == "missing")):
            path.append(step)
            here = here.get(step)
        elif isinstance(here, list | tuple) and isinstance(step, int) and step < len(here):
            path.append(step)
            here = here[step]
    return tuple(path)


def validate(
    model: type[AnyModel], data: Any, *, key: tuple[str | int, ...] = (), lines: Lines | None = None, file: str = ""
) -> AnyModel:
    """Return `data` as `model`.

    Args:
        key: path of `data` inside the recipe, for messages.
        lines: lines of the recipe's keys.
        file: the recipe's file, for messages.

    Raises:
        RecipeError: one line a fault: place, key, what is wrong, what is possible.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _recipe_error(error, model, data, key, lines or {}, file) from None


def _recipe_error(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    key: tuple[str | int, ...],
    lines: Lines,
    file: str,
) -> RecipeError:
    faults: list[RecipeError] = []
    for item in error.errors(include_url=False):
        path = _location(item, data)
        message = _readable(item, model, path or key or ("recipe",))
        line = _line(lines, (*key, *path))
        where = _where(file, line)
        fault = RecipeError(message, key=".".join(str(step) for step in (*key, *path)), where=where)
        if str(fault) not in [str(other) for other in faults]:
            faults.append(fault)
    return faults[0] if len(faults) == 1 else RecipeError("\n".join(str(fault) for fault in faults))


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 2e-5 is a number, `on` and `no` are words, a key given twice is an error."""


# YAML 1.1 reads on, off, yes and no as booleans; 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _construct(loader: _Loader, node: yaml.Node, path: tuple[str | int, ...], lines: dict[Any, int], file: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in result:
                raise RecipeError(
                    "the key is given twice", key=".".join(map(str, (*path, key))), where=f"{file}:{line}"
                )
            lines[(*path, key)] = line
            result[key] = _construct(loader, value_node, (*path, key), lines, file)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), lines, file) for index, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def parse(text: str, file: str = "") -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """Return a recipe's plain data and the line of every key.

    Raises:
        RecipeError: text that is not YAML, or not a mapping.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[tuple[str | int, ...], int] = {}
        data = _construct(loader, node, (), lines, file) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise RecipeError(f"not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping with base, sources and runs; `cuvee init` writes one", where=file)
    return data, lines


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with ``a.b.c=value`` assignments applied; values are YAML.

    Raises:
        UsageError: an assignment without ``=`` or through something that is no mapping or list.
    """
    result: dict[str, Any] = copy.deepcopy(data)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise UsageError(f"'{assignment}' is no override; write key=value, such as training.epochs=1")
        *parents, last = path.strip().split(".")
        here: Any = result
        for step in parents:
            here = _step_into(here, step, assignment)
        if isinstance(here, list):
            here[_index(here, last, assignment)] = parse_value(value)
        elif isinstance(here, dict):
            here[last] = parse_value(value)
        else:
            raise UsageError(f"'{assignment}': {'.'.join(parents)} holds no keys")
    return result


def _index(items: list[Any], step: str, assignment: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise UsageError(f"'{assignment}': '{step}' must be a position from 0 to {len(items) - 1}")
    return int(step)


def _step_into(here: Any, step: str, assignment: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, step, assignment)]
    if isinstance(here, dict):
        if here.get(step) is None:
            here[step] = {}
        return here[step]
    raise UsageError(f"'{assignment}': cannot go into '{step}', its parent holds a plain value")


def _without_given(lines: Lines, assignments: Iterable[str]) -> dict[tuple[str | int, ...], int]:
    """Return the lines of the keys, with `COMMAND_LINE` for those that the command line set or added."""
    found = dict(lines)
    for assignment in assignments:
        steps = assignment.partition("=")[0].strip().split(".")
        path: tuple[str | int, ...] = tuple(int(step) if step.isdigit() else step for step in steps)
        for end in range(1, len(path) + 1):
            if path[:end] not in found or end == len(path):
                found[path[:end]] = COMMAND_LINE
        found = {key: line for key, line in found.items() if len(key) <= len(path) or key[: len(path)] != path}
    return found


def _from_here(assignment: str) -> str:
    """A file named on the command line is meant from the working folder, not from the recipe's."""
    key, equals, value = assignment.partition("=")
    if key.rpartition(".")[2] in ("path", "base") and value and ":" not in value and Path(value).exists():
        return f"{key}{equals}{Path(value).resolve()}"
    return assignment


def parse_value(text: str) -> Any:
    """Return an override's value as YAML reads it."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  the loader is a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"'{text}' is no YAML value: {getattr(error, 'problem', error)}") from None


class Located:
    """A recipe with where it came from: folder for relative paths, file and lines for messages.

    Args:
        recipe: the validated recipe.
        folder: relative paths are meant from here.
        file: the recipe's file, empty for recipes made in Python.
        lines: lines of the keys.
        text: the recipe as it was run (overrides applied), YAML.
    """

    def __init__(self, recipe: Recipe, folder: Path, file: str = "", lines: Lines | None = None, text: str = ""):
        self.recipe, self.folder, self.file, self.lines = recipe, folder, file, lines or {}
        self.text = text or yaml.safe_dump(_plain(recipe.model_dump(exclude_unset=True)), sort_keys=False)

    @property
    def name(self) -> str:
        """The recipe's short name, from its file."""
        return Path(self.file).stem if self.file else "recipe"

    def error(self, message: str, *key: str | int) -> RecipeError:
        """Return an error at a key of this recipe."""
        line = _line(self.lines, key)
        where = _where(self.file, line)
        return RecipeError(message, key=".".join(str(step) for step in key), where=where)

    def check(self, model: type[AnyModel], data: Any, *key: str | int) -> AnyModel:
        """Return `data`, found at `key` of this recipe, as `model`."""
        return validate(model, data, key=key, lines=self.lines, file=self.file)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value


def load(path: Path, overrides: Iterable[str] = ()) -> Located:
    """Return the recipe of a YAML file with overrides applied.

    Raises:
        RecipeError, UsageError: see the module.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        # Stems, since all recipes share the ending and would look alike by it.
        others = {p.stem: p.name for p in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
        match = difflib.get_close_matches(path.stem, others, n=1)
        near = f" Did you mean '{others[match[0]]}'?" if match else ""
        raise UsageError(f"{path}: there is no such recipe.{near} `cuvee init {path}` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe: {error}") from None
    data, lines = parse(text, str(path))
    assignments = [_from_here(assignment) for assignment in overrides]
    if assignments:
        data = override(data, assignments)
        lines = _without_given(lines, assignments)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    recipe = validate(Recipe, data, lines=lines, file=str(path))
    return Located(recipe, path.parent.resolve(), str(path), lines, text)

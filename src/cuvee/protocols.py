"""What the parts promise each other: components by folder, token rows for the engine, results for analyses.

A component is a module. Its file name is its name in a recipe. It holds `VERSION`, a frozen `Params`, and
the verbs of its folder:

    sources      pin(params, folder), examples(params, where), estimate(params, where)
    taggers      tags(example, params), or request(example, params) and parse(text, params)
    selectors    needs(pool, params), identity(params), judge(candidates, params)
    strategies   plan(sources, start, hyper, params)
    mergers      needs_base(params), merge(piece, params); looks(params) before it, where a method must
    evaluators   request(example, params), grade(request, responses, params) or grade_many; or grade(likelihood);
                 or request, questions(asked, others, params, where), read(judgement, params), combine(verdicts);
                 or ask(example, shots, params), grade(scored, params)
    analyses     table(results, params)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cuvee.stage import Base, Embedded, Excluded, Fisher, Mixture, Model, Part, Rendered, Scores, Stage, Tagged, Trained
from cuvee.values import BadRow, Example, Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Params(BaseModel):
    """Base of every component's parameters: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------- strategies


@dataclass(frozen=True)
class Ingredient:
    """A source as a strategy sees it.

    Args:
        name: its name in the recipe.
        ability: what it teaches.
        data: its rendered rows.
        how: which rows: amounts taken one after another, filters; canonical values.
        tags: taggings that filters look at.
        excluded: stages that name rows to leave out, each with the number that the source has among its inputs.
    """

    name: str
    ability: str
    data: Rendered
    how: Mapping[str, Any]
    tags: tuple[Tagged, ...] = ()
    excluded: tuple[tuple[Excluded, int], ...] = ()

    def share(self, fraction: Fraction) -> Ingredient:
        """Return the same source reduced to a share of what it was: a nested subset of floor(share * n) rows."""
        return self._reduced({"share": fraction})

    def count(self, rows: int) -> Ingredient:
        """Return the same source reduced to so many rows, nested likewise."""
        return self._reduced({"count": rows})

    def _reduced(self, amount: Mapping[str, Any]) -> Ingredient:
        return replace(self, how={**self.how, "amounts": [*self.how.get("amounts", []), amount]})

    def portion(self, number: int, of: int, sizes: str) -> Ingredient:
        """Return one of several portions of what the source was: together they are all of it, no row twice.

        Args:
            number: of the portion, from 0.
            of: how many portions there are.
            sizes: ``equal``, or ``binomial``: each row by a draw of its own.
        """
        cut = {"portion": {"number": number, "of": of, "sizes": sizes}}
        return replace(self, how={**self.how, "amounts": [*self.how.get("amounts", []), cut]})

    @property
    def part(self) -> Part:
        """The source as a mixture takes it."""
        return Part(self.data, self.how, self.tags, self.excluded, self.name, self.ability)


@dataclass(frozen=True)
class Merging:
    """A merger as a strategy sees it, its parameters checked.

    Args:
        name, version, params: what a merge stage is given.
        needs_base: whether it needs the model that the others were trained from.
        ordered: whether the order of models means something.
        adapters: whether it merges adapters of LoRA trainings in place of models.
        fisher: how the Fisher information of each model is taken, where it needs that; else empty.
    """

    name: str
    version: int
    params: Mapping[str, Any]
    needs_base: bool
    ordered: bool
    adapters: bool = False
    fisher: Mapping[str, Any] = field(default_factory=dict)


class Hyper(Protocol):
    """What a strategy needs of the run's settings: the parameters of a mixture and of a training, rows by difficulty,
    mergers by name.

    `replay` is the part of a source that is mixed into every training, if the recipe asks for one. `fisher` is what the
    regulariser ewc holds a training from `start` by, if the recipe has it. `stage` gives the settings of training
    `number` (from 0) where a strategy has several one after another, of which the recipe may set each apart.
    """

    def mixture(self) -> Mapping[str, Any]: ...
    def training(self) -> Mapping[str, Any]: ...
    def stage(self, number: int, stages: int) -> Hyper: ...
    def replay(self) -> Ingredient | None: ...
    def fisher(self, start: Model) -> Fisher | None: ...
    def merging(self, merger: Any, models: int) -> Merging: ...

    def banded(
        self, sources: Mapping[str, Ingredient], by: Any, rule: Mapping[str, Any], at: str = "difficulty"
    ) -> list[Ingredient]:
        """Return the sources reduced to the rows whose score by a selector lies in a band.

        Args:
            sources: what there is; amounts are taken first.
            by: the selector with its parameters (`recipe.Component`).
            rule: the band, as in `data.selection`.
            at: the strategy's parameter that names the selector, for errors.
        """


class Strategy(Protocol):
    """A pure function from sources and parameters to a graph of stages."""

    VERSION: int
    Params: type[Params]

    def plan(self, sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Any) -> Model: ...


# ------------------------------------------------------------------------------------------------- mergers


class MergerParams(Params):
    """What every merger takes.

    Args:
        tensors: name patterns to parameters that differ there; a later pattern goes before an earlier one.
        dtype: what the result is written in; the models' own when None.
        compute: what sums are made in; rounded once when written.
    """

    BY_TENSOR: ClassVar[tuple[str, ...]] = ()

    tensors: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    compute: Literal["float32", "float64"] = "float32"

    @field_validator("tensors", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Take [pattern, values] pairs as well: in an id they keep the order, which means something."""
        if not isinstance(value, list | tuple):
            return value
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
            raise ValueError("is a mapping of name patterns to what differs there, such as {'*.mlp.*': {t: 0.3}}")
        return dict(value)


class Merger(Protocol):
    """Merges the same tensor of several models, a piece at a time (`merging.streaming.Piece`).

    `MODELS` is the least and the largest number of models (None: any), `ORDERED` whether their order matters,
    `Params.BY_TENSOR` which parameters may differ by tensor. One of adapters (`OF` is ``adapters``) has
    `combine(adapters, module, weights)` in place of `merge`. A module may have `looks(params)`, what it must see of
    all elements before; `whole_model(params)`, whether these look at the model as one vector; `EXTRAS`, what folder it
    needs beside each model; `RecipeParams`, what a recipe says of how the Fisher information for these is taken.
    """

    VERSION: int
    MODELS: tuple[int, int | None]
    ORDERED: bool
    Params: type[MergerParams]

    def needs_base(self, params: Any) -> bool: ...
    def merge(self, piece: Any, params: Any) -> Any: ...


# ------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Estimate:
    """What a look at a source says before it is loaded.

    Args:
        rows: number of rows, exact or not.
        exact: whether `rows` was counted.
        sample: a few converted examples from all over the source.
    """

    rows: int
    exact: bool
    sample: tuple[Example, ...] = ()


class Source(Protocol):
    """Where examples come from."""

    VERSION: int
    Params: type[Params]

    def pin(self, params: Any, folder: Any, cache: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return (identity parameters that pin the content, where it lies on this machine)."""

    def examples(self, params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
        """Yield the source's rows in file order; rows that cannot be used as `BadRow`."""

    def estimate(self, params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
        """Look at the source without loading it."""


# ------------------------------------------------------------------------------------------------- taggers


class RuleTagger(Protocol):
    """Tags an example by looking at it."""

    VERSION: int
    Params: type[Params]

    def tags(self, example: Example, params: Any) -> tuple[str, ...]: ...


class ModelTagger(Protocol):
    """Tags an example by asking a model: one of the graph (`params.model`) or one of a server (`params.endpoint`).

    `identity` leaves out what cannot change an answer (how many are asked at once, how long to wait). `parse`
    returns None for an answer that cannot be read, which is counted and is not the same as no tags. `is_cut` says
    whether a question had to be shortened, which is counted too.
    """

    VERSION: int
    Params: type[Params]

    def request(self, example: Example, params: Any) -> tuple[Message, ...]: ...
    def parse(self, text: str, params: Any) -> tuple[str, ...] | None: ...
    def generation(self, params: Any) -> Mapping[str, Any]: ...
    def identity(self, params: Any) -> Mapping[str, Any]: ...
    def is_cut(self, example: Example, params: Any) -> bool: ...


# --------------------------------------------------------------------------------------------- selectors


class Pool(Protocol):
    """The rows that a selection looks at, source by source, and the stages that can be made of them.

    Attributes:
        base: the model that the run starts from.
        parts: one mixture of whole rows for each source, in the order that evidence must have.
        seed: the run's seed.
    """

    base: Model
    parts: tuple[Mixture, ...]
    seed: int

    def score(self, model: Model, *, prompt: bool = True, entropy: bool = False) -> tuple[Scores, ...]:
        """Return the losses of every part's rows under a model, with or without what stands before the answers."""

    def stored(self, path: str, column: str, missing: str) -> tuple[Scores, ...]:
        """Return scores that a file holds."""

    def embed(self, model: Model, params: Mapping[str, Any]) -> tuple[Embedded, ...]:
        """Return a vector for every part's rows."""

    def trained(self, changes: Mapping[str, Any], share: Fraction | None = None) -> Trained:
        """Return the base trained on the pool by the run's settings with `changes`, or on a share of it."""

    def gradients(self, model: Trained, params: Mapping[str, Any]) -> tuple[Embedded, ...]:
        """Return LESS features of every part's rows under what a LoRA training was at the end of an epoch."""

    def folded(self, folds: int, changes: Mapping[str, Any]) -> tuple[tuple[Scores, ...], ...]:
        """Return for each fold of the prompts the losses of its rows under the base trained on the other folds."""

    def other(self, model: str) -> tuple[Base, Pool]:
        """Return another base model, and the same pool as that model's tokenizer renders it."""

    def target(self, given: Mapping[str, Any]) -> Pool:
        """Return the rows of a file, or held-out rows of an ability, as a pool of their own."""

    def tags(self) -> tuple[tuple[Tagged, ...], ...]:
        """Return the taggings of every part's source."""


@dataclass(frozen=True)
class Needs:
    """The stages that a selector depends on.

    Args:
        rows: evidence on the pool's rows by role, one stage for each part of the pool in its order.
        targets: evidence on other rows by role, such as the embeddings of a target set.
    """

    rows: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    targets: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """The rows of a pool with the evidence on them, in one order.

    Args:
        sources: number of each row's source among the pool's parts, (n,) int16.
        rows: place of each row in load order, (n,) int64.
        keys: example ids, (n, 16) uint8.
        occurrences: number among equal rows, (n,).
        tokens, supervised: tokens of each row, all and those the loss counts, (n,).
        evidence: columns by role, (n,) or (n, width) each; NaN where a stage has no such row.
        targets: columns by role, of other rows.
        wanted: how many rows will be kept; None where scores alone decide.
    """

    sources: NDArray[np.int16]
    rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    occurrences: NDArray[np.int32]
    tokens: NDArray[np.int32]
    supervised: NDArray[np.int32]
    evidence: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    wanted: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: NDArray[np.int64], wanted: int | None) -> Candidates:
        """Return some of the rows."""
        names = ("sources", "rows", "keys", "occurrences", "tokens", "supervised")
        evidence = {
            role: {name: column[places] for name, column in columns.items()} for role, columns in self.evidence.items()
        }
        return replace(self, **{name: getattr(self, name)[places] for name in names}, evidence=evidence, wanted=wanted)


@dataclass(frozen=True)
class Judged:
    """What a selector says of every candidate.

    Args:
        scores: larger is better, (n,) float64; a row without one (NaN, infinite) is never kept.
        refused: reasons with the rows that are not kept because of them, (n,) bool each; the first that holds counts.
        columns: further columns for the table of all rows, (n,) each.
        order: places of the rows in the order in which they are taken, where it is not that of the scores.
    """

    scores: NDArray[np.float64]
    refused: Sequence[tuple[str, NDArray[np.bool_]]] = ()
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    order: NDArray[np.int64] | None = None


IN_ORDER = (
    "this selector takes rows in an order of its own, not by their scores, so only the first of them can be kept: "
    "say share or count, without take: lowest"
)


def takes_some(rule: Mapping[str, Any]) -> bool:
    """Return whether a rule says how many of the first rows to keep: all that a selector with an order can follow."""
    return not rule.get("lowest") and ("share" in rule or "count" in rule)


class Selector(Protocol):
    """Says how much each row of a pool is worth. `SEEDED` says whether `judge` draws, so that the seed counts.

    `needs` is pure: it names the stages whose results `judge` reads, such as a reference model's losses; equal ones are
    done once for all selectors. `identity` are the parameters that decide `judge` besides that evidence. A module may
    have `ordered(params)`: whether `judge` gives an order of its own, which only a share or a count can follow.
    """

    VERSION: int
    SEEDED: bool
    Params: type[Params]

    def needs(self, pool: Pool, params: Any) -> Needs: ...
    def identity(self, params: Any) -> Mapping[str, Any]: ...
    def judge(self, candidates: Candidates, params: Mapping[str, Any]) -> Judged: ...


# ---------------------------------------------------------------------------------------------- evaluators


class EvaluatorParams(Params):
    """What every evaluator takes.

    Args:
        name: shown in tables; the component's name when absent.
        ability: measure only this ability; all of the recipe's when absent.
        stages: ``all`` models of a run (the base included) or the ``final`` one.
        items: at most so many items an ability, a nested subset; all when absent.
    """

    name: str | None = None
    ability: str | None = None
    stages: Literal["all", "final"] = "final"
    items: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked.

    Args:
        item: its id.
        messages: the conversation so far.
        reference: what the grader judges a reply by.
        tools: functions on offer.
        solution: a reply that would be right, where `reference` is none itself; the fake engine gives it.
        followups: further user turns, each asked after the reply to the one before.
        temperature: of this item, in place of the evaluator's; 0 takes the likeliest token.
    """

    item: str
    messages: tuple[Message, ...]
    reference: str
    tools: tuple[Mapping[str, Any], ...] = ()
    solution: str = ""
    followups: tuple[str, ...] = ()
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What a model answered; finish is ``stop`` or ``length``."""

    text: str
    finish: str


@dataclass(frozen=True, slots=True)
class Grade:
    """One item's score, its weight in the mean, and further columns for the table of items."""

    score: float
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One item with what a model replied, as a judge sees it.

    Args:
        item: its id.
        reference: what the evaluator stored of it.
        turns: the user's turns.
        replies: the model's reply to each of them.
    """

    item: str
    reference: str
    turns: tuple[str, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked about one turn of one item.

    Args:
        item: its id.
        turn: which reply is judged, from 1; all turns up to it are shown.
        messages: the conversation with the judge; none where it cannot be asked.
        order: which reply stands first in a comparison: ``AB`` the judged model's, ``BA`` the other's; else nothing.
        failure: why it cannot be asked.
        format: the form of the verdict that is asked for.
        possible: verdicts that a judge could write; the fake engine takes one.
    """

    item: str
    turn: int
    messages: tuple[Message, ...]
    order: str = ""
    failure: str = ""
    format: str = ""
    possible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge answered to a question; text is None, and `failure` says why, where there is no answer."""

    item: str
    turn: int
    order: str
    repeat: int
    text: str | None
    finish: str = "stop"
    failure: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement as it was read: a rating, or the preferred side; None, and `failure` says why, where there is none.

    `fallback` says that only the second, weaker expression found it.
    """

    item: str
    turn: int
    order: str
    repeat: int
    value: float | str | None
    failure: str = ""
    fallback: bool = False


class LossEvaluator(Protocol):
    """Judges by likelihood: `ANSWERS` is ``score``."""

    VERSION: int
    ANSWERS: Literal["score"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def grade(self, likelihood: Likelihood) -> Grade: ...


class AnswerEvaluator(Protocol):
    """Judges generated text: `ANSWERS` is ``generate``.

    `request_params` are the parameters that decide what is generated; `REQUEST_VERSION` is theirs, `VERSION`
    the grader's. `grade_params` decide the grading. `request` returns None for rows that are no items. A module
    has `grade`, one item with its replies at a time, or `grade_many(asked, params, workers)`, all of them at once.

    Of a benchmark with a file of its own, `SOURCE` says how its rows are read (``format``, ``columns``, ``kept``),
    `ABILITY` what it measures unless the recipe says otherwise, and `SIZE` how many items it has: a score over
    fewer says so.
    """

    VERSION: int
    REQUEST_VERSION: int
    ANSWERS: Literal["generate"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def request(self, example: Example, params: Mapping[str, Any]) -> Request | None: ...
    def grade(self, request: Request, responses: Sequence[Response], params: Mapping[str, Any]) -> Grade: ...


@dataclass(frozen=True, slots=True)
class Choices:
    """An item whose choices a model is to weigh, as texts.

    Args:
        item: its id.
        contexts: what each choice follows; one for all of them, or one each.
        continuations: what is weighed; one each, or one after every context.
        texts: what length normalisation counts, one a choice.
        gold: numbers of the right choices, the best first.
        description: stands before the contexts, as the system turn where a chat template is used.
        group: subject or task, where the row names one.
        delimiter: what stands between context and continuation where no chat template is used.
    """

    item: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[int, ...]
    description: str = ""
    group: str = ""
    delimiter: str = " "


@dataclass(frozen=True, slots=True)
class ScoredChoice:
    """One choice of an item with its log-probability (nats); see `Scored`."""

    text: str
    right: bool
    logprob: float
    tokens: int
    greedy: bool
    cut: int


class ChoiceEvaluator(Protocol):
    """Judges by the log-probabilities of given continuations: `ANSWERS` is ``choose``.

    `request_params` decide what is asked, `REQUEST_VERSION` is theirs. `GROUPED` says whether shots are those of the
    item's own group. `SOURCE`, `ABILITY` and `size` as in `AnswerEvaluator`, `size` by the parameters.
    """

    VERSION: int
    REQUEST_VERSION: int
    ANSWERS: Literal["choose"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def ask(self, example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices | None: ...
    def grade(self, scored: Sequence[ScoredChoice], params: Mapping[str, Any]) -> Grade: ...


class JudgedEvaluator(Protocol):
    """Judges generated text by asking a model about it: `ANSWERS` is ``judge``.

    Requests are as for `AnswerEvaluator`. Then a judge is asked `questions` (`JUDGE_VERSION`, `judge_params`), and
    grading reads what it answered (`VERSION`, `grade_params`): `read` takes a verdict from a text, `combine` makes one
    grade of all verdicts on one turn of an item, None where no verdict could be read: such an item has no score, and
    is counted.

    `with_files` finds what lies in files when the recipe is planned; `judge_params` pins it by content, `judge_files`
    says where it lies on this machine. A module whose `COMPARES` is true has the replies of a second model judged
    beside the first one's; `params.against` says which.
    """

    VERSION: int
    REQUEST_VERSION: int
    JUDGE_VERSION: int
    ANSWERS: Literal["judge"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    COMPARES: bool
    Params: type[EvaluatorParams]

    def with_files(self, params: Any, folder: Any) -> Any: ...
    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def judge_params(self, params: Any) -> Mapping[str, Any]: ...
    def judge_files(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def request(self, example: Example, params: Mapping[str, Any]) -> Request | None: ...
    def questions(
        self,
        asked: Sequence[Conversation],
        others: Sequence[Conversation] | None,
        params: Mapping[str, Any],
        where: Mapping[str, Any],
    ) -> Sequence[Question]: ...
    def read(self, judgement: Judgement, params: Mapping[str, Any]) -> Verdict: ...
    def combine(self, reference: str, verdicts: Sequence[Verdict]) -> Grade | None: ...


# -------------------------------------------------------------------------------------------------- engine


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as the model sees it.

    Args:
        ids: token ids, (length,).
        spans: supervised token ranges as [start, end) pairs, in order.
        part: number of the source inside the mixture, for per-source losses.
    """

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    part: int = 0


class TokenRows(Protocol):
    """Random access to token rows; holds no more than it must in memory.

    Where it also has ``extent() -> (tokens of the longest row, largest token id)``, a training is refused before its
    first step if the model cannot take them, and not when it comes to the row.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> TokenRow: ...


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Summed negative log-likelihood (nats) over `tokens` supervised tokens of one row.

    `entropy` is the sum of the predictions' entropies (nats) at these tokens where it was asked for.
    """

    nll: float
    tokens: int
    entropy: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Summed log-probability (nats) of one choice's continuation.

    Args:
        logprob: sum over its tokens.
        tokens: how many they are.
        greedy: whether each of them was the likeliest.
        cut: tokens that its context lost at the beginning, as it was too long for the model.
    """

    logprob: float
    tokens: int
    greedy: bool
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """Generated token ids without the stop token; finish is ``stop`` or ``length``."""

    ids: Sequence[int]
    finish: str


Progress = Callable[[Mapping[str, Any]], None]
"""Receives small facts while work goes on: step, steps, tokens, loss, seconds."""


class Tracker(Protocol):
    """Shows a training's curves somewhere; see `cuvee.trackers`."""

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Take the values of one step, by name; `seconds` is Unix time."""

    def close(self) -> None:
        """Write what is left; nothing follows."""


# ------------------------------------------------------------------------------------- results and analyses


@dataclass(frozen=True)
class Portion:
    """What one training saw of one source, in one epoch.

    Args:
        source, ability: its names.
        rows: examples that were trained on.
        supervised_tokens: tokens with loss in them.
        pool: rows that were there to choose from, after held-out rows, duplicates and filters.
    """

    source: str
    ability: str
    rows: int
    supervised_tokens: int
    pool: int


@dataclass(frozen=True)
class TrainingInfo:
    """One finished training of a run, all epochs.

    Args:
        id: of its stage; runs that share the training share the id.
        epochs, steps, supervised_tokens, total_tokens: as stored.
        seconds: of wall clock, all attempts together.
        portions: what it saw, one a source.
    """

    id: str
    epochs: int
    steps: int
    supervised_tokens: int
    total_tokens: int
    seconds: float
    portions: tuple[Portion, ...]


NOTHING_SELECTED = "nothing is selected"
"""`RunInfo.select` of a run that takes the recipe's selection away."""


@dataclass(frozen=True)
class RunInfo:
    """What tells one run from another.

    Args:
        name: shown in tables; unique within a recipe (and without the seed when there is more than one).
        strategy: its strategy.
        params: the strategy's parameters.
        base: the base model's name.
        seed: the run's seed.
        training: the run's own training settings, where they differ from the recipe's.
        sources: the sources it uses with its own changes to them; empty where it uses all as the recipe has them.
        select: its own selection of rows in words; empty where it has the recipe's.
        recipe_select: the recipe's selections of its sources in words; empty where there are none, or it has its own.
        trainings: its trainings in order; empty while one of them is not finished, and where nothing is trained.
    """

    name: str
    strategy: str
    params: Mapping[str, Any]
    base: str
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    select: str = ""
    recipe_select: str = ""
    trainings: tuple[TrainingInfo, ...] = ()


@dataclass(frozen=True)
class Result:
    """One evaluator's items for one model.

    Args:
        run: which run the model belongs to.
        stage: 0 for the base, 1.. for the run's trainings in order.
        stage_label: for people, such as ``math + code``.
        final: whether this is the run's final model.
        evaluator: the evaluator's name (with its own `name` when given one).
        metric: ``accuracy``, ``loss`` ...
        ability: the ability measured.
        higher_is_better: the direction of `scores`.
        items: item ids, (n,).
        scores: one score an item, (n,).
        weights: weight of each item in the mean, (n,); 1 for accuracies, supervised tokens for losses.
        full_size: items the whole benchmark has.
        extra: further columns of the items, such as ``extracted``; (n,) each.
        stage_id: id of the grade stage.
        fraction: share of the stage's training that the model has done: below 1 for a mark.
        unjudged: items without a score, since their judge gave no verdict; none of `items`.
        verdicts: of judged evaluators, what is to be known of the verdicts: how many, failures by reason ...
    """

    run: RunInfo
    stage: int
    stage_label: str
    final: bool
    evaluator: str
    metric: str
    ability: str
    higher_is_better: bool
    items: Sequence[str]
    scores: Sequence[float]
    weights: Sequence[float]
    full_size: int
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    stage_id: str = ""
    fraction: Fraction = Fraction(1)
    unjudged: int = 0
    verdicts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """What to draw, as data; the report draws it.

    Args:
        kind: ``points`` (x categorical or numeric, y with error bars, one series a line) or ``matrix``.
        title, x_label, y_label: for people.
        series: name to list of points ``{"x":, "y":, "low":, "high":}``.
        x_scale: ``linear``, ``log`` or ``category``.
    """

    kind: str
    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[Mapping[str, Any]]]
    x_scale: str = "category"


@dataclass(frozen=True)
class Table:
    """Rows of plain values with a sentence on how to read them.

    Args:
        title: for people.
        columns: column names in order.
        rows: one mapping a row.
        notes: sentences under the table: tests used, corrections, smallest visible difference.
        figures: what to draw beside it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Choice:
    """What one selection kept, over all its sources.

    Args:
        name: the selection's, with the seed where the recipe has several and it hangs on the seed.
        selector: its name and rule, the same for all seeds.
        seed: of the first run that has it.
        stage: short name of the stage.
        names: of its sources.
        source: number of each row's source in `names`, (n,).
        rows: what tells each row from all others in the recipe, (n,) int64.
        scores: (n,); NaN where there is none.
        kept: (n,) bool.
        tokens: supervised tokens, (n,).
        reasons: rows by reason.
    """

    name: str
    selector: str
    seed: int
    stage: str
    names: Sequence[str]
    source: NDArray[np.int16]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    kept: NDArray[np.bool_]
    tokens: NDArray[np.int32]
    reasons: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class VectorPart:
    """One tensor of the task vectors (weights minus the base's) of m models.

    Args:
        layer: its number; None outside numbered layers.
        module: which kind of module, such as ``self_attn.q_proj``.
        size: elements.
        base: squared norm of the base's tensor.
        dots: inner products, (m, m).
        moved: elements that both models have moved, (m, m).
        conflicts: of those, the ones moved in opposite directions, (m, m).
    """

    layer: int | None
    module: str
    size: int
    base: float
    dots: NDArray[np.float64]
    moved: NDArray[np.int64]
    conflicts: NDArray[np.int64]


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of one base's models.

    Args:
        base: the base's name.
        models: names, (m,).
        parts: one a tensor; none where there are no models.
        missing: models that are not looked at, with the reason.
    """

    base: str
    models: Sequence[str]
    parts: Sequence[VectorPart]
    missing: Mapping[str, str]


class Analysis(Protocol):
    """A pure function from results to a table and its figures.

    It is given the results of finished trainings; with ``MARKS = True`` in its module those of marks as well, and with
    ``OF = "selections"`` the recipe's selections (`Choice`) in place of results, with ``OF = "task_vectors"`` its
    models' changes (`TaskVectors`), one a base.
    """

    VERSION: int
    Params: type[Params]

    def table(self, results: Sequence[Result], params: Any) -> Sequence[Table]: ...

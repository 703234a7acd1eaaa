"""What the parts promise each other: components by folder, token rows for the engine, results for analyses.

A component is a module. Its file name is its name in a recipe. It holds `VERSION`, a frozen `Params`, and
the verbs of its folder:

    sources      pin(params, folder), examples(params, where), estimate(params, where)
    taggers      tags(example, params), or request(example, params) and parse(text, params)
    selectors    needs(pool, params), identity(params), judge(candidates, params)
    strategies   plan(sources, start, hyper, params)
    evaluators   request(example, params), grade(request, responses, params) or grade_many; or grade(likelihood)
    analyses     table(results, params)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from cuvee.stage import Base, Embedded, Excluded, Mixture, Model, Part, Rendered, Scores, Stage, Tagged, Trained
from cuvee.values import BadRow, Example, Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Params(BaseModel):
    """Base of every component's parameters: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
        amounts = [*self.how.get("amounts", []), {"share": fraction}]
        return replace(self, how={**self.how, "amounts": amounts})

    @property
    def part(self) -> Part:
        """The source as a mixture takes it."""
        return Part(self.data, self.how, self.tags, self.excluded, self.name, self.ability)


class Hyper(Protocol):
    """What a strategy needs of the run's settings: the parameters of a mixture and of a training, rows by difficulty."""

    def mixture(self) -> Mapping[str, Any]: ...
    def training(self) -> Mapping[str, Any]: ...

    def banded(self, sources: Mapping[str, Ingredient], by: Any, rule: Mapping[str, Any]) -> list[Ingredient]:
        """Return the sources reduced to the rows whose score by a selector lies in a band.

        Args:
            sources: what there is; amounts are taken first.
            by: the selector with its parameters (`recipe.Component`).
            rule: the band, as in `data.selection`.
        """


class Strategy(Protocol):
    """A pure function from sources and parameters to a graph of stages."""

    VERSION: int
    Params: type[Params]

    def plan(self, sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Any) -> Model: ...


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
        return replace(
            self, **{name: getattr(self, name)[places] for name in names}, evidence=evidence, wanted=wanted
        )


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


class Selector(Protocol):
    """Says how much each row of a pool is worth. `SEEDED` says whether `judge` draws, so that the seed counts.

    `needs` is pure: it names the stages whose results `judge` reads, such as a reference model's losses; equal ones are
    done once for all selectors. `identity` are the parameters that decide `judge` besides that evidence.
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
    """

    item: str
    messages: tuple[Message, ...]
    reference: str
    tools: tuple[Mapping[str, Any], ...] = ()
    solution: str = ""


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
    """Random access to token rows; holds no more than it must in memory."""

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
class Reply:
    """Generated token ids without the stop token; finish is ``stop`` or ``length``."""

    ids: Sequence[int]
    finish: str


Progress = Callable[[Mapping[str, Any]], None]
"""Receives small facts while work goes on: step, steps, tokens, loss, seconds."""


# ------------------------------------------------------------------------------------- results and analyses


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
    """

    name: str
    strategy: str
    params: Mapping[str, Any]
    base: str
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict)


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


class Analysis(Protocol):
    """A pure function from results to a table and its figures.

    An analysis with ``OF = "selections"`` gets the recipe's selections (`Choice`) in place of results.
    """

    VERSION: int
    Params: type[Params]

    def table(self, results: Sequence[Result], params: Any) -> Sequence[Table]: ...

"""What analyses are given and return: runs with their results, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
from cuvee.protocols.parameters import Params


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
        losses: of each step, the summed loss (nats) and the supervised tokens; empty where no log is left.
    """

    id: str
    epochs: int
    steps: int
    supervised_tokens: int
    total_tokens: int
    seconds: float
    portions: tuple[Portion, ...]
    losses: tuple[tuple[float, int], ...] = field(default=(), repr=False)


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

    @property
    def selection(self) -> str:
        """In words what chooses its rows: its own selection, or the recipe's; `NOTHING_SELECTED` where nothing does."""
        return self.select or self.recipe_select or NOTHING_SELECTED


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
        kind: ``points`` (x categorical or numeric, y with error bars, one series a line), ``lines``, ``matrix``, or
            ``scatter`` (points with a ``panel`` each, side by side).
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
        answers: how many of the notes, from the first, say what was found; a report opens its section with them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    answers: int = 0


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


@dataclass(frozen=True, eq=False)
class Representation:
    """Where one model puts rows: a vector for each of n rows of several sources, by one layer and one pooling.

    Args:
        base, model: names; the base's own is ``base``.
        layer, pooling: of the hidden states, see `engine.embeddings`.
        names, abilities: of the sources.
        source: number of each row's source, (n,).
        vectors: (n, width) float32, of length 1; no rows where they are missing.
        heldout: whether no model has trained on the rows.
        missing: why there are no vectors; empty where there are.
    """

    base: str
    model: str
    layer: int
    pooling: str
    names: Sequence[str]
    abilities: Sequence[str]
    source: NDArray[np.int16]
    vectors: NDArray[np.float32]
    heldout: bool = True
    missing: str = ""


class Analysis(Protocol):
    """A pure function from results to a table and its figures.

    It is given the results of finished trainings; with ``MARKS = True`` in its module those of marks as well, and with
    ``OF = "selections"`` the recipe's selections (`Choice`) in place of results, with ``OF = "task_vectors"`` its
    models' changes (`TaskVectors`), one a base, with ``OF = "representations"`` its models' hidden states
    (`Representation`), one a model, layer and pooling.
    """

    VERSION: int
    Params: type[Params]

    def table(self, results: Sequence[Result], params: Any) -> Sequence[Table]: ...

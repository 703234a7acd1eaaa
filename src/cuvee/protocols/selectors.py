"""What selectors are given and return: pools, evidence, judgements of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from cuvee.stage import Base, Embedded, Mixture, Model, Scores, Stage, Tagged, Trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
from cuvee.protocols.parameters import Params


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

    def of_run(self, name: str, step: int | None = None) -> Model:
        """Return a model of an earlier run with the same base and seed: its last one, or the one after `step`."""

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

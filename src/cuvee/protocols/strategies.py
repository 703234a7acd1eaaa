"""What strategies are given and return: sources as ingredients, settings of trainings, mergers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from cuvee.stage import Excluded, Fisher, Model, Part, Rendered, Tagged

if TYPE_CHECKING:
    pass
from cuvee.protocols.parameters import Params


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

    def drawn(self, number: int, share: Fraction) -> Ingredient:
        """Return a random share of what the source was, at most all of it; other numbers are other draws.

        Args:
            number: of the draw, from 0.
            share: of the rows; all of them are no draw.
        """
        return self if share == 1 else self._reduced({"drawn": {"number": number, "share": share}})

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

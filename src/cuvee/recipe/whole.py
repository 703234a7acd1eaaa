"""Runs, and the recipe as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cuvee.recipe.components import Component
from cuvee.recipe.fields import Section, Share, listed
from cuvee.recipe.models import BaseModelRef
from cuvee.recipe.selection import Selection, selections
from cuvee.recipe.sources import Across, Choice, Preflight, Source, choices
from cuvee.recipe.training import Training


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
    sources: Annotated[Mapping[str, Choice], BeforeValidator(choices)] = Field(default_factory=dict)
    select: Annotated[tuple[Selection, ...], BeforeValidator(selections)] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The strategy's own parameters as written."""
        return dict(self.model_extra or {})


class Recipe(Section):
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
    seeds: Annotated[tuple[Annotated[int, Field(strict=True)], ...], BeforeValidator(listed)] = (0,)
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

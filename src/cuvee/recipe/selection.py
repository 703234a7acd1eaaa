"""Selections of rows by a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cuvee.recipe.components import Component
from cuvee.recipe.fields import Section, Share
from cuvee.recipe.rows import Amount


class Selection(Section):
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


def selections(value: Any) -> Any:
    """Accept one selection where several are meant."""
    return (value,) if isinstance(value, Mapping | Selection) else value

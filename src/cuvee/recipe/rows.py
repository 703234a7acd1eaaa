"""Which rows of a source are used: amounts, and rules that look at them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from cuvee.recipe.fields import Number, Section, Share


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


class Amount(Section):
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


class Rule(Section):
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

"""Sources: where rows come from, which are used, and what is checked of them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cuvee.errors import did_you_mean
from cuvee.recipe.components import Component
from cuvee.recipe.fields import Columns, Number, Section, Share
from cuvee.recipe.rows import Amount, Rule
from cuvee.recipe.selection import Selection


class Declared(Section):
    """Size of a source that is not at hand; `plan` computes with it, `run` refuses it.

    Args:
        rows: number of examples.
        tokens: all tokens after rendering.
        supervised_tokens: tokens with loss; half of `tokens` when not given.
    """

    rows: Annotated[Number, Field(gt=0)]
    tokens: Annotated[Number, Field(gt=0)]
    supervised_tokens: Annotated[Number, Field(gt=0)] | None = None


class Nearness(Section):
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


class Source(Section):
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


class Choice(Section):
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


def choices(value: Any) -> Any:
    """Accept a list of names where nothing of the sources is changed."""
    if isinstance(value, list | tuple):
        return {name: {} for name in value}
    return {name: {} if choice is None else choice for name, choice in value.items()} if value else value


class Benchmark(Section):
    """A file of questions that a model will be judged by, for the overlap check."""

    path: str | tuple[str, ...]
    format: str = "auto"
    columns: Mapping[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None


class Preflight(Section):
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

"""Phased instruction fine-tuning: rows from easy to hard in several trainings, each from the end of the one before.

Pang et al., Phased Instruction Fine-Tuning for Large Language Models (paper: arXiv 2406.04371, Findings of ACL 2024):

    D = D_1 + ... + D_S by difficulty          theta_s = SFT(theta_{s-1}, D_s),  theta_0 the base

Theirs is a judge's difficulty of each instruction from 1 to 5, cut at 1.5 and 3.5; here any selector's score is one,
a judge's through ``stored``. A phase has the scores from its lower threshold on to below its upper one. Every row is
in one phase; rows without a score are in the hardest one (``random``: the last), and those that the selector would
refuse where their score puts them. Optimiser and schedule start anew in every phase.

    runs:
      - {strategy: phased, difficulty: ifd}                                                     # three equal parts
      - {strategy: phased, difficulty: {stored: {path: judged.jsonl}}, thresholds: [1.5, 3.5]}  # the paper's
      - {strategy: phased, difficulty: ifd, order: [easy_first, hard_first, random]}            # three runs

``random`` has phases of the same sizes with rows by hash. The paper's baseline of one training is `multi_task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cuvee import protocols
from cuvee.errors import RecipeError
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Component, Share
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import train_on

VERSION = 1


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(low >= high for low, high in pairwise(values)):
        raise ValueError("must ascend")
    return values


class Params(protocols.Params):
    """Args:
    difficulty: the selector whose scores are difficulties.
    phases: how many, of equal numbers of rows, where nothing else is said.
    quantiles: shares of the rows, from the easiest, at which a new phase begins.
    thresholds: scores at which a new phase begins.
    hard: which end of the scores is hard.
    order: of the phases; ``random`` puts rows in them by hash.
    """

    difficulty: str | Mapping[str, Any]
    phases: Annotated[int, Field(ge=2, le=20)] | None = None
    quantiles: Annotated[tuple[Annotated[Share, Field(gt=0, lt=1)], ...], AfterValidator(_ascending)] | None = None
    thresholds: Annotated[tuple[float, ...], AfterValidator(_ascending)] | None = None
    hard: Literal["highest", "lowest"] = "highest"
    order: Literal["easy_first", "hard_first", "random"] = "easy_first"

    @model_validator(mode="after")
    def _one_split(self) -> Params:
        given = [name for name in ("phases", "quantiles", "thresholds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of phases, quantiles, thresholds; got {', '.join(given)}")
        if given and given != ["phases"] and not getattr(self, given[0]):
            raise ValueError(f"{given[0]} is empty; name at least one")
        return self


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model after one training for each phase."""
    if any(Fraction(amount.get("share", 1)) > 1 for one in sources.values() for amount in one.how.get("amounts", ())):
        raise RecipeError("phased trains on each row once; a source has an amount above all of it", key="strategy")
    model: Model = start
    difficulty = Component.model_validate(params.difficulty)
    rules = _rules(params, hyper)
    for number, rule in enumerate(rules):
        model = train_on(model, hyper.banded(sources, difficulty, rule), hyper.stage(number, len(rules)))
    assert isinstance(model, Trained)
    return model


def _rules(params: Params, hyper: Hyper) -> list[dict[str, Any]]:
    """Return the bands of scores in the order of training; each a rule of `data.selection`."""
    if params.thresholds is not None:
        ends: list[Any] = [None, *params.thresholds, None]
    else:
        count = params.phases or 3
        inner = params.quantiles or tuple(Fraction(number, count) for number in range(1, count))
        ends = [Fraction(0), *inner, Fraction(1)]
        if params.hard == "lowest":  # quantiles count from the easiest row
            ends = [1 - end for end in reversed(ends)]
    bands: list[dict[str, Any]] = [{"between": list(pair)} for pair in pairwise(ends)]
    if params.hard == "lowest":
        bands.reverse()
    bands[-1]["unscored"] = True
    more: dict[str, Any] = {"values": True} if params.thresholds is not None else {}
    if params.order == "random":
        more["shuffled"] = hyper.stage(0, len(bands)).training()["seed"]
    if params.order == "hard_first":
        bands.reverse()
    return [{**band, **more} for band in bands]

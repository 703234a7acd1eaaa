"""Uniform soup: models with different hyper-parameters, each on rows drawn for itself, merged into one.

The baseline of Fu et al., Disperse-Then-Merge, Findings of ACL 2024, arXiv 2405.13432, after Wortsman et
al., Model soups, ICML 2022, arXiv 2203.05482, section 2:

    M_j = SFT(M_0, S_j; f_j * learning rate)        M = merge(M_1, ..., M_K), there the mean

In both every S_j is all of the data, which costs K trainings: ``share: 1``. By default S_j is a random 1/K of every
source. Then all models together are trained on as many tokens as one on everything (`multi_task`), as those of
`disperse_then_merge` are, whose portions have no row in common; here two models may draw the same row, and some rows
are drawn by none.

    runs: [{strategy: uniform_soup, learning_rates: [0.5, 0.75, 1, 1.5]}]
    runs: [{strategy: uniform_soup, learning_rates: [0.5, 1, 2], share: 1}]
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Merger, Share
from cuvee.stage import Merged, Model
from cuvee.strategies._steps import merge_all, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    learning_rates: what each model's learning rate is multiplied by; one model each.
    share: how much of every source each model is trained on; 1/K when None.
    merger: how they are merged.
    """

    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.5, 0.75, 1.0, 1.5)
    share: Annotated[Share, Field(gt=0, le=1)] | None = None
    merger: Merger = Field(default="linear", validate_default=True)

    @model_validator(mode="after")
    def _differ(self) -> Params:
        if self.share == 1 and len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates: with share: 1 models differ in nothing else, and two are equal")
        return self


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Merged:
    """Return the merge of one model a learning rate."""
    rate, models = hyper.training()["learning_rate"], len(params.learning_rates)
    share = Fraction(1, models) if params.share is None else params.share
    trained = [
        train_on(
            start,
            [source.drawn(number, share) for source in sources.values()],
            hyper,
            label=f"member {number + 1}/{models}, learning rate x {factor:g}",
            own={"learning_rate": rate * factor},
            replayed=partial(Ingredient.drawn, number=number, share=share),
        )
        for number, factor in enumerate(params.learning_rates)
    ]
    return merge_all(trained, start, hyper, params.merger)

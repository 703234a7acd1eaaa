"""Disperse-Then-Merge: the data in K portions, a model from each, all from one base, merged into one.

Fu et al., Disperse-Then-Merge: Pushing the Limits of Instruction Tuning via Alignment Tax Reduction, Findings of ACL
2024, arXiv 2405.13432:

    D = D_1 + ... + D_K, disjoint        M_j = SFT(M_0, D_j)        M = merge(M_1, ..., M_K), there the mean

Each portion has its part of every source, and of what the recipe replays. All models together are trained on as many
tokens as one on everything (`multi_task`). Portions are drawn at random, or (``by: clusters``) are clusters of the
embeddings of all sources' rows, which the paper found no better; see the selector `clusters`. Of random portions
``sizes: equal`` is the paper's text, ``binomial`` (each row by a draw of its own) its code. With ``training: {method:
lora}`` a merger is given the folded models; `lora_mean_of_products` and `lora_product_of_means` are the two readings of
the paper on adapters.

    runs: [{strategy: disperse_then_merge, portions: 4, merger: linear}]
    runs: [{strategy: disperse_then_merge, portions: 4, by: {clusters: {of: prompt}}}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.errors import RecipeError
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Component, Merger
from cuvee.stage import Merged, Model
from cuvee.strategies._steps import merge_all, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    portions: how many models are trained, the paper's K.
    merger: how they are merged.
    sizes: ``equal`` portions, or ``binomial``; of random ones.
    by: how rows come into a portion: ``random``, by a hash of the row, or ``clusters`` with that selector's parameters.
    """

    portions: Annotated[int, Field(ge=1)] = 4
    merger: Merger = Field(default="linear", validate_default=True)
    sizes: Literal["equal", "binomial"] = "equal"
    by: Literal["random", "clusters"] | Mapping[Literal["clusters"], Mapping[str, Any]] = "random"

    @model_validator(mode="after")
    def _sizes_of_random(self) -> Params:
        if self.by != "random" and "sizes" in self.model_fields_set:
            raise ValueError("sizes are of random portions; clusters have the sizes that the rows give them")
        if isinstance(self.by, Mapping) and "clusters" in self.by.get("clusters", {}):
            raise ValueError("by.clusters.clusters: there are as many clusters as portions; say portions")
        return self


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Merged:
    """Return the merge of one model a portion."""
    models = [
        train_on(
            start,
            _portion(sources, number, hyper, params),
            hyper,
            label=f"portion {number + 1}/{params.portions}",
            replayed=partial(Ingredient.portion, number=number, of=params.portions, sizes=params.sizes),
        )
        for number in range(params.portions)
    ]
    return merge_all(models, start, hyper, params.merger)


def _portion(sources: Mapping[str, Ingredient], number: int, hyper: Hyper, params: Params) -> Sequence[Ingredient]:
    """Return one portion of every source, or one cluster of all of them."""
    if params.by == "random":
        return [source.portion(number, params.portions, params.sizes) for source in sources.values()]
    if any(Fraction(amount.get("share", 1)) > 1 for one in sources.values() for amount in one.how.get("amounts", ())):
        raise RecipeError("a row lies in one cluster; a source has an amount above all of it", key="by")
    given = params.by["clusters"] if isinstance(params.by, Mapping) else {}
    clusters = Component(name="clusters", params={**given, "clusters": params.portions})
    # A row without a vector is trained on as well.
    rule = {"between": [number, number + 1], "values": True, **({"unscored": True} if number == 0 else {})}
    return hyper.banded(sources, clusters, rule, at="by")

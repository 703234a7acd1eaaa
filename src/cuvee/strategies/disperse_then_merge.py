"""Disperse-Then-Merge: the data in K portions, a model from each, all from one base, merged into one.

Fu et al., Disperse-Then-Merge: Pushing the Limits of Instruction Tuning via Alignment Tax Reduction, Findings of ACL
2024, arXiv 2405.13432:

    D = D_1 + ... + D_K, disjoint        M_j = SFT(M_0, D_j)        M = merge(M_1, ..., M_K), there the mean

Each portion has its part of every source. All models together are trained on as many tokens as one on everything
(`multi_task`). Portions are drawn at random: the paper found clusters of embeddings no better. ``sizes: equal`` is the
paper's text, ``binomial`` (each row by a draw of its own) its code. With ``training: {method: lora}`` a merger is given
the folded models; `lora_mean_of_products` and `lora_product_of_means` are the two readings of the paper on adapters.

    runs: [{strategy: disperse_then_merge, portions: 4, merger: linear}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Merger
from cuvee.stage import Merged, Model
from cuvee.strategies._steps import merge_all, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    portions: how many models are trained, the paper's K.
    merger: how they are merged.
    sizes: ``equal`` portions, or ``binomial``.
    by: how rows come into a portion; ``random``, by a hash of the row.
    """

    portions: Annotated[int, Field(ge=1)] = 4
    merger: Merger = Field(default="linear", validate_default=True)
    sizes: Literal["equal", "binomial"] = "equal"
    by: Literal["random"] = "random"


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Merged:
    """Return the merge of one model a portion."""
    models = [
        train_on(start, _portion(sources, number, params), hyper, label=f"portion {number + 1}/{params.portions}")
        for number in range(params.portions)
    ]
    return merge_all(models, start, hyper, params.merger)


def _portion(sources: Mapping[str, Ingredient], number: int, params: Params) -> list[Ingredient]:
    """Return one portion of every source; where another rule than chance divides the rows, it comes in here."""
    return [source.portion(number, params.portions, params.sizes) for source in sources.values()]

"""Data orders: the same data in several orders, a model from each, merged into one.

Ju et al., Mitigating Training Imbalance in LLM Fine-Tuning via Selective Parameter Merging, EMNLP 2024,
arXiv 2410.03743: rows that come early in the first epoch are learnt worse, and another order leaves others behind.
Their merger takes every parameter from one of the models by chance (`selective`), which is the default here.

The first order is that of `multi_task` at the same seed, the same training. Costs as many trainings as orders.

    runs: [{strategy: data_orders, orders: 3, merger: {selective: {seed: 0}}}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from cuvee import protocols, seeds
from cuvee.errors import RecipeError
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Merger
from cuvee.stage import Merged, Model
from cuvee.strategies._steps import merge_all, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    orders: how many models are trained.
    merger: how they are merged.
    """

    orders: Annotated[int, Field(ge=1)] = 3
    merger: Merger = Field(default="selective", validate_default=True)


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Merged:
    """Return the merge of one model an order.

    Raises:
        RecipeError: the merger is one for adapters that began alike, and each order draws its own.
    """
    if hyper.merging(params.merger, params.orders).name == "lora_product_of_means":
        message = "lora_product_of_means is for adapters that began alike, and each order begins with its own draw"
        raise RecipeError(f"{message}; say lora_mean_of_products", key="merger")
    seed = hyper.training()["seed"]
    models = [
        train_on(start, sources.values(), hyper, label=f"order {number + 1}/{params.orders}", own={"seed": drawn})
        for number, drawn in enumerate([seed, *(seeds.stream(seed, f"order {n}") for n in range(1, params.orders))])
    ]
    return merge_all(models, start, hyper, params.merger)

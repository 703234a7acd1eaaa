"""LoRA, mean of products: the adapters of several trainings, merged as the full models would be.

Fu et al., Disperse-Then-Merge, arXiv 2405.13432; the other reading is `lora_product_of_means`:

    W = W_0 + sum_j a_j s_j B_j A_j, a_j = w_j / sum w

Equal to folding each adapter and taking the mean of the models, without their roundings. As an adapter its rank is the
sum of the ranks. This is the equation of the paper read on full weights.

    cuvee merge lora_mean_of_products A B --base BASE --out DIR      folded into the base; without --base an adapter
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuvee.mergers._adapters import MODELS, OF, ORDERED, Params, needs_base

if TYPE_CHECKING:  # planning a merge imports no torch
    from collections.abc import Sequence

    from cuvee.merging.adapters import Adapter, Factors

VERSION = 1
__all__ = ["MODELS", "OF", "ORDERED", "VERSION", "Params", "combine", "needs_base"]


def combine(adapters: Sequence[Adapter], module: str, weights: Sequence[float]) -> Factors:
    """Return what the merged adapter does to one layer."""
    from cuvee.merging import adapters as workshop

    return workshop.mean_of_products(adapters, module, weights)

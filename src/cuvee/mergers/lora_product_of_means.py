"""LoRA, product of means: the adapter files averaged matrix by matrix, as the paper's released code does.

Fu et al., Disperse-Then-Merge, arXiv 2405.13432; the other reading is `lora_mean_of_products`:

    W = W_0 + s (sum_j a_j B_j)(sum_j a_j A_j), a_j = w_j / sum w

Not the mean of the models: products of matrices of different trainings enter, and it relies on one initialisation of
all adapters (cuvee gives trainings of one seed the same). Ranks and scales must be equal; the rank stays.

    cuvee merge lora_product_of_means A B --base BASE --out DIR      folded into the base; without --base an adapter
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

    return workshop.product_of_means(adapters, module, weights)

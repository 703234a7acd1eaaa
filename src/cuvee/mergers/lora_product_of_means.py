"""LoRA, product of means: the adapter files averaged matrix by matrix, as the paper's released code does.

Fu et al., Disperse-Then-Merge, arXiv 2405.13432; the other reading is `lora_mean_of_products`:

    W = W_0 + s (sum_j a_j B_j)(sum_j a_j A_j), a_j = w_j / sum w

Not the mean of the models: products of matrices of different trainings enter, and it relies on one initialisation of
all adapters (cuvee gives trainings of one seed the same). Ranks and scales must be equal; the rank stays.

    cuvee merge lora_product_of_means A B --base BASE --out DIR      folded into the base; without --base an adapter
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuvee.mergers import _weights

if TYPE_CHECKING:  # planning a merge imports no torch
    from collections.abc import Sequence

    from cuvee.merging.adapters import Adapter, Factors

VERSION = 1
OF = "adapters"
MODELS = (1, None)
ORDERED = False


class Params(_weights.AdapterParams):
    """Args:
    weights: one number an adapter, divided by their sum; all equal when absent.
    dtype: what the folded model is written in; the base's when None.
    """


def needs_base(params: Params) -> bool:
    """Adapters are changes of a base; a recipe folds them into it."""
    return True


def combine(adapters: Sequence[Adapter], module: str, weights: Sequence[float]) -> Factors:
    """Return what the merged adapter does to one layer."""
    from cuvee.merging import adapters as workshop

    return workshop.product_of_means(adapters, module, weights)

"""What all methods have in common that merge adapters of LoRA trainings."""

from __future__ import annotations

from typing import Literal

from cuvee import protocols
from cuvee.mergers._weights import Number

OF = "adapters"
MODELS = (1, None)
ORDERED = False


class Params(protocols.Params):
    """Args:
    weights: one number an adapter, divided by their sum; all equal when absent.
    dtype: what the folded model is written in; the base's when None.
    """

    weights: tuple[Number, ...] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    @property
    def normalize(self) -> bool:
        """Weights of adapters are always divided by their sum."""
        return True


def needs_base(params: Params) -> bool:
    """Adapters are changes of a base; a recipe folds them into it."""
    return True

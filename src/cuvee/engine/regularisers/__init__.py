"""What holds a training near the model it starts from; one file each, named as in a recipe.

    objective of a step = mean nll over its supervised tokens + the penalties

`l2_sp` and `ewc` look at the weights: a `WeightPenalty` adds its gradient once a step, whatever the split into passes.
`kl` looks at the outputs: its part of the objective comes out of each forward pass. The log tells the nll as `loss` and
every penalty, weighted, by name under `penalties`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class WeightPenalty(Protocol):
    """A penalty of the weights alone."""

    name: str

    def add(self) -> Tensor:
        """Add the penalty's gradient to that of the weights; return its weighted value, () float32 on the device."""
